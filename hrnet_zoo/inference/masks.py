"""Scores at a quarter of the size -> the best class of each pixel of the image, without making all its scores.

The mask is, bit for bit, the argmax of what `hrnet_zoo.inference.logits` defines. Most pixels need no arithmetic for
that (`hrnet_zoo.inference.agreement`): a few in a hundred to a third of them are left, at the borders of what is seen.
Of one view seen as a whole these are decided here, block by block. A class whose highest score among those that a block
is made of is below the lowest of some other class is behind that one in all of the block. The others, two or three of
them mostly, are resized by the operations of `ScoreMap.part`, element by element in the same order, and compared. Of
windows, or of several views, all classes are made where there is something left.

In one thread: the calls of NumPy are so short that two threads lost more by handing Python's lock to each other than
they gained (19 classes, 1024 x 2048, two cores: 21 ms instead of 19).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import product
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from hrnet_zoo.inference.agreement import LARGEST_OF_SEVERAL, Work, slack, undecided
from hrnet_zoo.inference.blocks import (
    CACHED,
    UNKNOWN,
    Flags,
    Floats,
    Labels,
    Piece,
    pieces_of,
    same,
    sure_labels,
    where,
)
from hrnet_zoo.inference.logits import CPU_BYTES, Index, ScoreMap, mean, pieces, rows_at_once

# Above this share of unknown blocks there are no regions, and many candidates in each: making all scores is faster.
NOISE = 0.75

_Number = TypeVar("_Number", bound=np.generic)

# Larger scores are left to `pieces`: their sums may overflow.
LARGEST = 2.0**100

# Rows made together where something is left: more of them have more columns where nothing is, fewer cost more calls.
ROWS = 8


def best_classes(maps: Sequence[ScoreMap], height: int, width: int, max_memory: int | None = None) -> Labels:
    """Return the best class (height, width) of each pixel of an image by the scores of one or more views of it.

    Of equal scores the first is the best; nan is above all, as for `argmax`.

    Args:
        maps: the views of one image.
        height: of the image.
        width: of the image.
        max_memory: as for `hrnet_zoo.inference.logits.pieces`. A few bytes for each pixel are not counted.

    """
    mask = np.empty((height, width), np.uint8)
    # On CUDA all scores are made: the way below is NumPy's. Nan and infinity are no means of anything.
    largest = np.inf if maps[0].windows[0].scores.is_cuda else float(np.max([_largest(view) for view in maps]))
    if not largest <= (LARGEST if len(maps) == 1 else LARGEST_OF_SEVERAL):
        for rows, scores in pieces(maps, height, width, max_memory):
            mask[rows] = scores.argmax(dim=2).to("cpu", torch.uint8).numpy()
        return mask
    windows = max(len(view.windows) for view in maps)
    work = Work(slack(largest, windows), (max_memory or CPU_BYTES) // 2)
    if len(maps) == windows == 1:
        _decide_blocks(mask, maps[0], work)
    else:
        _decide_left(mask, maps, undecided(maps, mask, work), max_memory)
    return mask


def _largest(view: ScoreMap) -> float:
    """Return the largest magnitude of a view's scores; nan or infinity if there is such a one."""
    return float(np.max([abs(float(end)) for window in view.windows for end in window.scores.aminmax()]))


def _decide_left(mask: Labels, maps: Sequence[ScoreMap], left: Flags, max_memory: int | None) -> None:
    """Write the best classes where something is left: all scores of some rows and some columns are made."""
    height, width = mask.shape
    step = min(ROWS, rows_at_once(maps, width, max_memory))
    for start in range(0, height, step):
        rows = np.arange(start, min(start + step, height))
        columns = np.flatnonzero(left[rows].any(axis=0))
        if len(columns):
            mask[rows[:, None], columns] = mean(maps, rows, columns, height, width).argmax(dim=2).numpy()


def _decide_rows(mask: Labels, view: ScoreMap, rows: slice, max_memory: int) -> None:
    """Write the best classes of some rows: all their scores are made."""
    height, width = mask.shape
    step = rows_at_once([view], width, max_memory)
    for start in range(rows.start, rows.stop, step):
        part = np.arange(start, min(start + step, rows.stop))
        mask[part] = view.part(part, np.arange(width), height, width).argmax(dim=2).numpy()


def _decide_blocks(mask: Labels, view: ScoreMap, work: Work) -> None:
    """Write the best classes of all pixels by a view of one window."""
    (window,) = view.windows
    unmirrored = dataclasses.replace(view, mirrored=False)

    inner = view.height, view.width
    for piece in pieces_of(window.scores, inner, mask.shape, work.max_memory):
        scores = piece.scores()
        labels = piece.combined(sure_labels(scores, work.slack), same)
        mask[piece.rows] = piece.spread(labels)
        unknown = np.flatnonzero(labels == UNKNOWN)
        if len(unknown) > NOISE * labels.size:
            _decide_rows(mask, unmirrored, piece.rows, work.max_memory)
            continue
        i, j = np.divmod(unknown, labels.shape[1])
        i += piece.bands.start
        split = piece.down.split[i], piece.across.split[j]
        most = max(64, work.max_memory // (20 * len(scores)))
        for kind in ((False, False), (False, True), (True, False), (True, True)):
            chosen = np.flatnonzero((split[0] == kind[0]) & (split[1] == kind[1]))
            for start in range(0, len(chosen), most):
                some = chosen[start : start + most]
                _Blocks(piece, scores, i[some], j[some], kind).decide(mask, work.slack)
    if view.mirrored:
        mask[:] = mask[:, ::-1].copy()


class _Blocks:
    """Blocks of one kind, by their bands of rows and of columns."""

    def __init__(self, piece: Piece, scores: Floats, i: Index, j: Index, kind: tuple[bool, bool]) -> None:
        self.piece = piece
        self.scores = scores
        self.i, self.j = i, j
        self.kind = kind
        axes = piece.down, piece.across
        self.down, self.across = (axis.apart if split else axis.alike for axis, split in zip(axes, kind, strict=True))

    def decide(self, mask: Labels, slack: np.float32) -> None:
        """Write the best classes of all their pixels."""
        counts, classes = self.candidates(slack)
        first = np.cumsum(counts) - counts
        order = np.argsort(-counts, kind="stable")
        y, x = self.piece.down.positions(self.i), self.piece.across.positions(self.j)
        y *= mask.shape[1]
        totals = np.cumsum(counts[order])
        begin = 0
        while begin < len(order):
            pairs = (totals[begin - 1] if begin else 0) + CACHED // (len(y) * len(x))
            end = max(begin + 1, int(np.searchsorted(totals, pairs, side="right")))
            some = order[begin:end]
            best = self.best(some, counts[some], first[some], classes)
            mask.reshape(-1)[y[: len(best), None, some] + x[: best.shape[1], some]] = best
            begin = end

    def candidates(self, slack: np.float32) -> tuple[Index, Index]:
        """Return how many classes may be the best in each block, and which ones: block by block, ascending."""
        places = [
            self.piece.at(row[self.i], column[self.j])
            for row, column in product(self.down.distinct, self.across.distinct)
        ]
        low = self.scores.take(places[0], axis=1)
        high = low.copy()
        for place in places[1:]:
            scores = self.scores.take(place, axis=1)
            np.minimum(low, scores, out=low)
            np.maximum(high, scores, out=high)
        possible = np.ascontiguousarray((high >= low.max(axis=0) - slack).T)
        return possible.sum(axis=1), np.flatnonzero(possible) % possible.shape[1]

    def best(self, some: Index, counts: Index, first: Index, classes: Index) -> Labels:
        """Return the best class (height, width, blocks) of the pixels of some blocks, those of most candidates first.

        Args:
            some: which blocks.
            counts: how many candidates each has.
            first: where its first one is.
            classes: the candidates.

        """
        pixels = _Pixels(self, some)
        labels = np.empty((*pixels.shape, len(some)), np.uint8)
        labels[:] = classes[first]
        # How many blocks have a first candidate that is not the only one, a second one, a third one and so on.
        sizes = [int(np.searchsorted(-counts, -number)) for number in range(int(counts[0]))][1:]
        if not sizes:
            return labels
        sizes = [sizes[0], *sizes]
        chosen = np.concatenate([classes[first[:size] + number] for number, size in enumerate(sizes)])
        scores = pixels.scores(chosen, sizes)
        names = chosen.astype(np.uint8)
        best = scores[:, :, : sizes[0]]
        start = sizes[0]
        for size in sizes[1:]:
            others = scores[:, :, start : start + size]
            changed = labels[:, :, :size] ^ names[start : start + size]
            changed &= where(others > best[:, :, :size])
            labels[:, :, :size] ^= changed
            np.maximum(best[:, :, :size], others, out=best[:, :, :size])
            start += size
        return labels


class _Pixels:
    """Resizes scores for all pixels of some blocks: by the operations of `ScoreMap.part`, in the same order."""

    def __init__(self, blocks: _Blocks, some: Index) -> None:
        self.blocks = blocks
        self.i, self.j = blocks.i[some], blocks.j[some]
        self.y, self.x = blocks.piece.down.positions(self.i), blocks.piece.across.positions(self.j)
        self.shape = len(self.y), len(self.x)

    def scores(self, classes: Index, sizes: list[int]) -> Floats:
        """Return the scores (height, width, pairs) of pairs of a block and a class.

        Args:
            classes: (pairs) the classes; first one of each of the first blocks, then of as many or fewer again.
            sizes: how many blocks each time.

        """
        blocks, piece = self.blocks, self.blocks.piece

        def paired(each: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
            return np.concatenate([each[..., :size] for size in sizes], axis=-1)

        starts = classes * blocks.scores.shape[1]
        old = [
            [
                blocks.scores.reshape(-1).take(starts + paired(piece.at(row[self.i], column[self.j])))
                for column in blocks.across.distinct
            ]
            for row in blocks.down.distinct
        ]
        # The network's input, by its one or two rows: in its rows and old columns, then in its columns.
        columns = [paired(taps.share[self.x]) for taps in piece.across.taps]
        at_input = []
        for (above, below), taps in zip(blocks.down.number, piece.down.taps, strict=True):
            share = paired(taps.share[self.y])
            row = [_mix(near, far, share)[:, None] for near, far in zip(old[above], old[below], strict=True)]
            at_input.append(
                [
                    _mix(row[left], row[right], column)
                    for (left, right), column in zip(blocks.across.number, columns, strict=True)
                ]
            )
        # And the image.
        if piece.down.share is not None:
            share = paired(piece.down.share[self.y])[:, None]
            at_input = [[_mix(near, far, share) for near, far in zip(*at_input, strict=True)]]
        if piece.across.share is not None:
            left, right = at_input[0]
            return _mix(left, right, paired(piece.across.share[self.x]))
        return at_input[0][0]


def _mix(near: Floats, far: Floats, share: Floats) -> Floats:
    """Return (1 - share) * near + share * far; each step is rounded."""
    total = near * (1 - share)
    total += far * share
    return total
