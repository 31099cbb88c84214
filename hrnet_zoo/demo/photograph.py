"""The photograph of a painted street: grain of materials, lens, light and sensor."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from hrnet_zoo.demo.canvas import Canvas
from hrnet_zoo.demo.labels import SIDEWALK, TERRAIN, UNLABELED
from hrnet_zoo.demo.weather import noise


def postprocess(c: Canvas) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Give the image (H, W, 3) in RGB and its labels (H, W), at half the canvas's size, both uint8."""
    rng, height, width = c.rng, c.height // 2, c.width // 2
    if c.chance(0.35):
        top = c.height * c.between(0.92, 0.97)
        hood = (-0.15 * c.width, top, 1.15 * c.width, c.height * 1.25)
        c.colors.ellipse(hood, c.tone(c.lacquer(), 0.0, 0.6))
        c.labels.ellipse(hood, UNLABELED)
    mask = np.asarray(c.mask)[::2, ::2].copy()
    photo = c.image.reduce(2)
    if c.mood.lamps:
        halo = c.glow.filter(ImageFilter.GaussianBlur(2.5)).resize(photo.size, Image.Resampling.BILINEAR)
        photo = ImageChops.add(photo, halo)
    if c.chance(0.35):
        photo = photo.filter(ImageFilter.BoxBlur(c.between(0.2, 0.6)))
    image = np.array(photo, dtype=np.float32)
    coarse = noise(rng, height, width, height // 6, width // 6)
    fine = noise(rng, height, width, height // 2, width // 2)
    wide = noise(rng, height, width, 5, 9)
    grain = np.append(_GRAIN * rng.uniform(0.6, 1.3, _GRAIN.size).astype(np.float32), np.zeros(237, np.float32))[mask]
    grain *= np.clip((262 - image[..., 1]) / 130, 0, 1)  # haze hides it
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None, :] ** 2
    gain = (1 + grain * (coarse + fine) + 0.04 * wide) * (1 - np.float32(c.between(0, 0.14)) * (rows + columns))
    shade = np.asarray(c.shadow.reduce(2), dtype=np.float32) / 255 * ((mask <= SIDEWALK) | (mask == TERRAIN))
    gain *= 1 - shade * np.float32(c.mood.sun / (c.mood.ambient + c.mood.sun))
    contrast = c.between(0.85, 1.15)
    cast = np.array([c.between(0.93, 1.07) for _ in range(3)], dtype=np.float32)
    image *= gain[..., None]
    image *= cast * np.float32(contrast * c.between(0.85, 1.15))
    sensor = rng.integers(0, 256, image.shape, dtype=np.uint8).astype(np.float32)
    strength = c.between(0.01, 0.055)
    sensor *= np.float32(strength)
    image += sensor
    image += np.float32(118 * (1 - contrast) - 127.5 * strength + 0.5)
    return np.clip(image, 0, 255, out=image).astype(np.uint8), mask


# How grainy a class looks (standard deviation as a share of its brightness), by train id.
# fmt: off
_GRAIN = np.array(
    [
        0.04, 0.05, 0.03, 0.07, 0.04, 0.03, 0.02, 0.02, 0.17, 0.14,  # road to terrain
        0.01, 0.03, 0.03, 0.015, 0.02, 0.015, 0.015, 0.03, 0.02,  # sky to bicycle
    ],
    dtype=np.float32,
)
# fmt: on
