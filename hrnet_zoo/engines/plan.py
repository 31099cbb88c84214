"""Network -> plan: the same function of the image in fewer and larger steps.

The architecture is known: its module tree is walked, and each block written down in its folded form. Nothing is traced.

- Batch norm is folded into the convolution before it, in float64.
- Convolution, bias, sum with another map and ReLU are one step.
- The sum of an exchange is one step, with both of its resizes: by a whole factor, and to the branch's size.

A network that computes anything else is refused. Engines replace the steps by faster ones of the same meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrnet_zoo.errors import ConfigError
from hrnet_zoo.models.empty import empty_layers
from hrnet_zoo.models.fcn import FCNHRNet, forward_is_replaced
from hrnet_zoo.models.hrnet import BasicBlock, Bottleneck, ExchangeModule, Fusion, Transition, fit

Step = TypeVar("Step", bound=nn.Module)

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)  # in eval mode the same


class Convolution(nn.Module):
    """Convolution and bias, plus another map if there is one, then ReLU if `relu`.

    Attributes:
        weight: (outputs, inputs, k, k).
        bias: (outputs,).
        stride: of both axes.
        padding: zeros on all four sides.
        relu: whether negative values become 0.

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

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Return (N, outputs, ceil(H / stride), ceil(W / stride)); `other` has that shape and may be overwritten."""
        tensors = (x, self.weight, self.bias)
        if self.to_one_column(x):
            tensors = (x.float(), self.weight.float(), self.bias.float())
        y = F.conv2d(*tensors, self.stride, self.padding).to(x.dtype)
        if other is not None:
            y = y.add_(other)
        return y.relu_() if self.relu else y

    def to_one_column(self, x: Tensor) -> bool:
        """Tell whether this is what oneDNN (torch 2.13) gets wrong in bfloat16 with AMX: it reads foreign memory."""
        return self.stride == 2 and x.shape[3] <= 2 and x.dtype == torch.bfloat16


class Exchange(nn.Module):
    """Sum of a branch and coarser ones that are enlarged to its size, then ReLU.

    Attributes:
        factors: by which the coarser maps are enlarged before they are brought to the very size.

    """

    def __init__(self, factors: tuple[int, ...]) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, x: Tensor, *coarser: Tensor) -> Tensor:
        """Return the sum in the memory of `x` (N, C, H, W); the coarser maps have as many channels."""
        for factor, each in zip(self.factors, coarser, strict=True):
            large = F.interpolate(each, scale_factor=float(factor), mode="bilinear", align_corners=False)
            x.add_(large if large.shape[-2:] == x.shape[-2:] else fit(large, x.shape[-2:]))
        return x.relu_()


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


# From here on nothing computes by itself: all is done by the steps above, so that engines may let them do other things.


class _Block(nn.Module):
    """Convolutions, the last of which adds another map: the block's own input, or what it is given."""

    def __init__(self, steps: list[Convolution], shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.before = nn.Sequential(*steps[:-1])
        self.last = steps[-1]
        self.shortcut = shortcut or nn.Identity()

    def forward(self, x: Any, other: Any = None) -> Any:  # noqa: ANN401 - whatever an engine computes with
        y = self.before(x)
        return self.last(y, self.shortcut(x) if other is None else other)


class _Transition(nn.ModuleList):
    def forward(self, maps: list[Any]) -> list[Any]:
        return [layer(x) for layer, x in zip(self, [*maps, maps[-1]], strict=True)]


class _Exchanging(nn.Module):
    """An exchange module. Each map is overwritten by its sum when all others have read it."""

    def __init__(self, module: ExchangeModule) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(_basic(cast(BasicBlock, block)) for block in cast(nn.Sequential, branch)))
            for branch in module.branches
        )
        self.up, self.down, self.sums = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for target, fusion in enumerate(cast(list[Fusion], list(module.fuse_layers))):
            finer, coarser = list(fusion)[:target], list(fusion)[target + 1 :]
            self.up.append(nn.ModuleList(_folded_pair(cast(nn.Sequential, path), relu=False) for path in coarser))
            down = [_path(cast(nn.Sequential, path)) for path in finer]
            self.down.append(nn.ModuleList(down))
            if coarser:
                self.sums.append(Exchange(tuple(2 ** (place + 1) for place in range(len(coarser)))))
            else:
                down[-1].last.relu = True

    def forward(self, maps: list[Any]) -> list[Any]:
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        enlarged = [
            [layer(x) for layer, x in zip(cast(nn.ModuleList, layers), maps[target + 1 :], strict=True)]
            for target, layers in enumerate(self.up)
        ]
        for target in reversed(range(len(maps))):
            for layer, x in zip(cast(nn.ModuleList, self.down[target]), maps[:target], strict=True):
                maps[target] = layer(x, maps[target])
            if target < len(self.sums):
                maps[target] = self.sums[target](maps[target], *enlarged[target])
        return maps


class Plan(nn.Module):
    """A network's plan: (N, 3, H, W) normalized RGB -> (N, classes, ceil(H/4), ceil(W/4)).

    Weights are float32, on the CPU, and copies: the plan does not follow later changes of the network's.

    Args:
        model: of the published architecture, on any device, in any dtype.

    Raises:
        ConfigError: the network is not of the published architecture, or more runs than its modules.

    """

    def __init__(self, model: FCNHRNet) -> None:
        require_published(model)
        super().__init__()
        net, head = model.backbone, model.decode_head
        bottlenecks = (_bottleneck(cast(Bottleneck, block)) for block in net.layer1)
        stem = (folded(net.conv1, net.bn1, relu=True), folded(net.conv2, net.bn2, relu=True))
        self.stem = nn.Sequential(*stem, *bottlenecks)
        self.stages = nn.Sequential()
        for transition, stage in (
            (net.transition1, net.stage2),
            (net.transition2, net.stage3),
            (net.transition3, net.stage4),
        ):
            self.stages.append(_transition(transition))
            self.stages.extend(_Exchanging(cast(ExchangeModule, module)) for module in stage)
        (mix,) = cast(Any, head.convs)
        self.head = Head(folded(mix.conv, mix.bn, relu=True), folded(head.conv_seg, None))
        self.eval()

    def forward(self, x: Any) -> Any:  # noqa: ANN401 - whatever an engine computes with
        """Return the scores at a quarter of the size."""
        return self.head(*self.stages([self.stem(x)]))


def require_published(model: FCNHRNet) -> None:
    """Refuse a network that computes anything else than the published architecture does.

    Raises:
        ConfigError: a module is another one, or is set differently, or has forward hooks.

    """
    with empty_layers():
        published = FCNHRNet(model.arch, model.dataset)
    if getattr(model.logits_stride4, "__func__", None) is not FCNHRNet.logits_stride4:
        raise _refusal(model, "it has a logits_stride4 of its own")
    for part in ("backbone", "decode_head"):
        expected = dict(getattr(published, part).named_modules(prefix=part))
        found = dict(getattr(model, part).named_modules(prefix=part))
        for name in (*expected, *found):
            if name not in found or name not in expected:
                what = "is missing" if name not in found else f"is a {type(found[name]).__name__} too many"
                raise _refusal(model, f"{name} {what}")
            if reason := _difference(found[name], expected[name]):
                raise _refusal(model, f"{name} {reason}")


def _difference(module: nn.Module, expected: nn.Module) -> str | None:
    """Tell what is different about a module, if anything is that changes what it computes in eval mode."""
    if type(module) is not type(expected) and not (isinstance(expected, nn.BatchNorm2d) and type(module) in NORMS):
        return f"is a {type(module).__name__}, where the published network has a {type(expected).__name__}"
    if module._forward_hooks or module._forward_pre_hooks:
        return "has a forward hook, which would not be called"
    if forward_is_replaced(module):
        return "has a forward of its own"
    if isinstance(module, nn.Conv2d | nn.Upsample) and module.extra_repr() != expected.extra_repr():
        return f"is {module}, where the published network has {expected}"
    if isinstance(module, NORMS):
        if module.running_mean is None or module.running_var is None:
            return "normalizes by each batch's own statistics (track_running_stats=False), which cannot be folded"
        if module.num_features != cast(nn.BatchNorm2d, expected).num_features:
            return f"is {module}, where the published network has {expected}"
    return None


def _refusal(model: FCNHRNet, found: str) -> ConfigError:
    return ConfigError(
        asked=f"optimize {model.name}",
        found=found,
        done="the network was left as it is",
        advice="only the published architecture has a fast form: leave fast out, and the network runs as it is",
    )


def folded(convolution: nn.Module, norm: nn.Module | None, relu: bool = False) -> Convolution:
    """Return the step of a convolution and the batch norm behind it, if any, in eval mode."""
    convolution = cast(nn.Conv2d, convolution)
    weight = convolution.weight.detach().cpu().double()
    bias = weight.new_zeros(len(weight)) if convolution.bias is None else convolution.bias.detach().cpu().double()
    if norm is not None:
        norm = cast(nn.BatchNorm2d, norm)
        mean, variance = (cast(Tensor, each).detach().cpu().double() for each in (norm.running_mean, norm.running_var))
        scale = 1 / torch.sqrt(variance + norm.eps)
        if norm.affine:
            scale = scale * norm.weight.detach().cpu().double()
        weight = weight * scale[:, None, None, None]
        bias = (bias - mean) * scale
        if norm.affine:
            bias = bias + norm.bias.detach().cpu().double()
    return Convolution(weight.float(), bias.float(), convolution.stride[0], relu)


def _basic(block: BasicBlock) -> _Block:
    return _Block([folded(block.conv1, block.bn1, relu=True), folded(block.conv2, block.bn2, relu=True)])


def _bottleneck(block: Bottleneck) -> _Block:
    pairs = ((block.conv1, block.bn1), (block.conv2, block.bn2), (block.conv3, block.bn3))
    shortcut = block.downsample
    return _Block(
        [folded(*pair, relu=True) for pair in pairs],
        _folded_pair(shortcut, relu=False) if isinstance(shortcut, nn.Sequential) else None,
    )


def _transition(transition: Transition) -> _Transition:
    *adapt, down = transition
    pairs = [*adapt, cast(nn.Sequential, down)[0]]  # two nested Sequentials
    return _Transition(
        _folded_pair(each, relu=True) if isinstance(each, nn.Sequential) else nn.Identity() for each in pairs
    )


def _path(path: nn.Sequential) -> _Block:
    """Return a way to a coarser branch: ReLU after all but the last convolution, which adds."""
    *before, last = cast(Iterator[nn.Sequential], path)
    return _Block([*(_folded_pair(each, relu=True) for each in before), _folded_pair(last, relu=False)])


def _folded_pair(pair: nn.Sequential, relu: bool) -> Convolution:
    return folded(pair[0], pair[1], relu)


def lower(plan: nn.Module, kind: type[Step], replacement: Callable[[Step], nn.Module]) -> None:
    """Put an engine's own steps in place of those of one kind, wherever they stand in a plan."""
    for name, step in list(plan.named_children()):
        if isinstance(step, kind):
            setattr(plan, name, replacement(step))
        else:
            lower(step, kind, replacement)
