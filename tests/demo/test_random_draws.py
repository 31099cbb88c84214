"""Chance and the colors drawn from it."""

import colorsys
from collections import Counter

import numpy as np
import pytest

from hrnet_zoo.demo.random_draws import RandomDraws, scaled


@pytest.fixture
def dice() -> RandomDraws:
    """Give dice with a fixed seed."""
    return RandomDraws(np.random.default_rng(5))


def test_numbers_and_choices_have_their_shares(dice: RandomDraws) -> None:
    """Ranges are filled from end to end, and what is listed twice comes twice as often."""
    numbers = [dice.between(-2, 3) for _ in range(2000)]
    assert -2 <= min(numbers) < -1.9
    assert 2.9 < max(numbers) < 3
    assert sum(dice.chance(0.3) for _ in range(2000)) == pytest.approx(600, abs=70)
    picked = Counter(dice.pick("abb") for _ in range(3000))
    assert picked["b"] == pytest.approx(2000, abs=120)
    assert picked["a"] + picked["b"] == 3000


def test_colors_are_what_they_are_called(dice: RandomDraws) -> None:
    """Leaves are never blue, stone is warm, any hue keeps its saturation and value, and all are colors."""
    for _ in range(300):
        leaf, stone, hue, lacquer = dice.leaf(), dice.stone(), dice.hue((0.4, 0.6), (0.5, 0.7)), dice.lacquer()
        assert leaf[2] < leaf[1]
        assert stone[0] >= stone[1] >= stone[2]
        _, saturation, value = colorsys.rgb_to_hsv(*scaled(hue, 1 / 255))
        assert 0.4 <= saturation <= 0.6
        assert 0.5 <= value <= 0.7
        assert all(0 <= channel <= 255 for channel in (*leaf, *stone, *hue))
        assert all(-8 <= channel <= 255 for channel in lacquer)


def test_scaled_keeps_the_hue() -> None:
    """All channels change alike."""
    assert scaled((100, 50, 200), 0.5) == (50, 25, 100)
