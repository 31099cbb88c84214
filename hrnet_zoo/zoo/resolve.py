"""Model name, of any kind -> the network that it stands for, and where its weights come from."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hrnet_zoo.datasets import Dataset
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.weights.convert import Shapes, Weights, verify_data
from hrnet_zoo.zoo.catalog import HUB, LOCAL, ModelInfo, is_saved, model_info
from hrnet_zoo.zoo.model_config import WEIGHTS_FILE, ModelConfig
from hrnet_zoo.zoo.model_folder import load_folder, read_folder
from hrnet_zoo.zoo.published import load_published, verify_published


@dataclass(frozen=True)
class ResolvedModel:
    """What a model name stands for.

    Attributes:
        name: the network's name.
        arch: "hr18s", "hr18" or "hr48".
        dataset: the dataset, with the classes of the weights.
        info: the catalog row; None for a model folder or a repository.
        config: of the model folder or repository; None for a row.
        source: what log messages call the weights.
        load: returns the weights, given names and shapes of the network.
        verify: raises CheckpointError unless the downloaded or saved weights are intact.

    """

    name: str
    arch: str
    dataset: Dataset
    info: ModelInfo | None
    config: ModelConfig | None
    source: str
    load: Callable[[Shapes], Weights]
    verify: Callable[[], object]


def resolve(name: str, *, progress: bool = True) -> ResolvedModel:
    """Resolve a model name; for a repository on the Hub, its configuration is downloaded.

    Args:
        name: catalog name or alias; "local-dir:PATH", or the path of a folder; or "hf-hub:ORG/NAME[@REVISION]".
        progress: show a bar for a download on a terminal.

    Raises:
        UnknownModelError: no model has this name.
        ConfigError: it cannot be the name of a folder or repository.
        CheckpointError: the folder or repository was not written by `save_pretrained`.
        HubError, OfflineError: the repository cannot be downloaded.

    """
    if name.startswith(HUB):
        from hrnet_zoo.zoo.hub import resolve_repository  # huggingface_hub is slow to import

        return resolve_repository(name)
    if is_saved(name):
        return _resolve_folder(f"{LOCAL}{name.removeprefix(LOCAL)}")
    info = model_info(name)
    return ResolvedModel(
        name=info.name,
        arch=info.arch,
        dataset=info.dataset,
        info=info,
        config=None,
        source=info.file_name,
        load=functools.partial(load_published, info, progress=progress),
        verify=functools.partial(verify_published, info),
    )


def _resolve_folder(name: str) -> ResolvedModel:
    if name == LOCAL or "://" in name:
        raise ConfigError(
            asked=f"the model {name!r}",
            found="no folder after the colon",
            done="nothing was loaded",
            advice="name it: local-dir:PATH",
        )
    folder = Path(os.path.expanduser(name.removeprefix(LOCAL)))  # noqa: PTH111 - never raises, unlike Path.expanduser
    config, path = read_folder(folder), folder / WEIGHTS_FILE

    def load(expected: Shapes) -> Weights:
        state, provenance = load_folder(folder, config, expected)
        # The path stays out: the loaded network may be saved again, and shared.
        return state, {**provenance, "model": LOCAL.rstrip(":"), "source_url": WEIGHTS_FILE}

    return ResolvedModel(
        name=name,
        arch=config.arch,
        dataset=config.dataset,
        info=None,
        config=config,
        source=str(path),
        load=load,
        verify=functools.partial(verify_data, path),
    )
