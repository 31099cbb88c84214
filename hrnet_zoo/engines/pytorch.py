"""The plan as it is: runs wherever PyTorch does."""

import torch
from torch import Tensor

from hrnet_zoo.engines.plan import Plan


class PyTorchEngine:
    """A plan in PyTorch's own operations.

    Args:
        plan: it is taken over.
        device: where it is to run.
        dtype: of the arithmetic.

    """

    name = "pytorch"

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype
        self._plan = plan.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, x: Tensor) -> Tensor:
        """Score normalized RGB images (N, 3, H, W): (N, ceil(H/4), ceil(W/4), classes)."""
        scores: Tensor = self._plan(x)
        return scores.permute(0, 2, 3, 1)
