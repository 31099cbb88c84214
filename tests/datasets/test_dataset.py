"""Class names, colors and sizes of the datasets."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hrnet_zoo.datasets import (
    ADE20K,
    CITYSCAPES,
    DATASETS,
    LOVEDA,
    PASCAL_CONTEXT,
    PASCAL_CONTEXT_59,
    POTSDAM,
    SCENES,
    VAIHINGEN,
    VOC12AUG,
    Dataset,
)
from hrnet_zoo.datasets.dataset import BLACK, RGB_BANDS, Color, voc_color
from hrnet_zoo.errors import ConfigError

NUMBERS = {"cityscapes": 19, "ade20k": 150, "voc12aug": 21, "pascal_context": 60}
NUMBERS |= {"pascal_context_59": 59, "loveda": 7, "potsdam": 6, "vaihingen": 6, "isaid": 16}


def test_every_dataset_is_counted() -> None:
    assert set(NUMBERS) == set(DATASETS)


@pytest.mark.parametrize("key", DATASETS)
def test_names_and_colors_are_the_recorded_ones(key: str, shared: Path) -> None:
    with (shared / "facts" / f"classes_{key}.csv").open(newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    labels = zip(DATASETS[key].classes, DATASETS[key].palette, strict=True)
    assert rows == [(str(index), name, *map(str, color)) for index, (name, color) in enumerate(labels)]


@pytest.mark.parametrize(("key", "number"), NUMBERS.items())
def test_as_many_names_as_colors(key: str, number: int) -> None:
    dataset = DATASETS[key]
    assert len(dataset.classes) == len(set(dataset.classes)) == len(dataset.palette) == number
    assert all(len(color) == 3 and all(0 <= value <= 255 for value in color) for color in dataset.palette)


def test_first_and_last_names_and_colors() -> None:
    assert CITYSCAPES.classes[0] == "road"
    assert CITYSCAPES.palette[0] == (128, 64, 128)
    assert CITYSCAPES.classes[18] == "bicycle"
    assert CITYSCAPES.palette[18] == (119, 11, 32)
    assert ADE20K.classes[0] == "wall"
    assert ADE20K.classes[149] == "flag"
    assert VOC12AUG.classes[15] == "person"


def test_pascal_context_has_the_corrected_alphabetical_order() -> None:
    first, *others = PASCAL_CONTEXT.classes
    assert first == "background"
    assert others == sorted(others)
    assert PASCAL_CONTEXT_59.classes == PASCAL_CONTEXT.classes[1:]
    assert PASCAL_CONTEXT_59.palette == PASCAL_CONTEXT.palette[1:]


def test_what_aerial_images_show() -> None:
    assert (LOVEDA.meters_per_pixel, POTSDAM.meters_per_pixel, VAIHINGEN.meters_per_pixel) == (0.3, 0.05, 0.09)
    assert [key for key, data in DATASETS.items() if data.bands != RGB_BANDS] == ["vaihingen"]
    assert VAIHINGEN.bands == ("near infrared", "red", "green")
    assert {key for key, data in DATASETS.items() if data.figures_note} == {"potsdam", "vaihingen", "isaid"}


def test_voc_colors_are_the_published_ones() -> None:
    assert tuple(voc_color(index) for index in range(21)) == VOC12AUG.palette


def test_resize_and_window() -> None:
    boxes = [(2048, 1024), (2048, 512), (2048, 512), (520, 520), (520, 520)]
    boxes += [(1024, 1024), (512, 512), (512, 512), (896, 896)]
    assert [dataset.resize_to for dataset in DATASETS.values()] == boxes
    assert {key for key, data in DATASETS.items() if data.sliding_window} == {"pascal_context", "pascal_context_59"}
    assert PASCAL_CONTEXT.window == PASCAL_CONTEXT_59.window == (480, 320)
    assert SCENES.classes == CITYSCAPES.classes


def test_other_classes_keep_the_colors_of_known_names() -> None:
    other = CITYSCAPES.with_classes(["sky", "solar panel", "road", "roof"])
    assert other.classes == ("sky", "solar panel", "road", "roof")
    assert other.palette[0] == CITYSCAPES.palette[10]
    assert other.palette[2] == CITYSCAPES.palette[0]
    assert len(set(other.palette)) == 4
    assert other.resize_to == CITYSCAPES.resize_to
    assert len(CITYSCAPES.classes) == 19
    assert len(set(CITYSCAPES.with_classes([f"class {i}" for i in range(4096)]).palette)) == 4096


def seen(colors: tuple[Color, ...]) -> list[npt.NDArray[np.float64]]:
    """Return colors in OKLab: as seen normally, with deuteranopia, with protanopia (Machado and others, 2009)."""
    levels = np.array(colors) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    eyes = (
        np.eye(3),
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    )
    cones = [[0.4122215, 0.5363325, 0.0514460], [0.2119035, 0.6806995, 0.1073970], [0.0883025, 0.2817188, 0.6299787]]
    lab = [[0.2104543, 0.7936178, -0.0040720], [1.9779985, -2.4285922, 0.4505937], [0.0259040, 0.7827718, -0.8086758]]
    return [np.cbrt((linear @ np.transpose(eye)).clip(0) @ np.transpose(cones)) @ np.transpose(lab) for eye in eyes]


@pytest.mark.parametrize(
    ("count", "normal", "blind"), [(8, 0.15, 0.07), (16, 0.15, 0.07), (32, 0.08, 0.05), (64, 0.05, 0.03)]
)
def test_colors_of_custom_classes_are_easy_to_tell_apart(count: int, normal: float, blind: float) -> None:
    """An OKLab distance of 0.02 is just noticeable; black is the background's."""
    names = ["background", *(f"class {index}" for index in range(1, count))]
    palette = CITYSCAPES.with_classes(names).palette
    assert palette[0] == BLACK
    for view, least in zip(seen(palette), (normal, blind, blind), strict=True):
        apart = np.linalg.norm(view[:, None] - view[None], axis=2)[np.triu_indices(count, 1)]
        assert apart.min() > least


def test_stated_colors_and_background() -> None:
    mine = CITYSCAPES.with_classes(["Background", "road", "roof", "sky"], {"roof": (1, 2, 3), "sky": (230, 159, 0)})
    assert mine.palette == (BLACK, CITYSCAPES.palette[0], (1, 2, 3), (230, 159, 0))
    assert CITYSCAPES.with_classes(["background", "x"], {"background": (9, 9, 9)}).palette[0] == (9, 9, 9)
    (near,) = {*CITYSCAPES.with_classes(["a", "b"], {"a": (230, 160, 0)}).palette} - {(230, 160, 0)}
    assert near == (86, 180, 233)  # not the first one, which is like a's


@pytest.mark.parametrize("dataset", DATASETS.values())
def test_published_palettes_stay(dataset: Dataset) -> None:
    assert dataset.with_classes(dataset.classes).palette == dataset.palette


def test_numbers_of_images_behind_the_published_figures() -> None:
    numbers = {key: dataset.val_images for key, dataset in DATASETS.items()}
    expected = {"cityscapes": 500, "ade20k": 2000, "voc12aug": 1449, "pascal_context": 5104, "pascal_context_59": 5104}
    assert numbers == expected | {"loveda": 1669, "potsdam": 2016, "vaihingen": 398, "isaid": 11_644}
    assert SCENES.val_images == 50
    assert SCENES.with_classes(SCENES.classes).val_images == 0


def test_other_bands() -> None:
    nir = ("red", "green", "blue", "nir")
    data = CITYSCAPES.with_bands(nir, [1, 2, 3, 4], (5, 6, 7, 8))
    assert (data.bands, data.mean, data.std) == (nir, (1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0))
    assert data.own_bands == nir
    assert data.with_classes(["a", "b"]).own_bands == nir
    assert data.with_bands(None, None, None) is data.with_bands(list(nir), None, None) is data
    assert data.with_bands(["red", "green", "blue"], None, None) == CITYSCAPES
    assert data.with_bands(None, [0] * 4, [1] * 4).mean == (0, 0, 0, 0)
    assert CITYSCAPES.with_bands(None, None, None) is CITYSCAPES
    assert VAIHINGEN.own_bands == ()  # its files are read as RGB
    assert CITYSCAPES.with_bands(None, [1, 2, 3], [1, 2, 3]).own_bands == (
        "red",
        "green",
        "blue",
    )  # 16 bits, for example
    CITYSCAPES.require_rgb("label a video")
    with pytest.raises(
        ConfigError, match="label a video\n  found: the network takes images of the bands red, green, blue, n"
    ):
        data.require_rgb("label a video")


@pytest.mark.parametrize(
    ("bands", "mean", "std", "words"),
    [
        ([], [], [], "bands are different names"),
        ("nir", [0], [1], "bands are different names"),
        (4, None, None, "images of the bands 4\n  found: bands are different names"),
        (["a", "A"], [0, 0], [1, 1], "bands are different names"),
        (["a", " "], [0, 0], [1, 1], "bands are different names"),
        (
            ["a", "b"],
            None,
            None,
            "mean and std of each of the 2 bands are needed, in the values of the images, std above 0; a+b",
        ),
        (["a", "b"], [0, 1], None, "needed"),
        (["a", "b"], [0, 1], [1], "needed"),
        (["a", "b"], [0, 1], [1, 0], "needed"),
        (["a", "b"], [0, float("nan")], [1, 1], "needed"),
        (["a", "b"], [0, 0], [1, float("inf")], "needed"),
        (["a", "b"], ["x", "y"], [1, 1], "needed"),
        (["a", "b"], 3, 4, "needed"),
    ],
)
def test_bands_without_statistics(bands: Any, mean: Any, std: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        CITYSCAPES.with_bands(bands, mean, std, lambda names: "; " + "+".join(names))
