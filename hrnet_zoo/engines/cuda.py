"""Plan -> engine on an NVIDIA GPU: PyTorch's operations, replayed as one CUDA graph where an input shape recurs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import torch
from torch import Tensor

from hrnet_zoo.engines.folding import Plan, PyTorchEngine

MAX_GRAPHS = 8  # each has memory of its own; further shapes run without a graph

logger = logging.getLogger("hrnet_zoo")


class CudaEngine(PyTorchEngine):
    """Runs a plan on a GPU. The second call with a shape (N, 3, H, W) captures a CUDA graph, later calls replay it.

    Threads may share the engine. It computes on the calling thread's current stream.
    """

    name = "cuda"

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(plan, device, dtype)
        self._graphs: dict[torch.Size, _Graph] = {}
        self._seen: set[torch.Size] = set()
        self._capturing = True
        self._lock = threading.Lock()  # a graph has one input and one output

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits at stride 4 of normalized images (N, 3, H, W): (N, ceil(H/4), ceil(W/4), classes)."""
        with torch.cuda.device(self.device), torch.no_grad():
            if torch.cuda.is_current_stream_capturing():  # into the caller's own graph
                return super().__call__(x)
            return self._captured(x)

    def _captured(self, x: Tensor) -> Tensor:
        with self._lock:
            new = x.shape in self._seen and x.shape not in self._graphs
            if new and self._capturing and len(self._graphs) < MAX_GRAPHS:
                try:
                    self._graphs[x.shape] = _Graph(super().__call__, x)
                except RuntimeError as error:
                    self._capturing = False
                    reason = (str(error).splitlines() or [""])[0][:200]
                    logger.warning("no CUDA graph for %s; launching operations one by one: %s", tuple(x.shape), reason)
            self._seen.add(x.shape)
            if x.shape in self._graphs:
                return self._graphs[x.shape](x)
        return super().__call__(x)


class _Graph:
    """A captured run with one shape; the results of replays are copies."""

    def __init__(self, run: Callable[[Tensor], Tensor], x: Tensor) -> None:
        with torch.inference_mode(False), torch.no_grad():  # inference tensors could not be written to later
            self._x = x.clone()
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(current)
            with torch.cuda.stream(side):
                run(self._x)  # warm up: what libraries set up in their first call cannot be captured
            current.wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):  # other threads may go on
                self._y = run(self._x)
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record(current)

    def __call__(self, x: Tensor) -> Tensor:
        current = torch.cuda.current_stream()
        current.wait_event(self._done)  # the last replay may have run on another stream
        self._x.copy_(x)
        self._graph.replay()
        y = self._y.clone()
        self._done.record(current)
        return y
