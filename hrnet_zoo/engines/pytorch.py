"""The plan as it is: runs wherever PyTorch does."""

import torch
from torch import Tensor, nn


class PyTorchEngine:
    """A plan in PyTorch's own operations.

    Args:
        plan: of `hrnet_zoo.engines.plan.make_plan`; it is taken over.
        device: where it is to run.
        dtype: of the arithmetic.

    """

    name = "pytorch"

    def __init__(self, plan: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype
        self._plan = plan.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, x: Tensor) -> Tensor:
        """Score normalised RGB pictures (N, 3, H, W): (N, ceil(H/4), ceil(W/4), classes)."""
        scores: Tensor = self._plan(x)
        return scores.permute(0, 2, 3, 1)
