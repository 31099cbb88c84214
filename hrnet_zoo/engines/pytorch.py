"""Plan -> engine in PyTorch's own operations, which runs on every device and in every dtype."""

import torch
from torch import Tensor

from hrnet_zoo.engines.plan import Plan


class PyTorchEngine:
    """Runs a plan with PyTorch.

    Args:
        plan: belongs to the engine from then on.
        device: where to run it.
        dtype: of the arithmetic.

    """

    name = "pytorch"

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype
        self._plan = plan.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits at stride 4 of normalized images (N, 3, H, W): (N, ceil(H/4), ceil(W/4), classes)."""
        logits: Tensor = self._plan(x)
        return logits.permute(0, 2, 3, 1)

    @staticmethod
    def runs(device: torch.device, dtype: torch.dtype) -> bool:
        """Tell whether the engine runs on a device in a dtype."""
        return True
