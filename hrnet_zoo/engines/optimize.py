"""Network -> the same function of the image, several times faster: `optimize`."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hrnet_zoo.engines import choice, quantization
from hrnet_zoo.engines.folding import Plan
from hrnet_zoo.errors import ConfigError, raise_on_oom
from hrnet_zoo.inference.predict import without_autocast
from hrnet_zoo.models.base import SegmentationModel
from hrnet_zoo.models.fcn import FCNHRNet, require_network

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger("hrnet_zoo")


class OptimizedModel(SegmentationModel):
    """What `optimize` returns: predicts as the network does, without keeping the network alive.

    `name`, `dataset`, `info` and `provenance` are the network's. While it exists, changes of its weights, modules and
    dataset are noticed and followed. Threads may share the model. With the engines "onednn" and "pytorch" it can be
    pickled and copied; a copy does not follow the network.

    Attributes:
        trials: how fast each candidate was, if several were timed to choose the engine and dtype.

    """

    takes_fast_by_position = False

    def __init__(self, model: FCNHRNet, candidates: Sequence[choice.Candidate]) -> None:
        self._network: weakref.ref[FCNHRNet] | None = weakref.ref(model)
        self._candidates = candidates
        self._made_of: list[object] = []
        self._lock = threading.Lock()
        self.trials: tuple[choice.Trial, ...] = ()
        self.ready()

    @property
    def engine(self) -> str:
        """Name of the engine: "onednn", "pytorch", "cuda" or "openvino"."""
        return self._engine.name

    @property
    def device(self) -> torch.device:
        """Device that it computes on."""
        return self._engine.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of images and logits, and of the arithmetic, 8 bits aside."""
        return self._engine.dtype

    @property
    def precision(self) -> str:
        """Name of the dtype of the arithmetic: that of `dtype`, or "int8"."""
        return "int8" if self._engine.in_8_bits else str(self.dtype).removeprefix("torch.")

    def logits_stride4(self, x: Tensor) -> Tensor:
        """Return the logits of normalized images (N, 3, H, W) at stride 4: (N, ceil(H/4), ceil(W/4), classes)."""
        with (
            raise_on_oom(f"run {self} on {tuple(x.shape)}", done="nothing was labeled"),
            torch.autocast(self.device.type, enabled=False),  # the caller's would compute in another dtype
        ):
            return self._engine(x)

    def ready(self) -> Self:
        """Rebuild the plan if the network has changed.

        Raises:
            ConfigError: the network has changed into one that cannot be optimized.

        """
        model = self._network() if self._network else None
        if model is None:
            return self
        with self._lock, without_autocast(model.device):  # not all dtypes pass through autocast
            # Taken before the weights are read: what changes meanwhile is noticed next time.
            fingerprint = _fingerprint(model)
            if fingerprint != self._made_of:
                if self._made_of:
                    logger.warning("%s has changed since it was optimized; optimizing it anew", model.name)
                self._engine, chosen, trials = choice.build(Plan(model), self._candidates)
                if trials:  # a changed network keeps its engine
                    self._candidates, self.trials = (chosen,), trials
                self.name, self.dataset, self.info = model.name, model.dataset, model.info
                self.provenance = dict(model.provenance)
                self._made_of = fingerprint
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return what can go to another process; ConfigError if the engine cannot."""
        if self.engine not in ("onednn", "pytorch"):
            raise ConfigError(
                asked=f"copy or pickle {self}",
                found=f"what {self.engine} has compiled belongs to this process",
                done="nothing was copied",
                advice="pickle the network, and call optimize in the other process",
            )
        return {**vars(self), "_network": None, "_candidates": (), "_made_of": [], "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled model, without its network."""
        vars(self).update(state, _lock=threading.Lock())

    def _optimized(self) -> Self:
        return self

    def __repr__(self) -> str:
        return f"OptimizedModel({self.name}: {self.engine}, {self.precision} on {self.device})"


def optimize(
    model: FCNHRNet,
    *,
    engine: str | None = None,
    dtype: torch.dtype | None = None,
    calibration: quantization.Calibration | None = None,
) -> OptimizedModel:
    """Make a network fast: fold batch norm into the convolutions, fuse steps, and run them with the fastest engine.

    On a CPU the engines are "onednn", "pytorch" where that is unavailable, and "openvino" if installed (extra
    `openvino`), in float32 and bfloat16. The first call for a network times those that can run here, in about a second
    (W48: up to five); the log says which it took, and the cache remembers it for this network, processor, number of
    threads and versions. The engine may label up to 0.5 % of the pixels of a generated scene otherwise than float32.
    On an NVIDIA GPU the engine is "cuda" in float16, on other devices "pytorch"; there nothing is timed.

    In float32 the logits differ from the network's by rounding, some millionths of the largest one. bfloat16 and
    float16 round more; `hrnet-zoo compare` measures the effect.

    `dtype=torch.int8` computes in 8 bits, with OpenVINO on a CPU. It must be named, because it costs more accuracy:
    the log says how many pixels keep their class. Of the images at most 64, drawn evenly, calibrate, and at most 16
    others are compared with the exact network (of fewer than 8, those that calibrate); of an image larger than 512 x
    1024 at the network's scale, a corner. The cache remembers the result. What it costs: see
    `hrnet_zoo.engines.quantization`.

    Args:
        model: the network; it is left unchanged, and may be deleted.
        engine: leaves only the candidates with this engine.
        dtype: of the arithmetic; leaves only the candidates with it. A single candidate is not timed.
        calibration: for 8 bits, images like those to be labeled: a list, or a folder. None: generated street scenes.

    Raises:
        ConfigError: the engine is unknown, is not installed, or does not run on this device or in this dtype; there are
            no images; or the network is not of the published architecture (other modules, forward hooks).
        ImageError: an image for calibration cannot be read.

    """
    require_network(model, "optimize a network")
    in_8_bits = dtype == torch.int8 or calibration is not None
    found = (
        (_in_8_bits(model, engine, dtype, calibration),)
        if in_8_bits
        else choice.candidates(model.device, engine, dtype)
    )
    with raise_on_oom(f"optimize {model.name}", done="the network is unchanged"):
        return OptimizedModel(model, found)


def _in_8_bits(
    model: FCNHRNet, engine: str | None, dtype: torch.dtype | None, calibration: quantization.Calibration | None
) -> choice.Candidate:
    if dtype not in (None, torch.int8):
        raise choice.refusal(f"calibration and dtype={dtype}", "calibration is for 8 bits, dtype=torch.int8")
    if engine not in (None, "openvino"):
        raise choice.refusal(f"8 bits and engine={engine!r}", "only engine='openvino' computes in 8 bits")
    model.dataset.require_rgb(f"optimize {model.name} with 8 bits")
    if model.device.type != "cpu":
        raise choice.refusal(f"8 bits on {model.device}", "8 bits are computed on a CPU alone")
    return choice.Candidate("openvino", torch.int8, quantization.Quantizer(model, calibration))


def optimized(model: FCNHRNet) -> OptimizedModel:
    """Return `optimize(model)`, made at the first call and kept as long as the network exists. Threads may share it."""
    with _optimizing:
        if model not in _optimized or _optimized[model].device != model.device:
            _optimized[model] = optimize(model)
        return _optimized[model]


_optimized: weakref.WeakKeyDictionary[FCNHRNet, OptimizedModel] = weakref.WeakKeyDictionary()
_optimizing = threading.Lock()


_SAMPLE = 16  # tensors, and values of each
_SETTINGS = ("stride", "padding", "dilation", "groups", "padding_mode", "eps")


def _fingerprint(model: FCNHRNet) -> list[object]:
    """Return what changes if a network no longer computes the same.

    torch counts the changes of a tensor in place, but not those through `.data`, as some running averages of weights
    make them. Hence some values are compared too: of tensors from all over, and of the head, which may train alone.
    """
    found: list[object] = [id(model.dataset), model.name, id(vars(model).get("logits_stride4"))]
    tensors: list[Tensor] = []
    for module in (*model.backbone.modules(), *model.decode_head.modules()):
        own = vars(module)
        hooks = len(own["_forward_hooks"]) + len(own["_forward_pre_hooks"])
        found.append((id(module), type(module), hooks, id(own.get("forward")), *map(own.get, _SETTINGS)))
        tensors += [each for each in (*own["_parameters"].values(), *own["_buffers"].values()) if each is not None]
    found += [(id(each), each.data_ptr(), 0 if each.is_inference() else each._version) for each in tensors]
    floats = [each for each in tensors if each.is_floating_point()]
    some = [*floats[:: max(1, len(floats) // _SAMPLE)], *floats[-_SAMPLE:]]  # the head's are the last
    values = torch.cat([each.detach().flatten()[:_SAMPLE] for each in some])
    return [*found, *values.nan_to_num().tolist()]  # NaN differs from itself
