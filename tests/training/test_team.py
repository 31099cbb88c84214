"""Processes that train together."""

import sys

import pytest
import torch

from hrnet_zoo.errors import ConfigError
from hrnet_zoo.training.team import Team

CPU = torch.device("cpu")


def test_alone_it_needs_nothing_and_changes_nothing() -> None:
    team = Team(CPU)
    assert (team.rank, team.size) == (0, 1)
    network = torch.nn.Linear(2, 2)
    assert team.joined(network) is network
    assert float(team.sum(torch.tensor(3.0))) == 3.0
    with team.alone():
        pass


def test_several_without_accelerate_are_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ConfigError, match="by 2 processes") as caught:
        Team(CPU)
    assert caught.value.advice == "pip install '.[train]' in the checkout of hrnet-zoo"
