"""Repository on the Hub of Hugging Face -> model folder in the Hub's own cache.

Two files are fetched, `config.json` and `model.safetensors`, and nothing that could hold code. huggingface_hub takes a
body of the right size for the right one; so the weights are compared with the digest that the Hub stated, and with the
one that they and `config.json` carry, each time they are loaded.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from hrnet_zoo.errors import CheckpointError, CheckpointFormatError, HashMismatchError, HubError, OfflineError, redact
from hrnet_zoo.weights.addresses import is_offline
from hrnet_zoo.weights.build import Entries, Weights
from hrnet_zoo.weights.part import disk_errors
from hrnet_zoo.zoo.hub_errors import endpoint, hub_errors, no_name, require_repo
from hrnet_zoo.zoo.model_config import CONFIG_FILE, WEIGHTS_FILE, ModelConfig, read_config
from hrnet_zoo.zoo.model_folder import load_folder, verify_folder

ASK_S = 20.0  # for the answer to one small question

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]{0,199}")
_PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")

logger = logging.getLogger("hrnet_zoo")


@dataclass(frozen=True)
class Repository:
    """A model on the Hub at one commit, its configuration fetched.

    Attributes:
        repo: "org/name".
        commit: 40 hex digits.
        folder: where its files lie in the Hub's cache.
        config: what `config.json` says.
        progress: show a bar for the download of the weights.

    """

    repo: str
    commit: str
    folder: Path
    config: ModelConfig
    progress: bool

    @property
    def name(self) -> str:
        """What `create_model` takes for exactly these weights."""
        return f"hf-hub:{self.repo}@{self.commit}"

    def verify(self) -> ModelConfig:
        """Return the configuration of the cached files, which agree with each other and with their digests.

        Raises:
            CheckpointError: they do not.

        """
        _require_stated(self.folder / WEIGHTS_FILE)
        return verify_folder(self.folder)

    def load(self, expected: Entries) -> Weights:
        """Fetch the weights if they are not cached, verify them, and load them as `load_folder` does.

        Raises:
            HubError, OfflineError: they cannot be had.
            HashMismatchError: they are not what was saved, twice.
            CheckpointError: they are not what `config.json` says, or do not fit.

        """
        for last in (is_offline(), True):
            for file in (WEIGHTS_FILE, CONFIG_FILE):
                fetch(self.repo, file, self.commit, progress=self.progress)
            try:
                config = self.verify()
                break
            except CheckpointError as error:
                if last:
                    raise
                logger.warning("%s: %s; fetching it once more", self.name, error.found)
            for file in (WEIGHTS_FILE, CONFIG_FILE):
                fetch(self.repo, file, self.commit, progress=self.progress, anew=True)
        state, provenance = load_folder(self.folder, config, expected, rewritable=False)
        address = redact(f"{endpoint()}/{self.repo}/{WEIGHTS_FILE}")
        return state, {**provenance, "model": self.name, "source_url": address}


def find_repository(name: str, *, progress: bool) -> Repository:
    """Find a model on the Hub, and fetch its configuration unless it is cached.

    A full commit hash whose files are cached needs no connection. For a branch or tag the Hub is asked; if it cannot be
    reached, what is cached of it is used, and a warning logged.

    Args:
        name: "org/name", or "org/name@revision".
        progress: show bars for downloads on a terminal.

    Raises:
        ConfigError: no such name is possible.
        HubError: the repository cannot be had: HubNotFoundError, HubAuthError, or the network.
        OfflineError: it is not cached, and an offline switch is on.
        CheckpointFormatError: it holds no model of this library.
        ModelConfigError: its configuration is not what the schema says.

    """
    if "://" in name:  # before it is split where a password may begin
        raise no_name(f"the repository {redact(name)[:100]!r}", "it is an address")
    repo, _, revision = name.partition("@")
    require_repo(repo)
    if "@" in name and not _REVISION.fullmatch(revision):
        raise no_name(f"the revision {revision!r}", "it is a commit, branch or tag")
    revision = revision or "main"
    pinned = _COMMIT.fullmatch(revision) is not None
    cached = is_offline() or (pinned and _cached(repo, revision))
    if not cached:
        try:
            with hub_errors(repo, f"the model hf-hub:{name}"):
                found = _api().model_info(repo, revision=revision, timeout=ASK_S)
            _require_ours(repo, [file.rfilename for file in found.siblings or ()])
        except HubError as error:
            if type(error) is not HubError or not _cached(repo, revision):
                raise
            logger.warning("hf-hub:%s: %s; the cached copy is used", name, error.found)
            cached = True
    path = fetch(repo, CONFIG_FILE, revision, progress=progress, cached=cached)
    commit = path.parent.name
    if not pinned:
        logger.warning(
            "hf-hub:%s is not pinned: %s is commit %s today; hf-hub:%s@%s stays the same",
            *(name, revision, commit[:8], repo, commit),
        )
    try:
        config = read_config(path)
    except CheckpointError as error:
        if cached:
            raise
        logger.warning("hf-hub:%s: %s; fetching it once more", name, error.found)
        config = read_config(fetch(repo, CONFIG_FILE, commit, progress=progress, anew=True))
    return Repository(repo, commit, path.parent, config, progress)


def fetch(repo: str, file: str, revision: str, *, progress: bool, cached: bool = False, anew: bool = False) -> Path:
    """Return the path of a file of a repository in the Hub's cache, after fetching it if need be.

    Args:
        repo: "org/name".
        file: its name there.
        revision: commit, branch or tag.
        progress: show a bar on a terminal.
        cached: open no connection.
        anew: fetch it though it is cached.

    Raises:
        HubError, OfflineError: it cannot be had.

    """
    offline = is_offline()
    with hub_errors(repo, f"{file} of {repo}"), bars(progress):
        try:
            # With a full commit a cached file is taken as it is, without a question to the Hub.
            return Path(
                hf_hub_download(
                    repo,
                    file,
                    revision=revision,
                    endpoint=endpoint(),
                    local_files_only=cached or offline,
                    force_download=anew and not offline,
                )
            )
        except LocalEntryNotFoundError as error:
            if not offline:
                raise
            raise OfflineError(
                asked=f"{file} of {repo} at {revision}",
                found="HRNET_ZOO_OFFLINE or HF_HUB_OFFLINE switches the network off, and it is not in the Hub's cache",
                done="nothing was fetched",
                advice="unset it; or fetch it on another machine, and name the folder: local-dir:PATH",
                url=f"{endpoint()}/{repo}",
            ) from error


def _api() -> HfApi:
    return HfApi(endpoint=endpoint(), library_name="hrnet-zoo")


def _cached(repo: str, revision: str) -> bool:
    try:
        for file in (CONFIG_FILE, WEIGHTS_FILE):
            hf_hub_download(repo, file, revision=revision, endpoint=endpoint(), local_files_only=True)
    except LocalEntryNotFoundError:
        return False
    return True


def _require_stated(path: Path) -> None:
    """Compare weights in the Hub's cache with the SHA-256 that the Hub stated: the name of the file behind the link.

    The digest that the weights carry is of their data; this one is of their header too. Where the file system has no
    links the cache keeps no such name, and that digest is all.
    """
    stated = Path(os.path.realpath(path)).name
    if not re.fullmatch("[0-9a-f]{64}", stated):
        return
    digest, size = hashlib.sha256(), 0
    with disk_errors(path, f"read {path}"), path.open("rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    if digest.hexdigest() != stated:
        raise HashMismatchError(
            asked=f"the weights {path}",
            found=f"SHA-256 {digest.hexdigest()} of {size:,} bytes; the Hub states {stated}",
            done="nothing was loaded",
            advice="if it happens again, check the disk and the network between here and the Hub",
            source=str(path),
            expected=stated,
            actual=digest.hexdigest(),
            size=size,
        )


def _require_ours(repo: str, files: list[str]) -> None:
    if {CONFIG_FILE, WEIGHTS_FILE} <= {*files}:
        return
    missing = ", ".join(file for file in (CONFIG_FILE, WEIGHTS_FILE) if file not in files)
    pickles = [file for file in files if file.endswith(_PICKLES)]
    held = f"; it has {', '.join(pickles[:3])}, which can hold code and is never loaded from the Hub" if pickles else ""
    raise CheckpointFormatError(
        asked=f"the model hf-hub:{repo}",
        found=f"no {missing} there{held}",
        done="nothing was fetched",
        advice="fetch such a file yourself if you trust its author: create_model(NAME, checkpoint=PATH), then "
        "save_pretrained and hrnet-zoo push"
        if pickles
        else "name a repository that `hrnet-zoo push` filled",
        source=f"hf-hub:{repo}",
    )


@contextmanager
def bars(shown: bool) -> Iterator[None]:
    """Keep huggingface_hub's bars away if none are wanted, or stderr is no terminal."""
    if (shown and sys.stderr.isatty()) or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
