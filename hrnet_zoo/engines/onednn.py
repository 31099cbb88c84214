"""A plan on a CPU: convolution, bias, sum and ReLU as one call of oneDNN.

These operations of torch (`torch.ops.mkldnn`) are what its own compiler calls; they are not public, hence the probe.
"""

import functools
import logging

import torch
from torch import Tensor

from hrnet_zoo.engines.plan import Convolution, Plan, lower

logger = logging.getLogger("hrnet_zoo")


class OneDNNConvolution(Convolution):
    """A plan's convolution as one call of oneDNN.

    Args:
        step: what it replaces.
        dtype: of the arithmetic; sums are float32 within the call.

    """

    def __init__(self, step: Convolution, dtype: torch.dtype) -> None:
        # Not in the order that oneDNN likes best for some size of image: there that gains 1 to 3 %, and at any other
        # size half a millisecond is lost for each convolution.
        weight = step.weight.to(dtype, memory_format=torch.channels_last)
        super().__init__(weight, step.bias.to(dtype), step.stride, step.relu)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Compute what the step does, in one pass over the result."""
        if self.to_one_column(x):
            return super().forward(x, other)
        geometry = ([self.padding] * 2, [self.stride] * 2, [1, 1], 1)
        after = "relu" if self.relu else None
        result: Tensor
        if other is None:
            result = torch.ops.mkldnn._convolution_pointwise.default(
                x, self.weight, self.bias, *geometry, after or "none", [], ""
            )
        else:
            result = torch.ops.mkldnn._convolution_pointwise_.binary(
                other, x, self.weight, self.bias, *geometry, "add", 1.0, after, [], ""
            )
        return result


class OneDNNEngine:
    """A plan on the CPU with oneDNN's convolutions.

    Args:
        plan: it is taken over.
        dtype: of the arithmetic, for which `usable` must hold.

    """

    name = "onednn"
    device = torch.device("cpu")

    def __init__(self, plan: Plan, dtype: torch.dtype) -> None:
        self.dtype = dtype
        lower(plan, Convolution, lambda step: OneDNNConvolution(step, dtype))
        self._plan = plan

    def __call__(self, x: Tensor) -> Tensor:
        """Score normalized RGB images (N, 3, H, W): (N, ceil(H/4), ceil(W/4), classes)."""
        scores: Tensor = self._plan(x)
        return scores.permute(0, 2, 3, 1)


@functools.cache
def usable(dtype: torch.dtype) -> bool:
    """Tell whether this torch, on this processor, has the operations used here, and they compute what they should.

    If not, one log line says why.
    """
    try:
        worst = max(_error(relu, dtype) for relu in (False, True))
    except (AttributeError, RuntimeError, TypeError) as error:  # no such operation, dtype or arguments
        reason = str(error).splitlines()[0][:200]
    else:
        if worst < 64 * torch.finfo(dtype).eps:
            return True
        reason = f"its results are off by {worst:.2g}"
    logger.warning("oneDNN's fused convolutions cannot be used in %s, PyTorch's own are: %s", dtype, reason)
    return False


def native(dtype: torch.dtype) -> bool:
    """Tell whether this processor multiplies numbers of this dtype itself: bfloat16 by AMX or AVX512-bf16."""
    if dtype == torch.bfloat16:
        abilities = torch.cpu.get_capabilities()
        return bool(abilities.get("amx_bf16") or abilities.get("avx512_bf16"))
    return dtype == torch.float32


def _error(relu: bool, dtype: torch.dtype) -> float:
    """Return how far a small convolution with a sum is from what it should be, whatever the caller's defaults are."""
    generator = torch.Generator("cpu").manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")

    step = Convolution(random(8, 8, 3, 3) / 9, random(8), stride=1, relu=relu)
    x, other = (random(1, 8, 6, 5).to(dtype, memory_format=torch.channels_last) for _ in range(2))
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        expected = step(x.float(), other.float())
        return float((OneDNNConvolution(step, dtype)(x, other).float() - expected).abs().max())
