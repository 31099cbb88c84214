"""Decide the argmax from stride-4 logits, without upsampling them.

The mask is, bit for bit, the argmax of what `hrnet_zoo.inference.logits` computes. Interpolated logits are a mean with
the same weights for every class: a class that leads in all the logits that a block interpolates leads in the block.
That decides most pixels. At the borders of objects a block is left with two or three candidate classes, those whose
highest logit is not below some other class's lowest, and these alone are upsampled.

In one thread: the calls of NumPy are so short that a second one loses more than it gains.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from hrnet_zoo.inference.blocks import (
    CACHED,
    UNDECIDED,
    BlockRows,
    Floats,
    Labels,
    agreed,
    all_bits,
    block_rows,
    confident_labels,
    in_cache,
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

_Number = TypeVar("_Number", bound=np.generic)


def make_mask(
    views: Sequence[ViewLogits],
    height: int,
    width: int,
    max_memory: int | None = None,
    probabilities: npt.NDArray[np.float32] | None = None,
) -> Labels:
    """Return the best class (height, width) of each pixel of an image; of equal ones the first, as `argmax` does.

    Args:
        views: the views of one image.
        height: of the image.
        width: of the image.
        max_memory: bytes for full-resolution logits, beside a few bytes for each pixel; None: the best on the device.
        probabilities: filled if given, (classes, height, width); this upsamples all logits.

    """
    mask = np.empty((height, width), np.uint8)
    several = len(views) > 1
    whole = all(len(view.windows) == 1 for view in views) and (several or not views[0].flipped)
    if probabilities is None and whole and not views[0].windows[0].logits.is_cuda:
        largest = max(_largest(view) for view in views)
        if largest <= (LARGEST_OF_SEVERAL if several else LARGEST):
            decide = _decide_views if several else _decide_blocks
            decide(mask, views, rounding_margin(largest), max_memory or CPU_BYTES)
            return mask
    for rows, logits in row_chunks(views, height, width, max_memory):
        mask[rows] = logits.argmax(dim=2).to("cpu", torch.uint8).numpy()
        if probabilities is not None:
            chunk = logits if several else F.softmax(logits.contiguous(), dim=2)
            probabilities[:, rows] = chunk.permute(2, 0, 1).cpu().numpy()
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


def _upsample(mask: Labels, views: Sequence[ViewLogits], rows: Index, columns: Index) -> None:
    """Write the argmax of the full-resolution logits at some rows and columns."""
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
    needs_full_logits = gaps <= int(1.01 * ONE * len(views))
    step = min(ROWS, rows_per_chunk(views, mask.shape[1], max_memory))
    for start in range(0, len(mask), step):
        rows = np.arange(start, min(start + step, len(mask)))
        columns = np.flatnonzero(needs_full_logits[rows].any(axis=0))
        if len(columns):
            _upsample(mask, views, rows, columns)


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
        logits = chunk.logits()
        labels[chunk.rows] = chunk.spread(chunk.reduce(confident_labels(logits, margin), agreed))
        gaps[chunk.rows] = chunk.spread(chunk.reduce(_gaps(logits), np.minimum))
    return (labels[:, ::-1], gaps[:, ::-1]) if view.flipped else (labels, gaps)


def _gaps(logits: Floats) -> Labels:
    """Return the lead of the best class in probability, in 1 / ONE."""
    classes, count = logits.shape
    gaps = np.empty(count, np.uint8)
    for some in in_cache(count, classes):
        part = logits[:, some] - logits[:, some].max(axis=0)
        np.exp(part, out=part)
        total = part.sum(axis=0)
        part *= part < 1
        gaps[some] = ONE * (1 - part.max(axis=0)) / total
    return gaps


def _decide_blocks(mask: Labels, views: Sequence[ViewLogits], margin: np.float32, max_memory: int) -> None:
    """Write the mask of one view that is one window."""
    (view,) = views
    for chunk in block_rows(view.windows[0].logits, (view.height, view.width), mask.shape, max_memory // 2):
        logits = chunk.logits()
        labels = chunk.reduce(confident_labels(logits, margin), agreed)
        mask[chunk.rows] = chunk.spread(labels)
        undecided = np.flatnonzero(labels == UNDECIDED)
        if len(undecided) > NOISE * labels.size:
            step = rows_per_chunk(views, mask.shape[1], max_memory // 2)
            for start in range(chunk.rows.start, chunk.rows.stop, step):
                rows = np.arange(start, min(start + step, chunk.rows.stop))
                _upsample(mask, views, rows, np.arange(mask.shape[1]))
            continue
        i, j = np.divmod(undecided, labels.shape[1])
        i += chunk.bands.start
        split = chunk.down.split[i], chunk.across.split[j]
        most = max(64, max_memory // (40 * len(logits)))
        for down, across in product((False, True), repeat=2):
            chosen = np.flatnonzero((split[0] == down) & (split[1] == across))
            for start in range(0, len(chosen), most):
                some = chosen[start : start + most]
                _Blocks(chunk, logits, i[some], j[some], (down, across)).decide(mask, margin)


class _Blocks:
    """Undecided blocks, by their bands of rows (i) and of columns (j), which are all split or all not."""

    def __init__(self, chunk: BlockRows, logits: Floats, i: Index, j: Index, split: tuple[bool, bool]) -> None:
        self.chunk = chunk
        self.logits = logits
        self.i, self.j = i, j
        self.down = chunk.down.sources[split[0]]
        self.across = chunk.across.sources[split[1]]
        self.y, self.x = chunk.down.positions(i), chunk.across.positions(j)

    def decide(self, mask: Labels, margin: np.float32) -> None:
        """Write the best classes of all their pixels."""
        counts, classes = self.candidates(margin)
        first = np.cumsum(counts) - counts
        order = np.argsort(-counts, kind="stable")
        totals = np.cumsum(counts[order])
        begin = 0
        while begin < len(order):
            pairs = (totals[begin - 1] if begin else 0) + CACHED // (len(self.y) * len(self.x))
            end = max(begin + 1, int(np.searchsorted(totals, pairs, side="right")))
            some = order[begin:end]
            y, x = self.y.take(some, axis=1), self.x.take(some, axis=1)
            pixels = y[:, None] * mask.shape[1] + x
            mask.reshape(-1)[pixels] = self.best(some, counts[some], first[some], classes)
            begin = end

    def candidates(self, margin: np.float32) -> tuple[Index, Index]:
        """Return how many classes may be the best in each block, and which: block by block, ascending."""
        first, *others = (
            self.chunk.flat_index(row[self.i], column[self.j])
            for row, column in product(self.down.distinct, self.across.distinct)
        )
        low = self.logits.take(first, axis=1)
        high = low.copy()
        for other in others:
            logits = self.logits.take(other, axis=1)
            np.minimum(low, logits, out=low)
            np.maximum(high, logits, out=high)
        possible = np.ascontiguousarray((high >= low.max(axis=0) - margin).T)
        return possible.sum(axis=1), np.flatnonzero(possible) % possible.shape[1]

    def best(self, some: Index, counts: Index, first: Index, classes: Index) -> Labels:
        """Return the best class (height, width, blocks) of the pixels of some blocks, most candidates first.

        Args:
            some: the blocks.
            counts: how many candidates each has.
            first: where its first one is in `classes`.
            classes: the candidates.

        """
        labels = np.empty((len(self.y), len(self.x), len(some)), np.uint8)
        labels[:] = classes[first]
        # How many blocks have a second candidate, a third one and so on.
        sizes = [int(np.searchsorted(-counts, -number)) for number in range(1, int(counts[0]))]
        if not sizes:
            return labels
        sizes = [sizes[0], *sizes]
        chosen = np.concatenate([classes[first[:size] + number] for number, size in enumerate(sizes)])
        logits = self.upsample(some, chosen, sizes)
        index = chosen.astype(np.uint8)
        best = logits[:, :, : sizes[0]]
        start = sizes[0]
        for size in sizes[1:]:
            others = logits[:, :, start : start + size]
            changed = labels[:, :, :size] ^ index[start : start + size]
            changed &= all_bits(others > best[:, :, :size])
            labels[:, :, :size] ^= changed
            np.maximum(best[:, :, :size], others, out=best[:, :, :size])
            start += size
        return labels

    def upsample(self, some: Index, classes: Index, sizes: list[int]) -> Floats:
        """Return the logits (height, width, pairs) of pairs of a block and a class, to the bit as `ViewLogits.resize`.

        Args:
            some: the blocks.
            classes: (pairs) one class for each of the first sizes[0] blocks, then one for the first sizes[1], ...
            sizes: how many blocks each time.

        """
        chunk = self.chunk

        def paired(each: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
            return np.concatenate([each[..., :size] for size in sizes], axis=-1)

        i, j = self.i[some], self.j[some]
        y, x = self.y.take(some, axis=1), self.x.take(some, axis=1)  # contiguous, as y[:, some] is not
        starts = classes * self.logits.shape[1]
        stride4 = [
            [
                self.logits.reshape(-1).take(starts + paired(chunk.flat_index(row[i], column[j])))
                for column in self.across.distinct
            ]
            for row in self.down.distinct
        ]
        # The one or two rows of the network's input, each at its one or two columns.
        across = [paired(each.weight[x]) for each in chunk.across.lerps]
        at_input = []
        for (above, below), each in zip(self.down.pairs, chunk.down.lerps, strict=True):
            weight = paired(each.weight[y])
            row = [_blend(near, far, weight)[:, None] for near, far in zip(stride4[above], stride4[below], strict=True)]
            columns = zip(self.across.pairs, across, strict=True)
            at_input.append([_blend(row[left], row[right], weight) for (left, right), weight in columns])
        # The image.
        if chunk.down.weight is not None:
            weight = paired(chunk.down.weight[y])[:, None]
            at_input = [[_blend(near, far, weight) for near, far in zip(*at_input, strict=True)]]
        if chunk.across.weight is not None:
            left, right = at_input[0]
            return _blend(left, right, paired(chunk.across.weight[x]))
        return at_input[0][0]


def _blend(near: Floats, far: Floats, weight: Floats) -> Floats:
    """Return (1 - weight) * near + weight * far; each step is rounded."""
    total = near * (1 - weight)
    total += far * weight
    return total
