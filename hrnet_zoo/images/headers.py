"""An image file before its pixels: which format it is, what of it a decoder gets, and what it may cost.

Files are walked through here, without unpacking anything, so that Pillow gets the parts that make the first image:
no metadata, which may unfold to any size, no further images, no filling. The limits are far above what any encoder
writes for an image of 64 megapixels.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile

from hrnet_zoo.images import tiff
from hrnet_zoo.images.tiff import NotReadError, Page

# Formats that decode inside Pillow: none of them starts another program, as EPS would. JPEG includes MPO.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")
MAX_PIXELS = 64_000_000  # 192 MB of RGB; a file of 22 KB can claim thousands of times its size

MAX_SCANS = 24  # of a JPEG with MAX_PIXELS, of one component each; smaller ones may have more; libjpeg writes 14
MAX_SEGMENTS = 10_000  # of a JPEG
MAX_CHUNKS = 200_000  # of a PNG; with libpng's 8 KiB each an image of MAX_PIXELS has 65,000 at most
MAX_BLOCKS = 1_000_000  # of a GIF, of up to 255 bytes
MAX_WHOLE = 256 << 20  # bytes of a WebP or AVIF, which is read into memory at once
MAX_SLOW_PIXELS = 2_500_000  # of what is decoded byte by byte: BMP with run lengths, PPM of text

_EXIF_BYTES = 1 << 16
_BLOCK = 1 << 20
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
_EXPORT = "export it as JPEG or PNG"
_CAMERA_RAW = "a camera raw file", "develop it: " + _EXPORT
# What people take for images: (its first bytes, what it is, what to do).
_OTHERS = (
    (rb"....ftypcrx ", *_CAMERA_RAW),
    (rb"FUJIFILMCCD-RAW|IIR[OS]|MMOR|IIU\0|FOVb|\0MRM|II\x1a\0\0\0HEAPCCDR", *_CAMERA_RAW),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 image", _EXPORT),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "a JPEG XL image", _EXPORT),
    (rb"8BPS", "a Photoshop document", _EXPORT),
    (rb"%PDF", "a PDF document", "export its pages as PNG"),
)


@dataclass(frozen=True)
class ImageHeader:
    """An image file of which nothing was decoded.

    Attributes:
        image: Pillow's, to be loaded; None if `fault` says that it cannot be.
        format: one of FORMATS.
        mode: Pillow's name of it, as stored.
        several: there are further images, which are not read.
        orientation: of EXIF, 1 to 8, still to be applied; None: its data are broken.
        page: of a TIFF.
        fault: a healthy image without one exact way to RGB.
        maximum: the value that is white in 16-bit gray.
        bits: 16 where values have the full range of 16 bits, as far as the file says.
        opaque: Pillow's transparency is none.
        decode: reads the pixels, of layouts that Pillow cannot read, or only slowly.
        size: width and height, as `load` gives them.

    """

    image: Image.Image | None
    format: str
    mode: str
    several: bool = False
    orientation: int | None = 1
    page: Page | None = None
    fault: NotReadError | None = None
    maximum: int = 65535
    bits: int = 8
    opaque: bool = False
    decode: Callable[[], Image.Image] | None = None
    size: tuple[int, int] = (0, 0)

    @property
    def displayed(self) -> tuple[int, int]:
        """Width and height as displayed."""
        return self.size[::-1] if self.orientation in (5, 6, 7, 8) else self.size

    def load(self) -> Image.Image:
        """Decode the pixels, as stored but for a TIFF's orientation, which Pillow applies."""
        if self.decode:
            return self.decode()
        if self.image is None:
            raise ValueError("nothing to decode")
        self.image.load()
        return self.image


def open_header(stream: IO[bytes], *, whole: bool = True) -> ImageHeader | None:
    """Read the header of an image file; None: it is of no format that is read.

    Args:
        stream: the file, which must stay open until the pixels are decoded.
        whole: walk through all of the file, as must be before decoding; without it a damaged end is not seen.

    Raises:
        NotReadError: a healthy file that is not read, or one that costs more than any honest one.
        images.DECODER_FAULTS: damaged.

    """
    stream.seek(0)
    start = stream.read(64)
    for pattern, what, advice in _OTHERS:
        if re.match(pattern, start, re.DOTALL):
            raise NotReadError(f"{what}, which is none of the formats {', '.join(FORMATS)}", advice)
    if start[4:8] == b"ftyp":
        _check_brands(stream, start)
    Image.init()
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        accepted = accept is not None and accept(start[:16])
        if isinstance(accepted, str):
            raise NotReadError(f"{name}, for which this Pillow lacks the codec ({accepted})", "install Pillow's wheel")
        if accepted:
            return _READERS[name](stream, factory, whole)
    return None


Factory = Callable[[Any, str], ImageFile.ImageFile]


def _header(name: str, image: Image.Image, **facts: Any) -> ImageHeader:  # noqa: ANN401 - fields of the class
    return ImageHeader(image, name, image.mode, size=image.size, **facts)


def _check_brands(stream: IO[bytes], start: bytes) -> None:
    stream.seek(0)
    box = stream.read(min(int.from_bytes(start[:4], "big"), 4096))
    brands = {box[8:12], *(box[at : at + 4] for at in range(16, len(box), 4))}
    if brands & _HEIF_BRANDS and not brands & _AVIF_BRANDS:
        advice = f"{_EXPORT}, or convert it in Python: pip install pillow-heif; pillow_heif.register_heif_opener(); "
        advice += "Image.open(path).convert('RGB').save('photo.png')"
        raise NotReadError(f"a HEIC (HEIF) photograph, which is none of the formats {', '.join(FORMATS)}", advice)


def check_cost(what: str, found: int, limit: int, advice: str = "save it anew with another program") -> None:
    """Refuse a file that costs more than any honest one.

    Raises:
        NotReadError: `found` is above the limit.

    """
    if found > limit:
        raise NotReadError(f"{what}: {found:,}; the limit is {limit:,}", advice)


class _Excerpt(io.RawIOBase):
    """Parts of a file, and bytes of our own, read as one."""

    def __init__(self, stream: IO[bytes], parts: Sequence[tuple[int, int] | bytes]) -> None:
        """`parts`: (start, end) in the file, or bytes."""
        self._stream, self._parts, self._at = stream, parts, 0
        lengths = (len(part) if isinstance(part, bytes) else part[1] - part[0] for part in parts)
        self._starts = [0, *accumulate(lengths)]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = offset + (0, self._at, self._starts[-1])[whence]
        return self._at

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - any writable buffer
        if self._at >= self._starts[-1]:
            return 0
        number = bisect_right(self._starts, self._at) - 1
        part, skip = self._parts[number], self._at - self._starts[number]
        if isinstance(part, bytes):
            data = part[skip : skip + len(buffer)]
        else:
            self._stream.seek(part[0] + skip)
            data = self._stream.read(min(len(buffer), part[1] - part[0] - skip))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _excerpt(stream: IO[bytes], parts: Sequence[tuple[int, int] | bytes]) -> IO[bytes]:
    """Return the parts as one file; parts that touch become one."""
    joined: list[tuple[int, int] | bytes] = []
    for part in parts:
        last = joined[-1] if joined else b""
        if isinstance(part, tuple) and isinstance(last, tuple) and last[1] == part[0]:
            joined[-1] = (last[0], part[1])
        elif not isinstance(part, tuple) or part[0] < part[1]:
            joined.append(part)
    return io.BufferedReader(_Excerpt(stream, joined), 1 << 16)


def _orientation(exif: bytes) -> int | None:
    """Return the orientation that EXIF data say, 1 if they say none; None: they are broken.

    Pillow reads every tag, of which hostile data refer to gigabytes.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    if not exif:
        return 1
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        if order is None:
            return None
        (place,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, place)
        for at in range(place + 2, place + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, at)
            if tag == 0x0112 and kind == 3:
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        return None
    return 1


# --- formats -------------------------------------------------------------------------------------------------------


def _png(stream: IO[bytes], factory: Factory, whole: bool) -> ImageHeader:
    """Keep the chunks that make pixels, their checksums verified, and EXIF's orientation."""
    parts: list[tuple[int, int] | bytes] = [(0, 8)]
    exif, several, place, pixels, compressed, bits = b"", False, 8, 0, 0, 8
    for number in range(MAX_CHUNKS + 1):
        stream.seek(place)
        head = stream.read(8)
        if len(head) < 8 and not whole:
            break
        if len(head) < 8:
            raise EOFError("the file ends before the chunk IEND")
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        end = place + 12 + length
        if kind == b"CgBI":
            raise NotReadError("a PNG in Apple's own form, for iOS alone", "open it on a Mac and export it")
        if number == 0 and kind != b"IHDR":
            raise SyntaxError("the first chunk is not IHDR")
        if kind in (b"IHDR", b"PLTE", b"tRNS"):
            check_cost(f"bytes of a PNG's chunk {kind.decode()}", length, 4096)
        if kind == b"IHDR":
            *size, bits = struct.unpack(">IIB", stream.read(9))
            pixels = size[0] * size[1]
            if pixels > MAX_PIXELS:
                return ImageHeader(None, "PNG", "", size=(size[0], size[1]))
            stream.seek(place + 8)
        if kind == b"IDAT":
            compressed += length
            check_cost("compressed bytes of a PNG", compressed, 16 * pixels + _BLOCK)
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            if whole:
                _check_crc(stream, kind, length)
            parts.append((place, end))
        elif kind == b"eXIf":
            exif = stream.read(min(length, _EXIF_BYTES))
        elif kind == b"acTL":
            several = int.from_bytes(stream.read(4), "big") > 1
        if kind == b"IEND":
            break
        place = end
    else:
        check_cost("chunks of a PNG", number + 1, MAX_CHUNKS)
    image = factory(_excerpt(stream, parts), "")
    return _header("PNG", image, several=several, orientation=_orientation(exif), bits=bits)


def _check_crc(stream: IO[bytes], kind: bytes, length: int) -> None:
    crc = zlib.crc32(kind)
    while length:
        data = stream.read(min(length, _BLOCK))
        if not data:
            raise EOFError(f"the file ends in the chunk {kind.decode()}")
        crc, length = zlib.crc32(data, crc), length - len(data)
    if stream.read(4) != crc.to_bytes(4, "big"):
        raise SyntaxError(f"the checksum of the chunk {kind.decode()} is wrong")


_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # neither filling, nor a stuffed byte, nor a restart marker
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})


def _jpeg(stream: IO[bytes], factory: Factory, whole: bool) -> ImageHeader:
    """Keep the segments of the first image but for metadata and filling, and EXIF's orientation."""
    parts: list[tuple[int, int] | bytes] = [b"\xff\xd8"]
    exif, place, components, work, area, scan = b"", 2, 1, 0, 1, 0
    for _ in range(MAX_SEGMENTS + 1):
        found = _next_marker(stream, place, 16 * area + 4 * _BLOCK)
        if found is None:
            break
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
        body = stream.read(min(max(length - 2, 0), 64))
        if marker in _START_OF_FRAME:
            if marker in (0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF) or body[:1] != b"\x08":
                kind = f"{body[0] if body else 0}-bit" if marker <= 0xC2 else "lossless or hierarchical"
                raise NotReadError(f"a {kind} JPEG", "open it in the program that wrote it, and export it as PNG")
            height, width, components = struct.unpack_from(">HHB", body, 1)
            area = width * height
            if area > MAX_PIXELS:
                return ImageHeader(None, "JPEG", "", size=(width, height))
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            if not exif:
                stream.seek(start + 4)
                exif = stream.read(length - 2)
        elif marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker in (0xFE, 0x01, 0xD8)):
            parts.append((start, place))
        if marker == 0xDA:
            work += area * (body[0] if body else components)
            check_cost("pixels to go over in all scans of a JPEG", work, MAX_SCANS * MAX_PIXELS)
            scan = place
            if not whole:
                break
    else:
        check_cost("segments of a JPEG", MAX_SEGMENTS + 1, MAX_SEGMENTS)
    if scan:
        parts.append((scan, stream.seek(0, io.SEEK_END)))
    return _header("JPEG", factory(_excerpt(stream, parts), ""), orientation=_orientation(exif))


def _next_marker(stream: IO[bytes], place: int, most: int) -> tuple[int, int] | None:
    """Return the place and the kind of the next marker; None: the file ends before."""
    stream.seek(place)
    kept, begin = b"", place
    while data := stream.read(_BLOCK):
        match = _MARKER.search(kept + data)
        if match:
            return place - len(kept) + match.start(), match[1][0]
        place += len(data)
        check_cost("bytes between two segments of a JPEG", place - begin, most)
        kept = data[-1:]
    return None


def _webp(stream: IO[bytes], factory: Factory, _: bool) -> ImageHeader:
    """Keep the first frame and what it needs, as a file of its own, and EXIF's orientation."""
    stream.seek(4)
    end = 8 + int.from_bytes(stream.read(4), "little")
    parts: list[tuple[int, int]] = []
    exif, frames, place, total = b"", 0, 12, 0
    for _number in range(MAX_SEGMENTS):
        stream.seek(place)
        head = stream.read(8)
        if len(head) < 8 or place >= end:
            break
        kind, length = head[:4], int.from_bytes(head[4:], "little")
        if kind == b"EXIF":
            exif = stream.read(min(length, _EXIF_BYTES))
        frames += kind == b"ANMF"
        if kind in (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM") or (kind == b"ANMF" and frames == 1):
            total += length
            check_cost("bytes of a WebP", total, MAX_WHOLE)
            parts.append((place, place + 8 + length + length % 2))
        place += 8 + length + length % 2
    size = 4 + sum(part[1] - part[0] for part in parts)
    whole = _excerpt(stream, [b"RIFF" + size.to_bytes(4, "little") + b"WEBP", *parts])
    return _header("WEBP", factory(whole, ""), several=frames > 1, orientation=_orientation(exif))


def _gif(stream: IO[bytes], factory: Factory, _: bool) -> ImageHeader:
    """Keep the first image and its transparency."""
    stream.seek(0)
    head = stream.read(13)
    table = 3 << (head[10] & 7) + 1 if head[10] & 128 else 0
    parts: list[tuple[int, int] | bytes] = [(0, 13 + table)]
    size, control, images, blocks, place = struct.unpack_from("<HH", head, 6), (0, 0), 0, 0, 13 + table
    while True:
        stream.seek(place)
        kind = stream.read(1)
        start = place
        if kind == b"!":
            label = stream.read(1)
            place += 2
        elif kind == b",":
            images += 1
            if images == 2:
                break
            frame = stream.read(9)
            left, top, width, height = struct.unpack_from("<4H", frame)
            size = max(size[0], left + width), max(size[1], top + height)  # Pillow makes room for all of the frame
            if size[0] * size[1] > MAX_PIXELS:
                return ImageHeader(None, "GIF", "", size=size)
            place += 11 + (3 << (frame[8] & 7) + 1 if frame[8] & 128 else 0)
        else:
            break
        stream.seek(place)
        while length := stream.read(1):
            place += 1 + length[0]
            blocks += 1
            check_cost("blocks of a GIF", blocks, MAX_BLOCKS)
            if length == b"\0":
                break
            stream.seek(length[0], io.SEEK_CUR)
        if kind == b"!" and label == b"\xf9" and not images:
            control = start, place
        if kind == b",":
            parts += [control, (start, place), b";"]
    return _header("GIF", factory(_excerpt(stream, parts), ""), several=images > 1)


def _bmp(stream: IO[bytes], factory: Factory, _: bool) -> ImageHeader:
    stream.seek(0)
    head = stream.read(34)
    stream.seek(0)
    image = factory(stream, "")
    if len(head) == 34 and int.from_bytes(head[14:18], "little") >= 40 and head[30] in (1, 2):
        _check_slow("pixels of a BMP with run lengths", image)
    return _header("BMP", image)


def _check_slow(what: str, image: Image.Image) -> None:
    if image.width * image.height <= MAX_PIXELS:
        check_cost(what, image.width * image.height, MAX_SLOW_PIXELS, "save it as PNG")


def _ppm(stream: IO[bytes], factory: Factory, _: bool) -> ImageHeader:
    stream.seek(0)
    start = stream.read(_EXIF_BYTES)
    head = re.match(
        rb"P([1-6])(?:\s+|#[^\n\r]*[\n\r])+(\d{1,10})(?:\s+|#[^\n\r]*[\n\r])+(\d{1,10})(?:(?:\s+|#[^\n\r]*[\n\r])+(\d{1,10}))?\s",
        start,
    )
    if head is None and start[1:2] in b"123456":
        raise ValueError("no width and height")
    stream.seek(0)
    image = factory(stream, "")
    if start[1:2] in b"123":
        _check_slow("pixels of a PPM of text", image)
    if head is None or head[1] in b"14" or (head[1] == b"6" and int(head[4] or 0) == 255):
        return _header("PPM", image)
    bands, maximum = 3 if head[1] in b"36" else 1, int(head[4] or 0)
    decode = partial(_levels, stream, head.end(), image.size, bands, maximum, head[1] in b"23")
    mode = "RGB" if bands == 3 else "I;16" if maximum > 255 else "L"
    return ImageHeader(None, "PPM", mode, size=image.size, decode=decode)


def _levels(stream: IO[bytes], offset: int, size: tuple[int, int], bands: int, maximum: int, text: bool) -> Image.Image:
    """Read a PGM or PPM of any levels, scaled to 0 to 255, which Pillow does number by number."""
    image = Image.new("L" if bands == 1 else "RGB", size)
    row = size[0] * bands
    kind = np.dtype("u1" if maximum < 256 else ">u2")
    stream.seek(offset)
    if text:
        words = re.sub(rb"#[^\n\r]*", b" ", stream.read(16 * row * size[1]))
        numbers = np.fromstring(words.decode("ascii"), np.int64, sep=" ")  # with a count NumPy would invent the rest
        numbers = numbers[: row * size[1]]
        if numbers.size < row * size[1] or numbers.min() < 0 or numbers.max() > maximum:
            raise ValueError("numbers are missing, or above the largest one that is announced")
        stream = io.BytesIO(numbers.astype(kind).tobytes())
    rows = max(1, _BLOCK // row)
    for top in range(0, size[1], rows):
        count = min(rows, size[1] - top)
        values = np.frombuffer(stream.read(count * row * kind.itemsize), kind, count * row)
        part = tiff.to_eight_bits(values, maximum).reshape((count, size[0], 3) if bands == 3 else (count, size[0]))
        image.paste(Image.fromarray(part), (0, top))
    return image


def _avif(stream: IO[bytes], factory: Factory, _: bool) -> ImageHeader:
    stream.seek(0, io.SEEK_END)
    check_cost("bytes of an AVIF", stream.tell(), MAX_WHOLE)
    stream.seek(0)
    image = factory(stream, "")
    several, exif = getattr(image, "is_animated", False), image.info.pop("exif", b"")
    return _header("AVIF", image, several=several, orientation=_orientation(exif))


def _tiff(stream: IO[bytes], factory: Factory, _: bool) -> ImageHeader:
    page = tiff.find_page(stream)
    if page.fault or page.mode or page.size[0] * page.size[1] > MAX_PIXELS:
        mode = "I;16" if page.bits == 16 and page.mode == "L" else page.mode
        decode = None if page.fault else partial(tiff.read, stream, page)
        bits = 8 if page.stated else page.bits
        facts = page.several, page.orientation, page, page.fault, page.maximum, bits, page.opaque, decode
        return ImageHeader(None, "TIFF", mode, *facts, size=page.size)
    stream.seek(0)
    image = factory(stream, "")
    image.seek(page.number)
    return _header("TIFF", image, several=page.several, page=page, maximum=page.maximum, opaque=page.opaque)


_READERS: dict[str, Callable[[IO[bytes], Factory, bool], ImageHeader]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "BMP": _bmp,
    "TIFF": _tiff,
    "GIF": _gif,
    "PPM": _ppm,
    "AVIF": _avif,
}
