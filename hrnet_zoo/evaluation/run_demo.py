"""The demo: label fresh scenes, write the overlays, score against the true labels."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.evaluation.metrics import class_iou, count_matrix
from hrnet_zoo.images.atomic import atomic_write, make_folder, png
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.inference.result import SegmentationResult
from hrnet_zoo.models.fcn import FCNHRNet


@dataclass(frozen=True)
class Report:
    """Result of the demo.

    Attributes:
        iou: intersection over union, 0 to 1, by the name of every class that occurs.
        images: the overlays.
        photo: the first scene alone, to try things with.

    """

    iou: dict[str, float]
    images: tuple[Path, ...]
    photo: Path

    @property
    def miou(self) -> float:
        """Mean of the classes, 0 to 1."""
        return float(np.mean(list(self.iou.values())))

    def to_dict(self) -> dict[str, Any]:
        """Return the report, ready for JSON."""
        images = [str(path) for path in self.images]
        return {"miou": self.miou, "iou": self.iou, "images": images, "photo": str(self.photo)}


def overlay_paths(out: Path, seeds: Sequence[int]) -> tuple[Path, ...]:
    """Return where `run_demo` writes the overlay of each seed."""
    return tuple(out / f"scene_{seed:04d}.png" for seed in seeds)


def run_demo(model: FCNHRNet, out: Path, *, seeds: Sequence[int], progress: bool) -> Report:
    """Draw and label a scene for each seed, write `scene_SEED.png`, and score all of them together.

    Each image shows the scene above its overlay with a legend. The first scene is also written as `street.jpg`, unless
    that exists.

    Raises:
        OutputError: `out` cannot be written.

    """
    counts = np.zeros((len(model.classes),) * 2, dtype=np.int64)
    images = overlay_paths(out, seeds)
    make_folder(out)
    bar = Bar(seeds, desc="demo", unit="scene", disable=None if progress else True)
    for seed, image in zip(bar, images, strict=True):
        drawn = scene(seed)
        result = model.predict(drawn.image)
        counts += count_matrix(drawn.mask, result.mask, len(model.classes))
        atomic_write(image, png(_sheet(result)))
    photo = out / "street.jpg"
    if not os.path.lexists(photo):
        stream = io.BytesIO()
        Image.fromarray(scene(seeds[0]).image).save(stream, "JPEG", quality=90)
        atomic_write(photo, stream.getvalue())
    iou = {name: float(value) for name, value in zip(model.classes, class_iou(counts), strict=True) if value == value}
    return Report(iou, images, photo)


def _sheet(result: SegmentationResult) -> Image.Image:
    """Draw the image above its overlay."""
    overlay = result.overlay()
    sheet = Image.new("RGB", (overlay.width, result.image.shape[0] + overlay.height), "white")
    sheet.paste(Image.fromarray(result.image), (0, 0))
    sheet.paste(overlay, (0, result.image.shape[0]))
    return sheet
