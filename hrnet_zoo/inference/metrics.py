"""Masks -> counts -> mean intersection over union by the reference's definition, its interval, and other figures.

Counts are summed over the whole set before dividing; pixels labeled 255 are ignored; a class in neither truth nor masks
is nan and not part of the mean.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hrnet_zoo.datasets.label_rules import IGNORE_INDEX

Counts = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]

# The percentile interval of Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
RESAMPLES, LEVEL, SEED = 1000, 0.95, 0
_RESAMPLES_AT_ONCE = 50


def count_matrix(truth: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8], num_classes: int) -> Counts:
    """Count the pixels by true class (rows) and predicted class (columns): (K, K) int64, K the number of classes.

    Both arrays are (H, W) class indices; 255 in `truth` is ignored. Any other index raises a ValueError.
    """
    # Counting all 256 labels and cutting off the rest is ten times faster than masking pixels first.
    pairs = torch.from_numpy(truth).to(torch.int32).mul_(num_classes).add_(torch.from_numpy(mask))
    rows = torch.bincount(pairs.flatten(), minlength=(IGNORE_INDEX + 1) * num_classes).numpy()
    if rows[num_classes**2 : IGNORE_INDEX * num_classes].any() or mask.max(initial=0) >= num_classes:
        raise ValueError(f"truth or mask has an index outside the {num_classes} classes")
    counts: Counts = rows[: num_classes**2].reshape(num_classes, num_classes)
    return counts


def class_totals(counts: Counts) -> Counts:
    """Return the pixels by class that are correct, true and predicted, (3, K), from a count matrix (K, K)."""
    return np.stack([np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)])


def class_iou(counts: Counts) -> Shares:
    """Return the IoU (K,) of each class, 0 to 1, nan for absent classes, from a count matrix (K, K)."""
    return _iou(class_totals(counts))


def class_accuracy(counts: Counts) -> Shares:
    """Return the accuracy (K,) of each class, which is its recall: 0 to 1, nan for classes absent from the truth."""
    correct, true, _ = class_totals(counts)
    return _ratio(correct, true)


def class_precision(counts: Counts) -> Shares:
    """Return the precision (K,) of each class, 0 to 1, nan for classes that are never predicted."""
    correct, _, predicted = class_totals(counts)
    return _ratio(correct, predicted)


def class_f1(counts: Counts) -> Shares:
    """Return the F1 score (K,) of each class, which is its Dice coefficient: 0 to 1, nan for absent classes."""
    correct, true, predicted = class_totals(counts)
    return _ratio(2 * correct, true + predicted)


def pixel_accuracy(counts: Counts) -> float:
    """Return the pixel accuracy, 0 to 1, nan without pixels."""
    return float(_ratio(np.diag(counts).sum(keepdims=True), counts.sum(keepdims=True).reshape(1))[0])


def mean(shares: Shares) -> float:
    """Return the mean over the classes that are not nan; nan if all are."""
    known = shares[~np.isnan(shares)]
    return float(known.mean()) if known.size else float("nan")


def bootstrap_miou(totals: Counts) -> tuple[float, float]:
    """Return a 95 % interval of the mIoU, 0 to 1: the percentiles of the mIoU of images drawn with replacement.

    `totals` is (N, 3, K): `class_totals` of each of N images. The draws are seeded. A class that no drawn image has is
    not part of that draw's mean. Without pixels, or for fewer than two images, both ends are nan.
    """
    number, _, classes = totals.shape
    if number < 2:
        return float("nan"), float("nan")
    random = np.random.default_rng(SEED)
    per_image = totals.reshape(number, -1).astype(np.float64)  # sums below 2**53 are exact, in any order
    mious: list[float] = []
    while len(mious) < RESAMPLES:
        drawn = [np.bincount(random.integers(number, size=number), minlength=number) for _ in range(_RESAMPLES_AT_ONCE)]
        sums = np.array(drawn, np.float64) @ per_image
        mious += [mean(_iou(each)) for each in sums.reshape(-1, 3, classes)]
    known = [miou for miou in mious if not np.isnan(miou)]
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if known else (np.nan, np.nan)
    return float(low), float(high)


def _iou(totals: npt.NDArray[Any]) -> Shares:
    correct, true, predicted = totals
    return _ratio(correct, true + predicted - correct)


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Shares:
    ratio: Shares = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return ratio
