"""Layers without values are torch's own layers in everything but the values."""

import threading
from typing import Any

import pytest
import torch
from torch import nn

from hrnet_zoo.datasets import CITYSCAPES
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.hrnet import SPECS
from hrnet_zoo.models.skip_init import batch_norm, conv2d, skip_init


def settings(layer: nn.Module) -> dict[str, Any]:
    """Everything that a layer holds but its tensors."""
    return {
        **{name: value for name, value in vars(layer).items() if name not in ("_parameters", "_buffers")},
        "entries": [
            (name, entry is not None and (type(entry), entry.shape, entry.dtype, entry.requires_grad))
            for entries in (layer._parameters, layer._buffers)
            for name, entry in entries.items()
        ],
    }


@pytest.mark.parametrize("arch", SPECS)
def test_the_same_network_without_values(arch: str) -> None:
    with skip_init():
        empty = FCNHRNet(arch, CITYSCAPES)
    full = FCNHRNet(arch, CITYSCAPES)
    assert all(entry.is_meta for entry in empty.state_dict().values())
    assert str(empty) == str(full)
    for (name, one), (other_name, other) in zip(empty.named_modules(), full.named_modules(), strict=True):
        assert name == other_name
        assert type(one) is type(other)
        if not [*one.children()]:
            assert settings(one) == settings(other), name


def test_nothing_is_drawn() -> None:
    before = torch.get_rng_state()
    with skip_init():
        FCNHRNet("hr18s", CITYSCAPES)
    assert torch.equal(torch.get_rng_state(), before)


def test_equal_layers_share_no_container() -> None:
    with skip_init():
        pairs = [(conv2d(4, 4, 3, padding=1), conv2d(4, 4, 3, padding=1)), (batch_norm(4), batch_norm(4))]
    for one, other in pairs:
        assert one is not other
        containers = [name for name, value in vars(one).items() if isinstance(value, dict | list | set)]
        assert {"_parameters", "_buffers", "_modules", "_forward_hooks"} <= {*containers}
        assert not [name for name in containers if vars(one)[name] is vars(other)[name]]
        one.register_forward_hook(lambda *_: None)
        assert not other._forward_hooks


def test_other_arguments_are_other_layers() -> None:
    with skip_init():
        plain, strided, wide = conv2d(4, 4, 3), conv2d(4, 4, 3, stride=2), conv2d(4, 4, 3, bias=False)
    assert (plain.stride, strided.stride) == ((1, 1), (2, 2))
    assert plain.bias is not None
    assert wide.bias is None


def test_other_threads_and_torchs_own_layers_do_not_notice() -> None:
    elsewhere: list[nn.Conv2d] = []
    with skip_init():
        thread = threading.Thread(target=lambda: elsewhere.append(conv2d(3, 3, 1)))
        thread.start()
        thread.join()
        assert nn.Conv2d(3, 3, 1).weight.device.type == "cpu"
    assert elsewhere[0].weight.device.type == "cpu"


def test_over_after_an_error() -> None:
    with pytest.raises(KeyError), skip_init():
        raise KeyError
    assert batch_norm(3).weight.device.type == "cpu"
