"""The demo: label new scenes, write the overlays, compute the mIoU against the true labels."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.images.atomic import atomic_write, make_folder, png
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.inference.metrics import class_iou, count_matrix, mean
from hrnet_zoo.models.fcn import FCNHRNet


def overlay_paths(out: Path, seeds: Sequence[int]) -> tuple[Path, ...]:
    """Return where `run_demo` writes the overlay of each seed."""
    return tuple(out / f"scene_{seed:04d}.png" for seed in seeds)


def run_demo(model: FCNHRNet, out: Path, *, seeds: Sequence[int], progress: bool) -> dict[str, Any]:
    """Draw and label a scene for each seed, write it above its overlay as `scene_SEED.png`, and evaluate all together.

    The first scene is also written as `street.jpg`, unless that exists. Returns, ready for JSON, "miou" and "iou" by
    the name of every class that occurs (0 to 1), and the paths "images" and "photo".

    Raises:
        OutputError: `out` cannot be written.

    """
    counts = np.zeros((len(model.classes),) * 2, dtype=np.int64)
    images, photo = overlay_paths(out, seeds), out / "street.jpg"
    make_folder(out)
    bar = Bar(seeds, desc="demo", unit="scene", disable=None if progress else True)
    for seed, path in zip(bar, images, strict=True):
        drawn = scene(seed)
        result = model.predict(drawn.image)
        counts += count_matrix(drawn.mask, result.mask, len(model.classes))
        overlay, height = result.overlay(), len(drawn.image)
        sheet = Image.new("RGB", (overlay.width, height + overlay.height), "white")
        sheet.paste(Image.fromarray(drawn.image), (0, 0))
        sheet.paste(overlay, (0, height))
        atomic_write(path, png(sheet))
    if not os.path.lexists(photo):
        stream = io.BytesIO()
        Image.fromarray(scene(seeds[0]).image).save(stream, "JPEG", quality=90)
        atomic_write(photo, stream.getvalue())
    ious = class_iou(counts)
    by_name = {name: float(iou) for name, iou in zip(model.classes, ious, strict=True) if not np.isnan(iou)}
    return {"miou": mean(ious), "iou": by_name, "images": [str(path) for path in images], "photo": str(photo)}
