"""A name, of whichever kind -> what network it stands for, and where its weights come from."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hrnet_zoo.datasets import Dataset
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.build import Entries, Weights
from hrnet_zoo.weights.convert import verify_data
from hrnet_zoo.zoo.catalog import HUB, LOCAL, ModelInfo, is_saved, model_info
from hrnet_zoo.zoo.model_config import WEIGHTS_FILE, ModelConfig
from hrnet_zoo.zoo.model_folder import load_folder, read_folder
from hrnet_zoo.zoo.published import cached_stem, load_published


@dataclass(frozen=True)
class Origin:
    """What a name stands for.

    Attributes:
        name: what to call the network.
        arch: "hr18s", "hr18" or "hr48".
        data: the dataset, with the classes that the weights are for.
        info: the catalog row; None for a model folder or a repository.
        config: of the model folder or repository; None for a row.
        file: what log lines call the weights.
        load: returns the weights, given names and shapes of the network.
        verify: raises CheckpointError unless the data of the weights, once loaded, is what was written.

    """

    name: str
    arch: str
    dataset: Dataset
    info: ModelInfo | None
    config: ModelConfig | None
    file: str
    load: Callable[[Entries], Weights]
    verify: Callable[[], object]


def find(name: str, *, progress: bool = True) -> Origin:
    """Find out what a name stands for; of a repository on the Hub, its configuration is fetched.

    Args:
        name: of the catalog; or "local-dir:PATH", or the path of a folder alone; or "hf-hub:ORG/NAME[@REVISION]".
        progress: show a bar for a download on a terminal.

    Raises:
        UnknownModelError: no row has this name.
        ConfigError: the name is no name of a folder or repository.
        CheckpointError: the folder or repository is not what `save_pretrained` writes.
        HubError, OfflineError: the repository cannot be had.

    """
    name = str(name)
    if is_saved(name) and not name.startswith(HUB):
        return _local(f"{LOCAL}{name.removeprefix(LOCAL)}")
    if name.startswith(HUB):
        from hrnet_zoo.zoo.hub import find_repository  # huggingface_hub is slow to import

        pulled = find_repository(name.removeprefix(HUB), progress=progress)
        config = pulled.config
        return Origin(pulled.name, config.arch, config.dataset, None, config, pulled.name, pulled.load, pulled.verify)
    info = model_info(name)
    load = functools.partial(load_published, info, progress=progress)
    return Origin(
        *(info.name, info.arch, info.dataset, info, None, info.file_name, load),
        verify=lambda: verify_data(cache.model_path(cached_stem(info))),
    )


def _local(name: str) -> Origin:
    folder = Path(os.path.expanduser(name.removeprefix(LOCAL)))  # noqa: PTH111 - never raises, as Path.expanduser does
    if name == LOCAL or "://" in name:
        raise ConfigError(
            asked=f"the model {name!r}",
            found="no folder after the colon",
            done="nothing was loaded",
            advice="name it: local-dir:PATH",
        )
    config, path = read_folder(folder), folder / WEIGHTS_FILE

    def load(expected: Entries) -> Weights:
        state, provenance = load_folder(folder, config, expected, rewritable=True)
        # No path: what is loaded may be saved again, and shared.
        return state, {**provenance, "model": LOCAL.rstrip(":"), "source_url": WEIGHTS_FILE}

    return Origin(name, config.arch, config.dataset, None, config, str(path), load, lambda: verify_data(path))
