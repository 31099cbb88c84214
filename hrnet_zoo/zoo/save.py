"""Network -> model folder, which `create_model("local-dir:FOLDER")` reads and `hrnet-zoo push` shares."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from numbers import Integral, Real
from pathlib import Path

import torch
from torch import Tensor

from hrnet_zoo import __version__
from hrnet_zoo.datasets import Dataset
from hrnet_zoo.errors import ConfigError, StateDictMismatchError, UnknownModelError
from hrnet_zoo.images.atomic import atomic_write, make_folder, sweep_parts
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.weights.build import entries
from hrnet_zoo.weights.convert import compare, fit, to_safetensors
from hrnet_zoo.zoo.catalog import model_info
from hrnet_zoo.zoo.model_card import model_card
from hrnet_zoo.zoo.model_config import (
    CARD_FILE,
    CONFIG_FILE,
    CONFIG_KEY,
    WEIGHTS_FILE,
    Metrics,
    ModelConfig,
    Parent,
    checked,
    parse_config,
)
from hrnet_zoo.zoo.model_folder import config_in

_NO_DIGEST = "0" * 64


def save_pretrained(
    model: FCNHRNet,
    folder: str | os.PathLike[str],
    *,
    metrics: Mapping[str, float | int | str | None] | None = None,
    license: str | None = None,  # noqa: A002 - the Hub calls it so
) -> Path:
    """Save a network as a model folder: `model.safetensors`, `config.json` and `README.md`, a filled model card.

    The measured figures of a saved model, and what it started from, go along for as long as its weights, its classes
    and the size of its images are the same; once they differ, the saved model is what the new one started from.

    A model that is there already is replaced at one moment, by the rename of the weights' file, whose header carries
    the whole configuration: killed at any time, this leaves the old model or the new one. Other files stay. No path,
    user or host name is written.

    Args:
        model: the network; its weights are written in the dtype that they have. `create_model` reads them as float32
            whichever it was, which is exact for float16 and bfloat16.
        folder: made, with its parents, if it is not there.
        metrics: what was measured: "miou", "macc", "aacc" (percent, 0 to 100, as `Evaluation` has them), "data" (text:
            on which images) and "steps" (of the optimizer). None of them has to be there; nan is as good as none.
        license: of the weights, as the Hub abbreviates it ("apache-2.0", "other"); None: that of the weights that the
            model started from, "unknown" where that is not known.

    Returns:
        The folder.

    Raises:
        ConfigError: `metrics` has an unknown name.
        ModelConfigError: a name of a class, a metric or another fact is one that no reader would accept.
        StateDictMismatchError: a weight is infinite or not a number, or the network is no plain FCN-HRNet.
        OutputError: the folder cannot be written.

    """
    folder = Path(folder)
    config = config_of(model, metrics, license)
    weights = _weights(model, folder)
    if (source := _source(model, weights)) and source.dataset == config.dataset:
        parent = source.parent if config.parent and config.parent.name == "local-dir" else config.parent
        config = replace(config, metrics=config.metrics if metrics else source.metrics, parent=parent)
    blob = to_safetensors(weights, {CONFIG_KEY: config.to_header(), "hrnet_zoo_version": __version__})
    del weights
    make_folder(folder)
    sweep_parts(folder)
    atomic_write(folder / WEIGHTS_FILE, blob)
    del blob
    config = config_in(folder / WEIGHTS_FILE)  # with the digest
    atomic_write(folder / CONFIG_FILE, config.to_json().encode())
    atomic_write(folder / CARD_FILE, model_card(config).encode())
    return folder


def config_of(
    model: FCNHRNet,
    metrics: Mapping[str, float | int | str | None] | None = None,
    license: str | None = None,  # noqa: A002 - the Hub calls it so
) -> ModelConfig:
    """Return what `save_pretrained` would write, without the digest of the weights, or raise what it would."""
    _require_plain(model)
    return checked(
        ModelConfig(
            arch=model.arch,
            dataset=_as_saved(model.dataset),
            data_sha256=_NO_DIGEST,
            license=license or _license(model.provenance),
            parent=_parent(model.provenance),
            metrics=_metrics(metrics or {}),
        ),
        "the model",
    )


def _weights(model: FCNHRNet, folder: Path) -> dict[str, Tensor]:
    """Return the state dict on the CPU, each tensor contiguous and of the dtype that it has."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    fit(state, entries(model.arch, len(model.classes)), f"to be saved in {folder}")  # names, shapes, finite values
    return state


def _source(model: FCNHRNet, weights: Mapping[str, Tensor]) -> ModelConfig | None:
    """Return the configuration of the saved model that the network came from, if these are still its weights."""
    text, stated = model.provenance.get(CONFIG_KEY), model.provenance.get("data_sha256")
    if text is None or stated is None:
        return None
    for dtype in (torch.float32, torch.float16, torch.bfloat16):  # in which they may have been stored
        stored = {name: each.to(dtype) if each.is_floating_point() else each for name, each in weights.items()}
        if all(torch.equal(each.to(weights[name].dtype), weights[name]) for name, each in stored.items()):
            blob = to_safetensors(stored, {})
            header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
            if header["__metadata__"]["data_sha256"] == stated:
                return parse_config(text, "the model", stated)
    return None


def _require_plain(model: FCNHRNet) -> None:
    """Refuse a network that was changed by hand: who loads the folder makes the one that the configuration states."""
    found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in model.state_dict().items()}
    try:
        compare(found, entries(model.arch, len(model.classes)), model.name, None)
    except StateDictMismatchError as error:
        raise replace(
            error,
            asked=f"save {model.name}, {model.arch} with {len(model.classes)} classes, as a model folder",
            done="nothing was written",
            advice="create_model(..., classes=[names]) makes a head for your classes, with their names; a network with "
            "other modules: torch.save(model.state_dict(), ...) keeps its weights",
        ) from error


def _as_saved(dataset: Dataset) -> Dataset:
    """Return the dataset with its labels in it, so that it means the same whatever a later version's tables say."""
    return replace(dataset, labels=tuple(zip(dataset.classes, dataset.palette, strict=True)))


def _metrics(metrics: Mapping[str, float | int | str | None]) -> Metrics:
    known = [field.name for field in fields(Metrics)]
    unusable = [name for name, value in metrics.items() if not isinstance(value, Real | str | None)]
    if unknown := [name for name in metrics if name not in known] or unusable:
        raise ConfigError(
            asked=f"save a model with metrics={unknown}",
            found=f"metrics are {', '.join(known)}; numbers, or text for data",
            done="nothing was saved",
            advice="leave the others out",
        )
    return Metrics(**{name: _plain_number(value) for name, value in metrics.items()})  # type: ignore[arg-type]


def _plain_number(value: float | int | str | None) -> float | int | str | None:
    """Return a number of numpy or torch as Python's own, and None for nan: no pixel was there to measure."""
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return None if math.isnan(value) else float(value)
    return value


def _parent(provenance: Mapping[str, str]) -> Parent | None:
    """Return what the weights started from, without anything that tells of a machine or a person."""
    if not provenance:
        return None
    name = provenance.get("model", "")
    known = name == "local-dir" or name.startswith("hf-hub:") or _is_row(name)
    file = provenance.get("source_url", "").rpartition("/")[2].rpartition("\\")[2]
    digests = {key: _digest(provenance.get(key, "")) for key in ("source_sha256", "data_sha256")}
    # The header of a foreign file says what it likes: what is no plain name is left out.
    return Parent(name if known else "a checkpoint of one's own", _plain(file), **digests)


def _license(provenance: Mapping[str, str]) -> str:
    """Return the license of the weights that a model started from; the published ones and the demo's are Apache-2.0."""
    return _plain(provenance.get("license", "")) or (
        "apache-2.0" if _is_row(provenance.get("model", "")) else "unknown"
    )


def _is_row(name: str) -> bool:
    try:
        return model_info(name).name == name
    except UnknownModelError:
        return False


def _plain(text: str) -> str | None:
    return text if 0 < len(text) <= 100 and text.isprintable() and text == text.strip() else None


def _digest(text: str) -> str | None:
    return text if len(text) == 64 and {*text} <= {*"0123456789abcdef"} else None
