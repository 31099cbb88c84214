"""Validation images, their labels and the network's predictions -> one image to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from hrnet_zoo.datasets import Dataset
from hrnet_zoo.datasets.label_rules import IGNORE_INDEX
from hrnet_zoo.evaluation.metrics import class_iou, count_matrix, mean
from hrnet_zoo.images.read import RGB

Font: TypeAlias = ImageFont.ImageFont | ImageFont.FreeTypeFont

MAX_ROWS = 6

_WIDTH = 1200  # pixels
_GAP = 6
_LINE = 22  # height of a line of text
_FONT_SIZE = 14
_MAX_NAME, _MAX_CAPTION = 24, 60  # characters
_IGNORED_GRAY = 224  # neither the page's white nor a background's black
_IGNORED_OPACITY = 0.35  # of what was predicted where nothing is right or wrong


@dataclass(frozen=True, eq=False)
class SheetRow:
    """A validation image with its labels and prediction.

    Attributes:
        name: caption.
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) uint8 class indices, 255 ignored.
        mask: (H, W) uint8 class indices.

    """

    name: str
    image: RGB
    truth: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]


def draw_sheet(rows: Sequence[SheetRow], dataset: Dataset) -> Image.Image:
    """Draw photo, truth and prediction side by side, a row for each image, and one legend below.

    Ignored pixels are light gray in the truth and pale in the prediction. Above each row are its name and its mIoU.

    Args:
        rows: the first six of them are drawn.
        dataset: names and colors of the classes.

    Returns:
        An RGB image 1200 pixels wide.

    """
    font = ImageFont.load_default(_FONT_SIZE)
    strips = [_draw_row(row, dataset, font) for row in rows[:MAX_ROWS]]
    strips.append(_draw_legend(rows[:MAX_ROWS], dataset, font))
    canvas = Image.new("RGB", (_WIDTH, sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        canvas.paste(strip, (0, top))
        top += strip.height
    return canvas


def _draw_row(row: SheetRow, dataset: Dataset, font: Font) -> Image.Image:
    height, width = row.truth.shape
    side = (_WIDTH - 4 * _GAP) // 3
    size = (side, max(1, min(2 * side, round(side * height / width))))  # a very tall image is squeezed
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(dataset.palette)] = dataset.palette
    palette[IGNORE_INDEX] = _IGNORED_GRAY
    truth, predicted = palette[row.truth], palette[row.mask]
    ignored = row.truth == IGNORE_INDEX
    predicted[ignored] = predicted[ignored] * _IGNORED_OPACITY + _IGNORED_GRAY * (1 - _IGNORED_OPACITY)
    iou = mean(class_iou(count_matrix(row.truth, row.mask, len(dataset.classes))))
    canvas = Image.new("RGB", (_WIDTH, _LINE + size[1] + _GAP), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((_GAP, _LINE // 2), _shorten(row.name, _MAX_CAPTION), "black", font, anchor="lm")
    score = "no labels" if math.isnan(iou) else f"mIoU {100 * iou:.1f} %"
    draw.text((_WIDTH - _GAP, _LINE // 2), score, "black", font, anchor="rm")
    nearest, bilinear = Image.Resampling.NEAREST, Image.Resampling.BILINEAR
    for column, (pixels, filter_) in enumerate(((row.image, bilinear), (truth, nearest), (predicted, nearest))):
        canvas.paste(Image.fromarray(pixels).resize(size, filter_), (_GAP + column * (side + _GAP), _LINE))
    return canvas


def _draw_legend(rows: Sequence[SheetRow], dataset: Dataset, font: Font) -> Image.Image:
    """Name the classes that occur in the rows, in as many lines as they need."""
    present = sorted({int(index) for row in rows for part in (row.truth, row.mask) for index in np.unique(part)})
    entries = [
        (3 * (_IGNORED_GRAY,), "ignored")
        if index == IGNORE_INDEX
        else (dataset.palette[index], _shorten(dataset.classes[index], _MAX_NAME))
        for index in present
    ]
    canvas = Image.new("RGB", (_WIDTH, _LINE * (len(entries) + 2)), "white")
    draw = ImageDraw.Draw(canvas)
    x, y = _GAP, _GAP
    for color, name in entries:
        width = _FONT_SIZE + _GAP + math.ceil(font.getlength(name)) + 3 * _GAP
        if x + width > _WIDTH and x > _GAP:
            x, y = _GAP, y + _LINE
        middle = y + _LINE // 2
        swatch = (x, middle - _FONT_SIZE // 2, x + _FONT_SIZE, middle + _FONT_SIZE // 2)
        draw.rectangle(swatch, fill=color, outline=(128, 128, 128))  # white needs an edge
        draw.text((x + _FONT_SIZE + _GAP, middle), name, "black", font, anchor="lm")
        x += width
    return canvas.crop((0, 0, _WIDTH, y + _LINE + _GAP))


def _shorten(text: str, longest: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
