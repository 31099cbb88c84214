"""Masks without all scores: to the bit the argmax of all scores, whatever they are, in little memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from hrnet_zoo.inference import masks
from hrnet_zoo.inference.logits import CPU_BYTES, ScoreMap, Window, mean, pieces
from hrnet_zoo.inference.masks import best_classes
from tests.support.score_maps import KINDS, any_view, noise, seen, smooth

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


def of_all_scores(maps: Sequence[ScoreMap], height: int, width: int) -> npt.NDArray[np.uint8]:
    parts = [scores.argmax(dim=2) for _, scores in pieces(maps, height, width, None)]
    return torch.cat(parts).to("cpu", torch.uint8).numpy()


@pytest.mark.parametrize(("inner", "outer"), SIZES)
def test_one_view_of_any_scores(inner: tuple[int, int], outer: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(0)
    for classes in (2, 19, 150):
        for kind in KINDS:
            for dtype in (torch.float32, torch.bfloat16, torch.float16)[: 1 if classes == 150 else 3]:
                view = seen(lambda h, w: kind(random, h, w, classes).to(dtype), *inner)  # noqa: B023  # called at once
                assert np.array_equal(best_classes([view], *outer), of_all_scores([view], *outer)), (kind, dtype)


def test_any_view_at_any_size() -> None:
    random = np.random.default_rng(1)
    for _ in range(100):
        (h, w), (height, width) = (random.integers(1, side, 2).tolist() for side in random.choice([9, 70], 2))
        view = any_view(random, h, w, int(random.choice([1, 2, 3, 19, 60])))
        found = best_classes([view], height, width, max_memory=int(random.choice([1, 100_000, CPU_BYTES])))
        assert np.array_equal(found, of_all_scores([view], height, width))


def test_any_views_together() -> None:
    random = np.random.default_rng(2)
    for _ in range(40):
        height, width = random.integers(1, int(random.choice([9, 80])), 2).tolist()
        classes = int(random.choice([1, 2, 3, 19]))
        maps = [
            any_view(random, max(1, int(height * ratio)), max(1, int(width * ratio)), classes)
            for ratio in random.uniform(0.4, 1.6, random.integers(2, 6))
        ]
        found = best_classes(maps, height, width, max_memory=int(random.choice([1, 100_000, CPU_BYTES])))
        assert np.array_equal(found, of_all_scores(maps, height, width))


def alike(size: int, gain: float) -> list[ScoreMap]:
    """Return six scales of one image of 2 x 3 times `size` pixels, each also mirrored."""
    maps = []
    for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75):
        height, width = int(2 * size * ratio), int(3 * size * ratio)
        image = smooth(torch.Generator().manual_seed(0), 20, 30, 19).permute(2, 0, 1)[None] * gain
        for mirrored in (False, True):
            old = -(-height // 4), -(-width // 4)
            scores = torch.nn.functional.interpolate(image, old, mode="bilinear")[0].permute(1, 2, 0)
            scores = scores.flip(1) if mirrored else scores
            maps.append(seen(lambda h, w: scores.contiguous(), height, width, mirrored=mirrored))  # noqa: B023
    return maps


@pytest.mark.parametrize("gain", [0.01, 1, 4, 1000])
def test_views_that_agree_mostly(gain: float) -> None:
    maps = alike(40, gain)
    assert np.array_equal(best_classes(maps, 80, 120), of_all_scores(maps, 80, 120))


def test_few_scores_are_made_where_much_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    mix = masks._mix

    def counted_mean(*args: object) -> torch.Tensor:
        scores = mean(*args)  # type: ignore[arg-type]
        made.append(scores.numel())
        return scores

    def counted_mix(*args: object) -> npt.NDArray[np.float32]:
        scores = mix(*args)  # type: ignore[arg-type]
        made.append(scores.size)
        return scores

    monkeypatch.setattr(masks, "mean", counted_mean)
    monkeypatch.setattr(masks, "_mix", counted_mix)
    monkeypatch.setattr(masks, "pieces", pytest.fail)
    random = torch.Generator().manual_seed(3)
    best_classes(alike(120, 4), 240, 360)
    assert 0 < sum(made) < 0.5 * 240 * 360 * 19
    view = seen(lambda h, w: smooth(random, h, w, 150), 160, 240)
    for height, width in ((160, 240), (170, 222)):
        made.clear()
        best_classes([view], height, width)
        assert 0 < sum(made) < 0.6 * height * width * 150  # of all, it would be eight times as many


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_scores_that_are_no_numbers_or_too_large(wrong: float) -> None:
    random = torch.Generator().manual_seed(4)
    for several in (False, True):
        for outer in ((64, 96), (75, 113)):
            scores = smooth(random, 16, 24, 19)
            scores[3:5, 7, 11] = wrong
            maps = [seen(lambda h, w: scores, 64, 96)] * (2 if several else 1)  # noqa: B023  # called at once
            assert np.array_equal(best_classes(maps, *outer), of_all_scores(maps, *outer))


def test_the_last_of_256_classes() -> None:
    scores = smooth(torch.Generator().manual_seed(5), 16, 24, 256)
    scores[:, 12:, 255] += 20
    for outer in ((64, 96), (75, 113)):
        view = seen(lambda h, w: scores, 64, 96)
        found = best_classes([view], *outer)
        assert (found[:, -40:] == 255).all()
        assert np.array_equal(found, of_all_scores([view], *outer))


def test_any_order_in_memory() -> None:
    scores = smooth(torch.Generator().manual_seed(6), 16, 24, 19)
    planes = scores.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    one, other = (seen(lambda h, w: each, 64, 96) for each in (scores, planes))  # noqa: B023  # called at once
    assert np.array_equal(best_classes([one], 64, 96), best_classes([other], 64, 96))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads(threads: int) -> None:
    random = torch.Generator().manual_seed(7)
    view = seen(lambda h, w: smooth(random, h, w, 60), 128, 160)
    expected = of_all_scores([view], 140, 150)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert np.array_equal(best_classes([view], 140, 150), expected)
        assert np.array_equal(best_classes([view, view], 140, 150), expected)
    finally:
        torch.set_num_threads(before)


def test_memory_is_bounded() -> None:
    """150 classes: 600 MB of scores, were they all made; with noise, where all of them may be the best, 150 MB."""
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
        best_classes([view], *size)
        assert peak() - before < 6 * CPU_BYTES


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_mask() -> None:
    random = torch.Generator().manual_seed(9)
    for outer in ((64, 96), (75, 113)):
        view = seen(lambda h, w: smooth(random, h, w, 19), 64, 96)
        (window,) = view.windows
        there = ScoreMap((Window(window.rows, window.columns, window.scores.cuda()),), 64, 96)
        assert np.array_equal(best_classes([there], *outer), best_classes([view], *outer))
