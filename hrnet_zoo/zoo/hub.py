"""Repositories on the Hugging Face Hub -> model folders in the Hub's own cache.

Only `config.json` and `model.safetensors` are fetched, nothing that could hold code. huggingface_hub checks only the
size of a download, so each time the weights are loaded they are compared with the SHA-256 that the Hub states and with
the one in their header.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub import errors as hf
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)

from hrnet_zoo import __version__
from hrnet_zoo.errors import (
    CacheError,
    CheckpointError,
    CheckpointFormatError,
    ConfigError,
    HashMismatchError,
    HubError,
    HubRefusedError,
    OfflineError,
    redact,
)
from hrnet_zoo.weights.addresses import is_base, is_offline, without_passwords
from hrnet_zoo.weights.convert import Shapes, Weights
from hrnet_zoo.zoo.model_config import CONFIG_FILE, WEIGHTS_FILE, ModelConfig, read_config
from hrnet_zoo.zoo.model_folder import load_folder, verify_folder

TIMEOUT_S = 20.0  # for the answer to one small question
_FILES = (CONFIG_FILE, WEIGHTS_FILE)
# What the Hub's HTTP library (httpx or httpx2) raises when a host cannot be reached: the base of the Hub's own error.
_TRANSPORT_ERROR: type[Exception] = next(base for base in hf.HfHubHTTPError.__bases__ if base is not OSError)

logger = logging.getLogger("hrnet_zoo")


@dataclass(frozen=True)
class Repository:
    """A model on the Hub at one commit, its configuration fetched."""

    repo: str  # "org/name"
    commit: str  # 40 hex digits
    folder: Path  # in the Hub's cache
    config: ModelConfig
    progress: bool  # show a bar for the download of the weights

    @property
    def name(self) -> str:
        """The name of exactly these weights for `create_model`."""
        return f"hf-hub:{self.repo}@{self.commit}"

    def verify(self) -> ModelConfig:
        """Return the configuration of the cached files, or raise CheckpointError if they are damaged."""
        config = verify_folder(self.folder)
        _compare_with_hub_digest(self.folder / WEIGHTS_FILE)
        return config

    def load(self, expected: Shapes) -> Weights:
        """Fetch the weights if they are not cached, verify them, and load them as `load_folder` does."""
        self._fetch_files()
        try:
            config = self.verify()
        except CheckpointError as error:
            if is_offline():
                raise
            logger.warning("%s: %s; fetching it once more", self.name, error.found)
            self._fetch_files(anew=True)
            config = self.verify()
        state, provenance = load_folder(self.folder, config, expected, rewritable=False)
        address = redact(f"{endpoint()}/{self.repo}/{WEIGHTS_FILE}")
        return state, {**provenance, "model": self.name, "source_url": address}

    def _fetch_files(self, *, anew: bool = False) -> None:
        for file in _FILES:
            _fetch(self.repo, file, self.commit, progress=self.progress, anew=anew)


def find_repository(name: str, *, progress: bool) -> Repository:
    """Return the model "org/name" or "org/name@revision" on the Hub, with its configuration fetched unless cached.

    A full commit hash whose files are cached needs no connection. Otherwise the Hub is asked; if it cannot be reached,
    the cached copy is used, with a warning.

    Raises:
        ConfigError: the name is impossible.
        HubError, OfflineError: the repository cannot be reached.
        CheckpointError: it holds no model of this library.

    """
    if "://" in name:  # before it is split where a password may begin
        raise _impossible_name(f"the repository {redact(name)[:100]!r}", "an address")
    repo, at, revision = name.partition("@")
    require_repo(repo)
    if at and not re.fullmatch(r"(?!.*\.\.)\w[\w./-]{0,199}", revision):
        raise _impossible_name(f"the revision {revision!r}", "not a commit, branch or tag")
    revision = revision or "main"
    is_pinned = re.fullmatch("[0-9a-f]{40}", revision) is not None
    is_cached = all(isinstance(try_to_load_from_cache(repo, file, revision=revision), str) for file in _FILES)
    ask = not (is_offline() or (is_pinned and is_cached))
    if ask:
        try:
            _require_our_files(repo, revision)
        except HubError as error:
            if isinstance(error, HubRefusedError) or not is_cached:
                raise
            logger.warning("hf-hub:%s: %s; the cached copy is used", name, error.found)
            ask = False
    path = _fetch(repo, CONFIG_FILE, revision, progress=progress, cached=not ask)
    commit = path.parent.name
    if not is_pinned:
        logger.warning(
            "hf-hub:%s is not pinned: %s is commit %s today; hf-hub:%s@%s stays the same",
            *(name, revision, commit[:8], repo, commit),
        )
    return Repository(repo, commit, path.parent, read_config(path), progress)


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


@contextmanager
def bars(shown: bool) -> Iterator[None]:
    """Hide huggingface_hub's progress bars, which appear on terminals alone, unless they are to be shown."""
    hide = not shown and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


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
    where = f"{repo} at {redact(endpoint())}"
    words = f"{type(cause).__name__}: {redact(' '.join(str(cause).split()))[:200]}"
    kind, advice = HubError, "try again later; if HF_ENDPOINT is set, check it"
    if isinstance(cause, hf.RepositoryNotFoundError) and not isinstance(cause, hf.GatedRepoError):
        kind, found = HubRefusedError, f"no repository {where}, or one that needs a token"
        advice = "check the name; for a private one log in with `hf auth login`, or set HF_TOKEN"
    elif isinstance(cause, hf.RevisionNotFoundError | hf.RemoteEntryNotFoundError):
        kind, found = HubRefusedError, f"no such revision or file in {where}"
        advice = "name a commit, branch or tag of a repository that hrnet-zoo filled"
    elif isinstance(cause, hf.LocalTokenNotFoundError) or status in (401, 403):
        why = f"HTTP status {status}" if status else "no token"
        kind, found = HubRefusedError, f"the Hub refuses access to {where} ({why})"
        advice = "log in with `hf auth login` or set HF_TOKEN, with a token that has the right; accept its terms if any"
    elif status is not None:
        found = f"HTTP status {status} for {where}"
    elif isinstance(cause, (_TRANSPORT_ERROR, ConnectionError, TimeoutError, hf.LocalEntryNotFoundError)):
        found, advice = f"no answer for {where} ({words})", "check the network, and HF_ENDPOINT if it is set"
    elif isinstance(cause, OSError) and cause.errno is not None:
        return CacheError(
            asked=asked,
            found=f"a file on this machine that cannot be used ({words})",
            done=done,
            advice="check the free space, and that you may write to the Hub's cache (HF_HUB_CACHE)",
            path=Path(constants.HF_HUB_CACHE),
        )
    else:
        found = f"huggingface_hub refused {where} ({words})"
    return kind(asked=asked, found=found, done=done, advice=advice, repo=repo)


def _fetch(repo: str, file: str, revision: str, *, progress: bool, cached: bool = False, anew: bool = False) -> Path:
    """Return the path of a repository's file in the Hub's cache; `anew` fetches it again, `cached` never does."""
    asked = f"{file} of {repo} at {revision}"
    offline = is_offline()
    if offline and not isinstance(try_to_load_from_cache(repo, file, revision=revision), str):
        raise OfflineError(
            asked=asked,
            found="HRNET_ZOO_OFFLINE or HF_HUB_OFFLINE switches the network off, and it is not in the Hub's cache",
            done="nothing was fetched",
            advice="unset it; or fetch it on another machine, and name the folder: local-dir:PATH",
            url=f"{endpoint()}/{repo}",
        )
    with hub_errors(repo, asked), bars(progress):
        path = hf_hub_download(
            repo,
            file,
            revision=revision,
            endpoint=endpoint(),
            local_files_only=cached or offline,
            force_download=anew,
        )
    return Path(path)


def _compare_with_hub_digest(path: Path) -> None:
    """Compare weights in the Hub's cache with the SHA-256 that the Hub stated: the name of the file behind the link.

    It covers the header too. Where the file system has no links, the cache keeps no such name.
    """
    stated = Path(os.path.realpath(path)).name
    if not re.fullmatch("[0-9a-f]{64}", stated):
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as body:
        digest, size = hashlib.sha256(body).hexdigest(), len(body)
    if digest != stated:
        raise HashMismatchError(
            asked=f"the weights {path}",
            found=f"SHA-256 {digest} of {size:,} bytes; the Hub states {stated}",
            done="nothing was loaded",
            advice="if it happens again, check the disk and the network between here and the Hub",
            source=str(path),
            expected=stated,
            actual=digest,
            size=size,
        )


def _require_our_files(repo: str, revision: str) -> None:
    with hub_errors(repo, f"the model hf-hub:{repo}"):
        found = hub_api().model_info(repo, revision=revision, timeout=TIMEOUT_S)
    files = [file.rfilename for file in found.siblings or ()]
    if missing := [file for file in _FILES if file not in files]:
        pickles = [file for file in files if file.endswith((".bin", ".pth", ".pt", ".ckpt", ".pkl"))]
        held = f"; {', '.join(pickles[:3])} can hold code and is never loaded from the Hub" if pickles else ""
        raise CheckpointFormatError(
            asked=f"the model hf-hub:{repo}",
            found=f"no {', '.join(missing)} there{held}",
            done="nothing was fetched",
            advice="name a repository that `hrnet-zoo push` filled; or fetch a .pth yourself, if you trust its author, "
            "and load it: create_model(NAME, checkpoint=PATH)",
            source=f"hf-hub:{repo}",
        )


def _impossible_name(what: str, found: str) -> ConfigError:
    return ConfigError(
        asked=f"{what} on the Hub",
        found=found,
        done="no connection was opened",
        advice="write hf-hub:ORG/NAME or hf-hub:ORG/NAME@REVISION",
    )
