"""Moods and the sky."""

from collections import Counter

import numpy as np

from hrnet_zoo.demo.random_draws import RandomDraws
from hrnet_zoo.demo.weather import MOODS, noise, paint_sky, pick_mood


def test_every_mood_comes_and_fair_weather_most_often() -> None:
    """The shares hold."""
    dice = RandomDraws(np.random.default_rng(1))
    found = Counter(pick_mood(dice) for _ in range(2000))
    assert set(found) == set(MOODS)
    assert found.most_common(1)[0][0] == MOODS[0]


def test_lamps_are_lit_when_it_is_dark() -> None:
    """No mood with lamps has more light than one without."""
    assert max(sum(m.light) for m in MOODS if m.lamps) < min(sum(m.light) for m in MOODS if not m.lamps)


def test_the_sky_fits_its_mood() -> None:
    """It has the size asked for, is bluer above than at the horizon by day, and dark at night."""
    day, night = (
        np.asarray(paint_sky(RandomDraws(np.random.default_rng(2)), mood, 160, 90, 60.0), dtype=float)
        for mood in (MOODS[0], MOODS[-1])
    )
    assert day.shape == night.shape == (90, 160, 3)
    blueness = day[..., 2] - day[..., 0]
    assert blueness[:10].mean() > blueness[50:].mean()
    assert night.mean() < 0.5 * day.mean()


def test_noise_is_smooth_and_balanced() -> None:
    """Neighbors differ little, values lie in -1..1 and do not lean to one side."""
    found = noise(np.random.default_rng(3), 120, 240, 12, 24)
    assert found.shape == (120, 240)
    assert -1 <= found.min() < -0.7
    assert 0.7 < found.max() <= 1
    assert abs(found.mean()) < 0.15
    assert np.abs(np.diff(found, axis=1)).max() < 0.25
