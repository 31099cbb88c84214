"""Maps of the command `predict`."""

import json
from pathlib import Path

import numpy as np
import pytest

from hrnet_zoo.demo.scenes import scene
from tests.cli.conftest import Run

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore:.*matmul:PendingDeprecationWarning")  # within rasterio

from rasterio.features import rasterize  # noqa: E402

from tests.support.rasters import CORNER, write  # noqa: E402


def test_a_map_with_hectares(run: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", scene(0, 64, 128).image, pixel=10.0)
    left, top = CORNER
    ring = [[left, top], [left, top - 640], [left + 500, top - 640], [left + 500, top], [left, top]]
    (tmp_path / "p.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    out, table = tmp_path / "map.tif", tmp_path / "hectares.csv"
    arguments = ("predict", "demo", source, "--out", out, "--device", "cpu")
    files = ("--polygons", tmp_path / "p.geojson", "--table", table, "--geojson")
    text = run(*arguments, *files, "--window", "64", "--overlap", "0")
    assert text.startswith(f"{out}: ")
    assert "\npolygon 1: " in text
    header, row = table.read_text().splitlines()
    assert header.startswith("polygon,road,sidewalk,")
    assert sum(map(float, row.split(",")[1:])) == pytest.approx(50 * 64 / 100)
    regions = json.loads((tmp_path / "map.geojson").read_text())
    assert regions["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    shapes = [(each["geometry"], each["properties"]["class_index"]) for each in regions["features"]]
    with rasterio.open(out) as raster:
        found = rasterize(shapes, raster.shape, fill=255, transform=raster.transform, dtype="uint8")
        assert np.array_equal(found, raster.read(1))
    run(*arguments, code=5)
    assert "exists already" in run.err
    facts = json.loads(run(*arguments, "--force", "--json", "--bands", "3,2,1", "--range", "0,200"))
    assert (facts["path"], facts["bands"], facts["value_range"]) == (str(out), [3, 2, 1], [0, 200])
    assert sum(facts["hectares"].values()) == pytest.approx(64 * 128 / 100)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["a.tif", "--bands", "1,2,3"], "--bands: for maps alone, which --out names: --out map.tif"),
        (["a.tif", "--range", "0,9"], "--range: for maps alone"),
        (["a.tif", "b.tif", "--out", "map.tif"], "a map is made of one GeoTIFF"),
        (["a.tif", "--out", "map.tif", "--no-overlay"], "--overlay is for images"),
        (["a.tif", "--out", "map.tif", "--bands", "1,x"], "is not some numbers"),
        (["a.tif", "--out", "map.tif", "--range", "1"], "is not 2 numbers"),
    ],
)
def test_usage(run: Run, arguments: list[str], found: str) -> None:
    run("predict", "demo", *arguments, code=2)
    assert found in run.err


def test_without_a_crs(run: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", scene(0, 64, 64).image, crs=None)
    run("predict", "demo", source, "--out", tmp_path / "map.tif", code=5)
    assert "no coordinate reference system" in run.err
    assert not list(tmp_path.glob("map*"))
