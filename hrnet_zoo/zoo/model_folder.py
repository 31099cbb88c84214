"""Model folder -> configuration and state dict.

    model.safetensors   the weights, with the whole configuration in the header: this file alone is the model
    config.json         the same configuration as JSON
    README.md           the model card

Saving replaces `model.safetensors` by one rename, so a reader sees the old or the new model even if the saving process
is killed. The other two files may then still describe the old one.
"""

from __future__ import annotations

import logging
from pathlib import Path

from hrnet_zoo.errors import CheckpointFormatError, CheckpointNotFoundError
from hrnet_zoo.weights.convert import Shapes, Weights, map_safetensors, verify_data
from hrnet_zoo.weights.scan import SafetensorsHeader, inspect_safetensors
from hrnet_zoo.weights.state_dict import fit_state
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
    """Return the configuration of a model folder, from the header of its weights.

    A `config.json` that belongs to the same weights must agree. One that belongs to other weights, as an interrupted
    save leaves it, is ignored with a warning.

    Raises:
        CheckpointError: there is no folder that `save_pretrained` wrote, or its files are damaged or contradictory.

    """
    path = folder / WEIGHTS_FILE
    config = read_stored_config(path)
    if not (folder / CONFIG_FILE).is_file():
        return config
    if read_config(folder / CONFIG_FILE).data_sha256 == config.data_sha256:
        _require_agreement(folder, config)
    else:
        logger.warning(
            "%s belongs to other weights than %s and is ignored: saving was interrupted, or one of them was copied; "
            "save the model again to fix it",
            *(folder / CONFIG_FILE, path),
        )
    return config


def read_stored_config(path: Path) -> ModelConfig:
    """Return the configuration in the header of a weights file."""
    try:
        return _config_of(inspect_safetensors(path, str(path)), path)
    except CheckpointNotFoundError as error:
        error.asked = f"open the model folder {path.parent}"
        error.found = f"no {path.name} there"
        error.advice = "name a folder that save_pretrained wrote; a .pth loads with create_model(NAME, checkpoint=PATH)"
        raise


def load_folder(folder: Path, config: ModelConfig, expected: Shapes, *, rewritable: bool) -> Weights:
    """Load the weights of a model folder.

    Names, shapes and values are checked. If the file was replaced by newer weights of the same network since `config`
    was read, the newer ones are loaded.

    Args:
        folder: the model folder.
        config: what `read_folder` returned.
        expected: names and shapes of the network.
        rewritable: whether others may rewrite the file while the network runs (see `map_safetensors`).

    Returns:
        Float32 tensors, and the header's metadata.

    Raises:
        CheckpointError: the file is damaged, does not fit, or another network was saved there since.

    """
    path = folder / WEIGHTS_FILE

    def same_network(header: SafetensorsHeader) -> Shapes:
        now = _config_of(header, path)
        if (now.arch, now.dataset) != (config.arch, config.dataset):
            raise refusal(str(path), "$", "another network was saved here while this one was being loaded; try again")
        return expected

    state, provenance = map_safetensors(path, same_network, str(path), rewritable=rewritable)
    return fit_state(state, expected, str(path)), {**provenance, "license": config.license}


def verify_folder(folder: Path) -> ModelConfig:
    """Return the configuration of a model folder, or raise CheckpointError if its files disagree or are damaged."""
    config = read_stored_config(folder / WEIGHTS_FILE)
    _require_agreement(folder, config)
    verify_data(folder / WEIGHTS_FILE)
    return config


def _config_of(header: SafetensorsHeader, path: Path) -> ModelConfig:
    config, digest = header.metadata.get(CONFIG_KEY), header.metadata.get("data_sha256")
    if config is None or digest is None:
        raise CheckpointFormatError(
            asked=f"open the model folder {path.parent}",
            found=f"a {path.name} without a configuration in its header, so save_pretrained did not write it",
            done="nothing was loaded",
            advice="load it into a network that you name: create_model(NAME, checkpoint=PATH, classes=...)",
            source=str(path),
        )
    return parse_config(config, f"in {path}", digest)


def _require_agreement(folder: Path, config: ModelConfig) -> None:
    """Raise ModelConfigError unless `config.json` says what the header of the weights says."""
    path = folder / CONFIG_FILE
    for key, value in read_config(path).to_dict().items():
        if value != config.to_dict()[key]:
            raise refusal(str(path), f"$.{key}", f"another value than in the header of {WEIGHTS_FILE}")
