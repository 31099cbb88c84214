"""Files that claim more than they hold: refused by what they would cost, before anything is unpacked."""

import io
import logging
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrnet_zoo.errors import ImageError
from hrnet_zoo.images.formats import open_image
from hrnet_zoo.images.label_maps import read_labels
from hrnet_zoo.images.read import read_image
from tests.support.images import encode, pattern, png

PIXELS = pattern(16, 16)
IMAGE = Image.fromarray(PIXELS)
PNG, JPEG, GIF = encode(IMAGE, "PNG"), encode(IMAGE, "JPEG"), encode(IMAGE.convert("P"), "GIF")
WEBP = encode(IMAGE, "WEBP", lossless=True)
IDAT = PNG.index(b"IDAT") - 4
FRAME = GIF.index(b",", 13 + (3 << (GIF[10] & 7) + 1))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def scans(side: int, count: int) -> bytes:
    """Return a gray progressive JPEG with `count` empty refinement scans of some 20 bytes each."""
    blocks = (side // 8) ** 2
    coded = bytearray()
    bits = "".join("0" + f"{max(min(blocks - at, 32767) - 16384, 0):014b}" for at in range(0, blocks, 32767))
    for at in range(0, len(bits), 8):
        coded.append(int(bits[at : at + 8].ljust(8, "1"), 2))
        coded += b"\0" * (coded[-1] == 255)
    head = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    head += segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
    head += segment(0xC4, bytes([0, 1, *[0] * 15, 0])) + segment(0xC4, bytes([16, 1, *[0] * 15, 0xE0]))
    first = segment(0xDA, b"\1\1\0\0\0\0") + bytes(-(-blocks // 8)) + segment(0xDA, b"\1\1\0\1\x3f\1") + bytes(coded)
    return head + first + (segment(0xDA, b"\1\1\0\1\x3f\x10") + bytes(coded)) * count + b"\xff\xd9"


def runs(side: int, body: bytes) -> bytes:
    """Return a BMP with run lengths."""
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(body), 0, 0, 1078) + head + bytes(1024) + body


COSTLY = {
    "empty chunks": (PNG[:IDAT] + chunk(b"tEXt", b"") * 200_001 + PNG[IDAT:], "chunks of a PNG"),
    "empty chunks of pixels": (PNG[:IDAT] + chunk(b"IDAT", b"") * 200_001 + PNG[IDAT:], "chunks of a PNG"),
    "pixels without an end": (PNG[:IDAT] + chunk(b"IDAT", bytes(2_000_000)) + PNG[IDAT:], "compressed bytes"),
    "scans": (scans(8000, 60), "pixels to go over in all scans of a JPEG"),
    "scans of a small image": (scans(800, 2500), "pixels to go over in all scans of a JPEG"),
    "filling": (JPEG[:2] + b"\xff" * 20_000_000 + JPEG[2:], "bytes between two segments"),
    "zeros between segments": (JPEG[:20] + bytes(20_000_000) + JPEG[20:], "bytes between two segments"),
    "segments": (JPEG[:2] + segment(0xE5, b"") * 10_001 + JPEG[2:], "segments of a JPEG"),
    "ends of lines": (runs(8000, b"\0\0" * 500), "pixels of a BMP with run lengths"),
    "text of a PPM": (b"P3 8000 8000 255\n1 2 3", "pixels of a PPM as text"),
    "a comment in a GIF": (GIF[:FRAME] + b"!\xfe" + b"\1a" * 1_000_001 + b"\0" + GIF[FRAME:], "blocks of a GIF"),
}


@pytest.mark.parametrize("name", COSTLY)
def test_what_no_honest_file_holds(name: str) -> None:
    data, words = COSTLY[name]
    with pytest.raises(ImageError) as caught:
        read_image(data)
    assert caught.value.found.startswith(words)
    assert "the limit is" in caught.value.found


def exif(count: int, size: int) -> bytes:
    entries = b"".join(struct.pack("<HHII", 1000 + each, 7, size, 8) for each in range(count))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count + 1) + entries + struct.pack("<HHII", 0x112, 3, 1, 3) + bytes(4)


CHEAP = {
    "many segments of EXIF": JPEG[:2] + segment(0xE1, b"Exif\0\0" + exif(1, 8)) * 5000 + JPEG[2:],
    "EXIF that refers to itself": JPEG[:2] + segment(0xE1, b"Exif\0\0" + exif(5000, 60_000)) + JPEG[2:],
    "the same in a PNG": PNG[:IDAT] + chunk(b"eXIf", exif(5000, 60_000)) + PNG[IDAT:],
}


@pytest.mark.parametrize("name", CHEAP)
def test_of_exif_the_orientation_alone_is_read(name: str) -> None:
    """Here it says upside down."""
    expected = read_image(PNG if "PNG" in name else JPEG)[::-1, ::-1]
    np.testing.assert_array_equal(read_image(CHEAP[name]), expected)


def test_further_images_cost_nothing(caplog: pytest.LogCaptureFixture) -> None:
    frames = GIF[:-1] + GIF[FRAME:-1] * 20_000 + b";"
    np.testing.assert_array_equal(read_image(frames), read_image(GIF))
    several = encode(IMAGE, "WEBP", lossless=True, save_all=True, append_images=[IMAGE.rotate(90)] * 3)
    np.testing.assert_array_equal(read_image(several), PIXELS)
    with caplog.at_level(logging.WARNING, "hrnet_zoo"):
        assert all("several images" in record.getMessage() for record in caplog.records)
    assert len(caplog.records) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="sparse files")
def test_a_sparse_webp(tmp_path: Path) -> None:
    """3 GB of nothing behind the pixels."""
    path = tmp_path / "sparse.webp"
    with path.open("wb") as stream:
        stream.write(b"RIFF" + struct.pack("<I", 3_000_000_000) + WEBP[8:] + b"JUNK" + struct.pack("<I", 2_900_000_000))
        stream.truncate(3_000_000_008)
    with pytest.raises(ImageError, match=r"bytes of a WEBP: 3,000,000,008; the limit is"):
        read_image(path)


def test_metadata_of_any_size_is_passed_over(tmp_path: Path) -> None:
    """Of images and label files: text, XMP and profiles that unfold to more than Pillow allows, or are broken."""
    zipped = zlib.compress(bytes(3_000_000))
    odd = [
        chunk(b"zTXt", b"a\0\0" + zipped),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zipped),
        chunk(b"iCCP", b"a\0\0" + zipped),
        chunk(b"iCCP", b"a"),
        chunk(b"gAMA", b""),
        chunk(b"tEXt", b"Author\0x")[:-1] + b"?",
    ]
    labels = encode(Image.fromarray(PIXELS[:, :, 0]), "PNG")
    at = labels.index(b"IDAT") - 4
    for each in odd:
        np.testing.assert_array_equal(read_image(PNG[:IDAT] + each + PNG[IDAT:]), PIXELS)
        (tmp_path / "a.png").write_bytes(labels[:at] + each + labels[at:])
        np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), PIXELS[:, :, 0])


def ftyp(major: bytes, *compatible: bytes) -> bytes:
    body = b"ftyp" + major + bytes(4) + b"".join(compatible)
    return struct.pack(">I", 4 + len(body)) + body + bytes(64)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (ftyp(b"heic", b"mif1", b"heic"), "a HEIC (HEIF) photograph"),
        (ftyp(b"mif1", b"mif1", b"heic"), "a HEIC (HEIF) photograph"),
        (ftyp(b"msf1", b"hevc"), "a HEIC (HEIF) photograph"),
        (ftyp(b"crx ", b"crx ", b"isom"), "a camera raw file"),
        (b"FUJIFILMCCD-RAW 0201", "a camera raw file"),
        (b"IIU\0" + bytes(20), "a camera raw file"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(8), "a JPEG 2000 image"),
        (b"\xff\x0a" + bytes(20), "a JPEG XL image"),
        (b"8BPS\0\1" + bytes(20), "a Photoshop document"),
    ],
)
def test_other_formats_have_their_names(data: bytes, what: str) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(data)
    assert caught.value.found.startswith(what)
    assert "none of the formats" in caught.value.found
    assert "damaged" not in str(caught.value)
    assert "export" in caught.value.advice


def test_an_avif_by_its_compatible_brands() -> None:
    data = encode(IMAGE, "AVIF", quality=100)
    assert data[8:12] == b"avif"
    np.testing.assert_array_equal(read_image(data[:8] + b"mif1" + data[12:]), read_image(data))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"), "a 12-bit JPEG"),
        (JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc3\0\x11\x08"), "a lossless or hierarchical JPEG"),
        (PNG[:8] + chunk(b"CgBI", bytes(4)) + PNG[8:], "a PNG in Apple's own form"),
    ],
)
def test_kinds_that_are_not_read_are_named(data: bytes, what: str) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(data)
    assert caught.value.found.startswith(what)


@pytest.mark.parametrize("data", [PNG, GIF])
def test_no_copy_of_the_file_stays_beside_the_pixels(data: bytes) -> None:
    with open_image(data) as header:
        image = header.decode()
    assert not any(isinstance(each, io.BytesIO) for each in vars(image).values())


@pytest.mark.parametrize("text", [b"P2 3 1 # levels\n100\n0 50 # half\n100\n", b"P5 3 1 1023\n\0\0\2\0\3\xff"])
def test_pgm_of_other_levels(text: bytes) -> None:
    assert read_image(text)[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(ImageError):
        read_image(text[:-5])


def test_an_error_holds_no_pixels() -> None:
    """What a caller keeps of it refers to no frame in which the image is."""
    data = encode(Image.fromarray(pattern(400, 500)), "JPEG")
    with pytest.raises(ImageError) as caught:
        read_image(data[: len(data) // 2])
    error = caught.value
    assert error.__cause__ is error.__context__ is None
    frames = []
    trace = error.__traceback__
    while trace:
        frames.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert frames == ["test_an_error_holds_no_pixels", "read_image"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_skipped_images_keep_no_memory(tmp_path: Path) -> None:
    """Eight truncated images of 16 megapixels, of which each takes 64 MB while it is decoded."""
    data = encode(Image.new("RGB", (4000, 4000), (9, 99, 200)), "JPEG")
    for number in range(8):
        (tmp_path / f"{number}.jpg").write_bytes(data[: len(data) // 2])
    code = (
        "import sys, pathlib, hrnet_zoo\n"
        "held = lambda: int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "paths = sorted(map(str, pathlib.Path(sys.argv[1]).glob('*.jpg')))\n"
        "model = hrnet_zoo.create_model('demo', device='cpu')\n"
        "model.predict(paths[:2], on_error='skip')\n"
        "before = held()\n"
        "results = model.predict(paths, on_error='skip')\n"
        "assert [type(each).__name__ for each in results] == ['ImageError'] * 8\n"
        "print(held() - before)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ})  # noqa: S603 - ours
    assert int(run.stdout) < 100e6


def test_a_walk_gives_the_decoder_what_the_file_holds() -> None:
    """The pixels of every format, with parts that are passed over in between."""
    odd = JPEG[:2] + segment(0xFE, b"a comment") + b"\xff\xff\xff" + segment(0xE2, b"ICC_PROFILE\0\1\1x") + JPEG[2:]
    np.testing.assert_array_equal(read_image(odd), read_image(JPEG))
    split = PNG[:IDAT]
    size = int.from_bytes(PNG[IDAT : IDAT + 4], "big")
    for at in range(0, size, 7):
        split += chunk(b"IDAT", PNG[IDAT + 8 : IDAT + 8 + size][at : at + 7])
    np.testing.assert_array_equal(read_image(split + PNG[IDAT + 12 + size :]), PIXELS)
    np.testing.assert_array_equal(read_image(png(1, 1, 8, 0, b"\0\7", (b"tEXt", b"a\0b"))), [[[7, 7, 7]]])
