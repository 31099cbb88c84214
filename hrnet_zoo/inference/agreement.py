"""Two label maps of an image -> how far they agree, and a picture of where they differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from hrnet_zoo.datasets.dataset import WHITE
from hrnet_zoo.datasets.label_rules import IGNORE_INDEX
from hrnet_zoo.errors import ConfigError, printable
from hrnet_zoo.images.read import RGB
from hrnet_zoo.inference.legend import add_legend
from hrnet_zoo.inference.metrics import Counts, class_iou, count_matrix, pixel_accuracy
from hrnet_zoo.inference.result import SegmentationResult

Labels: TypeAlias = npt.NDArray[np.uint8]

DIFFERENT = (255, 0, 0)  # the color of pixels that are labeled differently


@dataclass(frozen=True)
class Labeler:
    """One of the two sides of a comparison: it labels RGB images (H, W, 3) uint8 with indices of its classes."""

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    label: Callable[[RGB], Labels]


@dataclass(frozen=True)
class LabelAgreement:
    """Pixels counted by the class that one side (rows) and the other (columns) gives them: (K, K) int64."""

    classes: tuple[str, ...]
    counts: Counts

    @property
    def pixels(self) -> float:
        """The share (0 to 1) of the pixels that both label alike."""
        return pixel_accuracy(self.counts)

    @property
    def different(self) -> int:
        """The number of pixels that they label differently."""
        return int(self.counts.sum() - np.trace(self.counts))

    def to_dict(self) -> dict[str, Any]:
        """Return the figures of all pixels and, by class, the IoU of both sides and each side's pixels, for JSON."""
        iou, first, second = class_iou(self.counts), self.counts.sum(axis=1), self.counts.sum(axis=0)
        present = np.flatnonzero(first + second)
        return {
            "pixel_agreement": self.pixels,
            "pixels": int(self.counts.sum()),
            "different": self.different,
            "classes": [
                {
                    "class": self.classes[index],
                    "iou": float(iou[index]),
                    "pixels": [int(first[index]), int(second[index])],
                }
                for index in present
            ],
        }

    def __add__(self, other: LabelAgreement) -> LabelAgreement:
        """Return the agreement over the images of both."""
        return LabelAgreement(self.classes, self.counts + other.counts)


def require_same_classes(first: Labeler, second: Labeler) -> None:
    """Raise ConfigError if the indices of two sides mean different classes."""
    if first.classes != second.classes:
        pairs = zip(first.classes, second.classes, strict=False)  # one may have more
        differ = next((f"{one!r} is {other!r}" for one, other in pairs if one != other), "one has more of them")
        raise _refusal(
            f"compare {first.name} with {second.name}",
            f"{len(first.classes)} and {len(second.classes)} classes that are not the same: {differ}",
            "compare models with the same classes",
        )


def label_agreement(classes: Sequence[str], first: Labels, second: Labels) -> LabelAgreement:
    """Compare two label maps (H, W) uint8 of an image; pixels without a class (255) in either are not counted."""
    counted = np.where(second == IGNORE_INDEX, np.uint8(IGNORE_INDEX), first)
    return LabelAgreement(
        tuple(classes), count_matrix(counted, np.where(counted == IGNORE_INDEX, np.uint8(0), second), len(classes))
    )


@dataclass(frozen=True)
class ResultComparison(LabelAgreement):
    """Two results of an image, and the pixels counted that both label."""

    first: SegmentationResult
    second: SegmentationResult

    def __repr__(self) -> str:
        return f"ResultComparison({self.pixels:.4%} of the pixels alike, {self.different:,} different)"

    def picture(self) -> Image.Image:
        """Return an RGB image: the photo, where the labels differ, and both label maps, with a legend."""
        sides = _side(self.first, "first"), _side(self.second, "second")
        return draw_difference(self.first.image, (self.first.mask, self.second.mask), sides)


def compare_results(first: SegmentationResult, second: SegmentationResult) -> ResultComparison:
    """Compare two results of an image; pixels that one of them leaves unlabeled (255) are not counted.

    Raises:
        ConfigError: no result, other classes, or another size.

    """
    if not isinstance(second, SegmentationResult):
        raise _refusal("compare two results", f"{type(second).__name__}, which is none", "give what `predict` returns")
    require_same_classes(_side(first, "first"), _side(second, "second"))
    if first.mask.shape != second.mask.shape:
        found = f"{first.mask.shape} and {second.mask.shape} pixels"
        raise _refusal("compare two results", found, "compare results of one image at one size")
    agreement = label_agreement(first.classes, first.mask, second.mask)
    return ResultComparison(agreement.classes, agreement.counts, first, second)


def _side(result: SegmentationResult, name: str) -> Labeler:
    return Labeler(name, result.classes, result.palette, lambda _: result.mask)


def draw_difference(image: RGB, labels: tuple[Labels, Labels], sides: tuple[Labeler, Labeler]) -> Image.Image:
    """Draw the image, where the two label maps (H, W) of it differ, and both maps, with a legend.

    A pixel that differs is drawn three pixels wide, so that single ones are seen.
    """
    height, width = image.shape[:2]
    differ = (labels[0] != labels[1]) & (np.maximum(*labels) < len(sides[0].classes))
    dimmed = Image.fromarray(image).convert("L").point([192 + level // 4 for level in range(256)]).convert("RGB")
    dimmed.paste(DIFFERENT, mask=Image.fromarray(differ.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(3)))
    palette = np.full((256, 3), WHITE, np.uint8)
    palette[: len(sides[0].palette)] = sides[0].palette
    panels = {
        "image": Image.fromarray(image),
        f"different labels: {differ.sum():,} pixels": dimmed,
        **{
            f"{'AB'[number]}: {side.name}": Image.fromarray(palette[labels[number]])
            for number, side in enumerate(sides)
        },
    }
    font = ImageFont.load_default(size := max(12, round(width / 50)))
    line = 2 * size
    sheet = Image.new("RGB", (2 * width + size, 2 * (height + line)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (title, panel) in enumerate(panels.items()):
        x, y = number % 2 * (width + size), number // 2 * (height + line)
        draw.text((x + size // 2, y + size), printable(title)[-80:], "black", font, anchor="lm")
        sheet.paste(panel, (x, y + line))
    rows = label_agreement(sides[0].classes, *labels).to_dict()["classes"]
    colors = dict(zip(sides[0].classes, sides[0].palette, strict=True))
    entries = [(colors[row["class"]], row["class"], f"IoU {row['iou']:.4%}") for row in rows]
    return add_legend(sheet, [(DIFFERENT, "different labels", f"{differ.mean():.4%}"), *entries])


def _refusal(asked: str, found: str, advice: str) -> ConfigError:
    return ConfigError(asked=asked, found=found, done="nothing was compared", advice=advice)
