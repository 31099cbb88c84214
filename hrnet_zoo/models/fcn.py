"""FCN head, and the whole network: normalized RGB in, one score per class and pixel out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from hrnet_zoo.datasets import Dataset
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.models.empty import batch_norm, conv2d
from hrnet_zoo.models.hrnet import SPECS, HRNet, fit
from hrnet_zoo.models.predictor import Predictor

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from typing_extensions import Self

    from hrnet_zoo.zoo.catalog import ModelInfo

M = TypeVar("M", bound=nn.Module)


class FCNHRNet(Predictor, nn.Module):
    """HRNet with the FCN head.

    Args:
        arch: "hr18s", "hr18" or "hr48".
        dataset: what the classes are called and how images are brought to the network.
        info: the catalog row that the weights come from, if any.
        name: what to call it; "": as its row, or as its arch where there is none.

    Attributes:
        provenance: what the weights' file says of its origin (source address, SHA-256, ...); empty for random weights.

    """

    def __init__(self, arch: str, dataset: Dataset, info: ModelInfo | None = None, name: str = "") -> None:
        super().__init__()
        self.arch = arch
        self.dataset = dataset
        self.info = info
        self.name = name or (info.name if info else arch)
        self.provenance: dict[str, str] = {}
        self.backbone = HRNet(SPECS[arch])
        self.decode_head = FCNHead(SPECS[arch].widths, len(dataset.classes))

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype

    def logits_stride4(self, x: Tensor) -> Tensor:
        """Score normalized RGB images (N, 3, H, W): (N, ceil(H/4), ceil(W/4), classes), in the weights' dtype."""
        scores: Tensor = self.decode_head(self.backbone(x))
        return scores.permute(0, 2, 3, 1)

    def ready(self) -> Self:
        """Return this network in eval mode for one caller, whose tensors and hooks are this one's.

        The mode of a module belongs to all threads, and one of them may be training it: it is not touched.

        Raises:
            ConfigError: the network is in training mode, and one of its modules has a forward of its own.

        """
        return _in_eval_mode(self, {})

    def freeze_backbone(self) -> None:
        """Keep the backbone as it is: its weights take no gradient, its batch norm stays in eval mode for good."""
        self.backbone.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of training; modules whose parameters all take no gradient stay in eval mode."""
        super().train(mode)
        if mode:
            for child in self.children():
                _learns(child)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Score normalized RGB images.

        Args:
            x: (N, 3, H, W), any H and W.

        Returns:
            (N, classes, H, W), in the weights' dtype.

        Raises:
            ConfigError: it is an image and no tensor.

        """
        if not hasattr(x, "dim"):
            raise ConfigError(
                asked=f"model({type(x).__name__})",
                found="the network itself takes a normalized tensor (N, 3, H, W), and returns scores",
                done="nothing was computed",
                advice="model.predict(image) takes paths, images and arrays",
            )
        return fit(self.decode_head(self.backbone(x)), x.shape[-2:])

    def _optimized(self) -> Predictor:
        from hrnet_zoo.engines.optimize import optimized

        return optimized(self)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        metrics: Mapping[str, float | int | str | None] | None = None,
        license: str | None = None,  # noqa: A002 - the Hub calls it so
    ) -> Path:
        """Save the network as a model folder, for create_model("local-dir:FOLDER"): see `hrnet_zoo.zoo.save`."""
        from hrnet_zoo.zoo.save import save_pretrained

        return save_pretrained(self, folder, metrics=metrics, license=license)


def require_network(model: object, asked: str) -> None:
    """Refuse what is no network: its name, a wrapper around one, or what `optimize` made of it.

    Raises:
        ConfigError: it is none.

    """
    if not hasattr(model, "decode_head"):
        wrapper = isinstance(model, nn.Module)
        raise ConfigError(
            asked=asked,
            found=f"the model is a {type(model).__name__}, no network of hrnet_zoo.create_model",
            done="nothing was computed",
            advice="pass the network inside it (model.module)" if wrapper else "pass create_model(NAME)",
        )


def forward_is_replaced(module: nn.Module) -> bool:
    """Tell whether a module has another forward than its class; accelerate leaves the class's own there, bound."""
    forward = vars(module).get("forward")
    own = getattr(forward, "__self__", None) is module and getattr(forward, "__func__", None) is type(module).forward
    return forward is not None and not own


def _in_eval_mode(module: M, done: dict[nn.Module, Any]) -> M:
    """Copy the modules, not what they hold."""
    if module in done:
        return done[module]  # type: ignore[no-any-return]
    if module.training and forward_is_replaced(module):
        raise ConfigError(
            asked="predict with a network in training mode",
            found=f"the forward of one of its modules ({type(module).__name__}) was replaced by a function, which "
            "calls that module itself, and not its copy in eval mode",
            done="nothing was computed",
            advice="call model.eval() first",
        )
    copied = done[module] = object.__new__(type(module))
    # A module's truth is its length, which those of torch.compile refuse to tell
    children = {
        name: _in_eval_mode(child, done) if child is not None else None for name, child in module._modules.items()
    }
    vars(copied).update(vars(module), _modules=children, training=False)
    if module.training:
        vars(copied).pop("_compiled_call_impl", None)  # of `Module.compile`: it calls the original
        vars(copied).pop("forward", None)  # the class's own, bound to the original
    return copied


def _learns(module: nn.Module) -> bool | None:
    """Put what is frozen into eval mode; tell whether a parameter takes a gradient (None: there is none)."""
    found = {_learns(child) for child in module.children()}
    found |= {parameter.requires_grad for parameter in module.parameters(recurse=False)}
    if found <= {None}:
        return None
    if True not in found:
        module.eval()
    return True in found


class FCNHead(nn.Module):
    """All maps at the finest one's size, side by side, through two 1x1 convolutions.

    Args:
        widths: channels of the four maps.
        num_classes: scores per pixel.

    """

    def __init__(self, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        channels = sum(widths)
        self.conv_seg = conv2d(channels, num_classes, 1)
        self.convs = nn.Sequential(ConvModule(channels))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return scores (N, classes, H/4, W/4)."""
        size = maps[0].shape[-2:]
        x = torch.cat([maps[0], *(fit(coarser, size) for coarser in maps[1:])], dim=1)
        scores: Tensor = self.conv_seg(self.convs(x))
        return scores


class ConvModule(nn.Module):
    """1x1 convolution, batch norm, ReLU, under the names of the published files."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv2d(channels, channels, 1, bias=False)
        self.bn = batch_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        return torch.relu_(self.bn(self.conv(x)))
