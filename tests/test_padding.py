"""Channels to multiples of 8: the same scores, and nothing but zeros beside them."""

import pytest
import torch

from hrnet_zoo.engines.gpu_plan import regroup
from hrnet_zoo.engines.padding import pad, padded
from hrnet_zoo.engines.plan import Convolution
from tests.plans import noise, plan_of, relative


def test_multiples_of_8() -> None:
    assert [padded(each) for each in (1, 3, 8, 18, 19, 36, 150, 270)] == [8, 8, 8, 24, 24, 40, 152, 272]


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("fcn_hr18s_cityscapes_40k", None),
        ("fcn_hr48_voc12aug_40k", None),
        ("fcn_hr18s_cityscapes_40k", 2),
    ],
)
def test_the_same_scores_and_zeros(name: str, classes: int | None) -> None:
    plan = regroup(plan_of(name, classes))
    pictures = [noise(*shape) for shape in ((2, 3, 32, 32), (1, 3, 37, 51))]
    with torch.inference_mode():
        expected = [plan(x) for x in pictures]
        pad(plan)
        for x, scores in zip(pictures, expected, strict=True):
            wide = plan(torch.nn.functional.pad(x, (0, 0, 0, 0, 0, 5)))
            count = scores.shape[1]
            assert wide.shape == (*scores.shape[:1], padded(count), *scores.shape[2:])
            assert relative(wide[:, :count], scores) < 5e-6
            assert not wide[:, count:].any()


def test_every_convolution_is_padded() -> None:
    plan = pad(regroup(plan_of()))
    shapes = {step.weight.shape[:2] for step in plan.modules() if isinstance(step, Convolution)}
    assert {outputs % 8 for outputs, _ in shapes} == {inputs % 8 for _, inputs in shapes} == {0}
    assert {(24, 24), (40, 40), (24, 272), (272, 280), (64, 8)} <= shapes
