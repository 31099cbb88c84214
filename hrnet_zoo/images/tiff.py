"""TIFF files: find the main image, decide how its values are stored, decode it in row chunks of bounded memory.

Pillow never sees the file: each row chunk is handed to it as a small TIFF with the tags that matter to pixels. Layouts
that Pillow cannot read exactly (16 bits, bands beside RGB) are unpacked as bytes, of which NumPy makes the values.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin
from PIL.ExifTags import Base as Tag

from hrnet_zoo.errors import ImageError

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the first bytes; + is of BigTIFF
MAX_PIECES = 100_000  # strips or tiles of an image
MAX_DIRECTORIES = 100
MAX_UNPACKED = 64 << 20  # bytes of a compressed strip, or row of tiles, that is unpacked here
_CHUNK = 8 << 20  # unpacked bytes of a row chunk, unless one compressed strip or row of tiles has more

_TAGS = {
    *(Tag.NewSubfileType, Tag.ImageWidth, Tag.ImageLength, Tag.BitsPerSample, Tag.Compression, Tag.FillOrder),
    *(Tag.PhotometricInterpretation, Tag.StripOffsets, Tag.Orientation, Tag.SamplesPerPixel, Tag.RowsPerStrip),
    *(Tag.StripByteCounts, Tag.MaxSampleValue, Tag.PlanarConfiguration, Tag.T4Options, Tag.T6Options, Tag.Predictor),
    *(Tag.ColorMap, Tag.TileWidth, Tag.TileLength, Tag.TileOffsets, Tag.TileByteCounts, Tag.SubIFDs, Tag.ExtraSamples),
    *(Tag.SampleFormat, Tag.SMaxSampleValue, Tag.JPEGTables, Tag.YCbCrSubSampling, Tag.DNGVersion),
}
_CODES = {1: "B", 3: "H", 4: "I", 7: "B", 13: "I", 16: "Q"}  # of whole numbers
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _YCBCR = 0, 1, 2, 6
_CAMERA = (32803, 34892)  # photometric: color filter array, linear raw
_BYTE_CODECS = (1, 5, 8, 32773, 32946, 34925, 50000)  # none, LZW, deflate (8, 32946), PackBits, LZMA, Zstandard
_NO_PREDICTOR = (1, 32773)  # libtiff ignores the tag with these, and so does Pillow
_BROKEN = (EOFError, OSError, OverflowError, struct.error)
_TO_EIGHT_BITS = (
    "choose three bands (or one) and the values `low` and `high` that are black and white, and pass "
    "np.clip((bands - low) / (high - low) * 255, 0, 255).round().astype('uint8'); rasterio and tifffile read them"
)
_TO_VALUES = (
    "save it uncompressed, or with LZW, deflate or Zstandard and predictor 1, 2 or 3; or its array by numpy.save"
)

Tags = Mapping[int, tuple[int, ...]]
Piece = tuple[int, int]  # offset and bytes of a strip or tile in the file


def refusal(found: str, advice: str, source: str = "", kind: type[ImageError] = ImageError) -> ImageError:
    """Return the error of an image that is not read; `hrnet_zoo.images.formats.image_errors` adds the source."""
    asked, done = f"read an image: {source}", "no pixels were taken"
    return kind(asked=asked, found=found, done=done, advice=advice, source=source)


@dataclass(frozen=True)
class Page:
    """An image of a TIFF."""

    tags: Tags
    order: str  # "<" or ">"
    size: tuple[int, int]  # (width, height) as stored
    bits: int  # of a value
    maximum: int  # the value that is white
    mode: str = ""  # of the decoded image
    kind: str = "u"  # NumPy's letter for the type of a value
    by_pillow: bool = True  # which decodes the values; else NumPy does
    inverted: bool = False  # gray whose zero is white
    colors_unknown: bool = False  # which band is which color is not stated; the first three are taken as RGB


def choose_page(stream: IO[bytes]) -> tuple[Page, bool]:
    """Return the first image that is neither a reduced copy nor a mask, and whether there are more such images."""
    tags, order, several = _full_image(stream)
    return _page(tags, order), several


def _full_image(stream: IO[bytes]) -> tuple[Tags, str, bool]:
    pages, order = directories(stream)
    full = [tags for tags in pages if not _first(tags, Tag.NewSubfileType, 0) & 5]
    full = [tags for tags in full if tags is full[0] or not _is_overview(tags, full[0])]
    raw = any(Tag.DNGVersion in tags or _first(tags, Tag.PhotometricInterpretation, 0) in _CAMERA for tags in pages)
    if raw or not full:
        what = "a camera raw file" if raw else "a TIFF that holds reduced images alone, as camera raw files do"
        raise refusal(f"{what}, of which only a preview could be read", "develop it: export it as JPEG or TIFF")
    return full[0], order, len(full) > 1


def decode(stream: IO[bytes], page: Page) -> Image.Image:
    """Return the image of a page as stored; 16-bit values are scaled: round(255 * value / maximum)."""
    image = Image.new(page.mode, page.size)
    for top, rows, tags, planes in _chunks(page):
        if page.by_pillow:
            pieces = [piece for plane in planes for piece in plane]
            part = _small_tiff(stream, page.order, {**page.tags, **tags}, pieces)
            part.load()
            if part.mode != page.mode:
                part = part.convert(page.mode)
            if rows == image.height:
                return part
            if top == 0 and part.mode in ("P", "PA"):
                image.putpalette(part.getpalette() or [])
        else:
            part = _to_image(page, _values(stream, page, rows, tags, planes))
        image.paste(part, (0, top))
    return image


def bands_page(stream: IO[bytes]) -> tuple[Page, int, bool]:
    """Return the first full image as `read_values` reads it, the number of its bands, and whether there are more."""
    tags, order, several = _full_image(stream)
    bits, formats = tags.get(Tag.BitsPerSample, (1,)), tags.get(Tag.SampleFormat, (1,))
    compression, predictor = _first(tags, Tag.Compression, 1), _first(tags, Tag.Predictor, 1)
    photometric, count = _first(tags, Tag.PhotometricInterpretation, 1), _first(tags, Tag.SamplesPerPixel, 1)
    if photometric == _YCBCR or count >= 1 << 16:
        raise refusal(
            f"a TIFF of {count} bands, photometric interpretation {photometric}", "save its array by numpy.save"
        )
    if len({*bits}) > 1 or len({*formats}) > 1 or bits[0] not in (8, 16, 32, 64) or formats[0] not in (1, 2, 3):
        raise refusal(f"a TIFF with values of {bits} bits, sample format {formats}", _TO_VALUES)
    known = (1, 2, 3) if formats[0] == 3 else (1, 2)
    if compression not in _BYTE_CODECS or predictor not in known or _first(tags, Tag.FillOrder, 1) != 1:
        raise refusal(f"a TIFF of compression {compression}, predictor {predictor}", _TO_VALUES)
    size = tags[Tag.ImageWidth][0], tags[Tag.ImageLength][0]
    kind = {1: "u", 2: "i", 3: "f"}[formats[0]]
    return Page(tags, order, size, bits[0], 0, "?" * count, kind, by_pillow=False), count, several


def read_values(stream: IO[bytes], page: Page) -> npt.NDArray[np.float32]:
    """Return the values of a page (height, width, bands)."""
    values = np.empty((page.size[1], page.size[0], len(page.mode)), np.float32)
    for top, rows, tags, planes in _chunks(page):
        with np.errstate(over="ignore"):  # float64 may be infinite as float32
            values[top : top + rows] = _values(stream, page, rows, tags, planes)
    return values


def orientation(tags: Tags) -> int:
    """Return EXIF's orientation, 1 to 8."""
    found = _first(tags, Tag.Orientation, 1)
    return found if 1 <= found <= 8 else 1


def scale_to_uint8(values: npt.NDArray[np.unsignedinteger], maximum: int) -> npt.NDArray[np.uint8]:
    """Return round(255 * v / maximum), at most 255, of values up to 65535."""
    scaled = values.astype(np.uint32)
    scaled *= 510
    scaled += maximum
    scaled //= 2 * maximum
    return np.minimum(scaled, 255).astype(np.uint8)


def directories(stream: IO[bytes]) -> tuple[list[Tags], str]:
    """Return the tags of each directory, at most MAX_DIRECTORIES, and the byte order, "<" or ">"."""
    stream.seek(0)
    head = stream.read(16)
    order = {b"II": "<", b"MM": ">"}[head[:2]]
    big = struct.unpack_from(order + "H", head, 2)[0] == 43
    places = [struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0]]
    found: dict[int, Tags] = {}
    numbers = 0
    while places and len(found) < MAX_DIRECTORIES and numbers < MAX_PIECES:
        place = places.pop(0)
        if place and place not in found:
            try:
                found[place], following = _directory(stream, place, order, big)
            except (ImageError, *_BROKEN):
                if found:  # the first image is whole, which is enough
                    continue
                raise
            numbers += sum(map(len, found[place].values()))
            places += [following, *found[place].get(Tag.SubIFDs, ())[:MAX_DIRECTORIES]]
    return list(found.values()), order


def _directory(stream: IO[bytes], place: int, order: str, big: bool) -> tuple[Tags, int]:
    """Return the wanted tags of whole numbers, and the place of the next directory."""
    counter, entry, offset = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    stream.seek(place)
    (count,) = struct.unpack(order + counter, stream.read(struct.calcsize(counter)))
    length = min(count, 1 << 16) * struct.calcsize(order + entry)
    body = stream.read(length)
    following = int.from_bytes(stream.read(struct.calcsize(offset)), "little" if order == "<" else "big")
    if len(body) < length:
        raise EOFError("a directory that ends early")
    tags: dict[int, tuple[int, ...]] = {}
    for tag, kind, number, value in struct.iter_unpack(order + entry, body):
        if tag in _TAGS and kind in _CODES and tag not in tags:
            _check_number(number)
            code = f"{order}{number}{_CODES[kind]}"
            if struct.calcsize(code) > len(value):
                stream.seek(struct.unpack(order + offset, value)[0])
                value = stream.read(struct.calcsize(code))
            tags[tag] = struct.unpack_from(code, value)
    return tags, following


def _first(tags: Tags, tag: int, default: int) -> int:
    return (tags.get(tag) or (default,))[0]


def _is_overview(tags: Tags, full: Tags) -> bool:
    """Return whether an image has 1/2, 1/4, ... of the sides of another one: an unmarked reduced copy."""
    width, height, *whole = (_first(each, tag, 0) for each in (tags, full) for tag in (Tag.ImageWidth, Tag.ImageLength))
    return any((width, height) == (-(-whole[0] // 2**level), -(-whole[1] // 2**level)) for level in range(1, 16))


def _page(tags: Tags, order: str) -> Page:
    """Decide how the values of a page are decoded."""
    bits, formats, extra = (tags.get(tag, ()) for tag in (Tag.BitsPerSample, Tag.SampleFormat, Tag.ExtraSamples))
    depth, photometric = max(bits, default=1), _first(tags, Tag.PhotometricInterpretation, 0)
    compression = _first(tags, Tag.Compression, 1)
    samples = _first(tags, Tag.SamplesPerPixel, 3 if compression == 7 and photometric in (2, 6) else 1)
    bands = f"a TIFF of {samples} band{'s' * (samples > 1)} of {depth} bits"
    if compression == 6 or compression not in TiffImagePlugin.COMPRESSION_INFO:
        raise refusal(f"a TIFF of compression {compression}", "save it uncompressed, or with deflate or LZW")
    if not set(formats) <= {1} or len(set(bits)) > 1 or depth not in (1, 2, 4, 8, 16):
        kind = {2: "signed integers", 3: "floating point"}.get(max(formats, default=1), "unsigned integers")
        raise refusal(f"{bands}, {kind}, from which there is no single exact way to 0-255 RGB", _TO_EIGHT_BITS)
    stated = max((*tags.get(Tag.MaxSampleValue, ()), *tags.get(Tag.SMaxSampleValue, ())), default=0)
    maximum = stated if depth == 16 and 0 < stated < 65535 else (1 << depth) - 1
    inverted = photometric == _WHITE_IS_ZERO
    page = Page(tags, order, (tags[Tag.ImageWidth][0], tags[Tag.ImageLength][0]), depth, maximum, inverted=inverted)
    colored, gray = photometric == _RGB, photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
    if (gray and samples > 4) or (colored and samples < 3):
        raise refusal(f"{bands}, of which none is said to be red, green or blue", _TO_EIGHT_BITS)
    pillows = ((1, ()), (2, (0,)), (2, (2,))) if gray else ((3, ()), (4, ()), (4, (0,)), (4, (1,)), (4, (2,)))
    if not (gray or colored) or depth < 8 or (depth == 8 and (samples, extra) in pillows):
        mode = _small_tiff(io.BytesIO(), order, tags, []).mode
        return replace(page, mode="RGB" if colored and not extra else mode)  # alpha only where the file says so
    alpha = extra[:1] if samples > (3 if colored else 1) else ()
    rare = alpha == (1,), samples > 1 and inverted, _first(tags, Tag.FillOrder, 1) != 1
    if compression not in _BYTE_CODECS or any(rare):
        raise refusal(f"{bands}, stored in a rare way", "save it as 8-bit RGB")
    unknown = gray and samples > 2
    mode = ("RGB" if colored or unknown else "L") + "A" * (alpha == (2,) and not unknown)
    return replace(page, mode=mode, by_pillow=False, colors_unknown=unknown)


def _chunks(page: Page) -> Iterator[tuple[int, int, Tags, list[list[Piece]]]]:
    """Yield each row chunk: top, rows, their tags, and the strips or tiles of each plane."""
    tags, (width, height) = page.tags, page.size
    tiled, compressed = Tag.TileOffsets in tags, _first(tags, Tag.Compression, 1) != 1
    offsets = tags.get(Tag.TileOffsets if tiled else Tag.StripOffsets, ())
    counts = tags.get(Tag.TileByteCounts if tiled else Tag.StripByteCounts, ())
    w = _first(tags, Tag.TileWidth, 0) if tiled else width
    h = _first(tags, Tag.TileLength, 0) if tiled else min(_first(tags, Tag.RowsPerStrip, height), height)
    if not (0 < w < 1 << 20 and 0 < h < 1 << 20):
        raise ValueError(f"strips or tiles of {w} x {h}")
    across, down, samples = -(-width // w), -(-height // h), _first(tags, Tag.SamplesPerPixel, 1)
    planes, in_plane = (samples, 1) if _first(tags, Tag.PlanarConfiguration, 1) == 2 else (1, samples)
    if len(offsets) < across * down * planes:
        raise ValueError(f"{len(offsets)} strips or tiles, where {across * down * planes} are needed")
    if 0 in offsets:
        raise refusal(
            "a sparse TIFF: some strips or tiles are not stored", "save it whole: gdal_translate IN.tif OUT.tif"
        )
    row_bytes = -(-w * in_plane * page.bits // 8)
    if not compressed:
        if not tiled:  # row by row, for a strip may be as large as the image
            _check_number(height * planes)
            places = ((plane * down + y // h, y % h) for plane in range(planes) for y in range(height))
            offsets = tuple(offsets[strip] + row * row_bytes for strip, row in places)
            h, down = 1, height
        counts = (h * row_bytes,) * len(offsets)  # some writers state others, or none
    elif not page.by_pillow and across * h * row_bytes > MAX_UNPACKED:
        found = f"a compressed strip of {across * h * row_bytes:,} bytes; the limit is {MAX_UNPACKED:,}"
        raise refusal(found, "save it in tiles")
    pieces = list(zip(offsets, counts, strict=True))
    together = max(1, _CHUNK // (across * h * row_bytes))
    for first in range(0, down, together):
        top, last = first * h, min(first + together, down)
        rows = min(last * h, height) - top
        chunk = [pieces[(plane * down + first) * across : (plane * down + last) * across] for plane in range(planes)]
        yield top, rows, {Tag.ImageLength: (rows,), Tag.RowsPerStrip: (h,)}, chunk


def _check_number(number: int) -> None:
    if number > MAX_PIECES:
        raise refusal(f"a TIFF with {number:,} strips, tiles or rows; the limit is {MAX_PIECES:,}", "save it anew")


def _small_tiff(stream: IO[bytes], order: str, tags: Tags, pieces: Sequence[Piece]) -> Image.Image:
    """Open strips or tiles, copied from a file, as a separate TIFF with these tags."""
    data = []
    for offset, length in pieces:
        stream.seek(offset)
        data.append(stream.read(length))
        if len(data[-1]) < length:
            raise EOFError("the file ends in a strip or tile")
    places = tuple(accumulate(map(len, data[:-1]), initial=8)) if data else (8,)
    lengths = tuple(map(len, data)) or (0,)
    dropped = Tag.Orientation, Tag.SubIFDs, Tag.StripOffsets, Tag.StripByteCounts
    tags = {tag: values for tag, values in tags.items() if tag not in dropped}
    tiled = Tag.TileWidth in tags
    tags[Tag.TileOffsets if tiled else Tag.StripOffsets] = places
    tags[Tag.TileByteCounts if tiled else Tag.StripByteCounts] = lengths
    directory = 8 + sum(lengths)
    entries, far, behind = b"", b"", directory + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        code, kind = ("B", 7) if tag == Tag.JPEGTables else ("I", 4)
        packed = struct.pack(f"{order}{len(values)}{code}", *values)
        value = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(order + "I", behind + len(far))
        far += packed if len(packed) > 4 else b""
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + value
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", directory)
    whole = b"".join((head, *data, struct.pack(order + "H", len(tags)), entries, bytes(4), far))
    return TiffImagePlugin.TiffImageFile(io.BytesIO(whole), "")


def _values(
    stream: IO[bytes], page: Page, rows: int, changes: Tags, planes: Sequence[Sequence[Piece]]
) -> npt.NDArray[Any]:
    """Return the values (rows, width, bands) of a row chunk."""
    width, bands = page.size[0], len(page.mode)
    kind = np.dtype(f"{page.order}{page.kind}{page.bits // 8}")
    unit = kind.itemsize * (1 if len(planes) > 1 else _first(page.tags, Tag.SamplesPerPixel, 1))
    tile = _first(page.tags, Tag.TileWidth, 0)
    predictor = _first(page.tags, Tag.Predictor, 1) if _first(page.tags, Tag.Compression, 1) not in _NO_PREDICTOR else 1
    columns = -(-width // tile) * tile if tile and predictor == 3 else width  # with the tiles' padding, if it matters
    # The strips or tiles as an image of bytes: 8-bit gray.
    tags: Tags = {tag: page.tags[tag] for tag in (Tag.Compression, Tag.TileLength) if tag in page.tags}
    tags = {**tags, Tag.ImageWidth: (columns * unit,), Tag.BitsPerSample: (8,), Tag.PhotometricInterpretation: (1,)}
    tags = {**tags, Tag.TileWidth: (tile * unit,)} if tile else tags
    parts = [np.asarray(_small_tiff(stream, page.order, {**tags, **changes}, plane)) for plane in planes[:bands]]
    if predictor == 3:
        parts = [_unshuffled(part, tile or width, unit // kind.itemsize, kind.itemsize) for part in parts]
        kind = kind.newbyteorder(">")
    shaped = [part.view(kind).reshape(rows, columns, -1)[:, :width, :bands] for part in parts]
    values = np.concatenate(shaped, axis=2).astype(kind.newbyteorder("="))
    if predictor == 2:
        whole = values.view(f"u{kind.itemsize}")
        for left in range(0, width, tile or width):
            part = whole[:, left : left + (tile or width)]
            np.cumsum(part, axis=1, dtype=part.dtype, out=part)
    return values


def _unshuffled(part: npt.NDArray[np.uint8], side: int, samples: int, size: int) -> npt.NDArray[np.uint8]:
    """Undo predictor 3: in a row of a tile all first bytes of its floats come first, and bytes are differences."""
    summed = np.cumsum(part.reshape(len(part), -1, side * size, samples), axis=2, dtype=np.uint8)
    bytes_ = summed.reshape(len(part), -1, size, side * samples).swapaxes(2, 3)
    return np.ascontiguousarray(bytes_).reshape(len(part), -1)


def _to_image(page: Page, values: npt.NDArray[np.unsignedinteger]) -> Image.Image:
    """Scale values to 0-255, and return them as an image."""
    scaled = values
    if page.maximum != 255 or page.bits == 16:
        scaled = scale_to_uint8(values, page.maximum)
        if page.mode.endswith("A"):
            scaled[..., -1] = scale_to_uint8(values[..., -1], 65535)
    if page.inverted:
        scaled = 255 - scaled
    return Image.fromarray(scaled[..., 0] if len(page.mode) == 1 else scaled)
