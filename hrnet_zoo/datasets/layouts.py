"""Find labeled images on disk: the official layouts of the four datasets, and your own folders.

Cityscapes       leftImg8bit/SPLIT/*/*_leftImg8bit.png + gtFine/SPLIT/*/*_gtFine_label{Ids,TrainIds}.png
ADE20K           images/SPLIT/*.jpg + annotations/SPLIT/*.png
Pascal VOC 2012  JPEGImages/*.jpg + SegmentationClass/*.png + ImageSets/Segmentation/SPLIT.txt
Pascal Context   JPEGImages/*.jpg + SegmentationClassContext/*.png + ImageSets/SegmentationContext/SPLIT.txt
custom           images/ + masks/, SPLIT/images/ + SPLIT/masks/, or images/SPLIT/ + masks/SPLIT/; optional classes.txt

A `classes.txt` in an official layout makes the dataset custom: label values are class indices, and 255 is ignored.
(Unless it lists the official names in order.) It must not contradict the classes that are asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from hrnet_zoo.datasets import DATASETS, Color, Dataset
from hrnet_zoo.datasets.class_list import ClassList, read_class_list, read_text
from hrnet_zoo.datasets.label_rules import (
    ADE20K_VALUES,
    CITYSCAPES_IDS,
    CITYSCAPES_TRAIN_IDS,
    PASCAL_CONTEXT_VALUES,
    VOC_VALUES,
    LabelRule,
    identity,
)
from hrnet_zoo.datasets.pairing import Problem, Sample, find_images, pair, stem
from hrnet_zoo.errors import DatasetError

_CLASSES = "classes.txt"
_SPLIT_ALIASES = (("val", "validation", "valid"), ("train", "training"), ("test", "testing"))
_KNOWN_SPLITS = tuple(name for names in _SPLIT_ALIASES for name in names)
_LEVELS = 3  # the dataset may lie so many levels above or below the given folder
_MAX_FOLDERS = 500  # searched below the given folder, so that a whole disk is never walked


@dataclass(frozen=True)
class LabeledFolder:
    """A split of a dataset on disk.

    Attributes:
        key: of the dataset whose official labels these are; "" for a custom dataset.
        title: the recognized layout, such as "Cityscapes" or "images/ and masks/".
        root: the folder that holds the dataset.
        split: name of the split on disk; "" for a folder without splits.
        splits: the splits that exist.
        rule: the meaning of label values.
        classes: class names by index; None if unknown.
        colors: RGB by class name, where `classes.txt` gives a color.
        samples: the pairs, sorted by name.
        problems: what the file names alone reveal.

    """

    key: str
    title: str
    root: Path
    split: str
    splits: tuple[str, ...]
    rule: LabelRule
    classes: tuple[str, ...] | None
    colors: dict[str, Color]
    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class _Place:
    """Where a split is: its name on disk, and its folders."""

    split: str
    images: Path
    labels: Path


@dataclass(frozen=True)
class _Layout:
    """The folders of a dataset.

    Attributes:
        key: of the dataset; "" for a custom one.
        title: its name.
        looks: how it is recognized, in words.
        folders: alternatives of (images, labels) below the home; {} is the split.
        lists: folder of the text files that list the members of each split, if there are such.
        rule: the meaning of label values, if the layout alone determines it.

    """

    key: str
    title: str
    looks: str
    folders: tuple[tuple[str, str], ...]
    lists: str = ""
    rule: LabelRule | None = None

    @property
    def tops(self) -> set[str]:
        """The folders directly below a home; looking for them is quick."""
        paths = [self.lists, *(path.format(name) for both in self.folders for path in both for name in _KNOWN_SPLITS)]
        return {path.partition("/")[0] for path in paths if path}

    def places(self, home: Path, split: str) -> list[_Place]:
        """Return every place of a split."""
        found = {}
        for name in next((names for names in _SPLIT_ALIASES if split in names), (split,)):
            for images, labels in self.folders:
                both = home / images.format(name), home / labels.format(name)
                if all(map(_is_folder, both)) and (not self.lists or (home / self.lists / f"{name}.txt").is_file()):
                    found[both] = name if self.lists or "{}" in images else ""
        # If images/ has val/ in it, it is not a folder without splits.
        has_splits = any(_is_folder(home / top / name) for top in ("images", "masks") for name in _KNOWN_SPLITS)
        return [_Place(name, *both) for both, name in found.items() if name or not has_splits]

    def splits(self, home: Path) -> list[str]:
        """Return the names of the splits that exist; [""] for a folder without splits."""
        listed = [path.stem for path in sorted((home / self.lists).glob("*.txt"))] if self.lists else []
        names = (place.split for name in (listed or _KNOWN_SPLITS) for place in self.places(home, name))
        return list(dict.fromkeys(names))


_ZIPPED = (
    ("leftImg8bit/{}", "leftImg8bit_trainvaltest/leftImg8bit/{}"),
    ("gtFine/{}", "gtFine_trainvaltest/gtFine/{}"),
)
_CUSTOM_FOLDERS = (("images", "masks"), ("{}/images", "{}/masks"), ("images/{}", "masks/{}"))
_CUSTOM = _Layout("", "images/ and masks/", "images/ and masks/", _CUSTOM_FOLDERS)
_OFFICIAL = (
    _Layout("cityscapes", "Cityscapes", "leftImg8bit/ and gtFine/", tuple(product(*_ZIPPED))),
    _Layout(
        "ade20k",
        "ADE20K",
        "images/ and annotations/ with training/ or validation/ in them",
        (("images/{}", "annotations/{}"),),
        rule=ADE20K_VALUES,
    ),
    _Layout(
        "voc12aug",
        "Pascal VOC 2012",
        "JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/*.txt",
        (("JPEGImages", "SegmentationClass"),),
        lists="ImageSets/Segmentation",
        rule=VOC_VALUES,
    ),
    _Layout(
        "pascal_context",
        "Pascal Context",
        "JPEGImages/, SegmentationClassContext/ and ImageSets/SegmentationContext/*.txt",
        (("JPEGImages", "SegmentationClassContext"),),
        lists="ImageSets/SegmentationContext",
        rule=PASCAL_CONTEXT_VALUES,
    ),
)


def find_samples(
    root: str | Path, dataset: Dataset | None, split: str = "val", *, classes: Sequence[str] | None = None
) -> LabeledFolder:
    """Recognize a folder of labeled images and pair its files by name; no image is opened.

    Args:
        root: the folder that holds the dataset, a folder up to three levels above it, or one of the dataset's own
            folders. At most 500 folders below `root` are searched.
        dataset: what a model expects. Its official layout is accepted if the model has the official classes; a custom
            folder always, with class indices as label values. None: any layout.
        split: "val", "validation" and "valid" are the same, as are "train" and "training". A custom folder without
            splits is taken whole; if it has no val split, "test" takes its place.
        classes: class names of a custom dataset, whatever its layout; they take the place of `dataset`.

    Raises:
        DatasetError: no such folder or split; no dataset, several, or another one was recognized; a class list that
            is broken or contradicts the classes.

    """
    root = Path(os.path.abspath(root))  # noqa: PTH100 - unlike Path.resolve, it keeps a link's own neighbors
    check_root(root)
    if not re.fullmatch(r"\w[\w.-]*", split):
        raise _refusal(root, split, f"{split!r} is not the name of a split", "use 'val' or 'train', for instance")
    official = [layout for layout in _OFFICIAL if not dataset or _is_official(layout, dataset)]
    accepted = [*(_OFFICIAL if classes else official), _CUSTOM]
    recognized = _recognize(root, accepted, prefer=official if dataset and not classes else [])
    if not recognized:
        raise _unrecognized(root, split, accepted)
    if len(recognized) > 1:
        homes = "; ".join(f"{layout.title} in {home}" for layout, home in recognized[:5])
        homes += f" and {len(recognized) - 5} more" if len(recognized) > 5 else ""
        raise _refusal(root, split, f"several datasets: {homes}", "name one of them")
    ((layout, home),) = recognized
    places = layout.places(home, split)
    if not places and split in _SPLIT_ALIASES[0] and (classes or layout is _CUSTOM):
        places = layout.places(home, "test")
    splits = layout.splits(home)
    found = f"{layout.title} in {home}, with " + (f"the splits {', '.join(splits)}" if splits else "no split")
    if len(places) > 1:
        found = f"{layout.title} in {home}, more than once: {', '.join(str(place.images) for place in places)}"
    elif places:
        (place,) = places
        if any(folder.is_relative_to(root) for folder in (place.images, place.labels, home / layout.lists)):
            return _read(layout, home, place, dataset, tuple(classes) if classes else None)
        found += f"; the given folder is outside {place.split!r}"
    raise _refusal(root, split, found, "name a split that exists, or the folder of one split")


def check_root(root: str | Path) -> None:
    """Refuse a path that is not a folder, before any weights are fetched.

    Raises:
        DatasetError: it does not exist, or is a file.

    """
    path = Path(os.path.abspath(root))  # noqa: PTH100 - as in find_samples
    if not _is_folder(path):
        found = "a file" if os.path.exists(path) else "no such folder"  # noqa: PTH110 - as in _is_folder
        raise _refusal(path, "", found, "name the folder that holds the dataset")


def _is_official(layout: _Layout, dataset: Dataset) -> bool:
    return layout.key == dataset.key and DATASETS[layout.key].classes == dataset.classes


def _recognize(root: Path, layouts: Sequence[_Layout], prefer: Sequence[_Layout]) -> list[tuple[_Layout, Path]]:
    """Return the nearest homes: here, else above, else below; only the preferred ones, if there are any."""
    homes = _homes([root], layouts)
    for home in root.parents[:_LEVELS]:
        if not homes:
            top = root.relative_to(home).parts[0]
            homes = [each for each in _homes([home], layouts) if top in each[0].tops]
    for wanted in (prefer, layouts):
        level, searched = [root], 0
        for _ in range(_LEVELS):
            if not homes:
                level = [folder for above in level for folder in _subfolders(above)][: _MAX_FOLDERS - searched]
                searched += len(level)
                homes = _homes(level, wanted)
    # A link to a home beside it is not a second one; the first name counts.
    homes = list({(layout, os.path.realpath(home)): (layout, home) for layout, home in reversed(homes)}.values())[::-1]
    return [each for each in homes if each[0] in prefer] or homes


def _homes(folders: Sequence[Path], layouts: Sequence[_Layout]) -> list[tuple[_Layout, Path]]:
    return [
        (layout, folder)
        for folder in folders
        for layout in (*_OFFICIAL, _CUSTOM)
        if any(_is_folder(folder / top) for top in layout.tops)
        and layout.splits(folder)
        and (
            (folder / _CLASSES).is_file()
            or (layout in layouts and not (layout.key == "voc12aug" and _is_other_year(folder)))
        )
    ]


def _is_other_year(folder: Path) -> bool:
    """Return whether this is the Pascal VOC of another year, with other images and lists."""
    return re.fullmatch(r"VOC20\d\d", folder.name) is not None and folder.name != "VOC2012"


def _read(
    layout: _Layout, home: Path, place: _Place, dataset: Dataset | None, custom: tuple[str, ...] | None
) -> LabeledFolder:
    listed = _class_list(home, place.images)
    expected = custom or (dataset.classes if dataset else None)
    if listed and expected and listed.names != expected:
        raise _contradiction(listed, expected)
    names = custom or (listed.names if listed else None)
    official = DATASETS[layout.key].classes if layout.key else None
    if official and names in (None, official):
        key, title, names, colors = layout.key, layout.title, official, dict[str, Color]()
    else:
        key, names, colors = "", expected or names, listed.colors if listed else {}
        title = f"custom classes in the layout of {layout.title}" if layout.key else layout.title
        if names and len(names) > 255:
            raise _refusal(home, "", f"{len(names)} classes", "8-bit labels encode at most 255 classes, and 255")
    rule = (layout.rule if key else None) or identity(len(names) if names else 255)

    (images, problems), (labels, more) = (find_images(folder, home) for folder in (place.images, place.labels))
    problems = [problem for problem in (*problems, *more) if not (key and problem.kind == "not an image")]
    name = stem
    if layout.key == "cityscapes":
        ids = [path for path in labels if path.stem.endswith("_gtFine_labelIds")]
        train_ids = [path for path in labels if path.stem.endswith("_gtFine_labelTrainIds")]
        if key:
            images = [path for path in images if path.stem.endswith("_leftImg8bit")]
            labels = ids if len(ids) >= len(train_ids) else train_ids
            rule = CITYSCAPES_IDS if labels is ids else CITYSCAPES_TRAIN_IDS
        elif ids or train_ids:  # mmsegmentation trains on train ids
            labels = train_ids if len(train_ids) >= len(ids) else ids
        if key or ids or train_ids:
            name = _cityscapes_name
    named_images = [(name(path, place.images), path) for path in images]
    named_labels = [(name(path, place.labels), path) for path in labels]
    if layout.lists:
        lines = read_text(home / layout.lists / f"{place.split}.txt").splitlines()
        members = dict.fromkeys(filter(None, map(str.strip, lines)))
        named_images = [each for each in named_images if each[0] in members]
        named_labels = [each for each in named_labels if each[0] in members]
        found_names = {name for name, _ in (*named_images, *named_labels)}
        if missing := tuple(name for name in members if name not in found_names):
            advice = "unpack the whole dataset"
            problems.append(Problem("listed file missing", "neither image nor mask exists", advice, missing))
    samples, unpaired = pair(named_images, named_labels, home)
    problems += unpaired
    if not samples:
        found = f"no image with a mask in {place.images} and {place.labels}"
        problems.append(Problem("empty folder", found, "check that the whole dataset was unpacked"))
    splits = tuple(layout.splits(home))
    return LabeledFolder(key, title, home, place.split, splits, rule, names, colors, tuple(samples), tuple(problems))


def _cityscapes_name(path: Path, folder: Path) -> str:
    """Return "city/city_000000_000000" for an image or a mask of Cityscapes."""
    return re.sub(r"_(leftImg8bit|gtFine_label(Train)?Ids)$", "", stem(path, folder))


def _class_list(home: Path, images: Path) -> ClassList | None:
    """Read the `classes.txt` that is nearest to the images, if there is one."""
    above = [home.parent] if home.name in _KNOWN_SPLITS else []
    files = [folder / _CLASSES for folder in (images.parent, home, *above)]
    file = next((file for file in files if file.is_file()), None)
    return read_class_list(file) if file else None


def _contradiction(listed: ClassList, expected: Sequence[str]) -> DatasetError:
    found = f"{len(listed.names)} names where {len(expected)} are expected"
    pairs = zip(listed.names, expected, strict=False)
    for number, (name, other) in enumerate(pairs, start=1):
        if name != other:
            found = f"name {number} is {name!r} where {other!r} is expected ({found})"
            break
    advice = "use a model of these classes (check-data: omit dataset), or correct the list"
    return _refusal(listed.file, "", found, advice)


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry) for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError:  # it cannot be searched, so nothing in it is recognized
        return []


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - never raises, as Path.is_dir does for a name that is too long


def _unrecognized(root: Path, split: str, layouts: Sequence[_Layout]) -> DatasetError:
    try:
        names = sorted(path.name + "/" * _is_folder(path) for path in root.iterdir())
    except OSError as error:
        raise _refusal(root, split, error.strerror or str(error), "check its permissions") from error
    found = (", ".join(names[:8]) or "nothing") + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    looks = "; ".join(f"{layout.looks} ({layout.title})" if layout.key else layout.looks for layout in layouts)
    advice = f"name a folder that holds one of these: {looks}"
    others = _recognize(root, [layout for layout in _OFFICIAL if layout not in layouts], prefer=[])
    years = [folder.name for folder in (root, *_subfolders(root)) if _is_other_year(folder)]
    if others:
        other, home = others[0]
        found = f"{other.title} in {home}, which is another dataset than the classes asked for; in the folder: {found}"
        advice += f"; or, if the label values are indices of the classes asked for, list these in {_CLASSES}"
    elif years and any(layout.key == "voc12aug" for layout in layouts):
        found += f"; {years[0]} is the Pascal VOC of another year"
    return _refusal(root, split, found, advice)


def _refusal(path: Path, split: str, found: str, advice: str) -> DatasetError:
    asked = f"labeled images in {path}" + (f", split {split!r}" if split else "")
    return DatasetError(asked=asked, found=found, advice=advice, path=path)
