"""The sheet of validation images, pixel by pixel where it matters."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hrnet_zoo.datasets import SCENES
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.training.sheets import SheetRow, draw_sheet


def row(seed: int, name: str = "") -> SheetRow:
    drawn = scene(seed)
    mask = np.where(drawn.mask == 255, 0, drawn.mask)
    return SheetRow(name or f"demo/{seed}", drawn.image, drawn.mask, mask)


def test_photo_truth_and_prediction_side_by_side() -> None:
    truth = np.zeros((100, 200), np.uint8)
    truth[:50] = 10
    truth[:, :50] = 255
    mask = np.full((100, 200), 10, np.uint8)
    image = np.full((100, 200, 3), (1, 2, 3), np.uint8)
    found = draw_sheet([SheetRow("a", image, truth, mask)], SCENES)
    assert found.mode == "RGB"
    assert found.width == 1200
    side, top, gap = 392, 22, 6
    road, sky = SCENES.palette[0], SCENES.palette[10]

    def at(column: int, x: float, y: float) -> Any:
        return found.getpixel((gap + column * (side + gap) + round(x * side), top + round(y * side / 2)))

    assert at(0, 0.5, 0.5) == (1, 2, 3)
    assert [at(1, 0.1, 0.3), at(1, 0.6, 0.3), at(1, 0.6, 0.8)] == [(224, 224, 224), sky, road]
    assert at(2, 0.6, 0.3) == at(2, 0.6, 0.8) == sky
    assert at(2, 0.1, 0.3) == tuple(int(level * 0.35 + 224 * 0.65) for level in sky)
    assert found.getpixel((gap + side + gap // 2, top + 5)) == (255, 255, 255)


def test_at_most_six_rows_and_a_small_file() -> None:
    rows = [row(seed) for seed in range(7)]
    assert draw_sheet(rows, SCENES).size == draw_sheet(rows[:6], SCENES).size
    assert draw_sheet(rows[:5], SCENES).height < draw_sheet(rows[:6], SCENES).height
    file = io.BytesIO()
    draw_sheet(rows, SCENES).save(file, "JPEG", quality=85)
    assert len(file.getvalue()) < 1_000_000


def captions(found: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(found)[:22]


def test_captions_tell_name_and_score() -> None:
    good, other = row(0, "one"), row(0, "two")
    wrong = SheetRow("one", good.image, good.truth, np.zeros_like(good.mask))
    left, right = slice(0, 600), slice(600, 1200)
    first, named, scored = (captions(draw_sheet([each], SCENES)) for each in (good, other, wrong))
    assert not np.array_equal(first[:, left], named[:, left])
    assert np.array_equal(first[:, right], named[:, right])
    assert np.array_equal(first[:, left], scored[:, left])
    assert not np.array_equal(first[:, right], scored[:, right])


def test_the_legend_names_what_occurs() -> None:
    drawn = row(0)
    every = set(np.unique(drawn.truth)) | set(np.unique(drawn.mask))
    legend = np.asarray(draw_sheet([drawn], SCENES))[22 + 196 + 6 :]
    colors = {tuple(pixel) for pixel in legend.reshape(-1, 3).tolist()}
    assert {SCENES.palette[index] for index in every if index != 255} <= colors
    absent = next(index for index in range(19) if index not in every)
    assert SCENES.palette[absent] not in colors


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1)])
def test_images_of_any_size_names_of_any_kind(size: tuple[int, int]) -> None:
    names = ["Ünï\n<b>" * 20 + str(index) for index in range(60)]
    labels = np.full(size, 255, np.uint8)
    mask = (np.arange(size[0] * size[1]) % 60).astype(np.uint8).reshape(size)
    found = draw_sheet([SheetRow("x/" * 200, np.zeros((*size, 3), np.uint8), labels, mask)], SCENES.with_classes(names))
    assert found.width == 1200
    assert found.height < 2000


def test_no_rows() -> None:
    assert draw_sheet([], SCENES).width == 1200
