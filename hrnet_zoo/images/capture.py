"""When and where an image was taken, by its EXIF data."""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from PIL.ExifTags import GPS, IFD
from PIL.ExifTags import Base as Tag

from hrnet_zoo.images.bands import NPY
from hrnet_zoo.images.formats import image_errors, open_file, open_image, source_name
from hrnet_zoo.images.tiff import STARTS

_SIZES = {2: 1, 4: 4, 5: 8, 13: 4}  # bytes of text, a whole number, a fraction, a directory's place
_LONGEST = 64  # bytes of a value
_TIMES = (Tag.DateTimeOriginal, Tag.DateTimeDigitized, Tag.DateTime)


@dataclass(frozen=True)
class Capture:
    """Time and place of an image; None where its EXIF data do not say, or are broken.

    `time` is ISO 8601 without a zone, as the camera's clock had it: "2024-05-01T12:30:00". It is the first of EXIF's
    DateTimeOriginal, DateTimeDigitized and DateTime. `latitude` and `longitude` are degrees of WGS 84, north and east
    positive, to seven decimals (a centimeter).
    """

    time: str | None = None
    latitude: float | None = None
    longitude: float | None = None


def read_capture(path: str | Path) -> Capture:
    """Return when and where an image file was taken.

    Raises:
        ImageError: the file cannot be read.

    """
    with image_errors(source_name(path)), open_file(Path(path)) as stream:
        start = stream.read(4)
        if start in STARTS:  # also of bands that `open_image` refuses
            return _parse(stream)
        if start == NPY[:4]:
            return Capture()
    with open_image(path, whole=False) as header:
        return _parse(header.exif) if header.exif else Capture()


def _parse(exif: IO[bytes]) -> Capture:
    """Read a few tags of EXIF data, which are laid out as a TIFF. Hostile tags would cost Pillow gigabytes."""
    try:
        exif.seek(0)
        head = exif.read(8)
        order = {b"II": "<", b"MM": ">"}[head[:2]]
        first = _directory(exif, struct.unpack(order + "I", head[4:])[0], order, {*_TIMES, IFD.Exif, IFD.GPSInfo})
        tags, gps = (
            _directory(exif, struct.unpack(order + "I", first[tag])[0], order, wanted) if tag in first else {}
            for tag, wanted in ((IFD.Exif, _TIMES), (IFD.GPSInfo, range(5)))
        )
    except (KeyError, ValueError, OSError, OverflowError, struct.error):
        return Capture()
    texts = [(first | tags).get(tag, b"") for tag in _TIMES]
    return Capture(
        next((time for time in map(_time, texts) if time), None),
        _degrees(order, gps.get(GPS.GPSLatitude), gps.get(GPS.GPSLatitudeRef), b"NS", 90),
        _degrees(order, gps.get(GPS.GPSLongitude), gps.get(GPS.GPSLongitudeRef), b"EW", 180),
    )


def _directory(stream: IO[bytes], place: int, order: str, wanted: Collection[int]) -> dict[int, bytes]:
    stream.seek(place)
    (count,) = struct.unpack(order + "H", stream.read(2))
    found: dict[int, bytes] = {}
    for tag, kind, number, value in struct.iter_unpack(order + "HHI4s", stream.read(12 * count)):
        size = _SIZES.get(kind, 0) * number
        if tag in wanted and tag not in found and 0 < size <= _LONGEST:
            if size > len(value):
                stream.seek(struct.unpack(order + "I", value)[0])
                value = stream.read(size)
            found[tag] = value[:size]
    return found


def _time(text: bytes) -> str | None:
    try:
        return datetime.strptime(text[:19].decode("ascii"), "%Y:%m:%d %H:%M:%S").isoformat()
    except ValueError:
        return None


def _degrees(order: str, value: bytes | None, reference: bytes | None, letters: bytes, most: int) -> float | None:
    """Return degrees, minutes and seconds, each a fraction, as degrees; the second letter makes them negative."""
    if not value or not reference or len(value) != 24 or reference[:1] not in (letters[:1], letters[1:]):
        return None
    numbers: tuple[int, ...] = struct.unpack(order + "6I", value)
    if not all(numbers[1::2]):
        return None
    degrees = numbers[0] / numbers[1] + numbers[2] / numbers[3] / 60 + numbers[4] / numbers[5] / 3600
    if degrees > most:
        return None
    return round(-degrees if reference[:1] == letters[1:] else degrees, 7)
