"""Masks -> counts -> mean intersection over union, by the reference's definition.

Counts are summed over the whole set before anything is divided; pixels labelled 255 are ignored; a class that occurs
neither in the truth nor in the masks is nan and left out of the mean.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

IGNORED = 255


def count_matrix(truth: npt.NDArray[Any], mask: npt.NDArray[Any], num_classes: int) -> npt.NDArray[np.int64]:
    """Count the pixels of every pair of true and predicted class.

    Args:
        truth: (H, W) integer class indices; 255 is ignored.
        mask: (H, W) integer class indices below `num_classes`.
        num_classes: K.

    Returns:
        (K, K) int64, rows by true class, columns by predicted one.

    """
    valid = truth != IGNORED
    pairs = truth[valid].astype(np.int64) * num_classes + mask[valid]
    counts: npt.NDArray[np.int64] = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    return counts


def class_iou(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Intersection over union (K,) of each class, 0 to 1, nan where a class is absent, from a count matrix (K, K)."""
    both = np.diag(counts).astype(np.float64)
    either = counts.sum(axis=0) + counts.sum(axis=1) - both
    iou: npt.NDArray[np.float64] = np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)
    return iou
