"""Counts, intersection over union and accuracies, by hand."""

import numpy as np
import pytest

from hrnet_zoo.inference.metrics import (
    bootstrap_miou,
    class_accuracy,
    class_f1,
    class_iou,
    class_precision,
    class_totals,
    count_matrix,
    mean,
    pixel_accuracy,
)


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


def test_precision_and_f1_by_hand() -> None:
    """`d` does not occur and is not predicted; `c` occurs and is not predicted."""
    counts = np.array([[3, 1, 0, 0], [0, 4, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=np.int64)
    assert class_totals(counts).tolist() == [[3, 4, 0, 0], [4, 4, 2, 0], [4, 6, 0, 0]]
    precision, f1 = class_precision(counts), class_f1(counts)
    assert precision[:2].tolist() == [3 / 4, 4 / 6]
    assert np.isnan(precision[2:]).all()
    assert f1[:3].tolist() == [6 / 8, 8 / 10, 0]
    assert np.isnan(f1[3])
    iou = class_iou(counts)[:3]
    assert f1[:3] == pytest.approx(2 * iou / (1 + iou))


def test_interval_is_that_of_resampled_count_matrices() -> None:
    """Three totals a class say as much of the mIoU as the whole matrix of each image."""
    random = np.random.default_rng(1)
    matrices = random.integers(0, 1000, (40, 5, 5)) + 1000 * random.integers(1, 5, (40, 1, 1)) * np.eye(
        5, dtype=np.int64
    )
    matrices[:, 4] = matrices[:, :, 4] = 0  # a class that no image has
    totals = np.stack([class_totals(each) for each in matrices])
    draws, mious = np.random.default_rng(0), []
    for _ in range(1000):
        mious.append(mean(class_iou(matrices[draws.integers(40, size=40)].sum(axis=0))))
    assert bootstrap_miou(totals) == tuple(np.quantile(mious, [0.025, 0.975]))
    low, high = bootstrap_miou(np.repeat(totals, 25, axis=0))  # of 25 times as many images a fifth as wide
    assert 0.1 < (high - low) / (bootstrap_miou(totals)[1] - bootstrap_miou(totals)[0]) < 0.3


def test_interval_of_too_little_is_nan() -> None:
    assert np.isnan(bootstrap_miou(np.ones((1, 3, 2), np.int64))).all()
    assert np.isnan(bootstrap_miou(np.zeros((3, 3, 2), np.int64))).all()
    assert bootstrap_miou(np.ones((3, 3, 2), np.int64)) == (1, 1)
    totals = np.zeros((3, 3, 2), np.int64)
    totals[0] = 5
    assert bootstrap_miou(totals) == (1, 1)  # draws without a pixel have no mIoU


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
