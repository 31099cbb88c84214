"""The FCN head, and the layers that OCRNet's head shares with it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hrnet_zoo.models.hrnet import fit
from hrnet_zoo.models.skip_init import batch_norm, conv2d


class FCNHead(nn.Module):
    """Concatenate the feature maps at the size of the finest, and apply two 1x1 convolutions."""

    def __init__(self, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        channels = sum(widths)
        self.conv_seg = conv2d(channels, num_classes, 1)
        self.convs = nn.Sequential(ConvModule(channels, channels))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return logits (N, classes, H/4, W/4)."""
        logits: Tensor = self.conv_seg(self.convs(concatenate(maps)))
        return logits


class ConvModule(nn.Module):
    """Convolution, batch norm and ReLU, with the parameter names of the published files."""

    def __init__(self, inputs: int, outputs: int, side: int = 1) -> None:
        super().__init__()
        self.conv = conv2d(inputs, outputs, side, padding=side // 2, bias=False)
        self.bn = batch_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs, H, W)."""
        return torch.relu_(self.bn(self.conv(x)))


def concatenate(maps: list[Tensor]) -> Tensor:
    """Resize all maps to the size of the finest, the first one, and concatenate their channels."""
    finest, *coarser = maps
    if not coarser:
        return finest
    return torch.cat([finest, *(fit(each, finest.shape[-2:]) for each in coarser)], dim=1)
