"""Fine-tuning arguments, resolved and checked: everything that decides the result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from hrnet_zoo.errors import ConfigError

EPOCHS = 50
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
COARSEST_STRIDE = 32


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that the result of a fine-tuning depends on. `hrnet_zoo.finetune` describes the arguments.

    Nothing is left open here: `steps` stands for epochs too, `images` is an `images_digest`, `freeze` is "" where the
    whole network learns, and `class_weights` is empty where there are none.

    Raises:
        ConfigError: a value cannot be used.

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

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                self._require(field.name, type(value) is int, "a whole number")
            elif field.type == "float":
                self._require(field.name, type(value) in (int, float), "a number")
            elif field.type == "tuple[int, int]":
                is_pair = isinstance(value, tuple) and [type(side) for side in value] == [int, int]
                self._require(field.name, is_pair, "a pair of whole numbers")
        for name, usable, wanted in (
            ("steps", self.steps >= 1, "at least 1"),
            ("batch", self.batch >= 1, "at least 1"),
            ("accumulate", 1 <= self.accumulate <= self.batch, "from 1 to the batch size"),
            ("crop", min(self.crop) >= COARSEST_STRIDE, f"at least {COARSEST_STRIDE} pixels, the coarsest stride"),
            ("resize_to", min(self.resize_to) >= COARSEST_STRIDE, f"at least {COARSEST_STRIDE} pixels"),
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
            raise config_error(f"{name}={getattr(self, name)!r}", f"{name} is {wanted}", f"correct it, or omit {name}")

    def lr_at(self, step: int) -> float:
        """Return the learning rate of an update, the first being 0, before the factors.

        It falls to a hundredth of `lr` by a polynomial of power 0.9, as in mmsegmentation's schedules.
        """
        lowest = self.lr / 100
        rate: float = (self.lr - lowest) * (1 - step / self.steps) ** 0.9 + lowest
        return rate * min(1.0, (step + 1) / (self.warmup + 1))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them: tuples become lists."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def images_digest(names: Iterable[str]) -> str:
    """Return the number of images and the SHA-256 of their names, which may not all fit into a file's header."""
    names = list(names)
    digest = hashlib.sha256(b"".join(name.encode(errors="surrogateescape") + b"\0" for name in names))
    return f"{len(names)} pictures whose names have the SHA-256 {digest.hexdigest()}"  # the words of STATE_VERSION 1


def require_whole(name: str, value: object, least: int) -> int:
    """Return a whole number of at least `least`.

    Raises:
        ConfigError: it is something else.

    """
    if type(value) is not int or value < least:
        wanted = f"{name} is a whole number, at least {least}"
        raise config_error(f"{name}={value!r:.100}", wanted, f"correct it, or omit {name}")
    return value


def resolve_steps(epochs: int | None, steps: int | None, epoch_length: int) -> int:
    """Return the number of updates; an epoch has `epoch_length` of them.

    Raises:
        ConfigError: both were given, or one of them cannot be used.

    """
    if epochs is not None and steps is not None:
        raise config_error(f"epochs={epochs} and steps={steps}", "these two exclude each other", "give one of them")
    if steps is not None:
        return require_whole("steps", steps, 1)
    return (EPOCHS if epochs is None else require_whole("epochs", epochs, 1)) * epoch_length


def resolve_class_weights(class_weights: str | Sequence[float] | None, classes: int) -> tuple[float, ...]:
    """Return the weights as a tuple, empty for None, and for "auto" as long as the data have not been counted.

    Raises:
        ConfigError: they are neither, or not one for each class.

    """
    if class_weights is None or class_weights == "auto":
        return ()
    if isinstance(class_weights, Sequence) and not isinstance(class_weights, str) and len(class_weights) == classes:
        numbers = [float(each) for each in class_weights if isinstance(each, int | float) and 0 <= each < 1e6]
        if len(numbers) == classes and any(numbers):
            return tuple(numbers)
    wanted = f"class_weights is 'auto', or {classes} numbers from 0, not all of them 0"
    raise config_error(f"class_weights={class_weights!r:.100}", wanted)


def resolve_precision(precision: str | None, device: torch.device) -> str:
    """Return the precision to compute in; None becomes the fastest that trains well on the device.

    Raises:
        ConfigError: this device does not have it.

    """
    if precision is None:
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision == "fp16" and device.type != "cuda":
        raise config_error("precision='fp16' on a CPU", "float16 needs a GPU", "use precision='bf16' or 'fp32'")
    if precision == "bf16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        found = "this processor has no bfloat16 instructions; emulated, it would be far slower than float32"
        raise config_error("precision='bf16'", found, "use precision='fp32'")
    return precision


def require_batch_statistics(crop: tuple[int, int], batch: int, accumulate: int, processes: int) -> None:
    """Refuse batches that do not split evenly, or in which batch norm would see one value, which has no variance.

    Raises:
        ConfigError: such a batch.

    """
    share, rest = divmod(batch, processes)
    if rest:
        found = "each process takes equally many images"
        raise config_error(f"batch={batch} in {processes} processes", found, "use a multiple of the processes")
    part = -(-share // accumulate)
    smallest = share - part * ((share - 1) // part)  # Tensor.chunk leaves the rest to the last part
    if processes * smallest * -(-crop[0] // COARSEST_STRIDE) * -(-crop[1] // COARSEST_STRIDE) < 2:
        raise config_error(
            f"crop={crop}, batch={batch} and accumulate={accumulate}",
            "a part of one image, of which the coarsest map has one pixel: batch norm needs two values",
            "use a larger crop or batch, or accumulate fewer parts",
        )


def config_error(asked: str, found: str, advice: str = "correct it, or leave it out") -> ConfigError:
    """Return the error for an argument that cannot be used."""
    return ConfigError(asked=f"fine-tune with {asked}", found=found, done="nothing was computed", advice=advice)
