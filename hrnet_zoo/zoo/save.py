"""Network -> model folder, which `create_model("local-dir:FOLDER")` loads and `hrnet-zoo push` shares."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hrnet_zoo import __version__
from hrnet_zoo.errors import ConfigError, ModelConfigError, StateDictMismatchError
from hrnet_zoo.images.atomic import atomic_write, make_folder, sweep_parts
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.weights.convert import network_shapes, to_safetensors
from hrnet_zoo.weights.state_dict import compare, fit_state
from hrnet_zoo.zoo.catalog import DEMO, HUB, list_models
from hrnet_zoo.zoo.model_card import model_card
from hrnet_zoo.zoo.model_config import (
    CARD_FILE,
    CONFIG_FILE,
    CONFIG_KEY,
    WEIGHTS_FILE,
    Metrics,
    ModelConfig,
    Parent,
    parse_config,
)
from hrnet_zoo.zoo.model_folder import read_stored_config


def save_pretrained(
    model: FCNHRNet,
    folder: str | os.PathLike[str],
    *,
    metrics: Mapping[str, float | int | str | None] | None = None,
    license: str | None = None,  # noqa: A002 - the Hub calls it so
) -> Path:
    """Save a network as a model folder: `model.safetensors`, `config.json` and `README.md`, a filled model card.

    A copy of a saved model keeps its metrics and parent. Once the weights, classes or image size differ, the saved
    model becomes the parent of the new one.

    An existing model is replaced by one rename of the weights file, whose header holds the whole configuration: if the
    process is killed, the folder holds the old model or the new one. Other files stay. No path, user or host name is
    written.

    Args:
        model: the network; its weights keep their dtype. `create_model` reads them as float32, which is exact.
        folder: created, with its parents, if needed.
        metrics: any of "miou", "macc", "aacc" (percent, 0 to 100, as `Evaluation` has them), "data" (text: on which
            images) and "steps" (of the optimizer). nan counts as not measured.
        license: of the weights, as the Hub abbreviates it ("apache-2.0", "other"); None: that of the weights that the
            model started from, "unknown" if that is not known.

    Returns:
        The folder.

    Raises:
        ConfigError: `metrics` has an unknown name.
        ModelConfigError: a class name, a metric or another fact is invalid in a configuration.
        StateDictMismatchError: a weight is infinite or not a number, or the network is not a plain FCN-HRNet.
        OutputError: the folder cannot be written.

    """
    folder = Path(folder)
    config = config_of(model, metrics, license)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    fit_state(weights, network_shapes(model.arch, len(model.classes)), f"to be saved in {folder}")  # finite values
    if (source := _unchanged_source(model, weights)) and source.dataset == config.dataset:
        parent = source.parent if config.parent and config.parent.name == "local-dir" else config.parent
        config = replace(config, metrics=config.metrics if metrics else source.metrics, parent=parent)
    blob = to_safetensors(weights, {CONFIG_KEY: config.to_header(), "hrnet_zoo_version": __version__})
    del weights
    make_folder(folder)
    sweep_parts(folder)
    atomic_write(folder / WEIGHTS_FILE, blob)
    del blob
    config = read_stored_config(folder / WEIGHTS_FILE)  # with the digest
    atomic_write(folder / CONFIG_FILE, config.to_json().encode())
    atomic_write(folder / CARD_FILE, model_card(config).encode())
    return folder


def config_of(
    model: FCNHRNet,
    metrics: Mapping[str, float | int | str | None] | None = None,
    license: str | None = None,  # noqa: A002 - the Hub calls it so
) -> ModelConfig:
    """Return what `save_pretrained` would write, with a digest of zeros, or raise what it would."""
    found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in model.state_dict().items()}
    try:
        compare(found, network_shapes(model.arch, len(model.classes)), model.name, None)
    except StateDictMismatchError as error:  # a network that was changed by hand could not be created when loading
        error.asked = f"save {model.name}, {model.arch} with {len(model.classes)} classes, as a model folder"
        error.done = "nothing was written"
        error.advice = (
            "create_model(..., classes=[names]) makes a head for your classes; for a network with other modules use "
            "torch.save(model.state_dict(), ...)"
        )
        raise
    # The labels go along: what a later version's tables say of the dataset does not matter.
    dataset = replace(model.dataset, labels=tuple(zip(model.classes, model.palette, strict=True)))
    is_row = model.provenance.get("model") in (*list_models(), DEMO.name)
    config = ModelConfig(
        arch=model.arch,
        dataset=dataset,
        data_sha256="0" * 64,
        license=license or _short(model.provenance.get("license")) or ("apache-2.0" if is_row else "unknown"),
        parent=_parent(model.provenance, is_row) if model.provenance else None,
        metrics=_metrics(metrics or {}),
    )
    try:
        return parse_config(config.to_json(), "the model")  # as a reader will
    except ModelConfigError as error:
        error.asked, error.done, error.advice = "save the model", "nothing was saved", "correct it, and try again"
        raise


def _unchanged_source(model: FCNHRNet, weights: Mapping[str, Tensor]) -> ModelConfig | None:
    """Return the configuration of the saved model that the network came from, if its weights are still the same."""
    text, stated = model.provenance.get(CONFIG_KEY), model.provenance.get("data_sha256")
    if text is None or stated is None:
        return None
    for dtype in (torch.float32, torch.float16, torch.bfloat16):  # the dtype in the file is not known
        stored = {name: each.to(dtype) if each.is_floating_point() else each for name, each in weights.items()}
        if all(torch.equal(each.to(weights[name].dtype), weights[name]) for name, each in stored.items()):
            blob = to_safetensors(stored, {})
            if stated.encode() in blob[: 8 + int.from_bytes(blob[:8], "little")]:
                return parse_config(text, "the model", stated)
    return None


def _metrics(metrics: Mapping[str, Any]) -> Metrics:
    known = [field.name for field in fields(Metrics)]
    wrong = [key for key, value in metrics.items() if key not in known or not isinstance(value, Real | str | None)]
    if wrong:
        raise ConfigError(
            asked=f"save a model with metrics={wrong}",
            found=f"metrics are {', '.join(known)}; numbers, or text for data",
            done="nothing was saved",
            advice="leave the others out",
        )
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
    return Metrics(**{name: None if value != value else value for name, value in plain.items()})  # nan: not measured


def _parent(provenance: Mapping[str, str], is_row: bool) -> Parent:
    """Return what the weights started from, without names of folders, and without what a foreign header made up."""
    name = provenance.get("model", "")
    file = re.split(r"[/\\]", provenance.get("source_url", ""))[-1]
    digests = [provenance.get(key, "") for key in ("source_sha256", "data_sha256")]
    return Parent(
        name if is_row or name == "local-dir" or name.startswith(HUB) else "a custom checkpoint",
        _short(file),
        *(digest if re.fullmatch("[0-9a-f]{64}", digest) else None for digest in digests),
    )


def _short(text: str | None) -> str | None:
    return text if text and len(text) <= 100 and text.isprintable() and text == text.strip() else None
