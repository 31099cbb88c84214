"""Campaign: polygons of 200 random masks and of the demo scenes, read by rasterio and pycocotools."""

import json
from pathlib import Path

import numpy as np
import pytest

from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.inference.result import SegmentationResult
from tests.support.masks import random_mask

CLASSES = tuple(f"class {index}" for index in range(19))
SCENES = range(8)  # those of `hrnet-zoo demo`


def results() -> list[SegmentationResult]:
    masks = [random_mask(seed, longest=120) for seed in range(200)]
    masks += [scene(seed).mask for seed in SCENES]
    black = (0, 0, 0)
    return [SegmentationResult(np.zeros((*mask.shape, 3), np.uint8), mask, CLASSES, 19 * (black,)) for mask in masks]


def test_rasterio_gives_every_mask_back() -> None:
    features = pytest.importorskip("rasterio.features")
    different = regions = holes = 0
    for result in results():
        found = json.loads(json.dumps(result.to_geojson()))["features"]
        shapes = [(each["geometry"], each["properties"]["class_index"]) for each in found]
        raster = features.rasterize(shapes, result.mask.shape, fill=255, dtype="uint8")
        different += int((raster != result.mask).sum())
        regions += len(found)
        holes += sum(each["properties"]["holes"] for each in found)
    print(f"{regions} polygons, {holes} holes, {different} pixels differ")  # noqa: T201
    assert different == 0
    assert holes > 1000


def test_shapely_finds_valid_coverages() -> None:
    shapely = pytest.importorskip("shapely", "2.1")
    for result in results():
        shapes = [shapely.Polygon(exterior, holes) for exterior, *holes in (each.polygon for each in result.regions())]
        assert all(shapely.is_valid(shapes))
        assert shapely.coverage_is_valid(shapes)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # within pycocotools
def test_pycocotools_reads_every_mask(tmp_path: Path) -> None:
    tool = pytest.importorskip("pycocotools.coco")
    for number, result in enumerate(results()):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(result.to_coco("a.jpg")), encoding="utf-8")
        data = tool.COCO(str(path))
        mask = np.full(result.mask.shape, 255, np.uint8)
        for annotation in data.loadAnns(data.getAnnIds()):
            mask[data.annToMask(annotation) == 1] = annotation["category_id"] - 1
        assert np.array_equal(mask, result.mask)
