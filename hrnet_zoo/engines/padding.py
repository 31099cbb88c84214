"""Channels of all maps of a plan to multiples of 8: tensor cores and loads of 16 bytes want that.

What is added is zero everywhere, weights and biases too, so that no score changes.
"""

from __future__ import annotations

import operator
from itertools import accumulate
from typing import TypeAlias, cast

import torch
from torch import Tensor, fx

from hrnet_zoo.engines.gpu_plan import Sum, parts_of, step_of
from hrnet_zoo.engines.plan import Convolution, Head

MULTIPLE = 8
INPUTS = 3  # red, green, blue

# Channels that belong together; each such run is padded at its end. Only maps that are split have several.
Layout: TypeAlias = tuple[int, ...]


def padded(channels: int) -> int:
    """Return how many channels there are with the padding."""
    return -(-channels // MULTIPLE) * MULTIPLE


def pad(plan: fx.GraphModule) -> fx.GraphModule:
    """Rewrite a plan of `hrnet_zoo.engines.gpu_plan.regroup` in place, and return it.

    It takes pictures with `padded(3)` channels, of which those from the fourth on are 0, and gives scores with as many
    channels as there are classes, padded: those behind the classes are 0 and must be cut off.
    """
    layouts: dict[fx.Node, Layout] = {}
    for node in plan.graph.nodes:
        if node.op != "output":
            layouts[node] = _pad(plan, node, layouts)
    plan.recompile()
    return plan


def _pad(plan: fx.GraphModule, node: fx.Node, layouts: dict[fx.Node, Layout]) -> Layout:
    """Pad the step of a node, and return the layout of its result."""
    if node.op == "placeholder":
        return (INPUTS,)
    inputs = [layouts[each] for each in node.all_input_nodes]
    step = step_of(plan, node)
    if isinstance(step, Convolution):
        outputs = tuple(parts_of(node) or [len(step.bias)])
        _pad_convolution(step, inputs[0], outputs)
        return outputs
    if isinstance(step, Sum):
        step.bias = _scattered(step.bias, inputs[0], 0)
        return inputs[0]
    if isinstance(step, Head):
        mixed, classes = (len(step.mix.bias),), (len(step.classifier.bias),)
        _pad_convolution(step.mix, sum(inputs, ()), mixed)
        _pad_convolution(step.classifier, mixed, classes)
        return classes
    if node.target == "split":
        node.update_arg(1, [padded(size) for size in inputs[0]])
        return inputs[0]
    if node.target is operator.getitem:
        return (inputs[0][cast(int, node.args[1])],)
    raise TypeError(f"{node.format_node()} is no step that can be padded")


def _pad_convolution(step: Convolution, inputs: Layout, outputs: Layout) -> None:
    step.weight = _scattered(_scattered(step.weight, outputs, 0), inputs, 1)
    step.bias = _scattered(step.bias, outputs, 0)


def _scattered(x: Tensor, layout: Layout, dim: int) -> Tensor:
    """Return a tensor whose channels along `dim` lie where the layout, padded, wants them, zeros between them."""
    starts = [0, *accumulate(padded(size) for size in layout)]
    if starts[-1] == x.shape[dim]:
        return x
    places = torch.cat([start + torch.arange(size) for start, size in zip(starts, layout, strict=False)])
    shape = list(x.shape)
    shape[dim] = starts[-1]
    return x.new_zeros(shape).index_copy_(dim, places, x)
