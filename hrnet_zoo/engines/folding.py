"""FCNHRNet -> plan: the same function of the image in fewer, larger steps, with batch norm folded into convolutions.

Each block of the module tree is rebuilt; nothing is traced. Batch norm is folded in float64. Convolution, bias,
addition of another map and ReLU are one step, and so is the sum of a branch and the upsampled coarser branches.
Engines replace steps by faster ones that compute the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from hrnet_zoo.errors import ConfigError
from hrnet_zoo.models.fcn import FCNHRNet, forward_is_replaced
from hrnet_zoo.models.hrnet import Bottleneck, fit
from hrnet_zoo.models.ocr import attention, class_features
from hrnet_zoo.models.skip_init import skip_init

Step = TypeVar("Step", bound=nn.Module)

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)  # in eval mode the same


class Convolution(nn.Module):
    """Convolution with bias, plus another map if one is given, then ReLU if `relu`."""

    weight: Tensor  # (outputs, inputs, k, k)
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, relu: bool = False) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.stride = stride
        self.padding = weight.shape[2] // 2
        self.relu = relu

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Return (N, outputs, ceil(H / stride), ceil(W / stride)); `other` has this shape and may be overwritten."""
        dtype = torch.float32 if self.needs_float32(x) else x.dtype
        y = F.conv2d(x.to(dtype), self.weight.to(dtype), self.bias.to(dtype), self.stride, self.padding).to(x.dtype)
        if other is not None:
            y = y.add_(other)
        return y.relu_() if self.relu else y

    def needs_float32(self, x: Tensor) -> bool:
        """Tell whether oneDNN (torch 2.13, bfloat16, AMX) would read foreign memory: the result is one column."""
        return x.dtype == torch.bfloat16 and self.stride == 2 and x.shape[3] <= 2


class UpsampleSum(nn.Module):
    """Sum of a branch and coarser branches, upsampled by `factors` and then resized to its exact size, then ReLU."""

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
    """All maps upsampled to the finest one's size and concatenated, then two 1x1 convolutions."""

    def __init__(self, mix: Convolution, classifier: Convolution) -> None:
        super().__init__()
        self.mix = mix
        self.classifier = classifier

    def forward(self, x: Tensor, *coarser: Tensor) -> Tensor:
        """Return logits (N, classes, H, W) at the size of the finest map `x`."""
        # Under one name, so that the memory of each map is free as soon as it has been read.
        x = torch.cat([x, *(fit(each, x.shape[-2:]) for each in coarser)], dim=1)
        x = self.mix(x)
        x = self.classifier(x)
        return x


class OCRHead(Head):
    """The two heads of OCRNet: the first one is the FCN head, whose logits go into the second one."""

    def __init__(self, heads: Any) -> None:  # noqa: ANN401 - ocr's OCRNetHead, whose children have types
        fcn, ocr = heads
        block = ocr.object_context_block
        super().__init__(_folded(fcn.convs[0]), fold(fcn.conv_seg))
        self.pixels = _folded(ocr.bottleneck)
        self.query = nn.Sequential(*map(_folded, block.query_project))
        self.key = nn.Sequential(*map(_folded, block.key_project))
        self.value = _folded(block.value_project)
        self.context = _folded(block.out_project)
        # A convolution of concatenated maps is a sum of two: context first, then pixels.
        both = _folded(block.bottleneck)
        of_context, of_pixels = (each.contiguous() for each in both.weight.chunk(2, dim=1))
        self.fuse_pixels = Convolution(of_pixels, torch.zeros_like(both.bias), stride=1)
        self.fuse = Convolution(of_context, both.bias, stride=1, relu=True)
        self.last = fold(ocr.conv_seg)

    def forward(self, x: Tensor, *coarser: Tensor) -> Tensor:
        """Return logits (N, classes, H, W) at the size of the finest map `x`."""
        x = torch.cat([x, *(fit(each, x.shape[-2:]) for each in coarser)], dim=1)
        regions, pixels = self.classifier(self.mix(x)), self.pixels(x)
        del x
        classes = class_features(pixels, regions)
        context = self.context(attention(self.query(pixels), self.key(classes), self.value(classes)))
        logits: Tensor = self.last(self.fuse(context, self.fuse_pixels(pixels)))
        return logits


class _Block(nn.Module):
    """Convolutions, the last of which adds another map: `other`, or the block's input through the shortcut."""

    def __init__(self, steps: Sequence[Convolution], shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.before = nn.Sequential(*steps[:-1])
        self.last = steps[-1]
        self.shortcut = shortcut or nn.Identity()

    def forward(self, x: Any, other: Any = None) -> Any:  # noqa: ANN401 - tensors, or OpenVINO's outputs
        y = self.before(x)
        return self.last(y, self.shortcut(x) if other is None else other)


class _Transition(nn.ModuleList):
    def __init__(self, layers: Any) -> None:  # noqa: ANN401 - hrnet's layers, whose children have types
        *adapt, down = layers
        super().__init__(_adapting_layer(layer) for layer in (*adapt, down[0]))

    def forward(self, maps: list[Any]) -> list[Any]:
        return [layer(x) for layer, x in zip(self, [*maps, maps[-1]], strict=True)]


class Stem(nn.Module):
    """What comes before the first exchange: two convolutions, the bottlenecks, and the transition to two branches."""

    def __init__(self, steps: Iterable[nn.Module], transition: nn.Module) -> None:
        super().__init__()
        self.steps = nn.Sequential(*steps)
        self.transition = transition

    def forward(self, x: Any) -> Any:  # noqa: ANN401 - a tensor, or OpenVINO's output
        """Return the maps at strides 4 and 8."""
        return self.transition([self.steps(x)])


class _ExchangeModule(nn.Module):
    """An exchange module. Each map is overwritten by its sum once all other branches have read it."""

    def __init__(self, module: Any) -> None:  # noqa: ANN401 - hrnet's ExchangeModule, whose children have types
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*map(_residual_block, branch)) for branch in module.branches)
        self.up: Any = nn.ModuleList()
        self.down: Any = nn.ModuleList()
        self.sums: Any = nn.ModuleList()
        for target, fusion in enumerate(module.fuse_layers):
            paths = list(fusion)
            self.up.append(nn.ModuleList(fold(path[0], path[1]) for path in paths[target + 1 :]))
            down = [_downsampling_path(path) for path in paths[:target]]
            self.down.append(nn.ModuleList(down))
            if factors := tuple(2**power for power in range(1, len(paths) - target)):
                self.sums.append(UpsampleSum(factors))
            else:
                down[-1].last.relu = True

    def forward(self, maps: list[Any]) -> list[Any]:
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        coarser = [
            [layer(x) for layer, x in zip(layers, maps[target + 1 :], strict=True)]
            for target, layers in enumerate(self.up)
        ]
        for target in reversed(range(len(maps))):
            for layer, x in zip(self.down[target], maps[:target], strict=True):
                maps[target] = layer(x, maps[target])
            if coarser[target]:
                maps[target] = self.sums[target](maps[target], *coarser[target])
        return maps


class Plan(nn.Module):
    """A network's plan: (N, 3, H, W) normalized RGB -> logits (N, classes, ceil(H/4), ceil(W/4)).

    Its weights are float32 copies on the CPU: later changes of the network do not reach them.

    Raises:
        ConfigError: the network differs from the published architecture, or has forward hooks.

    """

    def __init__(self, model: FCNHRNet) -> None:
        require_published(model)
        super().__init__()
        net, head = cast(Any, model.backbone), cast(Any, model.decode_head)
        convolutions = (fold(net.conv1, net.bn1, relu=True), fold(net.conv2, net.bn2, relu=True))
        self.stem = Stem([*convolutions, *map(_residual_block, net.layer1)], _Transition(net.transition1))
        self.stages = nn.Sequential(
            *map(_ExchangeModule, net.stage2),
            _Transition(net.transition2),
            *map(_ExchangeModule, net.stage3),
            _Transition(net.transition3),
            *map(_ExchangeModule, net.stage4),
        )
        self.head = OCRHead(head) if model.method == "OCRNet" else Head(_folded(head.convs[0]), fold(head.conv_seg))
        self.eval()

    def forward(self, x: Any) -> Any:  # noqa: ANN401 - a tensor, or OpenVINO's output
        """Return the logits at stride 4."""
        return self.head(*self.stages(self.stem(x)))


class PyTorchEngine:
    """Runs a plan, which it takes over, in PyTorch's own operations, on any device and in any dtype."""

    name = "pytorch"
    in_8_bits = False

    def __init__(self, plan: Plan, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype
        self._plan = plan.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits at stride 4 of normalized images (N, 3, H, W): (N, ceil(H/4), ceil(W/4), classes)."""
        logits: Tensor = self._plan(x)
        return logits.permute(0, 2, 3, 1)


def fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d | None = None, relu: bool = False) -> Convolution:
    """Fold the batch norm behind a convolution, if any, into it; as in eval mode."""

    def exact(tensor: Tensor | None) -> Any:  # noqa: ANN401 - the annotations in torch leave None out
        return None if tensor is None else tensor.detach().cpu().double()

    weight, bias = exact(convolution.weight), exact(convolution.bias)
    if norm is not None:
        statistics = exact(norm.running_mean), exact(norm.running_var)
        weight, bias = fuse_conv_bn_weights(weight, bias, *statistics, norm.eps, exact(norm.weight), exact(norm.bias))
    # Contiguous, also where the network is "channels last": OpenVINO uses the weights in the same memory.
    return Convolution(weight.detach().float().contiguous(), bias.detach().float(), convolution.stride[0], relu)


def _folded(module: Any) -> Convolution:  # noqa: ANN401 - heads' ConvModule, whose children have types
    return fold(module.conv, module.bn, relu=True)


def _residual_block(block: Any) -> _Block:  # noqa: ANN401 - BasicBlock or Bottleneck
    steps = [fold(block.conv1, block.bn1, relu=True), fold(block.conv2, block.bn2, relu=True)]
    shortcut = None
    if isinstance(block, Bottleneck):
        steps.append(fold(block.conv3, block.bn3, relu=True))
        shortcut = _adapting_layer(block.downsample, relu=False)
    return _Block(steps, shortcut)


def _adapting_layer(layer: Any, relu: bool = True) -> nn.Module:  # noqa: ANN401 - a Sequential or Identity
    return nn.Identity() if isinstance(layer, nn.Identity) else fold(layer[0], layer[1], relu)


def _downsampling_path(path: Any) -> _Block:  # noqa: ANN401 - a Sequential of Sequentials
    """Rebuild a path to a coarser branch: ReLU after all convolutions but the last, which adds."""
    *before, last = path
    return _Block([*(fold(each[0], each[1], relu=True) for each in before), fold(last[0], last[1])])


def require_published(model: FCNHRNet) -> None:
    """Refuse a network that computes anything else than the published architecture does.

    Raises:
        ConfigError: a module is missing, added, of another type or with other settings, or has forward hooks.

    """
    with skip_init():
        expected = _description(FCNHRNet(model.arch, model.dataset, method=model.method))
    found = _description(model)
    for name in {**expected, **found}:
        if found.get(name) != expected.get(name):
            words = (each[name][1] if name in each else "nothing" for each in (found, expected))
            raise ConfigError(
                asked=f"optimize {model.name}",
                found="{} is {}, where the published network has {}".format(name, *words),
                done="the network is unchanged",
                advice="only the published architecture can be optimized or exported; predict with the network itself",
            )


def _description(model: FCNHRNet) -> dict[str, tuple[object, str]]:
    """Return the type of each module, and in words what it computes in eval mode."""
    method = getattr(model.logits_stride4, "__func__", None)
    found: dict[str, tuple[object, str]] = {"logits_stride4": (method, getattr(method, "__name__", "another function"))}
    for part in ("backbone", "decode_head"):
        for name, module in getattr(model, part).named_modules(prefix=part):
            settings = module.extra_repr() if isinstance(module, nn.Conv2d | nn.Upsample) else ""
            kind, text = type(module), f"{type(module).__name__}({settings})"
            if kind in NORMS:
                unknown = module.running_mean is None or module.running_var is None
                kind, text = nn.BatchNorm2d, f"BatchNorm2d({module.num_features}{', no statistics' if unknown else ''})"
            if module._forward_hooks or module._forward_pre_hooks:
                text += " with a forward hook, which would not be called"
            if forward_is_replaced(module):
                text += " with a forward of its own"
            found[name] = kind, text
    return found


def replace_steps(plan: Plan, kind: type[Step], replacement: Callable[[Step], nn.Module]) -> None:
    """Replace all steps of one kind in a plan by an engine's own."""
    for name, step in list(plan.named_modules()):
        if isinstance(step, kind):
            plan.set_submodule(name, replacement(step))
