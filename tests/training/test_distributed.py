"""Batch norm and sums over processes."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from hrnet_zoo.evaluation.ranks import Ranks
from hrnet_zoo.training.distributed import CPUSyncBatchNorm2d, all_reduce, convert_sync_batchnorm
from tests.training.test_update import make_network


def test_one_process_reduces_nothing() -> None:
    assert float(all_reduce(torch.tensor(3.0), Ranks(0, 1, torch.device("cpu")))) == 3.0


@pytest.fixture
def group(tmp_path: Path) -> object:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_shared_batch_norm_of_one_process_is_batch_norm() -> None:
    plain, synced = nn.BatchNorm2d(5), CPUSyncBatchNorm2d(5)
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
def test_every_batch_norm_is_shared_under_its_name() -> None:
    network = make_network()
    names = list(network.state_dict())
    convert_sync_batchnorm(network)
    assert list(network.state_dict()) == names
    assert not any(type(module) is nn.BatchNorm2d for module in network.modules())
