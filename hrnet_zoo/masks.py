"""Scores at a quarter of the size -> the best class of each pixel of the picture, without making all its scores.

The mask is, bit for bit, the argmax of what `hrnet_zoo.scores` defines. Most pixels need no arithmetic for that. A
resized score is a mean of a few old ones, with weights that are the same for every class. So

    - where one class is ahead of every other in all the old scores that a pixel is made of, it is ahead there;
    - a class whose highest of them is below the lowest of some other class is behind that one there.

Both hold of exact arithmetic, and of float32 if "ahead" means by more than rounding can move (`_slack`). Blocks of
which one class is known to be the best are filled with it. For the others the classes that may be the best, two or
three of them mostly, are resized by the operations of `ScoreMap.rows`, element by element in the same order, and
compared. The first of equal ones is taken, as `argmax` does.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch

from hrnet_zoo.blocks import CACHED, UNKNOWN, Floats, Labels, Patch, Piece, pieces_of, shared, sure_labels, where

from hrnet_zoo.votes import LARGEST as LARGEST_OF_SEVERAL
from hrnet_zoo.votes import undecided
from hrnet_zoo.scores import CPU_BYTES, Index, ScoreMap, mean, pieces, rows_at_once

# Rows made together where views do not agree.
ROWS = 8

# Larger scores are left to `pieces`: their sums may overflow.
LARGEST = 2.0**100


def best_classes(maps: Sequence[ScoreMap], height: int, width: int, max_memory: int | None = None) -> Labels:
    """Return the best class (height, width) of each pixel of a picture by the scores of one or more views of it.

    Of equal scores the first is the best; nan is above all, as for `argmax`.

    Args:
        maps: the views of one picture.
        height: of the picture.
        width: of the picture.
        max_memory: as for `hrnet_zoo.scores.pieces`; the mask, and a few bytes for each block, are not counted.

    """
    mask = np.empty((height, width), np.uint8)
    largest = 0.0 if maps[0].windows[0].scores.is_cuda else max(map(_largest, maps))
    # Kernels for CUDA are another matter; nan and infinity are not means of anything.
    if maps[0].windows[0].scores.is_cuda or not largest <= (LARGEST_OF_SEVERAL if len(maps) > 1 else LARGEST):
        for rows, scores in pieces(maps, height, width, max_memory):
            mask[rows] = scores.argmax(dim=2).to("cpu").numpy()
        return mask
    slack = _slack(largest, max(len(view.windows) for view in maps))
    threads = torch.get_num_threads()
    budget = (max_memory or CPU_BYTES) // (2 * threads)
    if len(maps) > 1:
        unknown = undecided(maps, mask, slack, budget, threads)
        step = min(ROWS, rows_at_once(maps, width, max_memory))
        for start in range(0, height, step):
            columns = np.flatnonzero(unknown[start : start + step].any(axis=0))
            if len(columns):
                rows = np.arange(start, min(start + step, height))
                scores = mean(maps, rows, columns, height, width)
                mask[rows[0] : rows[-1] + 1, columns] = scores.argmax(dim=2).numpy()
        return mask
    (view,) = maps

    def fill(piece: Piece) -> None:
        scores = piece.scores()
        blocks = piece.agreed(sure_labels(scores, slack))
        mask[piece.rows, piece.columns] = piece.spread(blocks)
        _decide(mask, piece, scores, np.flatnonzero(blocks == UNKNOWN), slack, budget)

    shared(fill, pieces_of(view, height, width, budget, threads), threads)
    return np.ascontiguousarray(mask[:, ::-1]) if view.mirrored else mask


def _largest(view: ScoreMap) -> float:
    """Return the largest magnitude of a view's scores; nan or infinity if there is such a one."""
    ends = [end for window in view.windows for end in window.scores.aminmax()]
    return float(np.max(np.abs([float(end) for end in ends])))


def _slack(largest: float, windows: int) -> np.float32:
    """Return by how much a class must be ahead in scores, so that it is ahead in what float32 makes of them.

    With u = 2**-24 and M the largest magnitude: `(1 - share) * near + share * far` rounds 1 - share, both products and
    the sum, each by a factor within 1 +- u. So it is off by less than 3.01 u M, and what its operands were off by is
    averaged, not added up. A score goes through four of them at most, 12.1 u M; the sum over n windows and its
    division by their number round n times more, each time by u M at most. The difference of two classes is off by
    twice as much, and comparing with this bound in float32 rounds three times more, by 2 u M at most. 2**-120 is far
    above what products lose that are too small for float32.
    """
    u = 2.0**-24
    return np.float32((32 + 2 * windows) * u * largest + 2.0**-120)


STATS = None


def _decide(
    mask: Labels, piece: Piece, scores: Floats, blocks: Index, slack: np.float32, max_memory: int
) -> None:
    """Write the classes of the pixels of some blocks."""
    down, across = piece.down, piece.across
    i, j = np.divmod(blocks, len(across.split))
    i += piece.bands.start
    step = max(64, max_memory // (len(scores) * 20))
    kinds = 2 * down.split[i] + across.split[j]
    for kind in range(4):
        some = np.flatnonzero(kinds == kind)
        for start in range(0, len(some), step):
            part = some[start : start + step]
            _Blocks(piece, scores, i[part], j[part], (kind // 2, kind % 2)).decide(mask, slack)


class _Blocks:
    """Blocks of one kind."""

    def __init__(self, piece: Piece, scores: Floats, i: Index, j: Index, kind: tuple[int, int]) -> None:
        self.piece = piece
        self.scores = scores
        self.i, self.j = i, j
        self.kind = kind

    def decide(self, mask: Labels, slack: np.float32) -> None:
        down, across = self.piece.down, self.piece.across
        counts, classes = self.candidates(slack)
        first = np.cumsum(counts) - counts
        order = np.argsort(-counts, kind="stable")
        if STATS is not None:
            px = np.diff(down.bands)[self.i] * np.diff(across.bands)[self.j]
            for k, v in (("blocks", len(px)), ("pairs", counts.sum()), ("pixels", px.sum()), ("open", px[counts > 1].sum())):
                STATS[k] = STATS.get(k, 0) + int(v)
        height, width = (int(np.diff(run.bands)[at].max()) for run, at in ((down, self.i), (across, self.j)))
        most = max(1, CACHED // (height * width))
        total = np.cumsum(counts[order])
        begin = 0
        while begin < len(order):
            done = total[begin - 1] if begin else 0
            end = max(begin + 1, int(np.searchsorted(total, done + most, side="right")))
            some = order[begin:end]
            begin = end
            i, j = self.i[some], self.j[some]
            y, x = down.positions(i, height), across.positions(j, width)
            labels = np.empty((height, width, len(some)), np.uint8)
            labels[:] = classes[first[some]].astype(np.uint8)
            sizes = [int(np.searchsorted(-counts[some], -n)) for n in range(int(counts[some[0]]))]
            if len(sizes) > 1:
                sizes[0] = sizes[1]
                chosen = np.concatenate([classes[first[some[:n]] + each] for each, n in enumerate(sizes)])
                n = sizes[0]
                values = _Values(self.piece, self.scores, self.kind, (i[:n], j[:n]), (y[:, :n], x[:, :n]), sizes, chosen).resized()
                _compare(labels, values, sizes, chosen.astype(np.uint8))
            mask.reshape(-1)[((y + down.start) * mask.shape[1])[:, None] + (x + across.start)] = labels

    def candidates(self, slack: np.float32) -> tuple[Index, Index]:
        """Return how many classes may be the best in each block, and which ones: block by block, ascending."""
        low = high = None
        for patch in self.piece.patches:
            rows = self.piece.down.places[patch.down][self.kind[0]].distinct
            columns = self.piece.across.places[patch.across][self.kind[1]].distinct
            for row, column in product(rows, columns):
                scores = self.scores.take(patch.at(row[self.i], column[self.j]), axis=1)
                if low is None:
                    low, high = scores, scores.copy()
                else:
                    np.minimum(low, scores, out=low)
                    np.maximum(high, scores, out=high)
        possible = np.ascontiguousarray((high >= low.max(axis=0) - slack).T)
        return possible.sum(axis=1), np.flatnonzero(possible) % possible.shape[1]


def _compare(labels: Labels, values: Floats, sizes: list[int], names: Labels) -> None:
    best = values[:, :, : sizes[0]]
    at = sizes[0]
    for n in sizes[1:]:
        value = values[:, :, at : at + n]
        change = labels[:, :, :n] ^ names[at : at + n]
        change &= where(value > best[:, :, :n])
        labels[:, :, :n] ^= change
        np.maximum(best[:, :, :n], value, out=best[:, :, :n])
        at += n


class _Values:
    """Scores of some classes for all pixels of some blocks, for many pairs of a block and a class at once.

    First all blocks with their first class, then as many of them as have a second, with that, and so on.
    """

    def __init__(self, piece: Piece, scores: Floats, kind: tuple[int, int], blocks: tuple[Index, Index], positions: tuple[Index, Index], sizes: list[int], classes: Index) -> None:
        self.piece = piece
        self.flat = scores.reshape(-1)
        self.kind = kind
        self.i, self.j = blocks
        self.y, self.x = positions
        self.sizes = sizes
        self.class_start = classes * scores.shape[1]
        self.made: dict[tuple[object, ...], Floats] = {}

    def resized(self) -> Floats:
        """Return the scores (height, width, pairs) at the picture's size."""
        down, across = self.piece.down, self.piece.across
        columns = []
        for right in range(len(across.taps)):
            rows = [self.at_input(lower, right) for lower in range(len(down.taps))]
            columns.append(rows[0] if down.share is None else _mix(*rows, *self.shares(down.share[self.y][:, None])))
        return columns[0] if across.share is None else _mix(*columns, *self.shares(across.share[self.x]))

    def at_input(self, lower: int, right: int) -> Floats:
        """Return the scores at one of the up to four positions of the network's input."""
        values = []
        for patch in self.piece.patches:
            down, across = self.piece.down.taps[lower].get(patch.down), self.piece.across.taps[right].get(patch.across)
            if down is not None and across is not None:
                columns = self.piece.across.places[patch.across][self.kind[1]].number[right]
                ends = (self.vertical(patch, lower, column)[:, None] for column in columns)
                values.append(_mix(*ends, *self.shares(across.share[self.x])))
        total = functools.reduce(np.add, values)
        if self.piece.averaged:
            total /= np.float32(len(values))
        return total

    def vertical(self, patch: Patch, lower: int, column: int) -> Floats:
        """Return the scores (height, pairs) at a row of the network's input, of a column of old ones."""
        key = "vertical", patch.offset, lower, column
        if key not in self.made:
            rows = self.piece.down.places[patch.down][self.kind[0]].number[lower]
            ends = (self.corner(patch, row, column) for row in rows)
            share = self.piece.down.taps[lower][patch.down].share[self.y]
            self.made[key] = _mix(*ends, *self.shares(share))
        return self.made[key]

    def corner(self, patch: Patch, row: int, column: int) -> Floats:
        """Return old scores (pairs)."""
        key = "corner", patch.offset, row, column
        if key not in self.made:
            rows = self.piece.down.places[patch.down][self.kind[0]].distinct[row]
            columns = self.piece.across.places[patch.across][self.kind[1]].distinct[column]
            place = patch.at(rows[self.i], columns[self.j])
            self.made[key] = self.flat.take(self.class_start + self.pairs(place))
        return self.made[key]

    def shares(self, second: Floats) -> tuple[Floats, Floats]:
        second = self.pairs(second)
        return 1 - second, second

    def pairs(self, blocks):
        return np.concatenate([blocks[..., :n] for n in self.sizes], axis=-1)


def _mix(near: Floats, far: Floats, first: Floats, second: Floats) -> Floats:
    """Return first * near + second * far, each step rounded, as `ScoreMap.rows` does."""
    total = near * first
    total += far * second
    return total
