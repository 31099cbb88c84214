"""Divide labeled images into training and validation images, by their names alone."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hrnet_zoo.datasets import CITYSCAPES
from hrnet_zoo.datasets.class_list import class_names, read_text
from hrnet_zoo.datasets.layouts import LabeledFolder, find_samples
from hrnet_zoo.datasets.pairing import SUFFIXES
from hrnet_zoo.errors import ConfigError, DatasetError

DEFAULT_FRACTION = 0.1  # held out if nothing else determines the validation images

_VAL_NAMES = ("val", "validation", "valid")


def find_training_data(
    root: str | Path, *, val: float | str | Path | None = None, classes: Sequence[str] | None = None
) -> tuple[LabeledFolder, LabeledFolder | None, tuple[str, ...]]:
    """Find the images to train on and those to validate on.

    Args:
        root: a folder with `images/` and `masks/`, or with `train/` (and `val/`) that hold these, or an official
            download of one of the four datasets (see `hrnet_zoo.datasets.layouts`).
        val: None: the val split (val, validation or valid; of a custom dataset, else test) if it exists, else a tenth
            of the images. A number from 0 to below 1: this fraction of the training split; 0: no validation. A
            folder: its images. A text file: names of training images, one per line, with or without extension.
        classes: class names of a custom dataset, whatever its layout. None: those of `classes.txt` or the dataset.

    Returns:
        Training split, validation split or None, class names. A fraction selects images by a hash of their names, so
        that images which are added move none from one split to the other, and its size is only approximate. Neither
        split is left empty.

    Raises:
        DatasetError: no data, no class names, a single class, an image in both splits, or as `find_samples`.
        ConfigError: an argument is invalid.

    """
    if isinstance(val, int | float) and (isinstance(val, bool) or not 0 <= val < 1):
        raise ConfigError(
            asked=f"validate with val={val!r}",
            found="the fraction to validate on is from 0 (no validation) to below 1",
            done="no image was opened",
            advice="give a fraction such as 0.1, a folder, or a text file of names",
        )
    custom = None if classes is None else class_names(classes, "train for")
    train = _require_samples(find_samples(root, None, "train", classes=custom))
    names = _require_classes(train)
    if val is None:
        if train.split and _has_val(train):
            custom = None if train.key else names
            return train, _comparable(train, find_samples(train.root, None, "val", classes=custom)), names
        val = DEFAULT_FRACTION
    if isinstance(val, int | float):
        if val == 0:
            return train, None, names
        return *_split_by_fraction(train, val), names
    path = Path(val)
    if path.is_dir():
        expected = None if train.key else CITYSCAPES.with_classes(names)  # whose names alone matter
        return train, _comparable(train, find_samples(path, expected, "val")), names
    return *_split_by_list(train, path), names


def _require_samples(folder: LabeledFolder) -> LabeledFolder:
    if not folder.samples:
        found = "; ".join(f"{problem.kind}: {problem.found}" for problem in folder.problems if problem.error)
        raise _refusal(folder, found, "give masks the names of their images")
    return folder


def _require_classes(folder: LabeledFolder) -> tuple[str, ...]:
    if folder.classes is None:
        file = folder.root / "classes.txt"
        advice = f"write {file}, one name per line in the order of the mask values, or pass classes"
        raise _refusal(folder, "the classes have no names", advice)
    if len(folder.classes) < 2:
        advice = "at least two classes are required: add a background class"
        raise _refusal(folder, f"only one class, {folder.classes[0]!r}", advice)
    return folder.classes


def _has_val(folder: LabeledFolder) -> bool:
    """Return whether a val split exists or should exist; in a custom dataset, a test split takes its place."""
    incomplete = (folder.root / place / name for place in ("", "images") for name in _VAL_NAMES)
    return bool(
        folder.key or {*_VAL_NAMES, "test", "testing"} & {*folder.splits} or any(map(os.path.isdir, incomplete))
    )


def _comparable(train: LabeledFolder, val: LabeledFolder) -> LabeledFolder:
    """Return the validation split if its classes are those of the training split, and no image is in both."""
    _require_samples(val)
    if val.classes != train.classes:
        found = f"its {len(val.classes or ())} classes are not the {len(train.classes or ())} of {train.root}"
        raise _refusal(val, found, "validate on images that are labeled with the training classes")
    trained = {os.path.realpath(sample.image) for sample in train.samples}
    if both := [str(sample.image) for sample in val.samples if os.path.realpath(sample.image) in trained]:
        found = f"{len(both)} of the training images are in it too: {', '.join(both[:3])}"
        raise _refusal(val, found, "separate the two splits, or omit val to hold out a tenth of the images")
    return val


def _split_by_fraction(folder: LabeledFolder, fraction: float) -> tuple[LabeledFolder, LabeledFolder]:
    if len(folder.samples) < 2:
        found = "a single image, which cannot be held out for validation"
        raise _refusal(folder, found, "add images, or train without validation (val=0)")
    places = sorted((_hash(sample.name), sample.name) for sample in folder.samples)
    held_out = {name for place, name in places if place < fraction} or {places[0][1]}
    if len(held_out) == len(places):
        held_out.remove(places[-1][1])
    return _split(folder, held_out)


def _hash(name: str) -> float:
    """Return a number from 0 to below 1 that depends on the name alone."""
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return math.ldexp(int.from_bytes(digest[:6], "big"), -48)


def _split_by_list(folder: LabeledFolder, file: Path) -> tuple[LabeledFolder, LabeledFolder]:
    lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    known = {sample.name for sample in folder.samples}
    names = {line if line in known else _without_suffix(line) for line in lines}
    found, advice = "", f"list names below images/, one per line, such as {min(known)}"
    if unknown := sorted(names - known):
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        found = f"no training image is named {', '.join(unknown[:5])}{more}"
    elif not names:
        found = "no names"
    elif names == known:
        found, advice = "every image, so that none is left to train on", "list fewer images"
    if found:
        raise DatasetError(asked=f"validate on images listed in {file}", found=found, advice=advice, path=file)
    return _split(folder, names)


def _without_suffix(line: str) -> str:
    suffix = Path(line).suffix
    return line.removesuffix(suffix) if suffix.lower() in SUFFIXES else line


def _split(folder: LabeledFolder, held_out: set[str]) -> tuple[LabeledFolder, LabeledFolder]:
    train = tuple(sample for sample in folder.samples if sample.name not in held_out)
    val = tuple(sample for sample in folder.samples if sample.name in held_out)
    return replace(folder, samples=train), replace(folder, samples=val)


def _refusal(folder: LabeledFolder, found: str, advice: str) -> DatasetError:
    asked = f"train on {folder.title} in {folder.root}" + (f", split {folder.split!r}" if folder.split else "")
    return DatasetError(asked=asked, found=found, advice=advice, path=folder.root)
