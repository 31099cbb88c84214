"""The geometry of vehicles."""

import math
from functools import partial

import numpy as np
import pytest

from hrnet_zoo.demo.bodies import Body, hull, lamps, underneath, wheels
from hrnet_zoo.demo.canvas import Canvas
from hrnet_zoo.demo.labels import CAR, SKY

BOX = ((-2.0, 0.3), (2.0, 0.3), (2.0, 1.5), (-2.0, 1.5))


@pytest.mark.parametrize("turn", [0.0, 0.7, math.pi / 2, math.pi])
def test_turning_keeps_lengths_and_widths(turn: float) -> None:
    """A body is 1.8 m wide up to its belt and narrower above, whichever way it heads."""
    body = Body(3.0, 12.0, turn, 1.8, 0.95)
    assert math.dist(body.at(-2, 0.5, 0), body.at(2, 0.5, 0)) == pytest.approx(4)
    assert math.dist(body.at(0, 0.5, -1), body.at(0, 0.5, 1)) == pytest.approx(1.8)
    assert math.dist(body.at(0, 1.5, -1), body.at(0, 1.5, 1)) < 1.8
    assert body.side(1)(2, 0.5) == body.end(2)(1, 0.5) == body.at(2, 0.5, 1)


@pytest.mark.parametrize(
    ("x", "turn", "seen"),
    [(0.0, 0.0, []), (5.0, 0.0, [-1.0]), (-5.0, 0.0, [1.0]), (5.0, math.pi, [1.0]), (0.0, math.pi / 2, [1.0])],
)
def test_only_the_sides_that_face_the_camera_are_painted(x: float, turn: float, seen: list[float]) -> None:
    """None straight ahead, the inner one beside us, the near one across the street."""
    c = Canvas(np.random.default_rng(0), 96, 192)
    assert hull(c, Body(x, 10.0, turn, 1.8, 0.95), BOX, (200, 30, 30), CAR) == seen
    assert set(np.asarray(c.mask).ravel().tolist()) == {SKY, CAR}


def test_wheels_lamps_and_tyres_are_the_vehicle_and_the_dark_beneath_is_not() -> None:
    """Each adds to the labels, and below what touches the road only colors change."""
    c, body = Canvas(np.random.default_rng(0), 96, 192), Body(4.0, 10.0, 0.3, 1.8, 0.95)
    sizes = [0]
    for paint in (
        partial(wheels, c, body, (-1.2, 1.2), 0.33, CAR),
        partial(lamps, c, body, 4.0, 0.74, CAR),
        partial(underneath, c, body, 4.0, CAR),
    ):
        paint()
        sizes.append(int((np.asarray(c.mask) == CAR).sum()))
    assert sizes == sorted(set(sizes))
    column, row = (round(place) for place in c.project(body.at(0, 0, 0)))
    assert c.mask.getpixel((column, row)) == SKY
    assert c.image.getpixel((column, row)) == c.tone((26, 26, 28), body.at(-2, 0, 1.05)[2], c.mood.ambient)
