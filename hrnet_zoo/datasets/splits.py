"""Split labeled images into training and validation images by name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hrnet_zoo.datasets import CITYSCAPES
from hrnet_zoo.datasets.class_list import class_names, read_text
from hrnet_zoo.datasets.layouts import SPLIT_ALIASES, LabeledFolder, find_samples
from hrnet_zoo.datasets.pairing import SUFFIXES
from hrnet_zoo.errors import ConfigError, DatasetError

DEFAULT_FRACTION = 0.1  # held out if nothing else determines the validation images


def find_training_data(
    root: str | Path,
    *,
    val: float | str | Path | None = None,
    classes: Sequence[str] | None = None,
    bands: Sequence[str] = (),
) -> tuple[LabeledFolder, LabeledFolder | None, tuple[str, ...]]:
    """Find the images to train on and those to validate on.

    Args:
        root: a folder with `images/` and `masks/`, or with `train/` (and `val/`) that hold these, or an official
            download of one of the datasets (see `hrnet_zoo.datasets.layouts`).
        val: None: the val split (val, validation or valid; of a custom dataset, else test) if it exists, else a tenth
            of the images. A number from 0 to below 1: this fraction of the training split; 0: no validation. A
            folder: its images. A text file: names of training images, one per line, with or without extension.
        classes: class names of a custom dataset, whatever its layout. None: those of `classes.txt` or the dataset.
        bands: of images that are not read as 8-bit RGB.

    Returns:
        Training split, validation split or None, class names. A fraction selects images by a hash of their names:
        adding images moves none between the splits, and the fraction is approximate. Neither split is empty.

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
    train = find_samples(root, None, "train", classes=custom, bands=bands)
    if not train.samples:
        advice = train.problems[0].advice if len(train.problems) == 1 else "give masks the names of their images"
        raise _refusal(train, "; ".join(f"{each.kind}: {each.found}" for each in train.problems), advice)
    names = train.classes or ()
    if len(names) < 2:
        advice = f"list at least two classes (background too) in {train.root / 'classes.txt'}, or pass classes"
        raise _refusal(train, f"class names: {', '.join(names) or 'none'}", advice)
    if val is None and train.split and _has_val(train):
        val_split = find_samples(train.root, None, "val", classes=None if train.key else names, bands=bands)
        return train, _comparable(train, val_split), names
    val = DEFAULT_FRACTION if val is None else val
    if val == 0:
        return train, None, names
    if not isinstance(val, int | float) and (path := Path(val)).is_dir():
        expected = None if train.key else CITYSCAPES.with_classes(names)  # whose names alone matter
        return train, _comparable(train, find_samples(path, expected, "val", bands=bands)), names
    held_out = _draw(train, val) if isinstance(val, int | float) else _read_names(train, Path(val))
    splits = [
        replace(train, samples=tuple(sample for sample in train.samples if (sample.name in held_out) is chosen))
        for chosen in (False, True)
    ]
    return splits[0], splits[1], names


def _has_val(folder: LabeledFolder) -> bool:
    """Return whether a val split exists or should exist; in a custom dataset, a test split takes its place."""
    val_names, _, test_names = SPLIT_ALIASES
    incomplete = (folder.root / place / name for place in ("", "images") for name in val_names)
    return bool(folder.key or {*val_names, *test_names} & {*folder.splits} or any(map(os.path.isdir, incomplete)))


def _comparable(train: LabeledFolder, val: LabeledFolder) -> LabeledFolder:
    """Return the validation split; refuse other classes than the training split has, and shared images."""
    if val.classes != train.classes:
        found = f"its {len(val.classes or ())} classes are not the {len(train.classes or ())} of {train.root}"
        raise _refusal(val, found, "validate on images that are labeled with the training classes")
    trained = {os.path.realpath(sample.image) for sample in train.samples}
    if both := [str(sample.image) for sample in val.samples if os.path.realpath(sample.image) in trained]:
        found = f"{len(both)} of the training images are in it too: {', '.join(both[:3])}"
        raise _refusal(val, found, "separate the two splits, or omit val to hold out a tenth of the images")
    return val


def _draw(folder: LabeledFolder, fraction: float) -> set[str]:
    """Draw about this fraction of the names: at least one, and not all."""
    if len(folder.samples) < 2:
        found = "a single image, which cannot be held out for validation"
        raise _refusal(folder, found, "add images, or train without validation (val=0)")
    # A hash of each name, from 0 to 1.
    digests = [hashlib.sha256(sample.name.encode(errors="surrogateescape")).digest() for sample in folder.samples]
    numbers = [int.from_bytes(digest[:6], "big") / 2**48 for digest in digests]
    places = sorted(zip(numbers, (sample.name for sample in folder.samples), strict=True))
    count = sum(place < fraction for place, _ in places)
    return {name for _, name in places[: min(max(count, 1), len(places) - 1)]}


def _read_names(folder: LabeledFolder, file: Path) -> set[str]:
    """Return the training images that a text file names."""
    known = {sample.name for sample in folder.samples}
    lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    names = {
        line if line in known or Path(line).suffix.lower() not in SUFFIXES else line.rpartition(".")[0]
        for line in lines
    }
    if names and names < known:
        return names
    found = f"no training image is named {', '.join(sorted(names - known)[:5])}"
    if names <= known:
        found = "every image, so that none is left to train on" if names else "no names"
    advice = "list some of the names below images/, one per line"
    raise DatasetError(asked=f"validate on images listed in {file}", found=found, advice=advice, path=file)


def _refusal(folder: LabeledFolder, found: str, advice: str) -> DatasetError:
    asked = f"train on {folder.title} in {folder.root}" + (f", split {folder.split!r}" if folder.split else "")
    return DatasetError(asked=asked, found=found, advice=advice, path=folder.root)
