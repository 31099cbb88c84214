"""Masks that show classes as colors, or one class as white on black -> masks of class indices."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from hrnet_zoo.datasets.class_list import parse_class_list
from hrnet_zoo.datasets.dataset import Color
from hrnet_zoo.datasets.exports import Export, ImageFiles, IndexOf, Labeled, Labels, faults, refusal
from hrnet_zoo.datasets.pairing import pair, stem
from hrnet_zoo.datasets.shapes import Size
from hrnet_zoo.images.formats import image_errors, open_image

Convert: TypeAlias = Callable[[Image.Image, Export, IndexOf], Labels]

_ROWS = 256  # that are converted together
_MOST_GRAY = 0.05  # share of the pixels of a black and white mask that may be neither: edges, compression
# The part of a path that tells a mask: masks/, SegmentationClass/, train_labels/, a_mask.png.
_MASK = re.compile(r"(?:^|[ ._-])(?:masks?|labels?|annotations?|segmentationclass|gt)$", re.IGNORECASE)
_IMAGE = re.compile(r"(?:^|[ ._-])(?:images?|imgs?|jpegimages|rgb)$", re.IGNORECASE)
_INSTANCES = "SegmentationObject"  # in exports in the form of Pascal VOC
_PALETTES = ("labelmap.txt", "classes.csv", "class_dict.csv", "classes.txt")


def read_color_masks(images: ImageFiles) -> Export:
    """Read masks whose colors a file names: labelmap.txt, classes.csv or class_dict.csv, or classes.txt.

    labelmap.txt is that of CVAT and Pascal VOC ("road:128,64,128::"); the CSV files have the columns name (or class),
    and r, g, b (or red, green, blue); classes.txt is ours, with colors ("road #804080"). Classes are in its order.
    """
    palettes = {key: _palette(images, key) for key in images.files if Path(key).name.lower() in _PALETTES}
    palettes = {key: palette for key, palette in palettes.items() if palette}
    if len(palettes) != 1:
        raise images.refusal(f"{len(palettes) or 'no'} files with colors of classes, called {', '.join(_PALETTES)},")
    ((key, palette),) = palettes.items()
    if len(set(palette.values())) < len(palette):
        raise refusal(key, "one color for two classes")
    names = {name: "#{:02x}{:02x}{:02x}".format(*color) for name, color in palette.items()}
    return _export(images, names, partial(_classes_of_colors, palette))


def read_binary_masks(images: ImageFiles) -> Export:
    """Read black and white masks: 0 is background, 255 foreground; what is between is rounded."""
    return _export(images, {"background": "", "foreground": ""}, _black_and_white)


def _export(images: ImageFiles, classes: dict[str, str], convert: Convert) -> Export:
    sides: tuple[list[tuple[str, Path]], ...] = ([], [])
    for key in images.keys:
        parts = stem(Path(key), Path()).split("/")
        if _INSTANCES not in parts:
            is_mask = any(map(_MASK.search, parts[1:]))
            parts = [(_MASK if is_mask else _IMAGE).sub("", part) for part in parts[1:]]
            sides[is_mask].append(("/".join(filter(None, parts)), Path(key)))
    export = Export(classes=classes)
    samples, problems = pair(sides[False], sides[True], Path())
    for problem in problems if samples else ():
        if problem.kind != "image without mask":
            raise images.refusal(str(problem))
    if not samples:
        raise images.refusal("no images and masks of the same names, in folders such as images/ and masks/,")
    for sample in samples:
        image, mask = sample.image.as_posix(), sample.labels.as_posix()
        draw = partial(_draw, mask, images.files[mask], convert)
        export.images.append(Labeled(image, images.files[image], mask, draw, split=sample.name.rpartition("/")[0]))
    export.count("skipped: no mask of that name", "image", len(sides[False]) - len(samples))
    return export


def _draw(
    key: str, read: Callable[[], bytes], convert: Convert, export: Export, size: Size, index_of: IndexOf
) -> Labels:
    with image_errors(key), open_image(read()) as header:
        mask = header.decode()
    if header.size != size[::-1] or header.mode.startswith("I"):
        kind = "{} x {} pixels of mode {}".format(*header.size, header.mode)
        raise ValueError(f"{kind} for an image of {size[1]} x {size[0]}; masks have its size, and 8 bits")
    return convert(mask, export, index_of)


def _black_and_white(mask: Image.Image, export: Export, index_of: IndexOf) -> Labels:
    values = np.asarray(mask.convert("L"))
    gray = int(np.count_nonzero((values > 0) & (values < 255)))
    if gray > _MOST_GRAY * values.size or 0 < values.max() < 128:
        found = f"{gray:,} of {values.size:,} pixels are neither black nor white"
        raise ValueError(f"{found}; the brightest is {values.max()}")
    export.count("neither black nor white, and rounded", "pixel", gray)
    return (values > 127).astype(np.int16)


def _classes_of_colors(palette: dict[str, Color], mask: Image.Image, export: Export, index_of: IndexOf) -> Labels:
    keys = np.array(list(palette.values())) @ (1 << 16, 1 << 8, 1)
    order = np.argsort(keys)
    keys, indices = keys[order], np.array([index_of(name) for name in palette], np.int16)[order]
    rgb, labels = np.asarray(mask.convert("RGB")), np.empty(mask.size[::-1], np.int16)
    for top in range(0, len(rgb), _ROWS):
        colors = rgb[top : top + _ROWS] @ np.array([1 << 16, 1 << 8, 1])
        place = np.searchsorted(keys, colors).clip(max=len(keys) - 1)
        if (unknown := colors[keys[place] != colors]).size:
            found = f"#{unknown[0]:06x} in row {top} or below, for {unknown.size:,} pixels there"
            raise ValueError(f"a color that is no class's: {found}; is the mask smoothed, or the palette incomplete?")
        labels[top : top + _ROWS] = indices[place]
    return labels


def _palette(images: ImageFiles, key: str) -> dict[str, Color]:
    """Return the color of each class; none if the file has no colors."""
    with faults(key):
        content = images.files[key]().decode("utf-8-sig")
        if key.lower().endswith("classes.txt"):
            return parse_class_list(content, Path(key)).colors
        lines = content.splitlines()
        pairs = _labelmap(lines) if key.lower().endswith(".txt") else _csv(lines)
        return {name: _checked(color) for name, color in pairs}


def _labelmap(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    for line in lines:
        if line.strip() and not line.startswith("#"):
            name, color, *_ = line.split(":")
            yield name.strip(), color.split(",")


def _csv(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    for row in csv.DictReader(lines, skipinitialspace=True):
        cells = {title.strip().lower(): cell.strip() for title, cell in row.items()}
        name = cells.get("name") or cells["class"]
        yield name, [cells.get(title[0]) or cells[title] for title in ("red", "green", "blue")]


def _checked(color: list[str]) -> Color:
    red, green, blue = map(int, color)
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise ValueError(f"the color {red},{green},{blue}")
    return red, green, blue
