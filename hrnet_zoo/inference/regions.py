"""Mask -> connected regions: area, box, centroid, confidence, polygon."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from hrnet_zoo.errors import ConfigError
from hrnet_zoo.inference.polygons import Polygon, trace

Labels = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Region:
    """Pixels of one class that are connected through their edges.

    Pixels that touch at a corner alone are two regions, so that each region's polygon is valid. Coordinates are in
    pixels, x to the right and y down; integers lie between pixels, the center of the first pixel is (0.5, 0.5).

    Attributes:
        class_index: index of the class.
        class_name: name of the class.
        area: number of pixels.
        share: of the image, 0-1.
        box: (left, top, right, bottom) as for `PIL.Image.crop`: right and bottom are outside.
        centroid: mean (x, y) of the pixels' centers.
        confidence: mean probability of the class over the region's pixels, 0-1, if the result knows it.
        polygon: rings of (x, y) corners of pixels, each (n, 2) int32 without repeating the first: the exterior, then
            the holes.

    """

    class_index: int
    class_name: str
    area: int
    share: float
    box: tuple[int, int, int, int]
    centroid: tuple[float, float]
    confidence: float | None
    polygon: Polygon = field(repr=False)

    @property
    def holes(self) -> int:
        """Number of holes."""
        return len(self.polygon) - 1


def find_regions(
    mask: npt.NDArray[np.uint8],
    classes: tuple[str, ...],
    confidence: npt.NDArray[np.float16] | None = None,
    min_area: int = 0,
) -> tuple[list[Region], Labels]:
    """Return the regions of a mask, largest first, and the number of each pixel's region.

    Args:
        mask: (height, width) class indices; what is no index of a class, such as 255, is in no region.
        classes: names by index.
        confidence: (height, width) probability of each pixel's class, 0-1.
        min_area: leave out regions with fewer pixels.

    Returns:
        The regions, and (height, width) int32: indices of the list, or -1.

    Raises:
        ConfigError: `min_area` is negative.

    """
    if not isinstance(min_area, Real) or not min_area >= 0:
        raise ConfigError(
            asked=f"regions(min_area={min_area!r})",
            found="no area, or one below 0",
            done="nothing was computed",
            advice="give a number of pixels; 0 keeps all regions",
        )
    width = mask.shape[1]
    # A run: neighbors in a row that have one class.
    begins = np.ones(mask.shape, bool)
    np.not_equal(mask[:, 1:], mask[:, :-1], out=begins[:, 1:])
    run_of = np.cumsum(begins, dtype=np.int32).reshape(mask.shape)
    run_of -= 1
    # Of two runs above each other one begins in the first column that they share.
    touching = (mask[1:] == mask[:-1]) & (begins[1:] | begins[:-1])
    start = np.flatnonzero(begins)
    roots = _components(len(start), run_of[:-1][touching], run_of[1:][touching])
    _, first_run, region_of = np.unique(roots, return_index=True, return_inverse=True)
    del begins, touching

    length = np.diff(start, append=mask.size)
    y, x = np.divmod(start, width)

    def total(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        sums: npt.NDArray[np.float64] = np.bincount(region_of, values.astype(np.float64)).astype(np.float64, copy=False)
        return sums

    areas = total(length)
    index = mask.ravel()[start[first_run]]
    kept = np.flatnonzero((areas >= min_area) & (index < len(classes)))
    kept = kept[np.argsort(-areas[kept], kind="stable")]
    number = np.full(len(areas), -1, np.int32)
    number[kept] = np.arange(len(kept))
    labels = number[region_of][run_of]
    del run_of

    by_region = np.argsort(region_of, kind="stable")
    bounds = np.searchsorted(region_of[by_region], np.arange(len(areas)))
    left = np.minimum.reduceat(x[by_region], bounds)
    right = np.maximum.reduceat((x + length)[by_region], bounds)
    bottom = np.maximum.reduceat(y[by_region], bounds) + 1
    center_x, center_y = total(length * (x + length / 2)) / areas, total(length * (y + 0.5)) / areas
    mean = None
    if confidence is not None:
        mean = total(np.add.reduceat(confidence.ravel(), start, dtype=np.float64)) / areas
    polygons = trace(labels)
    return [
        Region(
            class_index=int(index[n]),
            class_name=classes[index[n]],
            area=int(areas[n]),
            share=float(areas[n] / mask.size),
            box=(int(left[n]), int(y[first_run[n]]), int(right[n]), int(bottom[n])),
            centroid=(float(center_x[n]), float(center_y[n])),
            confidence=None if mean is None else float(mean[n]),
            polygon=polygon,
        )
        for n, polygon in zip(kept, polygons, strict=True)
    ], labels


def _components(count: int, one: Labels, other: Labels) -> Labels:
    """Return for each of `count` nodes the smallest one that edges connect it with."""
    parent = np.arange(count, dtype=np.int32)
    while one.size:
        np.minimum.at(parent, np.maximum(one, other), np.minimum(one, other))
        while (parent != (above := parent[parent])).any():
            parent = above
        one, other = parent[one], parent[other]
        apart = one != other
        one, other = one[apart], other[apart]
    return parent
