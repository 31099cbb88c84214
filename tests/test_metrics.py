"""Counts and intersection over union, by hand."""

import numpy as np

from hrnet_zoo.metrics import class_iou, count_matrix


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
