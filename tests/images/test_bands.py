"""Images of other bands: their values as stored, or refused in words before they cost anything."""

import io
import struct
import tracemalloc
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

from hrnet_zoo.errors import ImageError, ImageTooLargeError
from hrnet_zoo.images import bands, formats
from hrnet_zoo.images.bands import measure_bands, open_bands, read_bands, resize_bands, view_bands
from hrnet_zoo.images.capture import Capture, read_capture
from hrnet_zoo.images.preprocess import normalize, resize
from tests.support.tiffs import DEFLATE, LZW, Layout, tiff

NAMES = ("red", "green", "blue", "nir")


def values(dtype: str, count: int = 4, height: int = 21, width: int = 35) -> npt.NDArray[Any]:
    drawn = np.random.default_rng(0).uniform(0, 250, (height, width, count))
    return drawn.astype(dtype)


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def npy(array: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "f2", "f4", "f8"])
@pytest.mark.parametrize(
    "layout",
    [
        Layout(rows=4),
        Layout(photometric=1, separate=True, rows=4),
        Layout(extra=(0,), compression=DEFLATE, tile=(16, 16)),
        Layout(extra=(1,), compression=LZW),
    ],
)
@pytest.mark.parametrize("order", "<>")
def test_tiff(layout: Layout, dtype: str, order: Literal["<", ">"], tmp_path: Path) -> None:
    expected = values(dtype)
    path = saved(tmp_path / "a.tif", tiff((expected, layout), order=order, big=order == ">"))
    found = read_bands(path, NAMES)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.astype(np.float32))
    with open_bands(path, NAMES) as header:
        assert header.displayed == (35, 21)


def test_tiff_of_another_writer(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    for dtype, options in (
        ("float32", {"compress": "zstd", "tiled": True, "blockxsize": 16, "blockysize": 16}),
        ("float32", {"compress": "deflate", "predictor": 2}),
        ("float32", {"compress": "lzw", "predictor": 3, "tiled": True, "blockxsize": 16, "blockysize": 16}),
        ("float32", {"compress": "deflate", "predictor": 3, "interleave": "band", "blockysize": 4}),
        ("float64", {"compress": "zstd", "predictor": 3}),
        ("uint16", {"compress": "lzw", "predictor": 2, "interleave": "band"}),
        ("int16", {"compress": "deflate", "predictor": 2}),
        ("uint8", {}),
    ):
        expected = values(dtype, count=6)
        place = rasterio.Affine(2, 0, 0, 0, -2, 0)
        with rasterio.open(
            tmp_path / "a.tif",
            "w",
            driver="GTiff",
            count=6,
            dtype=dtype,
            width=35,
            height=21,
            transform=place,
            **options,
        ) as file:
            file.write(expected.transpose(2, 0, 1))
        np.testing.assert_array_equal(read_bands(tmp_path / "a.tif", "abcdef"), expected.astype(np.float32))


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "f2", "<f4", ">f8", "i8"])
@pytest.mark.parametrize("order", "CF")
def test_npy_and_arrays(dtype: str, order: Literal["C", "F"], tmp_path: Path) -> None:
    array = np.asarray(values(dtype), order=order)
    path = saved(tmp_path / "a.npy", npy(array))
    for image in (path, str(path), array):
        found = read_bands(image, NAMES)
        np.testing.assert_array_equal(found, array.astype(np.float32))
        assert found.flags.c_contiguous
        assert not np.shares_memory(found, array)
    gray = values("f4", 1)
    np.testing.assert_array_equal(read_bands(gray[..., 0], ["depth"]), gray)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npy(values("u1", 3)), r"21 x 35 x 3 where height, width and 4 bands \(red, green, blue, nir\) are expected"),
        (npy(values("u1")[..., 0]), "the shape 21 x 35 where"),
        (npy(np.zeros((0, 3, 4))), "no pixels"),
        (npy(values("c8")), "values of dtype complex64"),
        (npy(values("?")), "values of dtype bool"),
        (npy(np.full((2, 2, 4), np.nan)), "not a number: red, green, blue, nir"),
        (npy(np.where(np.arange(4) == 3, np.inf, values("f4"))), "not a number: nir"),
        (npy(np.full((2, 2, 4), 1e300)), "infinite"),
        (npy(values("u2"))[:-1], "not as many bytes as 21 x 35 x 4 values have"),
        (npy(values("u2"))[:60], "damaged"),
        (npy(np.array([[[{}] * 4]], dtype=object)), "values of dtype object"),
        (npy(values("u1")).replace(b"(21, 35, 4), ", b"(2, 3, 4     "), "damaged"),
        (npy(values("u1")).replace(b"(21, 35, 4), ", b"(" * 13), "damaged"),
        (npy(values("u1")).replace(b"(21, 35, 4)", b"(-1, 35, 4)"), "no pixels"),
        (npy(values("u1")).replace(b"NUMPY\x01", b"NUMPY\x03"), "damaged"),
        (tiff((values("u1", 3), Layout())), "21 x 35 x 3 where"),
        (tiff((values("u4"), Layout(predictor=3))), "a TIFF of compression 1, predictor 3"),
        (tiff((values("u1", 4), Layout(photometric=6))), "photometric interpretation 6"),
        (tiff((values("f4"), Layout(compression=7))), "a TIFF of compression 7, predictor 1"),
        (tiff((np.full((2, 2, 4), np.nan, "f4"), Layout())), "not a number"),
        (tiff((np.full((2, 2, 4), 1e300), Layout())), "infinite"),
        (tiff((values("f4"), Layout(rows=4)))[:900], "damaged"),
        (b"\x89PNG\r\n\x1a\n", "neither a TIFF nor a .npy file; it begins with"),
        (b"", "neither a TIFF nor a .npy file"),
    ],
)
def test_refused(data: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=words):
        read_bands(saved(tmp_path / "a.tif", data), NAMES)


def test_refused_before_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for shape in (b"(7999,800, 4)", b"(9999,9999,4)"):
        claims = npy(values("u1")).replace(b"(21, 35, 4), ", shape)
        with pytest.raises(ImageError, match=r"damaged|the limit is"):
            read_bands(saved(tmp_path / "a.npy", claims), NAMES)
    honest = tiff((values("u1"), Layout()))
    claims = honest.replace(struct.pack("<HHII", 277, 3, 1, 4), struct.pack("<HHII", 277, 4, 1, 1 << 28))
    tracemalloc.start()
    with pytest.raises(ImageError, match=f"{1 << 28} bands"):
        read_bands(saved(tmp_path / "a.tif", claims), NAMES)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()
    monkeypatch.setattr(formats, "MAX_PIXELS", 100)
    for data in (npy(values("u1")), tiff((values("u1"), Layout()))):
        with pytest.raises(ImageTooLargeError, match="35 x 21 = 735 pixels; the limit is 100"):
            read_bands(saved(tmp_path / "a", data), NAMES)


def test_the_first_of_several_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = values("u1"), values("u1", height=5)
    found = read_bands(saved(tmp_path / "a.tif", tiff((first, Layout()), (second, Layout()))), NAMES)
    np.testing.assert_array_equal(found, first)
    assert "a.tif holds several images; the first one was taken" in caplog.text


def test_masked_values_are_no_values() -> None:
    array = np.ma.masked_equal(np.arange(16).reshape(2, 2, 4), 3)
    with pytest.raises(ImageError, match="masked values"):
        read_bands(array, NAMES)
    assert read_bands(array.filled(5), NAMES)[0, 0, 3] == 5


def test_what_is_no_path_and_no_array(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"pass a path, or an array \(height, width, 4\): red, green, blue, nir"):
        read_bands(torch.zeros(4, 8, 8), NAMES)
    with pytest.raises(ImageError, match="No such file"):
        read_bands(tmp_path / "absent.npy", NAMES)
    with pytest.raises(ImageError, match="a folder"):
        read_bands(tmp_path, NAMES)


def test_resized_as_torch_does() -> None:
    image = values("f4")
    for height, width in ((40, 17), (7, 70), (21, 35), (1, 1), (21, 50)):
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
        expected = F.interpolate(tensor, (height, width), mode="bilinear")[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(resize(image, height, width), expected, atol=1e-3)
    before = image.copy()
    resize_bands(image, 30, 30)
    np.testing.assert_array_equal(image, before)


def test_normalized_by_their_own_statistics() -> None:
    image, mean, std = values("f4"), (1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0)
    x = normalize(image, mean, std)
    np.testing.assert_allclose(x[0].permute(1, 2, 0), (image - np.array(mean)) / np.array(std), rtol=1e-5)


def test_view() -> None:
    image = np.array([[[0, 1, 2, 3], [4, 5, 6, 7]]], np.float32)
    mean, std = (2, 3, 4, 5), (1, 1, 1, 1)
    assert view_bands(image, ("nir", "Blue", "green", "red"), mean, std).tolist() == [[[0, 0, 0], [255, 255, 255]]]
    colors = view_bands(image, ("nir", "blue", "green", "red"), (2, 3, 2, 3), std)
    assert colors.tolist() == [[[128, 128, 0], [255, 255, 255]]]  # 127.5 rounds to even
    gray = view_bands(image[..., :2], ("depth", "height"), mean[:2], std[:2])
    assert gray.tolist() == [[[0] * 3, [255] * 3]]


def test_measured_over_all_pixels(tmp_path: Path) -> None:
    images = [values("u2", height=height) for height in (3, 30)]
    paths = [saved(tmp_path / f"{index}.npy", npy(image)) for index, image in enumerate(images)]
    mean, std = measure_bands(paths, NAMES)
    together = np.concatenate([image.reshape(-1, 4) for image in images])
    np.testing.assert_allclose(mean, together.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(std, together.std(axis=0), rtol=1e-5)


def test_no_capture_data(tmp_path: Path) -> None:
    for data in (npy(values("u1")), tiff((values("f4"), Layout()))):
        assert read_capture(saved(tmp_path / "a", data)) == Capture()


def test_suffixes_are_those_of_images() -> None:
    assert set(bands.SUFFIXES) == {".tif", ".tiff", ".npy"}
