"""Label files: the values as they are stored, or a reason why there are none."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrnet_zoo.errors import DatasetError, ImageError, ImageTooLargeError
from hrnet_zoo.images.formats import open_image
from hrnet_zoo.images.label_maps import read_labels

VALUES = np.arange(256, dtype=np.uint8).reshape(16, 16)


def png(path: Path, width: int, height: int, depth: int, color: int, rows: bytes) -> Path:
    """Write a PNG from packed rows, of a kind that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "gif"])
def test_gray_values(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(VALUES).save(path)
    values = read_labels(path)
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(values, VALUES)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "gif"])
@pytest.mark.parametrize("count", [2, 3, 16, 200])
def test_palette_indices(ending: str, count: int, tmp_path: Path) -> None:
    image = Image.fromarray(VALUES % count)
    image.putpalette([level for index in range(256) for level in (255 - index, index * 7 % 256, 40)])
    image.save(tmp_path / f"a.{ending}", optimize=False)
    np.testing.assert_array_equal(read_labels(tmp_path / f"a.{ending}"), VALUES % count)


def test_transparency_is_no_label(tmp_path: Path) -> None:
    image = Image.fromarray(VALUES)
    image.save(tmp_path / "gray.png", transparency=3)
    image.putpalette(list(range(256)) * 3)
    image.save(tmp_path / "palette.png", transparency=3)
    for name in ("gray.png", "palette.png"):
        np.testing.assert_array_equal(read_labels(tmp_path / name), VALUES)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif"])
def test_one_bit_is_0_and_1(ending: str, tmp_path: Path) -> None:
    Image.fromarray(VALUES % 3 == 1).save(tmp_path / f"a.{ending}")
    np.testing.assert_array_equal(read_labels(tmp_path / f"a.{ending}"), VALUES % 3 == 1)


def test_two_and_four_bits_are_not_stretched(tmp_path: Path) -> None:
    two = png(tmp_path / "two.png", 4, 1, depth=2, color=0, rows=b"\x00\x1b")
    four = png(tmp_path / "four.png", 4, 1, depth=4, color=0, rows=b"\x00\x0f\x27")
    np.testing.assert_array_equal(read_labels(two), [[0, 1, 2, 3]])
    np.testing.assert_array_equal(read_labels(four), [[0, 15, 2, 7]])


def test_the_content_decides_not_the_ending(tmp_path: Path) -> None:
    Image.fromarray(VALUES).save(tmp_path / "a.jpg", "PNG")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.jpg"), VALUES)


@pytest.mark.parametrize(
    ("name", "mode", "kind"),
    [
        ("a.png", "RGB", "RGB mask"),
        ("a.png", "RGBA", "RGBA mask"),
        ("a.png", "LA", "LA mask"),
        ("a.bmp", "RGB", "RGB mask"),
        ("a.tif", "CMYK", "CMYK mask"),
        ("a.jpg", "L", "JPEG mask"),
        ("a.jpg", "RGB", "JPEG mask"),
        ("a.webp", "RGB", "WEBP mask"),
        ("a.pgm", "L", "PPM mask"),
        ("a.png", "I;16", "16-bit mask"),
        ("a.tif", "I;16", "16-bit mask"),
    ],
)
def test_no_label_file(name: str, mode: str, kind: str, tmp_path: Path) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / name)
    with pytest.raises(DatasetError) as caught:
        read_labels(tmp_path / name)
    assert (caught.value.found, caught.value.path) == (kind, tmp_path / name)
    assert caught.value.advice
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(("mode", "words"), [("I", "32 bits, signed integers"), ("F", "32 bits, floating point")])
def test_a_tiff_that_is_not_read(mode: str, words: str, tmp_path: Path) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=words):
        read_labels(tmp_path / "a.tif")


def test_backward_gray_and_several_images(tmp_path: Path) -> None:
    Image.fromarray(VALUES).save(tmp_path / "a.tif", tiffinfo={262: 0})  # photometric: white is zero
    with pytest.raises(DatasetError, match="inverted mask"):
        read_labels(tmp_path / "a.tif")
    frames = [Image.fromarray(VALUES), Image.fromarray(VALUES[::-1])]
    frames[0].save(tmp_path / "b.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(DatasetError, match="several images"):
        read_labels(tmp_path / "b.tif")


def test_unreadable_files(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 19, (40, 40), np.uint8)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("<html>")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "short.png").write_bytes(data[:-40])
    at = data.index(b"IDAT") + 60
    (tmp_path / "flipped.png").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    expected = {
        "empty": "an empty file",
        "text": "none of the formats",
        "folder": "a folder",
        "short": "damaged",
        "flipped": "damaged",
        "absent": "No such file",
    }
    for name, found in expected.items():
        with pytest.raises(ImageError) as caught:
            read_labels(tmp_path / f"{name}.png")
        assert caught.value.found.startswith(found)
        assert caught.value.source == str(tmp_path / f"{name}.png")


def test_a_header_that_claims_too_much(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", 30_000, 30_000, depth=8, color=0, rows=b"")
    with (
        pytest.raises(
            ImageTooLargeError,
            match=r"30000 x 30000 = 900,000,000 pixels; the limit is 64,000,000[\s\S]*make it smaller",
        ),
        open_image(path),
    ):
        pass


def test_a_header_is_enough(tmp_path: Path) -> None:
    Image.fromarray(VALUES).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: data.index(b"IDAT") + 8])
    with open_image(tmp_path / "a.png", whole=False) as image:
        assert image.size == (16, 16)


def test_errors_of_the_block_that_are_not_the_files_pass(tmp_path: Path) -> None:
    Image.fromarray(VALUES).save(tmp_path / "a.png")
    with pytest.raises(DatasetError, match="mine"), open_image(tmp_path / "a.png"):
        raise DatasetError(asked="mine", found="", done="", advice="", path=tmp_path)


def test_real_labels(shared: Path) -> None:
    for name in ("frankfurt_000000_000294_gtFine_labelIds.png", "demo.png"):
        path = shared / "pictures" / name
        with Image.open(path) as image:
            np.testing.assert_array_equal(read_labels(path), np.asarray(image))
    with pytest.raises(DatasetError, match="RGBA mask"):
        read_labels(shared / "pictures" / "3dogs_mask.png")
