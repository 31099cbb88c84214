"""Image files before their pixels: format, size and mode, with bounds on what decoding may cost.

Each format's reader walks through the file without unpacking anything and hands Pillow only the parts that make the
first image: no metadata, which may unfold to any size, no further images, no padding. The limits are far above what
any encoder writes for an image of 64 megapixels.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageFile
from PIL.ExifTags import Base as Tag

from hrnet_zoo.errors import ImageError, ImageTooLargeError
from hrnet_zoo.images import tiff
from hrnet_zoo.images.tiff import refusal

# Formats that decode inside Pillow: none of them starts another program, as EPS would. JPEG includes MPO.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")
MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LA", "PA", "RGBA", "I;16", "I;16L", "I;16B", "I;16N")

MAX_PIXELS = 64_000_000  # 192 MB of RGB; a file of 22 KB can claim thousands of times its size
MAX_SCANS = 24  # of a JPEG with MAX_PIXELS, of one component each; smaller ones may have more; libjpeg writes 14
MAX_SEGMENTS = 10_000  # of a JPEG
MAX_CHUNKS = 200_000  # of a PNG; with libpng's 8 KiB each an image of MAX_PIXELS has 65,000 at most
MAX_BLOCKS = 1_000_000  # of a GIF, of up to 255 bytes
MAX_BYTES = 256 << 20  # of a WebP or AVIF, and of a JPEG without metadata: they are read into memory at once
MAX_SLOW_PIXELS = 2_500_000  # of what is decoded byte by byte: BMP with run lengths, PPM as text

# What Pillow's readers raise on damaged files; its warnings too are exceptions under `python -W error`.
_PYTHON_FAULTS = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
_OTHER_FAULTS = (AssertionError, EOFError, RuntimeError, MemoryError, struct.error, zlib.error)
DECODER_FAULTS = (*_PYTHON_FAULTS, *_OTHER_FAULTS, Image.DecompressionBombError, Warning)

_HEADER_BYTES = 1 << 16
_BLOCK = 1 << 20
_NONE_OF_THE_FORMATS = f"none of the formats {', '.join(FORMATS)}"
_EXPORT = "export it as JPEG or PNG"
_CAMERA_RAW = rb"....ftypcrx |FUJIFILMCCD-RAW|IIR[OS]|MMOR|IIU\0|FOVb|\0MRM|II\x1a\0\0\0HEAPCCDR|II\*\0....CR"
# What people take for images: first bytes, what it is, what to do.
_OTHERS = (
    (_CAMERA_RAW, "a camera raw file", f"develop it: {_EXPORT}"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 image", _EXPORT),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "a JPEG XL image", _EXPORT),
    (
        rb"....ftyp(?!.*avi[fs]).*(hei[cmsx]|hev[cmsx]|mif1|msf1)",
        "a HEIC (HEIF) photograph",
        f"{_EXPORT}, or use pillow-heif",
    ),
    (rb"\x89PNG\r\n\x1a\n....CgBI", "a PNG in Apple's own form, for iOS alone", "open it on a Mac and export it"),
    (rb"8BPS", "a Photoshop document", _EXPORT),
    (rb"%PDF", "a PDF document", "export its pages as PNG"),
)


@dataclass(frozen=True)
class ImageHeader:
    """What is known of an image file before its pixels are decoded."""

    format: str  # one of FORMATS
    mode: str  # one of MODES: Pillow's name for the values as stored
    size: tuple[int, int]  # (width, height) as stored
    decode: Callable[[], Image.Image]  # returns the image as stored; 16-bit values may be scaled to 0-255 already
    several: bool = False  # there are further images, which are not read
    orientation: int | None = 1  # of EXIF, 1 to 8, not applied yet; None: the EXIF data are broken
    bits: int = 8  # of a value, as far as the file says
    inverted: bool = False  # gray whose zero is white
    colors_unknown: bool = False  # no word on which band is which color; the first three are taken for RGB
    exif: IO[bytes] | None = None  # EXIF data, laid out as a TIFF; None: there are none

    @property
    def displayed(self) -> tuple[int, int]:
        """Width and height as displayed."""
        return self.size[::-1] if self.orientation in (5, 6, 7, 8) else self.size


@contextmanager
def open_image(image: str | Path | bytes, *, whole: bool = True) -> Iterator[ImageHeader]:
    """Open an image file, its pixels not decoded yet; what decoding raises in the block is raised as an ImageError.

    Args:
        image: the path of the file, or its content.
        whole: walk through all of the file, as must be before decoding; else up to the pixels, for the header alone.

    Raises:
        ImageTooLargeError: more than `MAX_PIXELS`.
        ImageError: missing, not a regular file, damaged, of a format that is not read, without one exact way to 0-255
            RGB, without pixels, or more work than any honest file.

    """
    with (
        image_errors(source_name(image)),
        io.BytesIO(image) if isinstance(image, bytes) else open_file(Path(image)) as stream,
    ):
        yield _read_header(stream, whole)


@contextmanager
def image_errors(source: str) -> Iterator[None]:
    """Raise what Pillow raises in the block as an ImageError, and any ImageError as one about `source`."""
    try:
        yield
    except ImageError as error:
        error.asked, error.source = f"read an image: {source}", source
        raise
    except DECODER_FAULTS as error:
        found = f"damaged or incomplete data, or of a kind that is not read ({type(error).__name__}: {error})"
        raise refusal(found, "fetch or export it anew; parts of a damaged file are never used", source) from error


def source_name(image: str | Path | bytes) -> str:
    """Return what messages call an image: its path, printable and not endless, or the number of its bytes."""
    if isinstance(image, bytes):
        return f"{len(image)} bytes"
    name = str(image).encode(errors="backslashreplace").decode()  # names that are not UTF-8
    return name if len(name) <= 300 else f"{name[:300]}... ({len(name)} characters)"


def check_size(size: tuple[int, int], mode: str = "RGB") -> None:
    """Refuse more pixels than `MAX_PIXELS`, none, or a mode from which there is no way to RGB."""
    width, height = size
    if width * height > MAX_PIXELS:
        found = f"{width} x {height} = {width * height:,} pixels; the limit is {MAX_PIXELS:,}"
        advice = "make it smaller, or cut it, if you trust it; decoded arrays are taken at any size"
        raise refusal(found, advice, kind=ImageTooLargeError)
    if width * height == 0:
        raise refusal(f"no pixels ({width} x {height})", "pass an image of at least 1 x 1 pixel")
    if mode not in MODES:
        found = f"mode {mode!r}, from which there is no single exact way to 0-255 RGB"
        raise refusal(found, "convert it to 8-bit RGB yourself, with the range of its values in mind, and pass that")


def open_file(path: Path) -> IO[bytes]:
    """Open a regular file; ImageError otherwise."""
    # Of two letters at least: C:/ is a drive of Windows. Path makes one slash of two.
    address = re.match(r"[a-z][a-z0-9+.-]+:(/|.*;base64,)", path.as_posix(), re.IGNORECASE)
    if address and not os.path.lexists(path):  # never raises, unlike Path.exists
        raise refusal(
            "an address, not a path",
            "download the file first, or pass its bytes: urllib.request.urlopen(address).read()",
        )
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):  # before opening: a pipe would block for ever
            return path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        advice = "check the path; a relative one starts at the working folder"
        raise refusal(reason, advice) from error
    found = "a folder" if stat.S_ISDIR(mode) else "not a regular file (a pipe, socket or device)"
    raise refusal(found, "pass the path of one image file")


Factory = Callable[[Any, str], ImageFile.ImageFile]  # Pillow's reader of a format
Part = tuple[int, int] | bytes  # (start, end) in a file, or bytes to insert


def _read_header(stream: IO[bytes], whole: bool) -> ImageHeader:
    start = stream.read(64)
    for pattern, what, advice in _OTHERS:
        if re.match(pattern, start, re.DOTALL):
            raise refusal(f"{what}, which is {_NONE_OF_THE_FORMATS}", advice)
    Image.init()
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        accepted = accept is not None and accept(start[:16])
        if isinstance(accepted, str):
            raise refusal(f"{name}, for which this Pillow lacks the codec ({accepted})", "install Pillow's wheel")
        if accepted:
            stream.seek(0)
            header = _READERS[name](stream, factory, whole)
            check_size(header.size, header.mode)
            return header
    found = f"{_NONE_OF_THE_FORMATS}; it begins with {start[:16]!r}" if start else "an empty file"
    raise refusal(found, "convert the image to PNG or JPEG, or fetch it anew if it should be one")


def _check_cost(what: str, found: int, limit: int) -> None:
    if found > limit:
        raise refusal(f"{what}: {found:,}; the limit is {limit:,}", "save it anew with another program, as PNG")


def _join(stream: IO[bytes], parts: Sequence[Part]) -> io.BytesIO:
    """Return parts of a file as a file of its own."""
    joined = io.BytesIO()
    for part in parts:
        if isinstance(part, tuple):
            stream.seek(part[0])
            part = stream.read(part[1] - part[0])
        joined.write(part)
    joined.seek(0)
    return joined


def _header(image: ImageFile.ImageFile, name: str, **facts: Any) -> ImageHeader:  # noqa: ANN401 - fields of the class
    def decode() -> Image.Image:
        image.load()
        vars(image).pop("_fp", None)  # a copy of the file, as large as the pixels, which Pillow keeps for other frames
        return image

    return ImageHeader(name, image.mode, image.size, decode, **facts)


def _exif_facts(exif: bytes) -> dict[str, Any]:
    """Return the fields of EXIF data: where these are, and the orientation that they state (None: broken), else 1."""
    exif = exif.removeprefix(b"Exif\0\0")
    if not exif:
        return {}
    stream = io.BytesIO(exif)
    try:
        orientation = tiff.orientation(tiff.directories(stream)[0][0])  # hostile tags would cost Pillow gigabytes
    except (ImageError, *DECODER_FAULTS):
        return {"orientation": None, "exif": stream}
    return {"orientation": orientation, "exif": stream}


def _png(stream: IO[bytes], factory: Factory, whole: bool) -> ImageHeader:
    """Keep the chunks that make pixels, their checksums verified."""
    parts = [(0, 8)]
    exif, several, place, pixels, bits, kind, number = b"", False, 8, 0, 8, b"", 0
    while kind != b"IEND":
        number += 1
        _check_cost("chunks of a PNG", number, MAX_CHUNKS)
        stream.seek(place)
        head = stream.read(8)
        if len(head) < 8:
            if whole:
                raise EOFError("the file ends before the chunk IEND")
            break
        kind, end = head[4:], place + 12 + int.from_bytes(head[:4], "big")
        if kind == b"IHDR":
            width, height, bits = struct.unpack(">IIB", stream.read(9))
            check_size((width, height))
            pixels = width * height
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            parts.append((place, end if whole or kind != b"IDAT" else place + 8))
        elif kind == b"eXIf":
            exif = stream.read(min(end - place - 12, _HEADER_BYTES))
        elif kind == b"acTL":
            several = int.from_bytes(stream.read(4), "big") > 1
        place = end
    sizes = [end - start for start, end in parts]
    _check_cost("compressed bytes of a PNG", sum(sizes), (max(bits, 8) // 2 + 1) * pixels + _BLOCK)  # RGBA, unpacked
    joined = _join(stream, parts)
    with joined.getbuffer() as view:
        for start, size in zip(accumulate(sizes[:-1]), sizes[1:], strict=True) if whole else ():
            stated = view[start + size - 4 : start + size]
            if zlib.crc32(view[start + 4 : start + size - 4]) != int.from_bytes(stated, "big"):
                raise SyntaxError("the checksum of a chunk is wrong")
    return _header(factory(joined, ""), "PNG", several=several, bits=bits, **_exif_facts(exif))


_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # neither padding, nor a stuffed byte, nor a restart marker
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_METADATA = frozenset({0x01, 0xD8, 0xFE, *range(0xE1, 0xEE), 0xEF})  # all but JFIF's and Adobe's, of colors


def _jpeg(stream: IO[bytes], factory: Factory, whole: bool) -> ImageHeader:
    """Keep the segments of the first image but for metadata and padding."""
    parts: list[Part] = [b"\xff\xd8"]
    exif, place, work, area, scan, number = b"", 2, 0, 1, 0, 0
    while found := _next_marker(stream, place, 16 * area + 4 * _BLOCK):
        number += 1
        _check_cost("segments of a JPEG", number, MAX_SEGMENTS)
        start, marker = found
        if scan:
            parts.append((scan, start))  # the coded pixels behind the header of a scan
            scan = 0
        if marker == 0xD9:
            parts.append(b"\xff\xd9")
            break
        stream.seek(start + 2)
        length = 0 if marker in (0x01, 0xD8) else int.from_bytes(stream.read(2), "big")
        place = start + 2 + length
        body = stream.read(max(length - 2, 0))
        if marker in _START_OF_FRAME:
            if marker > 0xC2 or body[:1] != b"\x08":
                kind = f"{body[0] if body else 0}-bit" if marker <= 0xC2 else "lossless or hierarchical"
                raise refusal(f"a {kind} JPEG", "open it in the program that wrote it, and export it as PNG")
            height, width = struct.unpack_from(">HH", body, 1)
            check_size((width, height))
            area = width * height
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif = exif or body
        elif marker not in _METADATA:
            parts.append((start, place))
        if marker == 0xDA:
            work += area * (body[0] if body else 1)  # by the number of its components
            _check_cost("pixels to go over in all scans of a JPEG", work, MAX_SCANS * MAX_PIXELS)
            scan = place
            if not whole:
                break
    if scan and whole:
        parts.append((scan, stream.seek(0, io.SEEK_END)))
    _check_cost("bytes of a JPEG", sum(part[1] - part[0] for part in parts if isinstance(part, tuple)), MAX_BYTES)
    return _header(factory(_join(stream, parts), ""), "JPEG", **_exif_facts(exif))


def _next_marker(stream: IO[bytes], place: int, most: int) -> tuple[int, int] | None:
    """Return the place and the kind of the next marker; None: the file ends before."""
    stream.seek(place)
    kept, begin = b"", place
    while data := stream.read(_BLOCK):
        match = _MARKER.search(kept + data)
        if match:
            return place - len(kept) + match.start(), match[1][0]
        place += len(data)
        _check_cost("bytes between two segments of a JPEG", place - begin, most)
        kept = data[-1:]
    return None


def _in_one_piece(stream: IO[bytes], factory: Factory, _whole: bool, *, name: str) -> ImageHeader:
    """Read a WebP or AVIF, which Pillow takes into memory at once."""
    _check_cost(f"bytes of a {name}", stream.seek(0, io.SEEK_END), MAX_BYTES)
    stream.seek(0)
    image = factory(stream, "")
    several, exif = getattr(image, "is_animated", False), image.info.pop("exif", b"")
    return _header(image, name, several=several, **_exif_facts(exif))


def _gif(stream: IO[bytes], factory: Factory, _whole: bool) -> ImageHeader:
    """Keep the first image and its transparency: Pillow takes quadratic time for comments."""
    head = stream.read(13)
    place = 13 + _color_table(head[10])
    parts: list[Part] = [(0, place)]
    canvas, images, blocks = struct.unpack_from("<HH", head, 6), 0, 0
    while True:
        stream.seek(place)
        start, kind = place, stream.read(1)
        label = stream.read(1) if kind == b"!" else b""
        place += 2
        if kind == b",":
            images += 1
            if images == 2:
                break
            left, top, width, height, flags = struct.unpack("<4HB", stream.read(9))
            check_size((max(canvas[0], left + width), max(canvas[1], top + height)))  # Pillow makes room for the frame
            place += 9 + _color_table(flags)
        elif kind != b"!":
            break
        stream.seek(place)
        while length := int.from_bytes(stream.read(1), "big"):
            place += 1 + length
            stream.seek(place)
            blocks += 1
            _check_cost("blocks of a GIF", blocks, MAX_BLOCKS)
        place += 1
        if kind == b"," or (label == b"\xf9" and not images):
            parts.append((start, place))
    return _header(factory(_join(stream, [*parts, b";"]), ""), "GIF", several=images > 1)


def _color_table(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 128 else 0


def _bmp(stream: IO[bytes], factory: Factory, _whole: bool) -> ImageHeader:
    image = factory(stream, "")
    if image.tile and image.tile[0].codec_name == "bmp_rle":
        check_size(image.size)
        _check_cost("pixels of a BMP with run lengths", image.width * image.height, MAX_SLOW_PIXELS)
    return _header(image, "BMP")


def _ppm(stream: IO[bytes], factory: Factory, _whole: bool) -> ImageHeader:
    """Let Pillow read text, bits and 255 levels; other numbers of levels it would read one by one."""
    image = factory(io.BytesIO(stream.read(_HEADER_BYTES)), "")
    check_size(image.size)
    codec, _, offset, arguments = image.tile[0]
    if codec == "ppm_plain":
        _check_cost("pixels of a PPM as text", image.width * image.height, MAX_SLOW_PIXELS)
    if codec == "ppm_plain" or (codec == "raw" and image.mode != "I"):
        stream.seek(0)
        return _header(factory(stream, ""), "PPM")
    maximum = int(arguments[-1]) if codec == "ppm" and isinstance(arguments, tuple) else 65535
    bits, mode = 8 if maximum < 256 else 16, "RGB" if image.mode == "RGB" else "L"
    tags: tiff.Tags = {Tag.SamplesPerPixel: (len(mode),), Tag.StripOffsets: (offset,)}  # of an uncompressed TIFF
    return _of_page("PPM", stream, tiff.Page(tags, ">", image.size, bits, maximum, mode, by_pillow=False))


def _tiff(stream: IO[bytes], _factory: Factory, _whole: bool) -> ImageHeader:
    page, several = tiff.choose_page(stream)
    return _of_page("TIFF", stream, page, several)


def _of_page(name: str, stream: IO[bytes], page: tiff.Page, several: bool = False) -> ImageHeader:
    return ImageHeader(
        name,
        "I;16" if page.mode == "L" and page.bits == 16 else page.mode,
        page.size,
        partial(tiff.decode, stream, page),
        several=several,
        orientation=tiff.orientation(page.tags),
        bits=page.maximum.bit_length(),
        inverted=page.inverted,
        colors_unknown=page.colors_unknown,
        exif=stream,
    )


_READERS: dict[str, Callable[[IO[bytes], Factory, bool], ImageHeader]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": partial(_in_one_piece, name="WEBP"),
    "BMP": _bmp,
    "TIFF": _tiff,
    "GIF": _gif,
    "PPM": _ppm,
    "AVIF": partial(_in_one_piece, name="AVIF"),
}
