"""check_data: everything that is wrong with a folder of labelled pictures, in one pass and before any model is made."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile
from tqdm import tqdm

from hrnet_zoo.datasets import CITYSCAPES, DATASETS, Dataset
from hrnet_zoo.datasets.layouts import OWN, LabelledFolder, Problem, Sample, find_samples
from hrnet_zoo.datasets.pairing import relative_name
from hrnet_zoo.datasets.rules import ADE20K_VALUES, CITYSCAPES_IDS
from hrnet_zoo.errors import ConfigError, ImageError
from hrnet_zoo.images import DECODER_FAULTS, EIGHT_BIT_MODES
from hrnet_zoo.label_pictures import EMPTY, label_fault, open_header, read_labels

_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


@dataclass(frozen=True)
class ClassCount:
    """How often a class occurs.

    Attributes:
        name: of the class; its value, where nothing names it.
        pixels: how many.
        share: of all pixels of the masks that could be read, 0 to 1.
        pictures: in how many it occurs.

    """

    name: str
    pixels: int
    share: float
    pictures: int


@dataclass(frozen=True)
class DataReport:
    """What `check_data` found.

    Attributes:
        title: the layout that was recognised.
        root: the folder that holds it.
        split: the part that was checked; "" for a folder without parts.
        rule: what the values of the label files mean, in words.
        pairs: number of pictures with a mask.
        pixels: of all masks that could be read.
        ignored: share of these that is not scored, 0 to 1.
        classes: by index; of a folder whose classes nothing names, the values that occur.
        problems: errors first, then notes.

    """

    title: str
    root: Path
    split: str
    rule: str
    pairs: int
    pixels: int
    ignored: float
    classes: tuple[ClassCount, ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Nothing but notes."""
        return not any(problem.error for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        problems = [{**asdict(each), "found": each.found, "count": len(each.files)} for each in self.problems]
        return {**asdict(self), "root": str(self.root), "problems": problems, "ok": self.ok}


class _Survey(NamedTuple):
    """What a folder showed: what is wrong, and of each of 256 values the pixels, and the masks that hold it."""

    problems: list[Problem]
    total: npt.NDArray[np.int64]
    pictures: npt.NDArray[np.int64]


class _Seen(NamedTuple):
    """What one pair of files showed: what is wrong, and the mask's pixels of each of 256 values if it was decoded."""

    problems: list[Problem]
    counts: npt.NDArray[np.int64] | None


def check_data(
    root: str | Path,
    *,
    dataset: str | Dataset | None = None,
    classes: int | Sequence[str] | None = None,
    split: str = "val",
    progress: bool = True,
) -> DataReport:
    """Read every picture and mask of a folder once, and report all that is wrong with it, and the class frequencies.

    Args:
        root: see `hrnet_zoo.datasets.layouts.find_samples`.
        dataset: which of the four data sets it should be ("cityscapes", "ade20k", "voc12aug", "pascal_context"), or
            a model's `dataset`; None: whichever is recognised.
        classes: names, or number, of the classes: the folder is then one's own, whatever its layout. None:
            `classes.txt` says, or nothing.
        split: which part, "val" or "train" for instance.
        progress: show a bar.

    Raises:
        DatasetError: nothing was recognised as a folder of labelled pictures.
        ConfigError: there is no such data set, or the classes are none, over 255, or not all different.

    """
    return check_folder(
        find_samples(root, _dataset(dataset, classes), split, own=classes is not None), progress=progress
    )


def check_folder(folder: LabelledFolder, *, progress: bool = True) -> DataReport:
    """Do the same for a folder that was found already."""
    found, total, pictures = _surveyed(folder, True, progress)
    if folder.rule == ADE20K_VALUES and total[255] and not total[150]:
        text = "255 occurs, which the official files never hold, and 150 does not: they hold 0 to 149 already"
        found.append(Problem("off-by-one labels", text, "use the official files, whose 0 means 'other'"))
    if folder.title == OWN and np.flatnonzero(total).tolist() == [0, 255]:
        text, advice = "no value but 0 and 255 occurs, and 255 means ignored", "write 1 for the class, in place of 255"
        found.append(Problem("255 as a class", text, advice))
    problems = _gathered(found)
    counted = _class_counts(folder, total, pictures)
    never = tuple(each.name for each in counted if not each.pixels)
    if never and total.any():
        text, advice = f"{len(never)} of {len(counted)}", "their scores will be left out of the means"
        problems.append(Problem("class that never occurs", text, advice, never, error=False))
    pixels = int(total.sum())
    return DataReport(
        title=folder.title,
        root=folder.root,
        split=folder.split,
        rule=folder.rule.title,
        pairs=len(folder.samples),
        pixels=pixels,
        ignored=int(total[list(folder.rule.ignored)].sum()) / max(pixels, 1),
        classes=counted,
        problems=tuple(sorted(problems, key=lambda problem: not problem.error)),
    )


def check_masks(folder: LabelledFolder, *, progress: bool = True) -> tuple[list[Problem], npt.NDArray[np.int64]]:
    """Return what names, the masks and the pictures' headers show, and how many pixels have each of 256 values.

    It is quick, for pictures are not decoded, and so to be done before long work. Beyond `folder.problems`: empty and
    unreadable files, masks that cannot hold labels (colours, JPEG, more than 8 bits), values outside the classes,
    masks that seem numbered otherwise than the rule says, and sizes that differ, the picture's taken as displayed
    (EXIF orientation).
    """
    found, total, _ = _surveyed(folder, False, progress)
    return _gathered(found), total


def _dataset(dataset: str | Dataset | None, classes: int | Sequence[str] | None) -> Dataset | None:
    if isinstance(dataset, str):
        if dataset not in DATASETS:
            raise _misuse(f"dataset={dataset!r}", f"one of {', '.join(DATASETS)}")
        dataset = DATASETS[dataset]
    if classes is None:
        return dataset
    names = [f"class {index}" for index in range(min(classes, 256))] if isinstance(classes, int) else list(classes)
    words = not isinstance(classes, str) and all(isinstance(name, str) for name in names)
    if not words or not 0 < len(set(names)) == len(names) < 256:
        raise _misuse(f"classes={str(classes)[:100]}", "a list of at most 255 different names, or their number")
    return (dataset or CITYSCAPES).with_classes(names)  # of which the names alone matter here


def _misuse(given: str, wanted: str) -> ConfigError:
    return ConfigError(
        asked=f"check data with {given}", found=f"not {wanted}", done="nothing was read", advice=f"give {wanted}"
    )


# --- one pair of files ---------------------------------------------------------------------------------------------


def _inspect(sample: Sample, folder: LabelledFolder, decode: bool) -> _Seen:
    """Read a mask wholly, and the header of its picture; `decode`: the picture wholly too."""
    problems: list[Problem] = []
    size = mask_size = values = None
    try:
        with open_header(sample.labels) as image:
            mask_size, fault = image.size, label_fault(image)
        if fault:
            problems.append(Problem(fault[0], "", fault[1], (relative_name(sample.labels, folder.root),)))
        else:
            values = read_labels(sample.labels)
    except ImageError as error:
        problems.append(_unreadable("mask", sample.labels, folder, error))
    try:
        with open_header(sample.picture, verify=decode) as image:
            if decode:
                image.load()
            size = _displayed(image, mask_size)
        if image.mode not in EIGHT_BIT_MODES and not image.mode.startswith("I;16"):
            advice, name = "convert it to 8-bit RGB", relative_name(sample.picture, folder.root)
            problems.append(Problem("unsupported picture", "", advice, (f"{name}: mode {image.mode}",)))
    except ImageError as error:
        problems.append(_unreadable("picture", sample.picture, folder, error))
    if size and mask_size and size != mask_size:
        problems.append(_sizes_differ(sample, folder, size, mask_size))
    counts = None if values is None else np.array(Image.fromarray(values).histogram())
    return _Seen(problems, counts)


def _unreadable(what: str, path: Path, folder: LabelledFolder, error: ImageError) -> Problem:
    name = relative_name(path, folder.root)
    if error.found == EMPTY:
        return Problem("zero-byte file", "", "fetch or export the file anew", (name,))
    return Problem(f"unreadable {what}", "", error.advice, (f"{name}: {error.found}",))


def _sizes_differ(sample: Sample, folder: LabelledFolder, size: tuple[int, int], mask_size: tuple[int, int]) -> Problem:
    text = "picture {} x {}, mask {} x {} pixels".format(*size, *mask_size)
    if size == mask_size[::-1]:
        text += " (of the picture as displayed: EXIF orientation counts)"
    advice = "make each mask as wide and high as its picture is displayed, by nearest neighbour if it is resized"
    return Problem("sizes differ", "", advice, (f"{relative_name(sample.picture, folder.root)}: {text}",))


def _displayed(image: ImageFile.ImageFile, expected: tuple[int, int] | None) -> tuple[int, int]:
    """Return (width, height) of a picture as displayed; `expected` is believed of a PNG without EXIF at its start."""
    # EXIF may stand behind the pixels of a PNG, and Pillow decodes these to find out.
    if image.format == "PNG" and "exif" not in image.info and image.size == expected:
        return image.size
    try:
        sideways = image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
    except DECODER_FAULTS:  # broken EXIF of a whole picture: `read_image` takes it as it is stored
        sideways = False
    return (image.height, image.width) if sideways else image.size


def _suspicions(name: str, counts: npt.NDArray[np.int64], folder: LabelledFolder) -> list[Problem]:
    """Guess from the values of one mask, where they cannot be what the rule says, what they are instead."""
    rule, above = folder.rule, len(folder.rule.of_class)
    present = set(np.flatnonzero(counts).tolist())
    unknown = rule.unknown(present)
    mixed = "make all masks of one kind: train ids (0 to 18, and 255), or official ids (7 is road)"
    if rule == CITYSCAPES_IDS and _holds_train_ids(counts):
        return [Problem("ids mixed with train ids", "", mixed, (f"{name}: seems to hold train ids",))]
    if not unknown and not present & set(rule.of_class):
        return [
            Problem(
                "wholly ignored mask", "no pixel is scored", "leave it out unless it is meant", (name,), error=False
            )
        ]
    if rule.of_class != tuple(range(above)):
        return []
    if unknown == [above] and 0 not in present:
        text = f"{name}: holds {above} and no 0"
        return [
            Problem(
                "off-by-one labels",
                "",
                "labels begin at 0: if these begin at 1, subtract 1 from each value but 255",
                (text,),
            )
        ]
    if folder.classes == CITYSCAPES.classes and unknown and max(unknown) <= max(CITYSCAPES_IDS.of_class):
        return [Problem("ids mixed with train ids", "", mixed, (f"{name}: seems to hold official ids",))]
    return []


def _holds_train_ids(counts: npt.NDArray[np.int64]) -> bool:
    """Tell whether a mask that should hold official ids of Cityscapes holds train ids.

    No official id of a class that nearly every picture shows (sky, vegetation, cars, ... are 19 and above) occurs,
    and either 255 does, which official files don't hold, or most of the pixels have ids of no class while train
    ids 0 and 8, 10 or 13 (road; vegetation, sky, car) are among them.
    """
    if counts[19:255].any():
        return False
    of_no_class = counts[list(CITYSCAPES_IDS.ignored)].sum()
    return bool(
        (counts[255] and counts[:19].any())
        or (counts[0] and counts[[8, 10, 13]].any() and 2 * of_no_class > counts.sum())
    )


# --- all of them ---------------------------------------------------------------------------------------------------


def _surveyed(folder: LabelledFolder, decode: bool, progress: bool) -> _Survey:
    """Inspect every sample, and bring together what they show."""
    total, pictures = np.zeros((2, 256), np.int64)
    found: list[Problem] = []
    strange: dict[int, list[str]] = {}  # a value that means nothing -> the masks in which it occurs
    for sample, seen in _inspected(folder, decode, progress):
        found += seen.problems
        if seen.counts is None:
            continue
        total += seen.counts
        pictures += seen.counts > 0
        name = relative_name(sample.labels, folder.root)
        found += _suspicions(name, seen.counts, folder)
        for value in folder.rule.unknown(np.flatnonzero(seen.counts)):
            strange.setdefault(value, []).append(name)
    return _Survey([*folder.problems, *_strange_values(strange, total, folder), *found], total, pictures)


def _inspected(folder: LabelledFolder, decode: bool, progress: bool) -> Iterator[tuple[Sample, _Seen]]:
    """Inspect every sample by threads, a few ahead: decoding lets other threads run."""
    threads = min(8, os.cpu_count() or 1)
    ahead: deque[tuple[Sample, Future[_Seen]]] = deque()
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=len(folder.samples), desc="check", unit="pair", disable=None if progress else True) as bar,
    ):
        for sample in folder.samples:
            ahead.append((sample, pool.submit(_inspect, sample, folder, decode)))
            if len(ahead) > 2 * threads:
                first, future = ahead.popleft()
                yield first, future.result()
                bar.update()
        for last, future in ahead:
            yield last, future.result()
            bar.update()


def _gathered(found: Iterable[Problem]) -> list[Problem]:
    """Make one problem of all those of a kind."""
    kinds: dict[str, list[Problem]] = {}
    for problem in found:
        kinds.setdefault(problem.kind, []).append(problem)
    return [replace(same[0], files=tuple(name for each in same for name in each.files)) for same in kinds.values()]


def _strange_values(
    strange: dict[int, list[str]], total: npt.NDArray[np.int64], folder: LabelledFolder
) -> list[Problem]:
    if not strange:
        return []
    values = sorted(strange)
    listed = ", ".join(f"{value} ({total[value]:,} pixels)" for value in values[:8])
    listed += f" and {len(values) - 8} more" if len(values) > 8 else ""
    files = tuple(dict.fromkeys(name for value in values for name in strange[value]))
    count = len(folder.rule.of_class)
    advice = f"the rule is: {folder.rule.title}, for {count} classes; write 255 where nothing is meant"
    if values == [count] and total[0]:
        advice += f"; if 0 means 'unlabelled' and {count} is the last class, subtract 1 and write 255 for 0"
    return [Problem("value outside the classes", listed, advice, files)]


def _class_counts(
    folder: LabelledFolder, total: npt.NDArray[np.int64], pictures: npt.NDArray[np.int64]
) -> tuple[ClassCount, ...]:
    every = max(int(total.sum()), 1)
    return tuple(
        ClassCount(
            folder.classes[index] if folder.classes else str(value),
            int(total[value]),
            int(total[value]) / every,
            int(pictures[value]),
        )
        for index, value in enumerate(folder.rule.of_class)
        if folder.classes or total[value]
    )
