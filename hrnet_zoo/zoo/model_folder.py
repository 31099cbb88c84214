"""Model folder -> configuration and state dict.

    model.safetensors   the weights, and in its header the whole configuration: this file alone is the model
    config.json         the same configuration, for readers of JSON
    README.md           the same, for people

A save replaces `model.safetensors` by one rename, and so the model changes at one moment: whoever reads sees the old or
the new one, whole, even if the saving process is killed. The other two files may then still tell of the old one.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from hrnet_zoo.errors import CheckpointFormatError, CheckpointNotFoundError
from hrnet_zoo.weights.build import Entries, Weights
from hrnet_zoo.weights.convert import fit, verify_data
from hrnet_zoo.weights.gate import SafetensorsHeader, inspect_safetensors
from hrnet_zoo.weights.mapping import map_safetensors
from hrnet_zoo.zoo.model_config import (
    CONFIG_FILE,
    CONFIG_KEY,
    WEIGHTS_FILE,
    ModelConfig,
    parse_config,
    read_config,
    refusal,
)

logger = logging.getLogger("hrnet_zoo")


def read_folder(folder: Path) -> ModelConfig:
    """Read what a model folder holds: the configuration in the header of its weights.

    A `config.json` of the same weights must say the same. One of other weights is what a save leaves that was ended
    between two files: a warning is logged, and the weights' own header counts. None at all is fine.

    Raises:
        CheckpointNotFoundError: there is no such folder, or no weights in it.
        CheckpointFormatError: the weights are no whole safetensors file, or none that `save_pretrained` wrote.
        ModelConfigError: the configuration is not what its schema says, or `config.json` contradicts it.

    """
    path = folder / WEIGHTS_FILE
    config = config_in(path)
    beside = folder / CONFIG_FILE
    if not beside.is_file():
        return config
    told = read_config(beside)
    if told.data_sha256 != config.data_sha256:
        logger.warning(
            "%s belongs to other weights than %s, whose own header is used: saving was interrupted, or one of the two "
            "was copied from elsewhere; saving the model again mends it",
            *(beside, path),
        )
    else:
        require_same_config(told, config, beside)
    return config


def config_in(path: Path) -> ModelConfig:
    """Read the configuration in the header of a weights' file; no data is read.

    Raises:
        CheckpointNotFoundError, CheckpointFormatError, ModelConfigError: as `read_folder`.

    """
    try:
        header = inspect_safetensors(path, str(path))
    except CheckpointNotFoundError as error:
        pickles = _pickles(path.parent)
        error.asked = f"open the model folder {path.parent}"
        error.found = f"no {path.name} there" + (f", but {', '.join(pickles[:3])}" if pickles else "")
        error.advice = "name a folder that save_pretrained wrote" + (
            "; a .pth loads with create_model(NAME, checkpoint=PATH)" if pickles else ""
        )
        raise
    config, digest = header.metadata.get(CONFIG_KEY), header.metadata.get("data_sha256")
    if config is None or digest is None:
        raise CheckpointFormatError(
            asked=f"open the model folder {path.parent}",
            found=f"a {path.name} without a configuration in its header, which save_pretrained did not write",
            done="nothing was loaded",
            advice="load it as weights of a network that you name: create_model(NAME, checkpoint=PATH, classes=...)",
            source=str(path),
        )
    return parse_config(config, f"in {path}", digest)


def _pickles(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith((".pth", ".pt", ".bin")))  # noqa: PTH208
    except (OSError, ValueError):  # ValueError: a null character; that there is no such folder is being said
        return []


def require_same_config(told: ModelConfig, config: ModelConfig, beside: Path) -> None:
    """Raise ModelConfigError if `told`, by the file `beside` the weights, is not what their header says."""
    one, other = {**told.to_dict(), "data_sha256": told.data_sha256}, config.to_dict()
    other["data_sha256"] = config.data_sha256
    if different := [key for key in one if one[key] != other[key]]:
        raise refusal(str(beside), f"$.{different[0]}", f"another value than in the header of {WEIGHTS_FILE}")


def load_folder(folder: Path, config: ModelConfig, expected: Entries, *, rewritable: bool) -> Weights:
    """Load the weights of a model folder, whose configuration `read_folder` returned.

    Names and shapes are compared with `expected` by the header, before anything is mapped or read; then every value is
    looked at once, and must be finite. Weights that were replaced since by newer ones of the same network are loaded
    instead.

    Args:
        folder: the model folder.
        config: what `read_folder` returned.
        expected: names and shapes of the network.
        rewritable: whether others may rewrite the file while the network runs (see `map_safetensors`).

    Returns:
        Float32 tensors, and the header's metadata, which holds the configuration under "config".

    Raises:
        CheckpointError: the file is damaged, or does not fit.
        ModelConfigError: another network was saved there since.

    """
    path = folder / WEIGHTS_FILE

    def of_this_network(header: SafetensorsHeader) -> Entries:
        text, digest = header.metadata.get(CONFIG_KEY, ""), header.metadata.get("data_sha256")
        now = parse_config(text, f"in {path}", digest)
        if (now.arch, now.dataset) != (config.arch, config.dataset):
            raise refusal(str(path), "$", "another network was saved here while this one was read; load it again")
        return expected

    state, provenance = map_safetensors(path, of_this_network, str(path), rewritable=rewritable)
    return fit(state, expected, str(path)), {**provenance, "license": config.license}


def verify_folder(folder: Path) -> ModelConfig:
    """Read a model folder as one that is to be passed on: all its files agree, and its data is what was written.

    Raises:
        CheckpointError: `read_folder`'s, and HashMismatchError.
        ModelConfigError: there is no `config.json`, or it is not of these weights.

    """
    config = config_in(folder / WEIGHTS_FILE)
    require_same_config(read_config(folder / CONFIG_FILE), config, folder / CONFIG_FILE)
    verify_data(folder / WEIGHTS_FILE)
    return config
