"""A result in a notebook: every view, palette and name is there, names are escaped, and no script."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from hrnet_zoo.datasets.dataset import CITYSCAPES, distinct_colors
from hrnet_zoo.inference.result import SegmentationResult

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a & b", "\u202eright to left")


class _Page(HTMLParser):
    """Tags with their attributes, and texts; fails where a tag is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "input"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1] != "style":
            self.texts.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for each, attributes in self.tags if each == tag]

    def images(self) -> dict[str | None, Image.Image]:
        return {each["class"]: opened(each["src"] or "") for each in self.all("img")}


def opened(address: str) -> Image.Image:
    found = re.fullmatch(r"data:image/(jpeg|png);base64,(.*)", address)
    assert found
    image = Image.open(io.BytesIO(base64.b64decode(found[2])))
    assert (image.format or "").lower() == found[1]
    return image


def made(height: int, width: int, names: tuple[str, ...] = CITYSCAPES.classes) -> SegmentationResult:
    """Return a result whose classes lie in bands, and pixels without a class at the end."""
    mask = (np.arange(height * width) * (len(names) + 1) // (height * width)).astype(np.uint8).reshape(height, width)
    mask[mask == len(names)] = 255
    image = np.full((height, width, 3), (200, 50, 50), np.uint8)
    confidence = np.full((height, width), 0.5, np.float16)
    return SegmentationResult(image, mask, names, CITYSCAPES.palette[: len(names)], confidence=confidence)


def test_views_and_palettes() -> None:
    result = made(600, 100)
    page = _Page(result._repr_html_())
    images = page.images()
    assert set(images) == {
        *("view image", "view overlay own", "view overlay safe", "view mask own", "view mask safe", "view confidence"),
    }
    for name, expected in (
        ("view mask own", result.colorize()),
        ("view image", Image.fromarray(result.image)),
        ("view overlay own", result.overlay(legend=False)),
        ("view confidence", result.confidence_image()),
    ):
        found = images[name].convert("RGB")
        assert found.size == expected.size
        difference = np.abs(np.asarray(found, int) - np.asarray(expected, int))
        assert difference.mean() < (4 if images[name].format == "JPEG" else 1e-9), name
    safe = images["view mask safe"].convert("RGB")
    colors = {pixel for _, pixel in safe.getcolors(1 << 16) or []}
    assert colors == {*distinct_colors()[:19], (255, 255, 255)}
    radios = [(each["name"], each["value"], "checked" in each) for each in page.all("input")]
    assert radios == [
        *(("view", "overlay", True), ("view", "image", False), ("view", "mask", False), ("view", "confidence", False)),
        *(("palette", "own", True), ("palette", "safe", False)),
    ]


def test_legend() -> None:
    result = made(60, 100)
    page = _Page(result._repr_html_())
    for name, share in result.fractions().items():
        at = page.texts.index(name)
        assert page.texts[at + 1 : at + 3] == [f"{100 * share:.1f} %", "50.0 %"]
    assert "unlabeled" in page.texts
    swatches = [(each["class"], each["style"]) for each in page.all("span")]
    assert len(swatches) == 2 * 20
    first = next(iter(result.fractions()))
    red, green, blue = CITYSCAPES.palette[CITYSCAPES.classes.index(first)]
    assert ("swatch own", f"background: #{red:02x}{green:02x}{blue:02x}") in swatches


def test_a_background_stays_uncolored_in_both_palettes() -> None:
    names = ("background", "crack", "wall")
    result = replace(made(40, 60, names), palette=((0, 0, 0), (255, 0, 0), (0, 255, 0)))
    images = _Page(result._repr_html_()).images()
    for palette in ("own", "safe"):
        overlay = np.asarray(images[f"view overlay {palette}"].convert("RGB"), int)
        assert np.abs(overlay[2, 30] - (200, 50, 50)).max() < 12  # background
        assert np.abs(overlay[16, 30] - (200, 50, 50)).max() > 25  # crack
        assert images[f"view mask {palette}"].convert("RGB").getpixel((30, 2)) == (0, 0, 0)


def test_names_are_escaped() -> None:
    result = made(40, 60, HOSTILE)
    text = result._repr_html_()
    page = _Page(text)
    assert not page.all("script")
    assert len(page.all("img")) == 6
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert set(HOSTILE[:3]) <= set(page.texts)
    assert "\u202e" not in text


@pytest.mark.parametrize(("height", "width"), [(1000, 2000), (2500, 40), (1, 1), (1, 3000)])
def test_size(height: int, width: int) -> None:
    """No larger than a notebook needs; what is not known is not offered."""
    result = replace(made(height, width), confidence=None)
    page = _Page(result._repr_html_())
    images = page.images()
    (size,) = {image.size for image in images.values()}
    factor = min(1, 1600 / max(height, width))
    assert size == (max(1, round(width * factor)), max(1, round(height * factor)))
    assert not any("confidence" in (name or "") for name in images)
    assert "confidence" not in {each["value"] for each in page.all("input")}
    assert "mean confidence" not in page.texts
