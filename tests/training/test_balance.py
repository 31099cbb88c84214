"""Class weights: median frequency balancing by hand, absent classes, limits, from a folder that was checked."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrnet_zoo.datasets.check import ClassCount, DataReport, check_data
from hrnet_zoo.training.balance import class_weights


def report(*counts: tuple[int, int], pixels: int = 1000, pairs: int = 10) -> DataReport:
    classes = tuple(
        ClassCount(str(index), count, count / pixels, images) for index, (count, images) in enumerate(counts)
    )
    return DataReport("", Path(), "", "", pairs, pixels, 0.0, classes, ())


def test_by_hand() -> None:
    """Shares of the images with the class: 0.6, 0.3, 0.2; the median is 0.3."""
    found = class_weights(report((600, 10), (300, 10), (100, 5)))
    raw = np.array([0.5, 1.0, 1.5])
    mean = (600 * 0.5 + 300 * 1.0 + 100 * 1.5) / 1000
    assert found == pytest.approx(raw / mean)


def test_the_mean_over_the_pixels_is_1() -> None:
    counts = ((600, 10), (300, 8), (0, 0), (5, 1))
    found = class_weights(report(*counts))
    pixels = [count for count, _ in counts]
    assert np.average(found, weights=pixels) == pytest.approx(1)
    assert found[3] > found[1] > found[0]


def test_absent_classes_and_limits() -> None:
    found = class_weights(report((900_000, 10), (90_000, 10), (10, 10), (0, 0), pixels=1_000_000))
    assert found[2] / found[3] == pytest.approx(10)
    assert found[0] / found[3] == pytest.approx(0.1)
    assert found[1] / found[3] == pytest.approx(1)


def test_nothing_labeled() -> None:
    assert class_weights(report((0, 0), (0, 0))) == (1.0, 1.0)


def test_from_a_folder(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for name, split in (("a", 2), ("b", 8)):
        labels = np.zeros((10, 10), np.uint8)
        labels[split:] = 1
        Image.fromarray(labels).save(tmp_path / f"masks/{name}.png")
        Image.new("RGB", (10, 10)).save(tmp_path / f"images/{name}.png")
    labels[:5] = 2
    Image.fromarray(labels).save(tmp_path / "masks/b.png")
    found = class_weights(check_data(tmp_path, classes=["x", "y", "z"], progress=False))
    # Pixels 50, 100, 50 in 2, 2, 1 images: frequencies 0.25, 0.5, 0.5.
    assert found == pytest.approx(np.array([2.0, 1.0, 1.0]) / 1.25)
