"""Whole SHA-256 digests of published files: recorded in the cache when a file was first accepted, and held to since.

Eight hex digits are published, and a forger finds another file with the same eight in minutes. So the digest of the
first file that is accepted (digits, gate, names and shapes) is written down; whoever is first wins, and a file that
differs later is refused. What the catalog states counts more than what was recorded. Records travel as text in the
format of `sha256sum`, so that anybody who has the files can make one.

    <cache>/v1/digests/<file name without .pth>.sha256   64 hex digits
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from hrnet_zoo.errors import CacheError, ConfigError, HashMismatchError, UnknownModelError
from hrnet_zoo.images.atomic import atomic_write
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.part import disk_errors
from hrnet_zoo.zoo.catalog import ModelInfo, list_models, model_info
from hrnet_zoo.zoo.strict_json import Fault, read

Authority = Literal["catalog", "recorded", "prefix"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\\0]+)")  # of sha256sum, in text or binary mode
_MAX_BYTES = 1 << 16  # 23 lines of 150 bytes take a twentieth


@dataclass(frozen=True)
class Digest:
    """What is known of a published file's SHA-256.

    Attributes:
        info: the row.
        sha256: 64 hex digits, or the eight of the file's name where no more is known.
        authority: who says so: "catalog", "recorded" (this cache, when the file was first accepted) or "prefix".

    """

    info: ModelInfo
    sha256: str
    authority: Authority


def known(info: ModelInfo) -> Digest:
    """Look up what a row's file must hash to; opens nothing where the catalog states the whole digest.

    Raises:
        CacheError: the record cannot be read, or is none.

    """
    if info.sha256:
        return Digest(info, info.sha256, "catalog")
    path = cache.digest_path(_stem(info))
    with disk_errors(path, f"read the digest recorded for {info.name}"):
        try:
            text = path.read_text(encoding="ascii", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return Digest(info, info.sha256_prefix, "prefix")
    if not _DIGEST.fullmatch(text.strip()):
        raise CacheError(
            asked=f"read the digest recorded for {info.name}",
            found=f"something else than 64 hex digits: {path}",
            done="nothing was loaded",
            advice="remove that file if you trust the next download, or put the digest that you know into it",
            path=path,
        )
    return Digest(info, text.strip(), "recorded")


def record(info: ModelInfo, sha256: str, source: str) -> Digest:
    """Write down the digest of an accepted file; the first to come counts, for all processes.

    Args:
        info: the row.
        sha256: 64 hex digits.
        source: path or address that the file came from, for the message.

    Raises:
        HashMismatchError: the catalog or an earlier record says otherwise.
        CacheError: the record cannot be read or written.

    """
    found = known(info)
    if found.authority == "prefix":
        write: Callable[[BinaryIO], object] = lambda file: file.write(f"{sha256}\n".encode())  # noqa: E731
        cache.publish(_stem(info), write, lambda _: None, "digest", first=True)
        found = known(info)
    require(found, sha256, source)
    return found


def require(known: Digest, sha256: str, source: str) -> None:
    """Raise HashMismatchError unless a file with this SHA-256 is the one that is known; `source` is for the message."""
    if sha256.startswith(known.sha256):
        return
    raise HashMismatchError(
        asked=f"the checkpoint {source}",
        found=f"it comes from a file with SHA-256 {sha256 or 'unknown'}; expected {known.sha256}, {_why(known)}",
        done="it was not loaded",
        advice=advice_for(known),
        source=source,
        expected=known.sha256,
        actual=sha256,
        size=0,
    )


def advice_for(known: Digest) -> str:
    """Say what to do about a file that is not the one that is known."""
    if known.authority == "recorded":
        return (
            "somebody serves another file than before: fetch it from the publisher and report it; if you know that the "
            f"record is wrong, remove {cache.digest_path(_stem(known.info))} and run: "
            f"hrnet-zoo cache clear {known.info.name}"
        )
    return f"hrnet-zoo cache clear {known.info.name}, then fetch it from the publisher"


def every() -> list[Digest]:
    """Tell what is known of all published files, in the table's order.

    Raises:
        CacheError: a record cannot be read, or is none.

    """
    return [known(model_info(name)) for name in list_models()]


def export(path: Path) -> list[Digest]:
    """Write the whole digests that are known into a file in the format of `sha256sum`; return them.

    Such a file under the name `hrnet_zoo/digests.sha256` is what the catalog states.

    Raises:
        OutputError: it cannot be written.
        CacheError: a record cannot be read, or is none.

    """
    whole = [each for each in every() if each.authority != "prefix"]
    atomic_write(path, "".join(f"{each.sha256}  {each.info.file_name}\n" for each in whole).encode())
    return whole


def take(path: Path) -> list[Digest]:
    """Record the digests that a file in the format of `sha256sum` states; return what is known of its files then.

    All lines are looked at before the first is recorded. A digest that is known already must be the same.

    Raises:
        ConfigError: the file cannot be read, or a line of it is not a digest of a published file.
        HashMismatchError: it contradicts the catalog, an earlier record, or the digits in a file's name.
        CacheError: a record cannot be read or written.

    """
    rows = _parsed(path)
    for info, sha256 in rows:
        require(known(info), sha256, f"{info.file_name} as {path} states it")
    return [record(info, sha256, str(path)) for info, sha256 in rows]


def _parsed(path: Path) -> list[tuple[ModelInfo, str]]:
    try:
        text = read(path, _MAX_BYTES).decode("utf-8", errors="replace")
    except Fault as fault:
        raise _no_list(path, fault.found) from None
    if len(text) > _MAX_BYTES:
        raise _no_list(path, f"more than {_MAX_BYTES:,} bytes")
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line)
        try:
            info = model_info(match[2]) if match else None
        except UnknownModelError:
            info = None
        if match is None or info is None or info.file_name != match[2]:
            raise _no_list(path, f"line {number} is not the digest of a published file: {ascii(line)[:120]}")
        rows.append((info, match[1]))
    return rows


def _no_list(path: Path, found: str) -> ConfigError:
    return ConfigError(
        asked=f"read the digests in {path}",
        found=found,
        done="nothing was recorded",
        advice="give a file that `hrnet-zoo lock --export` or, in a folder of published files, `sha256sum *.pth` made",
    )


def _why(known: Digest) -> str:
    if known.authority == "catalog":
        return "as the catalog states it"
    if known.authority == "recorded":
        return "as it was recorded when such a file was first accepted here"
    return "as the file's name states it"


def _stem(info: ModelInfo) -> str:
    return PurePosixPath(info.file_name).stem
