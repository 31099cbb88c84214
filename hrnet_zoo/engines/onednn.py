"""Plan -> engine on a CPU, with convolution, bias, addition and ReLU as one call of oneDNN.

The operations (`torch.ops.mkldnn`) are those that torch's compiler calls. They are not public, hence the probe.
"""

import functools
import logging

import torch
from torch import Tensor

from hrnet_zoo.engines.folding import Convolution, Plan, PyTorchEngine, replace_steps

logger = logging.getLogger("hrnet_zoo")


class OneDNNConvolution(Convolution):
    """A plan's convolution as one call of oneDNN; sums are float32 within the call.

    Weights are not packed for one image size: that is 1 to 3 % faster there, and half a millisecond per convolution
    slower elsewhere.
    """

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Compute what `Convolution` does, in one pass over the result."""
        if self.needs_float32(x):
            return super().forward(x, other)
        tensors = (x, self.weight, self.bias)
        geometry = ([self.padding] * 2, [self.stride] * 2, [1, 1], 1)
        after = "relu" if self.relu else None
        ops = torch.ops.mkldnn
        result: Tensor
        if other is None:
            result = ops._convolution_pointwise.default(*tensors, *geometry, after or "none", [], "")
        else:
            result = ops._convolution_pointwise_.binary(other, *tensors, *geometry, "add", 1.0, after, [], "")
        return result


class OneDNNEngine(PyTorchEngine):
    """Runs a plan on the CPU with oneDNN's fused convolutions."""

    name = "onednn"

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype) -> None:
        replace_steps(plan, Convolution, _fused)
        super().__init__(plan, device, dtype)


def _fused(step: Convolution) -> OneDNNConvolution:
    return OneDNNConvolution(step.weight, step.bias, step.stride, step.relu)


@functools.cache
def usable(dtype: torch.dtype) -> bool:
    """Probe whether oneDNN's fused convolutions exist here and compute the right numbers; log why not."""
    generator = torch.Generator("cpu").manual_seed(0)

    def random(*shape: int) -> Tensor:  # whatever the caller's torch defaults are
        return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")

    try:
        for relu in (False, True):
            step = Convolution(random(8, 8, 3, 3) / 9, random(8), stride=1, relu=relu)
            x, other = (random(1, 8, 6, 5).to(dtype, memory_format=torch.channels_last) for _ in range(2))
            with torch.inference_mode(), torch.autocast("cpu", enabled=False):
                expected = step(x.float(), other.float())
                error = float((_fused(step).to(dtype)(x, other).float() - expected).abs().max())
            if error >= 64 * torch.finfo(dtype).eps:
                raise RuntimeError(f"its results are off by {error:.2g}")
    except (AttributeError, RuntimeError, TypeError) as missing:  # no such operation, dtype or arguments
        reason = str(missing).splitlines()[0][:200]
        logger.warning("oneDNN's fused convolutions are unavailable in %s; using PyTorch: %s", dtype, reason)
        return False
    return True


def has_native_bfloat16() -> bool:
    """Tell whether this processor multiplies in bfloat16 itself (AMX or AVX512-bf16)."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
