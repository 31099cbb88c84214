"""Network -> modules that torch.export follows with free sizes: what an exported file computes."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrnet_zoo.engines.folding import Plan, UpsampleSum, replace_steps
from hrnet_zoo.images.preprocess import MEAN, STD
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.hrnet import fit


class LogitsGraph(nn.Module):
    """Normalized images (N, 3, H, W) float32 -> logits (N, classes, ceil(H/4), ceil(W/4)) float32.

    The network, which it takes over, computes in `dtype`.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network.to(dtype)
        self.dtype = dtype

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.network(image.to(self.dtype))
        return logits.float()


class LabelsGraph(nn.Module):
    """Images (N, H, W, 3) uint8 RGB and the size of the labels, (2,) int64 -> labels (N, height, width) uint8, logits.

    To the bit what `hrnet_zoo.inference.logits` and `argmax` make of the logits. The size (0, 0) resizes nothing.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.logits = LogitsGraph(network, dtype)
        self.register_buffer("mean", torch.tensor(MEAN))
        self.register_buffer("std", torch.tensor(STD))

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Return the labels and the logits (N, classes, ceil(H/4), ceil(W/4))."""
        normalized = ((image.float() - self.mean) / self.std).permute(0, 3, 1, 2)
        logits: Tensor = self.logits(normalized.contiguous())  # so are single images in `model.predict`
        height, width = cast("list[int]", [size[0].item(), size[1].item()])
        torch._check(height >= 0)  # type: ignore[no-untyped-call]
        torch._check(width >= 0)  # type: ignore[no-untyped-call]
        x = logits.permute(0, 2, 3, 1)  # the classes of a pixel side by side, so that they are gathered together
        some: Any = torch.sym_min  # 0 where there are no labels, else 1
        x = _resize(_resize(x, 1, image.shape[1] * some(height, 1)), 2, image.shape[2] * some(width, 1))
        x = _resize(_resize(x, 1, height), 2, width)
        return x.argmax(dim=3).to(torch.uint8), logits


def _resize(x: Tensor, dim: int, new: int) -> Tensor:
    """Resize along an axis: `lerp` and `_blend` of `hrnet_zoo.inference.logits`, step by step."""
    old = x.shape[dim]
    scale = torch.scalar_tensor(old, dtype=torch.float32) / torch.scalar_tensor(new, dtype=torch.float32)
    centers = (scale * (torch.arange(new).float() + 0.5) - 0.5).clamp(min=0)
    first = centers.long()
    second = (first + 1).clamp(max=old - 1)
    weight = (centers - first.float()).reshape([-1 if each == dim else 1 for each in range(x.ndim)])
    return x.index_select(dim, first) * (1 - weight) + x.index_select(dim, second) * weight


class _UpsampleSum(nn.Module):
    """As the plan's, but always with the second resize: whether it is needed depends on the sizes, which are free."""

    def __init__(self, step: UpsampleSum) -> None:
        super().__init__()
        self.factors = step.factors

    def forward(self, x: Tensor, *coarser: Tensor) -> Tensor:
        for factor, each in zip(self.factors, coarser, strict=True):
            large = F.interpolate(each, scale_factor=float(factor), mode="bilinear", align_corners=False)
            x = x + fit(large, x.shape[-2:])
        return F.relu(x)


def folded(model: FCNHRNet) -> Plan:
    """Return the network with batch norm folded into the convolutions, for any size."""
    plan = Plan(model)
    replace_steps(plan, UpsampleSum, _UpsampleSum)
    return plan


def unfolded(model: FCNHRNet) -> nn.Module:
    """Return the network as it is, to the bit."""
    return nn.Sequential(model.backbone, model.decode_head)
