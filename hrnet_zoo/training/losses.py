"""What training makes small: scores and true labels -> one number.

A loss takes scores (N, K, H, W) at the labels' size and labels (N, H, W) int64, class indices or 255 for pixels that
are ignored, and returns a scalar: at least float32, whatever the scores' dtype. A batch without a labeled pixel gives
0 and gradients of 0. Labels have to be below K or 255, which `hrnet_zoo.datasets.check` makes sure of before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from hrnet_zoo.datasets.label_rules import IGNORE_INDEX
from hrnet_zoo.errors import ConfigError

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]

# OHEMPixelSampler of mmsegmentation as its Cityscapes configs set it: thresh 0.7, min_kept 100,000 an image, for
# crops of 512 x 1024. As a share of the pixels, so that the rule means the same for other crops.
HARD_BELOW = 0.7
LEAST_KEPT = 100_000 / (512 * 1024)


def cross_entropy(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean over the labeled pixels of -log p(true class).

    With `weights` (K,), one for each class: the sum of weighted terms divided by the *number* of labeled pixels, as
    mmsegmentation 0.x has it, and not by the sum of their weights, as torch and mmsegmentation 1.x do. So the loss of a
    batch is the mean of its parts' losses by their numbers of labeled pixels, whatever the weights, and batches that
    are split over steps or processes give the same figure. The published checkpoints used no weights.
    """
    total = F.cross_entropy(_exact(scores), labels, _like(weights, scores), ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (labels != IGNORE_INDEX).sum().clamp(min=1)


def ohem(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return `cross_entropy` over the hard pixels (online hard example mining).

    Hard are labeled pixels whose true class gets a probability below 0.7, and in any case the hardest 19 % of the
    labeled ones (100,000 of 512 x 1024), with what ties with these.
    """
    place = (labels != IGNORE_INDEX).flatten().nonzero().squeeze(1)
    if not len(place):
        return _zero(scores)
    terms = F.cross_entropy(_exact(scores), labels, ignore_index=IGNORE_INDEX, reduction="none").flatten()[place]
    chances = torch.exp(-terms.detach())  # of the true class
    least = max(1, round(LEAST_KEPT * len(chances)))
    # What is not a number is hard too: it has to show in the loss.
    hard = ~(chances >= HARD_BELOW) | (chances <= chances.kthvalue(least).values)
    if weights is not None:
        terms = terms * weights.to(terms)[labels.flatten()[place]]
    return terms[hard].mean()


def dice(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean over the classes in the labels of 1 - 2 sum(p t) / (sum(p^2) + sum(t)), 0 to 1.

    p is a pixel's probability of the class and t 1 where it is the true one; sums run over the batch's labeled pixels.
    Classes that do not occur are left out: their term is 1 whatever the network says. Source: V-Net (Milletari,
    Navab and Ahmadi 2016). With `weights` (K,): the weighted mean over the classes.
    """
    probabilities, true = _labeled(scores, labels)
    counts = torch.bincount(true, minlength=scores.shape[1])
    # (K,): the sum of each pixel's probability of its true class, gathered by class.
    both = probabilities.new_zeros(scores.shape[1]).index_add(0, true, probabilities.gather(0, true[None]).squeeze(0))
    terms = 1 - 2 * both / (probabilities.square().sum(1) + counts).clamp(min=torch.finfo(both.dtype).tiny)
    return _mean_of_present(terms, counts, weights, scores)


def lovasz(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the Lovász-softmax loss, 0 to 1: a smooth stand-in for 1 - mean IoU of the batch over its classes.

    For each class in the labels the pixels' errors |t - p| are sorted, largest first, and weighed with what each adds
    to 1 - IoU if the pixels up to it are wrong. Source: Berman, Triki and Blaschko 2018, over the whole batch. With
    `weights` (K,): the weighted mean over the classes.
    """
    probabilities, true = _labeled(scores, labels)
    counts = torch.bincount(true, minlength=scores.shape[1])
    terms = [_lovasz_of(probabilities[index], true == index) for index in range(scores.shape[1]) if counts[index]]
    everywhere = probabilities.new_zeros(scores.shape[1])
    if terms:
        everywhere = everywhere.index_put((counts.nonzero().squeeze(1),), torch.stack(terms))
    return _mean_of_present(everywhere, counts, weights, scores)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "cross_entropy": cross_entropy,
    "ohem": ohem,
    "dice": dice,
    "lovasz": lovasz,
}


def make_loss(loss: str | Loss, weights: Tensor | None = None) -> Loss:
    """Return the loss of a name, with its class weights in it, or the function given.

    Args:
        loss: "cross_entropy", "ohem", "dice", "lovasz", or any function of scores and labels as this module states
            them; what it returns has to be a scalar.
        weights: (K,), one for each class; a function brings its own.

    Raises:
        ConfigError: no such loss, or weights that cannot be used; when called, a function that returns no scalar.

    """
    if weights is not None and not (
        weights.ndim == 1 and len(weights) and weights.isfinite().all() and weights.min() >= 0 < weights.max()
    ):
        raise _misuse(
            f"weights={weights.tolist()!s:.200}", "weights are numbers from 0, one for each class, and not all 0"
        )
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise _misuse(f"loss={loss!r:.100}", f"the losses are {', '.join(LOSSES)}, or a function")
        chosen = LOSSES[loss]
        return lambda scores, labels: chosen(scores, labels, weights)
    if not callable(loss):
        raise _misuse(f"loss={loss!r:.100}", f"the losses are {', '.join(LOSSES)}, or a function")
    if weights is not None:
        raise _misuse("a loss of one's own and class weights", "a function is called with scores and labels alone")
    function = loss

    def checked(scores: Tensor, labels: Tensor) -> Tensor:
        value = function(scores, labels)
        if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
            found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.100}"
            raise _misuse(f"the loss {function!r:.100}", f"it returned {found}, and not a scalar tensor")
        if scores.requires_grad and not value.requires_grad:
            raise _misuse(f"the loss {function!r:.100}", "what it returned does not depend on the scores")
        return value

    return checked


def _exact(scores: Tensor) -> Tensor:
    """Return scores in float32 at least: sums over millions of pixels need it."""
    return scores if scores.dtype == torch.float64 else scores.float()


def _like(weights: Tensor | None, scores: Tensor) -> Tensor | None:
    return None if weights is None else weights.to(scores.device, torch.promote_types(scores.dtype, torch.float32))


def _labeled(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities (K, P) of the labeled pixels, and their true classes (P,)."""
    place = (labels != IGNORE_INDEX).flatten().nonzero().squeeze(1)
    probabilities = _exact(scores).softmax(1).transpose(0, 1).flatten(1)
    return probabilities[:, place], labels.flatten()[place]


def _lovasz_of(chances: Tensor, true: Tensor) -> Tensor:
    """Return the term of one class, from its probability at every pixel and where it is the true one."""
    errors, order = torch.where(true, 1 - chances, chances).sort(descending=True)
    hits = true[order].cumsum(0)  # whole numbers: float32 stops counting at 16.7 million
    total = hits[-1]
    intersection = (total - hits).to(errors.dtype)
    union = (total + torch.arange(1, len(hits) + 1, device=hits.device) - hits).to(errors.dtype)
    lost = 1 - intersection / union  # 1 - IoU if the pixels up to here are wrong
    steps = torch.cat((lost[:1], lost[1:] - lost[:-1]))
    return errors @ steps


def _mean_of_present(terms: Tensor, counts: Tensor, weights: Tensor | None, scores: Tensor) -> Tensor:
    present = (counts > 0).to(terms.dtype)
    if weights is not None:
        present = present * weights.to(present)
    if not present.any():
        return _zero(scores)
    return (terms * present).sum() / present.sum()


def _zero(scores: Tensor) -> Tensor:
    """Return 0 with gradients of 0, also for scores that are infinite."""
    return _exact(scores.flatten()[:0]).sum()


def _misuse(asked: str, found: str) -> ConfigError:
    return ConfigError(
        asked=f"train with {asked}",
        found=found,
        done="nothing was trained",
        advice="correct it; cross_entropy without weights is what the published checkpoints were trained with",
    )
