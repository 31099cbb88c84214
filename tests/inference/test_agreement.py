"""What is known of pixels before their scores are made: nothing that these do not bear out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hrnet_zoo.inference.agreement import WHOLE, Work, known_of_view, slack, undecided
from hrnet_zoo.inference.blocks import UNKNOWN
from hrnet_zoo.inference.logits import ScoreMap, Taps, Window, _blend, mean
from tests.support.score_maps import any_view, noise, seen, smooth

WORK = Work(np.float32(1e-3), 1 << 20)


def test_rounding_stays_within_the_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the same means in float64."""

    def exactly(x: torch.Tensor, dim: int, taps: Taps) -> torch.Tensor:
        near, far = (x.index_select(dim, torch.from_numpy(each)).double() for each in taps[:2])
        share = torch.from_numpy(taps.share).double().reshape([-1 if axis == dim else 1 for axis in range(3)])
        return (1 - share) * near + share * far

    random = torch.Generator().manual_seed(0)
    for window in (None, (48, 20)):
        view = seen(lambda h, w: noise(random, h, w, 5) * 40, 96, 128, window=window)
        largest = max(float(each.scores.abs().max()) for each in view.windows)
        positions = np.arange(111), np.arange(150)
        found = mean([view], *positions, 111, 150).double()
        monkeypatch.setattr("hrnet_zoo.inference.logits._blend", exactly)
        if window:  # whose sum is in float32 but for this
            monkeypatch.setattr(torch.Tensor, "new_zeros", lambda x, size, dtype: torch.zeros(size).double())
        exact = mean([view], *positions, 111, 150)
        monkeypatch.undo()
        assert exact.dtype == torch.float64
        off = float((found - exact).abs().max())
        assert 0 < 2 * off < float(slack(largest, len(view.windows)))
    assert _blend is not exactly


def test_what_is_known_of_a_view_is_so() -> None:
    random = np.random.default_rng(1)
    some = 0
    for _ in range(60):
        h, w, height, width = random.integers(1, 70, 4).tolist()
        view = any_view(random, h, w, int(random.choice([2, 5, 19])))
        labels, gaps = known_of_view(view, height, width, WORK)
        shares = F.softmax(mean([view], np.arange(height), np.arange(width), height, width), dim=2)
        best = shares.topk(2, dim=2)
        known = labels != UNKNOWN
        assert np.array_equal(best.indices[..., 0].numpy()[known], labels[known])
        gap = (best.values[..., 0] - best.values[..., 1]).numpy()
        assert (gap[known] >= gaps[known] / WHOLE - 1e-5).all()
        some += known.sum()
    assert some > 10_000


def test_views_are_added_up() -> None:
    """The leading class is ahead by 0.76 in one view, and behind by 0.46 in the other; or as much."""

    def view(*scores: float) -> ScoreMap:
        return ScoreMap((Window(slice(0, 8), slice(0, 8), torch.tensor(scores).expand(2, 2, 2)),), 8, 8)

    leaders = np.zeros((8, 8), np.uint8)
    one, other, opposite = view(2, 0), view(0, 1), view(0, 2)
    assert undecided([one, other], leaders, WORK).all()  # that it is behind by 0.46 only is not looked at
    assert undecided([one, opposite], leaders, WORK).all()
    assert not undecided([one, one, one, other], leaders, WORK).any()
    assert (leaders == 0).all()
    assert not undecided([opposite, opposite, one, opposite, opposite, opposite], leaders, WORK).any()
    assert (leaders == 1).all()


def test_where_one_view_knows_nothing_another_one_leads() -> None:
    random = torch.Generator().manual_seed(2)
    clear = seen(lambda h, w: smooth(random, h, w, 5) * 20, 64, 64)
    dull = seen(lambda h, w: torch.zeros(h, w, 5), 64, 64)
    leaders = np.zeros((64, 64), np.uint8)
    left = undecided([clear, clear, dull], leaders, WORK)
    assert 0.1 < left.mean() < 0.9
    shares = mean([clear, clear, dull], np.arange(64), np.arange(64), 64, 64)
    assert np.array_equal(shares.argmax(dim=2).numpy()[~left], leaders[~left])
