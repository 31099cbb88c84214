"""Decide the argmax from stride-4 logits, without upsampling them.

The mask is, bit for bit, the argmax of what `hrnet_zoo.inference.logits` computes. Interpolated logits are a mean with
the same weights for every class: a class that leads in all the logits that a block interpolates leads in the block.
That decides most pixels. At the borders of objects a block is left with two or three candidate classes, those whose
highest logit is not below some other class's lowest, and these alone are upsampled.

In one thread: the calls are so short that a second thread gains little, and costs ten times as much where the cores are
busy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hrnet_zoo.inference.blocks import (
    CACHED,
    SINGLE_THREADED,
    UNDECIDED,
    BlockRows,
    Flags,
    Floats,
    Labels,
    agreed,
    all_bits,
    block_rows,
    confident_labels,
    distinct,
    highest,
    nonzero,
    pieces,
)
from hrnet_zoo.inference.logits import CPU_BYTES, Index, ViewLogits, merge_views, row_chunks, rows_per_chunk

# If more of the blocks are undecided, upsampling all logits is faster.
NOISE = 0.75

# Larger logits are upsampled: their sums may overflow. With several views float32 probabilities must be exact to 0.1 %.
LARGEST = 2.0**100
LARGEST_OF_SEVERAL = 2.0**8

# Gaps between probabilities are stored as multiples of 1 / ONE, rounded down.
ONE = 254

# Rows upsampled together: more of them have fewer decided columns, fewer cost more calls.
ROWS = 8


def make_mask(views: Sequence[ViewLogits], height: int, width: int, max_memory: int | None = None) -> Labels:
    """Return the best class (height, width) of each pixel of an image; of equal ones the first, as `argmax` does.

    `max_memory` bytes are for full-resolution logits, beside a few bytes for each pixel; None: the best on the device.
    """
    mask = np.empty((height, width), np.uint8)
    several = len(views) > 1
    whole = all(len(view.windows) == 1 for view in views) and (several or not views[0].flipped)
    if whole and not views[0].windows[0].logits.is_cuda:
        largest = max(_largest(view) for view in views)
        if largest <= (LARGEST_OF_SEVERAL if several else LARGEST):
            decide = _decide_views if several else _decide_blocks
            decide(mask, views, rounding_margin(largest), max_memory or CPU_BYTES)
            return mask
    for rows, logits in row_chunks(views, height, width, max_memory):
        mask[rows] = logits.argmax(dim=2).to("cpu", torch.uint8).numpy()
    return mask


def rounding_margin(largest: float) -> np.float32:
    """Return how far a class must lead in stride-4 logits to lead in float32 after both resizes.

    With u = 2**-24 and M the largest magnitude, each of up to four interpolations `(1 - weight) * near + weight * far`
    is off by less than 3.01 u M, and averages the errors of its operands: 12.1 u M together. Two classes may be off in
    opposite directions, and comparing with this margin in float32 adds up to 4 u M. 2**-120 exceeds what is lost by
    underflow.
    """
    return np.float32(32 * 2.0**-24 * largest + 2.0**-120)


def _largest(view: ViewLogits) -> float:
    """Return the largest magnitude of a view's logits; infinite if one is infinite or not a number."""
    low, high = (abs(float(end)) for end in view.windows[0].logits.aminmax())
    return max(low, high) if np.isfinite([low, high]).all() else np.inf


def _upsample(mask: Labels, views: Sequence[ViewLogits], needed: Flags, top: int, max_memory: int) -> None:
    """Write the argmax of the full-resolution logits where needed, in rows from `top` on."""
    step = min(ROWS, rows_per_chunk(views, mask.shape[1], max_memory))
    for start in range(0, len(needed), step):
        columns = np.flatnonzero(needed[start : start + step].any(axis=0))
        if len(columns):
            rows = np.arange(top + start, top + min(start + step, len(needed)))
            mask[rows[:, None], columns] = merge_views(views, rows, columns, *mask.shape).argmax(dim=2).numpy()


def _decide_views(mask: Labels, views: Sequence[ViewLogits], margin: np.float32, max_memory: int) -> None:
    """Write the mask of several views.

    Each view adds to the gap in mean probability between the leading class and any other one what the class leads by
    there, or takes away 1. Where 1 % is left, the class is the best.
    """
    mask[:] = UNDECIDED
    gaps = np.zeros(mask.shape, np.uint16)  # from -1 for each view, as 0, to 1
    middle = len(views) // 2
    for view in (*views[middle:], *views[:middle][::-1]):  # the views at the size of training decide who leads
        labels, gap = bounds_of_view(view, mask.shape, margin, max_memory)
        np.copyto(mask, labels, where=mask == UNDECIDED)
        agrees = (labels == mask) & (labels != UNDECIDED)
        gaps += np.add(gap, ONE, dtype=np.uint16) * agrees  # NumPy 1 would add a small number in 8 bits
    _upsample(mask, views, gaps <= int(1.01 * ONE * len(views)), 0, max_memory)


def bounds_of_view(
    view: ViewLogits, size: tuple[int, ...], margin: np.float32, max_memory: int
) -> tuple[Labels, Labels]:
    """Return for each pixel the leading class, or UNDECIDED, and a lower bound of its lead in probability.

    The lead over a class K is at least that in the interpolated logits: it is t or more where
    1 >= exp(K - L) + t * (sum over all classes c of exp(c - L)), which is convex in the logits.
    """
    height, width = size
    labels, gaps = (np.empty((height, width), np.uint8) for _ in range(2))
    for chunk in block_rows(view.windows[0].logits, (view.height, view.width), (height, width), max_memory // 2):
        labels[chunk.rows] = chunk.spread(chunk.reduce(confident_labels(chunk.logits, margin), agreed))
        gaps[chunk.rows] = chunk.spread(chunk.reduce(_gaps(chunk.logits), np.minimum))
    return (labels[:, ::-1], gaps[:, ::-1]) if view.flipped else (labels, gaps)


def _gaps(logits: Floats) -> Labels:
    """Return the lead of the best class in probability, in 1 / ONE."""
    count, classes = logits.shape
    gaps = np.empty(count, np.uint8)
    for some in pieces(count, classes, SINGLE_THREADED):
        part = torch.from_numpy(logits[some])
        odds = (part - part.amax(dim=1, keepdim=True)).exp_()
        total = odds.sum(dim=1)
        odds *= odds < 1
        gaps[some] = (ONE * (1 - odds.amax(dim=1)) / total).numpy()
    return gaps


def _decide_blocks(mask: Labels, views: Sequence[ViewLogits], margin: np.float32, max_memory: int) -> None:
    """Write the mask of one view that is one window."""
    (view,) = views
    for chunk in block_rows(view.windows[0].logits, (view.height, view.width), mask.shape, max_memory // 2):
        labels = chunk.reduce(confident_labels(chunk.logits, margin), agreed)
        mask[chunk.rows] = chunk.spread(labels)
        undecided = np.flatnonzero(labels == UNDECIDED)
        if len(undecided) > NOISE * labels.size:
            _upsample(mask, views, mask[chunk.rows] == UNDECIDED, chunk.rows.start, max_memory // 2)
            continue
        i, j = np.divmod(undecided, labels.shape[1])
        i += chunk.bands.start
        kinds = 2 * chunk.down.split[i] + chunk.across.split[j]
        most = max(64, max_memory // (40 * chunk.logits.shape[1]))
        for kind in range(4):
            chosen = np.flatnonzero(kinds == kind)
            for start in range(0, len(chosen), most):
                some = chosen[start : start + most]
                _Blocks(chunk, i[some], j[some]).decide(mask, margin)


class _Blocks:
    """Undecided blocks, by their bands of rows (i) and of columns (j), which are all split or all not."""

    def __init__(self, chunk: BlockRows, i: Index, j: Index) -> None:
        self.chunk = chunk
        self.y, self.x = chunk.down.positions(i), chunk.across.positions(j)
        self.row_weights = [each.weight[self.y] for each in chunk.down.lerps]
        self.column_weights = [each.weight[self.x] for each in chunk.across.lerps]
        rows, self.row_pairs = distinct(chunk.down.sources.take(i, axis=1))
        columns, self.column_pairs = distinct(chunk.across.sources.take(j, axis=1))
        # The logits that the blocks interpolate: rows of `chunk.logits`.
        self.corners = [[(row - chunk.top) * chunk.width + column for column in columns] for row in rows]

    def decide(self, mask: Labels, margin: np.float32) -> None:
        """Write the best classes of all their pixels."""
        possible = self.candidates(margin)
        counts = possible.sum(axis=1, dtype=np.int16)  # which NumPy sorts faster than wider integers
        classes = nonzero(possible)[1].astype(np.uint8)
        first = np.cumsum(counts, dtype=np.intp) - counts
        order = np.argsort(-counts, kind="stable")
        parts = np.cumsum(counts[order], dtype=np.intp) * len(self.y) * len(self.x) // CACHED
        for blocks in np.split(order, np.flatnonzero(np.diff(parts)) + 1):
            # The first candidate of all blocks, the second one of those that have it, and so on.
            sizes = [int(np.searchsorted(-counts[blocks], -number)) for number in range(counts[blocks[0]])]
            rounds = [classes[first[blocks[:size]] + number] for number, size in enumerate(sizes)]
            logits = self.upsample(np.concatenate([blocks[:size] for size in sizes]), np.concatenate(rounds))
            best, *others = np.split(logits, np.cumsum(sizes)[:-1], axis=2)
            labels = np.broadcast_to(rounds[0], best.shape).copy()
            for candidates, values in zip(rounds[1:], others, strict=True):
                leader, label = best[:, :, : len(candidates)], labels[:, :, : len(candidates)]
                label ^= (label ^ candidates) & all_bits(values > leader)
                np.maximum(leader, values, out=leader)
            y, x = self.y.take(blocks, axis=1), self.x.take(blocks, axis=1)
            mask.reshape(-1)[y[:, None] * mask.shape[1] + x] = labels

    def candidates(self, margin: np.float32) -> Flags:
        """Return which classes may be the best: (blocks, classes)."""
        corners = (self.chunk.at(corner) for row in self.corners for corner in row)
        low = next(corners)
        high = low.copy("K")
        for logits in corners:
            np.minimum(low, logits, out=low)
            np.maximum(high, logits, out=high)
        return np.ascontiguousarray(high >= highest(low) - margin)

    def upsample(self, blocks: Index, classes: Labels) -> Floats:
        """Return logits (height, width, n), to the bit as `ViewLogits.resize`, of n blocks, of one class of each."""
        down, across = self.chunk.down, self.chunk.across
        logits = self.chunk.logits.ravel("K")
        step, class_step = (stride // logits.itemsize for stride in self.chunk.logits.strides)
        starts = classes.astype(np.intp) * class_step
        stride4 = [[logits.take(starts + corner[blocks] * step) for corner in row] for row in self.corners]
        # The one or two rows of the network's input, each at its one or two columns.
        columns = [weight.take(blocks, axis=1) for weight in self.column_weights]
        at_input = []
        for (above, below), each in zip(self.row_pairs, self.row_weights, strict=True):
            weight = each.take(blocks, axis=1)
            row = [_blend(near, far, weight)[:, None] for near, far in zip(stride4[above], stride4[below], strict=True)]
            pairs = zip(self.column_pairs, columns, strict=True)
            at_input.append([_blend(row[left], row[right], weight) for (left, right), weight in pairs])
        # The image.
        if down.weight is not None:
            weight = down.weight[self.y].take(blocks, axis=1)[:, None]
            at_input = [[_blend(near, far, weight) for near, far in zip(*at_input, strict=True)]]
        if across.weight is not None:
            left, right = at_input[0]
            return _blend(left, right, across.weight[self.x].take(blocks, axis=1))
        return at_input[0][0]


def _blend(near: Floats, far: Floats, weight: Floats) -> Floats:
    """Return (1 - weight) * near + weight * far; each step is rounded."""
    total = near * (1 - weight)
    total += far * weight
    return total
