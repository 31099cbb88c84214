"""An export of a labeling tool -> images/, masks/ and classes.txt: what the converters have in common."""

from __future__ import annotations

import csv
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from hrnet_zoo.datasets.class_list import MAX_CLASSES, parse_class_list
from hrnet_zoo.datasets.dataset import is_background
from hrnet_zoo.datasets.files import Files, OutputFolder
from hrnet_zoo.datasets.label_rules import IGNORE_INDEX
from hrnet_zoo.datasets.pairing import SUFFIXES
from hrnet_zoo.datasets.shapes import Patch, Size, paint
from hrnet_zoo.errors import ConfigError, DatasetError, OutputError
from hrnet_zoo.images.atomic import png
from hrnet_zoo.images.formats import image_errors, open_image
from hrnet_zoo.images.progress import Bar

Draw: TypeAlias = Callable[[Size], Patch]
Shape: TypeAlias = tuple[str, Draw]  # label, and what returns the pixels in an image of a size (height, width)
Labels: TypeAlias = npt.NDArray[np.int16]  # class indices by pixel, -1: none
IndexOf: TypeAlias = Callable[[str], int]

_SPLIT = re.compile(r"(?<![a-z])(train|val|test)(?:ing|id|idation)?(?![a-z])", re.IGNORECASE)
# What content of an unexpected kind raises where it is used.
_FAULTS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, csv.Error)


@dataclass(frozen=True)
class Labeled:
    """An image of an export.

    Attributes:
        key: path among the files of the export, or a name of the same form.
        read: returns its content.
        origin: path of the file that holds its labels.
        draw: returns its labels, and counts what is worth a note.
        size: (width, height) in pixels, if the export states it.
        split: as the export calls it; "" if it does not.

    """

    key: str
    read: Callable[[], bytes]
    origin: str
    draw: Callable[[Export, Size, IndexOf], Labels]
    size: tuple[int, int] | None = None
    split: str = ""


@dataclass
class Export:
    """What a converter reads.

    Attributes:
        images: with their labels.
        classes: names in order, and colors as #rrggbb; "": unknown.
        overlaps: which of several shapes a pixel belongs to, in words; "": every pixel has one label.
        counts: what is worth a note, by (what happens, "pixel", "shape" or "image"): number, and number of images.

    """

    images: list[Labeled] = field(default_factory=list)
    classes: dict[str, str] = field(default_factory=dict)
    overlaps: str = ""
    counts: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def count(self, what: str, unit: str, number: int) -> None:
        """Count what happens to the pixels or shapes of an image, or to images."""
        if number:
            before, images = self.counts.get((what, unit), (0, 0))
            self.counts[what, unit] = before + number, images + 1

    def count_unused(self, files: ImageFiles) -> None:
        """Count the images that the export does not name."""
        self.count("skipped: no labels", "image", len({*files.keys} - {each.key for each in self.images}))

    def notes(self) -> Iterator[str]:
        """Yield a sentence for each thing that was counted."""
        for (what, unit), numbers in self.counts.items():
            number, images = (f"{n:,} {word}{'s' * (n != 1)}" for n, word in zip(numbers, (unit, "image"), strict=True))
            yield f"{number}{f' in {images}' * (unit != 'image')}: {what}"


class ImageFiles:
    """The files of an export, whose images are found by what the export calls them."""

    def __init__(self, files: Files, source: Path) -> None:
        self._source = source
        self.files = {key: read for key, read in files.items() if posixpath.normpath(key) == key}  # without any ".."
        self.keys = [key for key in self.files if posixpath.splitext(key)[1].lower() in SUFFIXES]
        self._by_stem: dict[str, list[str]] = {}
        for key in self.keys:
            self._by_stem.setdefault(posixpath.basename(_stem(key)), []).append(key)

    def find(self, stated: str, base: str, split: str = "") -> str:
        """Return the key of an image: from the folder `base`, or below any folder; `split` decides between several.

        Raises:
            ValueError: there is no such image, or several; or the path leads out of the export.

        """
        path = stated.replace("\\", "/").removeprefix(f"{self._source.as_posix()}/")
        joined = posixpath.normpath(posixpath.join(base, path))
        if posixpath.isabs(path) or path[1:2] == ":" or joined.partition("/")[0] != self._source.name:
            raise ValueError(f"the image {stated!r:.200}, which is not below {self._source}: name a folder with it")
        if joined in self.files:
            return joined
        # CVAT leaves out the ending of a frame.
        below, names = f"/{posixpath.normpath(path)}", {posixpath.basename(path), posixpath.basename(_stem(path))}
        near = [key for name in names for key in self._by_stem.get(name, [])]
        found = [key for key in near if f"/{key}".endswith(below) or f"/{_stem(key)}".endswith(below)]
        if len(found) > 1:
            found = [key for key in found if split and split in key.split("/")] or found
        if len(found) == 1:
            return found[0]
        what = f"which is there {len(found)} times: {', '.join(found[:3])}"
        if not found:
            what = "which is missing: export the images, too, or put them beside the labels"
        raise ValueError(f"the image {stated!r:.200}, {what}")

    def refusal(self, found: str) -> DatasetError:
        """Return the error about an export that lacks what the converter reads."""
        listed = ", ".join(list(self.files)[:5]) + ", ..." * (len(self.files) > 5) or "nothing"
        advice = "name the folder or zip of the export, with images; `hrnet-zoo check-data FOLDER` names the format"
        error = refusal(str(self._source), f"{found} among {len(self.files)} files: {listed}", advice)
        error.done = "nothing was written"
        return error


def _stem(key: str) -> str:
    return posixpath.splitext(key)[0]


def paint_shapes(
    shapes: Iterable[Shape], smallest_on_top: bool, export: Export, size: Size, index_of: IndexOf
) -> Labels:
    """Return the labels of an image, given its shapes."""

    def patches() -> Iterator[tuple[int, Patch]]:
        for number, (label, draw) in enumerate(shapes, start=1):
            try:
                yield index_of(label), draw(size)
            except _FAULTS as error:
                raise ValueError(f"shape {number}, {label!r:.60}: {_reason(error)}") from error

    labels, contested, areas = paint(patches(), size, smallest_on_top=smallest_on_top)
    export.count(f"in shapes of several classes; {export.overlaps}", "pixel", contested)
    export.count("lost: no pixel has its center inside", "shape", areas.count(0))
    export.count("without any shape", "image", not areas)
    return labels


def read_json(files: Files, key: str) -> Any:  # noqa: ANN401 - any JSON
    """Return the content of a JSON file, in which NaN and Infinity are errors; raise DatasetError if it is damaged."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name}, which is no number in JSON")

    with faults(key):
        return json.loads(files[key](), parse_constant=refuse)


def text(value: object) -> str:
    """Return a label without blanks around it; raise ValueError for anything else than text."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r:.60} where a label is expected")
    return value.strip()


@contextmanager
def faults(key: str, what: str = "") -> Iterator[None]:
    """Raise what unexpected content raises in the block as a DatasetError about a file, and a part of it."""
    try:
        yield
    except _FAULTS as error:
        raise refusal(key, f"{what}{': ' * bool(what)}{_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no {error}"
    return str(error) if isinstance(error, ValueError) else f"content of an unexpected form ({error})"


def refusal(key: str, found: str, advice: str = "correct it in the tool, and export it again") -> DatasetError:
    """Return the error about a file of an export."""
    done = "what was written before is whole"
    return DatasetError(asked=f"prepare {key}", found=found, done=done, advice=advice, path=Path(key))


def write_export(
    export: Export, out: OutputFolder, *, classes: Sequence[str] | None, empty: str, progress: bool
) -> None:
    """Fill a folder with the images and masks of an export, one at a time.

    Raises:
        ConfigError: fewer than two classes, or more than 255.
        DatasetError: labels are damaged, have an unknown name, or do not fit their image.
        ImageError: an image cannot be read.
        OutputError: a file cannot be written, or the folder holds images or masks of something else.

    """
    names, index_of = _classes(export, classes, empty)
    fill, filled = (IGNORE_INDEX, "ignored") if empty == "ignore" else (index_of("background"), "background")
    targets = _targets(export.images)
    _refuse_strangers(out.root, targets)
    listed = "".join(f"{name} {export.classes.get(name, '')}".rstrip() + "\n" for name in names)
    if parse_class_list(listed, out.root / "classes.txt").names != tuple(names):
        raise refusal("classes.txt", "names that a class list cannot hold", "rename the classes in the tool")
    out.write([("classes.txt", listed.encode)], same=["classes.txt"])
    for labeled in Bar(export.images, desc="prepare", unit="image", disable=None if progress else True):
        split, image, mask = targets[labeled.key]
        data = labeled.read()
        with image_errors(labeled.key), open_image(data, whole=False) as header:
            width, height = header.displayed
        with faults(labeled.origin, labeled.key):
            if labeled.size not in (None, (width, height)):
                raise ValueError(f"an image of the size {labeled.size} is {width} x {height} pixels")
            labels = labeled.draw(export, (height, width), index_of)
        values = np.where(labels < 0, fill, labels).astype(np.uint8)
        out.write([(image, partial(bytes, data)), (mask, partial(png, Image.fromarray(values)))], same=[mask])
        out.images[split] += 1
        export.count(f"without a label: {filled}", "pixel", int(np.count_nonzero(labels < 0)))
    out.notes += export.notes()


def _classes(export: Export, classes: Sequence[str] | None, empty: str) -> tuple[list[str], IndexOf]:
    """Return the names of the classes, and what returns the index of one."""
    names = [name for name in (classes or export.classes) if not _is_ignored(name)]
    if not export.overlaps and empty == "ignore":
        names = [name for name in names if not is_background(name)]
    elif export.overlaps and empty == "background" and not any(map(is_background, names)):
        names.insert(0, "background")
    if not 2 <= len(names) <= MAX_CLASSES:
        found = f"{len(names)} classes, {', '.join(names):.100}, where 2 to {MAX_CLASSES} are needed"
        advice = "label more classes, or leave pixels without a label to the background"
        raise ConfigError(asked="prepare an export", found=found, done="nothing was written", advice=advice)
    indices = {name: index for index, name in enumerate(names)}
    # "background" in any spelling.
    background = next((index for name, index in indices.items() if is_background(name)), IGNORE_INDEX)

    def index_of(name: str) -> int:
        if name in indices:
            return indices[name]
        if _is_ignored(name) or is_background(name):
            return IGNORE_INDEX if _is_ignored(name) else background
        raise ValueError(f"the label {name!r:.60} is none of the classes {', '.join(names):.200}")

    return names, index_of


def _is_ignored(name: str) -> bool:
    return name.strip(" _").casefold() in ("ignore", "void")  # labelme writes __ignore__


def _targets(images: Sequence[Labeled]) -> dict[str, tuple[str, str, str]]:
    """Return split, and paths of image and mask below the folder to fill, by the keys of the images."""
    splits = [match[1].lower() if (match := _SPLIT.search(each.split)) else "" for each in images]
    divided = {"train"} < {*splits} - {""}
    groups: dict[str, list[Labeled]] = {}
    for each, split in zip(images, splits, strict=True):
        groups.setdefault((split or "train") if divided else "", []).append(each)
    targets, owners = dict[str, tuple[str, str, str]](), dict[str, Labeled]()
    for split, group in groups.items():
        common = posixpath.commonpath([posixpath.dirname(each.key) for each in group])
        for each in group:
            name, place = each.key.removeprefix(f"{common}/"), f"{split}/" * bool(split)
            mask = f"{place}masks/{_stem(name)}.png"
            if (other := owners.setdefault(mask.casefold(), each)) is not each or each.key in targets:
                found = f"{each.key} and {other.key} (labeled in {other.origin})"
                raise refusal(each.origin, f"two masks of one name: {found}", "rename or remove one of them")
            targets[each.key] = split, f"{place}images/{name}", mask
    return targets


def _refuse_strangers(root: Path, targets: dict[str, tuple[str, str, str]]) -> None:
    """Raise OutputError if the folder holds images or masks that this run does not write."""
    ours = {root / name for _, *names in targets.values() for name in names}
    folders = [root / split / kind for split in ("", "train", "val", "test") for kind in ("images", "masks")]
    paths = (path for folder in folders for path in sorted(folder.rglob("*")) if not path.name.startswith("."))
    if stranger := next((path for path in paths if path not in ours and not path.is_dir()), None):
        found, advice = f"{stranger}, which is not of this export", "name an empty folder, or remove images/ and masks/"
        raise OutputError(asked=f"fill {root}", found=found, done="nothing was written", advice=advice, path=stranger)
