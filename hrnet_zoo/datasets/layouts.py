"""Labeled images on disk: the official layouts of the four datasets, and a folder of one's own.

Cityscapes       leftImg8bit/SPLIT/*/*_leftImg8bit.png + gtFine/SPLIT/*/*_gtFine_label{Ids,TrainIds}.png
ADE20K           images/SPLIT/*.jpg + annotations/SPLIT/*.png
Pascal VOC 2012  JPEGImages/*.jpg + SegmentationClass/*.png + ImageSets/Segmentation/SPLIT.txt
Pascal Context   JPEGImages/*.jpg + SegmentationClassContext/*.png + ImageSets/SegmentationContext/SPLIT.txt
one's own        images/ + masks/, or SPLIT/images/ + SPLIT/masks/; classes.txt beside them is optional

A `classes.txt` in the home of an official layout makes it a folder of one's own: label values are class indices, 255 is
ignored. It stays official if the list has the official names in order. A list that contradicts the dataset that was
asked for is refused.
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
from hrnet_zoo.datasets.pairing import Problem, Sample, cityscapes_name, find_images, one_kind, only, pair, stem
from hrnet_zoo.errors import DatasetError

__all__ = ["OWN", "LabeledFolder", "Problem", "Sample", "check_root", "find_samples"]

OWN = "images/ and masks/"  # title of a folder of one's own

_CLASSES = "classes.txt"
_SAME_SPLIT = (("val", "validation", "valid"), ("train", "training"), ("test", "testing"))
_KNOWN_SPLITS = tuple(name for names in _SAME_SPLIT for name in names)
_LEVELS = 3  # how far above or below the folder that was given its dataset may lie
_MOST_FOLDERS = 500  # looked at below the folder that was given; a whole disk is never walked


@dataclass(frozen=True)
class LabeledFolder:
    """Images with labels, as one dataset keeps them.

    Attributes:
        key: of the dataset whose official labels these are; "" for a folder of one's own.
        title: which layout was recognized, such as "Cityscapes" or "images/ and masks/".
        root: the folder that holds it.
        split: name of the part, as it is on disk; "" for a folder without parts.
        splits: the parts that are there.
        rule: what the values of the label files mean.
        classes: names by index; None if nothing says them.
        colors: RGB by name, of those classes for which `classes.txt` states one.
        samples: the pairs, by name.
        problems: what the names alone show; the files of no pair among them.

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
class _Layout:
    """Where a dataset keeps what.

    Attributes:
        key: of the dataset; "" for a folder of one's own.
        title: what to call it.
        looks: what it is recognized by, in words.
        folders: of images and of labels below the home, {} for the split; the alternatives.
        lists: folder of the text files that name the members of each split, if such files do.
        rule: None: depends on what is there.

    """

    key: str
    title: str
    looks: str
    folders: tuple[tuple[str, str], ...]
    lists: str = ""
    rule: LabelRule | None = None

    @property
    def marks(self) -> set[str]:
        """The folders of which a home has at least one: a quick look at many folders looks for no more."""
        return {images.format(name).partition("/")[0] for images, _ in self.folders for name in _KNOWN_SPLITS}

    def parts(self, home: Path, split: str) -> list[tuple[str, Path, Path]]:
        """Return (split's name on disk, images, labels) for each place where a split is."""
        found = {}
        for name in next((names for names in _SAME_SPLIT if split in names), (split,)):
            for images, labels in self.folders:
                places = home / images.format(name), home / labels.format(name)
                if all(map(_is_folder, places)) and (not self.lists or (home / self.lists / f"{name}.txt").is_file()):
                    found[places] = name if self.lists or "{}" in images else ""
        # images/ with val/ in it is no folder without parts, whichever of its parts is asked for.
        parted = any(_is_folder(home / f / name) for f in ("images", "masks") for name in _KNOWN_SPLITS)
        return [(name, *places) for places, name in found.items() if name or not parted]

    def splits(self, home: Path) -> list[str]:
        """Return the names of the splits that are there; [""] for a folder without any."""
        listed = [path.stem for path in sorted((home / self.lists).glob("*.txt"))] if self.lists else []
        return list(
            dict.fromkeys(found for name in (listed or _KNOWN_SPLITS) for found, _, _ in self.parts(home, name))
        )

    def places(self, home: Path, split: str) -> set[Path]:
        """Return the folders inside the layout by which it may be named."""
        ends = [path for _, *paths in self.parts(home, split) for path in paths]
        if self.lists and ends:
            ends.append(home / self.lists)
        return {place for end in ends for place in (end, *end.parents) if home in place.parents}


_ZIPPED = (
    ("leftImg8bit/{}", "leftImg8bit_trainvaltest/leftImg8bit/{}"),
    ("gtFine/{}", "gtFine_trainvaltest/gtFine/{}"),
)
_OWN_FOLDERS = (("images", "masks"), ("{}/images", "{}/masks"), ("images/{}", "masks/{}"))
_OWN = _Layout("", OWN, "images/ and masks/", _OWN_FOLDERS)
_OFFICIAL = (
    _Layout("cityscapes", "Cityscapes", "leftImg8bit/ and gtFine/", tuple(product(*_ZIPPED))),
    _Layout(
        *("ade20k", "ADE20K", "images/ and annotations/ with training/ or validation/ in them"),
        (("images/{}", "annotations/{}"),),
        rule=ADE20K_VALUES,
    ),
    _Layout(
        *("voc12aug", "Pascal VOC 2012", "JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/*.txt"),
        (("JPEGImages", "SegmentationClass"),),
        lists="ImageSets/Segmentation",
        rule=VOC_VALUES,
    ),
    _Layout(
        *("pascal_context", "Pascal Context"),
        "JPEGImages/, SegmentationClassContext/ and ImageSets/SegmentationContext/*.txt",
        (("JPEGImages", "SegmentationClassContext"),),
        lists="ImageSets/SegmentationContext",
        rule=PASCAL_CONTEXT_VALUES,
    ),
)


def find_samples(root: str | Path, dataset: Dataset | None, split: str = "val", *, own: bool = False) -> LabeledFolder:
    """Recognize a folder of labeled images and pair its files by name; no file but lists of names is opened.

    Args:
        root: the home of the layout (see this module's text), a folder up to three levels above it, or one of the
            layout's own folders. Below `root`, 500 folders at most are looked at.
        dataset: what a model expects. Its official layout counts if the classes are the dataset's own; a folder of
            one's own counts always, with file values that are indices of the classes. None: any of the five.
        split: "val", "validation" and "valid" are the same, as are "train" and "training". A folder of one's own that
            has no parts is taken whole; where it has no val part, "test" stands for it.
        own: `dataset` states the classes of this very folder, which is one's own, whatever its layout.

    Raises:
        DatasetError: no such folder, nothing recognized, several datasets, another one, no such split, a class list
            that is broken or disagrees with the dataset's.

    """
    root = Path(os.path.abspath(root))  # noqa: PTH100 - a link's own neighbors are meant, not its target's
    check_root(root)
    if not re.fullmatch(r"\w[\w.-]*", split):
        raise _refusal(root, split, f"{split!r} is no name of a split", "use 'val' or 'train', for instance")
    official = [layout for layout in _OFFICIAL if dataset is None or _is_official(layout, dataset)]
    wanted = [*(_OFFICIAL if own else official), _OWN]
    recognized = _recognize(root, wanted, prefer=official if dataset else [])
    if not recognized:
        raise _unrecognized(root, split, wanted)
    if len(recognized) > 1:
        homes = "; ".join(f"{layout.title} in {home}" for layout, home in recognized[:5])
        homes += f" and {len(recognized) - 5} more" if len(recognized) > 5 else ""
        raise _refusal(root, split, f"several datasets: {homes}", "name one of them")
    ((layout, home),) = recognized
    places = layout.parts(home, split)
    if not places and split in _SAME_SPLIT[0] and (own or layout is _OWN):
        places = layout.parts(home, "test")
    inside = root == home or root in home.parents or any(root in layout.places(home, place[0]) for place in places)
    if len(places) != 1 or not inside:
        splits = layout.splits(home)
        found = f"{layout.title} in {home}, with " + (f"the splits {', '.join(splits)}" if splits else "no split")
        if len(places) > 1:
            found = f"{layout.title} in {home}, more than once: {', '.join(str(images) for _, images, _ in places)}"
        elif places:
            found += f"; the folder given lies outside {places[0][0]!r}"
        raise _refusal(root, split, found, "name a split that is there, or the folder of one part")
    return _read(layout, home, places[0], dataset, own)


def check_root(root: str | Path) -> None:
    """Refuse what is no folder at all, which can be known before any weights are fetched.

    Raises:
        DatasetError: there is none, or a file.

    """
    path = Path(os.path.abspath(root))  # noqa: PTH100 - as in find_samples
    if not _is_folder(path):
        found = "a file" if os.path.exists(path) else "no such folder"  # noqa: PTH110 - as in _is_folder
        raise _refusal(path, "", found, "name the folder that holds the dataset")


def _is_official(layout: _Layout, dataset: Dataset) -> bool:
    return layout.key == dataset.key and DATASETS[layout.key].classes == dataset.classes


def _recognize(root: Path, layouts: Sequence[_Layout], prefer: Sequence[_Layout]) -> list[tuple[_Layout, Path]]:
    """Return the nearest homes: here, else above (named by a folder of its own), else below; preferred ones first."""
    homes = _homes([root], layouts)
    for home in root.parents[:_LEVELS]:
        if not homes:
            candidates = _homes([home], layouts)
            homes = [
                each
                for each in candidates
                if any(root in each[0].places(home, s or "val") for s in each[0].splits(home))
            ]
    for wanted in (prefer, layouts):
        level, looked_at = [root], 0
        for _ in range(_LEVELS):
            if not homes:
                level = [folder for above in level for folder in _subfolders(above)][: _MOST_FOLDERS - looked_at]
                looked_at += len(level)
                homes = _homes(level, wanted)
    # A link to a home beside it is no second one.
    homes = list({(layout, os.path.realpath(home)): (layout, home) for layout, home in reversed(homes)}.values())[::-1]
    return [each for each in homes if each[0] in prefer] or homes


def _homes(folders: Sequence[Path], layouts: Sequence[_Layout]) -> list[tuple[_Layout, Path]]:
    return [
        (layout, folder)
        for folder in folders
        for layout in (*_OFFICIAL, _OWN)
        if any(_is_folder(folder / mark) for mark in layout.marks)
        and layout.splits(folder)
        and (
            (folder / _CLASSES).is_file()
            or (layout in layouts and not (layout.key == "voc12aug" and _is_other_year(folder)))
        )
    ]


def _is_other_year(folder: Path) -> bool:
    """Tell whether the folder holds the Pascal VOC of another year, which has other images and lists."""
    return re.fullmatch(r"VOC20\d\d", folder.name) is not None and folder.name != "VOC2012"


def _read(
    layout: _Layout, home: Path, place: tuple[str, Path, Path], dataset: Dataset | None, own: bool
) -> LabeledFolder:
    split, *folders = place
    (images, problems), (labels, more) = (find_images(folder, home) for folder in folders)
    problems += more
    name = stem
    listed = _class_list(home, folders[0])
    key, title, official = layout.key, layout.title, DATASETS[layout.key].classes if layout.key else None
    stated = dataset.classes if own and dataset else listed.names if listed else None
    if key and (stated in (None, official) or (dataset and _is_official(layout, dataset))):
        classes, colors = official, {}
        problems = [problem for problem in problems if problem.kind != "not an image"]  # expected there
    else:
        classes, colors = dataset.classes if dataset else stated, listed.colors if listed else {}
        title, key = f"your own classes in the folders of {title}" if key else title, ""
    _require_same(listed, classes)
    _require_same(listed, dataset.classes if dataset else None)
    if layout.lists:
        members = [line.strip() for line in read_text(home / layout.lists / f"{split}.txt").splitlines()]
        images, labels, more = only([line for line in members if line], (images, labels), (folders[0], folders[1]))
        problems += more
    rule = (layout.rule if key else None) or _own_rule(home, classes)
    kinds = [path for path in labels if path.stem.endswith(("_labelIds", "_labelTrainIds"))]
    if layout.key == "cityscapes" and (key or kinds):
        name = cityscapes_name
        labels, kind, more = one_kind(kinds, folders[1], home, official=bool(key))
        problems += more
        if key:
            images = [path for path in images if path.stem.endswith("_leftImg8bit")]
            rule = CITYSCAPES_IDS if kind == "_labelIds" else CITYSCAPES_TRAIN_IDS
    samples, unpaired = pair(images, labels, (folders[0], folders[1]), home, name)
    if name is cityscapes_name:  # of mixed kinds, each file has its problem by now and one rule can't read both
        samples = [sample for sample in samples if sample.labels.stem.endswith(kind)]
    problems += unpaired
    if not samples:
        found = f"no image with a label file in {folders[0]} and {folders[1]}"
        problems.append(Problem("empty folder", found, "check that the dataset was unpacked wholly"))
    splits = tuple(layout.splits(home))
    return LabeledFolder(key, title, home, split, splits, rule, classes, colors, tuple(samples), tuple(problems))


def _own_rule(home: Path, classes: tuple[str, ...] | None) -> LabelRule:
    if classes and len(classes) > 255:
        advice = "8-bit labels hold at most 255 classes, and 255 for 'ignored'"
        raise _refusal(home, "", f"{len(classes)} classes", advice)
    return identity(len(classes) if classes else 255)


def _class_list(home: Path, images: Path) -> ClassList | None:
    """Read the nearest `classes.txt`."""
    above = [home.parent] if home.name in _KNOWN_SPLITS else []
    files = [folder / _CLASSES for folder in (images.parent, home, *above)]
    file = next((file for file in files if file.is_file()), None)
    return read_class_list(file) if file else None


def _require_same(listed: ClassList | None, expected: tuple[str, ...] | None) -> None:
    """Refuse a class list that disagrees with the classes that were asked for."""
    if listed is None or expected is None or listed.names == expected:
        return
    names = listed.names
    line = next((i for i, pair in enumerate(zip(names, expected, strict=False)) if pair[0] != pair[1]), None)
    found = f"{len(names)} names where {len(expected)} are expected"
    if line is not None:
        found = f"name {line + 1} is {names[line]!r} where {expected[line]!r} is expected ({found})"
    advice = "use a model of these classes (check-data: leave out dataset), or correct the list"
    raise _refusal(listed.file, "", found, advice)


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry) for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError:  # it may not be looked into: then nothing there can be meant
        return []


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - never raises, as Path.is_dir does for a name too long


def _unrecognized(root: Path, split: str, layouts: Sequence[_Layout]) -> DatasetError:
    try:
        there = sorted(path.name + "/" * _is_folder(path) for path in root.iterdir())
    except OSError as error:
        raise _refusal(root, split, error.strerror or str(error), "check its permissions") from error
    found = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "") if there else "nothing"
    others = _recognize(root, [layout for layout in _OFFICIAL if layout not in layouts], prefer=[])
    advice = "; ".join(f"{layout.looks} ({layout.title})" if layout.key else layout.looks for layout in layouts)
    advice = f"name a folder that holds one of these: {advice}"
    if others:
        other, home = others[0]
        found = f"{other.title} in {home}, which is another dataset than the classes asked for; there are {found}"
        advice += f"; or, if the label values there are the indices of the classes asked for, name these in {_CLASSES}"
    elif any(layout.key == "voc12aug" for layout in layouts) and (
        years := [folder.name for folder in (root, *_subfolders(root)) if _is_other_year(folder)]
    ):
        found += f"; {years[0]} is the Pascal VOC of another year"
    return _refusal(root, split, found, advice)


def _refusal(path: Path, split: str, found: str, advice: str) -> DatasetError:
    asked = f"labeled images in {path}" + (f", split {split!r}" if split else "")
    done = "no image was opened"
    return DatasetError(asked=asked, found=found, done=done, advice=advice, path=path, problems=(found,))
