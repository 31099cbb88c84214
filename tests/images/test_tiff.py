"""TIFF files as cameras, microscopes and satellites write them: read by a stated rule, or refused in words."""

import logging
import struct
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from hrnet_zoo.errors import DatasetError, ImageError
from hrnet_zoo.images.label_maps import read_labels
from hrnet_zoo.images.read import read_image
from tests.support.images import pattern
from tests.support.tiffs import DEFLATE, LZW, Layout, tiff

GREY, COLORS = 1, 2
RANDOM = np.random.default_rng(0)


def values(bands: int, bits: int = 8, height: int = 21, width: int = 35) -> npt.NDArray[Any]:
    kind = {8: np.uint8, 16: np.uint16}[bits]
    return RANDOM.integers(0, 1 << bits, (height, width, bands)).astype(kind)


def refused(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read_image(data)
    assert "damaged" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    "layout",
    [
        Layout(),
        Layout(rows=4),
        Layout(separate=True, rows=4),
        Layout(tile=(16, 16)),
        Layout(tile=(16, 16), separate=True),
        Layout(compression=DEFLATE, rows=4),
        Layout(compression=DEFLATE, rows=4, predictor=2),
        Layout(compression=DEFLATE, tile=(16, 16), predictor=2, separate=True),
        Layout(compression=LZW, predictor=2),
    ],
)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
def test_sixteen_bits_however_they_are_stored(layout: Layout, order: Literal["<", ">"], big: bool) -> None:
    found = values(3, 16)
    expected = np.floor(found / 257 + 0.5)
    np.testing.assert_array_equal(read_image(tiff((found, layout), order=order, big=big)), expected)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("bands", "photometric", "extra"),
    [
        (4, COLORS, ()),
        (4, COLORS, (0,)),
        (5, COLORS, (0, 0)),
        (7, COLORS, (0, 0, 0, 0)),
        (8, COLORS, (0, 2, 0, 0, 0)),
        (3, GREY, (0, 0)),
        (4, GREY, (0, 0, 0)),
    ],
)
def test_further_bands_are_no_transparency(bits: int, bands: int, photometric: int, extra: tuple[int, ...]) -> None:
    """A fourth band of near infrared changes no color."""
    found = values(bands, bits)
    expected = np.floor(found[..., :3] / (257 if bits == 16 else 1) + 0.5)
    layout = Layout(photometric, extra)
    np.testing.assert_array_equal(read_image(tiff((found, layout))), expected)


@pytest.mark.parametrize("bits", [8, 16])
def test_stated_alpha_is_composited_on_white(bits: int) -> None:
    found = values(4, bits)
    eight = np.floor(found / (257 if bits == 16 else 1) + 0.5)
    expected = np.floor((eight[..., :3] * eight[..., 3:] + 255 * (255 - eight[..., 3:])) / 255 + 0.5)
    np.testing.assert_array_equal(read_image(tiff((found, Layout(extra=(2,))))), expected)
    gray = found[..., (0, 3)]
    np.testing.assert_array_equal(read_image(tiff((gray, Layout(GREY, (2,)))))[..., 0], expected[..., 0])


def test_bands_without_colors_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    read_image(tiff((values(3), Layout(GREY, (0, 0)))))
    assert "does not say which band is which color" in caplog.text


@pytest.mark.parametrize("tag", [281, 341])
def test_a_stated_white(tag: int, caplog: pytest.LogCaptureFixture) -> None:
    """12 bits in 16: MaxSampleValue or SMaxSampleValue is white."""
    found = values(3, 16) >> 4
    expected = np.floor(found * (255 / 4095) + 0.5)
    np.testing.assert_array_equal(read_image(tiff((found, Layout(tags={tag: 4095})))), expected)
    gray = read_image(tiff((found[..., :1], Layout(GREY, tags={tag: 4095}))))
    np.testing.assert_array_equal(gray, np.repeat(expected[..., :1], 3, axis=2))
    assert not caplog.records


def test_twelve_bits_without_a_word_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    found = values(3, 16) >> 4
    with caplog.at_level(logging.WARNING, "hrnet_zoo"):
        np.testing.assert_array_equal(read_image(tiff((found, Layout()))), np.floor(found / 257 + 0.5))
    (record,) = caplog.records
    assert "nearly black" in record.getMessage()
    assert "255 / 4095" in record.getMessage()


@pytest.mark.parametrize("order", "<>")
def test_white_is_zero_in_sixteen_bits(order: Literal["<", ">"]) -> None:
    found = values(1, 16)
    expected = 255 - np.floor(found / 257 + 0.5)
    np.testing.assert_array_equal(read_image(tiff((found, Layout(0)), order=order))[..., :1], expected)


@pytest.mark.parametrize(
    ("found", "photometric", "words"),
    [
        (values(8, 16), GREY, "8 bands of 16 bits"),
        (values(5), GREY, "5 bands of 8 bits"),
        (values(3).astype(np.float32), COLORS, "3 bands of 32 bits, floating point"),
        (values(1).astype(np.float64), GREY, "1 band of 64 bits, floating point"),
        (values(1).astype(np.int8), GREY, "1 band of 8 bits, signed integers"),
        (values(1).astype(np.int16), GREY, "1 band of 16 bits, signed integers"),
        (values(1).astype(np.uint32), GREY, "1 band of 32 bits, unsigned integers"),
    ],
)
def test_no_one_way_to_rgb(found: npt.NDArray[Any], photometric: int, words: str) -> None:
    error = refused(tiff((found, Layout(photometric))))
    assert words in error.found
    assert "np.clip((bands - low) / (high - low) * 255, 0, 255)" in error.advice


def test_camera_raw_is_not_labeled_by_its_thumbnail() -> None:
    thumbnail = values(3), Layout(tags={254: 1})
    assert "reduced images alone" in refused(tiff(thumbnail)).found
    for tags in ({50706: 0x0104}, {262: 32803}):
        data = tiff(thumbnail, (values(1), Layout(GREY, tags=tags)))
        assert "camera raw" in refused(data).found
    place = len(tiff((values(3), Layout(tags={330: 1}))))  # of a directory with the sensor's values
    below = bytearray(tiff((values(3), Layout(tags={330: place}))))
    below += struct.pack("<H", 1) + struct.pack("<HHII", 262, 3, 1, 32803) + bytes(4)
    assert "camera raw" in refused(bytes(below)).found


def overviews(full: npt.NDArray[Any], marked: bool) -> bytes:
    tags = {254: 1} if marked else {}
    return tiff((full, Layout(GREY)), *((full[::n, ::n], Layout(GREY, tags=tags)) for n in (2, 4)))


@pytest.mark.parametrize("marked", [True, False])
def test_overviews_are_passed_over(marked: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of label files too; also where they, or a mask of transparency, stand first."""
    full = values(1)
    path = tmp_path / "a.tif"
    path.write_bytes(overviews(full, marked))
    np.testing.assert_array_equal(read_labels(path), full[..., 0])
    np.testing.assert_array_equal(read_image(path)[..., :1], full)
    first = (full[::2, ::2], Layout(GREY, tags={254: 1})), (full, Layout(GREY, tags={254: 4})), (full, Layout(GREY))
    path.write_bytes(tiff(*first))
    np.testing.assert_array_equal(read_labels(path), full[..., 0])
    assert not caplog.records
    path.write_bytes(tiff((full, Layout(GREY)), (full, Layout(GREY))))
    with pytest.raises(DatasetError, match="several images"):
        read_labels(path)


def test_no_bits_lost_in_eight_bits() -> None:
    found = pattern(9, 14)
    np.testing.assert_array_equal(read_image(tiff((found, Layout()))), found)
    np.testing.assert_array_equal(read_image(tiff((found, Layout(GREY, (0, 0), tile=(16, 16), separate=True)))), found)


def test_any_orientation_of_what_pillow_cannot_read() -> None:
    found = values(3, 16)
    upright = read_image(tiff((found, Layout())))
    np.testing.assert_array_equal(read_image(tiff((found, Layout(tags={274: 6})))), np.rot90(upright, -1))


WHOLE = tiff((values(1), Layout(GREY)))


def directory(count: int, size: int) -> bytes:
    entries = b"".join(struct.pack("<HHII", 1000 + each % 30_000, 7, size, 8) for each in range(count))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entries + bytes(4)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (WHOLE.replace(struct.pack("<HHI", 273, 4, 1), struct.pack("<HHI", 273, 4, 1 << 30)), "1,073,741,824 strips"),
        (tiff((values(3), Layout(tags={259: 34887}))), "compression 34887"),
        (tiff((values(3), Layout(tags={259: 6}))), "compression 6"),
    ],
)
def test_more_than_honest_files_hold(data: bytes, words: str) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(data)
    assert words in caught.value.found


@pytest.mark.parametrize("count", [3000, 60_000])
def test_metadata_costs_nothing(count: int) -> None:
    """Tags that refer to the whole file time and again, in the image's directory and in EXIF's."""
    found = values(1)
    data = bytearray(tiff((found, Layout(GREY, tags={34665: 1}))))
    struct.pack_into("<I", data, data.index(struct.pack("<HHI", 34665, 4, 1)) + 8, len(data))
    data += directory(count, 30_000)[8:]
    np.testing.assert_array_equal(read_image(bytes(data))[..., :1], found)
    struct.pack_into("<I", data, 4, len(data))
    size = int.from_bytes(data[8:10], "little")
    more = directory(count, 30_000)[10:-4]
    data += struct.pack("<H", size + count) + data[10 : 10 + 12 * size] + more + bytes(4)
    np.testing.assert_array_equal(read_image(bytes(data))[..., :1], found)


def test_directories_of_many_numbers_cost_little() -> None:
    """One tag 60,000 times, of 100,000 numbers each, and 100 directories of such tags."""
    numbers = struct.pack("<100000I", *range(100_000))
    entry = struct.pack("<HHII", 273, 4, 100_000, 8)
    entries = b"".join(struct.pack("<HHII", tag, 4, 100_000, 8) for tag in (273, 279, 324, 325, 320, 338, 339, 347))
    once = b"II*\0" + struct.pack("<I", 8 + len(numbers)) + numbers + struct.pack("<H", 60_000) + entry * 60_000
    many = bytearray(once[: 8 + len(numbers)])
    for _ in range(100):
        many += struct.pack("<H", 8) + entries + struct.pack("<I", len(many) + 2 + len(entries) + 4)
    for data in (once + bytes(4), bytes(many)):
        start = time.process_time()
        refused_somehow(data)
        assert time.process_time() - start < 2


def refused_somehow(data: bytes) -> None:
    with pytest.raises(ImageError):
        read_image(data)


def test_endless_directories_are_not_followed() -> None:
    """3,000 images, of which 1,000 are looked at, and one that names itself as the next."""
    page = tiff((values(1, height=1, width=1), Layout(GREY)))
    many = bytearray(page)
    directory_size = len(page) - 8
    for number in range(1, 3000):
        many += page[8:]
        struct.pack_into("<I", many, 8 + number * directory_size - 5, 8 + number * directory_size)
    assert read_image(bytes(many)).shape == (1, 1, 3)
    struct.pack_into("<I", many, directory_size + 3, len(many) - 3)  # garbage behind the first image
    assert read_image(bytes(many)).shape == (1, 1, 3)
    itself = bytearray(page)
    struct.pack_into("<I", itself, len(itself) - 5, 8)
    assert read_image(bytes(itself)).shape == (1, 1, 3)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_sparse_file_is_not_read_from_its_header(bits: int) -> None:
    data = tiff((values(3, bits), Layout(tile=(16, 16))))
    (entry,) = (place for place in range(8, 250, 2) if data[place : place + 8] == struct.pack("<HHI", 324, 4, 6))
    (places,) = struct.unpack_from("<I", data, entry + 8)
    assert "sparse" in refused(data[:places] + bytes(4) + data[places + 4 :]).found


def test_pack_bits_has_no_predictor() -> None:
    """As in libtiff, which ignores the tag."""
    found = values(3, 16, width=16)
    rows = [row.astype("<u2").tobytes() for row in found]
    literal = b"".join(bytes([len(row) - 1]) + row for row in rows)  # of 96 bytes each
    data = bytearray(tiff((np.zeros((1, 1, 3), np.uint16), Layout(compression=32773, predictor=2))))
    for tag, value in ((256, 16), (257, 21), (278, 21), (273, len(data)), (279, len(literal))):
        place = next(place for place in range(10, 250, 12) if struct.unpack_from("<H", data, place)[0] == tag)
        struct.pack_into("<I", data, place + 8, value)
    expected = np.floor(found / 257 + 0.5)
    np.testing.assert_array_equal(read_image(bytes(data) + literal), expected)
