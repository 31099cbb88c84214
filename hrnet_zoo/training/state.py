"""Where a fine-tuning stands, in one file: it is there whole or not at all, and going on from it changes no bit.

A safetensors file holds the tensors; its header holds the rest as JSON. One file and one rename: there is no moment at
which the two could disagree, and no pickle is ever written or read.
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
from hrnet_zoo.training.recipe import Recipe
from hrnet_zoo.weights.convert import to_safetensors, verify_data
from hrnet_zoo.weights.gate import inspect_safetensors

STATE_VERSION = 1  # raise it whenever what is kept changes its meaning
_KEY = "training_state"


@dataclass
class Progress:
    """What a run knows of itself beside its tensors.

    Attributes:
        step: updates done.
        best_miou: the highest validation mIoU so far, percent; None before the first validation.
        without_gain: validations since then.
        validated: updates done at the last validation.
        scaler: state of the loss scaler of float16; empty without one.

    """

    step: int = 0
    best_miou: float | None = None
    without_gain: int = 0
    validated: int = 0
    scaler: dict[str, float] = field(default_factory=dict)


def write_state(path: Path, recipe: Recipe, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
    """Write a run's state; what was there before stays until the new file is complete.

    Raises:
        OutputError: it cannot be written; the state before is still there.

    """
    facts = {"version": STATE_VERSION, "recipe": recipe.to_dict(), "progress": vars(progress)}
    ready = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    atomic_write(path, to_safetensors(ready, {_KEY: json.dumps(facts)}))


def read_state(path: Path, recipe: Recipe) -> tuple[Progress, dict[str, Tensor]]:
    """Read a run's state, to go on with the same recipe.

    Raises:
        ResumeError: the file is damaged or foreign, of another version, or of a run by another recipe.

    """
    try:
        verify_data(path)
        header = inspect_safetensors(path, str(path))
    except CheckpointError as error:
        raise _refusal(path, "the file", error.found) from error
    try:
        facts = json.loads(header.metadata.get(_KEY, "null"))
        version = facts["version"]
        kept = facts["recipe"]
        progress = Progress(**facts["progress"])
        _require_numbers(progress)
        recipe_kept = dict(kept)
        if not 0 <= progress.step <= recipe.steps:
            raise _refusal(path, "step", f"{progress.step} updates done, of {recipe.steps}")
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise _refusal(path, "the header", "it tells of no training that hrnet-zoo began") from error
    if version != STATE_VERSION:
        raise _refusal(path, "version", f"{version!r:.40}, where this release writes {STATE_VERSION}")
    for name, value in recipe.to_dict().items():
        if recipe_kept.get(name) != value:
            was, now = (f"{each!r:.200}" for each in (recipe_kept.get(name), value))
            raise _refusal(path, name, f"{name} was {was}, and {now} is asked for")
    tensors = safetensors.torch.load(path.read_bytes())  # a copy: the file is replaced while the run goes on
    return progress, tensors


def take(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors below a prefix, by their names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def put(target: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into those of the same names, which have the same shapes and dtypes.

    Raises:
        ResumeError: names, shapes or dtypes differ.

    """
    for name in target.keys() | tensors.keys():
        both = [f"{tuple(each[name].shape)} {each[name].dtype}" for each in (target, tensors) if name in each]
        if len(both) < 2 or both[0] != both[1]:
            raise _refusal(path, name, f"the tensor {name} differs: {' and '.join(both)}")
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(tensors[name])


def _require_numbers(progress: Progress) -> None:
    """Refuse what is none, as TypeError."""
    whole = (progress.step, progress.without_gain, progress.validated)
    real = (*progress.scaler.values(), *([] if progress.best_miou is None else [progress.best_miou]))
    if any(type(each) is not int for each in whole) or any(type(each) not in (int, float) for each in real):
        raise TypeError


def _refusal(path: Path, what: str, found: str) -> ResumeError:
    return ResumeError(
        asked=f"go on with the training kept in {path}",
        found=found,
        done="nothing was computed; the file was left as it is",
        advice="resume with the arguments that the run began with, or begin anew in another folder",
        source=str(path),
        field=what,
    )
