"""Things beside the road."""

from collections.abc import Callable

import numpy as np
import pytest

from hrnet_zoo.demo import roadside
from hrnet_zoo.demo.canvas import Canvas
from hrnet_zoo.demo.labels import BUILDING, FENCE, LIGHT, PLANT, POLE, SIGN, SKY, WALL


def drawn(paint: Callable[[Canvas], None], seed: int) -> set[int]:
    """Give the labels on an empty canvas after `paint`."""
    c = Canvas(np.random.default_rng(seed), 96, 192)
    paint(c)
    return set(np.asarray(c.mask).ravel().tolist())


@pytest.mark.parametrize(
    ("paint", "label"),
    [
        (lambda c: roadside.house(c, 1, 4.0, 8.0, 20.0), BUILDING),
        (lambda c: roadside.free_wall(c, -4.0, 8.0, 20.0, -1), WALL),
        (lambda c: roadside.fence(c, -4.0, 8.0, 20.0, -1), FENCE),
        (lambda c: roadside.hedge(c, -4.0, 8.0, 20.0, (40, 90, 30)), PLANT),
        (lambda c: roadside.tree(c, 1.0, 12.0), PLANT),
        (lambda c: roadside.street_tree(c, 1.0, 12.0, 1), PLANT),
        (lambda c: roadside.bush(c, 1.0, 12.0), PLANT),
    ],
)
def test_each_thing_has_its_own_label_alone(paint: Callable[[Canvas], None], label: int) -> None:
    """Windows, graffiti, trunks and gaps between bars carry the label of what they belong to."""
    for seed in range(4):
        assert drawn(paint, seed) == {SKY, label}


def test_furniture_stands_on_poles() -> None:
    """Lamps, traffic lights and signs all occur, each on a pole, and no two kinds on one."""
    found = [drawn(lambda c: roadside.furniture(c, 0.0, 9.0, 1), seed) - {SKY} for seed in range(30)]
    assert all(labels in ({POLE}, {POLE, LIGHT}, {POLE, SIGN}) for labels in found)
    assert set.union(*found) == {POLE, LIGHT, SIGN}


def test_a_house_is_painted_on_its_side_of_the_street() -> None:
    """To the right with side 1, to the left with side -1."""
    for side in (-1, 1):
        c = Canvas(np.random.default_rng(3), 96, 192)
        roadside.house(c, side, 4.0 * side, 10.0, 25.0)
        columns = np.nonzero(np.asarray(c.mask) == BUILDING)[1]
        assert side * (columns.mean() - c.center) > 0
