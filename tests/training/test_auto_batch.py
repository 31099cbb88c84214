"""The largest batch that fits: doubled while updates of a copy succeed, and never tried where memory may end."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from hrnet_zoo.errors import ConfigError
from hrnet_zoo.evaluation.ranks import Ranks
from hrnet_zoo.training import auto_batch
from hrnet_zoo.training.auto_batch import _crops, largest_batch
from hrnet_zoo.training.losses import cross_entropy
from hrnet_zoo.zoo.create import create_model
from tests.training.test_config import CONFIG

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)


def find(
    monkeypatch: pytest.MonkeyPatch, free: int, *, fails_at: int = 0, most: int = 100, crop: int = 64, **changes: Any
) -> list[int]:
    """Return the numbers of images that were tried, and what was found; an update takes a megabyte for 64 x 64 pixels.

    Tries of a smaller crop are listed as 0.
    """
    tried: list[int] = []

    def update(network: Any, config: Any, loss: Any, ranks: Any, number: int, base: int) -> int:
        tried.append(number if config.crop == (crop, crop) else 0)
        if number == fails_at:
            raise ConfigError(asked="", found="out of memory", done="", advice="")
        return int(number * math.prod(config.crop) / 64**2 * 10**6)

    monkeypatch.setattr(auto_batch, "_try_update", update)
    monkeypatch.setattr(auto_batch, "available_memory", lambda: free * 10**6)
    monkeypatch.setattr(auto_batch, "FIRST_UPDATE", 1)
    config = dataclasses.replace(CONFIG, batch=8, crop=(crop, crop), **changes)
    found = largest_batch(torch.nn.ReLU(), config, cross_entropy, ALONE, most)  # type: ignore[arg-type]
    assert found[1] == int(found[0] * (crop / 64) ** 2 * 10**6)
    return [*tried[1:], found[0]]  # the first update only loads what stays


def test_it_is_doubled_while_twice_the_memory_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(monkeypatch, 9) == [1, 2, 4, 8, 8]  # nine tenths of 9 MB
    assert find(monkeypatch, 8) == [1, 2, 4, 4]


def test_a_small_crop_grows_to_the_whole_one_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(monkeypatch, 36, crop=256) == [0, 0, 0, 0, 1, 2, 2]
    assert find(monkeypatch, 18, crop=256) == [0, 0, 0, 0, 1, 1]
    with pytest.raises(ConfigError, match=r"1 images of 256 x 256 pixels may take 0.02 GB; 0.02 GB are free"):
        find(monkeypatch, 17, crop=256)
    assert _crops((129, 1024)) == [(65, 64), (65, 128), (129, 128), (129, 256), (129, 512), (129, 1024)]
    assert _crops((100, 100)) == [(100, 100)]


def test_without_memory_for_the_first_update_none_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_batch, "_try_update", lambda *_: pytest.fail("libraries may crash"))
    monkeypatch.setattr(auto_batch, "available_memory", lambda: 270 * 10**6)
    network = torch.nn.Linear(1000, 1000)  # 4 MB, three times
    with pytest.raises(ConfigError, match=r"a first update may take 0.26 GB; 0.24 GB are free"):
        largest_batch(network, CONFIG, cross_entropy, ALONE, 4)  # type: ignore[arg-type]


def test_it_is_at_most_the_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(monkeypatch, 1000, most=7) == [1, 2, 4, 4]
    assert find(monkeypatch, 1000, most=0) == [1, 1]


def test_what_accumulates_begins_with_an_image_in_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(monkeypatch, 1000, accumulate=3, most=8) == [4, 8, 8]


def test_an_update_without_memory_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(monkeypatch, 1000, fails_at=4) == [1, 2, 4, 2]
    with pytest.raises(ConfigError, match="out of memory"):
        find(monkeypatch, 1000, fails_at=1)


def test_without_a_figure_for_the_free_memory_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_batch, "available_memory", lambda: None)
    with pytest.raises(ConfigError, match="name the number of images"):
        largest_batch(torch.nn.ReLU(), CONFIG, cross_entropy, ALONE, 4)  # type: ignore[arg-type]


def test_a_real_update_leaves_network_and_chance_alone() -> None:
    network = create_model("demo", classes=["a", "b"], device="cpu")
    before, state = {name: tensor.clone() for name, tensor in network.state_dict().items()}, torch.get_rng_state()
    seen: list[int] = []

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(len(labels))
        return cross_entropy(logits, labels) * (1 + torch.rand(()))

    assert largest_batch(network, CONFIG, loss, ALONE, 1)[0] == 1
    assert seen == [1, 1]  # the first for what stays
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
