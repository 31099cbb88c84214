"""Plans regrouped for GPUs: the same scores, no adding in chains, no bias where it would cost a kernel."""

import pytest
import torch
from torch import fx

from hrnet_zoo.engines.gpu_plan import Sum, regroup, step_of
from hrnet_zoo.engines.plan import Convolution, Exchange, Head
from tests.plans import noise, plan_of, relative

NETWORKS = ("fcn_hr18s_cityscapes_40k", "fcn_hr48_voc12aug_40k")  # hr18 has the graph of hr48


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_scores_in_any_size(name: str) -> None:
    plan = plan_of(name)
    pictures = [noise(*shape) for shape in ((2, 3, 32, 64), (1, 3, 45, 71), (1, 3, 1, 1))]
    with torch.inference_mode():
        expected = [plan(x) for x in pictures]
        regroup(plan)
        for x, scores in zip(pictures, expected, strict=True):
            assert relative(plan(x), scores) < 5e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_every_step_is_as_few_kernels_as_can_be(name: str) -> None:
    plan = regroup(plan_of(name))
    kinds = [(node, step_of(plan, node)) for node in plan.graph.nodes]
    assert not any(isinstance(step, Exchange) for _, step in kinds)
    assert sum(isinstance(step, Head) for _, step in kinds) == 1
    for node, step in kinds:
        if isinstance(step, Convolution):
            assert step.relu or not step.bias.any(), node.format_node()  # a bias without ReLU is a kernel more
            assert step.relu or len(node.args) == 1, node.format_node()  # and so is a sum
            assert not step.overwrites
        if isinstance(step, Sum):
            assert len(step.factors) == len(node.args) - 1 <= 3


def test_parts_of_merged_convolutions_are_only_read_by_sums() -> None:
    plan = regroup(plan_of())
    splits = [node for node in plan.graph.nodes if node.target == "split"]
    assert splits  # of the 1x1 convolutions to finer branches
    readers: list[fx.Node] = [reader for split in splits for part in split.users for reader in part.users]
    assert all(isinstance(step_of(plan, reader), Sum) for reader in readers)
