"""Blocks: pixels of an image that are made of the same scores at a quarter of its size, and what holds for all of one.

A resized score is a mean of a few old ones (`hrnet_zoo.inference.logits`), with weights that are the same for
every class. Along each axis consecutive new positions are made of the same old ones: a band. A band of rows and a band
of columns meet in a block: 4 x 4 pixels where scores are enlarged four times, and one resize is all there is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from hrnet_zoo.inference.logits import Index, Taps, axis_taps

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]

# As a label: not known. The class of this number, of 256 classes, is never taken for known; that costs time alone.
UNKNOWN = 255

# Numbers worked on together, which stay in a core's cache: smaller parts cost calls, larger ones memory traffic.
CACHED = 1 << 18

# Up to here torch works with one thread, which is faster for what stays in the cache.
UNSHARED = 1 << 15


class Places(NamedTuple):
    """Where the old scores are that bands are made of, along an axis.

    Attributes:
        distinct: arrays (bands) of places that differ.
        number: for each of the one or two positions of the network's input which of them it is made of, both.

    """

    distinct: tuple[Index, ...]
    number: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Axis:
    """The new positions along an axis and their bands.

    A new position is made of one position of the network's input or, if the image is of another size, of two, with
    the shares `1 - share` and `share`; and each of these of two old scores.

    Attributes:
        taps: (positions) for each of the one or two positions of the network's input.
        share: (positions), or None for one.
        bands: (bands + 1) where bands begin, and the last one's end.
        split: (bands) the two positions of the network's input are made of different scores. Such bands are worked on
            apart from the others: they are narrow, and made of more.
        alike: the places of bands that are not split; what arrays hold for the others has no meaning.
        apart: the places of bands that are split, likewise.
        places: the places of all bands.

    """

    taps: tuple[Taps, ...]
    share: Floats | None
    bands: Index
    split: Flags
    alike: Places
    apart: Places
    places: Places

    @property
    def lengths(self) -> Index:
        """How many new positions each band has."""
        return np.diff(self.bands)

    def positions(self, bands: Index) -> Index:
        """Return the new positions (longest, bands) of some bands; of shorter ones the last is repeated."""
        starts, stops = self.bands[bands], self.bands[bands + 1]
        return np.minimum(starts + np.arange((stops - starts).max())[:, None], stops - 1)


@functools.lru_cache(maxsize=64)
def axis_of(old: int, inner: int, outer: int) -> Axis:
    """Return an axis of `outer` new positions; the network's input has `inner`, its scores are `old`."""
    sides, share = [np.arange(outer)], None
    if inner != outer:
        first, second, share = axis_taps(inner, outer)
        sides = [first, second]
    taps = tuple(axis_taps(old, inner).at(side) for side in sides)
    places = np.stack([place for each in taps for place in (each.first, each.second)])
    bands = _even([0, *(np.flatnonzero((places[:, 1:] != places[:, :-1]).any(axis=0)) + 1).tolist(), outer])
    places = places[:, bands[:-1]]
    split = (places[:2] != places[-2:]).any(axis=0)
    kinds = (_places(places, of) for of in (~split, split, np.ones_like(split)))
    return Axis(taps, share, np.array(bands), split, *kinds)


def _even(bands: list[int]) -> list[int]:
    """Cut the first and the last band, which reach to the edge, into parts no longer than the others."""
    longest = max((stop - start for start, stop in pairwise(bands[1:-1])), default=bands[-1])
    ends = (range(start, stop, longest) for start, stop in (bands[:2], bands[-2:]))
    return sorted({*bands, *chain(*ends)})


def _places(places: Index, of: Flags) -> Places:
    distinct: list[Index] = []
    numbers = []
    for place in places:
        same = (number for number, other in enumerate(distinct) if np.array_equal(other[of], place[of]))
        numbers.append(next(same, len(distinct)))
        if numbers[-1] == len(distinct):
            distinct.append(place)
    return Places(tuple(distinct), tuple(zip(numbers[::2], numbers[1::2], strict=True)))


@dataclass(frozen=True, eq=False)
class Piece:
    """Some bands of rows of an image, and all of its columns.

    Attributes:
        down: the axis of rows.
        across: the axis of columns.
        bands: which bands of rows.
        part: the scores (rows, columns, classes) that they are made of.
        top: the first row of these.

    """

    down: Axis
    across: Axis
    bands: slice
    part: Tensor
    top: int

    @property
    def rows(self) -> slice:
        """The rows of the image."""
        return slice(int(self.down.bands[self.bands.start]), int(self.down.bands[self.bands.stop]))

    def scores(self) -> Floats:
        """Return the scores by class, (classes, rows x columns) float32: reductions are ten times faster so."""
        classes = self.part.shape[2]
        flat = self.part.reshape(-1, classes)
        scores = np.empty((classes, len(flat)), np.float32)
        step = max(1, UNSHARED // classes)
        for start in range(0, len(flat), step):
            scores[:, start : start + step] = flat[start : start + step].float().numpy().T
        return scores

    def at(self, rows: Index, columns: Index) -> Index:
        """Return where scores lie in a class, by their places."""
        return (rows - self.top) * self.part.shape[1] + columns

    def combined(self, told: Labels, combine: Callable[[Labels, Labels], Labels]) -> Labels:
        """Combine what is told (rows x columns) of the scores that a block is made of, by blocks."""
        found = told.reshape(self.part.shape[:2])
        rows = (place[self.bands] - self.top for place in self.down.places.distinct)
        found = functools.reduce(combine, (found.take(place, axis=0) for place in rows))
        return functools.reduce(combine, (found.take(place, axis=1) for place in self.across.places.distinct))

    def spread(self, blocks: Labels) -> Labels:
        """Return for each pixel (rows, columns) what is told of its block."""
        columns = np.repeat(np.arange(blocks.shape[1]), self.across.lengths)
        return np.repeat(blocks.take(columns, axis=1), self.down.lengths[self.bands], axis=0)


def pieces_of(scores: Tensor, inner: tuple[int, int], outer: tuple[int, int], max_memory: int) -> Iterator[Piece]:
    """Cut an image into pieces.

    Args:
        scores: (h, w, classes) of the whole network's input.
        inner: height and width of the network's input.
        outer: of the image.
        max_memory: bytes that the scores of a piece may take in float32; one band of rows is a piece in any case.

    """
    down, across = (axis_of(*sizes) for sizes in zip(scores.shape[:2], inner, outer, strict=True))
    row = scores.shape[1] * scores.shape[2]
    count = len(down.split)
    # A band is made of up to three rows, and the next one of one more at most.
    step = max(1, max_memory // (4 * row) - 2)
    for start in range(0, count, step):
        bands = slice(start, min(start + step, count))
        top = min(int(place[bands].min()) for place in down.places.distinct)
        bottom = max(int(place[bands].max()) for place in down.places.distinct)
        yield Piece(down, across, bands, scores[top : bottom + 1], top)


def sure_labels(scores: Floats, slack: np.float32) -> Labels:
    """Return the best class by scores (classes, n), UNKNOWN where another one is not more than `slack` behind."""
    classes, count = scores.shape
    labels = np.empty(count, np.uint8)
    names = np.arange(classes, dtype=np.uint8)[:, None]
    for some in in_cache(count, classes):
        part = scores[:, some]
        near = (part >= part.max(axis=0) - slack).view(np.uint8)
        alone = np.add.reduce(near, axis=0, dtype=np.uint16) == 1
        near *= names
        labels[some] = np.bitwise_or.reduce(near, axis=0) | where(~alone)
    return labels


def same(labels: Labels, others: Labels) -> Labels:
    """Return the labels where both are the same, else UNKNOWN; changes `labels`."""
    labels |= where(labels != others)
    return labels


def where(true: Flags) -> Labels:
    """Return all eight bits set where it is true, none elsewhere."""
    return np.negative(true.view(np.uint8))


def in_cache(count: int, classes: int) -> Iterator[slice]:
    """Cut what there is for every class into parts that stay in a core's cache."""
    step = max(1, CACHED // classes)
    return (slice(start, start + step) for start in range(0, count, step))
