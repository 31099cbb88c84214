"""Time of day and weather, and the sky they make."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hrnet_zoo.demo.random_draws import Color, RandomDraws


@dataclass(frozen=True)
class Mood:
    """Time of day and weather: colors on 0-255, light as factors, haze as meters at which 1/e is left."""

    zenith: Color
    horizon: Color
    light: Color
    ambient: float
    sun: float
    haze: float
    lamps: bool = False


MOODS = (
    Mood((62, 118, 205), (192, 216, 240), (1.02, 1.0, 0.96), 0.60, 0.55, 500),
    Mood((95, 150, 215), (215, 228, 240), (1.02, 1.0, 0.97), 0.68, 0.42, 300),
    Mood((105, 128, 185), (250, 205, 150), (1.08, 0.94, 0.78), 0.52, 0.55, 260),
    Mood((165, 174, 186), (214, 218, 223), (0.95, 0.98, 1.0), 0.84, 0.08, 220),
    Mood((192, 196, 200), (226, 226, 224), (0.98, 0.97, 0.95), 0.80, 0.15, 85),
    Mood((48, 58, 108), (214, 138, 118), (0.80, 0.72, 0.80), 0.62, 0.15, 260, True),
    Mood((12, 16, 36), (48, 50, 76), (0.52, 0.56, 0.76), 0.66, 0.05, 260, True),
)
_MOOD_SHARES = np.cumsum((0.29, 0.24, 0.17, 0.15, 0.05, 0.05, 0.05))


def pick_mood(dice: RandomDraws) -> Mood:
    """Give one of the moods, fair weather most often."""
    return MOODS[int(np.searchsorted(_MOOD_SHARES, dice.rng.random() * 0.9999))]


def paint_sky(dice: RandomDraws, mood: Mood, width: int, height: int, horizon: float) -> Image.Image:
    """Give an image of that size: the sky's gradient down to row `horizon`, and clouds."""
    rows, columns = 96, 192
    blend = np.clip(np.linspace(0, rows, rows) / (rows * horizon / height), 0, 1)[:, None, None] ** 0.8
    color = np.array(mood.zenith) * (1 - blend) + np.array(mood.horizon) * blend
    cloud = sum(
        noise(dice.rng, rows, columns, cell * 6, cell) / weight for cell, weight in ((2, 2), (4, 1), (8, 1), (16, 2))
    )
    share = np.clip(np.asarray(cloud) * dice.between(0.3, 1.1) + dice.between(-0.5, 0.5), 0, 0.85)[..., None]
    white = 0.45 * np.array(mood.horizon) + (30 if mood.lamps else 135)
    sky = color * (1 - share) + np.minimum(white, 250) * share
    image = Image.fromarray(np.clip(sky, 0, 255).astype(np.uint8))
    return image.resize((width, height), Image.Resampling.BILINEAR)


def noise(rng: np.random.Generator, height: int, width: int, down: int, across: int) -> NDArray[np.float32]:
    """Give smooth noise in -1..1 from a grid of down x across random values."""
    grid = rng.integers(0, 256, (max(2, down), max(2, across)), dtype=np.uint8)
    smooth = Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(smooth, dtype=np.float32) / 127.5 - 1
