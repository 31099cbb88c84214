"""People and cycles."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from hrnet_zoo.demo.canvas import Canvas
from hrnet_zoo.demo.labels import BICYCLE, MOTORCYCLE, PERSON, RIDER, SKY
from hrnet_zoo.demo.people import parked_cycle, person, ridden_bicycle, ridden_motorcycle


def labels(mask: NDArray[np.uint8]) -> set[int]:
    """Give what is labeled but sky."""
    return set(mask.ravel().tolist()) - {SKY}


def test_a_person_is_as_tall_as_people_are() -> None:
    """Between 0.9 and 2.1 m, head and shoes included, and nothing but a person."""
    for seed in range(12):
        c = Canvas(np.random.default_rng(seed), 192, 384)
        person(c, 0.0, 12.0, 1)
        mask = np.asarray(c.mask)
        assert labels(mask) == {PERSON}
        meters = np.ptp(np.nonzero(mask == PERSON)[0]) * 12.0 / c.focal
        assert 0.9 < meters < 2.1


@pytest.mark.parametrize(("paint", "cycle"), [(ridden_bicycle, BICYCLE), (ridden_motorcycle, MOTORCYCLE)])
@pytest.mark.parametrize("turn", [0.0, 1.57, 3.14])
def test_riders_sit_on_their_cycles(
    paint: Callable[[Canvas, float, float, float], None], cycle: int, turn: float
) -> None:
    """Seen from behind, the side and ahead, both are there and the rider is higher."""
    c = Canvas(np.random.default_rng(1), 96, 192)
    paint(c, 0.0, 7.0, turn)
    mask = np.asarray(c.mask)
    assert labels(mask) == {RIDER, cycle}
    assert np.nonzero(mask == RIDER)[0].mean() < np.nonzero(mask == cycle)[0].mean()


def test_parked_cycles_have_no_rider() -> None:
    """Both kinds occur, one at a time."""
    found = []
    for seed in range(12):
        c = Canvas(np.random.default_rng(seed), 96, 192)
        parked_cycle(c, 0.0, 8.0, 1)
        found.append(labels(np.asarray(c.mask)))
    assert all(seen in ({BICYCLE}, {MOTORCYCLE}) for seen in found)
    assert {BICYCLE} in found
    assert {MOTORCYCLE} in found
