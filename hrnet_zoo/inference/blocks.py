"""Blocks: groups of output pixels that interpolate the same stride-4 logits.

Along each axis, consecutive positions of the image that interpolate the same logits are a band. A band of rows and a
band of columns meet in a block: 4 x 4 pixels where the image has the size of the network's input.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hrnet_zoo.inference.logits import Index, Lerp, lerp

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]

# The label of an undecided pixel. The last of 256 classes looks undecided, too, which costs only time.
UNDECIDED = 255

# Values processed together so that they stay in a core's cache: fewer cost more calls, more cost memory traffic.
CACHED = 1 << 18

# Up to this many values torch uses one thread.
SINGLE_THREADED = 1 << 15


class Axis(NamedTuple):
    """The positions of an image along an axis, and their bands.

    Attributes:
        lerps: from stride-4 logits to the one or two positions of the network's input that a position interpolates.
        weight: of the second of these; None where the image has the size of the network's input.
        bounds: (bands + 1) where bands start, and the end of the last.
        sources: (2 or 4, bands) the positions of stride-4 logits, two for each of `lerps`.
        split: (bands) the two positions of the network's input interpolate different logits. Such bands are narrow and
            have more sources, so they are processed apart.

    """

    lerps: tuple[Lerp, ...]
    weight: Floats | None
    bounds: Index
    sources: Index
    split: Flags

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
    # Positions before the first logit have a band of their own, or the first would be half as long again.
    keys = np.vstack([sources, lerps[0].weight > 0])
    starts = np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1
    bounds = np.concatenate([[0], starts, [image]])
    sources = sources[:, bounds[:-1]]
    return Axis(lerps, weight, bounds, sources, (sources[:2] != sources[-2:]).any(axis=0))


def distinct(sources: Index) -> tuple[list[Index], list[tuple[int, int]]]:
    """Return the rows of sources that differ, and for each two rows the numbers of their equals among these."""
    rows: list[Index] = []
    numbers = []
    for row in sources:
        numbers.append(next((number for number, each in enumerate(rows) if np.array_equal(each, row)), len(rows)))
        if numbers[-1] == len(rows):
            rows.append(row)
    return rows, list(zip(numbers[::2], numbers[1::2], strict=True))


class BlockRows(NamedTuple):
    """A row chunk of whole blocks, with the rows of logits from `top` on that it interpolates."""

    down: Axis  # of rows
    across: Axis  # of columns
    bands: slice  # of rows
    logits: Floats  # (rows x columns, classes), in C or Fortran order, as the network made them
    top: int
    width: int  # columns of the logits

    @property
    def rows(self) -> slice:
        """The rows of the image."""
        return slice(int(self.down.bounds[self.bands.start]), int(self.down.bounds[self.bands.stop]))

    def at(self, places: Index) -> Floats:
        """Return the logits (n, classes) at some places, in the same order in memory."""
        if self.logits.flags.c_contiguous:
            return self.logits.take(places, axis=0)
        return self.logits.T.take(places, axis=1).T

    def reduce(self, values: Labels, combine: Callable[[Labels, Labels], Labels]) -> Labels:
        """Combine, for each block, the values (rows x columns) of the logits that it interpolates."""
        found = values.reshape(-1, self.width)
        for axis, sources in enumerate((self.down.sources[:, self.bands] - self.top, self.across.sources)):
            found = functools.reduce(combine, (found.take(each, axis=axis) for each in distinct(sources)[0]))
        return found

    def spread(self, blocks: Labels) -> Labels:
        """Return for each pixel (rows, columns) the value of its block."""
        heights, widths = np.diff(self.down.bounds)[self.bands], np.diff(self.across.bounds)
        columns = np.repeat(np.arange(blocks.shape[1]), widths)
        return np.repeat(blocks.take(columns, axis=1), heights, axis=0)


def block_rows(
    logits: Tensor, network: tuple[int, int], image: tuple[int, int], max_memory: int
) -> Iterator[BlockRows]:
    """Cut an image into row chunks of whole blocks; the logits (h, w, classes) are of the network's input.

    `max_memory` bytes are for the logits of a chunk in float32; a chunk has one band of rows at least.
    """
    _, width, classes = logits.shape
    down, across = (make_axis(*sizes) for sizes in zip(logits.shape[:2], network, image, strict=True))
    count = len(down.split)
    # A band interpolates up to three rows, and the next band at most one more.
    step = max(1, max_memory // (4 * width * classes) - 2)
    for start in range(0, count, step):
        bands = slice(start, min(start + step, count))
        top, bottom = int(down.sources[:, bands].min()), int(down.sources[:, bands].max())
        flat = logits[top : bottom + 1].reshape(-1, classes).float()
        by_class = flat.stride(0) < flat.stride(1)
        flat = flat.T.contiguous().T if by_class else flat.contiguous()
        yield BlockRows(down, across, bands, flat.numpy(), top, width)


def confident_labels(logits: Floats, margin: np.float32) -> Labels:
    """Return the best class of logits (n, classes), or UNDECIDED where another one is within the margin."""
    count, classes = logits.shape
    labels = np.empty(count, np.uint8)
    for some in pieces(count, classes, CACHED):
        places, best = nonzero(logits[some] >= highest(logits[some]) - margin)
        part = labels[some]
        part[places] = best
        part[places[part[places] != best]] = UNDECIDED
    return labels


def highest(logits: Floats) -> Floats:
    """Return the highest logit (n, 1) of each row (n, classes)."""
    count, classes = logits.shape
    found = np.empty((count, 1), np.float32)
    if logits.strides[0] < logits.strides[1]:
        return np.max(logits, axis=1, keepdims=True, out=found)
    for some in pieces(count, classes, SINGLE_THREADED):  # twice as fast as NumPy
        torch.amax(torch.from_numpy(logits[some]), dim=1, keepdim=True, out=torch.from_numpy(found[some]))
    return found


def nonzero(flags: Flags) -> tuple[Index, Index]:
    """Return where flags are set, as `flags.nonzero()`, but in the order in memory: five times as fast."""
    stored = flags if flags.flags.c_contiguous else flags.T
    found = np.flatnonzero(stored)
    first = found // stored.shape[1]
    second = found - first * stored.shape[1]  # faster than %
    return (first, second) if stored is flags else (second, first)


def agreed(labels: Labels, others: Labels) -> Labels:
    """Set labels to UNDECIDED, in place, where the others differ."""
    labels |= all_bits(labels != others)
    return labels


def all_bits(flags: Flags) -> Labels:
    """Return 255 where a flag is set, else 0."""
    return np.negative(flags.view(np.uint8))


def pieces(count: int, values: int, most: int) -> Iterator[slice]:
    """Cut `count` items of so many values into slices of up to `most` values."""
    step = max(1, most // values)
    return (slice(start, start + step) for start in range(0, count, step))
