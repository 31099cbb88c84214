"""Find labeled images on disk: the official layouts of the datasets, and custom folders.

Cityscapes       leftImg8bit/SPLIT/*/*_leftImg8bit.png + gtFine/SPLIT/*/*_gtFine_label{Ids,TrainIds}.png
ADE20K           images/SPLIT/*.jpg + annotations/SPLIT/*.png
Pascal VOC 2012  JPEGImages/*.jpg + SegmentationClass/*.png + ImageSets/Segmentation/SPLIT.txt
Pascal Context   JPEGImages/*.jpg + SegmentationClassContext/*.png + ImageSets/SegmentationContext/SPLIT.txt
                 (with 60 classes, unless the 59 without background are asked for)
aerial datasets  img_dir/SPLIT/*.png + ann_dir/SPLIT/*.png, told apart by the names of the images:
LoveDA 0.png, Potsdam 2_13_0_0_512_512.png, Vaihingen area6_0_0_512_512.png, iSAID P0003_0_896_0_896.png
custom           images/ + masks/, SPLIT/images/ + SPLIT/masks/, or images/SPLIT/ + masks/SPLIT/; optional classes.txt

A `classes.txt` in an official layout makes the dataset custom (label values are class indices, 255 is ignored), unless
it lists the official names in order.
"""

from __future__ import annotations

import os
import re
import shlex
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from hrnet_zoo.datasets import DATASETS, PASCAL_CONTEXT_59, Dataset
from hrnet_zoo.datasets.class_list import MAX_CLASSES, read_class_list, read_text
from hrnet_zoo.datasets.dataset import Color
from hrnet_zoo.datasets.label_rules import (
    CITYSCAPES_IDS,
    CITYSCAPES_TRAIN_IDS,
    OFFICIAL_LABELS,
    LabelRule,
    identity,
)
from hrnet_zoo.datasets.labeling_tools import recognize_tool
from hrnet_zoo.datasets.pairing import OTHER_BANDS, SUFFIXES, Problem, Sample, find_images, pair, stem
from hrnet_zoo.errors import DatasetError
from hrnet_zoo.images import bands as band_files

SPLIT_ALIASES = (("val", "validation", "valid"), ("train", "training"), ("test", "testing"))
_KNOWN_SPLITS = tuple(name for names in SPLIT_ALIASES for name in names)
_LEVELS = 3  # searched below the given folder
_MAX_FOLDERS = 500  # searched at most, lest it be a whole disk


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
        problems: those that file names alone reveal.
        bands: of the images, if they are not read as 8-bit RGB.

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
    bands: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Place:
    """A split on disk: its name and its two folders."""

    split: str
    images: Path
    labels: Path


@dataclass(frozen=True)
class _Layout:
    """The folders of a dataset.

    Attributes:
        key: of the dataset; "" for a custom one.
        title: its name.
        folders: alternatives of (images, labels) below the root; {} is the split.
        lists: folder of the text files that list the members of each split, if there are such.
        image: the name of an image, without its ending; each 0 stands for a number.

    """

    key: str
    title: str
    folders: tuple[tuple[str, str], ...]
    lists: str = ""
    image: str = ""

    def is_other(self, root: Path) -> bool:
        """Return whether `root` holds the Pascal VOC of another year, or CVAT's export in its form."""
        is_export = (root / "labelmap.txt").is_file()
        return self.key == "voc12aug" and (is_export or re.fullmatch(r"VOC20(?!12)\d\d", root.name) is not None)

    def names_fit(self, folder: Path) -> bool:
        """Return whether an image in a folder is named like those of this dataset."""
        if not self.image:
            return True
        pattern = re.compile(self.image.replace("0", r"-?\d+") + r"\.png")
        _, _, files = next(os.walk(folder), ("", [], []))
        return any(map(pattern.fullmatch, files))

    def places(self, root: Path, split: str = "val") -> list[_Place]:
        """Return the splits that exist, among those with the usual names and `split`."""
        names = [*_KNOWN_SPLITS, split]
        if self.lists:
            names = [path.stem for path in sorted((root / self.lists).glob("*.txt"))]
        candidates = dict.fromkeys(
            _Place(name if self.lists or "{}" in images else "", root / images.format(name), root / labels.format(name))
            for images, labels in self.folders
            for name in names
        )
        found = [place for place in candidates if _is_folder(place.images) and _is_folder(place.labels)]
        found = [place for place in found if self.names_fit(place.images)]
        # If images/ has val/ in it, it is not a folder without splits.
        nested = any(place.images.parent == root / "images" for place in found)
        return [place for place in found if place.split or not nested]


_CUSTOM = _Layout("", "images/ and masks/", (("images", "masks"), ("{}/images", "{}/masks"), ("images/{}", "masks/{}")))
_TILES = (("img_dir/{}", "ann_dir/{}"),)
_OFFICIAL = (
    _Layout("cityscapes", "Cityscapes", (("leftImg8bit/{}", "gtFine/{}"),)),
    _Layout("ade20k", "ADE20K", (("images/{}", "annotations/{}"),)),
    _Layout("voc12aug", "Pascal VOC 2012", (("JPEGImages", "SegmentationClass"),), "ImageSets/Segmentation"),
    _Layout(
        "pascal_context",
        "Pascal Context",
        (("JPEGImages", "SegmentationClassContext"),),
        "ImageSets/SegmentationContext",
    ),
    _Layout("loveda", "LoveDA", _TILES, image="0"),
    _Layout("potsdam", "Potsdam", _TILES, image="0_0_0_0_0_0"),
    _Layout("vaihingen", "Vaihingen", _TILES, image="area0_0_0_0_0"),
    _Layout("isaid", "iSAID", _TILES, image="P0_0_0_0_0"),
)


def find_samples(
    root: str | Path,
    dataset: Dataset | None,
    split: str = "val",
    *,
    classes: Sequence[str] | None = None,
    bands: Sequence[str] = (),
) -> LabeledFolder:
    """Recognize a folder of labeled images and pair its files by name; no image is opened.

    Args:
        root: the folder that holds the dataset, or a folder up to three levels above it (at most 500 are searched).
        dataset: what a model expects. Its official layout is accepted if the model has the official classes; a custom
            folder always, with class indices as label values. None: any layout.
        split: "val", "validation" and "valid" are the same, as are "train" and "training". A custom folder without
            splits is taken whole; if it has no val split, "test" takes its place.
        classes: class names of a custom dataset, whatever its layout; they take the place of `dataset`.
        bands: of images that are not read as 8-bit RGB; empty: those of `dataset`.

    Raises:
        DatasetError: no such folder or split; no dataset, several, or another one was recognized; a class list that
            is broken or contradicts the classes.

    """
    root = Path(os.path.abspath(root))  # noqa: PTH100 - unlike Path.resolve, it keeps a link's own neighbors
    check_root(root)
    if not re.fullmatch(r"\w[\w.-]*", split):
        raise _refusal(root, split, f"{split!r} is not the name of a split", "use 'val' or 'train', for instance")
    expected = tuple(classes or (dataset.classes if dataset else ())) or None
    accepted = [*_OFFICIAL, _CUSTOM]
    if dataset and not classes:
        key = "pascal_context" if dataset.key == "pascal_context_59" else dataset.key  # the folders are the same
        official = [each for each in _OFFICIAL if each.key == key and DATASETS[dataset.key].classes == expected]
        accepted = [*official, _CUSTOM]
    # An official layout takes precedence over a custom folder.
    recognized = (_recognize(root, accepted[:-1]) if dataset else []) or _recognize(root, accepted)
    if not recognized:
        raise _unrecognized(root, split, accepted)
    if len(recognized) > 1:
        found = "; ".join(f"{layout.title} in {home}" for layout, home in recognized[:5])
        raise _refusal(root, split, f"several datasets: {found}", "name one of them")
    ((layout, home),) = recognized
    places = layout.places(home, split)
    wanted = next((names for names in SPLIT_ALIASES if split in names), (split,))
    chosen = [place for place in places if place.split in (*wanted, "")]
    if not chosen and "val" in wanted and (classes or layout is _CUSTOM):
        chosen = [place for place in places if place.split in SPLIT_ALIASES[2]]
    if len(chosen) == 1:
        splits = tuple(dict.fromkeys(place.split for place in places))
        bands = tuple(bands) or (dataset.own_bands if dataset else ())
        return _read(layout, home, chosen[0], splits, expected, bands)
    found = f"{layout.title} in {home}, with the splits {', '.join(place.split for place in places)}"
    if chosen:
        found = f"{layout.title} in {home}, more than once: {', '.join(str(place.images) for place in chosen)}"
    raise _refusal(root, split, found, "name a split that exists, or the folder of one split")


def check_root(root: str | Path) -> None:
    """Raise DatasetError for what is not a folder, before any weights are fetched."""
    if os.path.isfile(root) and zipfile.is_zipfile(root):  # noqa: PTH113 - never raises, as Path.is_file does
        advice = f"unpack it; of a labeling tool's export: hrnet-zoo prepare FORMAT {shlex.quote(str(root))} DST"
        raise _refusal(Path(root), "", "a zip file in place of a folder", advice)
    if not _is_folder(Path(root)):
        raise _refusal(Path(root), "", "no such folder", "name the folder that holds the dataset")


def _recognize(root: Path, layouts: Sequence[_Layout]) -> list[tuple[_Layout, Path]]:
    """Return the datasets nearest to `root`: in one of the layouts, or in any if they have a class list."""
    level, searched = [root], 0
    for _ in range(_LEVELS + 1):
        # A folder and a link to it count once, by the first name.
        level = list({os.path.realpath(folder): folder for folder in reversed(level)}.values())[::-1]
        if found := [
            (layout, folder)
            for folder in level
            for layout in (*_OFFICIAL, _CUSTOM)
            if (folder / "classes.txt").is_file() or (layout in layouts and not layout.is_other(folder))
            if layout.places(folder)
        ]:
            return found
        below = [Path(above, name) for above in level for name in sorted(next(os.walk(above), ("", [], []))[1])]
        level = [folder for folder in below if not folder.name.startswith(".")][: _MAX_FOLDERS - searched]
        searched += len(level)
    return []


def _read(
    layout: _Layout,
    root: Path,
    place: _Place,
    splits: tuple[str, ...],
    names: tuple[str, ...] | None,
    bands: tuple[str, ...],
) -> LabeledFolder:
    colors: dict[str, Color] = {}
    # The nearest class list counts.
    folders = (place.images.parent, root, *([root.parent] if root.name in _KNOWN_SPLITS else []))
    if file := next((each / "classes.txt" for each in folders if (each / "classes.txt").is_file()), None):
        listed = read_class_list(file)
        for number, (name, expected) in enumerate(zip_longest(listed.names, names or listed.names), start=1):
            if name != expected:
                found = f"name {number} is {name!r} where {expected!r} is expected"
                advice = "use a model (or --dataset) with these classes, or correct the list"
                raise _refusal(file, "", found, advice)
        names, colors = listed.names, listed.colors
    key, title = layout.key, layout.title
    if key == "pascal_context" and names == PASCAL_CONTEXT_59.classes:
        key, title = PASCAL_CONTEXT_59.key, PASCAL_CONTEXT_59.title
    if key and names in (None, DATASETS[key].classes):
        names, colors = DATASETS[key].classes, {}
    elif key:
        key, title = "", f"custom classes in the layout of {title}"
    if names and len(names) > MAX_CLASSES:
        raise _refusal(root, "", f"{len(names)} classes", f"8-bit labels encode at most {MAX_CLASSES} classes, and 255")
    rule = OFFICIAL_LABELS.get(key) or identity(len(names) if names else MAX_CLASSES)

    images, problems = find_images(place.images, root, band_files.SUFFIXES if bands else SUFFIXES)
    labels, more = find_images(place.labels, root)
    problems = [problem for problem in (*problems, *more) if not (key and problem.kind == "not an image")]
    name = _plain_name if layout.key in ("cityscapes", "isaid") else stem
    if layout.key == "cityscapes":
        # Custom classes prefer train ids, which mmsegmentation trains on.
        kinds = [("_labelIds", CITYSCAPES_IDS), ("_labelTrainIds", CITYSCAPES_TRAIN_IDS)][:: 1 if key else -1]
        ids = [([path for path in labels if path.stem.endswith(ending)], rule) for ending, rule in kinds]
        found_labels, found_rule = max(ids, key=lambda each: len(each[0]))
        labels = found_labels or labels
        rule = found_rule if key else rule
    named_images = [(name(path, place.images), path) for path in images]
    named_labels = [(name(path, place.labels), path) for path in labels]
    if layout.lists:
        lines = read_text(root / layout.lists / f"{place.split}.txt").splitlines()
        members = dict.fromkeys(filter(None, map(str.strip, lines)))
        named_images = [each for each in named_images if each[0] in members]
        named_labels = [each for each in named_labels if each[0] in members]
        found_names = {name for name, _ in (*named_images, *named_labels)}
        if missing := tuple(name for name in members if name not in found_names):
            advice = "unpack the whole dataset"
            problems.append(Problem("listed file missing", "neither image nor mask exists", advice, missing))
    samples, unpaired = pair(named_images, named_labels, root)
    problems += unpaired
    if not samples and (others := [each for each in problems if each.advice in OTHER_BANDS]):
        problems = [replace(each, error=True) for each in others]
    elif not samples:
        found = f"no image with a mask in {place.images} and {place.labels}"
        problems.append(Problem("empty folder", found, "check that the whole dataset was unpacked"))
    facts = key, title, root, place.split, splits, rule, names, colors, tuple(samples), tuple(problems), bands
    return LabeledFolder(*facts)


def _plain_name(path: Path, folder: Path) -> str:
    """Return "city/city_000000_000000" for an image or a mask of Cityscapes, "P0003_0_896_0_896" for one of iSAID."""
    return re.sub(r"_(leftImg8bit|gtFine_label(Train)?Ids|instance_color_RGB)$", "", stem(path, folder))


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - never raises, as Path.is_dir does for a name that is too long


def _unrecognized(root: Path, split: str, layouts: Sequence[_Layout]) -> DatasetError:
    try:
        names = sorted(path.name + "/" * _is_folder(path) for path in root.iterdir())
    except OSError as error:
        raise _refusal(root, split, error.strerror or str(error), "check its permissions") from error
    found = ", ".join(names[:8]) + ", ..." * (len(names) > 8) or "nothing"
    if others := _recognize(root, _OFFICIAL):
        other, home = others[0]
        found = f"{other.title} in {home}, which is another dataset than the classes asked for"
    if tool := recognize_tool(root):
        command = shlex.join(["hrnet-zoo", "prepare", tool, str(root)])
        raise _refusal(root, split, f"{found}; these look like files of {tool}", f"run: {command} DST")
    titles: dict[str, list[str]] = {}
    for layout in sorted(layouts, key=lambda each: each.key != ""):  # custom ones first
        folders = " and ".join(f"{folder}/" for folder in layout.folders[0]).replace("{}", "SPLIT")
        titles.setdefault(folders, []).append(layout.title if layout.key else "your own")
    looks = "; ".join(f"{folders} ({', '.join(those)})" for folders, those in titles.items())
    advice = f"name a folder that holds one of these: {looks}; for other classes, list these in classes.txt there"
    advice += "; `hrnet-zoo prepare` makes such a folder of masks in colors or black and white, and of aerial datasets"
    return _refusal(root, split, found, advice)


def _refusal(path: Path, split: str, found: str, advice: str) -> DatasetError:
    asked = f"labeled images in {path}" + (f", split {split!r}" if split else "")
    return DatasetError(asked=asked, found=found, advice=advice, path=path)
