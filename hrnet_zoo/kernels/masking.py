"""Scores at a quarter of the size -> mask, in one kernel: no scores of the picture's size are ever stored.

The arithmetic is that of `hrnet_zoo.scores`, operation by operation in float32, so that the mask of one view is, bit
for bit, the argmax of its scores. With several views the probabilities are `exp(x - max) / sum`: the order of that sum,
and the last digits of `exp`, differ from those of torch's softmax. Pixels whose two best classes are equal to about
1e-7 may differ then.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from hrnet_zoo.kernels import right
from hrnet_zoo.kernels.resizing import blend, neighbours, resized, scale_of
from hrnet_zoo.scores import ScoreMap, Window, pieces

TILE = 1024  # scores that one program makes at a time


@triton.jit
def _view(scores, table, scales, view, row, column, classes, valid, TWICE: tl.constexpr, PIXEL: tl.constexpr):
    """Return the scores (pixels, classes) of one view at positions of the picture, float32."""
    facts = table + view * 7
    offset = tl.multiple_of(tl.load(facts), 8)
    h = tl.load(facts + 1).to(tl.int32)
    w = tl.load(facts + 2).to(tl.int32)
    height = tl.load(facts + 3).to(tl.int32)
    width = tl.load(facts + 4).to(tl.int32)
    mirror = tl.load(facts + 5).to(tl.int32)
    last = tl.load(facts + 6).to(tl.int32)
    inner_y = tl.load(scales + view * 4)
    inner_x = tl.load(scales + view * 4 + 1)
    base = scores + offset + classes
    column = column * (1 - mirror) + (last - column) * mirror
    if not TWICE:
        return resized(base, row, column, inner_y, inner_x, h, w, PIXEL, valid)
    outer_y = tl.load(scales + view * 4 + 2)
    outer_x = tl.load(scales + view * 4 + 3)
    top, bottom, down = neighbours(row, outer_y, height - 1)
    left, right, across = neighbours(column, outer_x, width - 1)
    a = resized(base, top, left, inner_y, inner_x, h, w, PIXEL, valid)
    b = resized(base, bottom, left, inner_y, inner_x, h, w, PIXEL, valid)
    c = resized(base, top, right, inner_y, inner_x, h, w, PIXEL, valid)
    d = resized(base, bottom, right, inner_y, inner_x, h, w, PIXEL, valid)
    return blend(blend(a, b, down), blend(c, d, down), across)


@triton.jit
def _mask_kernel(mask, scores, table, scales, width,
                 CLASSES: tl.constexpr, PIXEL: tl.constexpr, TWICE: tl.constexpr, VIEWS: tl.constexpr,
                 BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)[:, None]
    classes = tl.arange(0, BLOCK_C)[None, :]
    there = classes < CLASSES
    valid = (column < width) & (classes < PIXEL)  # what lies behind the classes is read, in whole words, and not used
    inside = tl.minimum(column, width - 1)
    if VIEWS > 1:
        total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
        for view in range(VIEWS):
            x = _view(scores, table, scales, view, row, inside, classes, valid, TWICE, PIXEL)
            x = tl.where(there, x, float("-inf"))
            shares = tl.exp(x - tl.max(x, axis=1, keep_dims=True))
            total += shares / tl.sum(shares, axis=1, keep_dims=True)
    else:
        total = _view(scores, table, scales, 0, row, inside, classes, valid, TWICE, PIXEL)
    # As torch's argmax: nan is above all, and of equals the first is taken.
    unknown = (total != total) & there
    total = tl.where(there & (total == total), total, float("-inf"))
    best = (total == tl.max(total, axis=1, keep_dims=True)) & there
    some = tl.max(unknown.to(tl.int32), axis=1, keep_dims=True) > 0
    label = tl.min(tl.where(tl.where(some, unknown, best), classes, BLOCK_C), axis=1, keep_dims=True)
    place = mask + row.to(tl.int64) * width + column
    tl.store(place, label.to(tl.uint8), mask=column < width)


def best_classes(maps: Sequence[ScoreMap], height: int, width: int) -> Tensor:
    """Return the best class (height, width) of each pixel of a picture, uint8, by the scores of one or more views.

    Args:
        maps: the views of one picture; of one window each.
        height: of the picture.
        width: of the picture.

    """
    parts = [flat(view.windows[0].scores) for view in maps]
    table, scales, start = [], [], 0
    for view, part in zip(maps, parts, strict=True):
        h, w, classes = view.windows[0].scores.shape
        table += [start, h, w, view.height, view.width, int(view.mirrored), width - 1]
        scales += [scale_of(h, view.height), scale_of(w, view.width)]
        scales += [scale_of(view.height, height), scale_of(view.width, width)]
        start += part.numel()
    scores = parts[0] if len(parts) == 1 else torch.cat(parts)
    device = scores.device
    mask = torch.empty((height, width), dtype=torch.uint8, device=device)
    block = max(16, 1 << (classes - 1).bit_length())
    pixels = max(1, TILE // block)
    twice = any((view.height, view.width) != (height, width) for view in maps)
    _mask_kernel[(height, triton.cdiv(width, pixels))](
        mask, scores, _moved(torch.tensor(table), device), _moved(torch.tensor(scales, dtype=torch.float32), device),
        width, CLASSES=classes, PIXEL=pixel_of(classes), TWICE=twice, VIEWS=len(maps),
        BLOCK_P=pixels, BLOCK_C=block, enable_fp_fusion=False,
    )  # fmt: skip
    return mask


def flat(scores: Tensor) -> Tensor:
    """Return scores (h, w, classes) pixel by pixel, (h * w * `pixel_of(classes)`,): as they lie if they lie so."""
    h, w, classes = scores.shape
    rows, pixels, between = scores.stride()
    pixel = pixel_of(classes)
    lies = (classes == 1 or between == 1) and (w == 1 or pixels == pixel) and (h == 1 or rows == w * pixel)
    room = scores.untyped_storage().nbytes() // scores.element_size() - scores.storage_offset()
    if lies and room >= h * w * pixel:
        return scores.as_strided((h * w * pixel,), (1,))
    return F.pad(scores, (0, pixel - classes)).reshape(-1)


def pixel_of(classes: int) -> int:
    """Return the distance of pixels: a multiple of 8, so that words of 16 bytes are loaded."""
    return -(-classes // 8) * 8


def _moved(x: Tensor, device: torch.device) -> Tensor:
    """Return a few numbers on the device, without waiting for it."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x


@functools.cache
def usable(device: torch.device) -> bool:
    """Tell whether the kernel gives here the masks that it should; if not, one log line says why."""
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(5, 7, 19, generator=generator) for _ in range(2)]
    size = (22, 31)
    for count in (1, 2):
        there, here = (
            [_example(each.to(place), n) for n, each in enumerate(views[:count])] for place in (device, "cpu")
        )
        expected = torch.cat([scores.argmax(dim=2) for _, scores in pieces(here, *size, None)])
        if not right("masks", functools.partial(best_classes, there, *size), expected, 0):
            return False
    return True


def _example(scores: Tensor, number: int) -> ScoreMap:
    return ScoreMap((Window(slice(0, 18), slice(0, 27), scores),), 18, 27, mirrored=number == 1)


def feasible(maps: Sequence[ScoreMap]) -> bool:
    """Tell whether these views are such as the kernel takes: one window each. Averages of windows are left to torch."""
    return all(len(view.windows) == 1 for view in maps)
