"""Find everything that is wrong with a folder of labeled images, before any network is built.

`check_data`, `evaluate` and `finetune` share three steps: `inspect_pairs` reads the files, `judge` lists the problems,
and `require_sound` raises if one of them is an error.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from hrnet_zoo.datasets import CITYSCAPES, DATASETS, Color, Dataset
from hrnet_zoo.datasets.class_list import class_names
from hrnet_zoo.datasets.label_rules import ADE20K_VALUES, CITYSCAPES_IDS, IGNORE_INDEX
from hrnet_zoo.datasets.layouts import LabeledFolder, find_samples
from hrnet_zoo.datasets.pairing import UNSUPPORTED, Problem, Sample, relative_name
from hrnet_zoo.errors import ConfigError, DatasetError, ImageError
from hrnet_zoo.images.label_maps import EMPTY, label_fault, open_header, read_labels
from hrnet_zoo.images.prefetch import beside
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.images.read import EIGHT_BIT_MODES
from hrnet_zoo.images.tiff import NotReadError

_STRAY, _STRAY_FRACTION = 32, 0.001  # pixels, and fraction of a mask, that a slip of the brush may leave
_ABSENT, MOSTLY_ABSENT = "class that never occurs", "most classes never occur"

logger = logging.getLogger("hrnet_zoo")


@dataclass(frozen=True)
class ClassCount:
    """How often a class occurs.

    Attributes:
        name: of the class; its value if it has no name.
        pixels: number of pixels.
        share: of all pixels of the readable masks, 0 to 1.
        images: number of images in which it occurs.

    """

    name: str
    pixels: int
    share: float
    images: int


@dataclass(frozen=True)
class DataReport:
    """What `check_data` found.

    Attributes:
        title: the recognized layout.
        root: the folder that holds the dataset.
        split: the checked split; "" for a folder without splits.
        rule: the meaning of label values, in words.
        pairs: number of images with a mask.
        pixels: number of pixels of all readable masks.
        ignored: share of these that is not scored, 0 to 1.
        classes: by index; without class names, the values that occur.
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
        """Whether there are no errors."""
        return not any(problem.error for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        problems = [{**asdict(each), "found": each.found, "count": len(each.files)} for each in self.problems]
        return {**asdict(self), "root": str(self.root), "problems": problems, "ok": self.ok}


@dataclass(frozen=True)
class Inspection:
    """What an image and its mask show.

    Attributes:
        mask: path of the mask, relative to the folder.
        problems: of the two files.
        counts: pixels by file value; empty if the mask cannot be read.
        colors: file value by palette color, of the values that occur.

    """

    mask: str
    problems: tuple[Problem, ...]
    counts: dict[int, int]
    colors: dict[Color, int]


def check_data(
    root: str | Path,
    *,
    dataset: str | Dataset | None = None,
    classes: int | Sequence[str] | None = None,
    split: str = "val",
    progress: bool = True,
) -> DataReport:
    """Read every image and mask of a folder once; report everything wrong with them, and the class frequencies.

    Args:
        root: as in `hrnet_zoo.datasets.layouts.find_samples`.
        dataset: the expected dataset: "cityscapes", "ade20k", "voc12aug", "pascal_context", or a model's `dataset`.
            None: whichever is recognized.
        classes: names or number of the classes of a custom dataset, whatever its layout. None: those of `classes.txt`.
        split: such as "val" or "train".
        progress: show a progress bar.

    Raises:
        DatasetError: no dataset was recognized.
        ConfigError: `dataset` is unknown, or `classes` are not 2 to 255 different names.

    """
    if isinstance(dataset, str):
        if dataset not in DATASETS:
            known = f"one of {', '.join(DATASETS)}"
            raise ConfigError(
                asked=f"check data with dataset={dataset!r}",
                found=f"not {known}",
                done="nothing was read",
                advice=f"give {known}",
            )
        dataset = DATASETS[dataset]
    custom = None if classes is None else class_names(classes, "check data with")
    return check_splits(find_samples(root, dataset, split, classes=custom), progress=progress)[0]


def check_splits(*splits: LabeledFolder, progress: bool = True) -> list[DataReport]:
    """Check the splits of a dataset; whether 255 and palettes mean the same is judged from all of them."""
    inspected = [inspect_pairs(split, decode=True, progress=progress) for split in splits]
    everything = [each for inspections in inspected for each in inspections]
    return [
        _report(split, inspections, judge(split, inspections, everything))
        for split, inspections in zip(splits, inspected, strict=True)
    ]


def _report(folder: LabeledFolder, inspections: Sequence[Inspection], problems: Sequence[Problem]) -> DataReport:
    pixels = _pixels(inspections)
    return DataReport(
        title=folder.title,
        root=folder.root,
        split=folder.split,
        rule=folder.rule.title,
        pairs=len(folder.samples),
        pixels=pixels.total(),
        ignored=sum(pixels[value] for value in folder.rule.ignored) / max(pixels.total(), 1),
        classes=_class_counts(folder, inspections),
        problems=tuple(problems),
    )


def inspect_pairs(folder: LabeledFolder, *, decode: bool, progress: bool = True) -> list[Inspection]:
    """Read every mask of a folder, and of every image the header or (`decode`) all of it.

    Headers are quick to read, which is worthwhile before long work. Sizes are compared as displayed (EXIF orientation).
    """
    threads = min(8, os.cpu_count() or 1)
    work = partial(_inspect, folder=folder, decode=decode)
    with (
        closing(beside(folder.samples, work, threads=threads, ahead=2 * threads)) as inspections,
        Bar(total=len(folder.samples), desc="check", unit="pair", disable=None if progress else True) as bar,
    ):
        found = []
        for inspection in inspections:
            found.append(inspection)
            bar.update()
        return found


def judge(
    folder: LabeledFolder, inspections: Sequence[Inspection], everything: Sequence[Inspection] | None = None
) -> list[Problem]:
    """List the problems of a folder, errors first; `everything` includes the inspections of its other splits."""
    everything = inspections if everything is None else everything
    pixels = _pixels(inspections)
    found = [
        *folder.problems,
        *_unknown_values(folder, inspections),
        *(problem for each in inspections for problem in (*each.problems, *_wrong_rule(each, folder))),
        *_class_255(folder, inspections, everything),
        *_palettes(everything),
        *_absent_classes(folder, _class_counts(folder, inspections)),
    ]
    if folder.rule == ADE20K_VALUES and pixels[255] and not pixels[150]:
        text = "255 occurs, which the official files never hold, and 150 does not: they hold 0 to 149 already"
        advice = "use the official files, in which 0 is 'other'; or list your own classes in classes.txt"
        found.append(Problem("off-by-one labels", text, advice))
    if pixels and not any(pixels[value] for value in folder.rule.of_class):
        text = f"no pixel of its {len(folder.samples)} masks belongs to a class"
        found.append(Problem("nothing to score", text, "compare the values of the masks with the rule"))
    return sorted(_by_kind(found), key=lambda problem: not problem.error)


def require_sound(asked: str, found: Sequence[tuple[LabeledFolder, Sequence[Problem]]], *, tell: bool = True) -> None:
    """Raise if a folder has errors; otherwise log (`tell`) the notes on its labels and unsupported photographs.

    Raises:
        DatasetError: one of the problems is an error.

    """
    faulty = [folder for folder, problems in found if any(problem.error for problem in problems)]
    if faulty:
        errors = _by_kind(problem for _, problems in found for problem in problems if problem.error)
        advice = errors[0].advice if len(errors) == 1 else "correct the data"
        commands = [
            shlex.join(["hrnet-zoo", "check-data", str(folder.root), *(["--split", folder.split] * bool(folder.split))])
            for folder in faulty
        ]
        raise DatasetError(
            asked=f"{asked} {faulty[0].title} in {faulty[0].root}",
            found="; ".join(f"{problem.kind}: {problem.found}" for problem in errors),
            done="nothing was computed",
            advice=f"{advice}; see everything with {' and '.join(f'`{each}`' for each in dict.fromkeys(commands))}",
            path=faulty[0].root,
        )
    for folder, problems in found if tell else ():
        for problem in problems:
            if problem.kind == UNSUPPORTED or (problem not in folder.problems and problem.kind != _ABSENT):
                logger.warning("%s: %s", folder.root / folder.split, problem)


# --- one pair of files ---------------------------------------------------------------------------------------------


def _inspect(sample: Sample, folder: LabeledFolder, decode: bool) -> Inspection:
    image, mask = relative_name(sample.image, folder.root), relative_name(sample.labels, folder.root)
    problems: list[Problem] = []
    size = mask_size = None
    counts: dict[int, int] = {}
    palette: Sequence[int] = ()
    try:
        with open_header(sample.labels) as header:
            mask_size, fault = header.size, label_fault(header)
            if header.format == "PNG" and header.mode == "P" and header.image and header.image.palette:
                palette = bytes(header.image.palette.palette)
        if fault:
            problems.append(Problem(fault[0], "", fault[1], (mask,)))
        else:
            histogram = Image.fromarray(read_labels(sample.labels)).histogram()
            counts = {value: count for value, count in enumerate(histogram) if count}
    except ImageError as error:
        problems.append(_unreadable("mask", mask, error))
    try:
        with open_header(sample.image, whole=decode) as header:
            size, unread = header.displayed, header.fault
            if not unread and header.mode not in EIGHT_BIT_MODES and not header.mode.startswith("I;16"):
                unread = NotReadError(f"mode {header.mode}", "convert it to 8-bit RGB")
            if decode and not unread:
                header.load()
        if unread:
            problems.append(Problem("unsupported image", "", unread.advice, (f"{image}: {unread.found}",)))
    except ImageError as error:
        problems.append(_unreadable("image", image, error))
    if size and mask_size and size != mask_size:
        text = "image {} x {}, mask {} x {} pixels".format(*size, *mask_size)
        text += " (of the image as displayed: EXIF orientation counts)" * (size == mask_size[::-1])
        advice = "give each mask the size of its image as displayed; resize masks by nearest neighbor"
        problems.append(Problem("sizes differ", "", advice, (f"{image}: {text}",)))
    return Inspection(mask, tuple(problems), counts, dict(_unique_colors(counts, palette)))


def _unreadable(what: str, name: str, error: ImageError) -> Problem:
    if error.found == EMPTY:
        return Problem("zero-byte file", "", "fetch or export the file again", (name,))
    return Problem(f"unreadable {what}", "", error.advice, (f"{name}: {error.found}",))


def _unique_colors(counts: Iterable[int], palette: Sequence[int]) -> Iterator[tuple[Color, int]]:
    """Yield each value that occurs with its color, unless several of them share the color."""
    colors = {
        value: (palette[3 * value], palette[3 * value + 1], palette[3 * value + 2])
        for value in counts
        if 3 * value + 2 < len(palette)
    }
    uses = Counter(colors.values())
    return ((color, value) for value, color in colors.items() if uses[color] == 1)


def _wrong_rule(inspection: Inspection, folder: LabeledFolder) -> Iterator[Problem]:
    """Guess from the values of one mask which other rule it follows."""
    rule, count, mask, present = folder.rule, len(folder.rule.of_class), inspection.mask, inspection.counts.keys()
    if not present:
        return
    unknown = rule.unknown(present)
    one_kind = "write all masks with train ids (0 to 18, and 255), or all with official ids (7 is road)"
    if rule == CITYSCAPES_IDS and _holds_train_ids(inspection.counts):
        yield Problem("ids mixed with train ids", "", one_kind, (f"{mask}: seems to hold train ids",))
    elif not unknown and not present & set(rule.of_class):
        advice = "remove it unless it is intended"
        yield Problem("fully ignored mask", "no pixel is scored", advice, (mask,), error=False)
    elif rule.of_class != tuple(range(count)):
        return
    elif unknown == [count] and 0 not in present:
        advice = "labels start at 0: if these start at 1, subtract 1 from every value except 255"
        yield Problem("off-by-one labels", "", advice, (f"{mask}: holds {count} and no 0",))
    elif folder.classes == CITYSCAPES.classes and unknown and max(unknown) <= max(CITYSCAPES_IDS.of_class):
        yield Problem("ids mixed with train ids", "", one_kind, (f"{mask}: seems to hold official ids",))


def _holds_train_ids(counts: dict[int, int]) -> bool:
    """Return whether a mask that should hold the official ids of Cityscapes holds train ids.

    It has no official id of a class that nearly every image shows (sky, vegetation, car, ... are 19 and above). Also,
    it has 255, which official files do not, or most pixels have ids of no class while train ids 0 and 8, 10 or 13
    (road; vegetation, sky, car) are among them.
    """
    if any(19 <= value < 255 for value in counts):
        return False
    if 255 in counts and len(counts) > 1:
        return True
    void = sum(count for value, count in counts.items() if value in CITYSCAPES_IDS.ignored)
    return 0 in counts and bool(counts.keys() & {8, 10, 13}) and 2 * void > sum(counts.values())


# --- all of them ---------------------------------------------------------------------------------------------------


def _pixels(inspections: Iterable[Inspection]) -> Counter[int]:
    """Return the number of pixels by file value."""
    pixels = Counter[int]()
    for each in inspections:
        pixels.update(each.counts)
    return pixels


def _class_counts(folder: LabeledFolder, inspections: Sequence[Inspection]) -> tuple[ClassCount, ...]:
    pixels, images = _pixels(inspections), Counter(value for each in inspections for value in each.counts)
    return tuple(
        ClassCount(
            folder.classes[index] if folder.classes else str(value),
            pixels[value],
            pixels[value] / max(pixels.total(), 1),
            images[value],
        )
        for index, value in enumerate(folder.rule.of_class)
        if folder.classes or pixels[value]
    )


def _by_kind(found: Iterable[Problem]) -> list[Problem]:
    """Merge the problems of each kind into one."""
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


def _unknown_values(folder: LabeledFolder, inspections: Sequence[Inspection]) -> Iterator[Problem]:
    pixels, count = _pixels(inspections), len(folder.rule.of_class)
    values = folder.rule.unknown(pixels)
    if not values:
        return
    text = ", ".join(f"{value} ({pixels[value]:,} pixels)" for value in values[:8])
    text += f" and {len(values) - 8} more" if len(values) > 8 else ""
    advice = f"the rule is: {folder.rule.title}, for {count} classes; write 255 for unlabeled pixels"
    if values == [count] and 0 in pixels:
        advice += f"; if 0 means 'unlabeled' and {count} is the last class, subtract 1 and write 255 for 0"
    elif len(values) > 32:
        advice += "; so many values come from interpolation or lossy compression: resize masks by nearest neighbor"
    elif min(pixels.keys() - {0}) > count:
        advice += "; the values seem to be gray levels: replace them with 0, 1, 2, ..."
    files = tuple(each.mask for each in inspections if each.counts.keys() & values)
    yield Problem("value outside the classes", text, advice, files)


def _is_binary(counts: dict[int, int]) -> bool:
    """Return whether a mask holds 0 and 255 alone, apart from stray pixels."""
    total = sum(counts.values())
    others = total - counts.get(0, 0) - counts.get(255, 0)
    return {0, 255} <= counts.keys() and others <= min(_STRAY, _STRAY_FRACTION * total)


def _class_255(
    folder: LabeledFolder, inspections: Sequence[Inspection], everything: Sequence[Inspection]
) -> Iterator[Problem]:
    """Report masks in which 255 seems to be a class: as an error unless other masks show that it means ignored."""
    files = tuple(each.mask for each in inspections if _is_binary(each.counts))
    if not files or folder.key not in ("", "voc12aug"):
        return
    binary = sum(_is_binary(each.counts) for each in everything)
    others = [each.counts for each in everything if each.counts.keys() - {0, 255} and not _is_binary(each.counts)]
    error = binary >= len(others) and not any(IGNORE_INDEX in counts for counts in others)
    text = "its values are 0 and 255 (apart from stray pixels), and 255 means ignored"
    advice = "write 1 for the class, in place of 255" + ("" if error else ", if it is one there")
    yield Problem("255 as a class", text, advice, files, error)


def _palettes(inspections: Iterable[Inspection]) -> Iterator[Problem]:
    """Report colors that have different values in different masks, as if each mask numbered its own classes."""
    uses: dict[Color, dict[int, str]] = {}
    for each in inspections:
        for color, value in each.colors.items():
            uses.setdefault(color, {}).setdefault(value, each.mask)
    files = tuple(
        "#{:02x}{:02x}{:02x} is ".format(*color)
        + ", ".join(f"{value} in {mask}" for value, mask in list(masks.items())[:3])
        for color, masks in uses.items()
        if len(masks) > 1
    )
    if files:
        text = "a color has different values in different masks"
        advice = "write all masks with one palette; or without palettes, if their values are correct"
        yield Problem("palettes disagree", text, advice, files)


def _absent_classes(folder: LabeledFolder, counted: Sequence[ClassCount]) -> Iterator[Problem]:
    absent = tuple(each.name for each in counted if not each.pixels)
    if not 0 < len(absent) < len(counted):
        return
    mostly = 2 * len(absent) > len(counted)
    advice = "the means leave them out"
    if mostly and folder.key:
        advice += "; if the dataset is custom, list its classes in classes.txt, one per line"
    elif not mostly and not folder.key and not counted[0].pixels:
        advice += "; if the first class should occur, labels start at 1: subtract 1 from every value except 255"
    kind = MOSTLY_ABSENT if mostly else _ABSENT
    yield Problem(kind, f"{len(absent)} of {len(counted)}", advice, absent, error=False)
