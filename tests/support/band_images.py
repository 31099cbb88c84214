"""A small folder of four-band images, in which only near infrared tells two classes of the same color apart."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.tiffs import Layout, tiff

BANDS = ("red", "green", "blue", "nir")
CLASSES = ("soil", "plants", "plastic")  # plants and plastic are the same green; plants are bright in near infrared
MEAN, STD = (1360.0, 1570.0, 1390.0, 1550.0), (420.0, 430.0, 370.0, 640.0)  # about those of all images
HEIGHT, WIDTH = 64, 96


def write_band_images(root: Path, count: int, *, rgb: bool = False) -> Path:
    """Write images/, masks/ and classes.txt: 16-bit .npy files and a TIFF, or with `rgb` their colors as 8-bit PNG."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for seed in range(count):
        random = np.random.default_rng(seed)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        colors = np.array([[90, 90, 90, 90], [40, 140, 60, 200], [40, 140, 60, 50]])
        for number in range(4):
            (top, left), (height, width) = random.integers(0, (HEIGHT - 20, WIDTH - 24)), random.integers(10, 24, 2)
            mask[top : top + height, left : left + width] = 1 + number % 2
        values = (colors[mask] + random.normal(0, 17, (HEIGHT, WIDTH, 4))).clip(0, 255)
        if rgb:
            Image.fromarray(values[..., :3].astype(np.uint8)).save(root / "images" / f"{seed}.png")
        elif seed:
            np.save(root / "images" / f"{seed}.npy", (16 * values).astype(np.uint16))
        else:
            data = tiff(((16 * values).astype(np.uint16), Layout(extra=(0,))))
            (root / "images" / f"{seed}.tif").write_bytes(data)
        Image.fromarray(mask).save(root / "masks" / f"{seed}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    return root
