"""Blocks: pixels of a picture that are made of the same scores at a quarter of its size, and what holds for all of one.

A resized score is a mean of a few old ones (`hrnet_zoo.scores`), with weights that are the same for every class. Along
each axis consecutive new positions take the same old ones: a band. A band of rows and a band of columns meet in a
block: 4 x 4 pixels where scores are enlarged four times. Where a picture is not of the size of the network's input, or
windows overlap, blocks are smaller or larger, and their pixels are made of more scores.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise, product

import numpy as np
import numpy.typing as npt
import torch

from hrnet_zoo.scores import Index, ScoreMap, Taps, Window, axis_taps

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

# As a label: not known. The class of this number, of 256 classes, is never taken for known; that costs time alone.
UNKNOWN = np.uint8(255)

# Scores looked at together, which should stay in a core's cache. Smaller parts cost calls, larger ones memory traffic.
CACHED_SCORES = 1 << 18

# Where a window lies along an axis of the network's input (start, stop), and how many scores it has there.
Span = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Run:
    """Consecutive new positions along an axis, all made from the same windows, and their bands.

    A new position is made of one position of the network's input or, if the picture is of another size, of two, with
    the shares `1 - share` and `share`. Each of these is made of two scores of every window that it lies in.

    Attributes:
        start: the first new position.
        taps: (positions) for each of the one or two positions of the network's input, for each window there.
        share: (positions), or None for one.
        bands: (bands + 1) where bands begin, counted from `start`; and the last one's end.
        narrow: (bands) less than half as wide as the widest: worked on apart from the others, lest these be padded.

    """

    start: int
    taps: tuple[dict[Span, Taps], ...]
    share: Floats | None
    bands: Index
    narrow: npt.NDArray[np.bool_]

    def places(self, span: Span, narrow: bool | None = None) -> list[Index]:
        """Return the places of the scores of a window that each band is made of: arrays (bands), all together each one.

        Of narrow bands, others, or all; what arrays hold for the rest has no meaning.
        """
        of = np.ones(len(self.narrow), bool) if narrow is None else self.narrow == narrow
        found: list[Index] = []
        for taps in self.taps:
            for each in (taps[span].first, taps[span].second) if span in taps else ():
                place = each[self.bands[:-1]]
                known = np.zeros(len(place), bool)
                for other in found:
                    known |= place == other
                if not known[of].all():
                    found.append(place)
        return found

    def positions(self, bands: Index, length: int) -> Index:
        """Return the new positions (length, bands) of some bands, from `start`; of shorter ones the last is repeated."""
        return np.minimum(self.bands[bands] + np.arange(length)[:, None], self.bands[bands + 1] - 1)

    @property
    def lengths(self) -> Index:
        """How many new positions each band has."""
        return np.diff(self.bands)


@functools.lru_cache(maxsize=64)
def runs(spans: tuple[Span, ...], inner: int, outer: int) -> tuple[Run, ...]:
    """Return the runs along an axis of `outer` new positions, if the network's input has `inner` and these windows."""
    share = None
    sides = [np.arange(outer)]
    if inner != outer:
        first, second, share = axis_taps(inner, outer)
        sides = [first, second]
    cover = np.stack([(start <= side) & (side < stop) for side in sides for start, stop, _ in spans])
    found = []
    for start, stop in pairwise([0, *_changes(cover), outer]):
        taps = tuple(
            {
                span: axis_taps(span[2], span[1] - span[0]).at(side[start:stop] - span[0])
                for span in spans
                if span[0] <= side[start] < span[1]
            }
            for side in sides
        )
        places = np.stack([place for each in taps for tap in each.values() for place in (tap.first, tap.second)])
        bands = np.array(_even([0, *_changes(places), stop - start]))
        lengths = np.diff(bands)
        found.append(
            Run(start, taps, None if share is None else share[start:stop], bands, 2 * lengths < lengths.max())
        )
    return tuple(found)


def _even(bands: list[int]) -> list[int]:
    """Cut the first and the last band, which reach to the edge, into parts no longer than the others."""
    longest = max((stop - start for start, stop in pairwise(bands[1:-1])), default=bands[-1])
    ends = (range(start, stop, longest) for start, stop in (bands[:2], bands[-2:]))
    return sorted({*bands, *chain(*ends)})


def _changes(columns: npt.NDArray[np.generic]) -> list[int]:
    """Return where a column differs from the one before it."""
    changes: list[int] = (np.flatnonzero((columns[:, 1:] != columns[:, :-1]).any(axis=0)) + 1).tolist()
    return changes


@dataclass(frozen=True)
class Patch:
    """The part of a window's scores that a piece is made of, and where it begins among all scores of the piece."""

    down: Span
    across: Span
    row: int
    column: int
    height: int
    width: int
    offset: int

    def at(self, rows: Index, columns: Index) -> Index:
        """Return where scores lie, by their places in the window."""
        return rows * self.width + columns + (self.offset - self.row * self.width - self.column)

    def cut(self, each: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return its own (height, width) of what is told of all scores of the piece."""
        return each[self.offset : self.offset + self.height * self.width].reshape(self.height, self.width)


@dataclass(frozen=True, eq=False)
class Piece:
    """Some bands of rows, and all bands of columns of a run.

    Attributes:
        down: the run of rows.
        across: the run of columns.
        bands: which bands of rows.
        patches: in the order of the view's windows, in which their scores are added.
        averaged: windows are: the sum of a position's scores is divided by their number.
        scores: (classes, scores of a class) float32, of all patches.

    """

    down: Run
    across: Run
    bands: slice
    patches: tuple[Patch, ...]
    averaged: bool
    scores: Floats

    @property
    def rows(self) -> slice:
        """The rows of the picture."""
        first, last = self.down.bands[[self.bands.start, self.bands.stop]] + self.down.start
        return slice(int(first), int(last))

    @property
    def columns(self) -> slice:
        """The columns of the picture, were the view not mirrored."""
        return slice(self.across.start, self.across.start + int(self.across.bands[-1]))

    def agreed(self, labels: Labels) -> Labels:
        """Return the label of all scores that a block is made of, by blocks, or UNKNOWN where they are not the same."""
        agreed: Labels | None = None
        for patch in self.patches:
            found = patch.cut(labels)
            rows = (place[self.bands] - patch.row for place in self.down.places(patch.down))
            columns = (place - patch.column for place in self.across.places(patch.across))
            for axis, places in enumerate((rows, columns)):
                first, *others = (found.take(place, axis=axis) for place in places)
                for other in others:
                    first |= where(first != other)
                found = first
            if agreed is not None:
                found |= where(found != agreed)
            agreed = found
        assert agreed is not None
        return agreed

    def spread(self, blocks: Labels) -> Labels:
        """Return for each pixel (rows, columns) what is told of its block."""
        columns = np.repeat(np.arange(blocks.shape[1]), self.across.lengths)
        return np.repeat(blocks.take(columns, axis=1), self.down.lengths[self.bands], axis=0)


def where(true: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Return all eight bits set where it is true, none elsewhere."""
    return np.negative(true.view(np.uint8))


def pieces_of(view: ScoreMap, height: int, width: int, max_memory: int) -> Iterator[Piece]:
    """Cut a picture into pieces whose scores take `max_memory` bytes at most; one band of rows each in any case."""
    down_of, across_of = ([side(window) for window in view.windows] for side in (_down, _across))
    for down, across in product(
        runs(tuple(dict.fromkeys(down_of)), view.height, height),
        runs(tuple(dict.fromkeys(across_of)), view.width, width),
    ):
        windows = [
            window
            for window, *spans in zip(view.windows, down_of, across_of, strict=True)
            if all(any(span in taps for taps in run.taps) for run, span in zip((down, across), spans, strict=True))
        ]
        # A band is made of up to three rows of scores of each window, and the next one of one more.
        row = sum(window.scores[0].numel() for window in windows) * 4
        step = max(1, max_memory // row - 2)
        count = len(down.bands) - 1
        for first in range(0, count, step):
            bands = slice(first, min(first + step, count))
            patches: list[Patch] = []
            parts = []
            offset = 0
            for window in windows:
                rows = np.concatenate([place[bands] for place in down.places(_down(window))])
                columns = np.concatenate(across.places(_across(window)))
                (top, bottom), (left, right) = ((int(each.min()), int(each.max()) + 1) for each in (rows, columns))
                size = bottom - top, right - left
                patches.append(Patch(_down(window), _across(window), top, left, *size, offset))
                parts.append(window.scores[top:bottom, left:right])
                offset += size[0] * size[1]
            yield Piece(down, across, bands, tuple(patches), len(view.windows) > 1, _by_class(parts))


def _down(window: Window) -> Span:
    return window.rows.start, window.rows.stop, window.scores.shape[0]


def _across(window: Window) -> Span:
    return window.columns.start, window.columns.stop, window.scores.shape[1]


def _by_class(parts: list[torch.Tensor]) -> Floats:
    """Return scores of parts (h, w, classes) as (classes, scores) float32."""
    classes = parts[0].shape[2]
    scores = np.empty((classes, sum(part.shape[0] * part.shape[1] for part in parts)), np.float32)
    step = max(1, CACHED_SCORES // classes)
    start = 0
    for part in parts:
        flat = part.reshape(-1, classes)
        for some in flat.split(step):
            np.copyto(scores[:, start : start + len(some)], some.float().numpy().T)
            start += len(some)
    return scores
