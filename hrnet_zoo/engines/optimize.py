"""The same function of the image, several times faster: `optimize`."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from hrnet_zoo.engines import cuda, heap, onednn, openvino
from hrnet_zoo.engines.plan import NORMS, Plan
from hrnet_zoo.engines.pytorch import PyTorchEngine
from hrnet_zoo.engines.quantization import Quantization, calibration_images, drawn
from hrnet_zoo.errors import ConfigError, raise_on_oom
from hrnet_zoo.inference.predict import without_autocast
from hrnet_zoo.inference.result import SegmentationResult
from hrnet_zoo.models.fcn import FCNHRNet, forward_is_replaced, require_network
from hrnet_zoo.models.predictor import Predictor

if TYPE_CHECKING:
    import os

    from typing_extensions import Self

    from hrnet_zoo.datasets import Dataset
    from hrnet_zoo.images.read import ImageLike
    from hrnet_zoo.zoo.catalog import ModelInfo

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# Tensors of which some values are compared, beside the head's: what changes weights behind torch's back changes them
# all, or trains the head alone.
_SAMPLED = 16

logger = logging.getLogger("hrnet_zoo")


class Engine(Protocol):
    """What carries out a plan.

    Attributes:
        name: as `optimize` takes it.
        device: where.
        dtype: of the arithmetic.

    """

    name: str
    device: torch.device
    dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        """Score normalized RGB images (N, 3, H, W) of this dtype: (N, ceil(H/4), ceil(W/4), classes)."""


Build: TypeAlias = Callable[[Plan], Engine]


class OptimizedModel(Predictor):
    """What `optimize` returns: a network's predictions without the network.

    It keeps no reference to the network. As long as that exists, changes of its weights, modules and dataset are
    noticed, and followed. Threads may share it. It can be pickled and copied where PyTorch computes on a CPU ("onednn",
    "pytorch"); a copy does not follow the network.

    Attributes:
        name: of the network.
        dataset: its classes, colors, box and window.
        info: the catalog row that its weights come from, if any.
        provenance: what the weights' file says of its origin.
        engine: what computes: "onednn", "pytorch", "cuda" or "openvino".
        device: where.
        dtype: of the arithmetic.

    """

    _positions = tuple(name for name in Predictor._positions if name != "fast")

    def __init__(self, model: FCNHRNet, build: Build) -> None:
        self.name: str
        self.dataset: Dataset
        self.info: ModelInfo | None
        self.provenance: dict[str, str]
        self._model: weakref.ref[FCNHRNet] | None = weakref.ref(model)
        self._build: Build | None = build
        self._stamp: _Stamp | None = None
        self._lock = threading.Lock()
        self._engine: Engine
        self._follow()
        if self.device.type == "cpu":
            heap.keep(self)

    @property
    def engine(self) -> str:
        """What computes."""
        return self._engine.name

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._engine.device

    @property
    def dtype(self) -> torch.dtype:
        """In which numbers."""
        return self._engine.dtype

    def logits_stride4(self, x: Tensor) -> Tensor:
        """Score normalized RGB images (N, 3, H, W): (N, ceil(H/4), ceil(W/4), classes), in this dtype."""
        with raise_on_oom(f"score {tuple(x.shape)} pixels with {self}", done="nothing was labeled"):
            if self.device.type == "cpu":
                heap.used()
            with torch.autocast(self.device.type, enabled=False):  # the caller's would compute in another dtype
                return self._engine(x)

    def ready(self) -> Self:
        """Follow the network, if it has changed since the plan was made.

        Raises:
            ConfigError: it has become one that has no plan.

        """
        self._follow()
        return self

    def _follow(self) -> None:
        model = None if self._model is None else self._model()
        if model is None or self._build is None:
            return
        with self._lock, without_autocast(model.device):  # which some dtypes cannot pass through
            if self._stamp is not None and self._stamp.fits(model):
                return
            if self._stamp is not None:
                logger.warning("%s has changed since it was optimized: the plan is made anew", model.name)
            stamp = _Stamp(model)  # before the weights are read: what changes meanwhile is noticed next time
            self._engine = self._build(Plan(model))
            self.name, self.dataset, self.info = model.name, model.dataset, model.info
            self.provenance = dict(model.provenance)
            self._stamp = stamp

    def __getstate__(self) -> dict[str, Any]:
        """Return what can go to another process.

        Raises:
            ConfigError: what computes belongs to this process.

        """
        if self.engine not in ("onednn", "pytorch"):
            raise ConfigError(
                asked=f"copy or pickle {self}",
                found=f"what {self.engine} has compiled belongs to this process",
                done="nothing was copied",
                advice="pickle the network, and call optimize where it arrives",
            )
        own = ("_model", "_build", "_stamp", "_lock")
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the pickled state, without the network."""
        vars(self).update(state, _model=None, _build=None, _stamp=None, _lock=threading.Lock())
        if self.device.type == "cpu":
            heap.keep(self)

    def _optimized(self) -> Self:
        return self

    def __repr__(self) -> str:
        return f"OptimizedModel({self.name}: {self.engine}, {str(self.dtype).removeprefix('torch.')} on {self.device})"


def optimize(
    model: FCNHRNet,
    *,
    engine: str | None = None,
    dtype: torch.dtype | None = None,
    calibration: Sequence[ImageLike] | str | os.PathLike[str] | None = None,
) -> OptimizedModel:
    """Make a network fast: the same function of the image, as a plan that is made once.

    Batch norm is folded into the convolutions, what can be is one step, and an engine carries it out where the network
    is: "onednn" on a CPU, "cuda" on a GPU, and "pytorch", the plan in PyTorch's own operations, wherever one of these
    cannot be used (one log line says so). Nothing of the process is patched or set but what
    `hrnet_zoo.engines.heap` says. "openvino", on a CPU, is an extra (`openvino`) and may be faster still:
    `hrnet-zoo benchmark NAME --against` tells.

    The plan in float32 differs from the network by rounding: some millionths of the largest score. bfloat16 and float16
    round more; `agreement` measures what it costs.

    On a CPU with glibc the whole process keeps freed memory for the next predictions, as long as the result exists; at
    every 64th what is free then goes back. See `hrnet_zoo.engines.heap`.

    Args:
        model: the network; it is left as it is, and may be deleted.
        engine: None: the best for the network's device.
        dtype: of the arithmetic. None: float16 on CUDA; on a CPU bfloat16 if the processor multiplies in it (AMX,
            AVX512-bf16), else float32.
        calibration: with "openvino", compute in 8 bits where it costs little (extra `int8`), in ranges of values that
            these images show: a list of some dozens, or a folder. At most 64 are looked at, drawn evenly, which takes
            minutes. One log line says which share of the pixels of at most 16 others is labeled as by the network.

    Raises:
        ConfigError: there is no such engine, it cannot run here, or not in this dtype; or there are no images; or the
            network is not of the published architecture (other modules, forward hooks), whose blocks alone are known.

    """
    require_network(model, "optimize a network")
    device = model.device
    chosen = dtype or _default_dtype(device)
    if chosen not in DTYPES:
        raise _refusal(f"dtype={dtype}", f"dtype is one of {', '.join(map(str, DTYPES))}")
    if engine is None:
        engine = "onednn" if device.type == "cpu" and onednn.usable(chosen) else "pytorch"
        engine = "cuda" if cuda.usable(device) else engine
    if engine == "onednn" and (device.type != "cpu" or not onednn.usable(chosen)):
        raise _refusal(f"engine={engine!r}", f"it computes on CPUs whose oneDNN can do {chosen}, not on {device}")
    if engine == "cuda" and not cuda.usable(device):
        raise _refusal(f"engine={engine!r}", f"it computes on NVIDIA's GPUs, and the network is on {device}")
    if engine == "openvino":
        if device.type != "cpu":
            raise _refusal(f"engine={engine!r}", f"it computes on CPUs, not on {device}")
        if chosen not in (able := openvino.dtypes()):
            if dtype is not None:
                raise _refusal(f"dtype={dtype}", f"OpenVINO computes in {', '.join(map(str, able))} on this processor")
            chosen = able[0]
    elif calibration is not None:
        raise _refusal(f"calibration and engine={engine!r}", "8 bits are what engine='openvino' can do")
    images, others = ([], []) if calibration is None else drawn(calibration_images(calibration))
    quantize = Quantization(images, model.dataset.resize_to) if images else None
    builds: dict[str, Build] = {
        "cuda": lambda plan: cuda.CudaEngine(plan, device, chosen),
        "onednn": lambda plan: onednn.OneDNNEngine(plan, chosen),
        "openvino": lambda plan: openvino.OpenVINOEngine(plan, chosen, quantize),
        "pytorch": lambda plan: PyTorchEngine(plan, device, chosen),
    }
    if engine not in builds:
        raise _refusal(f"engine={engine!r}", f"the engines are {', '.join(map(repr, builds))}")
    build = builds[engine]
    with raise_on_oom(f"optimize {model.name}", done="the network was left as it is"):
        fast = OptimizedModel(model, build)
    if others:
        share = agreement(model, fast, others)
        words = "in 8 bits %.2f %% of the pixels of %d images are labeled as by %s itself"
        logger.warning(words, 100 * share, len(others), model.name)
    return fast


def optimized(model: FCNHRNet) -> OptimizedModel:
    """Return `optimize(model)`, made at the first call and kept as long as the network exists.

    Threads wait while one makes it.
    """
    with _MAKING:
        if model not in _KEPT or _KEPT[model].device != model.device:
            _KEPT[model] = optimize(model)
        return _KEPT[model]


_KEPT: weakref.WeakKeyDictionary[FCNHRNet, OptimizedModel] = weakref.WeakKeyDictionary()
_MAKING = threading.Lock()


def agreement(model: FCNHRNet, other: FCNHRNet | OptimizedModel, images: Sequence[ImageLike]) -> float:
    """Return the share (0 to 1) of the images' pixels that a network and another form of it label alike."""
    same = total = 0
    for image in images:
        results = [each.predict(image) for each in (model, other)]
        masks = [each.mask for each in results if isinstance(each, SegmentationResult)]
        same += int((masks[0] == masks[1]).sum())
        total += masks[0].size
    return same / total


class _Stamp:
    """Detects that a network no longer computes what it did when its plan was made.

    Its modules, their settings and hooks; tensors, their memory and torch's own count of changes in place, which misses
    those through `.data` (some running averages of weights work so); hence also some values.
    """

    def __init__(self, model: FCNHRNet) -> None:
        self._marks, self._sample = self._look(model)

    def fits(self, model: FCNHRNet) -> bool:
        marks, sample = self._look(model)
        return marks == self._marks and torch.equal(sample, self._sample)

    @staticmethod
    def _look(model: FCNHRNet) -> tuple[list[object], Tensor]:
        marks: list[object] = [id(model.dataset), model.name, "logits_stride4" in vars(model)]
        tensors: list[Tensor | None] = []
        for module in (*model.backbone.modules(), *model.decode_head.modules()):
            own = vars(module)
            tensors += [*own["_parameters"].values(), *own["_buffers"].values()]
            hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
            marks.append((id(module), type(module), tuple(own["_modules"]), hooks, forward_is_replaced(module)))
            if isinstance(module, nn.Conv2d):
                marks.append((module.stride, module.padding, module.dilation, module.groups, module.padding_mode))
            elif isinstance(module, NORMS):
                marks.append((module.eps, module.affine))
        there = [each for each in tensors if each is not None]
        marks += [(id(each), each.data_ptr(), 0 if each.is_inference() else each._version) for each in there]
        some = [each for each in there if each.is_floating_point()]
        head = [*model.decode_head.parameters(), *model.decode_head.buffers()]
        some = [*some[:: max(1, len(some) // _SAMPLED)], *(each for each in head if each.is_floating_point())]
        # NaN differs from itself
        return marks, torch.cat([each.detach().flatten()[:_SAMPLED] for each in some]).nan_to_num()


def _default_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if device.type == "cpu" and onednn.native(torch.bfloat16) else torch.float32


def _refusal(asked: str, found: str) -> ConfigError:
    return ConfigError(
        asked=f"optimize with {asked}",
        found=found,
        done="the network was left as it is",
        advice="use one of these, or leave it out for what is best here",
    )
