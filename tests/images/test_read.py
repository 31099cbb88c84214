"""Images: every mode and format by exact pixels, damage by its message, resize and normalize by the reference."""

import io
import logging
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hrnet_zoo.errors import ImageError, ImageTooLargeError
from hrnet_zoo.images.preprocess import MEAN, STD, _normalize_there, keep_ratio_size, normalize, normalize_on, resize
from hrnet_zoo.images.read import ImageLike, read_image
from tests.support.images import (
    WHITE,
    Bad,
    Good,
    bad_images,
    encode,
    good_images,
    palette_image,
    pattern,
    png,
)

GOOD: dict[str, Good] = good_images()
BAD: dict[str, Bad] = bad_images()


def refused(kind: type[ImageError], image: object) -> ImageError:
    """Return the error of this kind that reading must end in, complete and printable."""
    with pytest.raises(kind) as caught:
        read_image(image)  # type: ignore[arg-type]  # other types are what is tested
    error = caught.value
    assert all((error.asked, error.found, error.done, error.advice, error.source))
    assert str(error).isprintable() or "\n" in str(error)
    return error


# --- the corpus: 131 files ---------------------------------------------------------------------------------------


def test_the_corpus_is_large() -> None:
    assert len(GOOD) >= 70
    assert len(BAD) >= 50


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file(name: str, tmp_path: Path) -> None:
    """Exact pixels, whatever the file is called; of lossy formats within a few levels."""
    good = GOOD[name]
    path = tmp_path / "photo.tar.gz"
    path.write_bytes(good.data)
    rgb = read_image(path)
    assert rgb.shape == good.pixels.shape
    assert int(np.abs(rgb.astype(int) - good.pixels).max()) <= good.tolerance


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stated error, and no other program is started."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("an image started another program"))
    path = tmp_path / "photo.jpg"
    path.write_bytes(BAD[name].data)
    error = refused(BAD[name].error, path)
    assert BAD[name].words in error.found
    assert str(path) in str(error)
    assert len(str(error)) < 1000


# --- what comes out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (Image.new("1", (2, 1), 1), WHITE),
        (Image.new("L", (2, 1), 77), [77, 77, 77]),
        (palette_image(), [10, 20, 30]),
        (Image.new("RGB", (2, 1), (10, 20, 30)), [10, 20, 30]),
        (Image.new("CMYK", (2, 1), (0, 255, 255, 0)), [255, 0, 0]),
        (Image.new("CMYK", (2, 1), (0, 0, 0, 100)), [155, 155, 155]),
        (Image.new("YCbCr", (2, 1), (100, 128, 128)), [100, 100, 100]),
        # alpha: round((color * a + 255 * (255 - a)) / 255)
        (Image.new("RGBA", (2, 1), (10, 20, 30, 255)), [10, 20, 30]),
        (Image.new("RGBA", (2, 1), (10, 20, 30, 128)), [132, 137, 142]),
        (Image.new("RGBA", (2, 1), (10, 20, 30, 0)), WHITE),
        (Image.new("LA", (2, 1), (100, 255)), [100, 100, 100]),
        (Image.new("LA", (2, 1), (100, 128)), [177, 177, 177]),
        (Image.new("LA", (2, 1), (100, 0)), WHITE),
        (palette_image().convert("PA"), [10, 20, 30]),
        (encode(palette_image(), "PNG", transparency=b"\xff\x80"), [132, 137, 142]),
        (encode(palette_image(), "PNG", transparency=1), WHITE),
        (encode(palette_image(), "GIF", transparency=1), WHITE),
        (encode(Image.new("L", (2, 1), 9), "PNG", transparency=9), WHITE),
        (encode(Image.new("RGB", (2, 1), (1, 2, 3)), "PNG", transparency=(1, 2, 3)), WHITE),
        # 16 bits: round(v / 257) in gray, the high byte in color
        (Image.fromarray(np.full((1, 2), 40000, np.uint16)), [156, 156, 156]),
        (encode(Image.fromarray(np.full((1, 2), 383, np.uint16)), "PNG"), [1, 1, 1]),
        (encode(Image.fromarray(np.full((1, 2), 386, np.uint16)), "TIFF"), [2, 2, 2]),
        (encode(Image.fromarray(np.full((1, 2), 65535, np.uint16)), "PNG"), WHITE),
        (encode(Image.fromarray(np.full((1, 2), 40000, np.uint16)), "PNG", transparency=40000), WHITE),
        (Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 40000, 40000)), [156, 156, 156]),
        (png(1, 1, 16, 2, b"\0" + struct.pack(">3H", 40000, 511, 65535)), [156, 1, 255]),
        (png(1, 1, 16, 6, b"\0" + struct.pack(">4H", 40000, 40000, 40000, 0)), WHITE),
        (encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100), [255, 0, 0]),
    ],
)
def test_every_mode_by_its_pixels(image: ImageLike, pixel: list[int]) -> None:
    """Each mode has an exact rule."""
    rgb = read_image(image)
    assert rgb.dtype == np.uint8
    assert rgb.ndim == 3
    assert rgb.flags.c_contiguous
    assert rgb[0, 0].tolist() == pixel


def test_alpha_is_rounded_to_the_nearest_level() -> None:
    """All 65,536 pairs of color and alpha, as array and as PIL image."""
    color, alpha = np.meshgrid(np.arange(256), np.arange(256))
    rgba = np.stack([color, color, color, alpha], axis=2).astype(np.uint8)
    expected = np.floor((color * alpha + 255 * (255 - alpha)) / 255 + 0.5)
    for image in (rgba, Image.fromarray(rgba)):
        assert np.array_equal(read_image(image)[:, :, 1], expected)


@pytest.mark.parametrize("orientation", range(1, 10))
@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_orientation_as_displayed(orientation: int, file_format: str) -> None:
    """The array lies as a viewer shows the photo."""
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :16], stored[8:, :16], stored[:8, 16:] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    displayed = {
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(stored),
    }.get(orientation, stored)  # 9 is not defined: ignored
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    data = encode(Image.fromarray(stored), file_format, exif=exif, **options.get(file_format, {}))
    for image in (data, Image.open(io.BytesIO(data))):
        rgb = read_image(image)
        assert rgb.shape == displayed.shape
        assert int(np.abs(rgb.astype(int) - displayed).max()) <= (3 if file_format == "JPEG" else 0)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "BMP", "TIFF", "PPM"])
def test_lossless_formats_from_file_and_bytes(file_format: str, tmp_path: Path) -> None:
    """The content decides, not the ending."""
    expected = pattern(13, 17)
    data = encode(Image.fromarray(expected), file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    path = tmp_path / "content decides.jpg"
    path.write_bytes(data)
    for image in (data, path, str(path)):
        assert np.array_equal(read_image(image), expected)


@pytest.mark.parametrize("file_format", ["JPEG", "GIF", "MPO", "AVIF"])
def test_lossy_formats(file_format: str, caplog: pytest.LogCaptureFixture) -> None:
    """Colors come close; an MPO with its preview raises no warning."""
    options = {"save_all": True, "append_images": [Image.new("RGB", (32, 24))]} if file_format == "MPO" else {}
    rgb = read_image(encode(Image.new("RGB", (32, 24), (200, 100, 50)), file_format, **options))
    assert rgb.shape == (24, 32, 3)
    assert np.abs(rgb.astype(int) - (200, 100, 50)).max() <= 6
    assert not caplog.records


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_image_of_several_with_one_warning(
    file_format: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Animations and pages."""
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "lime")]
    path = tmp_path / "several"
    options = {"lossless": True} if file_format == "WEBP" else {}
    path.write_bytes(encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options))
    with caplog.at_level(logging.WARNING, "hrnet_zoo"):
        assert read_image(path)[0, 0].tolist() == [255, 0, 0]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} holds several images; the first one was taken"
    ]


def test_broken_exif_leaves_the_pixels(caplog: pytest.LogCaptureFixture) -> None:
    """Broken EXIF is told and does not cost the photo."""
    expected = pattern(4, 5)
    for exif in (b"garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff"):
        assert np.array_equal(read_image(encode(Image.fromarray(expected), "PNG", exif=exif)), expected)
    assert ["broken EXIF" in record.getMessage() for record in caplog.records] == [True, True]


def test_arrays_and_tensors() -> None:
    """Any memory order in, a fresh C-contiguous copy out."""
    expected = pattern(5, 7)
    backwards = np.ascontiguousarray(expected[:, ::-1])[:, ::-1]
    chw = torch.tensor(expected).permute(2, 0, 1)
    locked = expected.copy()
    locked.flags.writeable = False
    for image in (expected, backwards, locked, np.asfortranarray(expected), chw, chw.contiguous()):
        rgb = read_image(image)
        assert np.array_equal(rgb, expected)
        assert rgb.flags.c_contiguous
        assert rgb.flags.writeable
        assert not np.shares_memory(rgb, expected)
    gray = read_image(expected[:, :, 0])
    assert np.array_equal(gray, np.repeat(expected[:, :, :1], 3, axis=2))
    smallest = np.full((1, 1, 3), 9, np.uint8)
    assert np.array_equal(read_image(smallest), smallest)


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "MPO"])
def test_truncated_files(file_format: str, tmp_path: Path) -> None:
    """No format gives half an image."""
    path = tmp_path / "half.jpg"
    data = encode(Image.fromarray(pattern(40, 50)), file_format)
    path.write_bytes(data[: len(data) * 2 // 3])
    error = refused(ImageError, path)
    assert error.source == str(path)
    assert "damaged or incomplete" in error.found


def test_no_flipped_bit_changes_a_png_unnoticed() -> None:
    """Checksums are verified, those of the pixels too."""
    expected = pattern(5, 6)
    data = encode(Image.fromarray(expected), "PNG")
    errors = 0
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1
        try:
            assert np.array_equal(read_image(bytes(flipped)), expected)
        except ImageError:
            errors += 1
    assert errors > len(data) * 0.9


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"hello", "it begins with b'hello'"),
        (b"<!doctype html><html>no such file</html>", "it begins with b'<!doctype html>"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it begins with b'%!PS-Adobe"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"\0\0\0\x18ftypheic\0\0\0\0heicmif1", "none of the formats"),
        (b"\xff\xd8\xff\xe0", "damaged or incomplete"),
    ],
)
def test_no_image(content: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages, documents and scripts named .jpg; no other program is started."""

    def no_program(*_: object, **__: object) -> None:
        pytest.fail("an image started another program")

    monkeypatch.setattr(subprocess, "Popen", no_program)
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    assert words in refused(ImageError, path).found
    assert words in refused(ImageError, content).found


def test_paths_that_hold_no_file(tmp_path: Path) -> None:
    """Missing, folder, NUL, far too long, addresses."""
    missing = refused(ImageError, tmp_path / "missing.jpg")
    assert missing.found == "No such file or directory"
    assert "working folder" in missing.advice
    assert refused(ImageError, tmp_path).found == "a folder"
    assert "null" in refused(ImageError, "a\0b").found
    assert "(5000 characters)" in refused(ImageError, "x" * 5000).source
    for address in ("https://example.org/a.jpg", "S3://bucket/a.png", "data:image/png;base64,iVBORw0KGgo="):
        assert "download the file first" in refused(ImageError, address).advice
    assert refused(ImageError, "C://Users/me/a.jpg").found == "No such file or directory"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX file kinds and names")
def test_pipes_and_odd_names(tmp_path: Path) -> None:
    """A pipe does not block; a name that is not UTF-8 can be printed, and read."""
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(ImageError, tmp_path / "pipe").found
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    refused(ImageError, name).asked.encode("utf-8")
    Path(name).write_bytes(encode(Image.fromarray(pattern(2, 3)), "PNG"))
    assert np.array_equal(read_image(name), pattern(2, 3))


@pytest.mark.parametrize("mode", ["I", "F", "LAB", "HSV", "RGBa", "La"])
def test_modes_without_a_way_to_rgb(mode: str) -> None:
    """No guess at the range of values."""
    assert f"mode {mode!r}" in refused(ImageError, Image.new(mode, (2, 2))).found


def test_float_tiff_is_refused_and_not_black() -> None:
    """Pillow's own conversion would make 0..1 black."""
    error = refused(ImageError, encode(Image.fromarray(np.full((2, 2), 0.5, np.float32)), "TIFF"))
    assert "floating point" in error.found


@pytest.mark.parametrize(
    ("image", "found", "advice"),
    [
        (np.zeros((2, 3, 3), np.float32), "dtype float32 and shape (2, 3, 3)", "(x * 255).round()"),
        (np.zeros((2, 3, 3), np.uint16), "dtype uint16", "x / 257"),
        (np.zeros((2, 3), bool), "dtype bool", "to uint8"),
        (np.zeros((2, 3, 3), np.int64), "dtype int64", "to uint8"),
        (np.zeros((3, 8, 8), np.uint8), "shape (3, 8, 8)", "np.moveaxis(array, 0, -1)"),
        (np.zeros((8, 8, 1), np.uint8), "shape (8, 8, 1)", "(height, width) gray"),
        (np.zeros((8, 8, 5), np.uint8), "shape (8, 8, 5)", "(height, width, 3) RGB"),
        (np.zeros((2, 8, 8, 3), np.uint8), "shape (2, 8, 8, 3)", "a list"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels", "at least 1 x 1"),
        (Image.new("RGB", (0, 3)), "no pixels (0 x 3)", "at least 1 x 1"),
        (torch.zeros(3, 2, 2), "dtype float32 and shape (3, 2, 2)", "to uint8"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "shape (2, 3, 4, 4)", "a list"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), "shape (8, 8, 3)", "tensor.permute(2, 0, 1)"),
        (torch.zeros(8, 8, dtype=torch.uint8), "shape (8, 8)", "(3, height, width) RGB"),
        (torch.zeros(3, 0, 8, dtype=torch.uint8), "no pixels", "at least 1 x 1"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8, device="meta"), "device meta", "with data"),
        (None, "builtins.NoneType", "pass a path"),
        (io.BytesIO(b"x"), "_io.BytesIO", "the file's bytes"),
    ],
)
def test_other_inputs_name_what_was_given(image: object, found: str, advice: str) -> None:
    """The message names dtype and shape, and the way out."""
    error = refused(ImageError, image)
    assert found in error.found
    assert advice in error.advice


@pytest.mark.parametrize("size", [(8001, 8000), (10000, 10000), (20000, 20000), (2**31 - 1, 2**31 - 1)])
def test_more_pixels_than_the_limit(size: tuple[int, int]) -> None:
    """Judged by the header, at any claimed size, without a warning."""
    error = refused(ImageTooLargeError, png(*size, 1, 0, bytes(1000)))
    assert isinstance(error, ImageTooLargeError)
    assert f"{size[0] * size[1]:,} pixels; the limit is 64,000,000" in error.found


def test_other_bombs() -> None:
    """What Pillow's readers stop themselves ends in our errors too."""
    gif = bytearray(encode(Image.new("P", (1, 1)), "GIF"))
    frame = gif.index(b",", 13)
    for side in (10000, 60000):  # a first frame larger than the image it claims to be in
        gif[frame + 5 : frame + 9] = struct.pack("<HH", side, side)
        refused(ImageError, bytes(gif))
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + struct.pack("<I", 16382)[:3] * 2
    refused(ImageError, b"RIFF" + struct.pack("<I", 22) + b"WEBP" + canvas)


# KiB since the process began; ru_maxrss would begin with the peak of the parent.
PEAK = 'peak = lambda: int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])'


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory as Linux tells it")
def test_a_bomb_costs_no_memory(tmp_path: Path) -> None:
    """The peak of a process of its own."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png(10000, 10000, 1, 0, bytes(10000 * 1251)))  # valid: it would decode to 300 MB
    assert path.stat().st_size < 22_000
    code = (
        "import sys\n"
        "from hrnet_zoo.errors import ImageTooLargeError\n"
        "from hrnet_zoo.images.read import read_image\n"
        f"{PEAK}\n"
        "before = peak()\n"
        "try:\n    read_image(sys.argv[1])\n"
        "except ImageTooLargeError:\n    print(peak() - before)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own code
    assert int(run.stdout) < 100_000  # decoded, it is 300 MB
    assert run.stderr == ""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory as Linux tells it")
def test_the_largest_image_takes_bounded_memory(tmp_path: Path) -> None:
    """64 megapixels with alpha, to be turned: 244 MiB as decoded, twice while they are turned, 183 MiB in the end."""
    path = tmp_path / "large.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    path.write_bytes(png(8000, 8000, 8, 6, bytes(8000 * 32001), (b"eXIf", exif.tobytes()[6:])))
    code = (
        "import sys\n"
        "from hrnet_zoo.images.read import read_image\n"
        f"{PEAK}\n"
        "before = peak()\n"
        "assert read_image(sys.argv[1])[7999, 0].tolist() == [255, 255, 255]\n"
        "print(peak() - before)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own code
    assert int(run.stdout) < 600 << 10


def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image converted in parts is the same image, and one that is the caller's stays as it is."""
    colors = np.dstack([pattern(13, 17), pattern(17, 13).reshape(13, 17, 3)[:, :, 0]])
    for mode in ("RGB", "RGBA", "LA", "P", "CMYK", "L", "1"):
        image = Image.fromarray(colors).convert("RGB" if mode in ("P", "CMYK") else "RGBA").convert(mode)
        image.getexif()[0x0112] = 5
        before = image.tobytes()
        monkeypatch.setattr("hrnet_zoo.images.read._PIXELS_AT_ONCE", 1 << 20)
        whole = read_image(image)
        monkeypatch.setattr("hrnet_zoo.images.read._PIXELS_AT_ONCE", 40)
        assert np.array_equal(read_image(image), whole)
        assert whole.shape == (17, 13, 3)
        assert (image.size, image.tobytes()) == ((17, 13), before)


# --- size and scale ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        ((1024, 2048), (2048, 1024), (1024, 2048)),
        ((427, 640), (2048, 1024), (1024, 1535)),
        ((288, 512), (1024, 2048), (1024, 1820)),
        ((512, 683), (2048, 512), (512, 683)),
        ((500, 333), (520, 520), (520, 346)),
        ((3, 10000), (520, 520), (1, 520)),
        ((1, 5000), (520, 520), (1, 520)),
    ],
)
def test_keep_ratio_size(size: tuple[int, int], box: tuple[int, int], expected: tuple[int, int]) -> None:
    """The reference's rounding, and sides of at least 1."""
    assert keep_ratio_size(*size, box) == expected


@pytest.mark.parametrize(
    ("old", "new", "crc"),  # CRC-32 of what OpenCV 4.14.0 makes of the pattern: cv2.resize(pattern, (width, height))
    [
        ((37, 53), (64, 92), 4052180333),
        ((53, 37), (20, 30), 559837187),
        ((40, 60), (20, 30), 2756347362),
        ((1, 7), (5, 3), 2143269007),
        ((7, 1), (3, 5), 2920079309),
        ((128, 256), (97, 131), 3419981563),
        ((97, 131), (211, 300), 2104885218),
        ((2, 2), (9, 9), 234920361),
    ],
)
def test_resize_equals_opencv(old: tuple[int, int], new: tuple[int, int], crc: int) -> None:
    """Bit for bit, up and down."""
    resized = resize(pattern(*old), *new)
    assert resized.shape == (*new, 3)
    assert zlib.crc32(resized.tobytes()) == crc


def test_resize_basics() -> None:
    """Same size, flat color, half-pixel centers, halves."""
    image = pattern(6, 8)
    assert resize(image, 6, 8) is image
    assert np.array_equal(resize(np.full((5, 9, 3), 255, np.uint8), 300, 2), np.full((300, 2, 3), 255))
    assert resize(np.array([[[0], [100]]], np.uint8), 1, 4).ravel().tolist() == [0, 25, 75, 100]
    assert resize(image, 3, 4)[0, 0, 0] == (int(image[:2, :2, 0].sum()) + 2) // 4


def test_normalize() -> None:
    """Values, shape, memory order."""
    image = pattern(6, 8)
    tensor = normalize(image)
    assert tensor.shape == (1, 3, 6, 8)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    expected = (image.astype(np.float64) - MEAN) / STD
    assert np.allclose(tensor[0].permute(1, 2, 0).numpy(), expected, rtol=0, atol=1e-6)


def test_normalize_on_a_device_gives_the_same_bits() -> None:
    """Every level of every channel, by what CUDA computes with."""
    image = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2).repeat(2, axis=1)
    for found in (_normalize_there(torch.from_numpy(image)), normalize_on(image, torch.device("cpu"))):
        assert torch.equal(found, normalize(image))
        assert found.stride() == normalize(image).stride()
        assert found.dtype == torch.float32


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_normalize_on_cuda_gives_the_same_bits() -> None:
    image = pattern(300, 500)
    found = normalize_on(image, torch.device("cuda"))
    assert found.device.type == "cuda"
    assert torch.equal(found.cpu(), normalize(image))
    assert torch.equal(found.half().cpu(), normalize(image).half())


@pytest.mark.parametrize("name", ["3dogs.jpg", "color.jpg", "frankfurt_000000_000294_leftImg8bit.png"])
def test_preprocessing_equals_the_reference(name: str, shared: Path) -> None:
    """The tensor that the reference feeds its network."""
    expected = load_file(shared / "golden" / "expected.safetensors")[f"{name}.preprocessed_every_8th"]
    image = read_image(shared / "pictures" / name)
    height, width = keep_ratio_size(image.shape[0], image.shape[1], (2048, 1024))
    tensor = normalize(resize(image, height, width))[:, :, ::8, ::8]
    if name.endswith(".png"):
        assert torch.equal(tensor, expected)
    levels = (tensor - expected).abs() * torch.tensor(STD).view(1, 3, 1, 1)
    # JPEG decoders may differ by a level or so from the one that the reference used.
    assert float(levels.max()) < 1.01
    assert float((levels > 0.01).float().mean()) <= 0.002
