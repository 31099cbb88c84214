"""Counts, intersection over union and accuracies, by hand."""

import numpy as np
import pytest

from hrnet_zoo.evaluation.metrics import class_accuracy, class_iou, count_matrix, mean, pixel_accuracy


def test_counts_and_iou_by_hand() -> None:
    truth = np.array([[0, 0, 1], [1, 255, 1]], dtype=np.uint8)
    mask = np.array([[0, 1, 1], [1, 2, 0]], dtype=np.uint8)
    counts = count_matrix(truth, mask, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    iou = class_iou(counts)
    assert iou[:2].tolist() == [1 / 3, 2 / 4]
    assert np.isnan(iou[2:]).all()


def test_counts_do_not_overflow_small_types() -> None:
    truth = np.full((300, 300), 149, dtype=np.uint8)
    assert count_matrix(truth, truth, 150)[149, 149] == 90_000


def test_accuracies_by_hand() -> None:
    counts = np.array([[3, 1, 0], [0, 4, 2], [0, 0, 0]], dtype=np.int64)
    accuracy = class_accuracy(counts)
    assert accuracy[:2].tolist() == [3 / 4, 4 / 6]
    assert np.isnan(accuracy[2])  # does not occur in the truth
    assert class_iou(counts)[2] == 0  # but is predicted
    assert pixel_accuracy(counts) == 7 / 10
    assert mean(accuracy) == (3 / 4 + 4 / 6) / 2


def test_nothing_counted_is_nan() -> None:
    counts = np.zeros((2, 2), dtype=np.int64)
    assert all(
        np.isnan(value) for value in (mean(class_iou(counts)), mean(class_accuracy(counts)), pixel_accuracy(counts))
    )


@pytest.mark.parametrize(("truth", "mask"), [(3, 0), (254, 0), (0, 3), (255, 3)])
def test_an_index_that_is_no_class_is_refused(truth: int, mask: int) -> None:
    with pytest.raises(ValueError, match="outside the 3 classes"):
        count_matrix(np.full((2, 2), truth, np.uint8), np.full((2, 2), mask, np.uint8), 3)


def test_counts_are_those_of_every_pixel() -> None:
    random = np.random.default_rng(0)
    truth = random.choice(np.array([*range(19), 255], np.uint8), (64, 48))
    mask = random.integers(0, 19, (64, 48), dtype=np.uint8)
    expected = np.zeros((19, 19), np.int64)
    for true, found in zip(truth.ravel(), mask.ravel(), strict=True):
        if true != 255:
            expected[true, found] += 1
    assert np.array_equal(count_matrix(truth, mask, 19), expected)
