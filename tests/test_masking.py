"""The kernel for masks: bit for bit the argmax of `hrnet_zoo.scores`."""

import pytest
import torch

from hrnet_zoo.scores import ScoreMap, Window, pieces
from tests.kernel_device import kernel_device
from tests.test_scores import SIZES, slid, smooth


def view(scores: torch.Tensor, height: int, width: int, mirrored: bool = False) -> ScoreMap:
    return ScoreMap((Window(slice(0, height), slice(0, width), scores),), height, width, mirrored)


def moved(each: ScoreMap) -> ScoreMap:
    (window,) = each.windows
    return view(window.scores.to(kernel_device()), each.height, each.width, each.mirrored)


def by_scores(maps: list[ScoreMap], height: int, width: int) -> torch.Tensor:
    return torch.cat([scores.argmax(dim=2) for _, scores in pieces(maps, height, width, None)]).to(torch.uint8)


def by_kernel(maps: list[ScoreMap], height: int, width: int) -> torch.Tensor:
    kernel_device()  # skips where Triton cannot run
    from hrnet_zoo.kernels import masking

    assert masking.feasible(maps)
    found = masking.best_classes([moved(each) for each in maps], height, width)
    assert found.dtype == torch.uint8
    return found.cpu()


# The interpreter takes some milliseconds for each row.
@pytest.mark.parametrize(
    ("inner", "outer", "classes"),
    [
        *((inner, outer, 5) for inner, outer in (SIZES[1], SIZES[6])),
        ((16, 24), (19, 29), 5),
        ((16, 24), (16, 37), 8),
        ((5, 7), (20, 31), 1),
        ((17, 21), (18, 22), 19),
        ((9, 13), (10, 11), 150),
        ((8, 16), (8, 16), 60),
    ],
)
def test_kernel_masks_are_the_argmax(inner: tuple[int, int], outer: tuple[int, int], classes: int) -> None:
    scores = smooth(classes, -(-inner[0] // 4), -(-inner[1] // 4))
    for dtype, mirrored in ((torch.float32, False), (torch.float16, True)):
        each = view(scores.to(dtype), *inner, mirrored)
        assert torch.equal(by_kernel([each], *outer), by_scores([each], *outer))


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # the interpreter is NumPy
def test_kernel_takes_the_first_of_equals_and_nan_above_all() -> None:
    scores = torch.zeros(3, 4, 6)
    scores[0] = torch.tensor([1.0, 2, 2, 0, 2, 1])
    scores[1, :2] = float("-inf")
    scores[2, 0, 4] = float("nan")
    scores[2, 2, 3] = float("inf")
    for size in ((12, 16), (3, 4)):
        each = view(scores, *size)
        assert torch.equal(by_kernel([each], 12, 16), by_scores([each], 12, 16))


def test_kernel_reads_padded_scores_where_they_lie() -> None:
    kernel_device()  # skips where Triton cannot run
    from hrnet_zoo.kernels import masking

    padded = torch.full((8, 9, 24), 1e4)
    padded[..., :19] = smooth(19, 8, 9)
    each = view(padded[..., :19], 30, 36)
    assert masking.flat(padded[..., :19]).data_ptr() == padded.data_ptr()
    assert masking.flat(padded[..., 5:]).data_ptr() != padded.data_ptr() + 20  # it would read beyond the end
    assert torch.equal(by_kernel([each], 21, 26), by_scores([each], 21, 26))
    swapped = view(smooth(19, 9, 8).permute(1, 0, 2), 30, 36)
    assert torch.equal(by_kernel([swapped], 21, 26), by_scores([swapped], 21, 26))


def test_kernel_of_several_views() -> None:
    views = [
        view(smooth(19, 8, 9, seed), height, width, mirrored=bool(seed % 2))
        for seed, (height, width) in enumerate([(30, 36), (30, 36), (21, 26), (32, 33)])
    ]
    found, expected = by_kernel(views, 21, 26), by_scores(views, 21, 26)
    (scores,) = (each for _, each in pieces(views, 21, 26, 1 << 40))
    best, second = scores.topk(2, dim=2).values.unbind(2)
    assert not ((found != expected) & (best - second > 1e-6)).any()
    assert (found != expected).sum() <= 2


def test_kernel_is_usable_and_leaves_windows_to_torch() -> None:
    kernel_device()  # skips where Triton cannot run
    from hrnet_zoo.kernels import masking

    assert masking.usable(kernel_device())
    assert not masking.feasible([slid(64, 96)])
