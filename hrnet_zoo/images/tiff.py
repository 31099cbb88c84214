"""TIFF directories, judged before Pillow sees the file, and the layouts of pixels that Pillow cannot read."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

MOST_PIECES = 100_000  # strips or tiles of an image
_MOST_TAGS, _MOST_PAGES, _MOST_SUBPAGES = 4096, 1000, 16
_MOST_METADATA = 256 << 20  # bytes that the tags of a directory refer to
_LARGEST_PIECE = 64 << 20  # bytes of a compressed strip or tile, unpacked
_BYTES_AT_ONCE = 8 << 20

_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
_STRIP_OFFSETS, _SAMPLES, _ROWS, _STRIP_COUNTS, _MAXIMUM, _PLANAR, _PREDICTOR = 273, 277, 278, 279, 281, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS, _SUBPAGES, _EXTRA = 322, 323, 324, 325, 330, 338
_FORMAT, _S_MAXIMUM, _DNG, _FILL_ORDER, _ORIENTATION = 339, 341, 50706, 266, 274
_BELOW = (34665, 34853, 40965)  # directories of EXIF, GPS and interoperability, which Pillow reads
_WANTED = {
    *(_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIP_OFFSETS, _SAMPLES, _ROWS),
    *(_STRIP_COUNTS, _MAXIMUM, _PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS),
    *(_SUBPAGES, _EXTRA, _FORMAT, _S_MAXIMUM, _DNG, _FILL_ORDER, _ORIENTATION, *_BELOW),
}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_CODES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _COLORS = 0, 1, 2
_RAW_PHOTOMETRICS = (32803, 34892)  # color filter array, linear raw

Tags = Mapping[int, tuple[int, ...]]


class NotReadError(Exception):
    """A healthy file of a kind that is not read: what it is, and what to do."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(found)
        self.found, self.advice = found, advice


@dataclass(frozen=True)
class Page:
    """The image of a TIFF that is meant, and how its pixels lie.

    Attributes:
        number: of the directory, from 0.
        several: there are further images that are not reduced forms of it.
        tags: what the directory says, of the tags that matter here.
        order: "<" or ">".
        mode: of the image that `read` makes; "": Pillow reads this layout.
        unnamed: the colors of the bands are not stated: the first three were taken as red, green, blue.
        opaque: no band is transparency, whatever Pillow makes of it.
        maximum: the value that is white, of 16-bit or 12-bit values.
        stated: `maximum` is what the file says, and not the full range of 16 bits.
        fault: why there is no one exact way from the values to RGB; None: there is.

    """

    number: int
    several: bool
    tags: Tags
    order: str
    mode: str
    unnamed: bool
    opaque: bool
    maximum: int
    stated: bool
    fault: NotReadError | None

    @property
    def bits(self) -> int:
        """Of a value."""
        return _first(self.tags, _BITS, 1)

    @property
    def orientation(self) -> int:
        """As EXIF counts."""
        found = _first(self.tags, _ORIENTATION, 1)
        return found if 1 <= found <= 8 else 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as stored."""
        return self.tags[_WIDTH][0], self.tags[_HEIGHT][0]


def find_page(stream: IO[bytes]) -> Page:
    """Choose the image of a TIFF at full resolution: the first that is neither a reduced form nor a transparency mask.

    Raises:
        NotReadError: camera raw, or more tags, strips or tiles than any honest file has.
        ValueError, struct.error: damaged.

    """
    pages, order, raw, look = _pages(stream)
    full = [number for number, tags in enumerate(pages) if not (_first(tags, _SUBFILE, 0) & 5 or _is_old_reduced(tags))]
    full = [number for number in full if number == full[0] or not _is_overview(pages[number], pages[full[0]])]
    if raw or not full:
        what = "a camera raw file" if raw else "a TIFF that holds reduced images alone, as camera raw files do"
        raise NotReadError(f"{what}, of which only a preview could be read", "develop it: export it as JPEG or TIFF")
    number = full[0]
    tags = pages[number]
    for tag in _BELOW:
        with contextlib.suppress(struct.error):  # broken EXIF spoils no pixels
            if tag in tags:
                look(tags[tag][0])
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise ValueError("a directory without the image's size")
    maximum, stated = _maximum(tags)
    mode, unnamed, fault = "", False, None
    try:
        mode, unnamed = _layout(tags, order)
    except NotReadError as error:
        fault = error.with_traceback(None)
        floats = 3 in tags.get(_FORMAT, ())
        mode = "F" if floats else "I" if max(tags.get(_BITS, (1,))) > 8 else f"{_first(tags, _SAMPLES, 1)}-band"
    opaque = _first(tags, _PHOTOMETRIC, 0) == _COLORS and tags.get(_EXTRA, ())[:1] not in ((1,), (2,))
    return Page(number, len(full) > 1, tags, order, mode, unnamed, opaque, maximum, stated, fault)


def read(stream: IO[bytes], page: Page) -> Image.Image:
    """Return the image of a page whose `mode` is not empty; 16-bit values are scaled: round(255 * value / maximum)."""
    image = Image.new(page.mode, page.size)
    bits = page.bits
    bands = {"L": (0,), "LA": (0, 1), "RGB": (0, 1, 2), "RGBA": (0, 1, 2, 3)}[page.mode]
    for (left, top), values in _pieces(stream, page, bands):
        part = to_eight_bits(values, page.maximum) if bits == 16 else values
        if bits == 16 and page.mode.endswith("A"):
            part[..., -1] = to_eight_bits(values[..., -1], 65535)
        if _first(page.tags, _PHOTOMETRIC, 0) == _WHITE_IS_ZERO:
            part = 255 - part
        image.paste(Image.fromarray(part[..., 0] if len(bands) == 1 else np.ascontiguousarray(part)), (left, top))
    return image


def to_eight_bits(values: npt.NDArray[np.unsignedinteger], maximum: int) -> npt.NDArray[np.uint8]:
    """Return round(255 * v / maximum), at most 255, of values up to 65535."""
    scaled = values.astype(np.uint32)
    scaled *= 510
    scaled += maximum
    scaled //= 2 * maximum
    return np.minimum(scaled, 255).astype(np.uint8)


# --- directories ---------------------------------------------------------------------------------------------------


def _pages(stream: IO[bytes]) -> tuple[list[Tags], str, bool, Callable[[int], tuple[Tags, int]]]:
    """Return the directories in their order, the byte order, whether one is a camera's, and what reads further ones."""
    stream.seek(0, io.SEEK_END)
    length = stream.tell()
    stream.seek(0)
    head = stream.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", head, 2)[0] == 43
    (place,) = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)
    look = partial(_directory, stream, order=order, big=big, length=length)
    pages: list[Tags] = []
    seen: set[int] = set()
    raw = head[8:10] == b"CR" and not big
    while place and place not in seen and len(pages) < _MOST_PAGES:
        seen.add(place)
        try:
            tags, place = look(place)
        except (NotReadError, struct.error):
            if pages:  # the first image is whole, which is enough
                break
            raise
        pages.append(tags)
    everything = [*pages]
    for place in [place for tags in pages for place in tags.get(_SUBPAGES, ())][:_MOST_SUBPAGES]:
        with contextlib.suppress(struct.error):
            everything.append(look(place)[0])
    raw = raw or any(_DNG in tags or _first(tags, _PHOTOMETRIC, 0) in _RAW_PHOTOMETRICS for tags in everything)
    return pages, order, raw, look


def _directory(stream: IO[bytes], place: int, *, order: str, big: bool, length: int) -> tuple[Tags, int]:
    """Return a directory's tags of whole numbers, and the place of the next directory."""
    entry, counter, inline = ("HHQ", "Q", 8) if big else ("HHI", "H", 4)
    stream.seek(place)
    (count,) = struct.unpack(order + counter, stream.read(struct.calcsize(counter)))
    if count > _MOST_TAGS:
        raise _too_much(f"{count:,} tags", _MOST_TAGS)
    width = struct.calcsize("=" + entry) + inline
    body = stream.read(count * width + inline)
    tags: dict[int, tuple[int, ...]] = {}
    metadata = 0
    for at in range(0, count * width, width):
        tag, kind, number = struct.unpack_from(order + entry, body, at)
        size = _SIZES.get(kind, 1) * number
        metadata += size if size > inline else 0
        if tag not in _WANTED or kind not in _CODES or tag in tags:
            continue
        if number > MOST_PIECES:
            raise _too_much(f"{number:,} strips or tiles", MOST_PIECES)
        code = f"{order}{number}{_CODES[kind]}"
        if size <= inline:
            tags[tag] = struct.unpack_from(code, body, at + width - inline)
        else:
            stream.seek(struct.unpack_from(order + ("Q" if big else "I"), body, at + width - inline)[0])
            tags[tag] = struct.unpack(code, stream.read(size))
    if metadata > min(length, _MOST_METADATA):
        raise _too_much(f"tags of {metadata:,} bytes", min(length, _MOST_METADATA))
    rest = body[count * width :]
    return tags, struct.unpack(order + ("Q" if big else "I"), rest)[0] if len(rest) == inline else 0


def _first(tags: Tags, tag: int, default: int) -> int:
    return (tags.get(tag) or (default,))[0]


def _is_overview(tags: Tags, full: Tags) -> bool:
    """Tell whether an image has a half, a quarter, ... of another one's sides: a reduced copy that does not say so."""
    sides = [(_first(full, tag, 0), _first(tags, tag, 0)) for tag in (_WIDTH, _HEIGHT)]
    return (
        any(all(-(-whole // 2**level) == side for whole, side in sides) for level in range(1, 16)) and sides[0][1] > 0
    )


def _is_old_reduced(tags: Tags) -> bool:
    return _SUBFILE not in tags and _first(tags, _OLD_SUBFILE, 1) == 2


def _maximum(tags: Tags) -> tuple[int, bool]:
    """Return the value that is white, and whether the file states it (MaxSampleValue, SMaxSampleValue, or its bits)."""
    bits = _first(tags, _BITS, 1)
    full = (1 << min(bits, 16)) - 1
    stated = max((*tags.get(_MAXIMUM, ()), *tags.get(_S_MAXIMUM, ())), default=0)
    return (stated, True) if 0 < stated < full and bits > 8 else (full, bits != 16)


def _too_much(what: str, limit: int) -> NotReadError:
    return NotReadError(f"a TIFF with {what}; the limit is {limit:,}", "save the image anew, without metadata")


# --- layouts of pixels ---------------------------------------------------------------------------------------------


def _layout(tags: Tags, order: str) -> tuple[str, bool]:
    """Return the mode that `read` makes of a page ("": Pillow reads it), and whether the bands' colors are a guess."""
    bits, formats, extra = tags.get(_BITS, (1,)), tags.get(_FORMAT, (1,)), tags.get(_EXTRA, ())
    photometric, compression = _first(tags, _PHOTOMETRIC, 0), _first(tags, _COMPRESSION, 1)
    samples = _first(tags, _SAMPLES, 3 if compression == 7 and photometric in (2, 6) else 1)
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        raise NotReadError(f"a TIFF of compression {compression}", "save it uncompressed, or with deflate or LZW")
    bands = f"{samples} band{'s' * (samples > 1)} of {max(bits)} bits"
    if set(formats) != {1} or len(set(bits)) > 1 or bits[0] > 16:
        kinds = {1: "unsigned integers", 2: "signed integers", 3: "floating point"}
        kind = kinds.get(formats[0], "no numbers") if len(set(formats)) == 1 else "several kinds"
        raise NotReadError(f"a TIFF of {bands}, {kind}, from which there is no single exact way to 0-255 RGB", _SCALE)
    colored, gray = photometric == _COLORS, photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
    if not (colored or gray):
        return "", False
    alpha = extra[:1] in ((1,), (2,)) and samples > (3 if colored else 1)
    if (gray and samples > 4) or (colored and samples < 3):
        raise NotReadError(f"a TIFF of {bands}, of which none is said to be red, green or blue", _SCALE)
    if bits[0] not in (8, 16):
        if samples > 1 or (bits[0] > 8 and (bits[0], order, photometric) != (12, "<", _BLACK_IS_ZERO)):
            raise NotReadError(f"a TIFF of {bands}", "save it with 8 or 16 bits")
        return "", False
    unnamed = gray and samples > 2
    by_pillow = ((1, ()), (2, (0,)), (2, (2,))) if gray else ((3, ()), (4, ()), (4, (0,)), (4, (1,)), (4, (2,)))
    if bits[0] == 8 and (samples, extra) in by_pillow:
        return "", False
    rare = alpha and extra[0] == 1, samples > 1 and photometric == _WHITE_IS_ZERO, _first(tags, _FILL_ORDER, 1) != 1
    if compression in (6, 7) or any(rare):
        raise NotReadError(f"a TIFF of {bands}, stored in a rare way", "save it as 8-bit RGB")
    return ("RGB" if colored or unnamed else "L") + "A" * (alpha and not unnamed), unnamed


_SCALE = (
    "choose three bands (or one) and the values `low` and `high` that are black and white, and pass "
    "np.clip((bands - low) / (high - low) * 255, 0, 255).round().astype('uint8'); rasterio and tifffile read them"
)


def _pieces(
    stream: IO[bytes], page: Page, bands: tuple[int, ...]
) -> Iterator[tuple[tuple[int, int], npt.NDArray[np.unsignedinteger]]]:
    """Yield ((left, top), values (h, w, bands)) of the strips or tiles, one after the other."""
    tags = page.tags
    width, height = page.size
    tiled = _TILE_OFFSETS in tags
    offsets = tags.get(_TILE_OFFSETS if tiled else _STRIP_OFFSETS, ())
    counts = tags.get(_TILE_COUNTS if tiled else _STRIP_COUNTS, ())
    w = _first(tags, _TILE_WIDTH, 0) if tiled else width
    h = _first(tags, _TILE_HEIGHT, 0) if tiled else min(_first(tags, _ROWS, height), height)
    samples, separate = _first(tags, _SAMPLES, 1), _first(tags, _PLANAR, 1) == 2
    if not (0 < w < 1 << 20 and 0 < h < 1 << 20):
        raise ValueError(f"strips or tiles of {w} x {h}")
    grid = [(x, y) for y in range(0, height, h) for x in range(0, width, w)]
    if len(offsets) != len(counts) or len(offsets) < len(grid) * (samples if separate else 1):
        raise ValueError(f"{len(offsets)} strips or tiles, where {len(grid)} are needed")
    row_bytes = w * (1 if separate else samples) * (page.bits // 8)
    step = h if tiled or _first(tags, _COMPRESSION, 1) != 1 else max(1, _BYTES_AT_ONCE // row_bytes)
    for number, (x, y) in enumerate(grid):
        planes = [number + band * len(grid) for band in bands] if separate else [number]
        rows = h if tiled else min(h, height - y)
        for top in range(0, rows, step):  # uncompressed strips, which may be as large as the image, in parts
            shape = min(step, rows - top), w, 1 if separate else samples
            parts = [_piece(stream, page, offsets[n] + top * row_bytes, counts[n], shape) for n in planes]
            values = np.concatenate(parts, axis=2) if separate else parts[0][..., : len(bands)]
            yield (x, y + top), values[: height - y - top, : width - x]


def _piece(
    stream: IO[bytes], page: Page, offset: int, count: int, shape: tuple[int, int, int]
) -> npt.NDArray[np.unsignedinteger]:
    """Read and unpack one strip or tile."""
    rows, width, samples = shape
    kind = np.dtype("u1" if page.bits == 8 else page.order + "u2")
    size = rows * width * samples * kind.itemsize
    compression, predictor = _first(page.tags, _COMPRESSION, 1), _first(page.tags, _PREDICTOR, 1)
    stream.seek(offset)
    if compression == 1:
        data = stream.read(size)
    elif size > _LARGEST_PIECE or count > 2 * size + 65536:
        raise NotReadError(f"a compressed strip of {size:,} bytes; the limit is {_LARGEST_PIECE:,}", "save it in tiles")
    else:
        data = _unpacked(stream.read(count), width * samples * kind.itemsize, rows, compression)
    values = np.frombuffer(data, kind, rows * width * samples).reshape(shape)
    if compression != 1 and predictor == 2:
        return np.cumsum(values, axis=1, dtype=kind.newbyteorder("="))
    return values


def _unpacked(data: bytes, row: int, rows: int, compression: int) -> bytes:
    """Let libtiff unpack a strip, as the bytes that it is: as a TIFF of its own, 8-bit gray."""
    tags = [(256, row), (257, rows), (258, 8), (259, compression), (262, 1), (273, 8), (277, 1), (278, rows)]
    tags.append((279, len(data)))
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (256, 257, 273, 278, 279) else 3, 1, v) for tag, v in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    whole = head + data + struct.pack("<H", len(tags)) + entries + bytes(4)
    return TiffImagePlugin.TiffImageFile(io.BytesIO(whole), "").tobytes()
