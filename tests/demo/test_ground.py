"""Road and sidewalks."""

import numpy as np
import pytest

from hrnet_zoo.demo.canvas import Canvas, Point
from hrnet_zoo.demo.ground import paint_ground
from hrnet_zoo.demo.labels import ROAD, SIDEWALK, SKY, TERRAIN

KERBS = (-5.1, 1.7)


@pytest.mark.parametrize("seed", range(6))
def test_the_road_lies_between_the_kerbs(seed: int) -> None:
    """Pavement is beyond them, and sky above the horizon."""
    c = Canvas(np.random.default_rng(seed), 192, 384)
    paint_ground(c, KERBS, (0.0, -3.4), 3.4, 1000.0, -3.4)

    def label(point: Point) -> float | tuple[int, ...] | None:
        column, row = c.project(point)
        assert column >= 0  # Pillow would count from the right
        return c.mask.getpixel((round(column), round(row)))

    for z in (18.0, 25.0, 40.0):
        assert label((KERBS[0] + 0.3, 0, z)) == label((0, 0, z)) == label((KERBS[1] - 0.3, 0, z)) == ROAD
        for outside in (KERBS[0] - 0.3, KERBS[1] + 0.3):
            assert label((outside, 0, z)) == SIDEWALK
    assert label((0, c.eye + 2, 20)) == SKY
    assert set(np.unique(np.asarray(c.mask))) <= {ROAD, SIDEWALK, TERRAIN, SKY}


def test_the_crossing_street() -> None:
    """It lies where it was asked for, over the full width."""
    with_street, without = (Canvas(np.random.default_rng(1), 192, 384) for _ in range(2))
    paint_ground(with_street, KERBS, (0.0,), 3.4, 12.0, None)
    paint_ground(without, KERBS, (0.0,), 3.4, 1000.0, None)
    column, row = (round(place) for place in with_street.project((5.5, 0, 15)))
    assert with_street.mask.getpixel((column, row)) == ROAD
    assert without.mask.getpixel((column, row)) != ROAD
