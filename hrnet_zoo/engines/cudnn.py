"""Convolution, bias, sum and ReLU as one call of cuDNN, where it has one.

These operations of torch (`torch.ops.aten.cudnn_convolution_relu` and `..._add_relu`) are what its own tracing compiler
calls; they are not documented, hence the probe.
"""

from __future__ import annotations

import functools
import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrnet_zoo.engines.plan import Convolution

logger = logging.getLogger("hrnet_zoo")


class CudnnConvolution(nn.Module):
    """A plan's convolution in few kernels: one with ReLU, and one without ReLU and bias.

    Args:
        step: what it replaces.
        device: where.
        dtype: of the arithmetic; sums are float32 within the call.
        fused: use cuDNN's fused calls; `usable` must hold for device and dtype.

    """

    def __init__(self, step: Convolution, device: torch.device, dtype: torch.dtype, fused: bool) -> None:
        super().__init__()
        self._weight = step.weight.to(device, dtype, memory_format=torch.channels_last)
        self._bias = step.bias.to(device, dtype)
        self._biased = bool(step.bias.any())
        self._stride, self._padding = step.stride, step.padding
        self._relu = step.relu
        self._fused = fused and step.relu

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Compute what the step does."""
        if self._fused:
            try:
                return self._one_call(x, other)
            except RuntimeError as error:
                if "unable to find an engine" not in str(error):
                    raise
                # For this shape alone cuDNN may have none; it says so before anything is started.
                self._fused = False
                logger.warning("cuDNN has no fused convolution for %s: PyTorch's are used", tuple(self._weight.shape))
        y = F.conv2d(x, self._weight, self._bias if self._biased else None, self._stride, self._padding)
        if other is not None:
            y = y.add_(other)
        return y.relu_() if self._relu else y

    def _one_call(self, x: Tensor, other: Tensor | None) -> Tensor:
        geometry = ([self._stride] * 2, [self._padding] * 2, [1, 1], 1)
        result: Tensor
        if other is None:
            result = torch.ops.aten.cudnn_convolution_relu.default(x, self._weight, self._bias, *geometry)
        else:
            result = torch.ops.aten.cudnn_convolution_add_relu.default(
                x, self._weight, other, 1.0, self._bias, *geometry
            )
        return result


@functools.cache
def usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether this torch, on this device, has the fused calls, and they compute what they should.

    If not, one log line says why.
    """
    try:
        worst = max(_error(device, dtype, added) for added in (False, True))
    except (AttributeError, RuntimeError, TypeError) as error:  # no such operation, device, dtype or arguments
        reason = str(error).splitlines()[0][:200]
    else:
        if worst < 64 * torch.finfo(dtype).eps:
            return True
        reason = f"its results are off by {worst:.2g}"
    logger.warning("cuDNN's fused convolutions cannot be used in %s, PyTorch's are: %s", dtype, reason)
    return False


def _error(device: torch.device, dtype: torch.dtype, added: bool) -> float:
    """Return how far a small convolution, with or without a sum, is from what it should be."""
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(8, 8, 3, 3, generator=generator) / 9, torch.randn(8, generator=generator)
    step = Convolution(weight.to(dtype).float(), bias.to(dtype).float(), stride=1, relu=True)
    x, other = (torch.randn(1, 8, 6, 5, generator=generator).to(dtype) for _ in range(2))
    with torch.no_grad():
        expected = step(x.float(), other.float() if added else None)
        x, other = (each.to(device, memory_format=torch.channels_last) for each in (x, other))
        # Not `forward`, which would fall back.
        found = CudnnConvolution(step, device, dtype, fused=True)._one_call(x, other if added else None)
        return float((found.float().cpu() - expected).abs().max())
