"""The plan computes what the network does, in fewer steps, for any size, and keeps nothing of the network."""

import copy
from collections import Counter

import pytest
import torch
from torch import nn

from hrnet_zoo.datasets import CITYSCAPES, Dataset
from hrnet_zoo.engines.plan import Convolution, Exchange, Head, folded, lower, make_plan
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.hrnet import SPECS
from tests.reference_cases import random_network

# (height, width): multiples of 32, even, odd, smaller than the coarsest branch's stride, a line, a pixel.
SIZES = [(64, 96), (58, 70), (97, 33), (1, 40), (1, 1)]
NAMES = tuple(SPECS)


@pytest.fixture(scope="module", params=NAMES)
def network(request: pytest.FixtureRequest) -> FCNHRNet:
    return random_network(request.param)


def test_equals_the_network(network: FCNHRNet) -> None:
    plan = make_plan(network)
    for height, width in SIZES:
        x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height))
        with torch.inference_mode():
            expected = network.decode_head(network.backbone(x))
            found = plan(x)
        assert found.shape == expected.shape
        assert float((found - expected).abs().max() / expected.abs().max()) < 5e-6


def test_folding_is_done_in_float64(network: FCNHRNet) -> None:
    """In float64 nothing is left of the difference but the rounding of the folded weights to float32."""
    x = torch.randn(1, 3, 66, 98, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.inference_mode():
        found = make_plan(network).double()(x)
        expected = copy.deepcopy(network).double().quarter_scores(x).permute(0, 3, 1, 2)
    assert float((found - expected).abs().max() / expected.abs().max()) < 2e-6


def test_it_reads_and_writes_its_own_memory_alone(network: FCNHRNet) -> None:
    """Steps overwrite maps whose last reader they are: never the picture, and twice the same gives the same."""
    plan = make_plan(network)
    steps = [step for step in plan.modules() if isinstance(step, Convolution | Exchange)]
    assert any(step.overwrites for step in steps)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    kept = x.clone()
    with torch.inference_mode():
        assert torch.equal(plan(x), plan(x))
        assert torch.equal(x, kept)
        expected = plan(x)
        for step in steps:
            step.overwrites = False
        assert torch.equal(plan(x), expected)
    for weight in network.parameters():
        assert not any(weight.data_ptr() == buffer.data_ptr() for buffer in plan.buffers())


def test_steps(network: FCNHRNet) -> None:
    """Nothing stands alone that could be part of another step, and siblings are one."""
    spec = SPECS[network.arch]
    plan = make_plan(network)
    kinds = Counter(type(step) for step in plan.children())
    assert set(kinds) == {Convolution, Exchange, Head}
    assert kinds[Head] == 1
    # Each module has an exchange on every branch but the coarsest, whose sum is done by convolutions.
    assert kinds[Exchange] == sum(modules * branches for modules, branches in zip(spec.modules, (1, 2, 3), strict=True))
    # Siblings: the ways up from branch 2 (two of them) and branch 3 (three), and two of those down from branch 0.
    merged = 1 * spec.modules[1] + (1 + 2 + 1) * spec.modules[2]
    convolutions = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    assert kinds[Convolution] + 2 == convolutions - merged
    called = Counter(str(node.target) for node in plan.graph.nodes if node.op in ("call_function", "call_method"))
    assert set(called) == {"split", "<built-in function getitem>"}


def test_a_frozen_or_training_network_gives_the_same_plan() -> None:
    network = copy.deepcopy(random_network("hr18s"))
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = make_plan(network)(x)
        assert torch.equal(make_plan(network.train())(x), expected)
        network.freeze_backbone()
        assert torch.equal(make_plan(network)(x), expected)
    assert network.training


def test_other_numbers_of_classes() -> None:
    for count in (2, 150):
        data: Dataset = CITYSCAPES.with_classes([f"class {index}" for index in range(count)])
        network = FCNHRNet("hr18s", data).eval()
        with torch.inference_mode():
            assert make_plan(network)(torch.zeros(1, 3, 8, 8)).shape == (1, count, 2, 2)


@pytest.mark.parametrize("bias", [False, True])
def test_folded(bias: bool) -> None:
    random = torch.Generator().manual_seed(0)
    convolution, norm = nn.Conv2d(3, 4, 3, 2, 1, bias=bias), nn.BatchNorm2d(4).eval()
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.uniform_(0.5, 2, generator=random)
    x = torch.randn(2, 3, 9, 8, generator=random)
    with torch.inference_mode():
        torch.testing.assert_close(folded(convolution, norm)(x), norm(convolution(x)))
        torch.testing.assert_close(folded(convolution, None)(x), convolution(x))


def test_lowering_reaches_steps_within_steps() -> None:
    plan = make_plan(FCNHRNet("hr18s", CITYSCAPES))
    seen = []
    lower(plan, Convolution, lambda step: seen.append(step) or nn.Identity())  # type: ignore[func-returns-value]
    assert len(seen) > 100
    assert not any(isinstance(step, Convolution) for step in plan.modules())
