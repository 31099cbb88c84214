"""Masks from probabilities: merged classes, the winner's probability, unlabeled pixels; all in bounded memory."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hrnet_zoo.datasets.label_rules import IGNORE_INDEX
from hrnet_zoo.inference.logits import ViewLogits, row_chunks


def mask_from_probabilities(
    views: Sequence[ViewLogits],
    mask: npt.NDArray[np.uint8],
    max_memory: int | None,
    *,
    members: Sequence[Sequence[int]] | None = None,
    min_confidence: float = 0.0,
    confidence: npt.NDArray[np.float16] | None = None,
    probabilities: npt.NDArray[np.float32] | None = None,
) -> None:
    """Write the best class of each pixel into `mask` (height, width).

    Args:
        views: logits of the image; of several, the probabilities are averaged.
        mask: receives class indices, or 255 where the best class has a probability below `min_confidence`.
        max_memory: bytes for full-resolution logits; None: the best on the device. It does not change the result.
        members: classes that are merged: their probabilities are added. None: each class stands alone.
        min_confidence: from 0 to 1; compared in float32.
        confidence: (height, width), receives the probability of the best class.
        probabilities: (classes or groups, height, width), receives all probabilities.

    """
    several = len(views) > 1
    height, width = mask.shape
    for rows, logits in row_chunks(views, height, width, max_memory):
        chunk = logits if several else F.softmax(logits.contiguous(), dim=2)
        if members is None:
            labels = logits.argmax(dim=2)
            best = chunk.gather(2, labels[:, :, None])[:, :, 0]
            by_class = chunk.permute(2, 0, 1)
        else:
            by_class = merge(chunk.permute(2, 0, 1).contiguous(), members)
            best, labels = by_class.max(dim=0)
        labels[best < min_confidence] = IGNORE_INDEX
        mask[rows] = labels.to("cpu", torch.uint8).numpy()
        if confidence is not None:
            confidence[rows] = best.to("cpu", torch.float16).numpy()
        if probabilities is not None:
            probabilities[:, rows] = by_class.cpu().numpy()


def merge(probabilities: Tensor, members: Sequence[Sequence[int]]) -> Tensor:
    """Return the sums (groups, height, width) of the probabilities (classes, height, width) of each group's members.

    Classes are added one after the other, so that the bits depend neither on the device nor on the size.
    """
    return torch.stack([functools.reduce(torch.add, (probabilities[index] for index in group)) for group in members])
