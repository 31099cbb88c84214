"""Scores at a quarter of the size -> scores of rows of the image: bounded memory, the same bits however it is cut.

Resizing is bilinear with half-pixel centers, as `torch.nn.functional.interpolate` defines it (align_corners=False),
one axis after the other and by elementwise operations alone. So a row's values do not depend on which rows are made
with it, nor on the device. From `interpolate`, whose own kernels for the two memory orders differ in the last bit of a
third of all values, they differ by as little. Scores lie pixel by pixel (rows, columns, classes): gathering is copying
of whole runs then, and three times faster on a CPU than making all scores at once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hrnet_zoo.errors import ConfigError

Index = npt.NDArray[np.intp]

# Working memory in bytes if the caller names none. CPU: what stays in the caches (measured best at 19 and 150
# classes). CUDA: enough to fill the device, and at most a quarter of what is free, torch's own reserve included.
CPU_BYTES = 12 << 20
CUDA_BYTES = 512 << 20


class Taps(NamedTuple):
    """For each new position along an axis its two old neighbors, and the second's share."""

    first: Index
    second: Index
    share: npt.NDArray[np.float32]

    def at(self, positions: Index) -> Taps:
        """Return those of some positions alone."""
        return Taps(self.first[positions], self.second[positions], self.share[positions])


@dataclass(frozen=True)
class Window:
    """Scores (h, w, classes) of a part of the network's input, at a quarter of its size, in the weights' dtype."""

    rows: slice
    columns: slice
    scores: Tensor


@dataclass(frozen=True)
class ScoreMap:
    """Scores of one view of an image, not yet enlarged.

    Attributes:
        windows: they cover the network's input; where they overlap, scores are averaged.
        height: of the network's input.
        width: of the network's input.
        mirrored: the network saw the mirrored image.

    """

    windows: tuple[Window, ...]
    height: int
    width: int
    mirrored: bool = False

    def part(self, rows: Index, columns: Index, height: int, width: int) -> Tensor:
        """Return scores (len(rows), len(columns), classes), float32, of the image of height x width pixels.

        Both ascend. There are two resizes, as in the reference: to the network's input, and from there to the image.
        """
        if self.mirrored:
            columns = width - 1 - columns[::-1]
        if (self.height, self.width) == (height, width):
            scores = self._at_input(rows, columns)
        else:
            (rows, down), (columns, across) = (
                _needed(axis_taps(*sizes).at(positions))
                for sizes, positions in (((self.height, height), rows), ((self.width, width), columns))
            )
            scores = _blend(_blend(self._at_input(rows, columns), 0, down), 1, across)
        return scores.flip(1) if self.mirrored else scores

    def _at_input(self, rows: Index, columns: Index) -> Tensor:
        """Return scores (len(rows), len(columns), classes) of the network's input; both ascend."""
        if len(self.windows) == 1:
            return _enlarge(self.windows[0].scores, rows, columns, self.height, self.width)
        example = self.windows[0].scores
        total = example.new_zeros((len(rows), len(columns), example.shape[2]), dtype=torch.float32)
        count = example.new_zeros((len(rows), len(columns), 1), dtype=torch.float32)
        for window in self.windows:
            here, inside = zip(
                *(_inside(positions, side) for positions, side in ((rows, window.rows), (columns, window.columns))),
                strict=True,
            )
            if all(map(len, inside)):
                height, width = (side.stop - side.start for side in (window.rows, window.columns))
                total[here] += _enlarge(window.scores, inside[0], inside[1], height, width)
                count[here] += 1
        return total.div_(count)


def pieces(maps: Sequence[ScoreMap], height: int, width: int, max_memory: int | None) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows of the image, top to bottom, with their scores (rows, width, classes), float32.

    Args:
        maps: the views of one image. One: its scores. Several: the mean of their probabilities.
        height: of the image.
        width: of the image.
        max_memory: bytes that this may take at a time; None: what is best on the device. One row is made in any case.
            The values do not depend on it.

    """
    step = rows_at_once(maps, width, max_memory)
    columns = np.arange(width)
    for start in range(0, height, step):
        rows = np.arange(start, min(start + step, height))
        yield slice(start, start + len(rows)), mean(maps, rows, columns, height, width)


def rows_at_once(maps: Sequence[ScoreMap], width: int, max_memory: int | None) -> int:
    """Return how many rows of an image, of all their columns, may be made together; at least 1."""
    example = maps[0].windows[0].scores
    # Two gathered rows, their blend and what is made of it; and the same for up to two rows of the network's input.
    row = 4 * (width + 2 * max(view.width for view in maps)) * example.shape[2] * 4
    return max(1, (_budget(example.device) if max_memory is None else max_memory) // row)


def check_budget(max_memory: int | None) -> None:
    """Refuse what is no number of bytes, before any work.

    Raises:
        ConfigError: it is below 1.

    """
    if max_memory is not None and max_memory < 1:
        raise ConfigError(
            asked=f"scores at full size with max_memory={max_memory}",
            found="max_memory is a number of bytes, at least 1",
            done="nothing was computed",
            advice="correct it, or leave max_memory out",
        )


def mean(maps: Sequence[ScoreMap], rows: Index, columns: Index, height: int, width: int) -> Tensor:
    """Return the scores of one view, or the mean of the probabilities of several, as `ScoreMap.part` does."""
    if len(maps) == 1:
        return maps[0].part(rows, columns, height, width)
    # Over the last axis of a contiguous tensor: what one pixel gets does not depend on how many there are.
    views = (F.softmax(view.part(rows, columns, height, width).contiguous(), dim=2) for view in maps)
    return functools.reduce(torch.add, views) / len(maps)


def _enlarge(scores: Tensor, rows: Index, columns: Index, height: int, width: int) -> Tensor:
    """Return rows and columns of scores (h, w, classes) resized to (height, width, classes), float32."""
    (rows, down), (columns, across) = (
        _needed(axis_taps(*sizes).at(positions))
        for sizes, positions in (((scores.shape[0], height), rows), ((scores.shape[1], width), columns))
    )
    part = scores.index_select(0, _indices(rows, scores)).index_select(1, _indices(columns, scores))
    return _blend(_blend(part, 0, down), 1, across)


def _inside(positions: Index, side: slice) -> tuple[slice, Index]:
    """Return which of ascending positions are within a side of a window, and these, counted from its start."""
    start, stop = (int(end) for end in np.searchsorted(positions, (side.start, side.stop)))
    return slice(start, stop), positions[start:stop] - side.start


def _needed(taps: Taps) -> tuple[Index, Taps]:
    """Return the old positions that new ones are made of, each once and ascending, and the taps among these."""
    used = np.zeros(int(taps.second.max()) + 1, bool)
    used[taps.first] = True
    used[taps.second] = True
    place = np.cumsum(used) - 1
    return np.flatnonzero(used), Taps(place[taps.first], place[taps.second], taps.share)


def _blend(x: Tensor, dim: int, taps: Taps) -> Tensor:
    """Return (1 - share) * x[first] + share * x[second] along `dim`, in float32."""
    near, far = (x.index_select(dim, _indices(i, x)).float() for i in (taps.first, taps.second))
    weight = torch.from_numpy(taps.share).to(x.device).reshape([-1 if axis == dim else 1 for axis in range(x.ndim)])
    # In separate steps: a fused multiply-add rounds once instead of twice, here but not there.
    return near.mul_(1 - weight).add_(far.mul_(weight))


def _indices(positions: Index, x: Tensor) -> Tensor:
    return torch.from_numpy(positions).to(x.device)


@functools.lru_cache(maxsize=64)
def axis_taps(old: int, new: int) -> Taps:
    """Return the taps of `new` positions among `old` ones along an axis; arithmetic in float32, as in torch."""
    scale = np.float32(old) / np.float32(new)
    centers = np.maximum(scale * (np.arange(new, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    first = centers.astype(np.intp)
    return Taps(first, np.minimum(first + 1, old - 1), centers - first.astype(np.float32))


def _budget(device: torch.device) -> int:
    if device.type != "cuda":
        return CPU_BYTES
    # What torch holds in reserve is not free to others, but to us.
    reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(CUDA_BYTES, (torch.cuda.mem_get_info(device)[0] + reserve) // 4)
