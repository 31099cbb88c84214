"""OCRNet's head: each pixel is classified by its own features and those of the classes that it resembles.

    maps -+-> FCN head ---> soft object regions -----.
          |                                          v
          '-> 3x3 conv ---> pixel features --> class features, one vector for each class
                              |       |              |
                              |       '-> attention <'
                              v               v
              logits <--- [pixel features, object context]

A soft object region says where in the image a class is: the FCN head's logits of that class, normalized over all
positions. The class's features are the mean of the pixel features, weighted by it. The object context of a pixel is a
mean over the classes, weighted by how much the pixel's features resemble theirs.

Paper: https://arxiv.org/abs/1909.11065, figure 3. Parameter names are those of the published checkpoints, which load
with `strict=True`.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from hrnet_zoo.models.heads import ConvModule, FCNHead, concatenate
from hrnet_zoo.models.skip_init import conv2d

CHANNELS, KEY_CHANNELS = 512, 256  # of pixel and class features; of queries, keys and values
# A power of two: no bit of float32 changes. In float16, weights of 1 / (H * W) would be subnormal.
_SCALE = 256


class OCRNetHead(nn.ModuleList):
    """Two heads: the first, an FCN head, finds the soft object regions for the second, whose logits are the result."""

    def __init__(self, widths: Sequence[int], num_classes: int) -> None:
        super().__init__([FCNHead(widths, num_classes), OCRHead(sum(widths), num_classes)])

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return logits (N, classes, H/4, W/4)."""
        return self.both_logits(maps)[1]

    def both_logits(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits of both heads: a loss on the first ones helps training."""
        fcn, ocr = self
        x = concatenate(maps)
        regions = fcn([x])
        return regions, ocr(x, regions)


class OCRHead(nn.Module):
    """The second head."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv_seg = conv2d(CHANNELS, num_classes, 1)
        self.object_context_block = ObjectContextBlock()
        self.bottleneck = ConvModule(channels, CHANNELS, 3)

    def forward(self, x: Tensor, regions: Tensor) -> Tensor:
        """Return logits (N, K, H, W) from concatenated maps (N, C, H, W) and the first head's logits (N, K, H, W)."""
        pixels = self.bottleneck(x)
        return cast(Tensor, self.conv_seg(self.object_context_block(pixels, class_features(pixels, regions))))


class ObjectContextBlock(nn.Module):
    """Add to each pixel's features its object context."""

    def __init__(self) -> None:
        super().__init__()
        self.key_project = nn.Sequential(ConvModule(CHANNELS, KEY_CHANNELS), ConvModule(KEY_CHANNELS, KEY_CHANNELS))
        self.query_project = nn.Sequential(ConvModule(CHANNELS, KEY_CHANNELS), ConvModule(KEY_CHANNELS, KEY_CHANNELS))
        self.value_project = ConvModule(CHANNELS, KEY_CHANNELS)
        self.out_project = ConvModule(KEY_CHANNELS, CHANNELS)
        self.bottleneck = ConvModule(2 * CHANNELS, CHANNELS)

    def forward(self, pixels: Tensor, classes: Tensor) -> Tensor:
        """Return (N, 512, H, W) from pixel features (N, 512, H, W) and class features (N, 512, K, 1)."""
        context = attention(self.query_project(pixels), self.key_project(classes), self.value_project(classes))
        return cast(Tensor, self.bottleneck(torch.cat([self.out_project(context), pixels], dim=1)))


def class_features(pixels: Tensor, regions: Tensor) -> Tensor:
    """Return (N, C, K, 1): the mean of pixel features (N, C, H, W) over each of K soft object regions (N, K, H, W)."""
    weights = softmax(regions.flatten(2), dim=2)
    means = (weights * _SCALE).to(pixels.dtype) @ (pixels / _SCALE).flatten(2).transpose(1, 2)
    return means.transpose(1, 2).unsqueeze(3)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the object context (N, C, H, W): for each pixel's query, the mean of values (N, C, K, 1) by their keys."""
    likeness = query.flatten(2).transpose(1, 2) @ (key.flatten(2) * query.shape[1] ** -0.5)
    weights = softmax(likeness, dim=2).to(query.dtype)  # (N, H * W, K)
    context = weights @ value.flatten(2).transpose(1, 2)  # in this order "channels last", as maps are in `predict`
    return context.transpose(1, 2).reshape(query.shape)


def softmax(x: Tensor, dim: int) -> Tensor:
    """Return the softmax in float32, or float64: in half precision, training loses accuracy (mmsegmentation #1584)."""
    return x.softmax(dim, dtype=torch.promote_types(x.dtype, torch.float32))
