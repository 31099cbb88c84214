"""The learning rate of every update, and its factors."""

import dataclasses

import pytest
import torch

from hrnet_zoo.training.schedule import learning_rate, parameter_groups
from tests.training.test_config import CONFIG
from tests.training.test_update import make_network


def test_learning_rate_falls_to_a_hundredth_as_in_the_published_training() -> None:
    assert learning_rate(CONFIG, 0) == pytest.approx(0.01)
    # 0.01 to 1e-4, power 0.9: (0.01 - 1e-4) * 0.5 ** 0.9 + 1e-4
    assert learning_rate(CONFIG, 50) == pytest.approx(0.00540531, rel=1e-5)
    assert learning_rate(CONFIG, 100) == pytest.approx(1e-4)


def test_warmup_rises_in_equal_steps() -> None:
    warm = dataclasses.replace(CONFIG, warmup=4)
    rates = [learning_rate(warm, step) / learning_rate(CONFIG, step) for step in range(6)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


def test_groups_hold_every_parameter_once_with_its_factor() -> None:
    network = make_network()
    backbone, head = parameter_groups(network, CONFIG)
    assert (backbone["factor"], head["factor"]) == (1.0, 10.0)
    held = [parameter for group in (backbone, head) for parameter in group["params"]]  # type: ignore[attr-defined]
    assert len(held) == len(set(held)) == len(list(network.parameters()))


def test_a_frozen_backbone_has_no_group_and_stays_as_it_is() -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    network = make_network()
    network.freeze_backbone()
    network.train()
    assert not any(module.training for module in network.backbone.modules())
    assert all(module.training for module in network.decode_head.modules())
    (group,) = parameter_groups(network, CONFIG)
    assert group["factor"] == 10.0
    before = {name: tensor.clone() for name, tensor in network.backbone.state_dict().items()}
    network(images).sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in network.backbone.parameters())
    assert all(parameter.grad is not None for parameter in network.decode_head.parameters())
