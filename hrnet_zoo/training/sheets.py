"""Validation images, their labels and predictions -> one image to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from hrnet_zoo.errors import printable
from hrnet_zoo.inference.metrics import class_iou, count_matrix, mean
from hrnet_zoo.inference.result import SegmentationResult

# Name, labels (H, W) uint8 with 255 for ignored pixels, and what was predicted.
Row: TypeAlias = tuple[str, npt.NDArray[np.uint8], SegmentationResult]

_SIDE, _GAP, _LINE = 400, 6, 22  # pixels: width of an image, space between images, height of a caption
_IGNORED_GRAY = 224  # neither the page's white nor a background's black


def draw_sheet(rows: Sequence[Row]) -> Image.Image:
    """Draw image, labels and prediction with its legend side by side; above each row are its name and its mIoU."""
    strips = [_draw_row(*row) for row in rows]
    sheet = Image.new("RGB", (max(strip.width for strip in strips), sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def _draw_row(name: str, labels: npt.NDArray[np.uint8], result: SegmentationResult) -> Image.Image:
    iou = mean(class_iou(count_matrix(labels, result.mask, len(result.classes))))
    height, width = labels.shape
    size = (_SIDE, max(1, min(2 * _SIDE, round(_SIDE * height / width))))  # a very tall image is squeezed
    image = Image.fromarray(result.image).resize(size, Image.Resampling.BILINEAR)
    truth, mask = (Image.fromarray(each).resize(size, Image.Resampling.NEAREST) for each in (labels, result.mask))
    palette = np.full((256, 3), _IGNORED_GRAY, np.uint8)
    palette[: len(result.palette)] = result.palette
    predicted = SegmentationResult(np.asarray(image), np.asarray(mask), result.classes, result.palette)
    parts = (image, Image.fromarray(palette[np.asarray(truth)]), predicted.overlay(alpha=1))
    strip = Image.new("RGB", (2 * (_SIDE + _GAP) + parts[2].width, _LINE + parts[2].height + _GAP), "white")
    for column, part in enumerate(parts):
        strip.paste(part, (column * (_SIDE + _GAP), _LINE))
    caption = f"{printable(name)[-100:]}   {'no labels' if np.isnan(iou) else f'mIoU {100 * iou:.1f} %'}"
    font = ImageFont.load_default(14)
    ImageDraw.Draw(strip).text((_GAP, _LINE // 2), caption, "black", font, anchor="lm")
    return strip
