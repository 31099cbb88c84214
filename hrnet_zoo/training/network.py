"""A network made ready to learn: groups of parameters, activations computed twice, batch norm over all processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.hrnet import ExchangeModule
from hrnet_zoo.training.recipe import Recipe


def parameter_groups(network: FCNHRNet, recipe: Recipe) -> list[dict[str, object]]:
    """Return the parameters that learn, with the factors on the learning rate."""
    groups = ((network.backbone, recipe.backbone_lr), (network.decode_head, recipe.head_lr))
    found = [
        {"params": [parameter for parameter in part.parameters() if parameter.requires_grad], "factor": factor}
        for part, factor in groups
    ]
    return [group for group in found if group["params"]]


def save_memory(network: FCNHRNet) -> None:
    """Keep only what enters each exchange module, and compute what happens inside once more on the way back."""
    for module in network.backbone.modules():
        if isinstance(module, ExchangeModule):
            module.__class__ = _Checkpointed


class _Checkpointed(ExchangeModule):
    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        result: list[Tensor] = checkpoint(
            super().forward,
            maps,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing is random inside, and the generator is the user's
            context_fn=partial(_contexts, self),
        )
        return result


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(module)


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Let batch norm see the same images again without counting them twice in its running statistics."""
    norms = [each for each in module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm) and each.training]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, count in kept:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if count is None else count.clone()  # what is counted here is thrown away
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count


def share_statistics(network: FCNHRNet) -> None:
    """Let every batch norm that learns see the images of all processes: as one process would that had them all."""
    synced = nn.SyncBatchNorm if next(network.parameters()).device.type == "cuda" else SyncedBatchNorm2d
    for name, norm in list(network.named_modules()):
        if isinstance(norm, nn.BatchNorm2d) and norm.weight.requires_grad:
            other = synced(norm.num_features)
            other.weight, other.bias = norm.weight, norm.bias
            for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                setattr(other, buffer, getattr(norm, buffer))
            network.set_submodule(name, other.train(norm.training), strict=True)


class _Sum(torch.autograd.Function):
    """Sum over all processes; each one's part has its share in what all of them make of the sum."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:  # noqa: ANN401 - autograd's own
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _sum(part: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(part)  # type: ignore[no-untyped-call]
    return total


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over all processes, for CPUs: torch has it for GPUs only."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class's name
        """Keep the shape (N, C, H, W); every process has the same N, H and W."""
        if not self.training:
            plain: Tensor = super().forward(input)
            return plain
        count = input.numel() // input.shape[1] * dist.get_world_size()
        x = input.float()
        # As exact as torch's own, which adds up in float64 too; and in two rounds, for the mean of squares minus the
        # square of the mean would lose digits.
        mean = (_sum(x.sum((0, 2, 3), dtype=torch.float64)) / count).float()
        centerd = x - mean[:, None, None]
        variance = (_sum(centerd.square().sum((0, 2, 3), dtype=torch.float64)) / count).float()
        if self.track_running_stats:
            assert self.running_mean is not None  # noqa: S101 - for the type checker
            assert self.running_var is not None  # noqa: S101
            assert self.num_batches_tracked is not None  # noqa: S101
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum or 0.0)
                self.running_var.lerp_(variance * count / max(count - 1, 1), self.momentum or 0.0)
                self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        result: Tensor = centerd * scale[:, None, None] + self.bias[:, None, None]
        return result.to(input.dtype)
