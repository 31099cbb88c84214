"""Small folders to train on: generated street scenes with three classes of their own."""

from pathlib import Path

import numpy as np
from PIL import Image

from hrnet_zoo.datasets import CITYSCAPES
from hrnet_zoo.demo.scenes import scene

GROUPS = {
    "ground": ("road", "sidewalk", "terrain"),
    "standing": ("building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    "sky": ("sky",),
}


def write_own_folder(root: Path, count: int, *, first_seed: int = 700_000, height: int = 96, width: int = 192) -> Path:
    """Write scenes as images/, masks/ and classes.txt: whatever moves is not labeled."""
    index = np.full(256, 255, np.uint8)
    for number, members in enumerate(GROUPS.values()):
        index[[CITYSCAPES.classes.index(name) for name in members]] = number
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for seed in range(first_seed, first_seed + count):
        drawn = scene(seed, height, width)
        Image.fromarray(drawn.image).save(root / "images" / f"{seed}.png")
        Image.fromarray(index[drawn.mask]).save(root / "masks" / f"{seed}.png")
    (root / "classes.txt").write_text("\n".join(GROUPS) + "\n", encoding="utf-8")
    return root
