"""A plan on a GPU: PyTorch's operations, and all of them started at once where a shape of images comes again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import torch
from torch import Tensor

from hrnet_zoo.engines.plan import Plan
from hrnet_zoo.engines.pytorch import PyTorchEngine

MOST = 8  # CUDA graphs that are kept, each with memory of its own; further shapes run without

logger = logging.getLogger("hrnet_zoo")


class CudaEngine(PyTorchEngine):
    """A plan on a GPU. The second run of a shape (N, 3, H, W) is captured as a CUDA graph, later ones replay it.

    Threads may share the engine. Runs follow the stream that is current in the thread.

    Args:
        plan: it is taken over.
        device: a CUDA device.
        dtype: of the arithmetic.

    """

    name = "cuda"

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(plan, device, dtype)
        self._recurring = Recurring(super().__call__, _Graph)

    def __call__(self, x: Tensor) -> Tensor:
        """Score normalized RGB images (N, 3, H, W): (N, ceil(H/4), ceil(W/4), classes)."""
        with torch.cuda.device(self.device), torch.no_grad():
            if torch.cuda.is_current_stream_capturing():  # the caller's own graph takes these steps in
                return super().__call__(x)
            return self._recurring(x)


class Recurring:
    """Calls of a function, captured at the second call of a shape and replayed from then on. Threads may share it.

    Args:
        run: the function.
        capture: makes a replay of it for one shape; a RuntimeError says that it cannot.

    """

    def __init__(
        self, run: Callable[[Tensor], Tensor], capture: Callable[[Callable[[Tensor], Tensor], Tensor], _Replay]
    ) -> None:
        self._run = run
        self._capture = capture
        self._replays: dict[tuple[int, ...], _Replay] = {}
        self._seen: set[tuple[int, ...]] = set()
        self._able = True
        self._lock = threading.Lock()  # a replay has one input and one output

    def __call__(self, x: Tensor) -> Tensor:
        """Run; the result is the caller's own."""
        shape = tuple(x.shape)
        with self._lock:
            if shape in self._seen and shape not in self._replays and self._able and len(self._replays) < MOST:
                try:
                    self._replays[shape] = self._capture(self._run, x)
                except RuntimeError as error:
                    self._able = False
                    reason = (str(error).splitlines() or [""])[0][:200]
                    logger.warning("no CUDA graph for %s, operations are started one by one: %s", shape, reason)
            self._seen.add(shape)
            if shape in self._replays:
                return self._replays[shape](x)
        return self._run(x)


_Replay = Callable[[Tensor], Tensor]


class _Graph:
    """A captured run of one shape, in memory of its own."""

    def __init__(self, run: Callable[[Tensor], Tensor], x: Tensor) -> None:
        with torch.inference_mode(False), torch.no_grad():  # inference tensors could not be written to later
            self._x = x.clone()
            here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                run(self._x)  # what libraries set up at the first run cannot be captured
            here.wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):  # other threads may go on
                self._y = run(self._x)
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record(here)

    def __call__(self, x: Tensor) -> Tensor:
        here = torch.cuda.current_stream()
        here.wait_event(self._done)  # the last replay may have been started in another stream
        self._x.copy_(x)
        self._graph.replay()
        y = self._y.clone()
        self._done.record(here)
        return y


def usable(device: torch.device) -> bool:
    """Tell whether this engine is for a device: NVIDIA's, not AMD's, which torch calls "cuda" as well."""
    return device.type == "cuda" and torch.version.cuda is not None
