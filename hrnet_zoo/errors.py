"""Every error that hrnet-zoo raises on purpose.

The message has four parts (what was asked, found and done, and what to do next); the attributes hold the facts.
Exit codes of the command line: 1 other, 2 usage, 3 network, 4 integrity or unsafe file, 5 bad input, 6 cache or disk.

Messages, log lines and output quote control characters, which terminals obey (`printable`). Secrets in addresses are
blanked everywhere, also in attributes (`redact`).
"""

import functools
import logging
import os
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

_CONTROLS = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (bidi, zero width), lone surrogate, line separators

# An address, up to a blank or the next of a list; pathlib turns "//" into "/".
_ADDRESS = re.compile(
    r"""(?:\b[a-z][a-z0-9+.-]*://|\b(?:https?|ftp|s3|gs|hf):/|(?<![^\s'"(=,])//)(?=[^\s/])(?:(?![,;|][a-z+]+://)\S)+""",
    re.IGNORECASE,
)
_HOST_PORT = re.compile(r"(?:\[[0-9a-f:.%]*\]|[^:@]*)(?::\d*)?", re.IGNORECASE)
_TOKEN = re.compile(r"\b(hf_|Bearer )[\w.~+/-]{16,}")


def redact(text: str) -> str:
    """Blank user, password, parameters, query and fragment of addresses, and tokens."""
    return _TOKEN.sub(r"\1***", _ADDRESS.sub(_blanked, text))


def _blanked(address: re.Match[str]) -> str:
    text = address[0].rstrip("\"'.,;:!?)]}>")  # which belong to the sentence around it
    start, body = re.split(r"(?<=/)(?!/)", text, maxsplit=1)
    authority = body.partition("/")[0]
    if "@" in authority:
        body = "***@" + authority.rpartition("@")[2] + body[len(authority) :]
    elif not _HOST_PORT.fullmatch(re.split("[?#;]", authority)[0]):  # a password with a slash in it, or half of one
        body = "***@" + body.rpartition("@")[2] if "@" in body else "***"
    body = re.sub("//[^/]*@", "//***@", body)
    body = re.sub(";[^/?#]*", ";***", body)
    return start + re.sub("([?#]).*", r"\1***", body) + address[0][len(text) :]


def printable(text: object) -> str:
    r"""Return a text on one line, redacted, with escapes (\x1b, \u202e) for characters that control a terminal."""
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in _CONTROLS else char
        for char in redact(str(text))
    )


def _quote_arguments(record: logging.LogRecord) -> bool:
    """Make the texts in our log lines printable; our own errors are already."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            printable(value)
            if isinstance(value, str | os.PathLike | BaseException) and not isinstance(value, HRNetZooError)
            else value
            for value in record.args
        )
    return True


logging.getLogger("hrnet_zoo").addFilter(_quote_arguments)


@dataclass(kw_only=True, eq=False, repr=False)
class HRNetZooError(Exception):
    """Base of all errors raised on purpose.

    Attributes:
        asked: what the caller wanted.
        found: what was there instead.
        done: what was kept, removed or left alone.
        advice: what to do next.

    """

    exit_code: ClassVar[int] = 1
    asked: str
    found: str
    done: str
    advice: str

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, str | Path):
            value = type(value)(redact(str(value)))
        elif isinstance(value, tuple):
            value = tuple(redact(each) if isinstance(each, str) else each for each in value)
        super().__setattr__(name, value)

    def __str__(self) -> str:
        asked, found, done, advice = map(printable, (self.asked, self.found, self.done, self.advice))
        return f"{asked}\n  found: {found}\n  done:  {done}\n  next:  {advice}"

    def __reduce__(self) -> tuple[Callable[[], "HRNetZooError"], tuple[()]]:
        """Allow pickling: errors travel from worker processes."""
        return functools.partial(type(self), **{field.name: getattr(self, field.name) for field in fields(self)}), ()


class ProcessError(HRNetZooError):
    """A worker process died, or another process of the group cannot be reached."""


class LogitsError(HRNetZooError):
    """A network's logits are infinite or not a number, so no class is the best."""


class TrainingError(HRNetZooError):
    """The loss is not finite."""


class ConfigError(HRNetZooError):
    """An argument or environment variable has an invalid value."""

    exit_code: ClassVar[int] = 2


@dataclass(kw_only=True, eq=False, repr=False)
class UnknownModelError(ConfigError):
    """The catalog has no model `name`; `nearest` holds the most similar names."""

    name: str
    nearest: tuple[str, ...]


def no_such_argument(call: str, given: Iterable[str], instead: Mapping[str, str]) -> ConfigError:
    """Return the error for arguments of other libraries that `call` lacks; `instead` maps them to what to type."""
    name = next(iter(given))
    return ConfigError(
        asked=f"{call}(..., {name}=)",
        found=f"{call} has no argument {name}",
        done="nothing was computed",
        advice=f"use {instead[name]}" if name in instead else f"help({call}) lists its arguments",
    )


@dataclass(kw_only=True, eq=False, repr=False)
class DownloadError(HRNetZooError):
    """A file could not be fetched from `url`."""

    exit_code: ClassVar[int] = 3
    url: str


class OfflineError(DownloadError):
    """A file is not cached, and an offline switch forbids fetching it."""


@dataclass(kw_only=True, eq=False, repr=False)
class HTTPStatusError(DownloadError):
    """The host answered with a final HTTP status."""

    status: int


@dataclass(kw_only=True, eq=False, repr=False)
class TransferError(DownloadError):
    """The connection failed; `kept` bytes are on disk, and the next call resumes there."""

    kept: int


class UnexpectedContentError(DownloadError):
    """The body is not a checkpoint but a login or error page, or it is encoded or too large."""


@dataclass(kw_only=True, eq=False, repr=False)
class HubError(HRNetZooError):
    """The Hub could not be reached, or failed; `repo` is "org/name"."""

    exit_code: ClassVar[int] = 3
    repo: str


class HubRefusedError(HubError):
    """The Hub has no such repository, revision or file, or refuses it to this user."""


@dataclass(kw_only=True, eq=False, repr=False)
class CheckpointError(HRNetZooError):
    """A checkpoint from `source` (path or URL) cannot be used."""

    exit_code: ClassVar[int] = 4
    source: str


@dataclass(kw_only=True, eq=False, repr=False)
class HashMismatchError(CheckpointError):
    """A file's SHA-256 is not the stated one (`expected` may be a prefix)."""

    expected: str
    actual: str
    size: int


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint holds more than weights need, possibly code; it was not loaded."""


class CheckpointFormatError(CheckpointError):
    """A checkpoint has an unknown format, or is damaged."""


@dataclass(kw_only=True, eq=False, repr=False)
class StateDictMismatchError(CheckpointError):
    """A checkpoint's names, shapes, dtypes or values do not fit the network.

    Attributes:
        missing: names that the network has and the checkpoint lacks.
        unexpected: names that the checkpoint has and the network lacks.
        different: "name: found, expected" for every shape, dtype or value that cannot be used.

    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    different: tuple[str, ...] = ()


@dataclass(kw_only=True, eq=False, repr=False)
class ResumeError(CheckpointError):
    """The training state in `source` cannot be resumed; `field` is what differs or is wrong."""

    field: str


@dataclass(kw_only=True, eq=False, repr=False)
class ModelConfigError(CheckpointError):
    """The configuration of a saved model is invalid; `json_path` names the place ("$.classes[3]")."""

    json_path: str


class CheckpointNotFoundError(CheckpointError):
    """The path of a checkpoint leads to no regular, readable file."""

    exit_code: ClassVar[int] = 5


@dataclass(kw_only=True, eq=False, repr=False)
class ImageError(HRNetZooError):
    """An image cannot be used; `source` is its path, or describes what was given."""

    exit_code: ClassVar[int] = 5
    source: str


class ImageTooLargeError(ImageError):
    """An image has more pixels than the limit; nothing was decoded."""


@dataclass(kw_only=True, eq=False, repr=False)
class DatasetError(HRNetZooError):
    """The folder of labeled images, or a file in it, at `path` cannot be used."""

    exit_code: ClassVar[int] = 5
    done: str = "no image was opened"
    path: Path


@dataclass(kw_only=True, eq=False, repr=False)
class OutputError(HRNetZooError):
    """A result cannot be written to `path`."""

    exit_code: ClassVar[int] = 5
    path: Path


class OutputSpaceError(OutputError):
    """A result cannot be written: disk, quota or file-size limit is exhausted."""

    exit_code: ClassVar[int] = 6


@dataclass(kw_only=True, eq=False, repr=False)
class CacheError(HRNetZooError):
    """The cache at `path` cannot be used."""

    exit_code: ClassVar[int] = 6
    path: Path


class CacheSpaceError(CacheError):
    """Disk, quota or file-size limit is exhausted."""


# "could not create a primitive" is oneDNN's word for it; without memory for the primitive's code.
_OOM = "out of memory|DefaultCPUAllocator|could not create a (primitive|memory object)$"


@contextmanager
def raise_on_oom(
    asked: str,
    *,
    done: str = "nothing was measured",
    advice: str = "a smaller size or batch, float16, a smaller network, or a device that nothing else uses",
) -> Iterator[None]:
    """Turn out-of-memory errors, of which torch has several, into a ConfigError with advice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not re.search(_OOM, text):
            raise
        raise ConfigError(
            asked=asked,
            found=f"the device has too little memory: {text.splitlines()[0][:200] if text else 'none is left'}",
            done=done,
            advice=advice,
        ) from error


_FORMER: dict[str, type[HRNetZooError]] = {
    **dict.fromkeys(("UnreadableImageError", "UnsupportedImageError"), ImageError),
    **dict.fromkeys(("HubNotFoundError", "HubAuthError"), HubRefusedError),
    **dict.fromkeys(("RankError", "WorkerError"), ProcessError),
    "DeviceError": ConfigError,
    "CachePermissionError": CacheError,
    "FidelityError": HRNetZooError,
}


def __getattr__(name: str) -> type[HRNetZooError]:
    """Return the class that took the place of a former one; for one more version."""
    if name not in _FORMER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    message = f"hrnet_zoo.errors.{name} is {_FORMER[name].__name__} now; the old name works for one more version"
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return _FORMER[name]
