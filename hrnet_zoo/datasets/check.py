"""check_data: everything that is wrong with a folder of labeled images, in one pass and before any model is made.

`evaluate` and `finetune` ask the same functions: `survey` looks at files, `judge` says what is wrong with them, and
`require_sound` refuses.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from hrnet_zoo.datasets import CITYSCAPES, DATASETS, Color, Dataset
from hrnet_zoo.datasets.label_rules import ADE20K_VALUES, CITYSCAPES_IDS
from hrnet_zoo.datasets.layouts import LabeledFolder, Problem, Sample, find_samples
from hrnet_zoo.datasets.pairing import UNREAD, relative_name
from hrnet_zoo.errors import ConfigError, DatasetError, ImageError
from hrnet_zoo.images.label_maps import EMPTY, label_fault, open_header, read_labels
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.images.read import EIGHT_BIT_MODES
from hrnet_zoo.images.tiff import NotReadError

_STRAY, _STRAY_SHARE = 32, 0.001  # pixels, and share of a mask: what a brush may leave behind
_ABSENT, MOSTLY_ABSENT = "class that never occurs", "most classes never occur"

logger = logging.getLogger("hrnet_zoo")


@dataclass(frozen=True)
class ClassCount:
    """How often a class occurs.

    Attributes:
        name: of the class; its value, where nothing names it.
        pixels: how many.
        share: of all pixels of the masks that could be read, 0 to 1.
        images: in how many it occurs.

    """

    name: str
    pixels: int
    share: float
    images: int


@dataclass(frozen=True)
class DataReport:
    """What `check_data` found.

    Attributes:
        title: the layout that was recognized.
        root: the folder that holds it.
        split: the part that was checked; "" for a folder without parts.
        rule: what the values of the label files mean, in words.
        pairs: number of images with a mask.
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


@dataclass
class Survey:
    """What some pairs of a folder show; those that several processes make of their shares are judged together.

    Attributes:
        problems: of single files.
        total: pixels of each of 256 values.
        masks: how many masks hold each of them.
        strange: masks by each value that means nothing.
        binary: masks of 0 and 255 alone, but for stray pixels.
        foreground: how many others hold a class beside 0.
        partly_ignored: how many of these hold 255 too.
        colors: of palettes: RGB -> index -> the first mask that has it so.

    """

    problems: list[Problem] = field(default_factory=list)
    total: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    masks: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    strange: dict[int, list[str]] = field(default_factory=dict)
    binary: list[str] = field(default_factory=list)
    foreground: int = 0
    partly_ignored: int = 0
    colors: dict[Color, dict[int, str]] = field(default_factory=dict)

    def add(self, name: str, counts: npt.NDArray[np.int64], colors: dict[Color, int], folder: LabeledFolder) -> None:
        """Take in a mask: how many of its pixels have each of 256 values, and its palette."""
        self.total += counts
        self.masks += counts > 0
        self.problems += _suspicions(name, counts, folder)
        for value in folder.rule.unknown(np.flatnonzero(counts)):
            self.strange.setdefault(value, []).append(name)
        others = counts[1:255].sum()
        if counts[0] and counts[255] and others <= min(_STRAY, _STRAY_SHARE * counts.sum()):
            self.binary.append(name)
        elif others:
            self.foreground += 1
            self.partly_ignored += bool(counts[255])
        for color, index in colors.items():
            self.colors.setdefault(color, {}).setdefault(index, name)

    def merge(self, other: Survey) -> None:
        """Take in another share of the same folder."""
        self.problems += other.problems
        self.total += other.total
        self.masks += other.masks
        self.binary += other.binary
        self.foreground += other.foreground
        self.partly_ignored += other.partly_ignored
        for value, names in other.strange.items():
            self.strange[value] = [*self.strange.get(value, ()), *names]
        for color, indices in other.colors.items():
            self.colors[color] = indices | self.colors.get(color, {})


class _Seen(NamedTuple):
    """What one pair of files showed: what is wrong, and of the mask, if it was decoded, values and palette."""

    problems: list[Problem]
    counts: npt.NDArray[np.int64] | None
    colors: dict[Color, int]


def check_data(
    root: str | Path,
    *,
    dataset: str | Dataset | None = None,
    classes: int | Sequence[str] | None = None,
    split: str = "val",
    progress: bool = True,
) -> DataReport:
    """Read every image and mask of a folder once, and report all that is wrong with it, and the class frequencies.

    Args:
        root: see `hrnet_zoo.datasets.layouts.find_samples`.
        dataset: which of the four datasets it should be ("cityscapes", "ade20k", "voc12aug", "pascal_context"), or
            a model's `dataset`; None: whichever is recognized.
        classes: names, or number, of the classes: the folder is then one's own, whatever its layout. None:
            `classes.txt` says, or nothing.
        split: which part, "val" or "train" for instance.
        progress: show a bar.

    Raises:
        DatasetError: nothing was recognized as a folder of labeled images.
        ConfigError: there is no such dataset, or the classes are none, over 255, or not all different.

    """
    folder = find_samples(root, _dataset(dataset, classes), split, own=classes is not None)
    return check_parts(folder, progress=progress)[0]


def check_parts(*parts: LabeledFolder, progress: bool = True) -> list[DataReport]:
    """Do the same for parts that were found already; what 255 and palettes mean is judged by all of them together."""
    surveys = [survey(part, decode=True, progress=progress) for part in parts]
    together = Survey()
    for seen in surveys:
        together.merge(seen)
    return [_report(part, seen, judge(part, seen, together)) for part, seen in zip(parts, surveys, strict=True)]


def _report(folder: LabeledFolder, seen: Survey, problems: Sequence[Problem]) -> DataReport:
    pixels = int(seen.total.sum())
    return DataReport(
        title=folder.title,
        root=folder.root,
        split=folder.split,
        rule=folder.rule.title,
        pairs=len(folder.samples),
        pixels=pixels,
        ignored=int(seen.total[list(folder.rule.ignored)].sum()) / max(pixels, 1),
        classes=_class_counts(folder, seen),
        problems=tuple(problems),
    )


def survey(folder: LabeledFolder, *, decode: bool, progress: bool = True) -> Survey:
    """Look at every pair of a folder: at masks wholly, at the headers of images, or (`decode`) at all of them.

    Without decoding images it is quick, and so to be done before long work. It finds empty and unreadable files,
    masks that cannot hold labels (colors, JPEG, more than 8 bits), and sizes that differ, the image's taken as
    displayed (EXIF orientation).
    """
    found = Survey()
    for sample, seen in _inspected(folder, decode, progress):
        found.problems += seen.problems
        if seen.counts is not None:
            found.add(relative_name(sample.labels, folder.root), seen.counts, seen.colors, folder)
    return found


def judge(folder: LabeledFolder, seen: Survey, together: Survey | None = None) -> list[Problem]:
    """Say all that is wrong with a folder and with what was seen there: errors first, then notes.

    Args:
        folder: a part, or all.
        seen: what it showed.
        together: what it and the other parts showed.

    """
    together = together or seen
    counted = _class_counts(folder, seen)
    found = [
        *folder.problems,
        *_strange_values(folder, seen),
        *seen.problems,
        *_two_values(folder, seen, together),
        *_palettes(together),
        *_absent_classes(folder, counted),
    ]
    if folder.rule == ADE20K_VALUES and seen.total[255] and not seen.total[150]:
        text = "255 occurs, which the official files never hold, and 150 does not: they hold 0 to 149 already"
        advice = (
            "use the official files, whose 0 means 'other'; or name the classes in classes.txt, if they are your own"
        )
        found.append(Problem("off-by-one labels", text, advice))
    if seen.total.any() and not seen.total[list(folder.rule.of_class)].any():
        text = f"no pixel of its {len(folder.samples)} masks is of a class"
        found.append(Problem("nothing to score", text, "compare the values of the masks with the rule"))
    return sorted(_gathered(found), key=lambda problem: not problem.error)


def require_sound(asked: str, found: Sequence[tuple[LabeledFolder, Sequence[Problem]]], *, tell: bool = True) -> None:
    """Refuse folders with errors; otherwise log (`tell`) what is worth knowing of their labels and photographs.

    Raises:
        DatasetError: one of the problems is an error.

    """
    faulty = [folder for folder, problems in found if any(problem.error for problem in problems)]
    if faulty:
        errors = _gathered(problem for _, problems in found for problem in problems if problem.error)
        advice = errors[0].advice if len(errors) == 1 else "mend the data"
        checks = " and ".join(dict.fromkeys(f"`{_command(folder)}`" for folder in faulty))
        texts = tuple(f"{problem.kind}: {problem.found}" for problem in errors)
        raise DatasetError(
            asked=f"{asked} {faulty[0].title} in {faulty[0].root}",
            found="; ".join(texts),
            done="nothing was computed",
            advice=f"{advice}; {checks} shows all that is wrong",
            path=faulty[0].root,
            problems=texts,
        )
    for folder, problems in found if tell else ():
        for problem in problems:
            if problem.kind == UNREAD or (problem not in folder.problems and problem.kind != _ABSENT):
                logger.warning("%s: %s", folder.root / folder.split, problem)


def _command(folder: LabeledFolder) -> str:
    part = f" --split {folder.split}" if folder.split else ""
    return f"hrnet-zoo check-data {shlex.quote(str(folder.root))}{part}"


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


def _inspect(sample: Sample, folder: LabeledFolder, decode: bool) -> _Seen:
    """Read a mask wholly, and the header of its image; `decode`: the image wholly too."""
    problems: list[Problem] = []
    size = mask_size = values = palette = None
    try:
        with open_header(sample.labels) as header:
            mask_size, fault = header.size, label_fault(header)
            if header.format == "PNG" and header.mode == "P" and header.image and header.image.palette:
                palette = bytes(header.image.palette.palette)
        if fault:
            problems.append(Problem(fault[0], "", fault[1], (relative_name(sample.labels, folder.root),)))
        else:
            values = read_labels(sample.labels)
    except ImageError as error:
        problems.append(_unreadable("mask", sample.labels, folder, error))
    try:
        with open_header(sample.image, whole=decode) as header:
            size, unread = header.displayed, header.fault
            if not unread and header.mode not in EIGHT_BIT_MODES and not header.mode.startswith("I;16"):
                unread = NotReadError(f"mode {header.mode}", "convert it to 8-bit RGB")
            if decode and not unread:
                header.load()
        if unread:
            name = relative_name(sample.image, folder.root)
            problems.append(Problem("unsupported image", "", unread.advice, (f"{name}: {unread.found}",)))
    except ImageError as error:
        problems.append(_unreadable("image", sample.image, folder, error))
    if size and mask_size and size != mask_size:
        problems.append(_sizes_differ(sample, folder, size, mask_size))
    if values is None:
        return _Seen(problems, None, {})
    counts = np.array(Image.fromarray(values).histogram())
    return _Seen(problems, counts, _colors(counts, palette or b""))


def _colors(counts: npt.NDArray[np.int64], palette: bytes) -> dict[Color, int]:
    """Return the index of each color that occurs, but of those that stand for several."""
    found: dict[Color, int | None] = {}
    for index in np.flatnonzero(counts[: len(palette) // 3]).tolist():
        red, green, blue = palette[3 * index : 3 * index + 3]
        found[red, green, blue] = None if (red, green, blue) in found else index
    return {color: index for color, index in found.items() if index is not None}


def _unreadable(what: str, path: Path, folder: LabeledFolder, error: ImageError) -> Problem:
    name = relative_name(path, folder.root)
    if error.found == EMPTY:
        return Problem("zero-byte file", "", "fetch or export the file anew", (name,))
    return Problem(f"unreadable {what}", "", error.advice, (f"{name}: {error.found}",))


def _sizes_differ(sample: Sample, folder: LabeledFolder, size: tuple[int, int], mask_size: tuple[int, int]) -> Problem:
    text = "image {} x {}, mask {} x {} pixels".format(*size, *mask_size)
    if size == mask_size[::-1]:
        text += " (of the image as displayed: EXIF orientation counts)"
    advice = "make each mask as wide and high as its image is displayed, by nearest neighbor if it is resized"
    return Problem("sizes differ", "", advice, (f"{relative_name(sample.image, folder.root)}: {text}",))


def _suspicions(name: str, counts: npt.NDArray[np.int64], folder: LabeledFolder) -> list[Problem]:
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

    No official id of a class that nearly every image shows (sky, vegetation, cars, ... are 19 and above) occurs,
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


def _inspected(folder: LabeledFolder, decode: bool, progress: bool) -> Iterator[tuple[Sample, _Seen]]:
    """Inspect every sample by threads, a few ahead: decoding lets other threads run."""
    threads = min(8, os.cpu_count() or 1)
    ahead: deque[tuple[Sample, Future[_Seen]]] = deque()
    with (
        ThreadPoolExecutor(threads) as pool,
        Bar(total=len(folder.samples), desc="check", unit="pair", disable=None if progress else True) as bar,
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
    return [
        replace(
            same[0],
            text="; ".join(dict.fromkeys(each.text for each in same if each.text)),
            files=tuple(dict.fromkeys(name for each in same for name in each.files)),
        )
        for same in kinds.values()
    ]


def _strange_values(folder: LabeledFolder, seen: Survey) -> list[Problem]:
    if not seen.strange:
        return []
    values = sorted(seen.strange)
    listed = ", ".join(f"{value} ({seen.total[value]:,} pixels)" for value in values[:8])
    listed += f" and {len(values) - 8} more" if len(values) > 8 else ""
    files = tuple(dict.fromkeys(name for value in values for name in seen.strange[value]))
    count = len(folder.rule.of_class)
    advice = f"the rule is: {folder.rule.title}, for {count} classes; write 255 where nothing is meant"
    present = np.flatnonzero(seen.total[1:]) + 1
    if values == [count] and seen.total[0]:
        advice += f"; if 0 means 'unlabeled' and {count} is the last class, subtract 1 and write 255 for 0"
    elif len(values) > 32:
        advice += (
            "; so many values come from interpolation or lossy compression: export anew, resize by nearest neighbor"
        )
    elif present[0] > count:
        advice += "; the values seem to be gray levels: write 0, 1, 2, ... in their place"
    return [Problem("value outside the classes", listed, advice, files)]


def _two_values(folder: LabeledFolder, seen: Survey, together: Survey) -> list[Problem]:
    """Tell of masks in which 255 seems to be a class: an error where no mask shows that it means "ignored"."""
    if not seen.binary or folder.key not in ("", "voc12aug"):
        return []
    error = not together.partly_ignored and len(together.binary) >= together.foreground
    text = "no value but 0 and 255 occurs in them (but for stray pixels), and 255 means ignored"
    advice = "write 1 for the class, in place of 255" + ("" if error else ", if it is one there")
    return [Problem("255 as a class", text, advice, tuple(seen.binary), error)]


def _palettes(seen: Survey) -> list[Problem]:
    """Tell of colors that stand for different indices in different masks, as if each had a numbering of its own."""
    files = []
    for color, indices in seen.colors.items():
        if len(indices) > 1:
            places = ", ".join(f"{index} in {name}" for index, name in list(indices.items())[:3])
            files.append("#{:02x}{:02x}{:02x} is ".format(*color) + places)
    text = "a color has different indices in different masks"
    advice = "write the masks anew with one palette for all; or without palettes, if their values are right as they are"
    return [Problem("palettes disagree", text, advice, tuple(files))] if files else []


def _absent_classes(folder: LabeledFolder, counted: Sequence[ClassCount]) -> list[Problem]:
    absent = tuple(each.name for each in counted if not each.pixels)
    if not 0 < len(absent) < len(counted):
        return []
    advice = "their scores will be left out of the means"
    if 2 * len(absent) > len(counted):
        if folder.key:
            advice += "; if the classes are your own, name them in classes.txt, one a line"
        return [Problem(MOSTLY_ABSENT, f"{len(absent)} of {len(counted)}", advice, absent, error=False)]
    if not folder.key and not counted[0].pixels:
        advice += "; if the first class should occur, the labels begin at 1: subtract 1 from each value but 255"
    return [Problem(_ABSENT, f"{len(absent)} of {len(counted)}", advice, absent, error=False)]


def _class_counts(folder: LabeledFolder, seen: Survey) -> tuple[ClassCount, ...]:
    every = max(int(seen.total.sum()), 1)
    return tuple(
        ClassCount(
            folder.classes[index] if folder.classes else str(value),
            int(seen.total[value]),
            int(seen.total[value]) / every,
            int(seen.masks[value]),
        )
        for index, value in enumerate(folder.rule.of_class)
        if folder.classes or seen.total[value]
    )
