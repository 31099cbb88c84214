"""The head as one kernel: the maps side by side, of 270 or 720 channels, are never stored, nor what mixes them.

The 1x1 convolution of enlarged maps is the enlarged 1x1 convolution of maps: bilinear weights sum to 1. So the three
coarser maps are mixed at their own sizes, by convolutions before; here the finest one's part is added, then bias, ReLU
and the classifier.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hrnet_zoo.kernels.resizing import CHANNELS_LAST, pixelwise, resized, scale_of

MIXED = 32  # of the mixed channels, that one program makes at a time: they are padded to multiples of it
PIXELS = 64


@triton.jit
def _head_kernel(out, x, mix, bias, classifier, bias2, height, width,
                 y1, h1, w1, sy1, sx1, y2, h2, w2, sy2, sx2, y3, h3, w3, sy3, sx3,
                 C: tl.constexpr, PIXEL: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
                 BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
                 BLOCK_K: tl.constexpr):  # fmt: skip
    """x: K channels. y1 to y3: N channels. mix: (BLOCK_K, N). classifier: (N, BLOCK_C). out: C channels."""
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)[:, None]
    n = tl.program_id(1).to(tl.int64)
    valid = pixel < height * width
    inside = tl.minimum(pixel, height * width - 1)
    row = inside // width
    column = inside % width
    k = tl.arange(0, BLOCK_K)
    step = tl.arange(0, BLOCK_N)[None, :]
    c = tl.arange(0, BLOCK_C)[None, :]
    place = n * height * width + pixel
    a = tl.load(x + place * PIXEL + k[None, :], mask=valid & (k[None, :] < K), other=0.0)
    y1 += n * h1 * w1 * N + step
    y2 += n * h2 * w2 * N + step
    y3 += n * h3 * w3 * N + step
    scores = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for first in range(0, N, BLOCK_N):
        mixed = tl.dot(a, tl.load(mix + k[:, None] * N + first + step))
        mixed += tl.load(bias + first + step)
        mixed += resized(y1 + first, row, column, sy1, sx1, h1, w1, N, valid)
        mixed += resized(y2 + first, row, column, sy2, sx2, h2, w2, N, valid)
        mixed += resized(y3 + first, row, column, sy3, sx3, h3, w3, N, valid)
        mixed = tl.maximum(mixed, 0.0, propagate_nan=tl.PropagateNan.ALL).to(x.dtype.element_ty)
        down = first + tl.arange(0, BLOCK_N)[:, None]
        scores = tl.dot(mixed, tl.load(classifier + down * BLOCK_C + c), scores)
    scores += tl.load(bias2 + c)
    tl.store(out + place * C + c, scores.to(out.dtype.element_ty), mask=valid & (c < C))


def block(channels: int) -> int:
    """Return to how many channels these are padded where a program holds all of them."""
    return max(16, 1 << (channels - 1).bit_length())


def scores(
    x: Tensor, mixed: list[Tensor], mix: Tensor, bias: Tensor, classifier: Tensor, bias2: Tensor, classes: int
) -> Tensor:
    """Return the scores (N, classes, H, W) of the finest map and of the coarser ones, which are mixed already.

    Args:
        x: (N, K, H, W), float16 or bfloat16, as all but the biases.
        mixed: three maps (N, M, h, w), M a multiple of `MIXED`.
        mix: (block(K), M), zeros from row K on.
        bias: (M,) float32.
        classifier: (M, block(classes)), zeros behind the classes.
        bias2: (block(classes),) float32.
        classes: with padding.

    """
    batch, channels, height, width = x.shape
    x, pixel = pixelwise(x)
    coarser: list[object] = []
    for each in mixed:
        h, w = each.shape[2:]
        dense = each.contiguous(memory_format=CHANNELS_LAST)
        coarser += [dense, h, w, scale_of(h, height), scale_of(w, width)]
    out = torch.empty((batch, classes, height, width), dtype=x.dtype, device=x.device, memory_format=CHANNELS_LAST)
    columns = block(classes)
    _head_kernel[(triton.cdiv(height * width, PIXELS), batch)](
        out, x, mix, bias, classifier, bias2, height, width, *coarser,
        C=classes, PIXEL=pixel, N=len(bias), K=channels,
        BLOCK_P=PIXELS, BLOCK_N=MIXED, BLOCK_C=columns, BLOCK_K=block(channels),
        num_warps=8, num_stages=1, enable_fp_fusion=False,
    )  # fmt: skip
    return out
