"""A folder -> what is trained on and what is held back for validation. Names decide; no image is opened."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hrnet_zoo.datasets import CITYSCAPES, Dataset
from hrnet_zoo.datasets.layouts import LabeledFolder, Sample, find_samples
from hrnet_zoo.datasets.pairing import SUFFIXES
from hrnet_zoo.errors import ConfigError, DatasetError

FRACTION = 0.1  # held back where nothing else says what

_MOST_CLASSES = 255  # 8-bit labels keep 255 for "ignored"
_VAL_NAMES = ("val", "validation", "valid")


def find_training_data(
    root: str | Path, *, val: float | str | Path | None = None, classes: Sequence[str] | None = None
) -> tuple[LabeledFolder, LabeledFolder | None, tuple[str, ...]]:
    """Find the images to train on and those to validate with.

    Args:
        root: a folder with `images/` and `masks/`, or with `train/` (and `val/`) that hold these, or an official
            download of one of the four datasets, as `hrnet_zoo.datasets.layouts` states them.
        val: None: the val part (val, validation or valid; of one's own, else test) if there is one, else a tenth of
            the images. A number between 0 and 1: that share of the training part. A folder: its images. A text
            file: names of training images that are held back, one a line, without or with their ending. 0: no
            validation.
        classes: names by index: the folder is then one's own, whatever its layout; None: `classes.txt` or the dataset
            says them.

    Returns:
        Training part, validation part or None, names of the classes. Which images a share takes is decided for each
        by a hash of its name alone, so that adding images moves no other from one part to the other (unless the
        validation part was empty but for the one that there is at least), and its size is the share only roughly.

    Raises:
        DatasetError: no data, nobody says the names of the classes, only one class, an image in both parts, or what
            `find_samples` refuses.
        ConfigError: an argument cannot be used.

    """
    root = Path(root)
    share = _share(val)
    expected = _named(classes)
    found = _with_images(find_samples(root, expected, "train", own=expected is not None))
    names = _class_names(found)
    # From here on the val part has to have the same classes.
    known = expected or (CITYSCAPES.with_classes(names) if not found.key else None)
    if val is None:
        if found.split and _has_val(found):
            held = _with_images(find_samples(found.root, known, "val", own=known is not None))
            return found, _same_labels(found, held, names), names
        share = FRACTION
    if share == 0:
        return found, None, names
    if share is not None:
        return *_by_share(found, share), names
    place = Path(os.fspath(val))  # type: ignore[arg-type]  # None and numbers are dealt with above
    if place.is_dir():
        held = _with_images(find_samples(place, known, "val"))
        return found, _same_labels(found, held, names), names
    return *_by_list(found, place), names


# --- arguments -----------------------------------------------------------------------------------------------------


def _share(val: float | str | Path | None) -> float | None:
    """Return the share asked for, 0 to 1, or None if `val` says it otherwise."""
    if val is None or isinstance(val, str | os.PathLike):
        return None
    if isinstance(val, bool) or not isinstance(val, int | float) or not 0 <= val < 1:
        raise ConfigError(
            asked=f"validate with val={val!r:.100}",
            found="a share of the images is from 0 (no validation) to below 1",
            done="no image was opened",
            advice="give a share such as 0.1, a folder, or a text file of names",
        )
    return float(val)


def _named(classes: Sequence[str] | None) -> Dataset | None:
    if classes is None:
        return None
    names = () if isinstance(classes, str) else tuple(classes)
    if (
        not 2 <= len(names) <= _MOST_CLASSES
        or len(set(names)) < len(names)
        or not all(isinstance(name, str) and name.strip() for name in names)
    ):
        raise ConfigError(
            asked=f"train for classes={classes!r:.100}",
            found=f"classes are 2 to {_MOST_CLASSES} different names",
            done="no image was opened",
            advice="one class alone cannot be told from anything: name the background too",
        )
    return CITYSCAPES.with_classes(names)  # of which the names alone matter here


# --- what was found ------------------------------------------------------------------------------------------------


def _with_images(folder: LabeledFolder) -> LabeledFolder:
    if not folder.samples:
        found = "; ".join(f"{problem.kind}: {problem.found}" for problem in folder.problems if problem.error)
        raise _refusal(folder, found or "no image with a mask", "masks have the names of their images")
    return folder


def _class_names(folder: LabeledFolder) -> tuple[str, ...]:
    if folder.classes is None:
        advice = (
            f"write {folder.root / 'classes.txt'}, one name a line in the order of the mask values, or pass classes"
        )
        raise _refusal(folder, "nothing says what the values of the masks mean", advice)
    if len(folder.classes) < 2:
        advice = "one class alone cannot be told from anything: name the background too"
        raise _refusal(folder, f"only one class, {folder.classes[0]!r}", advice)
    return folder.classes


def _has_val(folder: LabeledFolder) -> bool:
    """Tell whether there is, or should be, a part to validate on; of one's own, a test part stands for it."""
    empty = (folder.root / place / name for place in ("", "images") for name in _VAL_NAMES)
    return bool(folder.key or {*_VAL_NAMES, "test", "testing"} & {*folder.splits} or any(map(os.path.isdir, empty)))


def _same_labels(train: LabeledFolder, held: LabeledFolder, names: tuple[str, ...]) -> LabeledFolder:
    """Return the validation part if its labels mean what the training part's do, and no image is in both."""
    if held.classes != names:
        found = f"its {len(held.classes or ())} classes are not the {len(names)} of {train.root}"
        raise _refusal(held, found, "validate on images that are labeled with the classes of the training")
    paths = {os.path.realpath(sample.image): sample for sample in train.samples}
    both = [sample for sample in held.samples if os.path.realpath(sample.image) in paths]
    if both:
        listed = ", ".join(str(sample.image) for sample in both[:3])
        found = f"{len(both)} of the images to train on stand in it too: {listed}"
        raise _refusal(
            held,
            found,
            "an image that was learned proves nothing: keep the two parts apart, or leave "
            "val out, and a tenth of the images is held back",
        )
    return held


# --- dividing one folder -------------------------------------------------------------------------------------------


def _by_share(folder: LabeledFolder, share: float) -> tuple[LabeledFolder, LabeledFolder]:
    if len(folder.samples) < 2:
        advice = "add images, or say val=0 to train without validation"
        raise _refusal(folder, "one image, of which none can be held back for validation", advice)
    places = sorted((_place(sample.name), sample.name) for sample in folder.samples)
    held = {name for place, name in places if place < share} or {places[0][1]}
    if len(held) == len(places):
        held.remove(places[-1][1])
    return _divided(folder, held)


def _place(name: str) -> float:
    """Return a number from 0 to below 1 that a name alone decides."""
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return math.ldexp(int.from_bytes(digest[:6], "big"), -48)


def _by_list(folder: LabeledFolder, file: Path) -> tuple[LabeledFolder, LabeledFolder]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or no UTF-8
        found = (isinstance(error, OSError) and error.strerror) or f"it is no UTF-8 text ({error})"
        raise _bad_list(file, found, "name a folder, or a UTF-8 text file with one image's name a line") from error
    known = {sample.name for sample in folder.samples}
    names = {line if line in known else _without_ending(line) for line in lines}
    unknown = sorted(names - known)
    if unknown or not names:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        found = f"no image to train on has the name {', '.join(unknown[:5])}{more}" if unknown else "no names"
        example = f"; one of those in {folder.root} is {min(known)!r}"
        raise _bad_list(file, found, f"write one image's name a line, as its file's name below images/{example}")
    if names == known:
        raise _bad_list(file, "it names every image: none is left to train on", "name a part of them")
    return _divided(folder, names)


def _without_ending(line: str) -> str:
    return line[: -len(Path(line).suffix)] if Path(line).suffix.lower() in SUFFIXES else line


def _divided(folder: LabeledFolder, held: set[str]) -> tuple[LabeledFolder, LabeledFolder]:
    def part(inside: bool) -> tuple[Sample, ...]:
        return tuple(sample for sample in folder.samples if (sample.name in held) is inside)

    return replace(folder, samples=part(False)), replace(folder, samples=part(True))


# --- refusing ------------------------------------------------------------------------------------------------------


def _refusal(folder: LabeledFolder, found: str, advice: str) -> DatasetError:
    asked = f"train on {folder.title} in {folder.root}" + (f", split {folder.split!r}" if folder.split else "")
    done = "no image was opened"
    return DatasetError(asked=asked, found=found, done=done, advice=advice, path=folder.root, problems=(found,))


def _bad_list(file: Path, found: str, advice: str) -> DatasetError:
    return DatasetError(
        asked=f"validate with the images listed in {file}",
        found=found,
        done="no image was opened",
        advice=advice,
        path=file,
        problems=(found,),
    )
