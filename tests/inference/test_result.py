"""Results: shares, colors, overlay and legend by pixels, label files by their indices."""

import io
import os
import pickle
import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageShow

from hrnet_zoo.datasets.dataset import WHITE
from hrnet_zoo.errors import ConfigError, OutputError
from hrnet_zoo.inference.legend import CONFIDENCE_COLORS
from hrnet_zoo.inference.result import SegmentationResult

CLASSES = ("road", "sky", "traffic light", "white wall")
PALETTE = ((128, 64, 128), (70, 130, 180), (250, 170, 30), (255, 255, 255))


def result(height: int = 60, width: int = 100) -> SegmentationResult:
    """Return an image with half sky, three tenths road, a fifth white wall and no traffic light."""
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2] = 1
    mask[height * 8 // 10 :] = 3
    image = np.full((height, width, 3), 100, np.uint8)
    return SegmentationResult(image, mask, CLASSES, PALETTE)


def many_classes(height: int, width: int, count: int) -> SegmentationResult:
    """Return a black image whose classes lie in bands, all present."""
    mask = (np.arange(height * width) * count // (height * width)).astype(np.uint8).reshape(height, width)
    names = tuple(f"class number {index}" for index in range(count))
    colors = tuple((index, 255 - index, index * 37 % 256) for index in range(count))
    return SegmentationResult(np.zeros((height, width, 3), np.uint8), mask, names, colors)


def test_fractions_largest_first() -> None:
    """By name; the sum is 1."""
    fractions = result().fractions()
    assert fractions == {"sky": 0.5, "road": 0.3, "white wall": 0.2}
    assert list(fractions) == ["sky", "road", "white wall"]
    assert sum(many_classes(97, 131, 150).fractions().values()) == pytest.approx(1, abs=1e-12)


def test_fractions_of_two_classes_with_one_name_add_up() -> None:
    """A user may give two classes one name."""
    mask = np.array([[0, 1, 2, 2]], np.uint8)
    named = SegmentationResult(np.zeros((1, 4, 3), np.uint8), mask, ("a", "b", "a"), PALETTE[:3])
    assert named.fractions() == {"a": 0.75, "b": 0.25}


def test_colorize_takes_the_palette() -> None:
    """RGB, pixel for pixel."""
    colors = result().colorize()
    assert colors.mode == "RGB"
    assert np.array_equal(np.asarray(colors), np.array(PALETTE, np.uint8)[result().mask])


@pytest.mark.parametrize(("alpha", "pixel"), [(0, (100, 100, 100)), (0.5, (85, 115, 140)), (1, (70, 130, 180))])
def test_overlay_blends(alpha: float, pixel: tuple[int, int, int]) -> None:
    """Weights 0, a half and 1."""
    overlay = result().overlay(alpha=alpha, legend=False)
    assert overlay.size == (100, 60)
    assert overlay.getpixel((0, 0)) == pixel


@pytest.mark.parametrize("alpha", [0.5, 1])
def test_a_black_background_stays_uncolored(alpha: float) -> None:
    made = result()
    for name, color, bare in (
        ("background", (0, 0, 0), True),
        ("_Background_", (0, 0, 0), True),
        ("background", (1, 0, 0), False),
        ("road", (0, 0, 0), False),
    ):
        other = replace(made, classes=(name, *CLASSES[1:]), palette=(color, *PALETTE[1:]))
        overlay = other.overlay(alpha=alpha, legend=False)
        assert (overlay.getpixel((50, 40)) == (100, 100, 100)) is bare  # class 0
        assert overlay.getpixel((50, 10)) == made.overlay(alpha=alpha, legend=False).getpixel((50, 10))
        swatches = np.asarray(other.overlay().crop((106, 0, 118, 60))).reshape(-1, 3)
        assert bool((swatches == color).all(axis=1).any()) is not bare
        assert other.colorize().getpixel((50, 40)) == color


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_overlay_refuses_other_weights(alpha: float) -> None:
    """Below 0, above 1, not a number."""
    with pytest.raises(ConfigError, match=r"a weight outside 0\.\.1"):
        result().overlay(alpha=alpha)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (600, 800), (1, 500), (500, 1), (1500, 2000)])
def test_legend_stands_beside_the_photo(height: int, width: int) -> None:
    """The photo is untouched; swatches and names are drawn, however odd the shape."""
    made = many_classes(height, width, 4)
    overlay = made.overlay()
    assert overlay.width > width
    assert overlay.height >= height
    photo = overlay.crop((0, 0, width, height))
    assert np.array_equal(np.asarray(photo), np.asarray(made.overlay(legend=False)))
    panel = np.asarray(overlay.crop((width, 0, overlay.width, overlay.height))).reshape(-1, 3)
    colors = {tuple(int(level) for level in pixel) for pixel in np.unique(panel, axis=0)}
    assert set(made.palette) <= colors  # swatches
    assert (0, 0, 0) in colors  # names
    assert (255, 255, 255) in colors


def test_legend_names_present_classes_alone() -> None:
    """Largest first."""
    overlay = result(300, 300).overlay()
    panel = np.asarray(overlay.crop((300, 0, overlay.width, overlay.height)))
    swatches = [int((panel == color).all(axis=2).sum()) for color in PALETTE]
    assert swatches[0] > 50
    assert swatches[1] > 50
    assert swatches[2] == 0  # no traffic light in the image
    rows = [int(np.argwhere((panel == PALETTE[index]).all(axis=2))[:, 0].min()) for index in (1, 0)]
    assert rows[0] < rows[1]  # sky, the larger, above road


def test_legend_wraps_into_columns_inside_the_height() -> None:
    """150 classes beside an image of 512 rows."""
    one, many = many_classes(512, 512, 10).overlay(), many_classes(512, 512, 150).overlay()
    assert one.height == many.height == 512
    assert many.width - 512 > 3 * (one.width - 512)
    last = np.asarray(many.crop((512, 0, many.width, 512))).reshape(-1, 3)
    assert (last == many_classes(512, 512, 150).palette[149]).all(axis=1).any()


def test_legend_bears_any_name() -> None:
    """Empty, two lines, far too long, not in the font."""
    mask = np.arange(4, dtype=np.uint8).reshape(2, 2)
    names = ("", "two\nlines", "x" * 500, "\u6c34")
    overlay = SegmentationResult(np.zeros((2, 2, 3), np.uint8), mask, names, PALETTE).overlay()
    assert overlay.width < 600


@pytest.mark.parametrize("count", [2, 3, 5, 19, 150, 256])
def test_saved_labels_come_back(count: int, tmp_path: Path) -> None:
    """Indices, colors, nothing left beside the file."""
    made = many_classes(31, 47, count)
    path = tmp_path / "labels.PNG"
    made.save(path)
    made.save(str(path))  # again, over the first
    with Image.open(path) as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), made.mask)
        levels = image.getpalette()
        assert levels is not None
        assert levels[: 3 * count] == [level for color in made.palette for level in color]
        assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(made.colorize()))
    assert [entry.name for entry in tmp_path.iterdir()] == ["labels.PNG"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_saved_file_has_ordinary_permissions(tmp_path: Path) -> None:
    """Those of the umask, not those of a private temporary file."""
    before = os.umask(0o022)
    try:
        result().save(tmp_path / "labels.png")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "labels.png").stat().st_mode) == 0o644


@pytest.mark.parametrize("name", ["labels.jpg", "labels.webp", "labels"])
def test_save_refuses_other_formats(name: str, tmp_path: Path) -> None:
    """JPEG would destroy labels."""
    with pytest.raises(OutputError, match="lossless palette image") as caught:
        result().save(tmp_path / name)
    assert "overlay().save(path)" in caught.value.advice
    assert caught.value.path == tmp_path / name
    assert list(tmp_path.iterdir()) == []


def test_save_into_nowhere(tmp_path: Path) -> None:
    """No folder is made unasked."""
    with pytest.raises(OutputError, match="No such file or directory"):
        result().save(tmp_path / "missing" / "labels.png")
    assert list(tmp_path.iterdir()) == []


def test_save_onto_a_folder_leaves_nothing(tmp_path: Path) -> None:
    """The temporary file goes when the last step fails."""
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(OutputError, match="no file was made or changed"):
        result().save(tmp_path / "taken.png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken.png"]


@pytest.mark.parametrize(("height", "width"), [(40, 60), (1200, 2400), (3000, 200)])
def test_notebook_image(height: int, width: int) -> None:
    """A PNG no larger than a notebook needs, undistorted."""
    made = many_classes(height, width, 19)
    image = Image.open(io.BytesIO(made._repr_png_()))
    assert image.format == "PNG"
    assert max(image.size) <= 1600
    full = made.overlay()
    assert image.width / image.height == pytest.approx(full.width / full.height, rel=0.02)


def test_numpy_takes_the_mask() -> None:
    made = result()
    assert np.array_equal(np.asarray(made), made.mask)
    assert np.asarray(made).dtype == np.uint8
    assert np.array(made, dtype=np.int64).dtype == np.int64
    copied = np.array(made)
    copied[:] = 0
    assert made.mask.any()


def test_show_opens_a_viewer_or_says_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Image.Image] = []

    class Viewer(ImageShow.Viewer):
        def show(self, image: Image.Image, **_: object) -> int:
            shown.append(image)
            return 1

    monkeypatch.setattr(ImageShow, "_viewers", [Viewer()])
    result().show()
    assert np.array_equal(np.asarray(shown[0]), np.asarray(result().overlay()))
    monkeypatch.setattr(ImageShow, "_viewers", [])
    with pytest.raises(ConfigError, match=r"(?s)no image viewer.*overlay\(\)\.save"):
        result().show()
    monkeypatch.setattr(ImageShow, "_viewers", [ImageShow.XDGViewer()])
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"(?s)no display.*overlay\(\)\.save"):
        result().show()


def test_names_of_other_libraries_lead_here() -> None:
    made: Any = result()
    for name, hint in (("plot", r"\.overlay\(\)"), ("masks", r"\.mask"), ("names", r"\.classes"), ("xyz", "'xyz'$")):
        with pytest.raises(AttributeError, match=hint):
            getattr(made, name)
    assert pickle.loads(pickle.dumps(made)).classes == made.classes  # noqa: S301 - made on this line


def test_repr_is_short() -> None:
    """Size and the three largest classes."""
    assert repr(result()) == "SegmentationResult(100 x 60 pixels: sky 50.0 %, road 30.0 %, white wall 20.0 %)"
    mask = np.zeros((100, 100), np.uint8)
    mask[0, 0] = 1
    rare = SegmentationResult(np.zeros((100, 100, 3), np.uint8), mask, CLASSES, PALETTE)
    assert repr(rare).endswith("(100 x 100 pixels: road 100.0 %, sky < 0.1 %)")


def doubtful() -> SegmentationResult:
    """Return a result with confidences of 0.25, 0.5 and 1, and a fifth of its pixels unlabeled."""
    made = result()
    mask, confidence = made.mask.copy(), np.ones(made.mask.shape, np.float16)
    mask[:, 80:] = 255
    confidence[:30, :40] = 0.5  # sky
    confidence[:, 80:] = 0.25
    return replace(made, mask=mask, confidence=confidence)


def test_mean_confidence_by_class() -> None:
    """In the order of the fractions, for all rows; classes of one name go together."""
    assert doubtful().mean_confidence() == {"sky": 0.75, "road": 1.0, "white wall": 1.0}
    tall = many_classes(1000, 30, 7)
    confidence = np.linspace(0, 1, tall.mask.size).reshape(tall.mask.shape).astype(np.float16)
    means = replace(tall, classes=("a", "b", "a", *tall.classes[3:]), confidence=confidence).mean_confidence()
    assert list(means)[:2] == ["a", "b"]
    assert means["a"] == pytest.approx(confidence[np.isin(tall.mask, (0, 2))].astype(float).mean(), abs=1e-12)
    with pytest.raises(ConfigError, match=r"confidence=True"):
        result().mean_confidence()


def test_picture_of_the_confidence() -> None:
    """Dark blue is 0, yellow is 1; the scale stands at the right."""
    made = doubtful()
    image = made.confidence_image(scale=False)
    assert image.size == (100, 60)
    for x, level in ((0, 128), (50, 255), (90, 64)):
        assert image.getpixel((x, 10)) == CONFIDENCE_COLORS[level]
    with_scale = made.confidence_image()
    assert with_scale.width > 100
    assert np.array_equal(np.asarray(with_scale)[:60, :100], np.asarray(image))
    shown = {pixel for _, pixel in with_scale.getcolors(1 << 20) or []}
    assert {CONFIDENCE_COLORS[0], CONFIDENCE_COLORS[255]} <= shown
    with pytest.raises(ConfigError, match=r"confidence=True"):
        result().confidence_image()


def test_unlabeled_pixels_stay_uncolored(tmp_path: Path) -> None:
    """White in the mask and its file, the photo in the overlay, a line of the legend, no part of the fractions."""
    made = doubtful()
    assert made.fractions() == pytest.approx({"sky": 0.4, "road": 0.24, "white wall": 0.16})
    assert made.colorize().getpixel((90, 10)) == (255, 255, 255)
    assert made.colorize().getpixel((10, 10)) == PALETTE[1]
    assert made.overlay(alpha=1, legend=False).getpixel((90, 10)) == (100, 100, 100)
    assert (WHITE, "unlabeled", "20.0 %") in made.legend()
    made.save(tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as image:
        assert np.array_equal(np.asarray(image), made.mask)
        assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(made.colorize()))
    nothing = replace(made, mask=np.full_like(made.mask, 255))
    assert nothing.fractions() == nothing.mean_confidence() == {}
    assert repr(nothing) == "SegmentationResult(100 x 60 pixels: unlabeled 100.0 %)"
    assert nothing._repr_png_()
    assert "unlabeled" in nothing._repr_html_()
    last = many_classes(32, 32, 256)  # whose label 255 is a class
    assert len(last.fractions()) == 256
    assert last.colorize().getpixel((31, 31)) == last.palette[255]


def test_regions_know_the_confidence() -> None:
    mask = np.array([[0, 0, 1]], np.uint8)
    confidence = np.array([[0.5, 1, 0.25]], np.float16)
    made = SegmentationResult(np.zeros((1, 3, 3), np.uint8), mask, CLASSES, PALETTE, confidence=confidence)
    assert [(region.class_name, region.confidence) for region in made.regions()] == [("road", 0.75), ("sky", 0.25)]
    assert [region.class_name for region in made.regions(min_area=2)] == ["road"]


def test_crop_takes_the_largest_region() -> None:
    made = result()
    made.image[40, 7] = 9
    cut = np.asarray(made.crop("road"))
    assert np.array_equal(cut, made.image[30:48])
    assert np.array_equal(np.asarray(made.crop(made.regions()[1])), cut)
    two = replace(made, mask=np.array([[1, 0, 1, 1]], np.uint8), image=np.arange(12, dtype=np.uint8).reshape(1, 4, 3))
    assert np.array_equal(np.asarray(two.crop("sky")), two.image[:, 2:])


def test_crop_of_nothing() -> None:
    with pytest.raises(ConfigError, match="the nearest are road"):
        result().crop("raod")
    with pytest.raises(ConfigError, match=r"no pixel of this class; the image has sky, road, white wall"):
        result().crop("traffic light")


def test_remap_by_names() -> None:
    made = result()
    made.mask[0, 0] = 255
    labels = made.remap({"sky": 7, "white wall": 0})
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, np.select([made.mask == 1, made.mask == 3], [7, 0], 255))


def test_remap_to_official_labels() -> None:
    """By name: the order of the classes does not matter."""
    made = replace(result(), classes=("road", "sky", "traffic light", "wall"))
    made.mask[0, 0] = 255
    expected = np.select([made.mask == 0, made.mask == 1, made.mask == 3], [7, 23, 12], 0)
    assert np.array_equal(made.remap("cityscapes"), expected)
    assert np.array_equal(
        made.remap("ade20k"), np.select([made.mask == 0, made.mask == 1, made.mask == 3], [7, 3, 1], 0)
    )


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ("cityscape", "the nearest are cityscapes"),
        ("cityscapes", "no 'white wall'"),
        ({"skye": 1}, "the nearest are sky"),
        ({"sky": 256}, "8 bits"),
        ({"sky": 0.5}, "8 bits"),
    ],
)
def test_remap_refuses(labels: Any, found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        result().remap(labels)


def test_compare_results() -> None:
    """Unlabeled pixels of either are not counted."""
    made = result()
    other = replace(made, mask=made.mask.copy())
    assert made.compare(other).pixels == 1
    other.mask[0, :30] = 0
    other.mask[1, :10] = made.mask[2, :5] = 255
    comparison = made.compare(other)
    counted = made.mask.size - 15
    assert comparison.different == 30
    assert comparison.pixels == (counted - 30) / counted
    by_class = {each["class"]: each["iou"] for each in comparison.to_dict()["classes"]}
    sky = int((made.mask == 1).sum()) - 10
    assert by_class == {"road": 1800 / 1830, "sky": (sky - 30) / sky, "white wall": 1}
    picture = np.asarray(comparison.picture())
    assert (picture[:, 100:] == (255, 0, 0)).all(axis=2).sum() >= 30
    assert "30 different" in repr(comparison)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("regions", {"min_area": "5"}),
        ("regions", {"min_area": None}),
        ("to_geojson", {"simplify": "1"}),
        ("to_geojson", {"transform": 5}),
        ("to_geojson", {"transform": "abcdef"}),
        ("overlay", {"alpha": "x"}),
        ("crop", {"what": 5}),
        ("remap", {"labels": None}),
        ("compare", {"other": np.zeros((2, 2), np.uint8)}),
    ],
)
def test_arguments_of_other_types(method: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="done: "):
        getattr(result(), method)(**arguments)


def test_compare_refuses() -> None:
    with pytest.raises(ConfigError, match="classes that are not the same"):
        result().compare(replace(result(), classes=("a", *CLASSES[1:])))
    with pytest.raises(ConfigError, match="pixels"):
        result().compare(result(height=61))
