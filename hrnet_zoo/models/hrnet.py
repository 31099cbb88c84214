"""HRNet backbone: an image becomes four feature maps, at 1/4, 1/8, 1/16 and 1/32 of its size.

The branch at 1/4 runs from beginning to end, coarser ones join it one by one, and all of them exchange features
repeatedly.

    stem -> layer1 -> transition1 -> stage2 -> transition2 -> stage3 -> transition3 -> stage4
    1/4     1/4       1/4, 1/8                 + 1/16                   + 1/32

Papers: https://arxiv.org/abs/1908.07919 (HRNet), https://arxiv.org/abs/1904.04514 (HRNetV2p, segmentation).
Parameter names are those of the published checkpoints, which load with `strict=True`. `nn.Identity`, which has no
parameters, stands where the published networks have nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from hrnet_zoo.models.skip_init import batch_norm, conv2d


@dataclass(frozen=True)
class HRNetSpec:
    """The three numbers in which the published networks differ.

    Attributes:
        width: channels at 1/4 of the image's size; each coarser branch has twice as many.
        blocks: residual blocks of each branch in one exchange module, and of `layer1`.
        modules: exchange modules of stages 2, 3 and 4.

    """

    width: int
    blocks: int
    modules: tuple[int, int, int]

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Channels of the four branches, finest first."""
        return self.width, 2 * self.width, 4 * self.width, 8 * self.width


SPECS = {
    "hr18s": HRNetSpec(width=18, blocks=2, modules=(1, 3, 2)),  # "W18-Small"; hrnet_w18_small_v2 in timm
    "hr18": HRNetSpec(width=18, blocks=4, modules=(1, 4, 3)),
    "hr32": HRNetSpec(width=32, blocks=4, modules=(1, 4, 3)),
    "hr40": HRNetSpec(width=40, blocks=4, modules=(1, 4, 3)),
    "hr48": HRNetSpec(width=48, blocks=4, modules=(1, 4, 3)),
}


class HRNet(nn.Module):
    """The HRNet backbone, for images of three bands or another number.

    Attributes:
        channels: of the four feature maps, finest first.
        strides: pixels of the image per pixel of each map.

    """

    strides = (4, 8, 16, 32)

    def __init__(self, spec: HRNetSpec, bands: int = 3) -> None:
        super().__init__()
        self.channels = w1, w2, w3, w4 = spec.widths
        self.conv1 = conv3x3(bands, 64, stride=2)
        self.bn1 = batch_norm(64)
        self.conv2 = conv3x3(64, 64, stride=2)
        self.bn2 = batch_norm(64)
        self.layer1 = nn.Sequential(Bottleneck(64), *(Bottleneck(256) for _ in range(spec.blocks - 1)))
        self.transition1 = Transition([256], [w1, w2])
        self.stage2 = stage([w1, w2], spec.blocks, spec.modules[0])
        self.transition2 = Transition([w1, w2], [w1, w2, w3])
        self.stage3 = stage([w1, w2, w3], spec.blocks, spec.modules[1])
        self.transition3 = Transition([w1, w2, w3], [w1, w2, w3, w4])
        self.stage4 = stage([w1, w2, w3, w4], spec.blocks, spec.modules[2])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the four feature maps of normalized images (N, C, H, W), of any H and W.

        Their shapes are (N, width * 2^k, ceil(H / 2^(k+2)), ceil(W / 2^(k+2))) for k = 0 to 3.
        """
        x = F.relu_(self.bn1(self.conv1(x)))
        x = F.relu_(self.bn2(self.conv2(x)))
        maps = self.transition1([self.layer1(x)])
        maps = self.transition2(self.stage2(maps))
        maps = self.transition3(self.stage3(maps))
        result: list[Tensor] = self.stage4(maps)
        return result


class Transition(nn.ModuleList):
    """Adapt the channels of the branches from `before` to `after`, and add a coarser branch from the coarsest."""

    def __init__(self, before: Sequence[int], after: Sequence[int]) -> None:
        adapt = [
            nn.Identity() if old == new else conv_bn_relu(old, new) for old, new in zip(before, after[:-1], strict=True)
        ]
        # Two nested Sequentials, as in the published names.
        super().__init__([*adapt, nn.Sequential(conv_bn_relu(before[-1], after[-1], stride=2))])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return one feature map more."""
        return [layer(x) for layer, x in zip(self, [*maps, maps[-1]], strict=True)]


def stage(widths: Sequence[int], blocks: int, modules: int) -> nn.Sequential:
    """Chain exchange modules."""
    return nn.Sequential(*(ExchangeModule(widths, blocks) for _ in range(modules)))


class ExchangeModule(nn.Module):
    """Apply residual blocks to each branch, then fuse all branches into each; `widths` are their channels."""

    def __init__(self, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(w) for _ in range(blocks))) for w in widths)
        self.fuse_layers = nn.ModuleList(Fusion(widths, target) for target in range(len(widths)))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return feature maps of the same shapes."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        return [fuse(maps) for fuse in self.fuse_layers]


class Fusion(nn.ModuleList):
    """Bring all branches to the channels and size of branch `target`, sum them, and apply ReLU."""

    def __init__(self, widths: Sequence[int], target: int) -> None:
        super().__init__(path(widths, source, target) for source in range(len(widths)))
        self.target = target

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Sum from branch 0 upwards, in the reference's order, for the same bits."""
        size = maps[self.target].shape[-2:]
        first, *others = (layer(x) for layer, x in zip(self, maps, strict=True))
        for source, other in enumerate(others, start=1):
            first = first + (fit(other, size) if source > self.target else other)
        return F.relu_(first)


def path(widths: Sequence[int], source: int, target: int) -> nn.Module:
    """Make the layers that bring branch `source` to the channels and (about) the size of branch `target`."""
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(
            conv2d(widths[source], widths[target], 1, bias=False),
            batch_norm(widths[target]),
            nn.Upsample(scale_factor=2 ** (source - target), mode="bilinear", align_corners=False),
        )
    layers: list[nn.Module] = []
    for _ in range(target - source - 1):
        layers.append(conv_bn_relu(widths[source], widths[source], stride=2))
    # No ReLU before the sum.
    layers.append(nn.Sequential(conv3x3(widths[source], widths[target], stride=2), batch_norm(widths[target])))
    return nn.Sequential(*layers)


def fit(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize bilinearly to `size` (height, width), with half-pixel centers.

    In a fusion this is a *second* resize, after the path's by exactly 2^k. It changes nothing if the image's sides are
    multiples of 32. The published networks do both; at other sizes (512x683, 97x131) leaving one out changes logits by
    0.1 to 0.2 %, and 0.1 % of the labels.
    """
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; `width` channels in and out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(width, width)
        self.bn1 = batch_norm(width)
        self.conv2 = conv3x3(width, width)
        self.bn2 = batch_norm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        y = F.relu_(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu_(y + x)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions of 64, 64 and 256 channels around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv2d(channels, 64, 1, bias=False)
        self.bn1 = batch_norm(64)
        self.conv2 = conv3x3(64, 64)
        self.bn2 = batch_norm(64)
        self.conv3 = conv2d(64, 256, 1, bias=False)
        self.bn3 = batch_norm(256)
        self.downsample: nn.Module = (
            nn.Identity() if channels == 256 else nn.Sequential(conv2d(channels, 256, 1, bias=False), batch_norm(256))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return 256 channels of the same size."""
        y = F.relu_(self.bn1(self.conv1(x)))
        y = F.relu_(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu_(y + self.downsample(x))


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Make a 3x3 convolution without bias (batch norm follows), padded by one pixel."""
    return conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def conv_bn_relu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Make a 3x3 convolution with batch norm and ReLU."""
    return nn.Sequential(conv3x3(inputs, outputs, stride), batch_norm(outputs), nn.ReLU(inplace=True))
