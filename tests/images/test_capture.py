"""Time and place of EXIF data, and broken ones."""

import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, TiffImagePlugin

from hrnet_zoo.errors import ImageError
from hrnet_zoo.images.capture import Capture, read_capture

MAKE, ORIGINAL, DIGITIZED, MODIFIED = 0x010F, 0x9003, 0x9004, 0x0132


def exif(times: dict[int, str], gps: dict[int, Any] | None = None) -> Image.Exif:
    found = Image.Exif()
    found[MAKE] = "Camera"  # without it, Pillow takes the data for none
    found[0x8769] = {tag: text for tag, text in times.items() if tag != MODIFIED}
    found[0x8825] = gps or {}
    if MODIFIED in times:
        found[MODIFIED] = times[MODIFIED]
    return found


def place(
    latitude: Any = (48.0, 8.0, 14.64), south: str = "N", longitude: Any = (11.0, 34.5, 0.0), west: str = "E"
) -> Any:
    return {1: south, 2: latitude, 3: west, 4: longitude}


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.avif"])
def test_every_format(name: str, tmp_path: Path) -> None:
    data = exif({ORIGINAL: "2024:05:01 12:30:00", MODIFIED: "2025:01:01 00:00:00"}, place(south="S", west="W"))
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.update(dict(data))
    # Of an `Image.Exif`, Pillow writes no nested directories into a TIFF.
    Image.new("RGB", (8, 4)).save(tmp_path / name, **{"tiffinfo": tags} if name == "a.tif" else {"exif": data})
    found = read_capture(tmp_path / name)
    assert found == Capture("2024-05-01T12:30:00", -48.1374, -11.575)


def test_without(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.webp", "a.tif", "a.gif", "a.bmp", "a.ppm"):
        Image.new("RGB", (8, 4)).save(tmp_path / name)
        assert read_capture(tmp_path / name) == Capture()
    with pytest.raises(ImageError, match="absent"):
        read_capture(tmp_path / "absent.jpg")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (exif({DIGITIZED: "2024:05:01 12:30:00", MODIFIED: "2025:01:01 00:00:00"}), Capture("2024-05-01T12:30:00")),
        (exif({ORIGINAL: "0000:00:00 00:00:00", MODIFIED: "2025:01:01 00:00:00"}), Capture("2025-01-01T00:00:00")),
        (exif({ORIGINAL: "yesterday"}), Capture()),
        (exif({}, place()), Capture(None, 48.1374, 11.575)),
        (exif({}, place(latitude=(95.0, 0.0, 0.0))), Capture(None, None, 11.575)),
        (exif({}, place(west="x")), Capture(None, 48.1374)),
        (exif({}, {2: (1.0, 2.0, 3.0)}), Capture()),
        (exif({}, place(longitude=(180.0, 0.0, 1.0))), Capture(None, 48.1374)),
    ],
)
def test_what_cameras_and_editors_leave(data: Image.Exif, expected: Capture, tmp_path: Path) -> None:
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=data)
    assert read_capture(tmp_path / "a.jpg") == expected


def test_fractions_with_a_zero_below(tmp_path: Path) -> None:
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif({}, place()))
    whole = (tmp_path / "a.jpg").read_bytes()
    for degrees in ((48).to_bytes(4, "big"), (48).to_bytes(4, "little")):
        at = whole.find(degrees + (1).to_bytes(4, "big" if degrees[3] else "little"))
        if at >= 0:
            (tmp_path / "a.jpg").write_bytes(whole[: at + 4] + bytes(4) + whole[at + 8 :])
    assert read_capture(tmp_path / "a.jpg") == Capture(None, None, 11.575)


def test_damaged_data_say_nothing_else(tmp_path: Path) -> None:
    """No change of a few bytes raises an error, as long as the image itself can be read."""
    data = exif({ORIGINAL: "2024:05:01 12:30:00"}, place())
    Image.new("RGB", (8, 4)).save(tmp_path / "a.png", exif=data)
    whole = (tmp_path / "a.png").read_bytes()
    start = whole.index(b"eXIf") + 4
    end = start + int.from_bytes(whole[start - 8 : start - 4], "big")
    draw = random.Random(0)  # noqa: S311
    seen = set()
    for _ in range(300):
        spoilt = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            spoilt[draw.randrange(start, end)] = draw.choice((0, 1, 255, draw.randrange(256)))
        (tmp_path / "a.png").write_bytes(spoilt)
        seen.add(read_capture(tmp_path / "a.png"))
    assert Capture() in seen
    assert len(seen) > 5
    for found in seen:
        assert found.latitude is None or abs(found.latitude) <= 90
