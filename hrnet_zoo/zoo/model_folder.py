"""Model folder <-> network.

    model.safetensors   the weights, with the whole configuration in the header: this file alone is the model
    config.json         the same configuration as JSON
    README.md           the model card

Saving replaces `model.safetensors` by one rename, so a reader sees the old or the new model even if the saving process
is killed. The other two files may then still describe the old one.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from numbers import Real
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from hrnet_zoo import __version__
from hrnet_zoo.errors import (
    CheckpointFormatError,
    CheckpointNotFoundError,
    ConfigError,
    ModelConfigError,
    StateDictMismatchError,
    raise_on_oom,
)
from hrnet_zoo.images.atomic import atomic_write, make_folder, sweep_parts
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.weights.convert import ROOM, Shapes, Weights, network_shapes, read_file, to_safetensors, verify_data
from hrnet_zoo.weights.scan import SafetensorsHeader, inspect_safetensors
from hrnet_zoo.weights.state_dict import compare, fit_state
from hrnet_zoo.zoo.catalog import DEMO, list_models
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
    read_config,
    refusal,
)

logger = logging.getLogger("hrnet_zoo")


# --- folder -> configuration and weights -----------------------------------------------------------------------------


def read_folder(folder: Path, *, complete: bool = False) -> ModelConfig:
    """Return the configuration of a model folder, from the header of its weights.

    A `config.json` that belongs to the same weights must agree. One that belongs to other weights, as an interrupted
    save leaves it, is ignored with a warning; with `complete`, it must be there and agree.
    """
    path = folder / CONFIG_FILE
    try:
        config = _config_in(inspect_safetensors(folder / WEIGHTS_FILE, str(folder / WEIGHTS_FILE)), folder)
    except CheckpointNotFoundError as error:
        error.asked = f"open the model folder {folder}"
        error.found = f"no {WEIGHTS_FILE} there"
        error.advice = "name a folder that save_pretrained wrote; a .pth loads with create_model(NAME, checkpoint=PATH)"
        raise
    if not complete and not path.is_file():
        return config
    stated = read_config(path)
    if not complete and stated.data_sha256 != config.data_sha256:
        logger.warning("%s belongs to other weights and is ignored; save the model again to fix it", path)
    elif stated != config:
        key = next(key for key, value in config.to_dict().items() if stated.to_dict()[key] != value)
        raise refusal(str(path), f"$.{key}", f"another value than in the header of {WEIGHTS_FILE}")
    return config


def verify_folder(folder: Path) -> ModelConfig:
    """Return the configuration of a model folder, or raise CheckpointError if its files disagree or are damaged."""
    config = read_folder(folder, complete=True)
    verify_data(folder / WEIGHTS_FILE)
    return config


def load_folder(folder: Path, config: ModelConfig, expected: Shapes) -> Weights:
    """Load the weights of a model folder whose configuration was read; their names, shapes and values are checked.

    If newer weights of the same network were saved since, the newer ones are loaded.
    """
    path = folder / WEIGHTS_FILE
    with raise_on_oom(f"load {path}", done="nothing was loaded", advice=ROOM):
        body = read_file(path)  # not mapped: others may rewrite the file while the network runs
        header = inspect_safetensors(body, str(path))
        state = safetensors.torch.load(body)
    now = _config_in(header, folder)
    if (now.arch, now.method, now.dataset) != (config.arch, config.method, config.dataset):
        raise refusal(str(path), "$", "another network was saved here while this one was being loaded; try again")
    provenance = {key: header.metadata[key] for key in (CONFIG_KEY, "data_sha256")}
    return fit_state(state, expected, str(path)), {**provenance, "license": config.license}


def _config_in(header: SafetensorsHeader, folder: Path) -> ModelConfig:
    config, digest = header.metadata.get(CONFIG_KEY), header.metadata.get("data_sha256")
    if config is None or digest is None:
        raise CheckpointFormatError(
            asked=f"open the model folder {folder}",
            found=f"a {WEIGHTS_FILE} without a configuration in its header, so save_pretrained did not write it",
            done="nothing was loaded",
            advice="load it into a network that you name: create_model(NAME, checkpoint=PATH, classes=...)",
            source=str(folder / WEIGHTS_FILE),
        )
    return parse_config(config, f"in {folder / WEIGHTS_FILE}", digest)


# --- network -> folder -----------------------------------------------------------------------------------------------


def save_pretrained(
    model: FCNHRNet,
    folder: str | os.PathLike[str],
    *,
    metrics: Mapping[str, float | int | str | None] | None = None,
    license: str | None = None,  # noqa: A002 - the Hub calls it so
) -> Path:
    """Save a network as a model folder: `model.safetensors`, `config.json` and `README.md`, a filled model card.

    A copy of a saved model keeps its metrics and parent. Once the weights, classes or image size differ, the saved
    model becomes the parent of the new one. Other files in the folder stay. No path, user or host name is written.

    Args:
        model: the network; its weights keep their dtype. `create_model` reads them as float32, which is exact.
        folder: created, with its parents, if needed.
        metrics: any of "miou", "macc", "aacc" (percent, 0 to 100, as `Evaluation` has them), "data" (text: on which
            images) and "steps" (of the optimizer). nan counts as not measured.
        license: of the weights, as the Hub abbreviates it ("apache-2.0", "other"); None: that of the weights that the
            model started from, "unknown" if that is not known.

    Raises:
        ConfigError: `metrics` has an unknown name.
        ModelConfigError: a class name, a metric or another fact is invalid in a configuration.
        StateDictMismatchError: a weight is infinite or not a number, or the network is not as `create_model` makes it.
        OutputError: the folder cannot be written.

    """
    folder = Path(folder)
    config = config_of(model, metrics, license)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    shapes = network_shapes(model.arch, len(model.classes), model.method, len(model.dataset.bands))
    fit_state(weights, shapes, f"to be saved in {folder}")  # finite values
    if (source := _unchanged_source(model, weights)) and source.dataset == config.dataset:
        parent = source.parent if config.parent and config.parent.name == "local-dir" else config.parent
        config = replace(config, metrics=config.metrics if metrics else source.metrics, parent=parent)
    blob = to_safetensors(weights, {CONFIG_KEY: config.to_header(), "hrnet_zoo_version": __version__})
    del weights
    make_folder(folder)
    sweep_parts(folder)
    atomic_write(folder / WEIGHTS_FILE, blob)
    del blob
    config = _config_in(inspect_safetensors(folder / WEIGHTS_FILE, str(folder)), folder)  # with the digest
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
        shapes = network_shapes(model.arch, len(model.classes), model.method, len(model.dataset.bands))
        compare(found, shapes, model.name, None)
    except StateDictMismatchError as error:  # a network that was changed by hand could not be created when loading
        error.asked = f"save {model.name}, {model.arch} with {len(model.classes)} classes, as a model folder"
        error.done = "nothing was written"
        error.advice = "create_model(..., classes=[names]) makes a head; save others by torch.save(model.state_dict())"
        raise
    # The labels go along: what a later version's tables say of the dataset does not matter.
    dataset = replace(model.dataset, labels=tuple(zip(model.classes, model.palette, strict=True)))
    is_row = model.provenance.get("model") in (*list_models(), DEMO.name)
    config = ModelConfig(
        arch=model.arch,
        dataset=dataset,
        data_sha256="0" * 64,
        license=license or model.provenance.get("license") or ("apache-2.0" if is_row else "unknown"),
        parent=_parent(model.provenance) if model.provenance else None,
        metrics=_metrics(metrics or {}),
        method=model.method,
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


def _parent(provenance: Mapping[str, str]) -> Parent:
    """Return what the weights started from, without names of folders."""
    file = re.split(r"[/\\]", provenance.get("source_url", ""))[-1]
    is_told = 1 <= len(file) <= 100 and file.isprintable() and file == file.strip()
    return Parent(
        provenance.get("model", "a custom checkpoint"),
        file if is_told else None,
        provenance.get("source_sha256"),
        provenance.get("data_sha256"),
    )
