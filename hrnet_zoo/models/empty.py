"""The two layers that have values, made with them or without.

A network that gets its values from a file needs none of its own. torch's own way to make one without, a default device
"meta", runs every constructor and every initialization all the same: half of the time in which a network is made.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import nn

L = TypeVar("L", bound=nn.Module)

# Layers without values that were made so far, by class and arguments; None: layers have values.
_made: ContextVar[dict[object, nn.Module] | None] = ContextVar("made", default=None)


@contextmanager
def empty_layers() -> Iterator[None]:
    """Make layers without values meanwhile, on the device "meta". Other threads do not notice.

    Layers of one kind share their empty tensors, so each must be given its own before anything is done with them.
    """
    token = _made.set({})
    try:
        yield
    finally:
        _made.reset(token)


def conv2d(inputs: int, outputs: int, side: int, *, stride: int = 1, padding: int = 0, bias: bool = True) -> nn.Conv2d:
    """Make a `torch.nn.Conv2d` with square kernels."""
    return _layer(nn.Conv2d, inputs, outputs, side, stride, padding, bias=bias)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Make a `torch.nn.BatchNorm2d`."""
    return _layer(nn.BatchNorm2d, channels)


def _layer(kind: type[L], *args: Any, **options: Any) -> L:  # noqa: ANN401 - as the layer's
    made = _made.get()
    # torch's defaults of dtype and device are the user's, for other things.
    if made is None:
        return kind(*args, **options, device="cpu", dtype=torch.float32)
    key = kind, args, *options.items()
    if key not in made:
        made[key] = kind(*args, **options, device="meta", dtype=torch.float32)
    layer = copy.copy(made[key])
    for name, value in vars(layer).items():
        if isinstance(value, dict | list | set):  # entries, hooks, ...: not to be shared
            vars(layer)[name] = value.copy()
    return layer  # type: ignore[return-value]
