"""Find everything that is wrong with a folder of labeled images, before any network is built.

`check_data`, `evaluate` and `finetune` share three steps: `inspect_pairs` reads the files, `judge` lists the problems,
and `require_sound` raises if one of them is an error.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from hrnet_zoo.datasets import DATASETS, Dataset
from hrnet_zoo.datasets.class_list import class_names
from hrnet_zoo.datasets.dataset import band_names
from hrnet_zoo.datasets.label_rules import CITYSCAPES_IDS, IGNORE_INDEX
from hrnet_zoo.datasets.layouts import LabeledFolder, find_samples
from hrnet_zoo.datasets.pairing import UNSUPPORTED, Problem, Sample, relative_name
from hrnet_zoo.errors import ConfigError, DatasetError, ImageError
from hrnet_zoo.images.bands import open_bands
from hrnet_zoo.images.formats import ImageHeader, open_image
from hrnet_zoo.images.label_maps import read_label_image
from hrnet_zoo.images.prefetch import prefetch_in_threads
from hrnet_zoo.images.progress import Bar

_STRAY, _STRAY_FRACTION = 32, 0.001  # most stray pixels of a mask: their number, and their fraction
MOSTLY_ABSENT = "most classes never occur"

logger = logging.getLogger("hrnet_zoo")


@dataclass(frozen=True)
class ClassCount:
    """How often a class occurs: its name (or value), pixels, their share (0 to 1) of all, and number of images."""

    name: str
    pixels: int
    share: float
    images: int


@dataclass(frozen=True)
class DataReport:
    """What `check_data` found.

    Attributes:
        title: the recognized layout; `root` is the folder that holds it.
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
    """What an image and its mask show."""

    mask: str  # path, relative to the folder
    problems: tuple[Problem, ...]
    counts: Counter[int]  # pixels by file value; empty if the mask cannot be read
    colors: dict[tuple[int, ...], int]  # file value by palette color, of the values that occur


def check_data(
    root: str | Path,
    *,
    dataset: str | Dataset | None = None,
    classes: int | Sequence[str] | None = None,
    bands: Sequence[str] = (),
    split: str = "val",
    progress: bool = True,
) -> DataReport:
    """Read every image and mask of a folder once; report everything wrong with them, and the class frequencies.

    Args:
        root: as in `hrnet_zoo.datasets.layouts.find_samples`.
        dataset: the expected dataset, such as "cityscapes" or "loveda" (`hrnet_zoo.datasets.DATASETS` names all), or a
            model's `dataset`. None: whichever is recognized; of the two Pascal Contexts, that with 60 classes.
        classes: names or number of the classes of a custom dataset, whatever its layout. None: those of `classes.txt`.
        bands: names of the bands of images that are not read as 8-bit RGB; empty: those of `dataset`, if it has such.
        split: such as "val" or "train".
        progress: show a bar on a terminal, else a line once a minute.

    Raises:
        DatasetError: no dataset was recognized.
        ConfigError: `dataset` is unknown, or `classes` are not 2 to 255 different names, or `bands` no different names.

    """
    if isinstance(dataset, str):
        if dataset not in DATASETS:
            raise ConfigError(
                asked=f"check data with dataset={dataset!r}",
                found="an unknown dataset",
                done="nothing was read",
                advice=f"give one of {', '.join(DATASETS)}",
            )
        dataset = DATASETS[dataset]
    custom = None if classes is None else class_names(classes, "check data with")
    names = band_names(bands) if bands else ()
    return check_splits(find_samples(root, dataset, split, classes=custom, bands=names), progress=progress)[0]


def check_splits(*splits: LabeledFolder, progress: bool = True) -> list[DataReport]:
    """Check the splits of a dataset; 255 and palettes are judged across all of them."""
    inspected = [inspect_pairs(split, decode=True, progress=progress) for split in splits]
    everything = [each for inspections in inspected for each in inspections]
    reports = []
    for split, inspections in zip(splits, inspected, strict=True):
        pixels = _pixels(inspections)
        reports.append(
            DataReport(
                title=split.title,
                root=split.root,
                split=split.split,
                rule=split.rule.title,
                pairs=len(split.samples),
                pixels=pixels.total(),
                ignored=sum(pixels[value] for value in split.rule.ignored) / max(pixels.total(), 1),
                classes=_class_counts(split, inspections),
                problems=tuple(judge(split, inspections, everything)),
            )
        )
    return reports


def inspect_pairs(folder: LabeledFolder, *, decode: bool, progress: bool = True) -> list[Inspection]:
    """Read every mask of a folder, and every image: its header, or with `decode` all of it.

    Sizes are compared as displayed (EXIF orientation).
    """
    threads = min(8, os.cpu_count() or 1)
    work = partial(_inspect, folder=folder, decode=decode)
    with closing(prefetch_in_threads(folder.samples, work, threads=threads, ahead=2 * threads)) as inspections:
        total, disable = len(folder.samples), None if progress else True
        return list(Bar(inspections, total=total, desc="check", unit="pair", disable=disable))


def judge(
    folder: LabeledFolder, inspections: Sequence[Inspection], everything: Sequence[Inspection] | None = None
) -> list[Problem]:
    """List the problems of a folder, errors first; `everything` includes the inspections of its other splits."""
    everything = inspections if everything is None else everything
    found = [
        *folder.problems,
        *(problem for each in inspections for problem in each.problems),
        *_value_problems(folder, inspections),
        *_class_255(folder, inspections, everything),
        *_palettes(everything),
    ]
    kinds: dict[str, list[Problem]] = {}
    for problem in found:
        kinds.setdefault(problem.kind, []).append(problem)
    merged = [
        replace(same[0], files=tuple(dict.fromkeys(name for each in same for name in each.files)))
        for same in kinds.values()
    ]
    return sorted(merged, key=lambda problem: not problem.error)


def require_sound(asked: str, folder: LabeledFolder, problems: Sequence[Problem], *, tell: bool = True) -> None:
    """Raise if a folder has errors; otherwise, with `tell`, log the notes on its labels and on unsupported photographs.

    Raises:
        DatasetError: one of the problems is an error.

    """
    if errors := [problem for problem in problems if problem.error]:
        bands = ["--bands", ",".join(folder.bands)] if folder.bands else []
        command = shlex.join(["hrnet-zoo", "check-data", str(folder.root), "--split", folder.split or "val", *bands])
        raise DatasetError(
            asked=f"{asked} {folder.title} in {folder.root}",
            found="; ".join(f"{problem.kind}: {problem.found}" for problem in errors),
            done="nothing was computed",
            advice=f"{errors[0].advice}; see everything with `{command}`",
            path=folder.root,
        )
    for problem in problems if tell else ():
        if problem.kind == UNSUPPORTED or problem not in folder.problems:
            logger.warning("%s: %s", folder.root / folder.split, problem)


def _inspect(sample: Sample, folder: LabeledFolder, decode: bool) -> Inspection:
    image, mask = relative_name(sample.image, folder.root), relative_name(sample.labels, folder.root)
    problems: list[Problem] = []
    size = mask_size = None
    counts = Counter[int]()
    palette: Mapping[tuple[int, ...], int] = {}
    try:
        values, labels = read_label_image(sample.labels)
        mask_size = labels.size
        counts = +Counter(dict(enumerate(Image.fromarray(values).histogram())))
        palette = labels.palette.colors if labels.palette else {}  # the lowest value of each color
    except DatasetError as error:
        problems.append(Problem(error.found, "", error.advice, (mask,)))
    except ImageError as error:
        problems.append(Problem("unreadable mask", "", error.advice, (f"{mask}: {error.found}",)))
    try:
        opened = open_bands(sample.image, folder.bands) if folder.bands else open_image(sample.image, whole=decode)
        with opened as header:
            size = header.displayed
            if isinstance(header, ImageHeader) and (header.format, header.mode) == ("TIFF", "RGBA"):
                advice = "if it is near infrared or the like, name all bands (bands=, --bands)"
                problems.append(Problem("fourth band", "read as transparency", advice, (image,), error=False))
            if decode:
                header.decode()
    except ImageError as error:
        problems.append(Problem("unreadable image", "", error.advice, (f"{image}: {error.found}",)))
    if size and mask_size and size != mask_size:
        text = "image {} x {}, mask {} x {} pixels".format(*size, *mask_size)
        advice = "give each mask the size of its image as displayed (EXIF); resize masks by nearest neighbor"
        problems.append(Problem("sizes differ", "", advice, (f"{image}: {text}",)))
    return Inspection(
        mask, tuple(problems), counts, {color: value for color, value in palette.items() if value in counts}
    )


def _pixels(inspections: Iterable[Inspection]) -> Counter[int]:
    """Return the number of pixels by file value."""
    return sum((each.counts for each in inspections), Counter[int]())


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


def _value_problems(folder: LabeledFolder, inspections: Sequence[Inspection]) -> Iterator[Problem]:
    """Report values that are unknown to the label rule, seem to follow another one, or leave nothing to score."""
    pixels, rule = _pixels(inspections), folder.rule
    if values := rule.unknown(pixels):
        text = ", ".join(f"{value} ({pixels[value]:,} pixels)" for value in values[:8]) + ", ..." * (len(values) > 8)
        advice = (
            f"the rule is: {rule.title}, for {len(rule.of_class)} classes, counted from 0; "
            "write 255 for unlabeled pixels, and resize masks by nearest neighbor"
        )
        files = tuple(each.mask for each in inspections if each.counts.keys() & values)
        yield Problem("value outside the classes", text, advice, files)
    # Official files never hold 255, and nearly all hold ids above 18 (sky, vegetation, car, ...).
    train_ids = {*range(19), IGNORE_INDEX}
    suspicious = [each for each in inspections if IGNORE_INDEX in each.counts and each.counts.keys() <= train_ids]
    mixed = tuple(each.mask for each in suspicious if len(each.counts) > 1 and rule == CITYSCAPES_IDS)
    if mixed:
        advice = "write all masks with train ids (0 to 18, and 255), or all with official ids (7 is road)"
        yield Problem("ids mixed with train ids", "these seem to hold train ids", advice, mixed)
    last = rule.of_class[-1]
    if rule.of_class[0] == 1 and pixels[255] and not pixels[last]:
        text = (
            f"255 occurs, which official files never hold, but {last} does not: "
            f"the values seem to be reduced to 0 to {last - 1}"
        )
        advice = "use the official files, in which 0 is no class; or list your own classes in classes.txt"
        yield Problem("off-by-one labels", text, advice)
    ignored = [each.mask for each in inspections if each.counts and each.counts.keys() <= {*rule.ignored}]
    if empty := tuple(mask for mask in ignored if mask not in mixed):
        yield Problem("fully ignored mask", "no pixel is scored", "remove it unless it is intended", empty, error=False)
    if pixels and not any(pixels[value] for value in rule.of_class):
        text = f"no pixel of its {len(folder.samples)} masks belongs to a class"
        yield Problem("nothing to score", text, "compare the values of the masks with the rule")
    counted = _class_counts(folder, inspections)
    absent = tuple(each.name for each in counted if not each.pixels)
    if len(counted) > len(absent) > len(counted) / 2:
        advice = "the means leave them out; if the dataset is custom, list its classes in classes.txt, one per line"
        yield Problem(MOSTLY_ABSENT, f"{len(absent)} of {len(counted)}", advice, absent, error=False)


def _is_binary(counts: Counter[int]) -> bool:
    """Return whether a mask holds 0 and 255 alone, apart from stray pixels."""
    others = counts.total() - counts[0] - counts[255]
    return {0, 255} <= counts.keys() and others <= min(_STRAY, _STRAY_FRACTION * counts.total())


def _class_255(
    folder: LabeledFolder, inspections: Sequence[Inspection], everything: Sequence[Inspection]
) -> Iterator[Problem]:
    """Report masks in which 255 seems to be a class; it is an error unless other masks show that 255 means ignored."""
    files = tuple(each.mask for each in inspections if _is_binary(each.counts))
    if not files or folder.key not in ("", "voc12aug"):
        return
    binary = sum(_is_binary(each.counts) for each in everything)
    others = [each.counts for each in everything if each.counts.keys() - {0, 255} and not _is_binary(each.counts)]
    error = binary >= len(others) and not any(IGNORE_INDEX in counts for counts in others)
    text = "its values are 0 and 255 (apart from stray pixels), and 255 means ignored"
    advice = "write 1 instead of 255 for the class" + ("" if error else ", if it is one there")
    advice += ", as `hrnet-zoo prepare binary-masks SRC DST` does"
    yield Problem("255 as a class", text, advice, files, error)


def _palettes(inspections: Iterable[Inspection]) -> Iterator[Problem]:
    """Report colors that have different values in different masks, as if each mask numbered its own classes."""
    uses: dict[tuple[int, ...], dict[int, str]] = {}
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
        advice = "write all masks with one palette, or by colors (`hrnet-zoo prepare color-masks SRC DST`); "
        advice += "or without palettes, if their values are correct"
        yield Problem("palettes disagree", text, advice, files)
