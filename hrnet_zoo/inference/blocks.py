"""Groups of output pixels that interpolate the same logits.

Along each axis, consecutive positions of the image that interpolate the same stride-4 logits are a band. A band of rows
and a band of columns meet in a block: 4 x 4 pixels where the image has the size of the network's input.
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

from hrnet_zoo.inference.logits import Index, Lerp, lerp

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]

# The label of an undecided pixel. The last of 256 classes looks undecided, too, which costs only time.
UNDECIDED = 255

# Values processed together so that they stay in a core's cache: fewer cost more calls, more cost memory traffic.
CACHED = 1 << 18

# Up to this many values torch uses one thread, which is faster for what stays in the cache.
SINGLE_THREADED = 1 << 15


class Sources(NamedTuple):
    """The positions of stride-4 logits that bands interpolate, along an axis.

    Attributes:
        distinct: arrays (bands) of positions that differ.
        pairs: for each of the one or two positions of the network's input the two of `distinct` that it interpolates.

    """

    distinct: tuple[Index, ...]
    pairs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Axis:
    """The positions of an image along an axis, and their bands.

    Attributes:
        lerps: from stride-4 logits to the one or two positions of the network's input that a position interpolates.
        weight: of the second of these; None where the image has the size of the network's input.
        bounds: (bands + 1) where bands start, and the end of the last.
        split: (bands) the two positions of the network's input interpolate different logits. Such bands are narrow
            and have more sources, so they are processed apart.
        sources: by `split`; entries of bands of the other kind have no meaning.
        all_sources: of all bands.

    """

    lerps: tuple[Lerp, ...]
    weight: Floats | None
    bounds: Index
    split: Flags
    sources: tuple[Sources, Sources]
    all_sources: Sources

    @property
    def lengths(self) -> Index:
        """The number of positions of each band."""
        return np.diff(self.bounds)

    def positions(self, bands: Index) -> Index:
        """Return the positions (longest, bands) of some bands; shorter ones repeat their last."""
        starts, stops = self.bounds[bands], self.bounds[bands + 1]
        return np.minimum(starts + np.arange((stops - starts).max())[:, None], stops - 1)


@functools.lru_cache(maxsize=64)
def make_axis(logits: int, network: int, image: int) -> Axis:
    """Return the bands of an axis, from its lengths in logits, in the network's input and in the image."""
    inputs, weight = [np.arange(image)], None
    if network != image:
        first, second, weight = lerp(network, image)
        inputs = [first, second]
    lerps = tuple(lerp(logits, network).at(positions) for positions in inputs)
    sources = np.stack([positions for each in lerps for positions in (each.first, each.second)])
    starts = (np.flatnonzero((sources[:, 1:] != sources[:, :-1]).any(axis=0)) + 1).tolist()
    bounds = _split_ends([0, *starts, image])
    sources = sources[:, bounds[:-1]]
    split = (sources[:2] != sources[-2:]).any(axis=0)
    return Axis(
        lerps,
        weight,
        np.array(bounds),
        split,
        (_distinct(sources, ~split), _distinct(sources, split)),
        _distinct(sources, np.ones_like(split)),
    )


def _split_ends(bounds: list[int]) -> list[int]:
    """Cut the first and the last band, which reach to the edge, so that they are no longer than the others."""
    longest = max((stop - start for start, stop in pairwise(bounds[1:-1])), default=bounds[-1])
    ends = (range(start, stop, longest) for start, stop in (bounds[:2], bounds[-2:]))
    return sorted({*bounds, *chain(*ends)})


def _distinct(sources: Index, bands: Flags) -> Sources:
    distinct: list[Index] = []
    numbers = []
    for positions in sources:
        equal = (number for number, each in enumerate(distinct) if np.array_equal(each[bands], positions[bands]))
        numbers.append(next(equal, len(distinct)))
        if numbers[-1] == len(distinct):
            distinct.append(positions)
    return Sources(tuple(distinct), tuple(zip(numbers[::2], numbers[1::2], strict=True)))


@dataclass(frozen=True, eq=False)
class BlockRows:
    """A row chunk of whole blocks.

    Attributes:
        down: the axis of rows.
        across: the axis of columns.
        bands: the bands of rows.
        tensor: the logits (rows, columns, classes) that they interpolate.
        top: the row of the first of these.

    """

    down: Axis
    across: Axis
    bands: slice
    tensor: Tensor
    top: int

    @property
    def rows(self) -> slice:
        """The rows of the image."""
        return slice(int(self.down.bounds[self.bands.start]), int(self.down.bounds[self.bands.stop]))

    def logits(self) -> Floats:
        """Return the logits by class, (classes, rows x columns) float32: ten times faster to reduce."""
        classes = self.tensor.shape[2]
        flat = self.tensor.reshape(-1, classes)
        logits = np.empty((classes, len(flat)), np.float32)
        step = max(1, SINGLE_THREADED // classes)
        for start in range(0, len(flat), step):
            logits[:, start : start + step] = flat[start : start + step].float().numpy().T
        return logits

    def flat_index(self, rows: Index, columns: Index) -> Index:
        """Return where positions of the network's logits are in a row of `logits()`."""
        return (rows - self.top) * self.tensor.shape[1] + columns

    def reduce(self, values: Labels, combine: Callable[[Labels, Labels], Labels]) -> Labels:
        """Combine, for each block, the values (rows x columns) of the logits that it interpolates."""
        found = values.reshape(self.tensor.shape[:2])
        rows = (positions[self.bands] - self.top for positions in self.down.all_sources.distinct)
        found = functools.reduce(combine, (found.take(positions, axis=0) for positions in rows))
        return functools.reduce(combine, (found.take(each, axis=1) for each in self.across.all_sources.distinct))

    def spread(self, blocks: Labels) -> Labels:
        """Return for each pixel (rows, columns) the value of its block."""
        columns = np.repeat(np.arange(blocks.shape[1]), self.across.lengths)
        return np.repeat(blocks.take(columns, axis=1), self.down.lengths[self.bands], axis=0)


def block_rows(
    logits: Tensor, network: tuple[int, int], image: tuple[int, int], max_memory: int
) -> Iterator[BlockRows]:
    """Cut an image into row chunks of whole blocks.

    Args:
        logits: (h, w, classes) of the network's input.
        network: height and width of the network's input.
        image: height and width of the image.
        max_memory: bytes for the logits of a chunk in float32; a chunk has one band of rows at least.

    """
    down, across = (make_axis(*sizes) for sizes in zip(logits.shape[:2], network, image, strict=True))
    count = len(down.split)
    # A band interpolates up to three rows, and the next band at most one more.
    step = max(1, max_memory // (4 * logits.shape[1] * logits.shape[2]) - 2)
    for start in range(0, count, step):
        bands = slice(start, min(start + step, count))
        top = min(int(positions[bands].min()) for positions in down.all_sources.distinct)
        bottom = max(int(positions[bands].max()) for positions in down.all_sources.distinct)
        yield BlockRows(down, across, bands, logits[top : bottom + 1], top)


def confident_labels(logits: Floats, margin: np.float32) -> Labels:
    """Return the best class of logits (classes, n), or UNDECIDED where another one is within the margin."""
    classes, count = logits.shape
    labels = np.empty(count, np.uint8)
    index = np.arange(classes, dtype=np.uint8)[:, None]
    for some in in_cache(count, classes):
        part = logits[:, some]
        near = (part >= part.max(axis=0) - margin).view(np.uint8)
        alone = np.add.reduce(near, axis=0, dtype=np.uint16) == 1
        near *= index
        labels[some] = np.bitwise_or.reduce(near, axis=0) | all_bits(~alone)
    return labels


def agreed(labels: Labels, others: Labels) -> Labels:
    """Set labels to UNDECIDED, in place, where the others differ."""
    labels |= all_bits(labels != others)
    return labels


def all_bits(flags: Flags) -> Labels:
    """Return 255 where a flag is set, else 0."""
    return np.negative(flags.view(np.uint8))


def in_cache(count: int, classes: int) -> Iterator[slice]:
    """Cut `count` values of each class into slices that stay in a core's cache."""
    step = max(1, CACHED // classes)
    return (slice(start, start + step) for start in range(0, count, step))
