"""Image files made by code: every mode and format with its exact pixels, and what is damaged, no image, a trap."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, PngImagePlugin

from hrnet_zoo.errors import ImageError, ImageTooLargeError
from tests.support.checkpoints import GOOD_LEGACY, GOOD_ZIP

Pixels = npt.NDArray[np.uint8]

WHITE = [255, 255, 255]


@dataclass(frozen=True)
class Good:
    """A file that is read: its pixels, and by how many levels a lossy format may miss them."""

    data: bytes
    pixels: Pixels
    tolerance: int = 0


@dataclass(frozen=True)
class Bad:
    """A file that is refused: by which error, and with which words."""

    data: bytes
    error: type[ImageError]
    words: str


def pattern(height: int, width: int) -> Pixels:
    """Return (height, width, 3) values without structure, the same on every machine."""
    values = np.arange(height * width * 3, dtype=np.uint32) * np.uint32(2654435761) >> np.uint32(24)
    return values.astype(np.uint8).reshape(height, width, 3)


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """Return the image as a file of this format."""
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def png(width: int, height: int, bits: int, color: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """Return a PNG from its raw rows, for what Pillow cannot write; `extra` chunks stand before the pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    between = b"".join(chunk(kind, body) for kind, body in extra)
    return b"\x89PNG\r\n\x1a\n" + header + between + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def palette_image() -> Image.Image:
    """Return two pixels of color 1 of a palette: (10, 20, 30)."""
    image = Image.new("P", (2, 1), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return image


def flat(color: list[int], height: int = 1, width: int = 2) -> Pixels:
    """Return one color everywhere."""
    return np.full((height, width, 3), color, np.uint8)


def oriented(displayed: Pixels, orientation: int) -> tuple[Pixels, Image.Exif]:
    """Return how an image is stored that is displayed so, and the EXIF data that says it."""
    stored = {
        1: displayed,
        2: displayed[:, ::-1],
        3: displayed[::-1, ::-1],
        4: displayed[::-1],
        5: displayed.transpose(1, 0, 2),
        6: np.rot90(displayed, 1),
        7: displayed[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(displayed, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return np.ascontiguousarray(stored), exif


def _tiff(*entries: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    """Return a little-endian TIFF of one directory: (tag, type, count, value) each; `data` begins at byte 8."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4)


def _gray_tiff(photometric: int, data: bytes, width: int = 2, height: int = 1) -> bytes:
    tags = (256, 3, 1, width), (257, 3, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, photometric)
    return _tiff(*tags, (273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, height), (279, 4, 1, len(data)), data=data)


def _resized(data: bytes, marker: bytes, layout: str, *sides: int) -> bytes:
    """Let a file claim other sides, which stand behind `marker`."""
    place = data.index(marker) + len(marker)
    return data[:place] + struct.pack(layout, *sides) + data[place + struct.calcsize(layout) :]


def good_images() -> dict[str, Good]:
    """Return the files that are read, by a name that says what is special."""
    rgb = pattern(6, 10)
    image = Image.fromarray(rgb)
    gray = rgb[:, :, 0]
    gray_rgb = np.repeat(gray[:, :, None], 3, axis=2)
    gray_image = Image.fromarray(gray)
    colors = Image.new("RGB", (32, 24), (200, 100, 50))
    halves = np.repeat(np.repeat(np.array([[[0] * 3, WHITE], [[96] * 3, [192] * 3]], np.uint8), 32, 0), 48, 1)
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "lime")]
    several = {"save_all": True, "append_images": frames[1:]}
    sixteen = np.array([[0, 40000]], np.uint16)
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    profile = b"a\0\0" + zlib.compress(bytes(PngImagePlugin.MAX_TEXT_CHUNK + 1))
    found = {
        # formats
        "png": Good(encode(image, "PNG"), rgb),
        "bmp": Good(encode(image, "BMP"), rgb),
        "webp lossless": Good(encode(image, "WEBP", lossless=True), rgb),
        "ppm": Good(encode(image, "PPM"), rgb),
        "ppm of text": Good(b"P3 2 1 255\n1 2 3 255 255 255\n", np.array([[[1, 2, 3], WHITE]], np.uint8)),
        "pgm": Good(encode(gray_image, "PPM"), gray_rgb),
        "16-bit pgm": Good(b"P5 2 1 65535\n\0\0\x9c\x40", np.array([[[0] * 3, [156] * 3]], np.uint8)),
        "10-bit ppm": Good(b"P6 1 1 1023\n\0\0\x02\0\x03\xff", np.array([[[0, 128, 255]]], np.uint8)),
        "a text that unfolds": Good(encode(Image.new("L", (1, 1)), "PNG", pnginfo=text), flat([0] * 3, 1, 1)),
        "a profile that unfolds": Good(png(1, 1, 8, 0, b"\0\0", (b"iCCP", profile)), flat([0] * 3, 1, 1)),
        "pbm": Good(b"P4 2 1\n\x40", np.array([[WHITE, [0, 0, 0]]], np.uint8)),
        **{
            f"tiff {kind or 'raw'}": Good(encode(image.copy(), "TIFF", compression=kind), rgb)
            for kind in (None, "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits")
        },
        "tiff group4": Good(encode(Image.new("1", (2, 1), 1), "TIFF", compression="group4"), flat(WHITE)),
        "tiff white is zero": Good(_gray_tiff(0, b"\x00\x37"), np.array([[WHITE, [200] * 3]], np.uint8)),
        "tiff black is zero": Good(_gray_tiff(1, b"\x00\x37"), np.array([[[0] * 3, [55] * 3]], np.uint8)),
        "gif": Good(encode(palette_image(), "GIF"), flat([10, 20, 30])),
        "jpeg": Good(encode(colors, "JPEG", quality=95), flat([200, 100, 50], 24, 32), 3),
        "jpeg gray": Good(encode(Image.new("L", (16, 16), 128), "JPEG"), flat([128] * 3, 16, 16)),
        "jpeg progressive": Good(encode(colors, "JPEG", progressive=True), flat([200, 100, 50], 24, 32), 3),
        "jpeg cmyk": Good(
            encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100), flat([255, 0, 0], 8, 8)
        ),
        "mpo": Good(encode(colors, "MPO", save_all=True, append_images=[frames[0]]), flat([200, 100, 50], 24, 32), 3),
        "webp": Good(encode(colors, "WEBP", quality=95), flat([200, 100, 50], 24, 32), 6),
        "avif": Good(encode(colors, "AVIF"), flat([200, 100, 50], 24, 32), 6),
        "tiff jpeg": Good(encode(colors.copy(), "TIFF", compression="jpeg"), flat([200, 100, 50], 24, 32), 6),
        # modes
        "one bit": Good(encode(Image.new("1", (2, 1), 1), "PNG"), flat(WHITE)),
        "two bits of gray": Good(
            png(4, 1, 2, 0, b"\0\x1b"), np.repeat(np.array([[[0], [85], [170], [255]]], np.uint8), 3, 2)
        ),
        "four bits of gray": Good(png(2, 1, 4, 0, b"\0\x0f"), np.array([[[0] * 3, WHITE]], np.uint8)),
        "gray": Good(encode(gray_image, "PNG"), gray_rgb),
        "palette": Good(encode(palette_image(), "PNG"), flat([10, 20, 30])),
        "palette bmp": Good(encode(palette_image(), "BMP"), flat([10, 20, 30])),
        "palette tiff": Good(encode(palette_image(), "TIFF"), flat([10, 20, 30])),
        "cmyk tiff": Good(encode(Image.new("CMYK", (2, 1), (0, 0, 0, 100)), "TIFF"), flat([155] * 3)),
        "16-bit gray png": Good(encode(Image.fromarray(sixteen), "PNG"), np.array([[[0] * 3, [156] * 3]], np.uint8)),
        "16-bit gray tiff": Good(encode(Image.fromarray(sixteen), "TIFF"), np.array([[[0] * 3, [156] * 3]], np.uint8)),
        "16-bit color": Good(
            png(1, 1, 16, 2, b"\0" + struct.pack(">3H", 40000, 511, 65535)), flat([156, 1, 255], 1, 1)
        ),
        "16-bit alpha": Good(png(1, 1, 16, 6, b"\0" + struct.pack(">4H", 40000, 40000, 40000, 0)), flat(WHITE, 1, 1)),
        "icc profile": Good(
            encode(image, "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()), rgb
        ),
        # alpha, on white
        **{
            f"alpha {alpha}": Good(encode(Image.new("RGBA", (2, 1), (10, 20, 30, alpha)), "PNG"), flat(shown))
            for alpha, shown in ((0, WHITE), (128, [132, 137, 142]), (255, [10, 20, 30]))
        },
        "alpha tiff": Good(encode(Image.new("RGBA", (2, 1), (10, 20, 30, 128)), "TIFF"), flat([132, 137, 142])),
        "alpha gray": Good(encode(Image.new("LA", (2, 1), (100, 128)), "PNG"), flat([177] * 3)),
        "alpha in a palette": Good(encode(palette_image(), "PNG", transparency=b"\xff\x80"), flat([132, 137, 142])),
        "transparent index": Good(encode(palette_image(), "PNG", transparency=1), flat(WHITE)),
        "transparent index gif": Good(encode(palette_image(), "GIF", transparency=1), flat(WHITE)),
        "transparent gray": Good(encode(Image.new("L", (2, 1), 9), "PNG", transparency=9), flat(WHITE)),
        "transparent color": Good(
            encode(Image.new("RGB", (2, 1), (1, 2, 3)), "PNG", transparency=(1, 2, 3)), flat(WHITE)
        ),
        "transparent 16-bit gray": Good(
            encode(Image.fromarray(np.full((1, 2), 40000, np.uint16)), "PNG", transparency=40000), flat(WHITE)
        ),
        # shapes
        "1 x 1": Good(encode(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), flat([1, 2, 3], 1, 1)),
        "1 x 5000": Good(encode(Image.fromarray(pattern(5000, 1)), "PNG"), pattern(5000, 1)),
        "20000 x 1": Good(encode(Image.fromarray(pattern(1, 20000)), "PNG"), pattern(1, 20000)),
        # several images: the first
        "animated gif": Good(encode(frames[0], "GIF", **several), flat([255, 0, 0], 8, 8)),
        "animated png": Good(encode(frames[0].copy(), "PNG", **several), flat([255, 0, 0], 8, 8)),
        "animated webp": Good(encode(frames[0], "WEBP", lossless=True, **several), flat([255, 0, 0], 8, 8)),
        "two pages": Good(
            encode(frames[0].copy(), "TIFF", save_all=True, append_images=[frames[1].copy()]), flat([255, 0, 0], 8, 8)
        ),
        # EXIF that is none, and more behind the end
        "orientation 9": Good(encode(image, "PNG", exif=_exif(9)), rgb),
        "garbage exif": Good(encode(image, "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), rgb),
        "trailing bytes": Good(encode(image, "BMP") + b"more", rgb),
    }
    for orientation in range(1, 9):
        stored, exif = oriented(halves, orientation)
        found[f"orientation {orientation}"] = Good(encode(Image.fromarray(stored), "PNG", exif=exif), halves)
        found[f"orientation {orientation} jpeg"] = Good(
            encode(Image.fromarray(stored), "JPEG", quality=100, subsampling=0, exif=exif), halves, 1
        )
    return found


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def bad_images() -> dict[str, Bad]:
    """Return the files that are refused, by a name that says why."""
    image = Image.fromarray(pattern(40, 50))
    damaged = "damaged or incomplete"
    whole = {kind: encode(image.copy(), kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF")}
    whole["MPO"] = encode(image.copy(), "MPO", save_all=True, append_images=[image.copy()])
    idat = whole["PNG"].index(b"IDAT") + 20
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + struct.pack("<I", 16382)[:3] * 2
    found = {
        # of an MPO the first image counts, and is cut here
        f"truncated {kind.lower()}": Bad(data[: len(data) // 3], ImageError, damaged)
        for kind, data in whole.items()
    }
    others = {
        "empty": (b"", "an empty file"),
        "text": (b"hello", "it begins with b'hello'"),
        "page": (b"<!doctype html><html>no such file</html>", "it begins with b'<!doctype html>"),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "it begins with b'<svg"),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it begins with b'%!PS-Adobe"),
        "binary eps": (b"\xc5\xd0\xd3\xc6" + bytes(26), "none of the formats"),
        "pdf": (b"%PDF-1.7\n", "a PDF document"),
        "wmf": (b"\xd7\xcd\xc6\x9a" + bytes(40), "none of the formats"),
        "heic": (b"\0\0\0\x18ftypheic\0\0\0\0heicmif1", "none of the formats"),
        "ico": (encode(image, "ICO"), "none of the formats"),
        "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(8), "none of the formats"),
        "photoshop": (b"8BPS\0\1" + bytes(20), "none of the formats"),
        "dds": (b"DDS " + bytes(124), "none of the formats"),
        "targa": (encode(image, "TGA"), "none of the formats"),
        "a pickle": (GOOD_LEGACY, "none of the formats"),
        "a zip": (GOOD_ZIP, "none of the formats"),
    }
    found |= {name: Bad(data, ImageError, words) for name, (data, words) in others.items()}
    heads = {
        "head of a jpeg": b"\xff\xd8\xff\xe0",
        "head of a png": b"\x89PNG\r\n\x1a\n",
        "head of a gif": b"GIF89a",
        "head of a bmp": b"BM" + bytes(12),
        "head of a tiff": b"II*\0\x08\0\0\0",
        "head of a webp": b"RIFF\x04\0\0\0WEBP",
        "head of an avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
        "head of a ppm": b"P6\n",
        "a flipped bit in the pixels": whole["PNG"][:idat] + bytes([whole["PNG"][idat] ^ 1]) + whole["PNG"][idat + 1 :],
        "no pixels in a png": png(2, 2, 8, 2, b""),
        "no pixels": png(0, 3, 8, 2, b""),
        "a tiff that refers to itself": b"II*\0\x08\0\0\0\x01\0\x00\x01\x03\0\x01\0\0\0\x02\0\0\0\x08\0\0\0",
        "a tiff without its data": _gray_tiff(1, b"", 20, 20),
        "a canvas without a frame": b"RIFF" + struct.pack("<I", 22) + b"WEBP" + canvas,
        "a number of a million digits": b"P6 " + b"1" * 1_000_000 + b" 1 255\n",
    }
    found |= {name: Bad(data, ImageError, "") for name, data in heads.items()}
    too_large = {
        **{
            f"png of {side} x {side}": png(side, side, 1, 0, bytes(1000))
            for side in (8001, 10_000, 20_000, 65_536, 2**31 - 1)
        },
        "bmp that claims": _resized(whole["BMP"], struct.pack("<I", 40), "<II", 30_000, 30_000),
        "jpeg that claims": _resized(whole["JPEG"], b"\xff\xc0\x00\x11\x08", ">HH", 65_500, 65_500),
        "ppm that claims": b"P6 100000 100000 255\n",
        "tiff that claims": _gray_tiff(1, b"", 60_000, 60_000),
        "gif that claims": _resized(whole["GIF"], b"GIF87a", "<HH", 65_535, 65_535),
    }
    found |= {name: Bad(data, ImageTooLargeError, "the limit is 64,000,000") for name, data in too_large.items()}
    unsupported = {
        "32-bit gray": (encode(Image.fromarray(np.full((2, 2), 7, np.int32)), "TIFF"), "32 bits"),
        "float": (encode(Image.fromarray(np.full((2, 2), 0.5, np.float32)), "TIFF"), "floating point"),
        "lab": (encode(Image.new("LAB", (2, 2)), "TIFF"), "mode 'LAB'"),
    }
    return found | {name: Bad(data, ImageError, words) for name, (data, words) in unsupported.items()}
