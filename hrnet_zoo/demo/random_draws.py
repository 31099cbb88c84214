"""Chance: numbers, choices and the colors that things come in, all from one random generator."""

import colorsys
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

_T = TypeVar("_T")
Color = tuple[float, float, float]
"""Red, green and blue on 0-255."""


class RandomDraws:
    """Draws from `rng`; what is asked for, and in which order, decides the scene."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def between(self, low: float, high: float) -> float:
        """Give a number, all equally likely."""
        return low + (high - low) * self.rng.random()

    def chance(self, share: float) -> bool:
        """Say yes in that share of the cases."""
        return self.rng.random() < share

    def pick(self, options: Sequence[_T]) -> _T:
        """Give one of the options; one that is listed twice comes twice as often."""
        return options[int(self.rng.random() * len(options))]

    def hue(self, saturation: tuple[float, float], value: tuple[float, float]) -> Color:
        """Give a color of any hue, with saturation and value (0-1) from these ranges."""
        return _color(self.rng.random(), self.between(*saturation), self.between(*value))

    def stone(self) -> Color:
        """Give a color of plaster, stone, brick or concrete."""
        return _color(self.between(0.0, 0.14), self.between(0.02, 0.5), self.between(0.32, 0.95))

    def leaf(self) -> Color:
        """Give a color of leaves or grass: mostly green, some autumn."""
        hue = self.between(0.17, 0.36) if self.chance(0.82) else self.between(0.05, 0.15)
        return _color(hue, self.between(0.3, 0.75), self.between(0.28, 0.62))

    def lacquer(self) -> Color:
        """Give a color of a vehicle; its red and blue may leave 0-255 by 3."""
        if self.chance(0.45):
            gray = self.pick((25, 45, 90, 140, 185, 225, 245))
            return gray + self.between(-8, 8), gray, gray + self.between(-8, 8)
        return self.hue((0.3, 0.95), (0.25, 0.95))


def scaled(color: Color, factor: float) -> Color:
    """Give the color darker (factor below 1) or lighter."""
    return color[0] * factor, color[1] * factor, color[2] * factor


def _color(hue: float, saturation: float, value: float) -> Color:
    r, g, b = colorsys.hsv_to_rgb(hue, saturation, value)
    return 255 * r, 255 * g, 255 * b
