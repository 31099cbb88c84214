"""Network -> plan: the same scores in fewer and larger steps.

The network's own forward is traced (torch.fx) and the graph rewritten, so that there is no second description of the
network: what it computes is changed nowhere but in `models`. Per module of the published architecture the rewriting

- folds batch norm into the convolution before it, in float64;
- makes convolution, bias, sum with another map and ReLU one step;
- makes the sum of an exchange one step, with both of its resizes: by a whole factor, and to the branch's size;
- lets convolutions of one kind with a common input be one.

A plan consists of the steps below. Engines replace them by faster ones of the same meaning.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.hrnet import fit

Step = TypeVar("Step", bound=nn.Module)

_RELU = (torch.relu_, F.relu_)


class Convolution(nn.Module):
    """Convolution and bias, plus another map if there is one, then ReLU if `relu`.

    Attributes:
        weight: (outputs, inputs, k, k).
        bias: (outputs,).
        stride: of both axes.
        padding: zeros on all four sides.
        relu: whether negative values become 0.
        overwrites: the other map is needed nowhere else, and its memory may take the result.

    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, relu: bool = False) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.stride = stride
        self.padding = weight.shape[2] // 2
        self.relu = relu
        self.overwrites = False

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Return (N, outputs, ceil(H / stride), ceil(W / stride)); `other` has that shape."""
        y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        if other is not None:
            y = y.add_(other)
        return y.relu_() if self.relu else y


class Exchange(nn.Module):
    """Sum of a branch and coarser ones that are enlarged to its size, then ReLU.

    Attributes:
        factors: by which the coarser maps are enlarged before they are brought to the very size.
        overwrites: the branch's map is needed nowhere else, and its memory may take the result.

    """

    def __init__(self, factors: tuple[int, ...]) -> None:
        super().__init__()
        self.factors = factors
        self.overwrites = False

    def forward(self, x: Tensor, *coarser: Tensor) -> Tensor:
        """Return a map of the shape of `x` (N, C, H, W); the coarser ones have as many channels."""
        total = x
        for factor, each in zip(self.factors, coarser, strict=True):
            large = F.interpolate(each, scale_factor=float(factor), mode="bilinear", align_corners=False)
            if large.shape[-2:] != x.shape[-2:]:
                large = fit(large, x.shape[-2:])
            total = total.add_(large) if total is not x or self.overwrites else total + large
        return total.relu_()


class Head(nn.Module):
    """All maps at the finest one's size, through the 1x1 convolution that mixes them, then through the classifier.

    Attributes:
        mix: of all maps side by side.
        classifier: of what `mix` gives.

    """

    def __init__(self, mix: Convolution, classifier: Convolution) -> None:
        super().__init__()
        self.mix = mix
        self.classifier = classifier

    def forward(self, x: Tensor, *coarser: Tensor) -> Tensor:
        """Return the scores (N, classes, H, W), H and W of the finest map `x`."""
        # Nothing of this has a name: each map's memory is free as soon as it was read.
        scores: Tensor = self.classifier(
            self.mix(torch.cat([x, *(fit(each, x.shape[-2:]) for each in coarser)], dim=1))
        )
        return scores


class _Quarter(nn.Module):
    """What is traced: normalised pictures to scores at a quarter of their size."""

    def __init__(self, model: FCNHRNet) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.decode_head = model.decode_head

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.decode_head(self.backbone(x))
        return scores


def make_plan(model: FCNHRNet) -> fx.GraphModule:
    """Return the plan of a network: (N, 3, H, W) normalised RGB -> (N, classes, ceil(H/4), ceil(W/4)).

    Weights are float32, on the CPU, and copies: the plan does not follow later changes of the network's.
    """
    root = _Quarter(model)
    graph = fx.Tracer(autowrap_functions=(fit,)).trace(root)
    rewriting = _Rewriting(root, graph)
    for rewrite in (rewriting.fold, rewriting.sums, rewriting.relus, rewriting.merge_siblings, rewriting.head):
        rewrite()
        graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    rewriting.overwrite()
    plan = fx.GraphModule(rewriting.steps, graph, "Plan")
    plan.graph.lint()
    return plan.eval()


class _Rewriting:
    """The steps of a graph while it is rewritten, by the names under which its nodes call them."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        self.root = root
        self.graph = graph
        self.steps: dict[str, nn.Module] = {}

    def fold(self) -> None:
        """Make one step of each convolution and the batch norm behind it; drop what does nothing."""
        for node in list(self.graph.nodes):
            module = self._module(node)
            if isinstance(module, nn.Identity):
                self._replace(node, node.args[0])
            elif isinstance(module, nn.Conv2d):
                after = _sole_user(node)
                norm = self._module(after)
                if isinstance(norm, nn.BatchNorm2d):
                    self._replace(after, self._call(node, folded(module, norm), *node.args))
                else:
                    self._replace(node, self._call(node, folded(module, None), *node.args))

    def sums(self) -> None:
        """Make each sum of maps steps that add while they compute: convolutions first, then what is enlarged."""
        for node in list(self.graph.nodes):
            if node.target is not operator.add or any(user.target is operator.add for user in node.users):
                continue  # of a sum of several, the last addition stands for all
            plain, convolved, enlarged = [], [], []
            for term in _terms(node):
                if term.target is fit:
                    enlarged.append(_inputs(term)[0])
                elif isinstance(self._step(term), Convolution) and len(term.users) == 1:
                    convolved.append(term)
                else:
                    plain.append(term)
            total = plain[0] if plain else convolved.pop(0)
            for term in convolved:
                total = self._call(node, self.steps[str(term.target)], *term.args, total)
            if enlarged:
                factors = tuple(int(self._module(each).scale_factor) for each in enlarged)  # type: ignore[union-attr, arg-type]
                total = self._call(node, Exchange(factors), total, *(_inputs(each)[0] for each in enlarged))
            self._replace(node, total)

    def relus(self) -> None:
        """Let the steps before ReLUs do them. An exchange always does: no sum is without one."""
        for node in list(self.graph.nodes):
            if node.target in _RELU or isinstance(self._module(node), nn.ReLU):
                before = _inputs(node)[0]
                step = self._step(before)
                if isinstance(step, Convolution):
                    step.relu = True
                self._replace(node, before)

    def merge_siblings(self) -> None:
        """Make one of the convolutions that read the same map in the same way."""
        for node in list(self.graph.nodes):
            kinds: dict[tuple[Any, ...], list[fx.Node]] = {}
            for user in node.users:
                step = self._step(user)
                if isinstance(step, Convolution) and user.args == (node,):
                    kinds.setdefault((step.stride, step.weight.shape[2:], step.relu), []).append(user)
            for siblings in kinds.values():
                if len(siblings) > 1:
                    self._merge(node, siblings)

    def _merge(self, node: fx.Node, siblings: list[fx.Node]) -> None:
        steps = [cast(Convolution, self._step(each)) for each in siblings]
        weight = torch.cat([step.weight for step in steps])
        bias = torch.cat([step.bias for step in steps])
        first = min(siblings, key=list(self.graph.nodes).index)
        merged = self._call(first, Convolution(weight, bias, steps[0].stride, steps[0].relu), node)
        with self.graph.inserting_after(merged):
            parts = self.graph.call_method("split", (merged, [len(step.bias) for step in steps], 1))
        for place, sibling in enumerate(siblings):
            with self.graph.inserting_after(parts):
                self._replace(sibling, self.graph.call_function(operator.getitem, (parts, place)))

    def head(self) -> None:
        """Make one step of the head."""
        (cat,) = (node for node in self.graph.nodes if node.target is torch.cat)
        mix = _sole_user(cat)
        classifier = _sole_user(mix)
        maps = [_inputs(each)[0] if each.target is fit else each for each in cast(list[fx.Node], cat.args[0])]
        pair = (cast(Convolution, self._step(mix)), cast(Convolution, self._step(classifier)))
        self._replace(classifier, self._call(classifier, Head(*pair), *maps))

    def overwrite(self) -> None:
        """Let steps reuse the memory of a map whose last reader they are."""
        order = {node: place for place, node in enumerate(self.graph.nodes)}
        for node in self.graph.nodes:
            step = self._step(node)
            other = _inputs(node)[1:2] if isinstance(step, Convolution) else _inputs(node)[:1]
            if isinstance(step, Convolution | Exchange) and other:
                last = max(order[user] for user in other[0].users) == order[node]
                step.overwrites = last and isinstance(self._step(other[0]), Convolution | Exchange)  # no part of a map

    def _module(self, node: fx.Node) -> nn.Module | None:
        if node.op != "call_module" or node.target in self.steps:
            return None
        return self.root.get_submodule(cast(str, node.target))

    def _step(self, node: fx.Node) -> nn.Module | None:
        return self.steps.get(str(node.target)) if node.op == "call_module" else None

    def _call(self, place: fx.Node, step: nn.Module, *args: Any) -> fx.Node:  # noqa: ANN401 - what nodes take
        name = f"step{len(self.steps)}"
        self.steps[name] = step
        with self.graph.inserting_before(place):
            return self.graph.call_module(name, args)

    def _replace(self, node: fx.Node, new: Any) -> None:  # noqa: ANN401 - an argument of a node
        node.replace_all_uses_with(new)


def folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d | None) -> Convolution:
    """Return the step of a convolution and the batch norm behind it, if any, in eval mode."""
    weight = convolution.weight.detach().cpu().double()
    bias = weight.new_zeros(len(weight)) if convolution.bias is None else convolution.bias.detach().cpu().double()
    if norm is not None:
        gain, shift, mean, variance = (
            cast(Tensor, each).detach().cpu().double()
            for each in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        )
        scale = gain / torch.sqrt(variance + norm.eps)
        weight = weight * scale[:, None, None, None]
        bias = (bias - mean) * scale + shift
    return Convolution(weight.float(), bias.float(), convolution.stride[0])


def _inputs(node: fx.Node) -> list[fx.Node]:
    """Return the maps that a node reads."""
    return [each for each in node.args if isinstance(each, fx.Node)]


def _sole_user(node: fx.Node) -> fx.Node:
    """Return the only reader of a convolution's result: that of every one in these networks has one."""
    (user,) = node.users
    return user


def _terms(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the terms of a sum of sums."""
    for term in _inputs(node):
        if term.target is operator.add:
            yield from _terms(term)
        else:
            yield term


def lower(plan: nn.Module, kind: type[Step], replacement: Callable[[Step], nn.Module]) -> None:
    """Put an engine's own steps in place of those of one kind, wherever they stand in a plan."""
    for name, step in list(plan.named_children()):
        if isinstance(step, kind):
            setattr(plan, name, replacement(step))
        else:
            lower(step, kind, replacement)
