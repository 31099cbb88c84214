"""The whole network, backbone and head: normalized RGB in, logits out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from hrnet_zoo.datasets import Dataset
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.models.base import SegmentationModel
from hrnet_zoo.models.heads import FCNHead
from hrnet_zoo.models.hrnet import SPECS, HRNet, fit
from hrnet_zoo.models.ocr import OCRNetHead

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from typing_extensions import Self

    from hrnet_zoo.zoo.catalog import ModelInfo

HEADS: dict[str, type[FCNHead | OCRNetHead]] = {"FCN": FCNHead, "OCRNet": OCRNetHead}  # by method

M = TypeVar("M", bound=nn.Module)


class FCNHRNet(SegmentationModel, nn.Module):
    """HRNet with the FCN head, or with OCRNet's.

    Args:
        arch: "hr18s", "hr18", "hr32", "hr40" or "hr48".
        dataset: names and colors of the classes, and how images are resized for the network.
        info: the catalog row that the weights come from, if any.
        name: its name; "": that of its row, or `arch` if it has none.
        method: the head: "FCN" or "OCRNet".

    Attributes:
        provenance: the origin of the weights' file (source address, SHA-256, ...); empty for random weights.

    """

    def __init__(
        self, arch: str, dataset: Dataset, info: ModelInfo | None = None, name: str = "", method: str = "FCN"
    ) -> None:
        super().__init__()
        self.arch = arch
        self.method = method
        self.dataset = dataset
        self.info = info
        self.name = name or (info.name if info else arch)
        self.provenance: dict[str, str] = {}
        self.backbone = HRNet(SPECS[arch], len(dataset.bands))
        self.decode_head: Any = HEADS[method](SPECS[arch].widths, len(dataset.classes))

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.parameters()).dtype

    def logits_stride4(self, x: Tensor) -> Tensor:
        """Return the logits of normalized RGB images (N, 3, H, W): (N, ceil(H/4), ceil(W/4), classes)."""
        logits: Tensor = self.decode_head(self.backbone(x))
        return logits.permute(0, 2, 3, 1)

    def heads_logits(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of each head as `forward` does, the last one's being its own; for training."""
        maps, head = self.backbone(x), self.decode_head
        found = head.both_logits(maps) if isinstance(head, OCRNetHead) else (head(maps),)
        return tuple(fit(each, x.shape[-2:]) for each in found)

    @property
    def classifiers(self) -> dict[str, nn.Conv2d]:
        """The last layer of each head, whose rows are the classes, by name; the last one makes the result."""
        layers = self.named_modules()
        return {name: each for name, each in layers if isinstance(each, nn.Conv2d) and name.endswith(".conv_seg")}

    def ready(self) -> Self:
        """Return a copy in eval mode that shares tensors and hooks; another thread may be training the network itself.

        Raises:
            ConfigError: the network is in training mode, and the forward of one of its modules was replaced.

        """
        return _in_eval_mode(self, {})

    def freeze_backbone(self) -> None:
        """Freeze the backbone: its weights take no gradient, and its batch norm stays in eval mode."""
        self.backbone.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set training mode; modules whose parameters are all frozen stay in eval mode."""
        super().train(mode)
        for module in self.modules() if mode else ():
            frozen = [not parameter.requires_grad for parameter in module.parameters()]
            if frozen and all(frozen) and module is not self:
                module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes, H, W), in the weights' dtype, of normalized RGB images (N, 3, H, W).

        Raises:
            ConfigError: `x` is no tensor, for instance an image.

        """
        if not hasattr(x, "dim"):
            raise ConfigError(
                asked=f"model({type(x).__name__})",
                found="the network itself takes a normalized tensor (N, 3, H, W) and returns logits",
                done="nothing was computed",
                advice="model.predict(image) takes paths, images and arrays",
            )
        return fit(self.decode_head(self.backbone(x)), x.shape[-2:])

    def _optimized(self) -> SegmentationModel:
        from hrnet_zoo.engines.optimize import optimized

        return optimized(self)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        metrics: Mapping[str, float | int | str | None] | None = None,
        license: str | None = None,  # noqa: A002 - the Hub calls it so
    ) -> Path:
        """Save the network as a model folder: see `hrnet_zoo.zoo.model_folder.save_pretrained`."""
        from hrnet_zoo.zoo.model_folder import save_pretrained

        return save_pretrained(self, folder, metrics=metrics, license=license)


def require_network(model: object, asked: str) -> None:
    """Raise ConfigError for what is not a network: a name, a wrapper around one, or what `optimize` returns."""
    if not hasattr(model, "decode_head"):
        raise ConfigError(
            asked=asked,
            found=f"the model is a {type(model).__name__}, no network of hrnet_zoo.create_model",
            done="nothing was computed",
            advice="pass create_model(NAME), or the network inside a wrapper (model.module)",
        )


def forward_is_replaced(module: nn.Module) -> bool:
    """Return whether a module has a forward other than its class's own (which accelerate may set on it)."""
    forward = vars(module).get("forward")
    own = getattr(forward, "__self__", None) is module and getattr(forward, "__func__", None) is type(module).forward
    return forward is not None and not own


def _in_eval_mode(module: M, done: dict[nn.Module, Any]) -> M:
    """Copy a module and its children in eval mode; tensors are shared. `done` maps modules to their copies."""
    if module in done:
        return done[module]  # type: ignore[no-any-return]
    if module.training and forward_is_replaced(module):
        raise ConfigError(
            asked="predict with a network in training mode",
            found=f"the forward of its {type(module).__name__} was replaced by a function, which calls the original",
            done="nothing was computed",
            advice="call model.eval() first",
        )
    copied = done[module] = object.__new__(type(module))
    # `if child` would ask for its length, which modules of torch.compile refuse to tell.
    children = {
        name: _in_eval_mode(child, done) if child is not None else None for name, child in module._modules.items()
    }
    vars(copied).update(vars(module), _modules=children, training=False)
    if module.training:
        vars(copied).pop("_compiled_call_impl", None)  # of `Module.compile`: it calls the original
        vars(copied).pop("forward", None)  # the class's own, bound to the original
    return copied
