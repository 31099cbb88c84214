"""Polygons: they give the pixels back, share their borders, and are valid."""

from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hrnet_zoo.errors import ConfigError
from hrnet_zoo.inference.polygons import Polygon, area, rasterize, simplify_borders, trace
from hrnet_zoo.inference.regions import find_regions
from tests.support.masks import random_mask

CLASSES = tuple("abcdefgh")


def polygons_of(mask: npt.NDArray[Any], min_area: int = 0) -> tuple[list[Polygon], npt.NDArray[np.int32]]:
    regions, labels = find_regions(mask.astype(np.uint8), CLASSES, min_area=min_area)
    return [region.polygon for region in regions], labels


def inside(polygon: Polygon, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return whether each pixel's center has an odd number of edges at its right."""
    y, x = np.indices(shape) + 0.5
    start = np.concatenate(polygon)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in polygon])
    return reduce(
        np.logical_xor,
        [(x < x0) & (min(y0, y1) < y) & (y < max(y0, y1)) for (x0, y0), (_, y1) in zip(start, end, strict=True)],
        np.zeros(shape, bool),
    )


@pytest.mark.parametrize("seed", range(60))
def test_polygons_give_the_pixels_back(seed: int) -> None:
    mask = random_mask(seed, longest=24)
    polygons, labels = polygons_of(mask)
    assert np.array_equal(rasterize(polygons, mask.shape), labels)
    for number, polygon in enumerate(polygons[:40]):
        assert np.array_equal(inside(polygon, mask.shape), labels == number)


@pytest.mark.parametrize("seed", range(60))
def test_rings_are_simple_and_their_areas_add_up(seed: int) -> None:
    """No ring visits a point twice; exteriors have a positive area, holes a negative one."""
    mask = random_mask(seed, longest=24)
    regions, _ = find_regions(mask, CLASSES)
    for region in regions:
        exterior, *holes = region.polygon
        assert area(exterior) > 0
        assert all(area(hole) < 0 for hole in holes)
        assert sum(map(area, region.polygon)) == region.area
        assert all(len(np.unique(ring, axis=0)) == len(ring) for ring in region.polygon)


def test_borders_are_shared_edge_by_edge() -> None:
    """Each edge of a region runs backward in exactly one neighbor, or along the image's border."""
    mask = random_mask(7, longest=24)
    polygons, _ = polygons_of(mask)
    height, width = mask.shape
    edges = set()
    for ring in (ring for polygon in polygons for ring in polygon):
        for one, other in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True):
            assert (*one, *other) not in edges
            edges.add((*one, *other))
    for x0, y0, x1, y1 in edges:
        on_border = x0 == x1 in (0, width) or y0 == y1 in (0, height)
        assert ((x1, y1, x0, y0) in edges) != on_border


@pytest.mark.parametrize(
    ("rows", "rings"),
    [
        (["1"], [[[0, 0], [1, 0], [1, 1], [0, 1]]]),
        (  # The hole touches the exterior at a corner, and stays a ring of its own.
            ["111", "1.1", "11."],
            [[[0, 0], [3, 0], [3, 2], [2, 2], [2, 3], [0, 3]], [[1, 1], [1, 2], [2, 2], [2, 1]]],
        ),
    ],
)
def test_small_shapes(rows: list[str], rings: list[list[list[int]]]) -> None:
    labels = np.array([[0 if pixel == "1" else -1 for pixel in row] for row in rows], np.int32)
    (polygon,) = trace(labels)
    assert [ring.tolist() for ring in polygon] == rings


def test_holes_that_touch_at_a_corner_are_two() -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[1, 1] = mask[2, 2] = 1
    regions, _ = find_regions(mask, CLASSES)
    assert [region.holes for region in regions] == [2, 0, 0]


def test_no_region_no_polygon() -> None:
    labels = np.full((3, 4), -1, np.int32)
    assert trace(labels) == []
    assert np.array_equal(rasterize([], (3, 4)), labels)


@pytest.mark.parametrize("tolerance", [0, 1, 2.5])
def test_simplified_borders_stay_shared(tolerance: float) -> None:
    """A valid coverage, of points that were there before."""
    shapely = pytest.importorskip("shapely", "2.1")
    mask = random_mask(12, longest=60)
    polygons, labels = polygons_of(mask)
    simplified = simplify_borders(polygons, tolerance)
    shapes = [shapely.Polygon(exterior, holes) for exterior, *holes in simplified]
    assert shapely.coverage_is_valid(shapes)
    assert all(shape.is_valid for shape in shapes)
    for before, after in zip(polygons, simplified, strict=True):
        points = {tuple(point) for point in np.concatenate(before).tolist()}
        assert {tuple(point) for point in np.concatenate(after).tolist()} <= points
        assert area(after[0]) > 0
    moved = (rasterize(simplified, mask.shape) != labels).sum()
    assert (moved > 0) == (tolerance > 0)
    assert moved < mask.size / 4


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf")])
def test_simplify_by_no_length(tolerance: float) -> None:
    with pytest.raises(ConfigError, match="no length"):
        simplify_borders([], tolerance)


def test_simplify_without_shapely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "shapely", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[geo\]'"):
        simplify_borders([], 1)
