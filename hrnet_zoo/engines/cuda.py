"""A plan on a GPU: fused convolutions, kernels of our own, and all of a run started at once as a CUDA graph.

Maps are channels_last with channels padded to multiples of 8. In a graph the branches of the network run side by side.
Whatever cannot be had here (fused cuDNN calls, Triton, a graph) is left out, and one log line says so: the plan then
runs in PyTorch's operations, or step by step, with the same results to within rounding.
"""

from __future__ import annotations

import functools
import gc
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from hrnet_zoo import kernels
from hrnet_zoo.costs import enough_memory
from hrnet_zoo.engines import cudnn
from hrnet_zoo.engines.gpu_plan import Sum, regroup
from hrnet_zoo.engines.graphs import Graphs, first_line
from hrnet_zoo.engines.padding import INPUTS, pad, padded
from hrnet_zoo.engines.plan import Convolution, Head, lower
from hrnet_zoo.engines.streams import LANES, Turn, carry_out, schedule
from hrnet_zoo.prediction import full_precision

GRAPH_SHARE = 4  # graphs may keep a quarter of the device's memory

logger = logging.getLogger("hrnet_zoo")


class CudaEngine:
    """A plan on a GPU.

    The first run of a shape (N, 3, H, W) is started step by step, the second is captured as a CUDA graph, later ones
    replay it: see `hrnet_zoo.engines.graphs`. Threads may share the engine. Runs follow the stream that is current in
    the thread, and what they return belongs to the caller. `torch.backends.cudnn.benchmark` decides, as everywhere,
    whether cuDNN tries several algorithms for each convolution, which makes the first run of a shape take seconds.

    Args:
        plan: of `hrnet_zoo.engines.plan.make_plan`; it is taken over.
        device: a CUDA device.
        dtype: of the arithmetic.

    """

    name = "cuda"

    def __init__(self, plan: fx.GraphModule, device: torch.device, dtype: torch.dtype) -> None:
        # An index, so that a later torch.cuda.set_device changes nothing.
        self.device = device if device.index is not None else torch.device("cuda", torch.cuda.current_device())
        self.dtype = dtype
        with torch.cuda.device(self.device), self._settings():
            self._plan, self._classes = lowered(plan, self.device, dtype)
            self._turns = schedule(self._plan.graph)
            self._graphs = Graphs(self._run, self._captured, torch.cuda.mem_get_info()[1] // GRAPH_SHARE)

    def __call__(self, x: Tensor) -> Tensor:
        """Score normalised RGB pictures (N, 3, H, W): (N, ceil(H/4), ceil(W/4), classes).

        Raises:
            ConfigError: the device has too little memory.

        """
        batch, _, height, width = x.shape
        with torch.cuda.device(self.device), torch.no_grad(), self._settings():
            # Within a capture of the caller's own the steps become a part of that.
            run = self._run if torch.cuda.is_current_stream_capturing() else self._graphs
            try:
                scores = run(x)
            except torch.OutOfMemoryError as error:
                logger.warning("too little memory on %s, CUDA graphs are given up: %s", self.device, first_line(error))
                scores = None
            if scores is None:  # not in the handler above: the error holds the memory of what was computed
                self._graphs.clear()
                gc.collect()
                torch.cuda.empty_cache()
                with enough_memory(f"score {batch} pictures of {height} x {width} pixels", done="nothing was computed"):
                    scores = self._run(x)
        return scores.permute(0, 2, 3, 1)[..., : self._classes]

    def _settings(self) -> AbstractContextManager[None]:
        # Here, too, although `predict` does: what a graph is captured with it keeps.
        return full_precision() if self.dtype == torch.float32 else nullcontext()

    def _run(self, x: Tensor) -> Tensor:
        """Run step by step."""
        scores: Tensor = self._plan(widened(x.to(self.dtype)))
        return scores

    def _captured(self, x: Tensor) -> _Graph:
        return _Graph(self._plan, self._turns, x, self.dtype)


class _Graph:
    """A captured run.

    Its memory is a pool of its own: nothing but its replays touches it, and it comes back when the graph goes.
    """

    def __init__(self, plan: fx.GraphModule, turns: Sequence[Turn], x: Tensor, dtype: torch.dtype) -> None:
        # No inference tensors, which could not be written to outside of inference mode.
        with torch.inference_mode(False), torch.no_grad():
            self._input = widened(x.to(dtype))
            lanes = _Streams(x.device)
            here = torch.cuda.current_stream()
            lanes.streams[0].wait_stream(here)
            with torch.cuda.stream(lanes.streams[0]):
                plan(self._input)  # what is made at the first run of a shape in a thread cannot be made in a capture
            here.wait_stream(lanes.streams[0])
            before = torch.cuda.memory_reserved()
            self._graph = torch.cuda.CUDAGraph()
            # thread_local: what other threads do meanwhile, allocations for instance, does no harm.
            with torch.cuda.graph(self._graph, stream=lanes.streams[0], capture_error_mode="thread_local"):
                self._output = carry_out(plan, turns, self._input, lanes)
            self.size = max(0, torch.cuda.memory_reserved() - before) + self._input.nbytes
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record(here)

    def replay(self, x: Tensor) -> Tensor:
        """Run with another input of the same shape; the result is a copy."""
        here = torch.cuda.current_stream()
        here.wait_event(self._done)  # the last replay may have been started in another stream
        self._input[:, :INPUTS].copy_(x)
        self._graph.replay()
        result = self._output.clone()
        self._done.record(here)
        return result

    def close(self) -> None:
        """Give the memory back, once the last replay is done."""
        self._done.synchronize()
        self._graph.reset()
        del self._input, self._output


class _Streams:
    """CUDA streams as lanes."""

    def __init__(self, device: torch.device) -> None:
        self.streams = [torch.cuda.Stream(device) for _ in range(LANES)]  # type: ignore[no-untyped-call]

    def use(self, lane: int) -> AbstractContextManager[object]:
        return torch.cuda.stream(self.streams[lane])

    def mark(self, lane: int) -> torch.cuda.Event:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self.streams[lane])
        return event

    def wait(self, lane: int, mark: torch.cuda.Event) -> None:
        self.streams[lane].wait_event(mark)


class FusedSum(nn.Module):
    """A plan's sum as one kernel, summed in float32."""

    def __init__(self, step: Sum, device: torch.device) -> None:
        super().__init__()
        self._factors = step.factors
        self._bias = step.bias.to(device, torch.float32)

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """Return a map of the shape of `x`."""
        from hrnet_zoo.kernels import resizing

        return resizing.total(x, others, self._factors, self._bias)


class FusedHead(nn.Module):
    """A plan's head: the coarser maps mixed at their own sizes, and one kernel for all the rest."""

    def __init__(self, step: Head, widths: Sequence[int], device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        from hrnet_zoo.kernels.head import MIXED, block

        outputs = -(-len(step.mix.bias) // MIXED) * MIXED
        mix = F.pad(step.mix.weight, (0, 0) * 3 + (0, outputs - len(step.mix.bias)))
        first, *coarser = torch.split(mix, list(widths), dim=1)
        self._coarser = [each.to(device, dtype, memory_format=torch.channels_last) for each in coarser]
        self._classes = len(step.classifier.bias)
        columns = block(self._classes)
        matrix, last = first[:, :, 0, 0].T, step.classifier.weight[:, :, 0, 0].T
        self._mix = _enlarged(matrix, block(widths[0]), outputs).to(device, dtype)
        self._bias = F.pad(step.mix.bias, (0, outputs - len(step.mix.bias))).to(device, torch.float32)
        self._classifier = _enlarged(last, outputs, columns).to(device, dtype)
        self._bias2 = F.pad(step.classifier.bias, (0, columns - self._classes)).to(device, torch.float32)

    def forward(self, x: Tensor, *coarser: Tensor) -> Tensor:
        """Return the scores (N, classes, H, W), H and W of the finest map `x`."""
        from hrnet_zoo.kernels import head

        mixed = [F.conv2d(each, weight) for each, weight in zip(coarser, self._coarser, strict=True)]
        return head.scores(x, mixed, self._mix, self._bias, self._classifier, self._bias2, self._classes)


def lowered(plan: fx.GraphModule, device: torch.device, dtype: torch.dtype) -> tuple[fx.GraphModule, int]:
    """Return a plan of `make_plan`, taken over, in the best steps that there are on a device, and its classes.

    It takes `widened` pictures, and gives scores of which those behind the classes are to be cut off.
    """
    plan = regroup(plan)
    head = next(step for step in plan.modules() if isinstance(step, Head))
    classes = len(head.classifier.bias)
    widths = _widths(head)
    pad(plan)
    if kernels.installed(device):
        if sum_usable(device, dtype):
            lower(plan, Sum, lambda step: FusedSum(step, device))
        # float32 is asked for its exactness; tensor cores would round
        if dtype != torch.float32 and head_usable(device, dtype):
            lower(plan, Head, lambda step: FusedHead(step, [padded(width) for width in widths], device, dtype))
    fused = cudnn.usable(device, dtype)
    lower(plan, Convolution, lambda step: cudnn.CudnnConvolution(step, device, dtype, fused))
    for step in plan.modules():
        if isinstance(step, Sum):
            step.bias = step.bias.to(device, dtype)
    return plan, classes


def widened(x: Tensor) -> Tensor:
    """Return pictures (N, 3, H, W) with as many channels as the padded plan takes, channels_last."""
    batch, _, height, width = x.shape
    wide = x.new_zeros(batch, height, width, padded(INPUTS)).permute(0, 3, 1, 2)
    wide[:, :INPUTS] = x
    return wide


@functools.cache
def sum_usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether the kernel for sums computes here what it should; if not, one log line says why."""
    from hrnet_zoo.kernels import resizing

    sizes = ((9, 13), (9, 13), (5, 7), (3, 4))  # the coarser ones are enlarged twice
    x, *others = _maps([(8, *size) for size in sizes], dtype)
    bias = torch.linspace(-1, 1, 8)
    step = Sum((1, 2, 4), bias)
    expected = step(x.float(), *(each.float() for each in others))
    there = [each.to(device, memory_format=torch.channels_last) for each in (x, *others)]
    on_device = bias.to(device)
    return kernels.right(
        "sums",
        lambda: resizing.total(there[0], tuple(there[1:]), step.factors, on_device),
        expected,
        16 * torch.finfo(dtype).eps,
    )


@functools.cache
def head_usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether the kernel for the head computes here what it should; if not, one log line says why."""
    widths = (8, 16, 24, 32)
    maps = _maps([(width, *size) for width, size in zip(widths, ((9, 13), (5, 7), (3, 4), (2, 2)), strict=True)], dtype)
    weights = _maps([(sum(widths), 1, 1)] * 40 + [(40, 1, 1)] * 24, dtype)
    mix = Convolution(torch.cat(weights[:40]).float() / 8, torch.linspace(-1, 1, 40), stride=1, relu=True)
    classifier = Convolution(torch.cat(weights[40:]).float() / 8, torch.linspace(-1, 1, 24), stride=1)
    step = Head(mix, classifier)
    expected = step(*(each.float() for each in maps))
    there = [each.to(device, memory_format=torch.channels_last) for each in maps]
    return kernels.right(
        "the head", lambda: FusedHead(step, widths, device, dtype)(*there), expected, 64 * torch.finfo(dtype).eps
    )


def usable(device: torch.device) -> bool:
    """Tell whether this engine is for a device: NVIDIA's, not AMD's, which torch calls "cuda" as well."""
    return device.type == "cuda" and torch.version.cuda is not None


def _widths(head: Head) -> list[int]:
    """Return the channels of the four maps that the head reads: they double from one to the next."""
    finest = head.mix.weight.shape[1] // 15
    return [finest, 2 * finest, 4 * finest, 8 * finest]


def _enlarged(x: Tensor, rows: int, columns: int) -> Tensor:
    """Return a matrix with zeros behind its rows and columns."""
    return F.pad(x, (0, columns - x.shape[1], 0, rows - x.shape[0])).contiguous()


def _maps(shapes: list[tuple[int, int, int]], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, *shape, generator=generator).to(dtype) for shape in shapes]
