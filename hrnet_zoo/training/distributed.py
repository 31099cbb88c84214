"""Training over several processes: sums, and batch norm that sees the whole batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hrnet_zoo.evaluation.ranks import Ranks, rank_errors


def all_reduce(tensor: Tensor, ranks: Ranks) -> Tensor:
    """Return the sum over all processes, in place; ProcessError if a process is gone."""
    if ranks.size > 1:
        with rank_errors(ranks):
            dist.all_reduce(tensor)
    return tensor


def convert_sync_batchnorm(network: nn.Module) -> None:
    """Make batch norm see the images of all processes, as if one process had them all."""
    if next(network.parameters()).device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = CPUSyncBatchNorm2d


class _AllReduceSum(torch.autograd.Function):
    """A sum over all processes that passes gradients on; torch's own is deprecated or private."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:  # noqa: ANN401 - autograd's own
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        return _all_reduce_sum(gradients[0])


def _all_reduce_sum(part: Tensor) -> Tensor:
    total: Tensor = _AllReduceSum.apply(part)  # type: ignore[no-untyped-call]
    return total


class CPUSyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm (N, C, H, W) over all processes on CPUs, of equal shapes; `torch.nn.SyncBatchNorm` needs GPUs."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, D102 - the base class's
        if not self.training:
            return super().forward(input)
        count = input.numel() // input.shape[1] * dist.get_world_size()
        x = input.float()
        # In float64, like torch's; and in two passes: mean of squares minus squared mean loses digits.
        mean = (_all_reduce_sum(x.sum((0, 2, 3), dtype=torch.float64)) / count).float()
        centered = x - mean[:, None, None]
        variance = (_all_reduce_sum(centered.square().sum((0, 2, 3), dtype=torch.float64)) / count).float()
        with torch.no_grad():
            self.get_buffer("running_mean").lerp_(mean, self.momentum or 0.0)
            self.get_buffer("running_var").lerp_(variance * count / max(count - 1, 1), self.momentum or 0.0)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        result: Tensor = centered * scale[:, None, None] + self.bias[:, None, None]
        return result.to(input.dtype)
