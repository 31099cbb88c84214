"""Masks -> counts -> mean intersection over union, by the reference's definition.

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


def class_iou(counts: Counts) -> Shares:
    """Return the IoU (K,) of each class, 0 to 1, nan for absent classes, from a count matrix (K, K)."""
    both = np.diag(counts)
    return _ratio(both, counts.sum(axis=0) + counts.sum(axis=1) - both)


def class_accuracy(counts: Counts) -> Shares:
    """Return the accuracy (K,) of each class, 0 to 1, nan for classes absent from the truth."""
    return _ratio(np.diag(counts), counts.sum(axis=1))


def pixel_accuracy(counts: Counts) -> float:
    """Return the pixel accuracy, 0 to 1, nan without pixels."""
    return float(_ratio(np.diag(counts).sum(keepdims=True), counts.sum(keepdims=True).reshape(1))[0])


def mean(shares: Shares) -> float:
    """Return the mean over the classes that are not nan; nan if all are."""
    known = shares[~np.isnan(shares)]
    return float(known.mean()) if known.size else float("nan")


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Shares:
    ratio: Shares = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return ratio
