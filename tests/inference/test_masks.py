"""Masks without all logits: to the bit the argmax of all logits, whatever they are, in little memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

from hrnet_zoo.inference import masks
from hrnet_zoo.inference.blocks import UNDECIDED
from hrnet_zoo.inference.logits import CPU_BYTES, Lerp, ViewLogits, Window, _blend, merge_views, row_chunks
from hrnet_zoo.inference.masks import ONE, _decide_views, bounds_of_view, make_mask, rounding_margin
from tests.support.view_logits import KINDS, any_view, noise, seen, smooth

# Network input, image: the same, enlarged, reduced, along one axis alone, odd, tiny.
SIZES = [
    ((64, 96), (64, 96)),
    ((61, 99), (61, 99)),
    ((64, 96), (75, 113)),
    ((32, 48), (101, 155)),
    ((64, 96), (20, 31)),
    ((64, 96), (64, 131)),
    ((64, 96), (51, 96)),
    ((33, 45), (133, 178)),
    ((5, 7), (50, 71)),
    ((3, 2), (1, 1)),
    ((1, 1), (1, 1)),
    ((1, 9), (7, 1)),
]


def of_all_logits(views: Sequence[ViewLogits], height: int, width: int) -> npt.NDArray[np.uint8]:
    parts = [logits.argmax(dim=2) for _, logits in row_chunks(views, height, width, None)]
    return torch.cat(parts).to("cpu", torch.uint8).numpy()


@pytest.mark.parametrize(("inner", "outer"), SIZES)
def test_one_view_of_any_scores(inner: tuple[int, int], outer: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(0)
    for classes in (2, 19, 150):
        for kind in KINDS:
            for dtype in (torch.float32, torch.bfloat16, torch.float16)[: 1 if classes == 150 else 3]:
                view = seen(lambda h, w: kind(random, h, w, classes).to(dtype), *inner)  # noqa: B023  # called at once
                assert np.array_equal(make_mask([view], *outer), of_all_logits([view], *outer)), (kind, dtype)


def test_any_view_at_any_size() -> None:
    random = np.random.default_rng(1)
    for number in range(100):
        (h, w), (height, width) = (random.integers(1, side, 2).tolist() for side in random.choice([9, 70], 2))
        view = any_view(random, h, w, int(random.choice([1, 2, 3, 19, 60])), whole=number % 3 > 0)
        found = make_mask([view], height, width, max_memory=int(random.choice([1, 100_000, CPU_BYTES])))
        assert np.array_equal(found, of_all_logits([view], height, width))


def test_any_views_together() -> None:
    random = np.random.default_rng(2)
    for number in range(40):
        height, width = random.integers(1, int(random.choice([9, 80])), 2).tolist()
        classes = int(random.choice([1, 2, 3, 19]))
        views = [
            any_view(random, max(1, int(height * ratio)), max(1, int(width * ratio)), classes, whole=number % 3 > 0)
            for ratio in random.uniform(0.4, 1.6, random.integers(2, 6))
        ]
        found = make_mask(views, height, width, max_memory=int(random.choice([1, 100_000, CPU_BYTES])))
        assert np.array_equal(found, of_all_logits(views, height, width))


def scales_and_flips(size: int, gain: float) -> list[ViewLogits]:
    """Return six scales of one image of 2 x 3 times `size` pixels, each also flipped."""
    views = []
    for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75):
        height, width = int(2 * size * ratio), int(3 * size * ratio)
        image = smooth(torch.Generator().manual_seed(0), 20, 30, 19).permute(2, 0, 1)[None] * gain
        for flipped in (False, True):
            old = -(-height // 4), -(-width // 4)
            logits = torch.nn.functional.interpolate(image, old, mode="bilinear")[0].permute(1, 2, 0)
            logits = logits.flip(1) if flipped else logits
            views.append(seen(lambda h, w: logits.contiguous(), height, width, flipped=flipped))  # noqa: B023
    return views


@pytest.mark.parametrize("gain", [0.01, 1, 4, 1000])
def test_views_that_agree_mostly(gain: float) -> None:
    views = scales_and_flips(40, gain)
    assert np.array_equal(make_mask(views, 80, 120), of_all_logits(views, 80, 120))


def test_few_scores_are_made_where_much_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    mix = masks._blend

    def counted_mean(*args: object) -> torch.Tensor:
        logits = merge_views(*args)  # type: ignore[arg-type]
        made.append(logits.numel())
        return logits

    def counted_mix(*args: object) -> npt.NDArray[np.float32]:
        logits = mix(*args)  # type: ignore[arg-type]
        made.append(logits.size)
        return logits

    monkeypatch.setattr(masks, "merge_views", counted_mean)
    monkeypatch.setattr(masks, "_blend", counted_mix)
    monkeypatch.setattr(masks, "row_chunks", pytest.fail)
    random = torch.Generator().manual_seed(3)
    make_mask(scales_and_flips(120, 4), 240, 360)
    assert 0 < sum(made) < 0.5 * 240 * 360 * 19
    view = seen(lambda h, w: smooth(random, h, w, 150), 160, 240)
    for height, width in ((160, 240), (170, 222)):
        made.clear()
        make_mask([view], height, width)
        assert 0 < sum(made) < 0.6 * height * width * 150  # of all, it would be eight times as many


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_scores_that_are_no_numbers_or_too_large(wrong: float) -> None:
    random = torch.Generator().manual_seed(4)
    for several in (False, True):
        for outer in ((64, 96), (75, 113)):
            logits = smooth(random, 16, 24, 19)
            logits[3:5, 7, 11] = wrong
            views = [seen(lambda h, w: logits, 64, 96)] * (2 if several else 1)  # noqa: B023  # called at once
            assert np.array_equal(make_mask(views, *outer), of_all_logits(views, *outer))


def test_the_last_of_256_classes() -> None:
    logits = smooth(torch.Generator().manual_seed(5), 16, 24, 256)
    logits[:, 12:, 255] += 20
    for outer in ((64, 96), (75, 113)):
        view = seen(lambda h, w: logits, 64, 96)
        found = make_mask([view], *outer)
        assert (found[:, -40:] == 255).all()
        assert np.array_equal(found, of_all_logits([view], *outer))


def test_any_order_in_memory() -> None:
    logits = smooth(torch.Generator().manual_seed(6), 16, 24, 19)
    planes = logits.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    one, other = (seen(lambda h, w: each, 64, 96) for each in (logits, planes))  # noqa: B023  # called at once
    for outer in ((64, 96), (75, 113)):
        for number in (1, 2):
            assert np.array_equal(make_mask([other] * number, *outer), of_all_logits([one] * number, *outer))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads(threads: int) -> None:
    random = torch.Generator().manual_seed(7)
    view = seen(lambda h, w: smooth(random, h, w, 60), 128, 160)
    expected = of_all_logits([view], 140, 150)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert np.array_equal(make_mask([view], 140, 150), expected)
        assert np.array_equal(make_mask([view, view], 140, 150), expected)
    finally:
        torch.set_num_threads(before)


def test_memory_is_bounded() -> None:
    """150 classes: 600 MB of logits, were they all made; with noise, where all of them may be the best, 150 MB."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted from here on
    except OSError:
        pytest.skip("the peak of this process's memory cannot be measured here")

    def peak() -> int:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) << 10

    random = torch.Generator().manual_seed(8)
    for kind, size in ((smooth, (1000, 1000)), (noise, (500, 500))):
        view = seen(lambda h, w: kind(random, h, w, 150), 256, 341)  # noqa: B023  # called at once
        before = peak()
        make_mask([view], *size)
        assert peak() - before < 6 * CPU_BYTES


def test_rounding_stays_within_the_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the same means in float64."""

    def exactly(x: torch.Tensor, dim: int, axis: Lerp) -> torch.Tensor:
        near, far = (x.index_select(dim, torch.from_numpy(each)).double() for each in axis[:2])
        weight = torch.from_numpy(axis.weight).double().reshape([-1 if each == dim else 1 for each in range(3)])
        return (1 - weight) * near + weight * far

    random = torch.Generator().manual_seed(0)
    view = seen(lambda h, w: noise(random, h, w, 5) * 40, 96, 128)
    largest = float(view.windows[0].logits.abs().max())
    positions = np.arange(111), np.arange(150)
    found = merge_views([view], *positions, 111, 150).double()
    monkeypatch.setattr("hrnet_zoo.inference.logits._blend", exactly)
    exact = merge_views([view], *positions, 111, 150)
    assert exact.dtype == torch.float64
    off = float((found - exact).abs().max())
    assert 0 < 2 * off < float(rounding_margin(largest))
    assert _blend is not exactly


def test_bounds_of_a_view_hold() -> None:
    random = np.random.default_rng(1)
    decided = 0
    for _ in range(60):
        h, w, height, width = random.integers(1, 70, 4).tolist()
        view = any_view(random, h, w, int(random.choice([2, 5, 19])), whole=True)
        labels, gaps = bounds_of_view(view, (height, width), np.float32(1e-3), 2 << 20)
        logits = merge_views([view], np.arange(height), np.arange(width), height, width)
        best = F.softmax(logits, dim=2).topk(2, dim=2)
        known = labels != UNDECIDED
        assert np.array_equal(best.indices[..., 0].numpy()[known], labels[known])
        gap = (best.values[..., 0] - best.values[..., 1]).numpy()
        assert (gap[known] >= gaps[known] / ONE - 1e-5).all()
        decided += known.sum()
    assert decided > 10_000


def test_gaps_of_views_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leading class is ahead by 0.76 in one view, and behind by 0.46 in the other; or as much."""

    def view(*logits: float) -> ViewLogits:
        return ViewLogits((Window(slice(0, 8), slice(0, 8), torch.tensor(logits).expand(2, 2, 2)),), 8, 8)

    def upsampled(*views: ViewLogits) -> bool:
        rows: list[object] = []

        def spy(*some: Any) -> torch.Tensor:
            rows.append(some)
            return merge_views(*some)

        monkeypatch.setattr(masks, "merge_views", spy)
        _decide_views(mask, views, np.float32(1e-3), 2 << 20)
        return bool(rows)

    mask = np.zeros((8, 8), np.uint8)
    one, other, opposite = view(2, 0), view(0, 1), view(0, 2)
    assert upsampled(one, other)  # that it is behind by 0.46 only is not looked at
    assert upsampled(one, opposite)
    assert not upsampled(one, one, one, other)
    assert (mask == 0).all()
    assert not upsampled(opposite, opposite, one, opposite, opposite, opposite)
    assert (mask == 1).all()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_mask() -> None:
    random = torch.Generator().manual_seed(9)
    for outer in ((64, 96), (75, 113)):
        view = seen(lambda h, w: smooth(random, h, w, 19), 64, 96)
        (window,) = view.windows
        there = ViewLogits((Window(window.rows, window.columns, window.logits.cuda()),), 64, 96)
        assert np.array_equal(make_mask([there], *outer), make_mask([view], *outer))
