"""Vehicles."""

import numpy as np
import pytest

from hrnet_zoo.demo.canvas import Canvas
from hrnet_zoo.demo.labels import BUS, CAR, SKY, TRAIN, TRUCK
from hrnet_zoo.demo.vehicles import bus, car, tram, truck

KINDS = ((car, CAR, 2.0), (truck, TRUCK, 3.9), (bus, BUS, 3.4), (tram, TRAIN, 5.5))  # height in meters, at most


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("turn", [0.0, 0.05, np.pi, np.pi / 2])
def test_each_kind_has_its_own_label_and_its_height(seed: int, turn: float) -> None:
    """Windows, wheels, lamps, load and pantograph included; a car is the lowest."""
    tops = {}
    for paint, label, tall in KINDS:
        c = Canvas(np.random.default_rng(seed), 96, 192)
        paint(c, 4.0, 25.0, turn)
        mask = np.asarray(c.mask)
        assert set(mask.ravel().tolist()) == {SKY, label}
        nearest = 25.0 - 13.0 if label == TRAIN else 25.0 - 6.5
        tops[label] = np.ptp(np.nonzero(mask == label)[0])
        assert 4 < tops[label] < tall * c.focal / nearest * 1.1
    assert tops[CAR] == min(tops.values())


def test_cars_come_in_several_shapes() -> None:
    """The same place and direction, another outline."""
    masks = set()
    for seed in range(12):
        c = Canvas(np.random.default_rng(0), 96, 192)
        c.rng = np.random.default_rng(seed)
        car(c, 0.0, 9.0, np.pi / 2)
        masks.add(c.mask.tobytes())
    assert len(masks) > 4
