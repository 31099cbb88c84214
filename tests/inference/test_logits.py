"""Logits in row chunks: torch's values, the same bits however they are cut, in the memory allowed."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hrnet_zoo.errors import ConfigError
from hrnet_zoo.inference.logits import (
    CPU_BYTES,
    CUDA_BYTES,
    ViewLogits,
    Window,
    check_max_memory,
    merge_views,
    row_chunks,
    rows_per_chunk,
)

# Network input, image: enlarged, reduced, one axis alone, not at all, odd, tiny.
SIZES = [
    ((64, 96), (75, 113)),
    ((64, 96), (20, 31)),
    ((64, 96), (64, 131)),
    ((64, 96), (64, 96)),
    ((97, 131), (388, 523)),
    ((5, 7), (50, 71)),
    ((3, 2), (1, 1)),
]


def smooth(classes: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Return logits (height, width, classes) with regions, as of an image."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, classes, -(-height // 4), -(-width // 4), generator=random)
    return F.interpolate(coarse, size=(height, width), mode="bicubic")[0].permute(1, 2, 0).contiguous()


def whole(height: int, width: int, classes: int = 5, seed: int = 0, flipped: bool = False) -> ViewLogits:
    logits = smooth(classes, -(-height // 4), -(-width // 4), seed)
    return ViewLogits((Window(slice(0, height), slice(0, width), logits),), height, width, flipped)


def slid(height: int, width: int) -> ViewLogits:
    """Four windows that overlap by half."""
    rows, columns = ([slice(0, size * 2 // 3), slice(size // 3, size)] for size in (height, width))
    windows = [
        Window(row, column, smooth(5, (row.stop - row.start + 3) // 4, (column.stop - column.start + 3) // 4, seed))
        for seed, (row, column) in enumerate(product(rows, columns))
    ]
    return ViewLogits(tuple(windows), height, width)


def assembled(views: list[ViewLogits], height: int, width: int, max_memory: int | None = None) -> Tensor:
    parts = list(row_chunks(views, height, width, max_memory))
    assert [rows.start for rows, _ in parts] == [0, *(rows.stop for rows, _ in parts[:-1])]
    assert parts[-1][0].stop == height
    return torch.cat([logits for _, logits in parts])


def plain(view: ViewLogits, height: int, width: int) -> Tensor:
    """Return the logits (height, width, classes) as torch makes them, all at once."""
    total = torch.zeros(1, view.windows[0].logits.shape[2], view.height, view.width)
    count = torch.zeros(1, 1, view.height, view.width)
    for window in view.windows:
        size = (window.rows.stop - window.rows.start, window.columns.stop - window.columns.start)
        logits = window.logits.permute(2, 0, 1)[None].float()
        total[..., window.rows, window.columns] += F.interpolate(logits, size, mode="bilinear", align_corners=False)
        count[..., window.rows, window.columns] += 1
    logits = F.interpolate(total / count, (height, width), mode="bilinear", align_corners=False)
    return (logits.flip(3) if view.flipped else logits)[0].permute(1, 2, 0)


@pytest.mark.parametrize(("inner", "outer"), SIZES)
def test_values_are_those_of_interpolate(inner: tuple[int, int], outer: tuple[int, int]) -> None:
    for view in (whole(*inner), whole(*inner, flipped=True), *([slid(*inner)] if inner[0] > 9 else [])):
        found, expected = assembled([view], *outer), plain(view, *outer)
        assert found.dtype == torch.float32
        assert found.shape == (*outer, 5)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * float(expected.abs().max()))


@pytest.mark.parametrize(("inner", "outer"), SIZES)
def test_the_same_bits_however_they_are_cut(inner: tuple[int, int], outer: tuple[int, int]) -> None:
    row = 4 * (outer[1] + 2 * inner[1]) * 5 * 4
    three = [whole(*inner, seed=seed, flipped=seed == 1) for seed in range(3)]
    for views in (three[:1], three[1:2], three, *([[slid(*inner)]] if inner[0] > 9 else [])):
        at_once = assembled(views, *outer, max_memory=1 << 40)
        for max_memory in (None, row, 3 * row, 7 * row + 1):
            assert torch.equal(assembled(views, *outer, max_memory=max_memory), at_once)


@pytest.mark.parametrize(("inner", "outer"), SIZES)
def test_some_rows_and_columns_are_those_of_all(inner: tuple[int, int], outer: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    rows, columns = (np.flatnonzero(random.random(length) < 0.5) for length in outer)
    rows, columns = (each if len(each) else np.array([0]) for each in (rows, columns))
    three = [whole(*inner, seed=seed, flipped=seed == 1) for seed in range(3)]
    for views in (three[:1], three[1:2], three, *([[slid(*inner)]] if inner[0] > 9 else [])):
        found = merge_views(views, rows, columns, *outer)
        assert torch.equal(found, assembled(views, *outer)[rows][:, columns])


def test_several_views_are_a_mean_of_probabilities() -> None:
    views = [whole(40, 56), whole(64, 96, seed=1, flipped=True)]
    expected = sum(F.softmax(plain(view, 50, 70), dim=2) for view in views) / 2
    torch.testing.assert_close(assembled(views, 50, 70), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_first(dtype: torch.dtype) -> None:
    view = whole(40, 56)
    (window,) = view.windows
    half = window.logits.to(dtype)
    found = assembled([ViewLogits((Window(window.rows, window.columns, half),), 40, 56)], 50, 70)
    wide = assembled([ViewLogits((Window(window.rows, window.columns, half.float()),), 40, 56)], 50, 70)
    assert torch.equal(found, wide)


def test_a_budget_below_one_row_makes_one_row_at_a_time() -> None:
    for max_memory in (1, 1000):  # a row takes 14,560 bytes
        parts = [rows for rows, _ in row_chunks([whole(40, 56)], 50, 70, max_memory)]
        assert parts == [slice(row, row + 1) for row in range(50)]
    assert torch.equal(assembled([whole(40, 56)], 50, 70, 1), assembled([whole(40, 56)], 50, 70))


@pytest.mark.parametrize("wrong", [0, -1])
def test_no_memory_at_all(wrong: int) -> None:
    with pytest.raises(ConfigError, match=rf"max_memory={wrong}\n[\s\S]*at least 1"):
        check_max_memory(wrong)
    check_max_memory(None)
    check_max_memory(1)


def test_on_cuda_what_torch_holds_in_reserve_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    view = whole(64, 96)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    row = 4 * (96 + 2 * 96) * 5 * 4

    def rows() -> int:
        return rows_per_chunk([view], 96, None)

    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (100 << 20, 0))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: 900 << 20)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda _: 200 << 20)
    assert rows() == (100 + 900 - 200 << 20) // 4 // row
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (100 << 30, 0))
    assert rows() == CUDA_BYTES // row


def test_one_row_is_made_however_long() -> None:
    """With 250 classes a row takes more than the default, which is a habit and no limit."""
    view = whole(4, 4000, 250)
    assert CPU_BYTES < 4 * (4000 + 2 * 4000) * 250 * 4
    assert [rows for rows, _ in row_chunks([view], 4, 4000, None)] == [slice(row, row + 1) for row in range(4)]


def test_memory_is_bounded() -> None:
    """150 classes on 3 megapixels: 1.8 GB of logits, were they all made; the mask takes 3 MB."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted from here on
    except OSError:
        pytest.skip("the peak of this process's memory cannot be measured here")

    def peak() -> int:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) << 10

    views = [whole(256, 341, 150), whole(128, 171, 150, flipped=True)]
    before = peak()
    mask = torch.zeros(900, 1333, dtype=torch.uint8)
    for rows, logits in row_chunks(views, 900, 1333, None):
        mask[rows] = logits.argmax(dim=2)
    assert mask.any(dim=1).all()
    assert peak() - before < 10 * CPU_BYTES


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("inner", "outer"), SIZES)
def test_cuda_gives_the_same_bits(inner: tuple[int, int], outer: tuple[int, int]) -> None:
    view = whole(*inner)
    (window,) = view.windows
    there = ViewLogits((Window(window.rows, window.columns, window.logits.cuda()),), *inner)
    assert torch.equal(assembled([there], *outer).cpu(), assembled([view], *outer))
