"""Regions: counted, measured and named like the pixels they are made of."""

import numpy as np
import pytest

from hrnet_zoo.errors import ConfigError
from hrnet_zoo.inference.regions import find_regions
from tests.support.masks import random_mask

CLASSES = tuple("abcdefgh")


@pytest.mark.parametrize("seed", range(40))
def test_regions_measure_their_pixels(seed: int) -> None:
    mask = random_mask(seed, longest=30)
    confidence = np.random.default_rng(seed).random(mask.shape).astype(np.float16)
    regions, labels = find_regions(mask, CLASSES, confidence)
    assert np.array_equal(np.array([region.class_index for region in regions])[labels], mask)
    assert [region.area for region in regions] == sorted((region.area for region in regions), reverse=True)
    for number, region in enumerate(regions):
        y, x = np.nonzero(labels == number)
        assert region.class_name == CLASSES[region.class_index]
        assert region.area == len(x)
        assert region.share == len(x) / mask.size
        assert region.box == (x.min(), y.min(), x.max() + 1, y.max() + 1)
        assert region.centroid == pytest.approx((x.mean() + 0.5, y.mean() + 0.5))
        assert region.confidence == pytest.approx(confidence[y, x].astype(float).mean())


@pytest.mark.parametrize("seed", range(40))
def test_regions_are_connected_and_apart(seed: int) -> None:
    """Each is what a flood fill through edges reaches from its first pixel."""
    mask = random_mask(seed, longest=16)
    regions, labels = find_regions(mask, CLASSES)
    for number in range(len(regions)):
        reached = {tuple(map(int, np.argwhere(labels == number)[0]))}
        front = list(reached)
        while front:
            y, x = front.pop()
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                within = near[0] in range(mask.shape[0]) and near[1] in range(mask.shape[1])
                if within and near not in reached and mask[near] == mask[y, x]:
                    reached.add(near)
                    front.append(near)
        assert {tuple(map(int, each)) for each in np.argwhere(labels == number)} == reached


def test_a_long_spiral_is_one_region() -> None:
    side = 201
    mask = np.zeros((side, side), np.uint8)
    for ring in range(0, side // 2, 2):
        last = side - ring - 1
        mask[ring, max(ring - 1, 0) : last + 1] = mask[ring : last + 1, last] = mask[last, ring : last + 1] = 1
        mask[ring + 2 : last + 1, ring] = 1
    regions, _ = find_regions(mask, CLASSES)
    assert [region.area for region in regions] == [int(mask.sum()), int((mask == 0).sum())]


def test_small_and_unnamed_regions_are_left_out() -> None:
    """255 is in no region; what is left out stays a hole of what lies around it."""
    mask = np.zeros((5, 9), np.uint8)
    mask[1, 1], mask[3, 3], mask[2:4, 6:8] = 1, 255, 2
    regions, labels = find_regions(mask, CLASSES, min_area=2)
    assert [(region.class_name, region.area, region.holes) for region in regions] == [("a", 39, 3), ("c", 4, 0)]
    assert labels[1, 1] == labels[3, 3] == -1
    assert regions[0].confidence is None
    assert len(find_regions(mask, CLASSES)[0]) == 3
    assert find_regions(np.full((2, 2), 255, np.uint8), CLASSES)[0] == []


def test_a_negative_area() -> None:
    with pytest.raises(ConfigError, match="below 0"):
        find_regions(np.zeros((2, 2), np.uint8), CLASSES, min_area=-1)
