"""Plan -> engine on a CPU with OpenVINO (extra `openvino`), in floating point or, given ranges of values, in 8 bits.

The plan's steps are written in OpenVINO's own operations, which takes milliseconds; its converter would trace the
network for half a minute. One compiled model serves all image sizes; one for each would be 4 to 7 % faster there.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from hrnet_zoo.engines.folding import Convolution, Head, OCRHead, Plan, UpsampleSum, replace_steps
from hrnet_zoo.errors import ConfigError

_importing = threading.RLock()  # one thread at a time sets the environment
Node: TypeAlias = Any  # an object of OpenVINO's, which has no types
Range: TypeAlias = tuple[float, float]  # least and greatest value
_TYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVINOEngine:
    """Runs a plan, which it takes over, on the CPU with OpenVINO, with as many threads as torch has at the time.

    `dtype` is one of `dtypes()`; with `ranges`, as for `as_openvino`, it is that of what is left in floating point.
    """

    name = "openvino"

    def __init__(
        self, plan: Plan, device: torch.device, dtype: torch.dtype, ranges: Mapping[str, Range] | None = None
    ) -> None:
        self.device = device
        self.dtype = dtype
        self.in_8_bits = ranges is not None
        self._model = _channels_last(as_openvino(plan, ranges), dtype)
        self._weights = None if ranges else plan  # in whose memory the model's are
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _TYPES[dtype],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": "1",
        }
        self._request = openvino().Core().compile_model(self._model, "CPU", settings).create_infer_request()
        self._lock = threading.Lock()  # a request serves one caller at a time

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits at stride 4 of normalized images (N, 3, H, W): (N, ceil(H/4), ceil(W/4), classes)."""
        pixels = x.to(self.dtype).permute(0, 2, 3, 1).contiguous()
        count, height, width, _ = pixels.shape
        shape = (count, -(-height // 4), -(-width // 4), self._model.output().partial_shape[3].get_length())
        logits = torch.empty(shape, dtype=self.dtype, device="cpu")
        with self._lock:
            self._request.set_input_tensor(_shared(pixels))
            self._request.set_output_tensor(_shared(logits))
            self._request.infer()
        return logits


def dtypes() -> tuple[torch.dtype, ...]:
    """Return the dtypes that OpenVINO computes in on this processor; none if it is not installed."""
    if importlib.util.find_spec("openvino") is None:
        return ()
    capabilities = openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return (torch.float32, torch.bfloat16) if "BF16" in capabilities else (torch.float32,)


def quantized_steps(plan: Plan) -> dict[str, nn.Module]:
    """Return the steps whose results 8 bits hold: all that convolutions read but the image, and shortcuts.

    The head stands for the maps that it concatenates. What is upsampled or added before it is read stays in floating
    point.
    """
    return {
        name: step
        for name, step in plan.named_modules()
        if isinstance(step, UpsampleSum | Head)
        or (isinstance(step, Convolution) and (step.relu or name.endswith("shortcut")))
    }


def as_openvino(plan: Plan, ranges: Mapping[str, Range] | None = None) -> Node:
    """Convert a plan to an OpenVINO model: (N, 3, H, W) float32 -> (N, classes, ceil(H/4), ceil(W/4)).

    The plan's steps are replaced, and its weights are the model's, in the same memory.

    Args:
        plan: it is taken over.
        ranges: for 8 bits: the least and the greatest value of each of `quantized_steps`, by name. Weights are then
            int8, with one scale for each output channel, and copies; the first convolution stays in floating point.

    """
    ops = openvino().opset13
    range_of = {step: ranges[name] for name, step in quantized_steps(plan).items()} if ranges else {}
    first = plan.stem.steps[0]
    bands = next(plan.buffers()).shape[1]

    def quantized(step: nn.Module, x: Node) -> Node:
        """Round the result of a step to 256 levels, if it has a range; zero is one of them."""
        if step not in range_of:
            return x
        least, greatest = range_of[step]
        level = (greatest - least) / 255
        zero = round(-least / level)
        ends = [ops.constant(np.full((1, 1, 1, 1), each * level, np.float32)) for each in (-zero, 255 - zero)]
        return ops.fake_quantize(x, *ends, *ends, 256)

    def weight_of(step: Convolution) -> Node:
        if not range_of or step is first:
            return ops.constant(step.weight.numpy(), shared_memory=not range_of)
        scale = step.weight.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127
        levels = (step.weight / scale).round().to(torch.int8)
        return ops.multiply(ops.convert(ops.constant(levels.numpy()), "f32"), ops.constant(scale.numpy()))

    def size_of(x: Node) -> Node:
        return ops.gather(ops.shape_of(x), np.array([2, 3], np.int64), np.int64(0))

    def resize(x: Node, size: Node, mode: str) -> Node:
        """Resize as `F.interpolate(..., mode="bilinear", align_corners=False)`, to "sizes" or by "scales"."""
        axes = np.array([2, 3], np.int64)
        return ops.interpolate(x, size, "linear_onnx", mode, coordinate_transformation_mode="half_pixel", axes=axes)

    def convolution(step: Convolution, x: Node, other: Node = None) -> Node:
        bias = ops.constant(step.bias.numpy().reshape(1, -1, 1, 1), shared_memory=not range_of)
        padding = [step.padding] * 2
        y = ops.add(ops.convolution(x, weight_of(step), [step.stride] * 2, padding, padding, [1, 1]), bias)
        if other is not None:
            y = ops.add(y, other)
        return quantized(step, ops.relu(y) if step.relu else y)

    def upsample_sum(step: UpsampleSum, x: Node, *coarser: Node) -> Node:
        size = size_of(x)
        for factor, each in zip(step.factors, coarser, strict=True):
            large = resize(each, np.full(2, factor, np.float32), "scales")
            x = ops.add(x, resize(large, size, "sizes"))
        return quantized(step, ops.relu(x))

    def concatenated(step: Head, x: Node, *coarser: Node) -> Node:
        size = size_of(x)
        maps = [quantized(step, each) for each in (x, *(resize(each, size, "sizes") for each in coarser))]
        return ops.concat(maps, 1)

    def head(step: Head, *maps: Node) -> Node:
        return convolution(step.classifier, convolution(step.mix, concatenated(step, *maps)))

    def flat(x: Node) -> Node:
        """Make (N, C, H, W) to (N, C, H * W)."""
        return ops.reshape(x, np.array([0, 0, -1], np.int64), special_zero=True)

    def ocr_head(step: OCRHead, *maps: Node) -> Node:
        """Write `class_features` and `attention` of `models.ocr`, in floating point."""

        def chain(steps: Any, x: Node) -> Node:  # noqa: ANN401 - a Sequential of Convolutions
            for each in steps:
                x = convolution(each, x)
            return x

        x = concatenated(step, *maps)
        regions = convolution(step.classifier, convolution(step.mix, x))
        pixels = convolution(step.pixels, x)
        features = ops.matmul(flat(pixels), ops.softmax(flat(regions), 2), False, True)  # (N, 512, K)
        classes = ops.unsqueeze(features, np.array([3], np.int64))
        query, key, value = chain(step.query, pixels), chain(step.key, classes), convolution(step.value, classes)
        scale = np.full((1, 1, 1), step.value.weight.shape[0] ** -0.5, np.float32)
        likeness = ops.matmul(flat(query), ops.multiply(flat(key), ops.constant(scale)), True, False)  # (N, H * W, K)
        context = ops.matmul(flat(value), ops.softmax(likeness, 2), False, True)
        context = convolution(step.context, ops.reshape(context, ops.shape_of(query), special_zero=False))
        return convolution(step.last, convolution(step.fuse, context, convolution(step.fuse_pixels, pixels)))

    for kind, write in ((OCRHead, ocr_head), (Head, head), (UpsampleSum, upsample_sum), (Convolution, convolution)):
        replace_steps(plan, kind, partial(_Written, write))
    x = ops.parameter([-1, bands, -1, -1], openvino().Type.f32)
    return openvino().Model([plan(x)], [x], "HRNet")


class _Written(nn.Module):
    """A step in OpenVINO's operations: it takes and returns their outputs."""

    def __init__(self, write: Callable[..., Node], step: nn.Module) -> None:
        super().__init__()
        self._write = partial(write, step)

    def forward(self, *maps: Node) -> Node:
        return self._write(*maps)


def _channels_last(model: Node, dtype: torch.dtype) -> Node:
    """Let a model read and write (N, H, W, channels) in `dtype`, as images and logits lie in memory."""
    work = openvino().preprocess.PrePostProcessor(model)
    for end in (work.input(), work.output()):
        end.tensor().set_element_type(_type(dtype)).set_layout(openvino().Layout("NHWC"))
        end.model().set_layout(openvino().Layout("NCHW"))
    return work.build()


def _shared(tensor: Tensor) -> Node:
    """Return OpenVINO's tensor in the same memory. NumPy has no bfloat16: it passes on two bytes as they are."""
    bits = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    return openvino().Tensor(bits.numpy(), list(tensor.shape), _type(tensor.dtype))


def _type(dtype: torch.dtype) -> Node:
    return getattr(openvino().Type, _TYPES[dtype])


def openvino() -> Any:  # noqa: ANN401 - a module that may be missing
    """Import OpenVINO; ConfigError if it is not installed."""
    package, _, _ = (
        import_extra(module, "openvino", "engine='openvino'")
        for module in ("openvino", "openvino.opset13", "openvino.preprocess")
    )
    return package


def import_extra(module: str, extra: str, option: str) -> Any:  # noqa: ANN401 - a module that may be missing
    """Import a module of one of Intel's packages, or raise ConfigError if it is not installed.

    Its usage statistics are off in automated tests; the environment variable CI, set during the first import, says so.
    """
    try:
        with _importing, ExitStack() as stack:
            if module not in sys.modules and "CI" not in os.environ:
                os.environ["CI"] = "true"
                stack.callback(os.environ.pop, "CI")
            return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            asked=f"optimize with {option}",
            found=f"{module} cannot be imported ({error})",
            done="the network is unchanged",
            advice=f"pip install '.[{extra}]' in the checkout of hrnet-zoo, or leave {option.partition('=')[0]} out",
        ) from error
