"""GeoJSON, COCO and LabelMe: their readers find the mask again, to the bit."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from hrnet_zoo.errors import ConfigError
from hrnet_zoo.inference.polygons import area, rasterize
from hrnet_zoo.inference.result import SegmentationResult
from tests.support.masks import random_mask

CLASSES = ("road", "sky", 'a "quoted"\n<b>name</b>', "naïve", "tree")
PALETTE = tuple((40 * index, 200 - 40 * index, 90) for index in range(5))


def made(mask: npt.NDArray[np.uint8], confidence: npt.NDArray[np.float16] | None = None) -> SegmentationResult:
    image = np.zeros((*mask.shape, 3), np.uint8)
    return SegmentationResult(image, mask, CLASSES, PALETTE, confidence=confidence)


def random_result(seed: int) -> SegmentationResult:
    mask = random_mask(seed, longest=40)
    return made(mask, np.random.default_rng(seed).random(mask.shape).astype(np.float16))


def read_coco(counts: str, size: list[int]) -> npt.NDArray[np.bool_]:
    """Decode compressed run lengths, one character after another."""
    lengths: list[int] = []
    value = shift = 0
    for character in counts:
        low = ord(character) - 48
        value |= (low & 31) << shift
        shift += 5
        if not low & 32:
            value -= (1 << shift) * bool(low & 16)
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    pixels = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return pixels.reshape(size[::-1]).T


@pytest.mark.parametrize("seed", range(20))
def test_geojson_gives_the_mask_back(seed: int) -> None:
    """Through text, and with the rasterizer that other tests check."""
    result = random_result(seed)
    collection = json.loads(json.dumps(result.to_geojson(), allow_nan=False))
    assert collection.keys() == {"type", "features"}
    polygons, indices = [], []
    for feature in collection["features"]:
        rings = [np.array(ring, np.int32) for ring in feature["geometry"]["coordinates"]]
        assert all((ring[0] == ring[-1]).all() for ring in rings)
        polygons.append(tuple(ring[:-1] for ring in rings))
        indices.append(CLASSES.index(feature["properties"]["class"]))
        assert feature["properties"]["holes"] == len(rings) - 1
        assert 0 <= feature["properties"]["confidence"] <= 1
    assert np.array_equal(np.array(indices)[rasterize(polygons, result.mask.shape)], result.mask)
    assert sum(feature["properties"]["area"] for feature in collection["features"]) == result.mask.size
    assert sum(feature["properties"]["share"] for feature in collection["features"]) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(20))
def test_rasterio_reads_geojson(seed: int) -> None:
    features = pytest.importorskip("rasterio.features")
    result = random_result(seed)
    shapes = [
        (each["geometry"], CLASSES.index(each["properties"]["class"])) for each in result.to_geojson()["features"]
    ]
    assert np.array_equal(features.rasterize(shapes, result.mask.shape, fill=254, dtype="uint8"), result.mask)


@pytest.mark.filterwarnings("ignore:.*matmul:PendingDeprecationWarning")  # within rasterio
def test_rasterio_reads_geojson_with_a_transform() -> None:
    """North up: y shrinks downward, and exteriors still run counterclockwise."""
    features = pytest.importorskip("rasterio.features")
    transform = pytest.importorskip("affine").Affine(0.25, 0, 500000, 0, -0.25, 5400000)
    result = random_result(2)
    collection = result.to_geojson(transform=transform)
    shapes = [(each["geometry"], CLASSES.index(each["properties"]["class"])) for each in collection["features"]]
    raster = features.rasterize(shapes, result.mask.shape, fill=254, transform=transform, dtype="uint8")
    assert np.array_equal(raster, result.mask)


def test_transform_maps_every_point() -> None:
    result = made(np.zeros((2, 3), np.uint8))
    (feature,) = result.to_geojson(transform=(2, 0, 10, 0, -2, 50))["features"]
    ring = feature["geometry"]["coordinates"][0]
    assert sorted(map(tuple, ring[:-1])) == [(10, 46), (10, 50), (16, 46), (16, 50)]
    assert area(np.array(ring[:-1], np.int32)) == 24
    assert result.to_geojson(transform=(1, 0, 0, 0, 1, 0)) == result.to_geojson()


@pytest.mark.parametrize("transform", [(1, 2, 3), (1, 1, 0, 1, 1, 0), (1, 0, float("nan"), 0, 1, 0)])
def test_no_transform(transform: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="that can be inverted"):
        made(np.zeros((2, 3), np.uint8)).to_geojson(transform=transform)


def test_simplify_says_what_it_moves() -> None:
    pytest.importorskip("shapely", "2.1")
    result = random_result(12)
    collection = result.to_geojson(simplify=1.5)
    rings = [[np.array(ring[:-1], np.int32) for ring in each["geometry"]["coordinates"]]
             for each in collection["features"]]  # fmt: skip
    exact = [each.polygon for each in result.regions()]
    found = rasterize([tuple(polygon) for polygon in rings], result.mask.shape)
    moved = int((found != rasterize(exact, result.mask.shape)).sum())
    assert collection["simplified"] == {"tolerance": 1.5, "moved_pixels": moved, "pixels": result.mask.size}
    assert moved > 0
    assert result.to_labelme("a.png", simplify=1.5)["simplified"] == collection["simplified"]


def test_simplify_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    result = random_result(1)
    with pytest.raises(ConfigError, match="no length"):
        result.to_geojson(simplify=-1)
    monkeypatch.setitem(sys.modules, "shapely", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[geo\]'"):
        result.to_labelme("a.png", simplify=1)


@pytest.mark.parametrize("seed", range(20))
def test_coco_run_lengths(seed: int) -> None:
    result = random_result(seed)
    data = json.loads(json.dumps(result.to_coco("a.jpg")))
    mask = np.full(result.mask.shape, 255, np.uint8)
    for annotation in data["annotations"]:
        pixels = read_coco(annotation["segmentation"]["counts"], annotation["segmentation"]["size"])
        assert annotation["area"] == pixels.sum()
        assert (mask[pixels] == 255).all()
        mask[pixels] = annotation["category_id"] - 1
    assert np.array_equal(mask, result.mask)
    assert [category["name"] for category in data["categories"]] == list(CLASSES)
    assert data["images"] == [
        {"id": 1, "file_name": "a.jpg", "width": result.mask.shape[1], "height": result.mask.shape[0]}
    ]


def test_coco_large_runs() -> None:
    """Of several characters, and falling ones."""
    mask = np.zeros((3000, 40), np.uint8)
    mask[5:2990, 3:20] = 1
    mask[7, 9] = 2
    data = made(mask).to_coco("a.jpg")
    for annotation in data["annotations"]:
        segmentation = annotation["segmentation"]
        pixels = read_coco(segmentation["counts"], segmentation["size"])
        assert np.array_equal(pixels, mask == annotation["category_id"] - 1)


@pytest.mark.parametrize("seed", range(20))
def test_labelme_drawn_in_its_order(seed: int) -> None:
    """What lies in a hole comes later."""
    result = random_result(seed)
    data: dict[str, Any] = json.loads(json.dumps(result.to_labelme("a.jpg")))
    height, width = data["imageHeight"], data["imageWidth"]
    mask = np.full((height, width), 255, np.uint8)
    for shape in data["shapes"]:
        inside = rasterize([(np.array(shape["points"], np.int32),)], (height, width)) == 0
        mask[inside] = CLASSES.index(shape["label"])
    assert np.array_equal(mask, result.mask)
    assert data["imagePath"] == "a.jpg"


def test_the_path_of_the_image_is_the_default() -> None:
    result = random_result(3)
    for method in (result.to_coco, result.to_labelme):
        with pytest.raises(ConfigError, match="an image that was no file"):
            method()
    known = dataclasses.replace(result, path=Path("photos/é.jpg"))
    assert known.to_coco()["images"][0]["file_name"] == "photos/é.jpg"
    assert known.to_labelme()["imagePath"] == "é.jpg"
    assert known.to_labelme("../é.jpg")["imagePath"] == "../é.jpg"


def test_labelme_loses_a_hole_that_nothing_fills() -> None:
    """As the documentation says; and its own drawing is a pixel wider."""
    mask = np.zeros((9, 9), np.uint8)
    mask[4, 4] = 255
    (shape,) = made(mask).to_labelme("a.jpg")["shapes"]
    assert shape["points"] == [[0, 0], [9, 0], [9, 9], [0, 9]]
    mask[2:5, 2:5] = 1
    shape = made(mask).to_labelme("a.jpg")["shapes"][1]
    drawn = Image.new("L", (9, 9))
    ImageDraw.Draw(drawn).polygon([tuple(point) for point in shape["points"]], outline=1, fill=1)
    assert np.count_nonzero(np.asarray(drawn)) == 16


def test_nothing_is_labeled() -> None:
    result = made(np.full((3, 4), 255, np.uint8))
    assert result.to_geojson() == {"type": "FeatureCollection", "features": []}
    assert result.to_coco("a.jpg")["annotations"] == []
    assert result.to_labelme("a.jpg")["shapes"] == []
