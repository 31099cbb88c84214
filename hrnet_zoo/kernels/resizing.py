"""Bilinear resizing inside of kernels, and the sum of an exchange as one kernel.

Positions are computed as `hrnet_zoo.scores` and torch do: half-pixel centres, in float32. Launches set
`enable_fp_fusion=False`: a product and a sum round once each then, as they do there.

Maps lie pixel by pixel: channels of one pixel side by side (channels_last), pixels at a constant distance.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

SLOTS = 3  # maps besides the first that one sum takes: there are four branches
PIXELS = 64
CHANNELS = 32


@triton.jit
def neighbours(position, scale, last):
    """Return two old positions for a new one, and the second's share."""
    centre = tl.maximum(scale * (position.to(tl.float32) + 0.5) - 0.5, 0.0)
    first = centre.to(tl.int32)
    return first, tl.minimum(first + 1, last), centre - first.to(tl.float32)


@triton.jit
def blend(near, far, share):
    """Return what lies between two values; each step is rounded."""
    return near * (1.0 - share) + far * share


@triton.jit
def resized(base, row, column, scale_y, scale_x, height, width, PIXEL: tl.constexpr, valid):
    """Return values (pixels, channels), float32, at positions (pixels, 1) of a map of height x width resized once.

    `base` points to the channels (1, channels) of the first pixel.
    """
    top, bottom, down = neighbours(row, scale_y, height - 1)
    left, right, across = neighbours(column, scale_x, width - 1)
    a = tl.load(base + (top * width + left).to(tl.int64) * PIXEL, mask=valid, other=0.0).to(tl.float32)
    b = tl.load(base + (bottom * width + left).to(tl.int64) * PIXEL, mask=valid, other=0.0).to(tl.float32)
    c = tl.load(base + (top * width + right).to(tl.int64) * PIXEL, mask=valid, other=0.0).to(tl.float32)
    d = tl.load(base + (bottom * width + right).to(tl.int64) * PIXEL, mask=valid, other=0.0).to(tl.float32)
    return blend(blend(a, b, down), blend(c, d, down), across)


@triton.jit
def _term(base, n, pixel, row, column, channel, valid, height, width, large_y, large_x, h, w,
          FACTOR: tl.constexpr, TWICE: tl.constexpr, PIXEL: tl.constexpr):  # fmt: skip
    """Return one map of a sum at the first one's positions: as it is, or enlarged by FACTOR and then to height x width.

    h, w: of the map. large_y, large_x: h * FACTOR / height, w * FACTOR / width.
    """
    base += n.to(tl.int64) * h * w * PIXEL + channel
    if FACTOR == 1:
        return tl.load(base + pixel.to(tl.int64) * PIXEL, mask=valid, other=0.0).to(tl.float32)
    scale = 1.0 / FACTOR
    if not TWICE:
        return resized(base, row, column, scale, scale, h, w, PIXEL, valid)
    top, bottom, down = neighbours(row, large_y, h * FACTOR - 1)
    left, right, across = neighbours(column, large_x, w * FACTOR - 1)
    a = resized(base, top, left, scale, scale, h, w, PIXEL, valid)
    b = resized(base, bottom, left, scale, scale, h, w, PIXEL, valid)
    c = resized(base, top, right, scale, scale, h, w, PIXEL, valid)
    d = resized(base, bottom, right, scale, scale, h, w, PIXEL, valid)
    return blend(blend(a, b, down), blend(c, d, down), across)


@triton.jit
def _sum_kernel(out, x, bias, height, width,
                x1, large_y1, large_x1, h1, w1,
                x2, large_y2, large_x2, h2, w2,
                x3, large_y3, large_x3, h3, w3,
                C: tl.constexpr, PIXEL: tl.constexpr,
                F1: tl.constexpr, T1: tl.constexpr, P1: tl.constexpr,
                F2: tl.constexpr, T2: tl.constexpr, P2: tl.constexpr,
                F3: tl.constexpr, T3: tl.constexpr, P3: tl.constexpr,
                BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)[:, None]
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    n = tl.program_id(2)
    valid = (pixel < height * width) & (channel < C)
    inside = tl.minimum(pixel, height * width - 1)
    row = inside // width
    column = inside % width
    place = n.to(tl.int64) * height * width + pixel  # offsets of elements may go beyond 32 bits
    total = tl.load(x + place * PIXEL + channel, mask=valid, other=0.0).to(tl.float32)
    total += tl.load(bias + channel, mask=channel < C, other=0.0)
    if F1 > 0:
        total += _term(x1, n, pixel, row, column, channel, valid, height, width, large_y1, large_x1, h1, w1, F1, T1, P1)
    if F2 > 0:
        total += _term(x2, n, pixel, row, column, channel, valid, height, width, large_y2, large_x2, h2, w2, F2, T2, P2)
    if F3 > 0:
        total += _term(x3, n, pixel, row, column, channel, valid, height, width, large_y3, large_x3, h3, w3, F3, T3, P3)
    total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + place * C + channel, total.to(out.dtype.element_ty), mask=valid)


def total(x: Tensor, others: tuple[Tensor, ...], factors: tuple[int, ...], bias: Tensor) -> Tensor:
    """Return what `hrnet_zoo.engines.gpu_plan.Sum` does, in one pass, summed in float32.

    Args:
        x: (N, C, H, W).
        others: up to three more, (N, C, h, w).
        factors: of each: 1 where it has the size of `x`, or by which it is enlarged first.
        bias: (C,) float32.

    """
    batch, channels, height, width = x.shape
    x, pixel = pixelwise(x)
    slots, kinds = [], []
    for factor, other in zip(factors, others, strict=True):
        h, w = other.shape[2:]
        each, distance = pixelwise(other)
        scales = (scale_of(h * factor, height), scale_of(w * factor, width))
        slots += [each, *scales, h, w]
        kinds += [factor, factor > 1 and (h * factor, w * factor) != (height, width), distance]
    for _ in range(SLOTS - len(others)):
        slots += [x, 1.0, 1.0, 1, 1]
        kinds += [0, False, 0]
    out = torch.empty((batch, channels, height, width), dtype=x.dtype, device=x.device, memory_format=CHANNELS_LAST)
    grid = (triton.cdiv(height * width, PIXELS), triton.cdiv(channels, CHANNELS), batch)
    names = ("F1", "T1", "P1", "F2", "T2", "P2", "F3", "T3", "P3")
    _sum_kernel[grid](
        out, x, bias, height, width, *slots, C=channels, PIXEL=pixel, **dict(zip(names, kinds, strict=True)),
        BLOCK_P=PIXELS, BLOCK_C=CHANNELS, enable_fp_fusion=False,
    )  # fmt: skip
    return out


CHANNELS_LAST = torch.channels_last


def pixelwise(x: Tensor) -> tuple[Tensor, int]:
    """Return a map (N, C, H, W) whose pixels lie at a constant distance, and that: itself, a part of one, or a copy."""
    batch, channels, height, width = x.shape
    batches, between, rows, pixels = x.stride()
    pixel = pixels if width > 1 else rows if height > 1 else batches if batch > 1 else channels
    dense = (height == 1 or rows == width * pixel) and (batch == 1 or batches == height * width * pixel)
    if (channels == 1 or between == 1) and dense and pixel >= channels:
        return x, pixel
    return x.contiguous(memory_format=CHANNELS_LAST), channels


def scale_of(old: int, new: int) -> float:
    """Return the distance of new positions in old ones, a float32."""
    return float(np.float32(old) / np.float32(new))
