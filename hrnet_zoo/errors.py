"""Every error that hrnet-zoo raises on purpose.

Each carries a message in four parts (what was asked, what was found, what was done, what to do next), its facts as
attributes, and the exit code with which the command line answers it:
1 other, 2 usage, 3 network, 4 integrity or unsafe file, 5 bad input, 6 cache or disk.

Names of files and classes come from anywhere, and terminals obey control characters: `printable` quotes what stands in
messages, log lines and the commands' output. Attributes keep the exact text, but for what is secret in an address:
`redact` blanks that everywhere.
"""

import functools
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

_CONTROLS = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (bidi, zero width), lone surrogate, line separators

# An address, up to a blank or the next of a list; pathlib makes one slash of two.
_ADDRESS = re.compile(
    r"""(?:\b[a-z][a-z0-9+.-]*://|\b(?:https?|ftp|s3|gs|hf):/|(?<![^\s'"(=,])//)(?=[^\s/])(?:(?![,;|][a-z+]+://)\S)+""",
    re.IGNORECASE,
)
_PLACE = re.compile(r"(?:\[[0-9a-f:.%]*\]|[^:@]*)(?::\d*)?", re.IGNORECASE)  # host and port, as they should be
_TOKEN = re.compile(r"\b(hf_|Bearer )[\w.~+/-]{16,}")


def redact(text: str) -> str:
    """Blank what may be secret in a text: of addresses user, password, parameters, query and fragment; and tokens."""
    return _TOKEN.sub(r"\1***", _ADDRESS.sub(_blanked, text))


def _blanked(address: re.Match[str]) -> str:
    text = address[0].rstrip("\"'.,;:!?)]}>")  # of the sentence around it
    start, body = re.split(r"(?<=/)(?!/)", text, maxsplit=1)
    place = body.partition("/")[0]
    if "@" in place:
        body = "***@" + place.rpartition("@")[2] + body[len(place) :]
    elif not _PLACE.fullmatch(re.split("[?#;]", place)[0]):  # a password with a slash in it, or the half of one
        body = "***@" + body.rpartition("@")[2] if "@" in body else "***"
    body = re.sub("//[^/]*@", "//***@", body)
    body = re.sub(";[^/?#]*", ";***", body)
    return start + re.sub("([?#]).*", r"\1***", body) + address[0][len(text) :]


def printable(text: object) -> str:
    r"""Return a text on one line, redacted, with escapes (\x1b, \u202e) for all characters that control a terminal."""
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in _CONTROLS else letter
        for letter in redact(str(text))
    )


class _Quoting(logging.Filter):
    """Quote the texts that our log lines are filled in with."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(map(_quoted, record.args))
        return True


def _quoted(value: object) -> object:
    """Quote a text; our own errors quote themselves, and numbers are numbers."""
    foreign = isinstance(value, str | os.PathLike | BaseException) and not isinstance(value, HRNetZooError)
    return printable(value) if foreign else value


logging.getLogger("hrnet_zoo").addFilter(_Quoting())


@dataclass(kw_only=True, eq=False, repr=False)
class HRNetZooError(Exception):
    """Base of all errors raised on purpose.

    Attributes:
        asked: what the caller wanted.
        found: what was met instead.
        done: what was kept, removed or left alone.
        advice: the next step.

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
        """Survive pickling, so that an error raised in a worker process arrives whole."""
        facts: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return functools.partial(type(self), **facts), ()


@dataclass(kw_only=True, eq=False, repr=False)
class RankError(HRNetZooError):
    """Of `size` processes that share a job, one is gone or cannot be reached; said by the one numbered `rank`."""

    rank: int
    size: int


@dataclass(kw_only=True, eq=False, repr=False)
class WorkerError(HRNetZooError):
    """A worker process died; `source` is the file that was waited for."""

    source: str


@dataclass(kw_only=True, eq=False, repr=False)
class FidelityError(HRNetZooError):
    """A device and dtype do not compute what float32 on the CPU does.

    Attributes:
        pixels: share of a street scene's pixels that have the same class, 0 to 1.
        worst_logit: largest difference of a logit, relative to the largest logit; None: a logit is not finite.

    """

    pixels: float
    worst_logit: float | None


@dataclass(kw_only=True, eq=False, repr=False)
class LogitsError(HRNetZooError):
    """A network's logits are infinite or not a number: no class is the best."""


@dataclass(kw_only=True, eq=False, repr=False)
class TrainingError(HRNetZooError):
    """A training cannot go on after `step` updates: its loss, at the learning rate `lr`, is not finite."""

    step: int
    lr: float


# --- usage (exit code 2) -------------------------------------------------------------------------------------------


@dataclass(kw_only=True, eq=False, repr=False)
class ConfigError(HRNetZooError):
    """An argument or an environment variable has a value that cannot be used."""

    exit_code: ClassVar[int] = 2


@dataclass(kw_only=True, eq=False, repr=False)
class DeviceError(ConfigError):
    """The device asked for is unknown or absent."""


@dataclass(kw_only=True, eq=False, repr=False)
class UnknownModelError(ConfigError):
    """No row of the catalog has this name; `nearest` holds the most similar names."""

    name: str
    nearest: tuple[str, ...]


def install(extra: str) -> str:
    """Say how an extra is installed: from a checkout, as long as there is no release."""
    return f"pip install '.[{extra}]' in the checkout of hrnet-zoo"


def no_such_argument(call: str, given: Iterable[str], instead: Mapping[str, str]) -> ConfigError:
    """Return the error for arguments that other libraries have and `call` has not; `instead` says what to type."""
    name = next(iter(given))
    return ConfigError(
        asked=f"{call}(..., {name}=)",
        found=f"{call} has no argument {name}",
        done="nothing was computed",
        advice=f"use {instead[name]}" if name in instead else f"help({call}) lists its arguments",
    )


# --- network (exit code 3) -----------------------------------------------------------------------------------------


@dataclass(kw_only=True, eq=False, repr=False)
class DownloadError(HRNetZooError):
    """A file could not be fetched from `url` (credentials in it are redacted)."""

    exit_code: ClassVar[int] = 3
    url: str


@dataclass(kw_only=True, eq=False, repr=False)
class OfflineError(DownloadError):
    """A file is not in the cache and an offline switch forbids fetching it."""


@dataclass(kw_only=True, eq=False, repr=False)
class HTTPStatusError(DownloadError):
    """The host answered with an HTTP status that is final."""

    status: int


@dataclass(kw_only=True, eq=False, repr=False)
class TransferError(DownloadError):
    """The connection failed or broke off; `kept` bytes are on disk and the next call resumes there."""

    kept: int


@dataclass(kw_only=True, eq=False, repr=False)
class UnexpectedContentError(DownloadError):
    """The body is not a checkpoint: a login or error page, an encoded or an oversize body."""


@dataclass(kw_only=True, eq=False, repr=False)
class HubError(HRNetZooError):
    """The Hub could not be reached, or failed; `repo` is the repository ("org/name")."""

    exit_code: ClassVar[int] = 3
    repo: str


@dataclass(kw_only=True, eq=False, repr=False)
class HubNotFoundError(HubError):
    """The Hub has no such repository, revision or file (or hides it from this user)."""


@dataclass(kw_only=True, eq=False, repr=False)
class HubAuthError(HubError):
    """The Hub refuses this user: no token, a token that it does not know, or one without the right."""


# --- integrity (exit code 4) ---------------------------------------------------------------------------------------


@dataclass(kw_only=True, eq=False, repr=False)
class CheckpointError(HRNetZooError):
    """A checkpoint from `source` (path or URL) cannot be used."""

    exit_code: ClassVar[int] = 4
    source: str


@dataclass(kw_only=True, eq=False, repr=False)
class HashMismatchError(CheckpointError):
    """A file's SHA-256 is not the one its row or its name states (`expected` may be a prefix)."""

    expected: str
    actual: str
    size: int


@dataclass(kw_only=True, eq=False, repr=False)
class UnsafeCheckpointError(CheckpointError):
    """A checkpoint holds something that weights do not need; it was not loaded."""


@dataclass(kw_only=True, eq=False, repr=False)
class CheckpointFormatError(CheckpointError):
    """A file is not a checkpoint in a known format, or is damaged."""


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
    """The state of a training in the file `source` cannot be gone on with; `field` is what differs or is wrong."""

    field: str


@dataclass(kw_only=True, eq=False, repr=False)
class ModelConfigError(CheckpointError):
    """The configuration of a saved model is not what its schema says; `json_path` names the place ("$.classes[3]")."""

    json_path: str


# --- bad input (exit code 5) ---------------------------------------------------------------------------------------


@dataclass(kw_only=True, eq=False, repr=False)
class CheckpointNotFoundError(CheckpointError):
    """There is no regular, readable file at the path given as a checkpoint."""

    exit_code: ClassVar[int] = 5


@dataclass(kw_only=True, eq=False, repr=False)
class ImageError(HRNetZooError):
    """An image cannot be used; `source` is its path, or says what was given instead of one."""

    exit_code: ClassVar[int] = 5
    source: str


@dataclass(kw_only=True, eq=False, repr=False)
class UnreadableImageError(ImageError):
    """An image is missing, damaged, empty or of a format that is not read."""


@dataclass(kw_only=True, eq=False, repr=False)
class ImageTooLargeError(ImageError):
    """An image claims more pixels than the limit; nothing was decoded."""

    width: int
    height: int
    limit: int


@dataclass(kw_only=True, eq=False, repr=False)
class UnsupportedImageError(ImageError):
    """An image or array has a mode, dtype or shape with no exact way to 8-bit RGB."""


@dataclass(kw_only=True, eq=False, repr=False)
class DatasetError(HRNetZooError):
    """A folder of labeled images, or a file of it, at `path` cannot be used; `problems` holds one text for each."""

    exit_code: ClassVar[int] = 5
    path: Path
    problems: tuple[str, ...]


@dataclass(kw_only=True, eq=False, repr=False)
class OutputError(HRNetZooError):
    """A result cannot be written to `path`."""

    exit_code: ClassVar[int] = 5
    path: Path


@dataclass(kw_only=True, eq=False, repr=False)
class OutputSpaceError(OutputError):
    """A result cannot be written: the disk, quota or file-size limit is exhausted."""

    exit_code: ClassVar[int] = 6


# --- cache and disk (exit code 6) ----------------------------------------------------------------------------------


@dataclass(kw_only=True, eq=False, repr=False)
class CacheError(HRNetZooError):
    """The cache at `path` cannot serve."""

    exit_code: ClassVar[int] = 6
    path: Path


@dataclass(kw_only=True, eq=False, repr=False)
class CachePermissionError(CacheError):
    """The cache cannot be written (or read) by this user."""


@dataclass(kw_only=True, eq=False, repr=False)
class CacheSpaceError(CacheError):
    """The disk, quota or file-size limit is exhausted."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is Python's or torch's way to say that memory ran out."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(re.search("out of memory|DefaultCPUAllocator", str(error)))
    )


@contextmanager
def raise_on_oom(
    asked: str,
    *,
    done: str = "nothing was measured",
    advice: str = "a smaller size or batch, float16, a smaller network, or a device that nothing else uses",
) -> Iterator[None]:
    """Turn running out of memory, which torch says in several ways, into an error with advice.

    Raises:
        ConfigError: the device has too little memory for what was asked.

    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        words = str(error)
        raise ConfigError(
            asked=asked,
            found=f"the device has too little memory: {words.splitlines()[0][:200] if words else 'none is left'}",
            done=done,
            advice=advice,
        ) from error
