"""Scenes on disk, in the layout of Cityscapes: a dataset that needs no download."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hrnet_zoo.datasets.label_rules import CITYSCAPES_IDS
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.errors import OutputError
from hrnet_zoo.images.atomic import atomic_write, make_folder, png
from hrnet_zoo.images.progress import Bar


def write_dataset(out: Path, *, seeds: Sequence[int], progress: bool) -> None:
    """Draw a scene for each seed into `out/leftImg8bit/val` and `out/gtFine/val`, with official ids as labels.

    Raises:
        OutputError: `out` cannot be written, or holds something already: scenes of an earlier run would be scored too.

    """
    make_folder(out)
    try:
        there = next(out.iterdir(), None)
    except OSError as error:
        raise _refusal(out, error.strerror or str(error)) from error
    if there:
        raise _refusal(out, f"the folder holds something already, {there.name} for instance")
    images, labels = (out / kind / "val" / "demo" for kind in ("leftImg8bit", "gtFine"))
    make_folder(images)
    make_folder(labels)
    for seed in Bar(seeds, desc="draw", unit="scene", disable=None if progress else True):
        drawn = scene(seed)
        name = f"demo_{seed:06d}_000019"  # city, sequence, frame
        atomic_write(images / f"{name}_leftImg8bit.png", png(Image.fromarray(drawn.image)))
        ids: Image.Image = Image.fromarray(np.ascontiguousarray(CITYSCAPES_IDS.values(drawn.mask)))
        atomic_write(labels / f"{name}_gtFine_labelIds.png", png(ids))


def _refusal(out: Path, found: str) -> OutputError:
    advice = "name another folder"
    return OutputError(asked=f"write scenes into {out}", found=found, done="nothing was drawn", advice=advice, path=out)
