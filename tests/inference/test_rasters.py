"""GeoTIFFs and GeoJSON: channels, ranges, pixels with data, areas, polygons."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrnet_zoo.datasets import CITYSCAPES, VAIHINGEN
from hrnet_zoo.errors import ConfigError, DatasetError, ImageError
from hrnet_zoo.images.read import read_image
from hrnet_zoo.inference.rasters import Place, areas_of, open_scene, read_polygons

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*matmul:PendingDeprecationWarning",
    "ignore:Dataset has no geotransform",  # both within rasterio
)

from rasterio.transform import from_bounds, from_origin  # noqa: E402
from rasterio.warp import transform_geom  # noqa: E402

from tests.support.rasters import CORNER, UTM, write  # noqa: E402

CHANCE = np.random.default_rng(0)
EIGHT = CHANCE.integers(0, 256, (20, 30, 3), np.uint8)
SIXTEEN = CHANCE.integers(0, 4096, (20, 30, 5), np.uint16)


def seen(path: Path, **given: Any) -> tuple[Any, Any]:
    given = {"bands": None, "value_range": None, "dataset": CITYSCAPES, **given}
    with open_scene(path, **given) as scene:
        return scene.read(Place(slice(0, scene.raster.height), slice(0, scene.raster.width)))


def test_8_bits_are_taken_as_they_are(tmp_path: Path) -> None:
    rgb, valid = seen(write(tmp_path / "a.tif", EIGHT))
    assert np.array_equal(rgb, EIGHT)
    assert np.array_equal(rgb, read_image(tmp_path / "a.tif"))
    assert valid.all()
    assert np.array_equal(seen(tmp_path / "a.tif", bands=(3, 1, 2))[0], EIGHT[..., [2, 0, 1]])
    assert np.array_equal(seen(tmp_path / "a.tif", bands=(2,))[0], EIGHT[..., [1, 1, 1]])
    gray, _ = seen(write(tmp_path / "gray.tif", EIGHT[..., :1]))
    assert np.array_equal(gray, EIGHT[..., [0, 0, 0]])
    named = write(tmp_path / "bgr.tif", EIGHT)
    with rasterio.open(named, "r+") as raster:
        raster.colorinterp = [rasterio.enums.ColorInterp[name] for name in ("blue", "green", "red")]
    assert np.array_equal(seen(named)[0], EIGHT[..., ::-1])


def test_16_bits_have_a_stated_range(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", SIXTEEN)
    rgb, _ = seen(path, bands=(4, 3, 2), value_range=(100, 3100))
    exact = (SIXTEEN[..., [3, 2, 1]].astype(float) - 100) * 255 / 3000
    assert np.abs(rgb - exact.clip(0, 255)).max() <= 0.5 + 1e-9
    full = write(tmp_path / "full.tif", SIXTEEN[..., :1] * 16)
    assert np.array_equal(seen(full, value_range=(0, 65535))[0], read_image(full))  # the rule of images
    twelve = write(tmp_path / "twelve.tif", SIXTEEN, nbits=12)
    assert np.array_equal(seen(twelve, bands=(1, 2, 3))[0], seen(path, bands=(1, 2, 3), value_range=(0, 4095))[0])
    with pytest.raises(
        ImageError, match=r"uint16.*in a sample 2 % are below [\d.]+, 98 % below 40[\d.]+\s[^|]*--range \d"
    ):
        seen(path, bands=(1, 2, 3))
    with pytest.raises(ConfigError, match="the first is smaller"):
        seen(path, bands=(1, 2, 3), value_range=(3, 3))


def test_what_has_no_data(tmp_path: Path) -> None:
    """By the nodata value in all bands, by an alpha band, and what is not a number."""
    values = EIGHT.copy()
    values[:5] = 0
    values[7, 7] = 0, 9, 9
    _, valid = seen(write(tmp_path / "value.tif", values, nodata=0))
    assert np.array_equal(valid, values.any(axis=2))
    assert valid[7, 7]
    alpha = np.dstack([EIGHT, np.where(EIGHT[..., 0] > 99, 255, 0)]).astype(np.uint8)
    rgb, valid = seen(write(tmp_path / "alpha.tif", alpha, photometric="rgb", alpha="yes"))
    assert np.array_equal(valid, alpha[..., 3] > 0)
    assert np.array_equal(rgb, EIGHT)
    real = EIGHT / np.float32(255)
    real[3, 4, 1] = np.nan
    rgb, valid = seen(write(tmp_path / "real.tif", real), value_range=(0, 1))
    assert np.argwhere(~valid).tolist() == [[3, 4]]
    assert np.array_equal(rgb[valid], EIGHT[valid])


def test_a_fourth_band_that_the_network_takes_is_no_alpha(tmp_path: Path) -> None:
    values = np.dstack([EIGHT, EIGHT[..., :1] // 2])
    values[:5, :, 3] = 0
    dataset = CITYSCAPES.with_bands(["red", "green", "blue", "nir"], [9] * 4, [1] * 4)
    path = write(tmp_path / "a.tif", values)
    with rasterio.open(path) as raster:
        assert raster.colorinterp[3].name == "alpha"  # which GDAL writes unless told otherwise
    found, valid = seen(path, dataset=dataset)
    assert np.array_equal(found, values)
    assert valid.all()


@pytest.mark.parametrize(
    ("values", "profile", "given", "found"),
    [
        (EIGHT, {"crs": None}, {}, "no coordinate reference system"),
        (EIGHT, {"transform": None}, {}, "no transform"),
        (SIXTEEN, {}, {}, "5 bands, called gray"),
        (EIGHT, {}, {"bands": (1, 2, 4)}, r"bands=\(1, 2, 4\)"),
        (EIGHT, {}, {"bands": (1, 2)}, r"bands=\(1, 2\)"),
        (
            EIGHT,
            {},
            {"dataset": VAIHINGEN},
            "say which three, from 1 on, are near infrared, red",
        ),
        (EIGHT.astype(np.int32), {}, {}, "values of type int32"),
        (EIGHT.astype(np.complex64), {}, {"value_range": (0, 1)}, "complex64"),
        (EIGHT, {"crs": "EPSG:4326", "transform": rasterio.Affine(1e-5, 1e-6, 9, 0, -1e-5, 48)}, {}, "west to east"),
    ],
)
def test_refused(tmp_path: Path, values: Any, profile: Any, given: Any, found: str) -> None:
    path = write(tmp_path / "a.tif", values, **profile)
    with pytest.raises(ImageError, match=found):
        seen(path, **given)


def test_no_geotiff(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        seen(tmp_path / "missing.tif")
    (tmp_path / "text.tif").write_text("II*")
    with pytest.raises(ImageError, match=r"text\.tif"):
        seen(tmp_path / "text.tif")
    whole = write(tmp_path / "a.tif", EIGHT, compress="deflate")
    (tmp_path / "cut.tif").write_bytes(whole.read_bytes()[:-900])
    with pytest.raises(ImageError, match=r"cut\.tif"):
        seen(tmp_path / "cut.tif")


def areas(tmp_path: Path, **profile: Any) -> Any:
    path = write(tmp_path / "area.tif", np.zeros((180, 36, 1), np.uint8), **profile)
    with open_scene(path, None, None, CITYSCAPES) as scene:
        return scene.areas


def test_areas_of_pixels(tmp_path: Path) -> None:
    assert areas(tmp_path, pixel=0.5).tolist() == [0.25] * 180
    feet = areas(tmp_path, pixel=1.0, crs="EPSG:2263")  # of the US survey
    assert feet == pytest.approx(np.full(180, (1200 / 3937) ** 2), rel=1e-6)
    world = areas(tmp_path, crs="EPSG:4326", transform=from_bounds(-180, -90, 180, 90, 36, 180))
    assert 36 * world.sum() == pytest.approx(510_065_621.724e6, rel=1e-9)  # the surface of WGS 84, in square meters
    sine, cosine = np.sin(np.radians(59.5)), np.cos(np.radians(59.5))
    radii = 6378137**2 * (1 - 0.00669438) / (1 - 0.00669438 * sine**2) ** 2  # of curvature, their product
    assert world[30] == pytest.approx(radii * cosine * np.radians(1) * np.radians(10), rel=1e-4)
    web = areas(tmp_path, crs="EPSG:3857", transform=from_origin(1_500_000, 6_300_000, 10, 10))
    plane = areas(tmp_path, crs=UTM, transform=from_origin(*CORNER, 10, 10))
    assert web[0] / plane[0] == pytest.approx(np.cos(np.radians(49.1)) ** 2, rel=0.01)


def test_polygons(tmp_path: Path) -> None:
    """In the CRS of the raster, in WGS 84, or in one that is named."""
    left, top = CORNER
    corners = [(left + x, top - y) for x, y in ((5, 5), (5, 15), (12, 15), (12, 5), (5, 5))]
    square = {"type": "Polygon", "coordinates": [corners]}
    crs = rasterio.CRS.from_string(UTM)
    named = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::3857"}}

    def read(geometry: Any, **more: Any) -> Any:
        feature = {"type": "Feature", "geometry": geometry, "properties": {"name": "field"}}
        path = tmp_path / "a.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature, geometry], **more}))
        polygons = read_polygons(path, crs)
        assert [each.name for each in polygons] == ["field", "2"]
        return polygons[0].geometry["coordinates"][0]

    for found in (
        read(square),
        read(transform_geom(UTM, "EPSG:4326", square)),
        read(transform_geom(UTM, "EPSG:3857", square), crs=named),
    ):
        assert np.array(found) == pytest.approx(np.array(corners), abs=1e-3)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"type": "Point", "coordinates": [1, 2]}', '{"type": "FeatureCollection", "features": [{}]}']
)
def test_no_polygons(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(DatasetError, match="no GeoJSON file of polygons"):
        read_polygons(path, rasterio.CRS.from_string(UTM))


def test_areas_of_labels() -> None:
    labels = np.array([[0, 1, 1], [255, 1, 7]], np.uint8)
    found = areas_of(labels, np.array([1.0, 10.0]))
    assert {index: found[index] for index in np.flatnonzero(found)} == {0: 1, 1: 12, 7: 10, 255: 10}
