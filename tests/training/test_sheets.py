"""The sheet of validation images, pixel by pixel where it matters."""

import io
from typing import Any

import numpy as np
import pytest

from hrnet_zoo.datasets import SCENES, Dataset
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.inference.result import SegmentationResult
from hrnet_zoo.training.sheets import Row, draw_sheet

SIDE, GAP, LINE = 400, 6, 22


def result(image: Any, mask: Any, dataset: Dataset = SCENES) -> SegmentationResult:
    return SegmentationResult(image, mask, dataset.classes, dataset.palette)


def row(seed: int, name: str = "") -> Row:
    drawn = scene(seed)
    return name or f"demo/{seed}", drawn.mask, result(drawn.image, np.where(drawn.mask == 255, 0, drawn.mask))


def test_image_labels_and_prediction_side_by_side() -> None:
    labels = np.zeros((100, 200), np.uint8)
    labels[:50] = 10
    labels[:, :50] = 255
    image = np.full((100, 200, 3), (1, 2, 3), np.uint8)
    found = draw_sheet([("a", labels, result(image, np.full((100, 200), 10, np.uint8)))])
    assert found.mode == "RGB"
    road, sky = SCENES.palette[0], SCENES.palette[10]

    def at(column: int, x: float, y: float) -> Any:
        return found.getpixel((column * (SIDE + GAP) + round(x * SIDE), LINE + round(y * SIDE / 2)))

    assert at(0, 0.5, 0.5) == (1, 2, 3)
    assert [at(1, 0.1, 0.3), at(1, 0.6, 0.3), at(1, 0.6, 0.8)] == [(224, 224, 224), sky, road]
    assert at(2, 0.1, 0.3) == at(2, 0.6, 0.8) == sky
    assert found.getpixel((SIDE + GAP // 2, LINE + 5)) == (255, 255, 255)


def test_rows_below_each_other_in_a_small_file() -> None:
    sheets = [draw_sheet([row(seed) for seed in range(count)]) for count in (1, 6)]
    assert sheets[1].height > 5 * sheets[0].height
    file = io.BytesIO()
    sheets[1].save(file, "JPEG", quality=85)
    assert len(file.getvalue()) < 1_000_000


def test_captions_tell_name_and_score() -> None:
    name, labels, good = row(0, "one")
    bad = result(good.image, np.zeros_like(good.mask))
    captions = [
        np.asarray(draw_sheet([each]))[:LINE, :SIDE].tobytes()
        for each in ((name, labels, good), ("two", labels, good), (name, labels, bad))
    ]
    assert len(set(captions)) == 3


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1)])
def test_images_of_any_size_names_of_any_kind(size: tuple[int, int]) -> None:
    dataset = SCENES.with_classes(["Ünï\n<b>" * 20 + str(index) for index in range(60)])
    labels = np.full(size, 255, np.uint8)
    mask = (np.arange(size[0] * size[1]) % 60).astype(np.uint8).reshape(size)
    found = draw_sheet([("x/\n" * 200, labels, result(np.zeros((*size, 3), np.uint8), mask, dataset))])
    assert found.width < 10_000
    assert found.height < 2000
