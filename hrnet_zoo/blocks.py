"""Blocks: pixels of a picture that are made of the same scores at a quarter of its size, and what holds for all of one.

A resized score is a mean of a few old ones (`hrnet_zoo.scores`), with weights that are the same for every class. Along
each axis consecutive new positions take the same old ones: a band. A band of rows and a band of columns meet in a
block: 4 x 4 pixels where scores are enlarged four times. Where a picture is not of the size of the network's input, or
windows overlap, blocks are smaller or larger, and their pixels are made of more scores.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, pairwise, product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hrnet_zoo.scores import Index, ScoreMap, Taps, Window, axis_taps

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

# As a label: not known. The class of this number, of 256 classes, is never taken for known; that costs time alone.
UNKNOWN = np.uint8(255)

# Numbers worked on together, which stay in a core's cache: smaller parts cost calls, larger ones memory traffic.
CACHED = 1 << 18

# So many numbers torch works on with one thread. What is told from them is shared among threads here.
UNSHARED = 1 << 15

# Kinds of bands, as `Run.places` has them.
ALIKE, SPLIT, ALL = range(3)

# Where a window lies along an axis of the network's input (start, stop), and how many scores it has there.
Span = tuple[int, int, int]


class Places(NamedTuple):
    """Where scores of a window lie that bands are made of.

    Attributes:
        distinct: arrays (bands); what they hold for bands of the other kind has no meaning.
        number: which of them are a position's first and its second, for one position of the network's input or two.

    """

    distinct: tuple[Index, ...]
    number: dict[int, tuple[int, int]]


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
        split: (bands) the two positions of the network's input are made of different scores. Such bands are worked on
            apart from the others: they are narrow, and made of more.
        places: for each window, of the bands that are not split, of those that are, and of all.

    """

    start: int
    taps: tuple[dict[Span, Taps], ...]
    share: Floats | None
    bands: Index
    split: npt.NDArray[np.bool_]
    places: dict[Span, tuple[Places, ...]]

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
        by_side = [np.stack([place for tap in each.values() for place in (tap.first, tap.second)]) for each in taps]
        bands = np.array(_even([0, *_changes(np.concatenate(by_side)), stop - start]))
        first = bands[:-1]
        split = np.zeros(len(first), bool)
        if len(taps) > 1:
            split[:] = True if taps[0].keys() != taps[1].keys() else (by_side[0] != by_side[1]).any(axis=0)[first]
        places = {
            span: tuple(_places(taps, span, first, of) for of in (~split, split, np.ones_like(split)))
            for span in spans
            if any(span in each for each in taps)
        }
        found.append(Run(start, taps, None if share is None else share[start:stop], bands, split, places))
    return tuple(found)


def _places(taps: tuple[dict[Span, Taps], ...], span: Span, first: Index, kind: npt.NDArray[np.bool_]) -> Places:
    distinct: list[Index] = []
    number = {}
    for side, each in enumerate(taps):
        if span in each:
            numbers = []
            for place in (each[span].first[first], each[span].second[first]):
                same = (n for n, other in enumerate(distinct) if np.array_equal(other[kind], place[kind]))
                numbers.append(next(same, len(distinct)))
                if numbers[-1] == len(distinct):
                    distinct.append(place)
            number[side] = numbers[0], numbers[1]
    return Places(tuple(distinct), number)


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
    rows: slice
    columns: slice
    offset: int
    window: Window

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def here(self) -> slice:
        """Its own, of what is told of all scores of the piece."""
        return slice(self.offset, self.offset + math.prod(self.shape))

    def at(self, rows: Index, columns: Index) -> Index:
        """Return where scores lie among those of the piece, by their places in the window."""
        width = self.shape[1]
        return rows * width + columns + (self.offset - self.rows.start * width - self.columns.start)


@dataclass(frozen=True, eq=False)
class Piece:
    """Some bands of rows, and all bands of columns of a run.

    Attributes:
        down: the run of rows.
        across: the run of columns.
        bands: which bands of rows.
        patches: in the order of the view's windows, in which their scores are added.
        averaged: windows are: the sum of a position's scores is divided by their number.

    """

    down: Run
    across: Run
    bands: slice
    patches: tuple[Patch, ...]
    averaged: bool

    @property
    def rows(self) -> slice:
        """The rows of the picture."""
        first, last = self.down.bands[[self.bands.start, self.bands.stop]] + self.down.start
        return slice(int(first), int(last))

    @property
    def columns(self) -> slice:
        """The columns of the picture, were the view not mirrored."""
        return slice(self.across.start, self.across.start + int(self.across.bands[-1]))

    def scores(self) -> Floats:
        """Return the scores (classes, scores of a class) of all patches, in float32."""
        classes = self.patches[0].window.scores.shape[2]
        scores = np.empty((classes, self.patches[-1].here.stop), np.float32)
        step = max(1, UNSHARED // classes)
        for patch in self.patches:
            start = patch.offset
            for some in patch.window.scores[patch.rows, patch.columns].reshape(-1, classes).split(step):
                np.copyto(scores[:, start : start + len(some)], some.float().numpy().T)
                start += len(some)
        return scores

    def agreed(self, labels: Labels) -> Labels:
        """Return the label of all scores that a block is made of, by blocks, or UNKNOWN where they are not the same."""
        return self._combined(labels, _same)

    def least(self, numbers: Labels) -> Labels:
        """Return the least of what is told of the scores that a block is made of, by blocks."""
        return self._combined(numbers, np.minimum)

    def first(self, labels: Labels) -> Labels:
        """Return the label of the first of the scores that a block is made of, by blocks."""
        return self._combined(labels, lambda first, _: first)

    def _combined(self, told: Labels, combine: Callable[[Labels, Labels], Labels]) -> Labels:
        """Combine what is told of the scores that a block is made of, by blocks."""
        axes = ((self.down, self.bands), (self.across, slice(None)))
        of_patches = []
        for patch in self.patches:
            found = told[patch.here].reshape(patch.shape)
            for axis, (run, bands) in enumerate(axes):
                span, start = (patch.down, patch.rows.start) if axis == 0 else (patch.across, patch.columns.start)
                places = run.places[span][ALL].distinct
                found = functools.reduce(combine, (found.take(place[bands] - start, axis=axis) for place in places))
            of_patches.append(found)
        return functools.reduce(combine, of_patches)

    def spread(self, blocks: Labels) -> Labels:
        """Return for each pixel (rows, columns) what is told of its block."""
        columns = np.repeat(np.arange(blocks.shape[1]), np.diff(self.across.bands))
        return np.repeat(blocks.take(columns, axis=1), np.diff(self.down.bands)[self.bands], axis=0)


def _same(labels: Labels, others: Labels) -> Labels:
    """Return the labels where both are the same, else UNKNOWN; changes `labels`."""
    labels |= where(labels != others)
    return labels


def where(true: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Return all eight bits set where it is true, none elsewhere."""
    return np.negative(true.view(np.uint8))


def pieces_of(view: ScoreMap, height: int, width: int, max_memory: int, parts: int = 1) -> Iterator[Piece]:
    """Cut a picture into pieces whose scores take `max_memory` bytes at most; one band of rows each in any case.

    Args:
        view: one view of the picture.
        height: of the picture.
        width: of the picture.
        max_memory: in bytes.
        parts: cut into so many, if it is not small.

    """
    spans = [
        (
            (window.rows.start, window.rows.stop, window.scores.shape[0]),
            (window.columns.start, window.columns.stop, window.scores.shape[1]),
        )
        for window in view.windows
    ]
    for down, across in product(
        runs(tuple(dict.fromkeys(rows for rows, _ in spans)), view.height, height),
        runs(tuple(dict.fromkeys(columns for _, columns in spans)), view.width, width),
    ):
        here = [
            (window, rows, columns)
            for window, (rows, columns) in zip(view.windows, spans, strict=True)
            if rows in down.places and columns in across.places
        ]
        # A band is made of up to three rows of scores of each window, and the next one of one more.
        row = sum(window.scores[0].numel() for window, _, _ in here) * 4
        count = len(down.split)
        step = max(1, min(max_memory // row - 2, max(-(-count // parts), UNSHARED * 4 // row)))
        for first in range(0, count, step):
            bands = slice(first, min(first + step, count))
            patches: list[Patch] = []
            offset = 0
            for window, rows, columns in here:
                part = _hull(down.places[rows][ALL], bands), _hull(across.places[columns][ALL], slice(None))
                patches.append(Patch(rows, columns, *part, offset, window))
                offset = patches[-1].here.stop
            yield Piece(down, across, bands, tuple(patches), len(view.windows) > 1)


def _hull(places: Places, bands: slice) -> slice:
    """Return the scores from the first to the last that bands are made of."""
    ends = [(place[bands].min(), place[bands].max()) for place in places.distinct]
    return slice(int(min(ends)[0]), int(max(last for _, last in ends)) + 1)


def sure_labels(scores: Floats, slack: np.float32) -> Labels:
    """Return the best class by scores (classes, scores), UNKNOWN where another one is not more than `slack` behind."""
    classes, count = scores.shape
    labels = np.empty(count, np.uint8)
    names = np.arange(classes, dtype=np.uint8)[:, None]
    for some in parts(count, classes):
        part = scores[:, some]
        near = (part >= part.max(axis=0) - slack).view(np.uint8)
        alone = np.add.reduce(near, axis=0, dtype=np.uint8 if classes < 256 else np.uint16) == 1
        near *= names
        labels[some] = np.bitwise_or.reduce(near, axis=0) | where(~alone)
    return labels


def parts(count: int, classes: int) -> Iterator[slice]:
    """Cut what there is for every class into parts that stay in a core's cache."""
    step = max(1, CACHED // classes)
    return (slice(start, start + step) for start in range(0, count, step))


def shared(work: Callable[[Piece], None], pieces: Iterable[Piece], threads: int) -> None:
    """Do something to all pieces, with several threads: NumPy lets others run while it works on an array."""
    first, *others = pieces
    if threads == 1 or not others:
        for piece in (first, *others):
            work(piece)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, (first, *others)):
            pass
