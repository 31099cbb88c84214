"""The plan computes what the network does, in fewer steps, for any size, and keeps nothing of the network."""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from hrnet_zoo.datasets import CITYSCAPES, Dataset
from hrnet_zoo.engines.folding import Convolution, Plan, PyTorchEngine, UpsampleSum, fold, replace_steps
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.hrnet import SPECS
from tests.support.reference_cases import random_network

# (height, width): multiples of 32, even, odd, smaller than the coarsest branch's stride, a line, a pixel.
SIZES = [(64, 96), (58, 70), (97, 33), (1, 40), (1, 1)]
NETWORKS = (*((name, "FCN") for name in SPECS), ("hr18s", "OCRNet"))


@pytest.fixture(scope="module", params=NETWORKS, ids="-".join)
def network(request: pytest.FixtureRequest) -> FCNHRNet:
    return random_network(*request.param)


def test_equals_the_network(network: FCNHRNet) -> None:
    plan = Plan(network)
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
        found = Plan(network).double()(x)
        expected = copy.deepcopy(network).double().logits_stride4(x).permute(0, 3, 1, 2)
    assert float((found - expected).abs().max() / expected.abs().max()) < 2e-6


def test_it_reads_and_writes_its_own_memory_alone(network: FCNHRNet) -> None:
    """Steps overwrite maps whose last reader they are: never the image, and twice the same gives the same."""
    plan = Plan(network)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    kept = x.clone()
    with torch.inference_mode():
        assert torch.equal(plan(x), plan(x))
        assert torch.equal(x, kept)
    for weight in network.parameters():
        assert not any(weight.data_ptr() == buffer.data_ptr() for buffer in plan.buffers())


def test_steps(network: FCNHRNet) -> None:
    """All work is done by steps: one for each convolution, one for each sum with upsampled maps, and the head.

    Of OCRNet, one convolution of two concatenated maps is two.
    """
    spec = SPECS[network.arch]
    kinds = Counter(type(step) for step in Plan(network).modules() if not list(step.children()))
    assert set(kinds) <= {Convolution, UpsampleSum, nn.Identity, nn.Sequential, nn.ModuleList}  # the latter ones empty
    assert kinds[UpsampleSum] == sum(
        modules * branches for modules, branches in zip(spec.modules, (1, 2, 3), strict=True)
    )
    convolutions = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    assert kinds[Convolution] == convolutions + (network.method == "OCRNet")


def test_a_frozen_or_training_network_gives_the_same_plan() -> None:
    network = copy.deepcopy(random_network("hr18s"))
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = Plan(network)(x)
        assert torch.equal(Plan(network.train())(x), expected)
        network.freeze_backbone()
        assert torch.equal(Plan(network)(x), expected)
    assert network.training


def test_other_numbers_of_classes() -> None:
    for count in (2, 150):
        data: Dataset = CITYSCAPES.with_classes([f"class {index}" for index in range(count)])
        network = FCNHRNet("hr18s", data).eval()
        with torch.inference_mode():
            assert Plan(network)(torch.zeros(1, 3, 8, 8)).shape == (1, count, 2, 2)


def sync(model: FCNHRNet) -> None:
    nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]


def plain(model: FCNHRNet) -> None:
    norm = nn.BatchNorm2d(model.backbone.bn1.num_features, affine=False)
    nn.init.normal_(cast(torch.Tensor, norm.running_mean))
    model.backbone.bn1 = norm.eval()


def eps(model: FCNHRNet) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.5


@pytest.mark.parametrize("change", [sync, plain, eps])
def test_other_batch_norms_are_folded(change: Callable[[FCNHRNet], None]) -> None:
    network = copy.deepcopy(random_network("hr18s"))
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = network.logits_stride4(x)
        change(network)
        expected, found = network.logits_stride4(x), Plan(network)(x).permute(0, 2, 3, 1)
    assert float((found - expected).abs().max() / expected.abs().max()) < 5e-6
    if change is not sync:
        assert float((found - before).abs().max() / before.abs().max()) > 1e-3


class Lora(nn.Module):
    """A convolution with something beside it."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Twice the convolution."""
        return cast(torch.Tensor, 2 * self.base(x))


def last_conv(model: FCNHRNet) -> nn.Conv2d:
    return cast(nn.Conv2d, cast(Any, model.decode_head.convs)[0].conv)


REFUSED: dict[str, Callable[[FCNHRNet], object]] = {
    r"convs\.0\.conv is Lora\(\), where the published network has Conv2d": lambda model: setattr(
        cast(Any, model.decode_head.convs)[0], "conv", Lora(last_conv(model))
    ),
    r"backbone\.bn1 is GroupNorm\(.*, where": lambda model: setattr(model.backbone, "bn1", nn.GroupNorm(8, 64)),
    r"backbone\.bn1 is BatchNorm2d\(64, no statistics\)": lambda model: setattr(
        model.backbone, "bn1", nn.BatchNorm2d(64, track_running_stats=False)
    ),
    r"backbone\.bn1 is BatchNorm2d\(32\), where the published network has BatchNorm2d\(64\)": lambda model: setattr(
        model.backbone, "bn1", nn.BatchNorm2d(32)
    ),
    r"decode_head\.convs\.0 is ConvModule\(\) with a forward hook": lambda model: cast(Any, model.decode_head.convs)[
        0
    ].register_forward_hook(lambda *_: None),
    r"backbone is HRNet\(\) with a forward hook": lambda model: model.backbone.register_forward_pre_hook(
        lambda *_: None
    ),
    r"backbone\.stage4 is Sequential\(\) with a forward of its own": lambda model: setattr(
        model.backbone.stage4, "forward", lambda x: x
    ),
    r"logits_stride4 is another function": lambda model: setattr(model, "logits_stride4", lambda x: x),
    r"convs\.1 is Dropout2d\(.*\), where the published network has nothing": lambda model: (
        model.decode_head.convs.append(nn.Dropout2d())
    ),
    r"convs\.0 is nothing, where the published network has ConvModule": lambda model: setattr(
        model.decode_head, "convs", nn.Sequential()
    ),
    r"convs\.0\.conv is ParametrizedConv2d": lambda model: register_parametrization(
        last_conv(model), "weight", nn.Identity()
    ),
    r"conv1 is Conv2d\(.*dilation=\(2, 2\)": lambda model: setattr(model.backbone.conv1, "dilation", (2, 2)),
}


@pytest.mark.parametrize("words", REFUSED)
def test_another_architecture_is_refused_in_words(words: str) -> None:
    network = FCNHRNet("hr18s", CITYSCAPES).eval()
    Plan(network)
    REFUSED[words](network)
    with pytest.raises(ConfigError, match=words):
        Plan(network)


def test_fold() -> None:
    random = torch.Generator().manual_seed(0)
    convolution, norm = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4).eval()
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.uniform_(0.5, 2, generator=random)
    x = torch.randn(2, 3, 9, 8, generator=random)
    with torch.inference_mode():
        torch.testing.assert_close(fold(convolution, norm)(x), norm(convolution(x)))
        torch.testing.assert_close(fold(convolution)(x), convolution(x))


def test_steps_within_steps_are_replaced() -> None:
    plan = Plan(FCNHRNet("hr18s", CITYSCAPES))
    seen = []
    replace_steps(plan, Convolution, lambda step: seen.append(step) or nn.Identity())  # type: ignore[func-returns-value]
    assert len(seen) > 100
    assert not any(isinstance(step, Convolution) for step in plan.modules())


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 5e-6), (torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_engine_in_every_dtype(dtype: torch.dtype, most: float) -> None:
    network = random_network("hr18s")
    engine = PyTorchEngine(Plan(network), torch.device("cpu"), dtype)
    for size in ((65, 33), (32, 64), (1, 1)):
        x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            found, expected = engine(x.to(dtype)), network.logits_stride4(x)
        assert found.dtype == dtype
        assert found.shape == expected.shape
        assert float((found.float() - expected).abs().max() / expected.abs().max()) < most
