"""Logits of all kinds for tests: with regions, without, with ties, in one window or several."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hrnet_zoo.inference.logits import ViewLogits, Window
from hrnet_zoo.inference.predict import windows as cover


def smooth(random: torch.Generator, height: int, width: int, classes: int) -> Tensor:
    """Return logits with regions, as of an image."""
    coarse = 3 * torch.randn(1, classes, -(-height // 5), -(-width // 5), generator=random)
    return F.interpolate(coarse, size=(height, width), mode="bilinear")[0].permute(1, 2, 0).contiguous()


def noise(random: torch.Generator, height: int, width: int, classes: int) -> Tensor:
    """Return logits without regions: nothing is known of any pixel."""
    return torch.randn(height, width, classes, generator=random)


def tied(random: torch.Generator, height: int, width: int, classes: int) -> Tensor:
    """Return logits of few values, many of them equal."""
    return (1.5 * torch.randn(height, width, classes, generator=random)).round()


def close(random: torch.Generator, height: int, width: int, classes: int) -> Tensor:
    """Return logits that differ by one or two of float32's smallest steps."""
    return 1 + torch.randint(0, 3, (height, width, classes), generator=random) * 2.0**-23


def constant(random: torch.Generator, height: int, width: int, classes: int) -> Tensor:
    """Return logits of one value."""
    return torch.full((height, width, classes), float(torch.randn((), generator=random)))


KINDS: tuple[Callable[[torch.Generator, int, int, int], Tensor], ...] = (smooth, noise, tied, close, constant)


def seen(
    logits: Callable[[int, int], Tensor],
    height: int,
    width: int,
    *,
    window: tuple[int, int] | None = None,
    flipped: bool = False,
) -> ViewLogits:
    """Return a view of an image, whole or by windows (side, stride); `logits` makes those of each window."""
    side, stride = window or (max(height, width), 1)
    windows = tuple(
        Window(rows, columns, logits(-(-(rows.stop - rows.start) // 4), -(-(columns.stop - columns.start) // 4)))
        for rows in cover(height, side, stride)
        for columns in cover(width, side, stride)
    )
    return ViewLogits(windows, height, width, flipped)


def any_view(random: np.random.Generator, height: int, width: int, classes: int, *, whole: bool = False) -> ViewLogits:
    """Return a view of any kind, in any dtype, flipped or not; in one window or several, unless `whole`."""
    kind = KINDS[random.integers(len(KINDS))]
    dtype = (torch.float32, torch.float16, torch.bfloat16)[random.integers(3)]
    generator = torch.Generator().manual_seed(int(random.integers(1 << 30)))
    side = int(random.integers(5, 41))
    return seen(
        lambda h, w: kind(generator, h, w, classes).to(dtype),
        height,
        width,
        window=(side, int(random.integers(3, side + 1))) if not whole and random.random() < 0.3 else None,
        flipped=bool(random.random() < 0.3),
    )
