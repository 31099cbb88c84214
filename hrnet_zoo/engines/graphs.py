"""Captured runs, one for each shape of pictures: a CUDA graph starts all kernels of a plan at once.

Which shapes are worth it is decided here: a capture costs as much as several runs, and memory as long as it is kept.
The first run of a shape goes without, the second is captured. A new one takes the place of one that was not used for
long; where all are in use, as in a folder of pictures of a hundred sizes, the others go without.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor

MOST = 16  # six scales, whole pictures, windows: what one data set needs, and another beside it
IDLE = 4 * MOST  # calls after which an unused capture may give way
REMEMBERED = 4 * MOST  # shapes that were seen once, or refused

logger = logging.getLogger("hrnet_zoo")

Shape: TypeAlias = tuple[int, ...]


class Captured(Protocol):
    """A run of one shape, ready to be repeated.

    Attributes:
        size: bytes that it keeps.

    """

    size: int

    def replay(self, x: Tensor) -> Tensor:
        """Run with another input of that shape; the result is the caller's own, no later run overwrites it."""

    def close(self) -> None:
        """Give the memory back, once all replays are done."""


@dataclass
class _Entry:
    captured: Captured
    used: int


class Graphs:
    """Runs of a function by shape, captured where it pays. Threads may share it: replays come one after the other.

    Args:
        run: the function, without capture.
        capture: captures it for inputs like this one; a RuntimeError says that it cannot.
        budget: bytes that captures may keep together.
        most: captures that are kept.

    """

    def __init__(
        self, run: Callable[[Tensor], Tensor], capture: Callable[[Tensor], Captured], budget: int, most: int = MOST
    ) -> None:
        self._run = run
        self._capture = capture
        self._budget = budget
        self._most = most
        self._kept: OrderedDict[Shape, _Entry] = OrderedDict()
        self._worth: OrderedDict[Shape, bool] = OrderedDict()  # seen, and whether the next time it is captured
        self._calls = 0
        self._lock = threading.RLock()
        self._busy = False

    def __call__(self, x: Tensor) -> Tensor:
        """Run, by a replay if there is one for this shape."""
        with self._lock:
            if not self._busy:  # else called from within, by the same thread: the static input is in use
                self._busy = True
                try:
                    captured = self._find(x)
                    if captured is not None:
                        return captured.replay(x)
                finally:
                    self._busy = False
        return self._run(x)

    def clear(self) -> None:
        """Give the memory of all captures back."""
        with self._lock:
            while self._kept:
                self._drop(next(iter(self._kept)))

    @property
    def shapes(self) -> list[Shape]:
        """Shapes that are captured, least recently used first."""
        with self._lock:
            return list(self._kept)

    def _find(self, x: Tensor) -> Captured | None:
        shape = tuple(x.shape)
        self._calls += 1
        if shape in self._kept:
            self._kept.move_to_end(shape)
            self._kept[shape].used = self._calls
            return self._kept[shape].captured
        if not self._worth.get(shape, False):
            self._remember(shape, self._worth.get(shape, True))
            return None
        if len(self._kept) >= self._most and not self._drop_idle():
            return None
        return self._captured(x, shape)

    def _captured(self, x: Tensor, shape: Shape) -> Captured | None:
        try:
            captured = self._capture(x)
        except RuntimeError as error:
            logger.warning(
                "no CUDA graph of %s, its steps are started one by one: %s", _words(shape), first_line(error)
            )
            self._remember(shape, False)
            return None
        while captured.size + sum(each.captured.size for each in self._kept.values()) > self._budget:
            if not self._drop_idle():
                captured.close()
                logger.warning("no CUDA graph of %s: the others and it would take too much memory", _words(shape))
                self._remember(shape, False)
                return None
        self._worth.pop(shape)
        self._kept[shape] = _Entry(captured, self._calls)
        return captured

    def _drop_idle(self) -> bool:
        """Drop the capture that was not used for longest, if that is long."""
        if not self._kept:
            return False
        shape, entry = next(iter(self._kept.items()))
        if self._calls - entry.used <= IDLE:
            return False
        self._drop(shape)
        return True

    def _drop(self, shape: Shape) -> None:
        self._kept.pop(shape).captured.close()

    def _remember(self, shape: Shape, worth: bool) -> None:
        self._worth[shape] = worth
        self._worth.move_to_end(shape)
        if len(self._worth) > REMEMBERED:
            self._worth.popitem(last=False)


def first_line(error: BaseException) -> str:
    """Return what an error says, in a line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _words(shape: Shape) -> str:
    batch, _, height, width = shape
    return f"{batch} x {height} x {width} pixels"
