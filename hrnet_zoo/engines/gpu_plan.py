"""Plan -> plan for a GPU: as few kernels as possible, and sums that wait for nobody.

On a GPU a launch costs as much as a small convolution. cuDNN computes convolution, bias and ReLU, also with the sum
with another map, in one; a convolution without ReLU is one only if it has no bias. Hence

- chains of convolutions that add one after the other become convolutions of their own and one sum of all;
- the bias of a convolution without ReLU moves to the sum that reads it: enlarging keeps constants;
- convolutions that were merged because they read the same map part again where a convolution reads the parts: it would
  copy them first.
"""

from __future__ import annotations

import operator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from hrnet_zoo.engines.plan import Convolution, Exchange
from hrnet_zoo.models.hrnet import fit


class Sum(nn.Module):
    """Sum of a map, others of its size, coarser ones that are enlarged to it, and a bias, then ReLU.

    Attributes:
        factors: by which the other maps are enlarged before they are brought to the very size; 1: it has that size.
        bias: (channels,).

    """

    bias: Tensor

    def __init__(self, factors: tuple[int, ...], bias: Tensor) -> None:
        super().__init__()
        self.factors = factors
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """Return a map of the shape of `x` (N, C, H, W); the others have as many channels."""
        total = x + self.bias[:, None, None]
        for factor, each in zip(self.factors, others, strict=True):
            if factor > 1:
                large = F.interpolate(each, scale_factor=float(factor), mode="bilinear", align_corners=False)
                total += fit(large, x.shape[-2:]) if large.shape[-2:] != x.shape[-2:] else large
            else:
                total += each
        return total.relu_()


def regroup(plan: fx.GraphModule) -> fx.GraphModule:
    """Rewrite a plan of `hrnet_zoo.engines.plan.make_plan` in place, and return it: `Sum` stands for `Exchange`.

    No step overwrites what it reads any more: on a GPU its other readers may not have come to it yet.
    """
    _part_siblings(plan)
    for node in list(plan.graph.nodes):
        _gather(plan, node)
    plan.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    for node in plan.graph.nodes:
        _move_bias(plan, node)
    for step in plan.modules():
        if isinstance(step, Convolution):
            step.overwrites = False
    plan.delete_all_unused_submodules()
    plan.graph.lint()
    plan.recompile()
    return plan


def step_of(plan: nn.Module, node: fx.Node) -> nn.Module | None:
    """Return the step that a node calls, if it calls one."""
    return plan.get_submodule(str(node.target)) if node.op == "call_module" else None


def parts_of(node: fx.Node) -> list[int] | None:
    """Return the channels of the parts that a map is split into, or None."""
    for user in node.users:
        if user.target == "split":
            return list(cast(list[int], user.args[1]))
    return None


def _part_siblings(plan: fx.GraphModule) -> None:
    """Undo the merging of convolutions of which a convolution reads a part."""
    for split in [node for node in plan.graph.nodes if node.target == "split"]:
        parts = {node.args[1]: node for node in split.users}
        readers = [reader for part in parts.values() for reader in part.users]
        if all(isinstance(step_of(plan, reader), Exchange) for reader in readers):
            continue
        merged = split.args[0]
        step = cast(Convolution, step_of(plan, merged))
        sizes = cast(list[int], split.args[1])
        for place, (weight, bias) in enumerate(
            zip(torch.split(step.weight, sizes), torch.split(step.bias, sizes), strict=True)
        ):
            own = Convolution(weight.clone(), bias.clone(), step.stride, step.relu)
            parts[place].replace_all_uses_with(_insert(plan, merged, own, merged.args[0]))
    plan.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))


def _gather(plan: fx.GraphModule, node: fx.Node) -> None:
    """Make one sum of an exchange, or of a convolution that adds, and of all that adds before it."""
    step = step_of(plan, node)
    if isinstance(step, Exchange):
        first, *coarser = cast(list[fx.Node], list(node.args))
        factors = step.factors
    elif isinstance(step, Convolution) and step.relu and len(node.args) == 2 and _adds(plan, node.args[1]):
        first, coarser, factors = node, [], ()
    else:
        return
    convolved = []
    while first is node or _adds(plan, first):
        adding = cast(Convolution, step_of(plan, first))
        bare = Convolution(adding.weight, adding.bias, adding.stride)
        convolved.append(_insert(plan, node, bare, first.args[0]))
        first = cast(fx.Node, first.args[1])
    total = Sum((1,) * len(convolved) + factors, torch.zeros(_channels(plan, first)))
    node.replace_all_uses_with(_insert(plan, node, total, first, *convolved, *coarser))


def _adds(plan: fx.GraphModule, node: object) -> bool:
    """Tell whether a node is a convolution that adds, and no more than a part of a longer sum."""
    if not isinstance(node, fx.Node):
        return False
    step = step_of(plan, node)
    return isinstance(step, Convolution) and not step.relu and len(node.args) == 2 and len(node.users) == 1


def _move_bias(plan: fx.GraphModule, node: fx.Node) -> None:
    """Give the bias of a convolution without ReLU to the only reader of each of its parts, if that can take it."""
    step = step_of(plan, node)
    if not isinstance(step, Convolution) or step.relu or len(node.args) > 1:
        return
    sizes = parts_of(node)
    if sizes is None:
        parts = [node]
    else:
        (split,) = node.users
        parts = sorted(split.users, key=lambda part: cast(int, part.args[1]))
    takers = []
    for part in parts:
        readers = list(part.users)
        taker = step_of(plan, readers[0]) if len(readers) == 1 else None
        adds = isinstance(taker, Convolution) and readers[0].args[1:] == (part,)
        if not isinstance(taker, Sum) and not adds:
            return
        takers.append(cast(Sum, taker))
    for taker, bias in zip(takers, torch.split(step.bias, sizes or [len(step.bias)]), strict=True):
        taker.bias = taker.bias + bias
    step.bias = torch.zeros_like(step.bias)


def _channels(plan: fx.GraphModule, node: fx.Node) -> int:
    """Return how many channels the map of a node has."""
    step = step_of(plan, node)
    if isinstance(step, Convolution | Sum):
        return len(step.bias)
    if isinstance(step, Exchange) or node.target == "split":
        return _channels(plan, cast(fx.Node, node.args[0]))
    if node.target is operator.getitem:
        return cast(list[int], parts_of(cast(fx.Node, cast(fx.Node, node.args[0]).args[0])))[cast(int, node.args[1])]
    raise TypeError(f"{node.format_node()} is no map of a plan")


def _insert(plan: fx.GraphModule, place: fx.Node, step: nn.Module, *args: object) -> fx.Node:
    """Call a new step before a node."""
    number = len(plan._modules)
    while hasattr(plan, f"gpu{number}"):
        number += 1
    plan.add_submodule(f"gpu{number}", step)
    with plan.graph.inserting_before(place):
        return plan.graph.call_module(f"gpu{number}", tuple(args))  # type: ignore[arg-type]
