"""Scores of all kinds for tests: with regions, without, with ties, in one window or several."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hrnet_zoo.inference.logits import ScoreMap, Window
from hrnet_zoo.inference.predict import _windows


def smooth(random: torch.Generator, height: int, width: int, classes: int) -> Tensor:
    """Return scores with regions, as of an image."""
    coarse = 3 * torch.randn(1, classes, -(-height // 5), -(-width // 5), generator=random)
    return F.interpolate(coarse, size=(height, width), mode="bilinear")[0].permute(1, 2, 0).contiguous()


def noise(random: torch.Generator, height: int, width: int, classes: int) -> Tensor:
    """Return scores without regions: nothing is known of any pixel."""
    return torch.randn(height, width, classes, generator=random)


def tied(random: torch.Generator, height: int, width: int, classes: int) -> Tensor:
    """Return scores of few values, many of them equal."""
    return (1.5 * torch.randn(height, width, classes, generator=random)).round()


def close(random: torch.Generator, height: int, width: int, classes: int) -> Tensor:
    """Return scores that differ by one or two of float32's smallest steps."""
    return 1 + torch.randint(0, 3, (height, width, classes), generator=random) * 2.0**-23


def constant(random: torch.Generator, height: int, width: int, classes: int) -> Tensor:
    """Return scores of one value."""
    return torch.full((height, width, classes), float(torch.randn((), generator=random)))


KINDS: tuple[Callable[[torch.Generator, int, int, int], Tensor], ...] = (smooth, noise, tied, close, constant)


def seen(
    scores: Callable[[int, int], Tensor],
    height: int,
    width: int,
    *,
    window: tuple[int, int] | None = None,
    mirrored: bool = False,
) -> ScoreMap:
    """Return a view of an image, whole or by windows (side, stride); `scores` makes those of each window."""
    side, stride = window or (max(height, width), 1)
    windows = tuple(
        Window(rows, columns, scores(-(-(rows.stop - rows.start) // 4), -(-(columns.stop - columns.start) // 4)))
        for rows in _windows(height, side, stride)
        for columns in _windows(width, side, stride)
    )
    return ScoreMap(windows, height, width, mirrored)


def any_view(random: np.random.Generator, height: int, width: int, classes: int) -> ScoreMap:
    """Return a view of any kind, in any dtype, whole or by windows, mirrored or not."""
    kind = KINDS[random.integers(len(KINDS))]
    dtype = (torch.float32, torch.float16, torch.bfloat16)[random.integers(3)]
    generator = torch.Generator().manual_seed(int(random.integers(1 << 30)))
    side = int(random.integers(5, 41))
    return seen(
        lambda h, w: kind(generator, h, w, classes).to(dtype),
        height,
        width,
        window=(side, int(random.integers(3, side + 1))) if random.random() < 0.3 else None,
        mirrored=bool(random.random() < 0.3),
    )
