"""What a training looks like: a sheet of validation images beside what the network makes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from hrnet_zoo.datasets import Dataset
from hrnet_zoo.datasets.label_rules import IGNORE_INDEX
from hrnet_zoo.evaluation.metrics import class_iou, count_matrix, mean
from hrnet_zoo.images.read import RGB

MOST_ROWS = 6

_WIDTH = 1200  # pixels: three images side by side on a page
_GAP = 6
_CAPTION = 22  # height of a line of text
_FONT_SIZE = 14
_LONGEST_NAME = 24  # characters; more of a class's name is cut in the legend
_LONGEST_CAPTION = 60
_IGNORED_GRAY = 224  # neither the page's white nor a background's black


@dataclass(frozen=True, eq=False)
class SheetRow:
    """A validation image with its labels and what the network makes of it.

    Attributes:
        name: what to call it.
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) uint8 class indices, 255 ignored.
        mask: (H, W) uint8 class indices.

    """

    name: str
    image: RGB
    truth: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]


def sheet(rows: Sequence[SheetRow], dataset: Dataset) -> Image.Image:
    """Draw photo, truth and prediction side by side, a row for each image, and one legend below.

    Ignored pixels are light gray in the truth, and pale in the prediction, where nothing is right or wrong. Above each
    row stand its name and its mIoU.

    Args:
        rows: the first six of them are drawn.
        dataset: names and colors of the classes.

    Returns:
        An RGB image 1200 pixels wide.

    """
    font = ImageFont.load_default(_FONT_SIZE)
    side = (_WIDTH - 4 * _GAP) // 3
    parts = [_drawn(row, dataset, side, font) for row in rows[:MOST_ROWS]]
    parts.append(_legend(rows[:MOST_ROWS], dataset, font))
    canvas = Image.new("RGB", (_WIDTH, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        canvas.paste(part, (0, top))
        top += part.height
    return canvas


def _drawn(
    row: SheetRow, dataset: Dataset, side: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> Image.Image:
    height, width = row.truth.shape
    size = (side, max(1, min(2 * side, round(side * height / width))))  # a very high image is squeezed
    ignored = row.truth == IGNORE_INDEX
    images = [
        Image.fromarray(row.image).resize(size, Image.Resampling.BILINEAR),
        _colored(row.truth, ignored, dataset, size, 0.0),
        _colored(row.mask, ignored, dataset, size, 0.35),
    ]
    score = mean(class_iou(count_matrix(row.truth, row.mask, len(dataset.classes))))
    caption = "no labels" if math.isnan(score) else f"mIoU {100 * score:.1f} %"
    canvas = Image.new("RGB", (_WIDTH, _CAPTION + size[1] + _GAP), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((_GAP, _CAPTION // 2), _shortened(row.name, _LONGEST_CAPTION), "black", font, anchor="lm")
    draw.text((_WIDTH - _GAP, _CAPTION // 2), caption, "black", font, anchor="rm")
    for place, image in enumerate(images):
        canvas.paste(image, (_GAP + place * (side + _GAP), _CAPTION))
    return canvas


def _colored(
    indices: npt.NDArray[np.uint8],
    ignored: npt.NDArray[np.bool_],
    dataset: Dataset,
    size: tuple[int, int],
    share: float,
) -> Image.Image:
    """Return class indices in their colors, by nearest pixel; `share` is what is left of the ignored ones' color."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(dataset.palette)] = dataset.palette
    colors = palette[indices]
    colors[ignored] = (colors[ignored] * share + _IGNORED_GRAY * (1 - share)).astype(np.uint8)
    return Image.fromarray(colors).resize(size, Image.Resampling.NEAREST)


def _legend(
    rows: Sequence[SheetRow], dataset: Dataset, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> Image.Image:
    """Name the classes that occur in the rows, as a text that runs over as many lines as it needs."""
    present = sorted({int(index) for row in rows for part in (row.truth, row.mask) for index in np.unique(part)})
    entries = [
        (dataset.palette[index], _shortened(dataset.classes[index], _LONGEST_NAME))
        for index in present
        if index != IGNORE_INDEX
    ]
    entries += [(3 * (_IGNORED_GRAY,), "ignored")] if IGNORE_INDEX in present else []
    places, x, y = [], _GAP, _GAP
    for color, name in entries:
        width = _FONT_SIZE + _GAP + math.ceil(font.getlength(name)) + 3 * _GAP
        if x + width > _WIDTH and x > _GAP:
            x, y = _GAP, y + _CAPTION
        places.append((x, y, color, name))
        x += width
    canvas = Image.new("RGB", (_WIDTH, y + _CAPTION + _GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for x, y, color, name in places:
        middle = y + _CAPTION // 2
        box = (x, middle - _FONT_SIZE // 2, x + _FONT_SIZE, middle + _FONT_SIZE // 2)
        draw.rectangle(box, fill=color, outline=(128, 128, 128))  # white needs an edge
        draw.text((x + _FONT_SIZE + _GAP, middle), name, "black", font, anchor="lm")
    return canvas


def _shortened(text: str, longest: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
