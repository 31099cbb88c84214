"""Check and resolve the arguments of a fine-tuning: everything that decides the result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from hrnet_zoo.datasets.dataset import RGB_BANDS
from hrnet_zoo.errors import ConfigError

EPOCHS = 50
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MIN_SIDE = 64  # twice the coarsest stride: batch norm needs more than one value


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides the result of a fine-tuning. `hrnet_zoo.finetune` describes the arguments.

    All defaults are resolved: `steps` covers epochs too, `images` is an `images_digest`, `freeze` is "" if the whole
    network learns, and `class_weights` is empty if there are none. An invalid value raises ConfigError.
    """

    arch: str
    classes: tuple[str, ...]
    images: str
    steps: int
    batch: int
    accumulate: int
    crop: tuple[int, int]
    resize_to: tuple[int, int]
    lr: float
    backbone_lr: float
    head_lr: float
    weight_decay: float
    warmup: int
    freeze: str
    loss: str
    class_weights: tuple[float, ...]
    precision: str
    ema: float
    gradient_checkpointing: bool
    seed: int
    augment: str = ""  # later fields have defaults: those that states without them began with
    bands: tuple[str, ...] = RGB_BANDS
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                self._require(field.name, type(value) is int, "a whole number")
            elif field.type == "float":
                self._require(field.name, type(value) in (int, float), "a number")
            elif field.type == "tuple[int, int]":
                is_pair = isinstance(value, tuple) and [type(side) for side in value] == [int, int]
                wanted = f"two whole numbers, at least {MIN_SIDE}"
                self._require(field.name, is_pair and min(value) >= MIN_SIDE, wanted)
        for name, usable, wanted in (
            ("steps", self.steps >= 1, "at least 1"),
            ("batch", self.batch >= 1, "at least 1"),
            ("accumulate", 1 <= self.accumulate <= self.batch, "from 1 to the batch size"),
            ("lr", 0 < self.lr < 10, "above 0 and below 10"),
            ("backbone_lr", 0 <= self.backbone_lr <= 1000, "from 0 to 1000"),
            ("head_lr", 0 <= self.head_lr <= 1000, "from 0 to 1000"),
            ("weight_decay", 0 <= self.weight_decay < 1, "at least 0 and below 1"),
            ("warmup", 0 <= self.warmup <= self.steps, "from 0 to the number of steps"),
            ("freeze", self.freeze in ("", "backbone"), "'backbone', or left out"),
            ("precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
            ("ema", 0 <= self.ema < 1, "at least 0 and below 1"),
            ("seed", 0 <= self.seed < 2**63, "a whole number from 0"),
        ):
            self._require(name, usable, wanted)  # NaN fails every comparison

    def _require(self, name: str, usable: bool, wanted: str) -> None:
        if not usable:
            raise config_error(f"with {name}={getattr(self, name)!r}", f"{name} is {wanted}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them: tuples become lists."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def name_of(function: object) -> str:
    """Return what a config says of a function of the user's."""
    return str(getattr(function, "__name__", type(function).__name__))


def images_digest(names: Iterable[str]) -> str:
    """Return the number of images and the SHA-256 of their names, all of which may not fit into a file's header."""
    names = list(names)
    digest = hashlib.sha256(b"".join(name.encode(errors="surrogateescape") + b"\0" for name in names))
    return f"{len(names)} pictures whose names have the SHA-256 {digest.hexdigest()}"  # the words of STATE_VERSION 1


def require_whole(name: str, value: object, least: int) -> int:
    """Return the value if it is an integer of at least `least`; raise ConfigError otherwise."""
    if type(value) is not int or value < least:
        raise config_error(f"with {name}={value!r:.100}", f"{name} is a whole number, at least {least}")
    return value


def resolve_steps(epochs: int | None, steps: int | None, epoch_length: int) -> int:
    """Return the number of updates; an epoch has `epoch_length` of them."""
    if epochs is not None and steps is not None:
        raise config_error(f"with epochs={epochs} and steps={steps}", "these two exclude each other")
    if steps is not None:
        return require_whole("steps", steps, 1)
    return (EPOCHS if epochs is None else require_whole("epochs", epochs, 1)) * epoch_length


def resolve_class_weights(class_weights: str | Sequence[float] | None, classes: int) -> tuple[float, ...]:
    """Return the weights as a tuple; it is empty for None, and for "auto" until the pixels have been counted."""
    if class_weights is None or class_weights == "auto":
        return ()
    if isinstance(class_weights, Sequence) and not isinstance(class_weights, str) and len(class_weights) == classes:
        numbers = [float(each) for each in class_weights if isinstance(each, int | float) and 0 <= each < 1e6]
        if len(numbers) == classes and any(numbers):
            return tuple(numbers)
    wanted = f"class_weights is 'auto', or {classes} numbers from 0, not all of them 0"
    raise config_error(f"with class_weights={class_weights!r:.100}", wanted)


def resolve_precision(precision: str | None, device: torch.device) -> str:
    """Return the precision to compute in; None becomes the fastest that trains well on the device."""
    if precision is None:
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision == "fp16" and device.type != "cuda":
        raise config_error("with precision='fp16' on a CPU", "float16 needs a GPU", "use precision='bf16' or 'fp32'")
    return precision


def config_error(asked: str, found: str, advice: str = "correct it, or leave it out") -> ConfigError:
    """Return the error for what cannot be fine-tuned."""
    return ConfigError(asked=f"fine-tune {asked}", found=found, done="nothing was computed", advice=advice)
