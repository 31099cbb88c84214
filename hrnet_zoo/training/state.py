"""A training's state in one safetensors file, replaced atomically; resuming from it changes no bit.

The header holds the config and the progress as JSON, so the two can never disagree with the tensors, and no pickle is
ever written or read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from hrnet_zoo.errors import CheckpointError, ResumeError
from hrnet_zoo.images.atomic import atomic_write
from hrnet_zoo.training.config import TrainingConfig
from hrnet_zoo.weights.convert import to_safetensors, verify_data
from hrnet_zoo.weights.scan import inspect_safetensors

STATE_FILE = "training_state.safetensors"
STATE_VERSION = 2  # raise it whenever what is kept changes its meaning
_KEY = "training_state"
_NAMES_OF_VERSION_1 = {"pictures": "images", "box": "resize_to"}


@dataclass
class Progress:
    """How far a training is, beside its tensors.

    Attributes:
        step: updates done.
        best_miou: highest validation mIoU so far, percent; None before the first validation.
        without_gain: validations since then.
        validated: updates done at the last validation.
        scaler: state of the loss scaler of float16; empty without one.

    """

    step: int = 0
    best_miou: float | None = None
    without_gain: int = 0
    validated: int = 0
    scaler: dict[str, float] = field(default_factory=dict)


def write_state(path: Path, config: TrainingConfig, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
    """Write a training's state atomically.

    Raises:
        OutputError: it cannot be written; the previous state is still there.

    """
    facts = {"version": STATE_VERSION, "config": config.to_dict(), "progress": vars(progress)}
    on_cpu = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    atomic_write(path, to_safetensors(on_cpu, {_KEY: json.dumps(facts)}))


def read_state(path: Path, config: TrainingConfig) -> tuple[Progress, dict[str, Tensor]]:
    """Read a training's state, to go on with the same config.

    Raises:
        ResumeError: the file is damaged, foreign, of an unknown version, or of a training with another config.

    """
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
        kept_config = dict(facts["config"])
        progress = Progress(**facts["progress"])
        _require_numbers(progress)
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise _refusal(path, "the header", "its header holds no training state of hrnet-zoo") from error
    if not 0 <= progress.step <= config.steps:
        raise _refusal(path, "step", f"{progress.step} updates done, of {config.steps}")
    for name, value in config.to_dict().items():
        if kept_config.get(name) != value:
            raise _refusal(path, name, f"{name} was {kept_config.get(name)!r:.200}, and {value!r:.200} is asked for")
    tensors = safetensors.torch.load(path.read_bytes())  # a copy: the file is replaced while the run goes on
    return progress, tensors


def strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, named without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def copy_tensors(target: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into those of the same names.

    Raises:
        ResumeError: names, shapes or dtypes differ; nothing was copied.

    """
    for name in target.keys() | tensors.keys():
        both = [f"{tuple(each[name].shape)} {each[name].dtype}" for each in (target, tensors) if name in each]
        if len(both) < 2 or both[0] != both[1]:
            raise _refusal(path, name, f"the tensor {name} differs: {' and '.join(both)}")
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(tensors[name])


def _require_numbers(progress: Progress) -> None:
    """Raise TypeError for anything else."""
    whole = (progress.step, progress.without_gain, progress.validated)
    real = (*progress.scaler.values(), *([] if progress.best_miou is None else [progress.best_miou]))
    if any(type(each) is not int for each in whole) or any(type(each) not in (int, float) for each in real):
        raise TypeError


def _refusal(path: Path, what: str, found: str) -> ResumeError:
    return ResumeError(
        asked=f"resume the training kept in {path}",
        found=found,
        done="nothing was computed; the file was left as it is",
        advice="resume with the arguments that the run began with, or begin anew in another folder",
        source=str(path),
        field=what,
    )
