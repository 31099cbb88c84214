"""Losses: logits and labels -> a scalar to minimize; and class weights from class frequencies.

A loss takes logits (N, K, H, W) and labels (N, H, W) int64: class indices below K, 255 for ignored pixels. It returns a
scalar in float32 or float64, whatever the logits' dtype. Without a labeled pixel the loss and its gradients are 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hrnet_zoo.datasets.check import DataReport
from hrnet_zoo.datasets.label_rules import IGNORE_INDEX
from hrnet_zoo.training.config import config_error

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]

# As mmsegmentation's Cityscapes configs set OHEMPixelSampler: thresh 0.7, min_kept 100,000 of a crop of 512 x 1024.
# Here min_kept is a fraction of the labeled pixels, so that it means the same for other crops.
HARD_BELOW = 0.7
LEAST_KEPT = 100_000 / (512 * 1024)
# Of each head's loss, as mmsegmentation's configs set `loss_weight`
HEAD_WEIGHTS = {"FCN": (1.0,), "OCRNet": (0.4, 1.0)}
MAX_WEIGHT = 10.0  # of a class before scaling; 1 / MAX_WEIGHT is the smallest


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean over the labeled pixels of -log p(true class).

    With `weights` (K,), the weighted sum is divided by the *number* of labeled pixels, as in mmsegmentation 0.x, and
    not by the sum of their weights, as in torch and mmsegmentation 1.x. So a batch has the same loss however it is
    split over steps or processes. The published checkpoints were trained without weights.
    """
    logits = _to_float(logits)
    weights = None if weights is None else weights.to(logits)
    total = F.cross_entropy(logits, labels, weights, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (labels != IGNORE_INDEX).sum().clamp(min=1)


def ohem(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return `cross_entropy` over the hard pixels (online hard example mining).

    Hard pixels are those whose true class has a probability below 0.7, but at least the hardest 19 % of the labeled
    pixels (100,000 of 512 x 1024), ties included.
    """
    place = (labels != IGNORE_INDEX).flatten().nonzero().squeeze(1)
    if not len(place):
        return _zero(logits)
    terms = F.cross_entropy(_to_float(logits), labels, ignore_index=IGNORE_INDEX, reduction="none").flatten()[place]
    chances = torch.exp(-terms.detach())  # of the true class
    least = max(1, round(LEAST_KEPT * len(chances)))
    # NaN counts as hard, so that it shows in the loss.
    hard = ~(chances >= HARD_BELOW) | (chances <= chances.kthvalue(least).values)
    if weights is not None:
        terms = terms * weights.to(terms)[labels.flatten()[place]]
    return terms[hard].mean()


def dice(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean over the classes in the labels of 1 - 2 sum(p t) / (sum(p^2) + sum(t)), 0 to 1.

    p is a pixel's probability of the class, t is 1 where it is the true one, and sums run over the batch's labeled
    pixels. Absent classes are left out: their term is always 1. With `weights` (K,): the weighted mean over the
    classes. Source: V-Net (Milletari, Navab and Ahmadi 2016).
    """
    probabilities, true = _labeled(logits, labels)
    counts = torch.bincount(true, minlength=logits.shape[1])
    # (K,): the sum of each pixel's probability of its true class, gathered by class.
    both = probabilities.new_zeros(logits.shape[1]).index_add(0, true, probabilities.gather(0, true[None]).squeeze(0))
    terms = 1 - 2 * both / (probabilities.square().sum(1) + counts).clamp(min=torch.finfo(both.dtype).tiny)
    return _mean_of_present(terms, counts, weights, logits)


def lovasz(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the Lovász-softmax loss, 0 to 1: a differentiable surrogate of 1 - mean IoU over the batch's classes.

    For each class in the labels, the pixels' errors |t - p| are sorted in descending order, and each is weighted by
    what it adds to 1 - IoU if the pixels up to it are wrong. With `weights` (K,): the weighted mean over the classes.
    Source: Berman, Triki and Blaschko 2018, over the whole batch.
    """
    probabilities, true = _labeled(logits, labels)
    counts = torch.bincount(true, minlength=logits.shape[1])
    terms = [
        _lovasz_of(chances, true == index) if counts[index] else chances.new_zeros(())
        for index, chances in enumerate(probabilities)
    ]
    return _mean_of_present(torch.stack(terms), counts, weights, logits)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "cross_entropy": cross_entropy,
    "ohem": ohem,
    "dice": dice,
    "lovasz": lovasz,
}


def make_loss(loss: str | Loss, weights: Tensor | None = None) -> Loss:
    """Return a loss by its name, with class weights (K,) bound to it, or a custom function that checks its result."""
    if isinstance(loss, str) and loss in LOSSES:
        named = LOSSES[loss]
        return lambda logits, labels: named(logits, labels, weights)
    if isinstance(loss, str) or not callable(loss):
        raise config_error(f"with loss={loss!r:.100}", f"the losses are {', '.join(LOSSES)}, or a function")
    if weights is not None:
        raise config_error(
            "with a custom loss and class weights", "a custom loss is called with logits and labels alone"
        )

    def checked(logits: Tensor, labels: Tensor) -> Tensor:
        value = loss(logits, labels)
        if not (isinstance(value, Tensor) and value.ndim == 0 and value.requires_grad == logits.requires_grad):
            found = f"it returned {value!r:.100}, not a scalar tensor that depends on the logits"
            raise config_error(f"with the loss {loss!r:.100}", found)
        return value

    return checked


def balanced_class_weights(report: DataReport) -> tuple[float, ...]:
    """Return a weight for each class by median frequency balancing, from the counts of `check_data`.

    A class's frequency is its fraction of the pixels of the images in which it occurs (each taken to have the mean
    size). Its weight is the median frequency divided by its own: Eigen and Fergus 2015, "Predicting depth, surface
    normals and semantic labels", section 6.3.2. Weights are clipped to 0.1..10; absent classes have weight 1. All are
    then scaled to a mean of 1 over the labeled pixels, so that loss and learning rate keep their scale.
    """
    pixels = np.array([each.pixels for each in report.classes], np.float64)
    images = np.array([each.images for each in report.classes], np.float64)
    present = pixels > 0
    if not present.any():
        return (1.0,) * len(pixels)
    frequency = pixels[present] / (images[present] * report.pixels / report.pairs)
    weights = np.ones(len(pixels))
    weights[present] = (np.median(frequency) / frequency).clip(1 / MAX_WEIGHT, MAX_WEIGHT)
    weights *= pixels.sum() / (weights * pixels).sum()
    return tuple(weights.tolist())


def _to_float(logits: Tensor) -> Tensor:
    """Return logits in float32 or float64, which sums over millions of pixels need."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _labeled(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the class probabilities (K, P) of the labeled pixels, and their true classes (P,)."""
    place = (labels != IGNORE_INDEX).flatten().nonzero().squeeze(1)
    probabilities = _to_float(logits).softmax(1).transpose(0, 1).flatten(1)
    return probabilities[:, place], labels.flatten()[place]


def _lovasz_of(chances: Tensor, true: Tensor) -> Tensor:
    """Return the term of a class, from each pixel's probability of it and whether it is the true one."""
    errors, order = torch.where(true, 1 - chances, chances).sort(descending=True)
    hits = true[order].cumsum(0)  # int64: float32 cannot count beyond 16.7 million
    total = hits[-1]
    intersection = (total - hits).to(errors.dtype)
    union = (total + torch.arange(1, len(hits) + 1, device=hits.device) - hits).to(errors.dtype)
    lost = 1 - intersection / union  # 1 - IoU if the pixels up to here are wrong
    steps = torch.cat((lost[:1], lost[1:] - lost[:-1]))
    return errors @ steps


def _mean_of_present(terms: Tensor, counts: Tensor, weights: Tensor | None, logits: Tensor) -> Tensor:
    present = (counts > 0).to(terms.dtype)
    if weights is not None:
        present = present * weights.to(present)
    if not present.any():
        return _zero(logits)
    return (terms * present).sum() / present.sum()


def _zero(logits: Tensor) -> Tensor:
    """Return 0 with gradients of 0, even where logits are infinite."""
    return _to_float(logits.flatten()[:0]).sum()
