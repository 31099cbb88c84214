"""What huggingface_hub raises -> our errors; and the names and the address that a question to the Hub begins with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from hrnet_zoo.errors import CacheError, ConfigError, HubAuthError, HubError, HubNotFoundError, redact
from hrnet_zoo.weights.addresses import is_base, without_passwords

# What the Hub's HTTP library raises for a host out of reach: httpx of huggingface_hub 1, httpx2 of 2. The class of the
# Hub's own answers derives from it in both, in whatever order.
TRANSPORT_ERRORS: tuple[type[Exception], ...] = tuple(
    base for base in HfHubHTTPError.__mro__ if issubclass(base, Exception) and base not in (OSError, Exception)
)
_RAISED: tuple[type[Exception], ...] = (*TRANSPORT_ERRORS, OSError, ValueError, RuntimeError, EntryNotFoundError)


@contextmanager
def hub_errors(repo: str, asked: str, done: str = "nothing was loaded") -> Iterator[None]:
    """Make our errors of what huggingface_hub raises; no token and no signed address gets into them."""
    try:
        yield
    except _RAISED as error:
        raise _translated(error, repo, asked, done) from None  # a chain would show addresses and tokens in tracebacks


def _translated(error: BaseException, repo: str, asked: str, done: str) -> HubError | ConfigError | CacheError:
    cause: BaseException = error
    # An upload that fails is wrapped in a RuntimeError; a file that is neither cached nor to be had, likewise.
    while type(cause) in (RuntimeError, LocalEntryNotFoundError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, HFValidationError):
        return no_name(f"the repository {repo!r}", redact(str(cause))[:200])
    status = getattr(getattr(cause, "response", None), "status_code", None)
    where = f"{repo} at {redact(endpoint())}"
    kind, advice = HubError, "run the same again later; if HF_ENDPOINT is set, check it"
    if isinstance(cause, RepositoryNotFoundError) and not isinstance(cause, GatedRepoError):
        kind, found = HubNotFoundError, f"no repository {where}, or one that needs a token"
        advice = "check the name; for a private one log in with `hf auth login`, or set HF_TOKEN"
    elif isinstance(cause, RevisionNotFoundError):
        kind, found, advice = HubNotFoundError, f"no such revision of {where}", "name a commit, branch or tag of it"
    elif isinstance(cause, EntryNotFoundError) and not isinstance(cause, LocalEntryNotFoundError):
        kind, found, advice = HubNotFoundError, f"no such file in {where}", "name a repository that hrnet-zoo filled"
    elif isinstance(cause, LocalTokenNotFoundError) or status in (401, 403):
        why = f"HTTP status {status}" if status else "no token"
        kind, found = HubAuthError, f"the Hub refuses access to {where} ({why})"
        advice = "log in with `hf auth login`, or set HF_TOKEN, to a token that has the right; accept its terms if any"
    elif status is not None:
        found = f"HTTP status {status} for {where}"
    elif isinstance(cause, (*TRANSPORT_ERRORS, ConnectionError, TimeoutError, LocalEntryNotFoundError)):
        found, advice = f"no answer for {where} ({_words(cause)})", "check the network, and HF_ENDPOINT if it is set"
    elif isinstance(cause, OSError) and cause.errno is not None:
        return CacheError(
            asked=asked,
            found=f"a file on this machine that cannot be used ({_words(cause)})",
            done=done,
            advice="check the free space, and that you may write to the Hub's cache (HF_HUB_CACHE)",
            path=Path(constants.HF_HUB_CACHE),
        )
    else:
        found = f"something that huggingface_hub refuses, for {where} ({_words(cause)})"
    return kind(asked=asked, found=found, done=done, advice=advice, repo=repo)


def _words(cause: BaseException) -> str:
    return f"{type(cause).__name__}: {redact(' '.join(str(cause).split()))[:200]}"


def require_repo(repo: str) -> None:
    """Raise ConfigError unless this can be the name of a repository: "org/name"."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise no_name(f"the repository {redact(repo)[:100]!r}", redact(str(error))[:200]) from None
    if repo.count("/") != 1:
        raise no_name(f"the repository {repo[:100]!r}", "a name has two parts")


def endpoint() -> str:
    """Return the address of the Hub: `HF_ENDPOINT`, or the public one.

    Raises:
        ConfigError: the variable holds no address.

    """
    named = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    if not is_base(named):
        raise ConfigError(
            asked="read the address of the Hub in HF_ENDPOINT",
            found=f"{without_passwords(named)!r}, which is no https://HOST[/PATH] or http://HOST[/PATH]",
            done="no connection was opened",
            advice="correct HF_ENDPOINT, or unset it",
        )
    return named


def no_name(what: str, found: str) -> ConfigError:
    """Make the error for something that can be no name on the Hub."""
    return ConfigError(
        asked=f"{what} on the Hub",
        found=found,
        done="no connection was opened",
        advice="write hf-hub:ORG/NAME or hf-hub:ORG/NAME@REVISION",
    )
