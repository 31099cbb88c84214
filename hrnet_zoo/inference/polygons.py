"""Labels of pixels <-> polygons along their edges, with holes and shared borders: trace, simplify, rasterize."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from hrnet_zoo.errors import ConfigError

# Corners of pixels (n, 2) as (x, y), the first not repeated; the exterior comes first, then the holes.
Polygon = tuple[npt.NDArray[np.int32], ...]

_RIGHT, _DOWN, _LEFT, _UP = range(4)
# What happens at a corner of pixels to the border of a region that owns some of the four around it: for each pattern
# (1 upper left + 2 upper right + 4 lower left + 8 lower right) the passes of the border: where it leaves to, and
# whether its horizontal edge lies at the right and its vertical edge below. The region lies at the right-hand side of
# one who walks along it. Where the region owns two opposite pixels, the border keeps the others apart: so no ring
# touches itself.
_PASSES: dict[int, list[tuple[int, bool, bool]]] = {
    1: [(_LEFT, False, False)],
    2: [(_UP, True, False)],
    4: [(_DOWN, False, True)],
    8: [(_RIGHT, True, True)],
    3: [(_LEFT, False, False)],
    12: [(_RIGHT, True, False)],
    5: [(_DOWN, False, True)],
    10: [(_UP, False, False)],
    14: [(_UP, False, False)],
    13: [(_RIGHT, True, False)],
    11: [(_LEFT, False, True)],
    7: [(_DOWN, True, True)],
    6: [(_UP, False, False), (_DOWN, True, True)],
    9: [(_RIGHT, True, False), (_LEFT, False, True)],
}


def trace(labels: npt.NDArray[np.int32]) -> list[Polygon]:
    """Return the polygon of each region of an image: its borders, along the edges of pixels.

    Valid polygons, because regions are connected through edges. A corner where three regions meet is a point of all
    of them, so that neighbors share every edge; exteriors have a positive area in (x, y), holes a negative one.

    Args:
        labels: (height, width) number of the region of each pixel, 0 to n - 1; negative: in none. The pixels of a
            region are connected through their edges.

    """
    padded = np.pad(labels, 1, constant_values=-1)
    around = (padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:])
    upper, lower, left, right = (around[one] == around[two] for one, two in ((0, 1), (2, 3), (0, 2), (1, 3)))
    y, x = np.nonzero(~(upper & lower) & ~(left & right))  # elsewhere borders are straight, between two regions
    corners = np.stack([each[y, x] for each in around], axis=1)
    passes = []
    for place in range(4):
        region = corners[:, place]
        owned = corners == region[:, None]
        first = (region >= 0) & ~owned[:, :place].any(axis=1)
        pattern = owned @ np.array([1, 2, 4, 8])
        for owns, ways in _PASSES.items():
            here = np.flatnonzero(first & (pattern == owns))
            passes += [(here, place, *way) for way in ways if here.size]
    if not passes:
        return []
    at = np.concatenate([here for here, *_ in passes])
    region, out, at_right, below = (
        np.repeat([each[column] for each in passes], [len(each[0]) for each in passes]) for column in (1, 2, 3, 4)
    )
    region, x, y = corners[at, region].astype(np.int64), x[at], y[at]
    height, width = padded.shape
    across = np.argsort(((region * height + y) * width + x) * 2 + at_right)
    down = np.argsort(((region * width + x) * height + y) * 2 + below)
    following = np.empty(len(at), np.int64)
    for order, direction, step in ((across, _RIGHT, 1), (across, _LEFT, -1), (down, _DOWN, 1), (down, _UP, -1)):
        leaving = np.flatnonzero(out[order] == direction)
        following[order[leaving]] = order[leaving + step]
    place_of = np.empty_like(across)  # from here on passes are numbered in the order of reading, region by region
    place_of[across] = np.arange(len(at))
    steps, starts = _rings(place_of[following[across]].tolist())
    points = np.stack([x, y], axis=1).astype(np.int32)[across[steps]]
    rings = np.split(points, starts[1:])
    first_rings = np.flatnonzero(np.diff(region[across[np.array(steps)[starts]]], prepend=-1))
    bounds = [*first_rings.tolist(), len(rings)]
    return [tuple(rings[bounds[n] : bounds[n + 1]]) for n in range(len(bounds) - 1)]


def _rings(following: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the elements of a permutation cycle by cycle, each from its smallest one, and where each cycle starts."""
    seen = bytearray(len(following))
    steps: list[int] = []
    starts = []
    for start in range(len(following)):
        if not seen[start]:
            starts.append(len(steps))
            step = start
            while not seen[step]:
                seen[step] = 1
                steps.append(step)
                step = following[step]
    return steps, starts


def rasterize(polygons: Sequence[Polygon], shape: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Return the number of the polygon that each pixel's center lies in, (height, width); -1: in none.

    The polygons do not overlap. A center on an edge belongs to what lies at the right of the edge.
    """
    height, width = shape
    changes = np.zeros((height, width + 1), np.int32)  # of number + 1, from each pixel to the next one at its right
    if rings := [ring for polygon in polygons for ring in polygon]:
        start = np.concatenate(rings).astype(np.int64)
        bounds = np.cumsum([0, *map(len, rings)])
        end = np.roll(start, -1, axis=0)
        end[bounds[1:] - 1] = start[bounds[:-1]]
        label = np.repeat(np.arange(len(polygons)) + 1, [sum(map(len, polygon)) for polygon in polygons])
        label[end[:, 1] > start[:, 1]] *= -1  # the polygon lies at the left of an edge that goes down
        falls = start[:, 1] > end[:, 1]
        start[falls], end[falls] = end[falls], start[falls]
        dx, dy = (end - start).T
        rows = np.arange(dy.sum()) - np.repeat(np.cumsum(dy) - dy, dy)  # of each edge, from 0
        x, y, dx, twice, label = (np.repeat(each, dy) for each in (*start.T, dx, 2 * dy, label))
        # The first center at or right of the edge, in whole numbers: both neighbors see the same.
        column = -((twice // 2 - x * twice - (2 * rows + 1) * dx) // twice)
        np.add.at(changes, (y + rows, column), label.astype(np.int32))
    return np.cumsum(changes, axis=1, dtype=np.int32)[:, :width] - 1


def simplify_borders(polygons: Sequence[Polygon], tolerance: float) -> list[Polygon]:
    """Drop points of polygons that share borders; the borders stay shared, and the points that stay do not move.

    Args:
        polygons: as of `trace`.
        tolerance: in pixels; a point goes if the square root of the area of the triangle that it forms with its
            neighbors is smaller, the smallest first (Visvalingam and Whyatt).

    Raises:
        ConfigError: see `check_simplify`.

    """
    check_simplify(tolerance)
    import shapely

    whole = [shapely.Polygon(exterior, holes) for exterior, *holes in polygons]
    simplified = shapely.orient_polygons(shapely.coverage_simplify(whole, tolerance))
    return [(_points(each.exterior), *map(_points, each.interiors)) for each in simplified]


def check_simplify(tolerance: float) -> None:
    """Raise ConfigError if `tolerance` is negative or not a number, or if shapely is missing where it is needed."""
    asked = f"simplify polygons by {tolerance!r} pixels"
    if not isinstance(tolerance, Real) or not 0 <= tolerance < float("inf"):
        raise ConfigError(
            asked=asked, found="no length", done="nothing was written", advice="give a number from 0, such as 1.5"
        )
    try:
        if tolerance:
            import shapely  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            asked=asked,
            found=f"shapely, which simplifies shared borders, cannot be imported: {error}",
            done="nothing was written",
            advice="pip install '.[geo]' in the checkout of hrnet-zoo, or leave simplify out",
        ) from error


def _points(ring: Any) -> npt.NDArray[np.int32]:  # noqa: ANN401 - shapely has no types
    return np.asarray(ring.coords, np.int32)[:-1]


def area(ring: npt.NDArray[np.int32]) -> float:
    """Return the area inside a ring, in pixels; negative for a hole."""
    x, y = ring.astype(np.int64).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def closed(rings: Iterable[npt.NDArray[Any]]) -> list[list[list[float]]]:
    """Return rings as lists of (x, y) whose last point is the first one."""
    return [[*points, points[0]] for points in (ring.tolist() for ring in rings)]
