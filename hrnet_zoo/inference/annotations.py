"""Regions -> annotations that GIS and labeling tools read: GeoJSON, COCO, LabelMe."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hrnet_zoo.errors import ConfigError
from hrnet_zoo.images.atomic import atomic_write
from hrnet_zoo.inference.polygons import Polygon, area, closed, rasterize, simplify_borders
from hrnet_zoo.inference.regions import Labels, Region, find_regions

if TYPE_CHECKING:
    from hrnet_zoo.inference.result import SegmentationResult

_logger = logging.getLogger("hrnet_zoo")


def geojson(
    result: SegmentationResult, min_area: int, simplify: float, transform: Sequence[float] | None
) -> dict[str, Any]:
    """Return the FeatureCollection of `SegmentationResult.to_geojson`."""
    regions, polygons, facts = _outlines(result, min_area, simplify)
    matrix = None if transform is None else _affine(transform)
    features = []
    for region, polygon in zip(regions, polygons, strict=True):
        properties = {
            "class": region.class_name,
            "class_index": region.class_index,
            "area": region.area,
            "share": region.share,
            "holes": region.holes,
        }
        if region.confidence is not None:
            properties["confidence"] = region.confidence
        rings: Sequence[npt.NDArray[Any]] = polygon
        if matrix is not None:
            rings = [ring @ matrix[:, :2].T + matrix[:, 2] for ring in polygon]
            if np.linalg.det(matrix[:, :2]) < 0:  # RFC 7946: exteriors run counterclockwise
                rings = [ring[::-1] for ring in rings]
        geometry = {"type": "Polygon", "coordinates": closed(rings)}
        features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    return {"type": "FeatureCollection", "features": features, **facts}


def labelme(result: SegmentationResult, image_path: str, min_area: int, simplify: float) -> dict[str, Any]:
    """Return the label file of `SegmentationResult.to_labelme`."""
    regions, polygons, facts = _outlines(result, min_area, simplify)
    # What lies in a hole has a smaller exterior than what lies around it.
    order = sorted(range(len(regions)), key=lambda number: -area(polygons[number][0]))
    height, width = result.mask.shape
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": [
            {
                "label": regions[number].class_name,
                "points": polygons[number][0].tolist(),
                "group_id": None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
            }
            for number in order
        ],
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
        **facts,
    }


def coco(result: SegmentationResult, file_name: str, min_area: int) -> dict[str, Any]:
    """Return the data set of one image of `SegmentationResult.to_coco`."""
    height, width = result.mask.shape
    annotations = coco_annotations(result, min_area)
    return {
        "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
        "categories": coco_categories(result.classes),
        "annotations": [{"id": number, "image_id": 1, **each} for number, each in enumerate(annotations, start=1)],
    }


def write_json(path: Path, facts: dict[str, Any]) -> None:
    """Write JSON that appears under its name when it is complete, or raise OutputError."""
    atomic_write(path, as_json(facts) + b"\n")


def as_json(facts: object) -> bytes:
    """Encode as JSON, in ASCII."""
    return json.dumps(facts, allow_nan=False).encode("ascii")


def _outlines(
    result: SegmentationResult, min_area: int, simplify: float
) -> tuple[list[Region], list[Polygon], dict[str, Any]]:
    """Return regions, their polygons, and what simplification moved, as JSON."""
    regions, labels = find_regions(result.mask, result.classes, result.confidence, min_area)
    polygons = [region.polygon for region in regions]
    if simplify == 0:
        return regions, polygons, {}
    polygons = simplify_borders(polygons, simplify)
    moved = int(np.count_nonzero(rasterize(polygons, labels.shape) != labels))
    _logger.info("simplify=%g moves %d of %d pixels to another region", simplify, moved, labels.size)
    return regions, polygons, {"simplified": {"tolerance": simplify, "moved_pixels": moved, "pixels": labels.size}}


def _affine(transform: Sequence[float]) -> npt.NDArray[np.float64]:
    try:
        numbers = np.array(tuple(transform)[:6], np.float64).reshape(2, 3)
        if np.isfinite(numbers).all() and np.linalg.det(numbers[:, :2]):
            return numbers
    except (TypeError, ValueError):
        pass
    raise ConfigError(
        asked=f"to_geojson(transform={transform!r})",
        found="not the six numbers (a, b, c, d, e, f) of an affine map that can be inverted",
        done="nothing was written",
        advice="x' = a x + b y + c and y' = d x + e y + f, as `transform` of a data set of rasterio",
    )


def coco_categories(classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the categories; the id is the index of the class + 1."""
    return [{"id": index + 1, "name": name, "supercategory": ""} for index, name in enumerate(classes)]


def coco_annotations(result: SegmentationResult, min_area: int) -> Iterator[dict[str, Any]]:
    """Yield the annotation of each region, without its id and that of the image."""
    regions, labels = find_regions(result.mask, result.classes, result.confidence, min_area)
    for region, counts in zip(regions, _rle_counts(labels, len(regions)), strict=True):
        left, top, right, bottom = region.box
        yield {
            "category_id": region.class_index + 1,
            "segmentation": {"size": list(labels.shape), "counts": counts},
            "area": region.area,
            "bbox": [left, top, right - left, bottom - top],
            "iscrowd": 0,
            **({} if region.confidence is None else {"score": region.confidence}),
        }


def _rle_counts(labels: Labels, count: int) -> list[str]:
    """Return the compressed run lengths of each region, column by column, as pycocotools writes them.

    The lengths of runs outside and inside the region in turn; from the fourth on less the one before the last; in
    groups of five bits, the lowest first, with a bit that says that more follow, from the character "0" on.
    """
    if not count:
        return []
    pixels = labels.T.ravel()
    start = np.concatenate([[0], np.flatnonzero(pixels[1:] != pixels[:-1]) + 1])
    end = np.append(start[1:], pixels.size)
    inside = pixels[start] >= 0
    start, end = start[inside], end[inside]
    order = np.argsort(pixels[start], kind="stable")
    start, end, region = start[order], end[order], pixels[start[order]]
    first = np.diff(region, prepend=-1) > 0
    last = np.diff(region, append=count) > 0
    previous = np.where(first, 0, np.roll(end, 1))
    lengths = np.stack([start - previous, end - start], axis=1).ravel()
    region, first = np.repeat(region, 2), np.flatnonzero(first) * 2
    rest = pixels.size - end[last]  # behind the last run
    at = np.append(first[1:], len(lengths))[rest > 0]
    lengths, region = np.insert(lengths, at, rest[rest > 0]), np.insert(region, at, region[at - 1])
    place = np.arange(len(region)) - np.searchsorted(region, region)
    values = lengths.copy()
    values[2:] -= np.where(place[2:] > 2, lengths[:-2], 0)
    digits, used = [], []
    more = np.ones(len(values), bool)
    while more.any():
        used.append(more)
        low = values & 31
        values = values >> 5
        more = more & np.where(low & 16, values != -1, values != 0)
        digits.append((low | more * 32) + 48)
    text = np.stack(digits, axis=1).astype(np.uint8)[np.stack(used, axis=1)].tobytes().decode("ascii")
    sizes = np.bincount(region, weights=np.sum(used, axis=0), minlength=count).astype(int)
    bounds = [0, *np.cumsum(sizes).tolist()]
    return [text[bounds[number] : bounds[number + 1]] for number in range(count)]
