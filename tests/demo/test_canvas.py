"""The camera and the brushes."""

import math
from functools import partial

import numpy as np
import pytest

from hrnet_zoo.demo.canvas import Canvas, upright
from hrnet_zoo.demo.labels import CAR, SKY


def canvas(seed: int = 0) -> Canvas:
    """Give an empty canvas for a scene of 96 x 192 pixels."""
    return Canvas(np.random.default_rng(seed), 96, 192)


@pytest.mark.parametrize("seed", range(5))
def test_lengths_shrink_with_the_distance(seed: int) -> None:
    """A pole of h meters z meters ahead is focal x h / z pixels long, whichever way the camera is rolled."""
    c = canvas(seed)
    for z in (2.0, 10.0, 50.0):
        assert math.dist(c.project((1, 0, z)), c.project((1, 3, z))) == pytest.approx(c.focal * 3 / z)


def test_what_is_as_high_as_the_camera_lies_on_the_horizon() -> None:
    """The road lies below it, whatever is higher above it."""
    c = canvas()
    for z in (3.0, 30.0):
        high, level, low = (c.project((0, y, z))[1] for y in (c.eye + 2, c.eye, 0))
        assert high < level < low
        assert level == pytest.approx(c.horizon, abs=0.05 * c.height)


def test_color_and_label_are_painted_apart_or_together() -> None:
    """Each brush leaves the other's image alone, and with both the outlines agree."""
    square = ((-1, 0, 6), (1, 0, 6), (1, 2, 6), (-1, 2, 6))
    blank, labeled, colored, both = (canvas() for _ in range(4))
    labeled.polygon(square, None, CAR)
    colored.polygon(square, (255, 0, 0), None, lit=True)
    both.polygon(square, (255, 0, 0), CAR, lit=True)
    assert labeled.image == blank.image
    assert colored.mask == blank.mask
    assert both.mask == labeled.mask
    assert both.image == colored.image
    changed = (np.asarray(both.image) != np.asarray(blank.image)).any(2)
    assert np.array_equal(changed, np.asarray(both.mask) == CAR)
    assert set(np.unique(np.asarray(both.mask))) == {SKY, CAR}


def test_haze_swallows_what_is_far_away() -> None:
    """Near things keep their color if they shine, far ones take that of the horizon."""
    c = canvas()
    assert c.tone((200, 10, 30), 0.0, lit=True) == (200, 10, 30)
    assert c.tone((200, 10, 30), 1e5) == pytest.approx(c.mood.horizon, abs=1)


def test_a_surface_is_brightest_towards_the_sun() -> None:
    """And never darker than without any sun."""
    c = canvas()
    sx, sy, sz = c.sunlight
    assert c.facing(sx, sy, sz) == pytest.approx(c.mood.ambient + 0.1 * sy + c.mood.sun)
    assert c.facing(-sx, -sy, -sz) == pytest.approx(c.mood.ambient - 0.1 * sy)


def test_the_queue_is_painted_from_far_to_near() -> None:
    """What is near covers what is far."""
    c = canvas()
    order: list[float] = []
    for depth in (5.0, 50.0, 20.0):
        c.later(depth, partial(order.append, depth))
    c.paint_queue()
    assert order == [50.0, 20.0, 5.0]


def test_shadows_and_halos_have_layers_of_their_own() -> None:
    """They change neither colors nor labels by themselves."""
    c = canvas()
    c.cast(((-1, 0, 8), (1, 0, 8)), 3)
    c.shine((0, 3, 8), 1.0, (90, 80, 70))
    assert c.shadow.getextrema() == (0, 255)
    assert c.glow.getextrema() == ((0, 90), (0, 80), (0, 70))
    assert (c.image, c.mask) == (canvas().image, canvas().mask)


def test_upright() -> None:
    """A surface runs along its direction and straight up."""
    assert upright(1, 5, 0, 1)(2, 3) == (1, 3, 7)
