"""Maps: labels by windows, COG, hectares, polygons, and what may go wrong."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import hrnet_zoo
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.errors import ConfigError, ImageError, OutputError
from hrnet_zoo.inference.maps import predict_map
from hrnet_zoo.inference.masks import make_mask
from hrnet_zoo.inference.predict import evaluating, view_logits
from hrnet_zoo.models.fcn import FCNHRNet


@pytest.fixture(scope="module")
def model() -> FCNHRNet:
    return hrnet_zoo.create_model("demo", device="cpu")


def test_without_rasterio(model: FCNHRNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[geo\]'"):
        predict_map(model, "a.tif", tmp_path / "b.tif")


rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore:.*matmul:PendingDeprecationWarning")  # within rasterio

from tests.support.rasters import CORNER, write  # noqa: E402


def whole(model: FCNHRNet, image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    with evaluating(model) as network:
        return make_mask(view_logits(network, [image], slide=False, flip=False), *image.shape[:2])


def labels(path: Path) -> npt.NDArray[np.uint8]:
    with rasterio.open(path) as raster:
        found: npt.NDArray[np.uint8] = raster.read(1)
    return found


def test_a_map_is_a_cog_on_the_same_grid(model: FCNHRNet, tmp_path: Path) -> None:
    image = scene(0, 300, 600).image.copy()
    image[:40, :50] = 0
    source, out = write(tmp_path / "a.tif", image, nodata=0), tmp_path / "map.tif"
    report = predict_map(model, source, out)
    assert (report.windows, report.empty_windows, report.resolution) == (1, 0, 0.5)
    with rasterio.open(source) as before, rasterio.open(out) as after:
        assert (after.crs, after.transform, after.shape) == (before.crs, before.transform, before.shape)
        assert after.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert after.overviews(1) == [2]
        assert after.block_shapes == [(512, 512)]
        assert after.nodata == 255
        assert [after.colormap(1)[index][:3] for index in range(19)] == list(model.palette)
        assert [after.tags(1)[f"CLASS_{index}"] for index in range(19)] == list(model.classes)
        assert after.tags()["MODEL"] == "demo"
        found = after.read(1)
    valid = image.any(axis=2)
    assert np.array_equal(found, np.where(valid, whole(model, image), 255))
    counts = np.bincount(found.ravel(), minlength=256)
    assert list(report.hectares.values()) == [count * 0.25 / 1e4 for count in counts[:19]]
    assert sum(report.hectares.values()) == pytest.approx(valid.sum() * 0.25 / 1e4)
    sidecar = (tmp_path / "map.tif.aux.xml").read_text()
    assert "<Category>road</Category><Category>sidewalk</Category>" in sidecar
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "map.tif", "map.tif.aux.xml"]


def test_windows_equal_the_whole_image_where_the_overlap_exceeds_what_the_network_sees(
    model: FCNHRNet, tmp_path: Path
) -> None:
    """W18-Small sees 573 pixels. Images of other sizes round otherwise, so that a rare pixel may differ."""
    image = np.hstack([scene(seed, 64, 512).image[:32] for seed in range(4)])
    expected = whole(model, image)
    source = write(tmp_path / "a.tif", image)
    differing = []
    for overlap, window in ((576, 1408), (96, 448), (0, 256)):
        predict_map(model, source, tmp_path / "map.tif", window=window, overlap=overlap, force=True)
        differing.append(int((labels(tmp_path / "map.tif") != expected).sum()))
    assert differing[0] <= 1
    assert differing[0] < differing[1] < differing[2]


def test_windows_without_data_are_skipped(model: FCNHRNet, tmp_path: Path) -> None:
    image = np.zeros((64, 256, 3), np.uint8)
    image[:, 100:120] = 200
    source = write(tmp_path / "a.tif", image, nodata=0)
    report = predict_map(model, source, tmp_path / "map.tif", window=64, overlap=0)
    assert (report.windows, report.empty_windows) == (1, 3)
    assert np.array_equal(labels(tmp_path / "map.tif") < 255, image.any(axis=2))
    image[:] = 0
    with pytest.raises(ImageError, match="no pixel with data"):
        predict_map(model, write(tmp_path / "b.tif", image, nodata=0), tmp_path / "b_map.tif")
    assert not list(tmp_path.glob("*b_map*"))


def test_bands_and_range(model: FCNHRNet, tmp_path: Path) -> None:
    image = scene(1, 64, 96).image
    values = np.dstack([image[..., ::-1], image[..., 0]]).astype(np.uint16) * 10 + 300
    source = write(tmp_path / "a.tif", values)
    report = predict_map(model, source, tmp_path / "map.tif", bands=(3, 2, 1), value_range=(300, 2850))
    assert np.array_equal(labels(tmp_path / "map.tif"), whole(model, image))
    assert (report.bands, report.value_range) == ((3, 2, 1), (300, 2850))


def test_resolution(model: FCNHRNet, tmp_path: Path) -> None:
    """The network sees other pixels, and the labels are on the grid of the scene."""
    image = scene(1, 96, 192).image
    source, out = write(tmp_path / "a.tif", image, pixel=0.25), tmp_path / "map.tif"
    assert predict_map(model, source, out, resolution=0.5).resolution == 0.5
    small = np.asarray(Image.fromarray(image).resize((96, 48), Image.Resampling.BILINEAR))
    with evaluating(model) as network:
        views = view_logits(network, [small], slide=False, flip=False)
    assert np.array_equal(labels(out), make_mask(views, 96, 192))
    assert (labels(out) != whole(model, image)).any()
    predict_map(model, source, out, resolution=0.251, force=True)
    assert np.array_equal(labels(out), whole(model, image))
    with pytest.raises(ConfigError, match="too far apart"):
        predict_map(model, source, out, resolution=10, force=True)
    with pytest.raises(ConfigError, match="a resolution of 0 meters"):
        predict_map(model, source, out, resolution=0, force=True)


def test_choices_of_predict(model: FCNHRNet, tmp_path: Path) -> None:
    source, out = write(tmp_path / "a.tif", scene(2, 64, 96).image), tmp_path / "map.tif"
    report = predict_map(model, source, out, classes={"green": ["vegetation", "terrain"]}, min_confidence=0.9)
    assert list(report.hectares) == ["green", "other"]
    assert set(np.unique(labels(out))) == {0, 1, 255}
    predict_map(model, source, out, ms_flip=True, force=True)
    assert (labels(out) != whole(model, scene(2, 64, 96).image)).any()


def test_hectares_within_polygons(model: FCNHRNet, tmp_path: Path) -> None:
    image = scene(3, 64, 96).image
    source = write(tmp_path / "a.tif", image, pixel=10.0)
    left, top = CORNER

    def field(*box: float) -> dict[str, Any]:
        x0, y0, x1, y1 = box
        ring = [[left + 10 * x, top - 10 * y] for x, y in ((x0, y0), (x0, y1), (x1, y1), (x1, y0), (x0, y0))]
        return {"type": "Feature", "id": 7, "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}

    fields = {"type": "FeatureCollection", "features": [field(8, 4, 90, 60), field(-50, 0, -9, 9)]}
    (tmp_path / "fields.geojson").write_text(json.dumps(fields))
    report = predict_map(model, source, tmp_path / "map.tif", polygons=tmp_path / "fields.geojson")
    (name, inside), (_, outside) = report.polygons
    mask = labels(tmp_path / "map.tif")[4:60, 8:90]
    assert name == "7"
    assert inside == {each: (mask == index).sum() / 100 for index, each in enumerate(model.classes)}
    assert sum(inside.values()) == pytest.approx(82 * 56 / 100)
    assert set(outside.values()) == {0}


def test_refused(model: FCNHRNet, tmp_path: Path) -> None:
    source, out = write(tmp_path / "a.tif", scene(1, 64, 96).image), tmp_path / "map.tif"
    out.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        predict_map(model, source, out)
    for arguments, found in (
        ({"out": tmp_path / "map.png"}, "the ending '.png'"),
        ({"overlap": 512, "window": 1024}, "windows of 1024 pixels with an overlap of 512"),
        ({"overlap": -1}, "an overlap"),
    ):
        with pytest.raises(ConfigError, match=found):
            predict_map(model, source, **{"out": out, "force": True, **arguments})  # type: ignore[arg-type]
    before = source.read_bytes()
    with pytest.raises(OutputError, match="it is the scene"):
        predict_map(model, source, source, force=True)
    assert source.read_bytes() == before
    assert out.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "map.tif"]


def test_an_interruption_leaves_nothing(model: FCNHRNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "a.tif", scene(1, 64, 192).image)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    for step in ("areas_of", "_write_cog"):
        with monkeypatch.context() as patch:
            patch.setattr(f"hrnet_zoo.inference.maps.{step}", interrupted)
            with pytest.raises(KeyboardInterrupt):
                predict_map(model, source, tmp_path / "map.tif", window=64, overlap=0)
        assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


BANDS = ("red", "green", "blue", "nir")


@pytest.fixture(scope="module")
def four_bands() -> FCNHRNet:
    return hrnet_zoo.create_model("demo", bands=BANDS, mean=(90, 95, 100, 4000), std=(58, 57, 57, 900), device="cpu")


def test_a_network_of_other_bands_takes_them_as_they_are_stored(four_bands: FCNHRNet, tmp_path: Path) -> None:
    image = scene(0, 128, 256).image.astype(np.float32)
    image = np.dstack([image, 4000 + image[..., 0]])
    source = write(tmp_path / "a.tif", image)
    report = predict_map(four_bands, source, tmp_path / "map.tif")
    assert (report.bands, report.value_range) == ((1, 2, 3, 4), None)
    expected = whole(four_bands, image)
    assert len(np.unique(expected)) > 3
    np.testing.assert_array_equal(labels(tmp_path / "map.tif"), expected)
    # In another order, described, with a band more, and a part that has no data in one band, or NaN.
    image[:40, :50, 3], image[100:, :, 0] = -1, np.nan
    names = ["NIR", "other", "green", "red", "blue"]
    write(tmp_path / "b.tif", image[..., [3, 0, 1, 0, 2]], nodata=-1)
    with rasterio.open(tmp_path / "b.tif", "r+") as raster:
        raster.descriptions = names
    report = predict_map(four_bands, tmp_path / "b.tif", tmp_path / "b_map.tif", resolution=0.9)
    assert report.bands == (4, 3, 5, 1)
    found = labels(tmp_path / "b_map.tif")
    assert (found[100:] == 255).all()
    assert (found[:100] != 255).all()
    predict_map(four_bands, tmp_path / "b.tif", tmp_path / "c_map.tif", bands=(4, 3, 5, 1))
    same = labels(tmp_path / "c_map.tif")[60:80] == expected[60:80]
    assert same.mean() > 0.9  # the rows below became the mean


def test_other_bands_that_are_not_there(four_bands: FCNHRNet, tmp_path: Path) -> None:
    source = write(tmp_path / "a.tif", scene(0, 64, 64).image)
    for bands in (None, (1, 2, 3), (1, 2, 3, 4), (0, 1, 2, 3)):
        with pytest.raises(ImageError, match="say which 4, from 1 on, are red, green, blue, nir"):
            predict_map(four_bands, source, tmp_path / "map.tif", bands=bands)
    with pytest.raises(ConfigError, match="takes the values of red, green, blue, nir as they are stored"):
        predict_map(four_bands, source, tmp_path / "map.tif", bands=(1, 2, 3, 1), value_range=(0, 1))
