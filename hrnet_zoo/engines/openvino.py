"""Plan -> engine on a CPU with OpenVINO (extra `openvino`), in floating point or, calibrated with images, in 8 bits.

The plan's steps are written in OpenVINO's own operations, which takes milliseconds; its converter would trace the
network for half a minute. One compiled model serves all image sizes: a model for one size was 4 to 7 % faster there
(W18-Small, 512x1024), but takes half a second and the weights' memory once more for each.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hrnet_zoo.engines.plan import Convolution, Head, Plan, UpsampleSum, replace_steps
from hrnet_zoo.errors import ConfigError

_importing = threading.RLock()  # one thread at a time sets the environment
_TYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVINOEngine:
    """Runs a plan on the CPU with OpenVINO, with as many threads as torch has.

    Args:
        plan: belongs to the engine from then on; the model's weights lie in its memory.
        device: the CPU.
        dtype: of the arithmetic, one of `dtypes()`.
        quantize: turns an OpenVINO model into one in 8 bits.

    """

    name = "openvino"

    def __init__(
        self,
        plan: Plan,
        device: torch.device,
        dtype: torch.dtype,
        quantize: Callable[[Any], Any] | None = None,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self._plan = plan
        model = as_openvino(plan)
        self._model = _channels_last(model if quantize is None else quantize(model), dtype)
        self._lock = threading.Lock()  # a request serves one caller at a time
        self._threads = 0
        self._request: Any = None
        self._compile()

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits at stride 4 of normalized images (N, 3, H, W): (N, ceil(H/4), ceil(W/4), classes)."""
        pixels = x.to(self.dtype).permute(0, 2, 3, 1).contiguous()
        count, height, width, _ = pixels.shape
        shape = (count, -(-height // 4), -(-width // 4), self._model.output().partial_shape[3].get_length())
        logits = torch.empty(shape, dtype=self.dtype, device="cpu")
        with self._lock:
            self._compile()
            self._request.set_input_tensor(_shared(pixels))
            self._request.set_output_tensor(_shared(logits))
            self._request.infer()
        return logits

    @staticmethod
    def runs(device: torch.device, dtype: torch.dtype) -> bool:
        """Tell whether the engine runs on a device; `dtypes()` tells in which dtypes, where OpenVINO is installed."""
        return device.type == "cpu"

    def _compile(self) -> None:
        """Compile for lowest latency, anew if torch's number of threads has changed."""
        if self._threads != torch.get_num_threads():
            self._threads = torch.get_num_threads()
            settings = {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": _TYPES[self.dtype],
                "INFERENCE_NUM_THREADS": self._threads,
                "NUM_STREAMS": "1",
            }
            self._request = openvino().Core().compile_model(self._model, "CPU", settings).create_infer_request()


def dtypes() -> tuple[torch.dtype, ...]:
    """Return the dtypes that OpenVINO supports on this processor, the fastest first.

    Raises:
        ConfigError: OpenVINO is not installed.

    """
    capabilities = openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return (torch.bfloat16, torch.float32) if "BF16" in capabilities else (torch.float32,)


def as_openvino(plan: Plan) -> Any:  # noqa: ANN401 - OpenVINO's model
    """Convert a plan to an OpenVINO model: (N, 3, H, W) float32 -> (N, classes, ceil(H/4), ceil(W/4)).

    The plan's steps are replaced, and its weights are the model's, in the same memory.
    """
    ops = openvino().opset13
    replace_steps(plan, Head, lambda step: _Written(partial(_head, ops, step)))
    replace_steps(plan, UpsampleSum, lambda step: _Written(partial(_upsample_sum, ops, step)))
    replace_steps(plan, Convolution, lambda step: _Written(partial(_convolution, ops, step)))
    x = ops.parameter([-1, 3, -1, -1], openvino().Type.f32)
    return openvino().Model([plan(x)], [x], "FCN-HRNet")


class _Written(nn.Module):
    """A step written in OpenVINO's operations: outputs of operations go in and come out."""

    def __init__(self, write: Callable[..., Any]) -> None:
        super().__init__()
        self._write = write

    def forward(self, *maps: Any) -> Any:  # noqa: ANN401 - OpenVINO's
        return self._write(*maps)


def _upsample_sum(ops: Any, step: UpsampleSum, x: Any, *coarser: Any) -> Any:  # noqa: ANN401 - OpenVINO's
    size = _size(ops, x)
    for factor, each in zip(step.factors, coarser, strict=True):
        large = _resize(ops, each, np.full(2, factor, np.float32), "scales")
        x = ops.add(x, _resize(ops, large, size, "sizes"))
    return ops.relu(x)


def _head(ops: Any, step: Head, x: Any, *coarser: Any) -> Any:  # noqa: ANN401 - OpenVINO's
    size = _size(ops, x)
    maps = ops.concat([x, *(_resize(ops, each, size, "sizes") for each in coarser)], 1)
    return _convolution(ops, step.classifier, _convolution(ops, step.mix, maps))


def _convolution(ops: Any, step: Convolution, x: Any, other: Any = None) -> Any:  # noqa: ANN401 - OpenVINO's
    weight = ops.constant(step.weight.numpy(), shared_memory=True)
    bias = ops.constant(step.bias.numpy().reshape(1, -1, 1, 1), shared_memory=True)
    padding = [step.padding] * 2
    y = ops.add(ops.convolution(x, weight, [step.stride] * 2, padding, padding, [1, 1]), bias)
    if other is not None:
        y = ops.add(y, other)
    return ops.relu(y) if step.relu else y


def _size(ops: Any, x: Any) -> Any:  # noqa: ANN401 - OpenVINO's
    return ops.gather(ops.shape_of(x), np.array([2, 3], np.int64), np.int64(0))


def _resize(ops: Any, x: Any, size: Any, mode: str) -> Any:  # noqa: ANN401 - OpenVINO's
    """Resize as `F.interpolate(..., mode="bilinear", align_corners=False)`, to a size or by factors."""
    axes = np.array([2, 3], np.int64)
    return ops.interpolate(x, size, "linear_onnx", mode, coordinate_transformation_mode="half_pixel", axes=axes)


def _channels_last(model: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401 - OpenVINO's
    """Let a model read and write (N, H, W, channels) in `dtype`, as images and logits lie in memory."""
    work = openvino().preprocess.PrePostProcessor(model)
    for end in (work.input(), work.output()):
        end.tensor().set_element_type(_type(dtype)).set_layout(openvino().Layout("NHWC"))
        end.model().set_layout(openvino().Layout("NCHW"))
    return work.build()


def _shared(tensor: Tensor) -> Any:  # noqa: ANN401 - OpenVINO's
    """Return OpenVINO's tensor in the same memory. NumPy has no bfloat16: it passes on two bytes as they are."""
    bits = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    return openvino().Tensor(bits.numpy(), list(tensor.shape), _type(tensor.dtype))


def _type(dtype: torch.dtype) -> Any:  # noqa: ANN401 - OpenVINO's
    return getattr(openvino().Type, _TYPES[dtype])


def openvino() -> Any:  # noqa: ANN401 - a module that may be missing
    """Import OpenVINO; ConfigError if it is not installed."""
    package, _, _ = (
        import_extra(module, "openvino", "engine='openvino'")
        for module in ("openvino", "openvino.opset13", "openvino.preprocess")
    )
    return package


def import_extra(module: str, extra: str, option: str) -> Any:  # noqa: ANN401 - a module that may be missing
    """Import a module of one of Intel's packages, without sending usage statistics.

    Its telemetry is off in automated tests; the environment variable CI, set during the first import only, says so.

    Raises:
        ConfigError: it is not installed.

    """
    try:
        with _importing:
            if module in sys.modules or "CI" in os.environ:
                return importlib.import_module(module)
            os.environ["CI"] = "true"
            try:
                return importlib.import_module(module)
            finally:
                del os.environ["CI"]
    except ImportError as error:
        raise ConfigError(
            asked=f"optimize with {option}",
            found=f"{module} cannot be imported ({error})",
            done="the network is unchanged",
            advice=f"pip install '.[{extra}]' in the checkout of hrnet-zoo, or leave {option.partition('=')[0]} out",
        ) from error
