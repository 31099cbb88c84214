"""A plan on a CPU with OpenVINO, an extra package (extra `openvino`).

The plan's steps are written down in OpenVINO's own operations, which takes milliseconds; its converter of PyTorch
models would trace the network once more, for longer than half a minute. One compiled model serves images of all
sizes, so that weights are there once and no size has to be waited for: a model of one size alone was 4 to 7 percent
faster at it (W18-Small, 512x1024), and costs half a second and the weights' memory for each size.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hrnet_zoo.engines.plan import Convolution, Exchange, Head, Plan, lower
from hrnet_zoo.errors import ConfigError, install

Quantize = Callable[[Any], Any]  # an OpenVINO model -> one that computes in 8 bits where it can

_IMPORTING = threading.RLock()  # one thread at a time sets the environment
_NAMES = {torch.float32: "f32", torch.bfloat16: "bf16"}  # of OpenVINO's, by torch's


class OpenVINOEngine:
    """A plan on the CPU with OpenVINO, on as many threads as torch has.

    Args:
        plan: it is taken over.
        dtype: of the arithmetic, one of `dtypes()`.
        quantize: `hrnet_zoo.engines.quantization.Quantization`, for 8 bits in most of it.

    """

    name = "openvino"
    device = torch.device("cpu")

    def __init__(self, plan: Plan, dtype: torch.dtype, quantize: Quantize | None = None) -> None:
        self.dtype = dtype
        self._plan = plan  # the model's weights lie in its memory
        model = as_openvino(plan)
        self._model = _of_pixels(model if quantize is None else quantize(model), dtype)
        self._lock = threading.Lock()  # a request serves one caller at a time
        self._threads = 0
        self._request: Any = None
        self._compile()

    def __call__(self, x: Tensor) -> Tensor:
        """Score normalized RGB images (N, 3, H, W): (N, ceil(H/4), ceil(W/4), classes)."""
        pixels = x.to(self.dtype).permute(0, 2, 3, 1).contiguous()
        count, height, width, _ = pixels.shape
        shape = (count, -(-height // 4), -(-width // 4), self._model.output().partial_shape[3].get_length())
        scores = torch.empty(shape, dtype=self.dtype, device="cpu")
        with self._lock:
            self._compile()
            self._request.set_input_tensor(_shared(pixels))
            self._request.set_output_tensor(_shared(scores))
            self._request.infer()
        return scores

    def _compile(self) -> None:
        """Compile for as many threads as torch has now."""
        if self._threads != torch.get_num_threads():
            self._threads = torch.get_num_threads()
            self._request = compiled(self._model, self.dtype, self._threads).create_infer_request()


def dtypes() -> tuple[torch.dtype, ...]:
    """Return what OpenVINO can compute in on this processor, the fastest first.

    Raises:
        ConfigError: it is not installed.

    """
    able = _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return (torch.bfloat16, torch.float32) if "BF16" in able else (torch.float32,)


def compiled(model: Any, dtype: torch.dtype, threads: int) -> Any:  # noqa: ANN401 - OpenVINO's may not be there
    """Compile an OpenVINO model for the shortest time from image to scores."""
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _NAMES[dtype],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": "1",
    }
    return _openvino().Core().compile_model(model, "CPU", settings)


def as_openvino(plan: Plan) -> Any:  # noqa: ANN401 - OpenVINO's may not be there
    """Write a plan down as an OpenVINO model: (N, 3, H, W) float32 -> (N, classes, ceil(H/4), ceil(W/4)).

    The plan is taken over: its weights are the model's, in the plan's memory.
    """
    openvino = _openvino()
    _Writer(openvino).lower(plan)
    x = openvino.opset13.parameter([-1, 3, -1, -1], openvino.Type.f32)
    return openvino.Model([plan(x)], [x], "FCN-HRNet")


class _Writer:
    """Puts in the place of each step of a plan what writes it down: outputs of operations go in and come out."""

    def __init__(self, openvino: Any) -> None:  # noqa: ANN401 - a module that may not be there
        self._ops = openvino.opset13

    def lower(self, plan: Plan) -> None:
        """Replace the steps of a plan that is taken over."""
        lower(plan, Head, lambda step: _Written(partial(self._head, step)))
        lower(plan, Exchange, lambda step: _Written(partial(self._exchange, step)))
        lower(plan, Convolution, lambda step: _Written(partial(self._convolution, step)))

    def _exchange(self, step: Exchange, x: Any, *coarser: Any) -> Any:  # noqa: ANN401 - OpenVINO's
        size = self._size(x)
        for factor, each in zip(step.factors, coarser, strict=True):
            large = self._resize(each, np.full(2, factor, np.float32), "scales")
            x = self._ops.add(x, self._resize(large, size, "sizes"))
        return self._ops.relu(x)

    def _head(self, step: Head, x: Any, *coarser: Any) -> Any:  # noqa: ANN401 - OpenVINO's
        size = self._size(x)
        maps = self._ops.concat([x, *(self._resize(each, size, "sizes") for each in coarser)], 1)
        return self._convolution(step.classifier, self._convolution(step.mix, maps))

    def _convolution(self, step: Convolution, x: Any, other: Any = None) -> Any:  # noqa: ANN401 - OpenVINO's
        weight = self._ops.constant(step.weight.numpy(), shared_memory=True)
        bias = self._ops.constant(step.bias.numpy().reshape(1, -1, 1, 1), shared_memory=True)
        padding = [step.padding] * 2
        y = self._ops.add(self._ops.convolution(x, weight, [step.stride] * 2, padding, padding, [1, 1]), bias)
        if other is not None:
            y = self._ops.add(y, other)
        return self._ops.relu(y) if step.relu else y

    def _size(self, x: Any) -> Any:  # noqa: ANN401 - OpenVINO's
        """Height and width of a map."""
        return self._ops.gather(self._ops.shape_of(x), np.array([2, 3], np.int64), np.int64(0))

    def _resize(self, x: Any, size: Any, mode: str) -> Any:  # noqa: ANN401 - OpenVINO's
        """As `F.interpolate(..., mode="bilinear", align_corners=False)`, to a size or by factors."""
        axes = np.array([2, 3], np.int64)
        return self._ops.interpolate(
            x, size, "linear_onnx", mode, coordinate_transformation_mode="half_pixel", axes=axes
        )


class _Written(nn.Module):
    """A step that is written down. OpenVINO's weights lie in the memory of the step's."""

    def __init__(self, write: Callable[..., Any]) -> None:
        super().__init__()
        self._write = write

    def forward(self, *maps: Any) -> Any:  # noqa: ANN401 - OpenVINO's
        return self._write(*maps)


def _of_pixels(model: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401 - OpenVINO's
    """Let a model read and write (N, H, W, channels) in `dtype`, as images and scores lie in memory."""
    openvino = _openvino()
    work = openvino.preprocess.PrePostProcessor(model)
    for end in (work.input(), work.output()):
        end.tensor().set_element_type(_type(dtype)).set_layout(openvino.Layout("NHWC"))
        end.model().set_layout(openvino.Layout("NCHW"))
    return work.build()


def _shared(tensor: Tensor) -> Any:  # noqa: ANN401 - OpenVINO's
    """Return OpenVINO's tensor in the same memory. NumPy has no bfloat16: it passes two bytes on as they are."""
    bits = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    return _openvino().Tensor(bits.numpy(), list(tensor.shape), _type(tensor.dtype))


def _type(dtype: torch.dtype) -> Any:  # noqa: ANN401 - OpenVINO's
    return getattr(_openvino().Type, _NAMES[dtype])


@contextmanager
def unreported(package: str) -> Iterator[None]:
    """Import a package of Intel's without its sending of usage statistics, which it leaves out of automated tests.

    The variable CI says that it is in one, and is set in this process while the package is imported for the first time.
    """
    with _IMPORTING:
        if package in sys.modules or "CI" in os.environ:
            yield
            return
        os.environ["CI"] = "true"
        try:
            yield
        finally:
            del os.environ["CI"]


def _openvino() -> Any:  # noqa: ANN401 - a module that may not be there
    try:
        with unreported("openvino"):
            import openvino
            import openvino.opset13
            import openvino.preprocess
    except ImportError as error:
        raise ConfigError(
            asked="optimize with engine='openvino'",
            found=f"OpenVINO cannot be imported ({error})",
            done="the network was left as it is",
            advice=f"{install('openvino')}, or leave engine out for what is best without it",
        ) from error
    return openvino
