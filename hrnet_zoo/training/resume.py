"""Save the state of a training, and resume from it to the same bits: one safetensors file, replaced atomically.

Its header holds config and progress as JSON, so they cannot disagree with the tensors. No pickle is written or read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from hrnet_zoo.errors import CheckpointError, ResumeError
from hrnet_zoo.images.atomic import atomic_write
from hrnet_zoo.training.config import TrainingConfig
from hrnet_zoo.weights.convert import to_safetensors, verify_data
from hrnet_zoo.weights.scan import inspect_safetensors

STATE_FILE = "training_state.safetensors"
STATE_VERSION = 2  # raise it whenever a kept value changes its meaning
_KEY = "training_state"
_NAMES_OF_VERSION_1 = {"pictures": "images", "box": "resize_to"}


@dataclass
class Progress:
    """How far a training is, apart from its tensors.

    Attributes:
        step: updates done.
        best_miou: highest validation mIoU so far, percent; None before the first validation.
        without_gain: validations since then.
        validated: updates done at the last validation.
        scaler: state of float16's loss scaler; empty for other precisions.

    """

    step: int = 0
    best_miou: float | None = None
    without_gain: int = 0
    validated: int = 0
    scaler: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = (*self.scaler.values(), 0 if self.best_miou is None else self.best_miou)
        if {type(each) for each in (self.step, self.without_gain, self.validated)} != {int}:
            raise TypeError("step, without_gain and validated are integers")
        if not {type(each) for each in numbers} <= {int, float}:
            raise TypeError("best_miou and the scaler's values are numbers")


def write_state(path: Path, config: TrainingConfig, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
    """Write the state of a training; if this raises OutputError, the previous state is intact."""
    facts = {"version": STATE_VERSION, "config": config.to_dict(), "progress": vars(progress)}
    on_cpu = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    atomic_write(path, to_safetensors(on_cpu, {_KEY: json.dumps(facts)}))


def read_config(path: Path) -> tuple[dict[str, Any], Progress]:
    """Return the config, as JSON has it, and the progress of the training in a file; ResumeError if it is none."""
    try:
        verify_data(path)
        header = inspect_safetensors(path, str(path))
    except CheckpointError as error:
        raise _refusal(path, "the file", error.found) from error
    try:
        facts = json.loads(header.metadata.get(_KEY, "null"))
        version = facts["version"]
        if version == 1:
            facts["config"] = {_NAMES_OF_VERSION_1.get(name, name): kept for name, kept in facts["recipe"].items()}
        elif version != STATE_VERSION:
            raise _refusal(path, "version", f"version {version!r:.40}; this release reads 1 to {STATE_VERSION}")
        later = {each.name: each.default for each in fields(TrainingConfig) if each.default is not MISSING}
        later = {name: list(value) if isinstance(value, tuple) else value for name, value in later.items()}
        return later | facts["config"], Progress(**facts["progress"])
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise _refusal(path, "the header", "its header holds no training state of hrnet-zoo") from error


def read_state(path: Path, config: TrainingConfig, tensors: Mapping[str, Tensor]) -> Progress:
    """Copy a state into the tensors of a training with the same config; return the progress.

    Raises:
        ResumeError: the file is damaged, foreign, of an unknown version, or of another training. Nothing was copied.

    """
    kept_config, progress = read_config(path)
    if not 0 <= progress.step <= config.steps:
        raise _refusal(path, "step", f"{progress.step} updates done, of {config.steps}")
    for name, value in config.to_dict().items():
        if kept_config.get(name) != value:
            raise _refusal(path, name, f"{name} was {kept_config.get(name)!r:.200}, and {value!r:.200} is asked for")
    kept = safetensors.torch.load(path.read_bytes())  # a copy: the file is replaced while the run goes on
    for name in {**tensors, **kept}:
        both = [f"{tuple(each[name].shape)} {each[name].dtype}" for each in (tensors, kept) if name in each]
        if len(both) < 2 or both[0] != both[1]:
            raise _refusal(path, name, f"the tensor {name} differs: {' and '.join(both)}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(kept[name])
    return progress


def _refusal(path: Path, what: str, found: str) -> ResumeError:
    return ResumeError(
        asked=f"resume the training kept in {path}",
        found=found,
        done="nothing was computed; the file was left as it is",
        advice="resume with the arguments that the run began with, or begin anew in another folder",
        source=str(path),
        field=what,
    )
