"""Resize stride-4 logits to the image, in row chunks: bounded memory, and the same bits however it is cut.

Resizing is bilinear as in `torch.nn.functional.interpolate` (align_corners=False), but in elementwise operations, one
axis after the other: a row's bits depend neither on the rows made with it nor on the device. `interpolate` has two
kernels, which differ in the last bit. Logits are (rows, columns, classes), three times faster to gather on a CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hrnet_zoo.errors import ConfigError

Index = npt.NDArray[np.intp]

# Default memory in bytes. CPU: what stays in the caches (measured best at 19 and 150 classes).
CPU_BYTES = 12 << 20
CUDA_BYTES = 512 << 20


class Lerp(NamedTuple):
    """Linear interpolation along an axis: for each new position its two old neighbors, and the second's weight."""

    first: Index
    second: Index
    weight: npt.NDArray[np.float32]

    def at(self, positions: Index) -> Lerp:
        """Return the interpolation of some new positions."""
        return Lerp(self.first[positions], self.second[positions], self.weight[positions])


@dataclass(frozen=True)
class Window:
    """Stride-4 logits (h, w, classes) of a window of the network's input, in the weights' dtype."""

    rows: slice
    columns: slice
    logits: Tensor


@dataclass(frozen=True)
class ViewLogits:
    """Stride-4 logits of one view (size and flip) of an image; height and width are of the network's input."""

    windows: tuple[Window, ...]  # they cover the network's input; where they overlap, logits are averaged
    height: int
    width: int
    flipped: bool = False  # the network saw the image flipped

    @classmethod
    def of_whole(cls, logits: Tensor, height: int, width: int) -> ViewLogits:
        """Return the view of an image that went through the network whole, with logits (h, w, classes)."""
        return cls((Window(slice(0, height), slice(0, width), logits),), height, width)

    def resize(self, rows: Index, columns: Index, height: int, width: int) -> Tensor:
        """Return the logits (len(rows), len(columns), classes), float32, at ascending positions of the image.

        There are two resizes, as in the reference: to the network's input, and from there to the image.
        """
        if self.flipped:
            columns = width - 1 - columns[::-1]
        if (self.height, self.width) == (height, width):
            logits = self._at_input(rows, columns)
        else:
            logits = _resize(self._at_input, (self.height, self.width), (height, width), rows, columns)
        return logits.flip(1) if self.flipped else logits

    def _at_input(self, rows: Index, columns: Index) -> Tensor:
        if len(self.windows) == 1:
            return _window_at(self.windows[0], rows, columns)
        example = self.windows[0].logits
        total = example.new_zeros((len(rows), len(columns), example.shape[2]), dtype=torch.float32)
        count = example.new_zeros((len(rows), len(columns), 1), dtype=torch.float32)
        for window in self.windows:
            here = _within(rows, window.rows), _within(columns, window.columns)
            inside = rows[here[0]] - window.rows.start, columns[here[1]] - window.columns.start
            if all(map(len, inside)):
                total[here] += _window_at(window, *inside)
                count[here] += 1
        return total.div_(count)


def row_chunks(
    views: Sequence[ViewLogits], height: int, width: int, max_memory: int | None
) -> Iterator[tuple[slice, Tensor]]:
    """Yield row chunks of the image (height, width), top to bottom, and what `merge_views` makes of their logits.

    `max_memory` bytes are for the logits of a chunk, which has one row at least; None: the best on the device.
    """
    columns = np.arange(width)
    step = rows_per_chunk(views, width, max_memory)
    for start in range(0, height, step):
        rows = np.arange(start, min(start + step, height))
        yield slice(start, start + len(rows)), merge_views(views, rows, columns, height, width)


def rows_per_chunk(views: Sequence[ViewLogits], width: int, max_memory: int | None) -> int:
    """Return how many rows of an image fit into the memory; at least 1."""
    example = views[0].windows[0].logits
    if max_memory is None and example.is_cuda:
        # What torch holds in reserve is free to us, too.
        reserve = torch.cuda.memory_reserved(example.device) - torch.cuda.memory_allocated(example.device)
        max_memory = min(CUDA_BYTES, (torch.cuda.mem_get_info(example.device)[0] + reserve) // 4)
    # Two gathered rows, their blend and its result; and as much for up to two rows of the network's input.
    row = 4 * (width + 2 * max(view.width for view in views)) * example.shape[2] * 4
    return max(1, (CPU_BYTES if max_memory is None else max_memory) // row)


def check_max_memory(max_memory: int | None) -> None:
    """Raise ConfigError for a memory limit below one byte."""
    if max_memory is not None and max_memory < 1:
        raise ConfigError(
            asked=f"full-resolution logits with max_memory={max_memory}",
            found="max_memory is a number of bytes, at least 1",
            done="nothing was computed",
            advice="correct it, or leave max_memory out",
        )


def merge_views(views: Sequence[ViewLogits], rows: Index, columns: Index, height: int, width: int) -> Tensor:
    """Return the resized logits of one view, or the mean of the probabilities of several."""
    if len(views) == 1:
        return views[0].resize(rows, columns, height, width)
    # Over the last axis of a contiguous tensor: the bits of a pixel do not depend on how many there are.
    each = (F.softmax(view.resize(rows, columns, height, width).contiguous(), dim=2) for view in views)
    return functools.reduce(torch.add, each) / len(views)


@functools.lru_cache(maxsize=64)
def lerp(old: int, new: int) -> Lerp:
    """Return the interpolation of `new` positions from `old` ones; arithmetic in float32, as in torch."""
    scale = np.float32(old) / np.float32(new)
    centers = np.maximum(scale * (np.arange(new, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    first = centers.astype(np.intp)
    return Lerp(first, np.minimum(first + 1, old - 1), centers - first.astype(np.float32))


def _window_at(window: Window, rows: Index, columns: Index) -> Tensor:
    logits = window.logits
    size = window.rows.stop - window.rows.start, window.columns.stop - window.columns.start

    def gather(rows: Index, columns: Index) -> Tensor:
        return logits.index_select(0, _to(logits, rows)).index_select(1, _to(logits, columns))

    return _resize(gather, (logits.shape[0], logits.shape[1]), size, rows, columns)


def _resize(
    source: Callable[[Index, Index], Tensor], old: tuple[int, int], new: tuple[int, int], rows: Index, columns: Index
) -> Tensor:
    """Resize from `old` to `new` (height, width), at some rows and columns; `source` returns old positions."""
    (rows, down), (columns, across) = (
        _needed(lerp(before, after).at(positions))
        for before, after, positions in zip(old, new, (rows, columns), strict=True)
    )
    return _blend(_blend(source(rows, columns), 0, down), 1, across)


def _within(positions: Index, side: slice) -> slice:
    """Return which of ascending positions lie within a side of a window."""
    start, stop = np.searchsorted(positions, (side.start, side.stop))
    return slice(int(start), int(stop))


def _needed(axis: Lerp) -> tuple[Index, Lerp]:
    """Return the old positions in use, ascending, and the interpolation from these alone."""
    used = np.zeros(int(axis.second.max()) + 1, bool)
    used[axis.first] = True
    used[axis.second] = True
    place = np.cumsum(used) - 1
    return np.flatnonzero(used), Lerp(place[axis.first], place[axis.second], axis.weight)


def _blend(x: Tensor, dim: int, axis: Lerp) -> Tensor:
    """Return (1 - weight) * x[first] + weight * x[second] along `dim`, in float32."""
    near, far = (x.index_select(dim, _to(x, positions)).float() for positions in (axis.first, axis.second))
    weight = _to(x, axis.weight).reshape([-1 if each == dim else 1 for each in range(x.ndim)])
    # In separate steps: a fused multiply-add would round once instead of twice on some devices.
    return near.mul_(1 - weight).add_(far.mul_(weight))


def _to(like: Tensor, array: npt.NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(array).to(like.device)
