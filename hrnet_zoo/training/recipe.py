"""How a fine-tuning is done: everything that decides its result, kept beside its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from hrnet_zoo.errors import ConfigError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Recipe:
    """What the result of a fine-tuning depends on, the images and the random seed's own draws included.

    Defaults of the published training: SGD with momentum 0.9, weight decay 5e-4, learning rate 0.01, by iteration
    lowered to a hundredth of it by a polynomial of power 0.9 (schedules of mmsegmentation).

    Attributes:
        arch: of the network.
        classes: names by index.
        images: which are trained on, as `image_set` names them.
        steps: updates of the weights.
        batch: images of one update, over all processes.
        accumulate: parts that a process computes its share of the batch in, one after the other.
        crop: (height, width) that the network sees, in pixels.
        resize_to: (long side, short side) that random sizes are relative to, in pixels.
        lr: highest learning rate.
        backbone_lr: factor on `lr` for the backbone.
        head_lr: factor on `lr` for the head.
        weight_decay: of all parameters.
        warmup: updates in which the learning rate rises to `lr`.
        freeze: "backbone": it stays as it is, its batch norm too; "": everything learns.
        loss: its name.
        class_weights: factors on the loss by class; empty: none.
        precision: of the arithmetic: "fp32", "bf16" or "fp16" (the weights themselves are float32 always).
        ema: share that the running average keeps of itself at each update; 0: no average.
        gradient_checkpointing: activations are computed twice rather than kept.
        seed: of everything random.

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
        for name in ("steps", "batch", "accumulate", "warmup", "seed"):
            self._require(name, type(getattr(self, name)) is int, "a whole number")
        for name in ("lr", "backbone_lr", "head_lr", "weight_decay", "ema"):
            self._require(name, type(getattr(self, name)) in (int, float), "a number")
        for name in ("crop", "resize_to"):
            sides = getattr(self, name)
            usable = isinstance(sides, tuple) and len(sides) == 2 and all(type(side) is int for side in sides)
            self._require(name, usable, "a pair of whole numbers")
        for name, usable, wanted in (
            ("steps", self.steps >= 1, "at least 1"),
            ("batch", self.batch >= 1, "at least 1"),
            ("accumulate", 1 <= self.accumulate <= self.batch, "from 1 to the batch"),
            ("crop", min(self.crop) >= 32, "at least 32 pixels, which the coarsest map sees as one"),
            ("resize_to", min(self.resize_to) >= 32, "at least 32 pixels"),
            ("lr", 0 < self.lr < 10, "above 0 and below 10"),
            ("backbone_lr", 0 <= self.backbone_lr <= 1000, "from 0 to 1000"),
            ("head_lr", 0 <= self.head_lr <= 1000, "from 0 to 1000"),
            ("weight_decay", 0 <= self.weight_decay < 1, "from 0, below 1"),
            ("warmup", 0 <= self.warmup <= self.steps, "from 0 to the number of steps"),
            ("freeze", self.freeze in ("", "backbone"), "'backbone', or left out"),
            ("precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
            ("ema", 0 <= self.ema < 1, "from 0, below 1"),
            ("seed", 0 <= self.seed < 2**63, "a whole number from 0"),
        ):
            self._require(name, usable, wanted)  # NaN fails every comparison, so that it ends here too

    def _require(self, name: str, usable: bool, wanted: str) -> None:
        if not usable:
            raise ConfigError(
                asked=f"fine-tune with {name}={getattr(self, name)!r}",
                found=f"{name} is {wanted}",
                done="nothing was computed",
                advice=f"correct it, or leave {name} out",
            )

    def lr_at(self, step: int) -> float:
        """Return the learning rate of an update, the first being 0, before the factors."""
        lowest = self.lr / 100
        rate: float = (self.lr - lowest) * (1 - step / self.steps) ** 0.9 + lowest
        return rate * min(1.0, (step + 1) / (self.warmup + 1))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: tuples become lists."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def image_set(names: Iterable[str]) -> str:
    """Return a short name for images in an order: how many, and the SHA-256 of their names.

    The names themselves could be more than the header of a file may hold.
    """
    count, digest = 0, hashlib.sha256()
    for name in names:
        count += 1
        digest.update(name.encode(errors="surrogateescape") + b"\0")
    return f"{count} pictures whose names have the SHA-256 {digest.hexdigest()}"
