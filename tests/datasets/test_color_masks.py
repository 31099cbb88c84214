"""Masks of colors, or black and white, become masks of class indices."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hrnet_zoo
from hrnet_zoo.datasets.prepare import Prepared, prepare
from hrnet_zoo.errors import ConfigError, DatasetError, ImageError
from hrnet_zoo.images.label_maps import read_labels
from tests.support.label_folders import image

INDICES = np.random.default_rng(0).integers(0, 3, (300, 12)).astype(np.uint8)
COLORS = np.array([(0, 0, 0), (128, 64, 128), (0, 0, 255)], np.uint8)
PALETTES = {
    "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\nblue car:0,0,255::\n",
    "classes.csv": "name,r,g,b\nbackground,0,0,0\nroad,128,64,128\nblue car,0,0,255\n",
    "class_dict.csv": "Class, Red, Green, Blue\nbackground, 0, 0, 0\nroad, 128, 64, 128\nblue car, 0, 0, 255\n",
    "classes.txt": "background #000000\nroad #804080\nblue car #0000ff\n",
}


def save(path: Path, pixels: Any, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def made(form: str, home: Path, **options: Any) -> Prepared:
    return prepare(form, home / "raw", home / "out", progress=False, **options)


def colors(home: Path, palette: str = "labelmap.txt") -> None:
    image(home / "raw/JPEGImages/a.jpg", (12, 300))
    save(home / "raw/SegmentationClass/a.png", COLORS[INDICES])
    (home / "raw" / palette).write_text(PALETTES[palette])


@pytest.mark.parametrize("palette", PALETTES)
def test_palettes(palette: str, tmp_path: Path) -> None:
    colors(tmp_path, palette)
    save(tmp_path / "raw/SegmentationObject/a.png", COLORS[INDICES])
    image(tmp_path / "raw/JPEGImages/unlabeled.jpg", (12, 300))
    report = made("color-masks", tmp_path)
    np.testing.assert_array_equal(read_labels(tmp_path / "out/masks/a.png"), INDICES)
    assert (tmp_path / "out/classes.txt").read_text() == PALETTES["classes.txt"]
    assert report.notes == ("1 image: skipped: no mask of that name",)
    assert hrnet_zoo.check_data(tmp_path / "out", progress=False).ok


@pytest.mark.parametrize("form", ["P", "RGBA", "black and white"])
def test_forms_of_masks(form: str, tmp_path: Path) -> None:
    colors(tmp_path)
    mask, expected = Image.fromarray(COLORS[INDICES]), INDICES
    if form == "P":  # the numbers are not those of the classes
        mask = Image.fromarray(2 - INDICES)
        mask.putpalette(COLORS[::-1].tobytes())
    elif form == "RGBA":
        mask.putalpha(7)
    else:
        mask, expected = Image.fromarray(INDICES == 0), np.where(INDICES == 0, 1, 0)
        (tmp_path / "raw/labelmap.txt").write_text("no:0,0,0::\nyes:255,255,255::\n")
    save(tmp_path / "raw/SegmentationClass/a.png", mask)
    made("color-masks", tmp_path)
    np.testing.assert_array_equal(read_labels(tmp_path / "out/masks/a.png"), expected)


def test_the_background_may_be_ignored(tmp_path: Path) -> None:
    colors(tmp_path)
    with (tmp_path / "raw/labelmap.txt").open("a") as file:
        file.write("void:255,255,255::\n")
    pixels = COLORS[INDICES]
    pixels[0, 0] = 255
    save(tmp_path / "raw/SegmentationClass/a.png", pixels)
    made("color-masks", tmp_path, empty="ignore", classes=["blue car", "road"])
    expected = np.array([255, 1, 0], np.uint8)[INDICES]
    expected[0, 0] = 255
    np.testing.assert_array_equal(read_labels(tmp_path / "out/masks/a.png"), expected)
    assert (tmp_path / "out/classes.txt").read_text() == "blue car #0000ff\nroad #804080\n"


@pytest.mark.parametrize(
    "names",
    [
        "{}/images/a.jpg {}/masks/a.png",
        "images/{}/a.jpg labels/{}/a.png",
        "{}/a.jpg {}_labels/a.png",
        "{}/a.jpg {}/a_mask.png",
    ],
)
def test_places_of_binary_masks(names: str, tmp_path: Path) -> None:
    mask = INDICES[:8] == 1
    for split in ("train", "valid"):
        photo, labels = names.format(split, split).split()
        image(tmp_path / "raw" / photo, (12, 8))
        save(tmp_path / "raw" / labels, mask)
    report = made("binary-masks", tmp_path)
    assert (report.images, report.notes) == ({"train": 1, "val": 1}, ())
    np.testing.assert_array_equal(read_labels(tmp_path / "out/val/masks/a.png"), mask)
    assert (tmp_path / "out/classes.txt").read_text() == "background\nforeground\n"


def test_binary_masks_of_photographs(tmp_path: Path) -> None:
    """Compression leaves grays at the edges; a name for white, or for both."""
    image(tmp_path / "raw/images/a.jpg", (64, 64))
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :32] = 255
    mask[5, 32:40] = (100, 127, 128, 200, 1, 0, 0, 0)
    save(tmp_path / "raw/masks/a.png", mask)
    report = made("binary-masks", tmp_path, classes=["crack"])
    np.testing.assert_array_equal(read_labels(tmp_path / "out/masks/a.png"), mask > 127)
    assert report.notes == ("5 pixels in 1 image: neither black nor white, and rounded",)
    assert (tmp_path / "out/classes.txt").read_text() == "background\ncrack\n"
    made("binary-masks", tmp_path, classes=["wall", "crack"], force=True)
    assert (tmp_path / "out/classes.txt").read_text() == "wall\ncrack\n"
    with pytest.raises(ConfigError, match="1 classes, foreground"):
        made("binary-masks", tmp_path, empty="ignore")


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (INDICES[:8], "64 of 96 pixels are neither black nor white; the brightest is 2|neither black nor white"),
        (np.eye(8, 12, dtype=np.uint8), "the brightest is 1"),
        (np.zeros((9, 12), np.uint8), "12 x 9 pixels of mode L for an image of 12 x 8"),
        (np.zeros((8, 12), np.uint16), "12 x 8 pixels of mode I;16"),
    ],
)
def test_faults_of_binary_masks_in_words(pixels: Any, found: str, tmp_path: Path) -> None:
    image(tmp_path / "raw/images/a.jpg", (12, 8))
    save(tmp_path / "raw/masks/a.png", pixels)
    with pytest.raises(DatasetError, match=found):
        made("binary-masks", tmp_path)


def palette(text: str) -> Callable[[Path], object]:
    return lambda home: (home / "raw/labelmap.txt").write_text(text)


FAULTS: dict[str, Callable[[Path], object]] = {
    r"#804080 in row \d+ or below": palette("background:0,0,0::\ncar:0,0,255::"),
    "one color for two classes": palette("a:0,0,0::\nb:0,0,0::"),
    "the color 0,0,256": palette("a:0,0,256::\nb:0,0,0::"),
    "not enough values": palette("a:0,0::\nb:0,0,0::"),
    "invalid literal": palette("a:0,0,x::\nb:0,0,0::"),
    "2 files with colors of classes": lambda home: (home / "raw/classes.csv").write_text("name,r,g,b\nx,1,2,3\n"),
    "no 'red'": lambda home: (
        (home / "raw/labelmap.txt").rename(home / "raw/x").with_name("classes.csv").write_text("name\nx\n")
    ),
    "no files with colors of classes, called labelmap.txt": lambda home: (home / "raw/labelmap.txt").unlink(),
    "no images and masks": lambda home: (home / "raw/SegmentationClass/a.png").unlink(),
    "mask without image": lambda home: save(home / "raw/SegmentationClass/b.png", INDICES),
    "for an image of 12 x 299": lambda home: image(home / "raw/JPEGImages/a.jpg", (12, 299)),
}


@pytest.mark.parametrize("found", FAULTS)
def test_faults_of_color_masks_in_words(found: str, tmp_path: Path) -> None:
    colors(tmp_path)
    FAULTS[found](tmp_path)
    with pytest.raises(DatasetError, match=found):
        made("color-masks", tmp_path)


def test_a_damaged_mask_is_named(tmp_path: Path) -> None:
    colors(tmp_path)
    (tmp_path / "raw/SegmentationClass/a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ImageError, match=r"SegmentationClass/a\.png"):
        made("color-masks", tmp_path)


def test_check_data_names_the_command(tmp_path: Path) -> None:
    colors(tmp_path)
    (tmp_path / "raw/labelmap.txt").unlink()
    for name, pixels in (("color", COLORS[INDICES]), ("binary", np.where(INDICES == 1, np.uint8(255), np.uint8(0)))):
        image(tmp_path / name / "images/a.jpg", (12, 300))
        save(tmp_path / name / "masks/a.png", pixels)
        problems = hrnet_zoo.check_data(tmp_path / name, classes=2, progress=False).problems
        assert f"`hrnet-zoo prepare {name}-masks SRC DST`" in problems[0].advice
