"""Repositories on the Hugging Face Hub -> model folders in the Hub's own cache.

Only `config.json` and `model.safetensors` are fetched, nothing that could hold code. huggingface_hub checks only the
size of a download, so each time the weights are loaded they are compared with the SHA-256 that the Hub states and with
the one in their header.
"""

from __future__ import annotations

import functools
import logging
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub import errors as hf
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from hrnet_zoo import __version__
from hrnet_zoo.errors import (
    CacheError,
    CheckpointError,
    ConfigError,
    HubError,
    HubRefusedError,
    OfflineError,
    redact,
)
from hrnet_zoo.weights.addresses import is_base, is_offline, without_passwords
from hrnet_zoo.weights.convert import Shapes, Weights, check_hash
from hrnet_zoo.zoo.catalog import HUB
from hrnet_zoo.zoo.model_config import CONFIG_FILE, WEIGHTS_FILE, ModelConfig, read_config
from hrnet_zoo.zoo.model_folder import load_folder, verify_folder
from hrnet_zoo.zoo.resolve import ResolvedModel

TIMEOUT_S = 20.0  # for the answer to one small question
_FILES = (CONFIG_FILE, WEIGHTS_FILE)
# What the Hub's HTTP library (httpx or httpx2) raises when a host cannot be reached: the base of the Hub's own error.
_TRANSPORT_ERROR: type[Exception] = next(base for base in hf.HfHubHTTPError.__bases__ if base is not OSError)
logger = logging.getLogger("hrnet_zoo")


def resolve_repository(name: str) -> ResolvedModel:
    """Return the model "hf-hub:org/name[@revision]", with its configuration fetched unless cached.

    A full commit hash whose files are cached needs no connection. Otherwise the Hub is asked; if it cannot be reached,
    the cached copy is used, with a warning.
    """
    repo, at, revision = name.removeprefix(HUB).partition("@")
    require_repo(repo if "://" not in name else name)
    if at and not re.fullmatch(r"(?!.*\.\.)\w[\w./-]{0,199}", revision):
        raise _impossible_name(f"the revision {revision!r}", "not a commit, branch or tag")
    revision = revision or "main"
    is_pinned = re.fullmatch("[0-9a-f]{40}", revision) is not None
    is_cached = all(isinstance(try_to_load_from_cache(repo, file, revision=revision), str) for file in _FILES)
    ask = not (is_offline() or (is_pinned and is_cached))
    if ask:
        try:
            with hub_errors(repo, f"the model {name}"):
                hub_api().model_info(repo, revision=revision, timeout=TIMEOUT_S)
        except HubError as error:
            if isinstance(error, HubRefusedError) or not is_cached:
                raise
            logger.warning("%s: %s; the cached copy is used", name, error.found)
            ask = False
    path = _fetch(repo, CONFIG_FILE, revision, cached=not ask)
    commit = path.parent.name
    pinned = f"{HUB}{repo}@{commit}"
    if not is_pinned:
        logger.warning("%s is not pinned: %s is commit %s today; %s stays the same", name, revision, commit[:8], pinned)
    config = read_config(path)
    return ResolvedModel(
        name=pinned,
        arch=config.arch,
        method=config.method,
        dataset=config.dataset,
        info=None,
        config=config,
        source=pinned,
        load=functools.partial(_load, repo, path.parent),
        verify=functools.partial(_verify, path.parent),
    )


def hub_api() -> HfApi:
    """Return the client for the Hub at `endpoint()`."""
    return HfApi(endpoint=endpoint(), library_name="hrnet-zoo", library_version=__version__)


def endpoint() -> str:
    """Return the address of the Hub: `HF_ENDPOINT`, or the public one."""
    base = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    if not is_base(base):
        raise ConfigError(
            asked="read the address of the Hub in HF_ENDPOINT",
            found=f"{without_passwords(base)!r}, which is not https://HOST[/PATH] or http://HOST[/PATH]",
            done="no connection was opened",
            advice="correct HF_ENDPOINT, or unset it",
        )
    return base


def require_repo(repo: str) -> None:
    """Raise ConfigError unless this can be the name of a repository: "org/name"."""
    try:
        validate_repo_id(repo)
    except hf.HFValidationError as error:
        raise _impossible_name(f"the repository {redact(repo)[:100]!r}", redact(str(error))[:200]) from None
    if repo.count("/") != 1:
        raise _impossible_name(f"the repository {repo[:100]!r}", "a name without an organization")


def require_online(repo: str, asked: str) -> None:
    """Raise OfflineError if the network is switched off."""
    if is_offline():
        raise OfflineError(
            asked=asked,
            found="HRNET_ZOO_OFFLINE or HF_HUB_OFFLINE switches the network off, which this needs",
            done="no connection was opened",
            advice="unset it; or fetch the files on another machine, and name their folder: local-dir:PATH",
            url=f"{endpoint()}/{repo}",
        )


@contextmanager
def hub_errors(repo: str, asked: str, done: str = "nothing was loaded") -> Iterator[None]:
    """Turn what huggingface_hub raises into our errors, without tokens and signed addresses."""
    try:
        yield
    except (_TRANSPORT_ERROR, OSError, ValueError, RuntimeError, hf.EntryNotFoundError) as error:
        raise _translated(error, repo, asked, done) from None  # a chain would show addresses and tokens in tracebacks


def _translated(error: BaseException, repo: str, asked: str, done: str) -> HubError | CacheError:
    cause = error
    # A failed upload is wrapped in a RuntimeError, a failed download in a hf.LocalEntryNotFoundError.
    while type(cause) in (RuntimeError, hf.LocalEntryNotFoundError) and cause.__cause__ is not None:
        cause = cause.__cause__
    status = getattr(getattr(cause, "response", None), "status_code", None)
    words = f"{type(cause).__name__}: {redact(' '.join(str(cause).split()))[:200]}"
    network_errors = (_TRANSPORT_ERROR, ConnectionError, TimeoutError, hf.LocalEntryNotFoundError)
    is_network = status is not None or isinstance(cause, network_errors)
    if isinstance(cause, OSError) and cause.errno is not None and not is_network:
        return CacheError(
            asked=asked,
            found=f"a file on this machine that cannot be used ({words})",
            done=done,
            advice="check the free space, and that you may write to the Hub's cache (HF_HUB_CACHE)",
            path=Path(constants.HF_HUB_CACHE),
        )
    answer = f"HTTP status {status}" if status else "no answer" if is_network else "huggingface_hub failed"
    found = f"{answer} for {repo} at {redact(endpoint())} ({words})"
    if isinstance(cause, hf.LocalTokenNotFoundError) or status in (401, 403, 404):
        advice = (
            "name a repository that `hrnet-zoo push` filled, and a revision of it; for a private one log in with "
            "`hf auth login`, or set HF_TOKEN; accept its terms if any"
        )
        return HubRefusedError(asked=asked, found=found, done=done, advice=advice, repo=repo)
    advice = "check the network, and HF_ENDPOINT if it is set; try again later"
    return HubError(asked=asked, found=found, done=done, advice=advice, repo=repo)


def _load(repo: str, folder: Path, expected: Shapes) -> Weights:
    """Fetch the weights if they are not cached, verify them, and load them as `load_folder` does."""
    name = f"{HUB}{repo}@{folder.name}"
    for file in _FILES:
        _fetch(repo, file, folder.name)
    try:
        config = _verify(folder)
    except CheckpointError as error:
        if is_offline():
            raise
        logger.warning("%s: %s; fetching it once more", name, error.found)
        for file in _FILES:
            _fetch(repo, file, folder.name, anew=True)
        config = _verify(folder)
    state, provenance = load_folder(folder, config, expected)
    return state, {**provenance, "model": name, "source_url": redact(f"{endpoint()}/{repo}/{WEIGHTS_FILE}")}


def _verify(folder: Path) -> ModelConfig:
    """Return the configuration of the cached files, or raise CheckpointError if they are damaged."""
    config, path = verify_folder(folder), folder / WEIGHTS_FILE
    # The Hub states a SHA-256, which covers the header too. It is the name of the file behind the link; where the file
    # system has no links, the cache keeps no such name.
    stated = Path(os.path.realpath(path)).name
    if re.fullmatch("[0-9a-f]{64}", stated):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as body:
            check_hash(body, stated, str(path))
    return config


def _fetch(repo: str, file: str, revision: str, *, cached: bool = False, anew: bool = False) -> Path:
    """Return the path of a repository's file in the Hub's cache; `anew` fetches it again, `cached` never does."""
    asked = f"{file} of {repo} at {revision}"
    if not isinstance(try_to_load_from_cache(repo, file, revision=revision), str):
        require_online(repo, asked)
    with hub_errors(repo, asked):
        path = hf_hub_download(
            repo,
            file,
            revision=revision,
            endpoint=endpoint(),
            local_files_only=cached or is_offline(),
            force_download=anew,
        )
    return Path(path)


def _impossible_name(what: str, found: str) -> ConfigError:
    return ConfigError(
        asked=f"{what} on the Hub",
        found=found,
        done="no connection was opened",
        advice="write hf-hub:ORG/NAME or hf-hub:ORG/NAME@REVISION",
    )
