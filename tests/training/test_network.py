"""A network made ready to learn."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from hrnet_zoo.datasets import CITYSCAPES
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.training.network import SyncedBatchNorm2d, parameter_groups, save_memory, share_statistics
from hrnet_zoo.zoo.create import initialize
from tests.training.test_recipe import RECIPE


def make() -> FCNHRNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = FCNHRNet("hr18s", CITYSCAPES)
        initialize(network)
        return network


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_groups_hold_every_parameter_once_with_its_factor() -> None:
    network = make()
    backbone, head = parameter_groups(network, RECIPE)
    assert (backbone["factor"], head["factor"]) == (1.0, 10.0)
    held = [parameter for group in (backbone, head) for parameter in group["params"]]  # type: ignore[attr-defined]
    assert len(held) == len(set(held)) == len(list(network.parameters()))


def test_a_frozen_backbone_has_no_group_and_stays_as_it_is(images: torch.Tensor) -> None:
    network = make()
    network.freeze_backbone()
    network.train()
    assert not any(module.training for module in network.backbone.modules())
    assert all(module.training for module in network.decode_head.modules())
    (group,) = parameter_groups(network, RECIPE)
    assert group["factor"] == 10.0
    before = {name: tensor.clone() for name, tensor in network.backbone.state_dict().items()}
    network(images).sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in network.backbone.parameters())
    assert all(parameter.grad is not None for parameter in network.decode_head.parameters())


def test_computing_twice_changes_no_bit(images: torch.Tensor) -> None:
    plain, thrifty = make(), make()
    save_memory(thrifty)
    for network in (plain, thrifty):
        network.train()(images).square().mean().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), thrifty.named_parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name  # type: ignore[arg-type]
    theirs = thrifty.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in plain.state_dict().items())


def test_computing_twice_keeps_less(images: torch.Tensor) -> None:
    def kept(network: FCNHRNet) -> int:
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            network.train()(images)
        return sum(sizes.values())

    thrifty = make()
    save_memory(thrifty)
    weights = sum(parameter.numel() * 4 for parameter in thrifty.parameters())
    assert kept(thrifty) - weights < 0.75 * (kept(make()) - weights)


def test_frozen_batch_norm_in_what_is_computed_twice(images: torch.Tensor) -> None:
    network = make()
    network.freeze_backbone()
    save_memory(network)
    mean = network.backbone.get_buffer("stage4.0.branches.0.0.bn1.running_mean")
    before = mean.clone()
    network.train()(images).sum().backward()
    assert torch.equal(mean, before)


@pytest.fixture
def group(tmp_path: Path) -> object:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_shared_batch_norm_of_one_process_is_batch_norm() -> None:
    plain, synced = nn.BatchNorm2d(5), SyncedBatchNorm2d(5)
    x = torch.randn(3, 5, 7, 9, generator=torch.Generator().manual_seed(0)) * 4 + 2
    gradients = []
    for norm in (plain, synced):
        with torch.no_grad():
            norm.weight.copy_(torch.arange(5) + 1)
            norm.bias.copy_(torch.arange(5) - 2)
        own = x.clone().requires_grad_()
        (norm(own) ** 3).sum().backward()
        gradients.append((own.grad, norm.weight.grad, norm.bias.grad))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=2e-3)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(synced.state_dict()[name], tensor)
    torch.testing.assert_close(synced.eval()(x), plain.eval()(x))


@pytest.mark.usefixtures("group")
def test_every_batch_norm_that_learns_is_shared_under_its_name() -> None:
    network = make()
    network.freeze_backbone()
    names = list(network.state_dict())
    share_statistics(network)
    assert list(network.state_dict()) == names
    shared = [name for name, module in network.named_modules() if isinstance(module, SyncedBatchNorm2d)]
    assert shared == ["decode_head.convs.0.bn"]
    network = make()
    share_statistics(network)
    assert list(network.state_dict()) == names
    assert not any(type(module) is nn.BatchNorm2d for module in network.modules())
