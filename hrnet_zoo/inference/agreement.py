"""What is known of the best class of pixels from the scores at a quarter of the size, before any is enlarged.

A resized score is a mean of a few old ones, with weights that are the same for every class; and so is the mean of
windows. Where one class is ahead of every other in all the old scores that a pixel is made of, it is ahead there. That
holds of exact arithmetic, and of float32 if "ahead" means by more than rounding can move: see `slack`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from hrnet_zoo.inference.blocks import UNKNOWN, Flags, Floats, Labels, in_cache, pieces_of, same, sure_labels
from hrnet_zoo.inference.logits import ScoreMap, Taps, axis_taps

# Of scores up to this magnitude what float32 makes is off by less than 0.0003 (half of `slack`), so that probabilities
# are off by less than 0.1 %, which is a tenth of what views must agree by.
LARGEST_OF_SEVERAL = 256.0

# Gaps between probabilities are counted in this part of 1, rounded down.
WHOLE = 254


def slack(largest: float, windows: int) -> np.float32:
    """Return by how much a class must be ahead in scores, so that it is ahead in what float32 makes of them.

    With u = 2**-24 and M the largest magnitude: `(1 - share) * near + share * far` rounds 1 - share, both products and
    the sum, each by a factor within 1 +- u. So it is off by less than 3.01 u M, and what its operands were off by is
    averaged, not added up. A score goes through four of them at most, 12.1 u M; the sum over n windows and its
    division by their number round n times more, each time by 1.01 u M at most. The difference of two classes is off by
    twice as much, and comparing with this bound in float32 rounds three times more, by 4 u M at most. 2**-120 is far
    above what products lose that are too small for float32.
    """
    u = 2.0**-24
    return np.float32((32 + 3 * windows) * u * largest + 2.0**-120)


class Work(NamedTuple):
    """How to work.

    Attributes:
        slack: by how much a class must be ahead.
        max_memory: bytes for the scores of a piece in float32.

    """

    slack: np.float32
    max_memory: int


class Known(NamedTuple):
    """What is known of pixels or blocks.

    Attributes:
        labels: the class that is ahead in all the scores they are made of, or UNKNOWN.
        gaps: what it is ahead by in probability, in 1 / WHOLE, at least. Without meaning where it is UNKNOWN.

    """

    labels: Labels
    gaps: Labels


def known_of_view(view: ScoreMap, height: int, width: int, work: Work) -> Known:
    """Return what is known of the pixels (height, width) of an image from one view of it.

    The gap of a class L to another one K is that of the old scores at least: it is t or more where 1 >= exp(K - L) +
    t * (sum over all classes c of exp(c - L)), which is convex in the scores; so means of scores that fulfil it do.
    """
    if len(view.windows) == 1:
        known = _known(view.windows[0].scores, (view.height, view.width), (height, width), work)
    else:
        known = _resized(_known_of_windows(view, work), height, width)
    return Known(*(np.ascontiguousarray(each[:, ::-1]) for each in known)) if view.mirrored else known


def undecided(maps: Sequence[ScoreMap], leaders: Labels, work: Work) -> Flags:
    """Fill in the leading class (height, width) of each pixel; return where it is not known to be the best.

    One view: it is known where `known_of_view` knows it. Several: each adds to the mean gap of the leading class to
    any other what it is ahead there, or takes away 1. It is known where 1 % is left.
    """
    height, width = leaders.shape
    if len(maps) == 1:
        leaders[:] = known_of_view(maps[0], height, width, work).labels
        return np.equal(leaders, UNKNOWN)
    leaders[:] = UNKNOWN
    gaps = np.zeros((height, width), np.uint16)  # from -1 for each view, as 0, to 1
    middle = len(maps) // 2
    for view in (*maps[middle:], *maps[:middle][::-1]):  # those of the size that the network learned from lead
        labels, gap = known_of_view(view, height, width, work)
        np.copyto(leaders, labels, where=leaders == UNKNOWN)
        agrees = labels == leaders
        agrees &= labels != UNKNOWN
        gaps += np.add(gap, WHOLE, dtype=np.uint16) * agrees  # NumPy 1 would add a small number in 8 bits
    return np.less(gaps, int(1.01 * WHOLE * len(maps)) + 1)


def _known(scores: Tensor, inner: tuple[int, int], outer: tuple[int, int], work: Work) -> Known:
    known = Known(*(np.empty(outer, np.uint8) for _ in Known._fields))

    for piece in pieces_of(scores, inner, outer, work.max_memory):
        part = piece.scores()
        known.labels[piece.rows] = piece.spread(piece.combined(sure_labels(part, work.slack), same))
        known.gaps[piece.rows] = piece.spread(piece.combined(_gaps(part), np.minimum))
    return known


def _known_of_windows(view: ScoreMap, work: Work) -> Known:
    """Return what is known of the network's input: what all windows there agree on."""
    size = view.height, view.width
    known = Known(np.full(size, UNKNOWN, np.uint8), np.full(size, WHOLE, np.uint8))
    seen = np.zeros(size, bool)
    for window in view.windows:
        here = window.rows, window.columns
        inside = tuple(side.stop - side.start for side in here)
        labels, gaps = _known(window.scores, inside, inside, work)
        np.copyto(known.labels[here], labels, where=~seen[here])
        same(known.labels[here], labels)
        np.minimum(known.gaps[here], gaps, out=known.gaps[here])
        seen[here] = True
    return known


def _resized(known: Known, height: int, width: int) -> Known:
    for axis, outer in enumerate((height, width)):
        inner = known.labels.shape[axis]
        if inner != outer:
            known = _resized_along(known, axis, axis_taps(inner, outer))
    return known


def _resized_along(known: Known, axis: int, taps: Taps) -> Known:
    (labels, others), (gaps, other_gaps) = ([each.take(at, axis=axis) for at in taps[:2]] for each in known)
    return Known(same(labels, others), np.minimum(gaps, other_gaps))


def _gaps(scores: Floats) -> Labels:
    """Return how far the best class by scores (classes, n) is ahead in probability, in 1 / WHOLE, rounded down."""
    classes, count = scores.shape
    gaps = np.empty(count, np.uint8)
    for some in in_cache(count, classes):
        part = scores[:, some] - scores[:, some].max(axis=0)
        np.exp(part, out=part)
        total = part.sum(axis=0)
        part *= part < 1
        gaps[some] = WHOLE * (1 - part.max(axis=0)) / total
    return gaps
