"""Compiled plans in the cache, `v1/packages`: see `hrnet_zoo.engines.inductor`.

They are machine code, and hold the weights. One is taken only if this user (or root) made it and nobody else may write
it, and what is looked at is what is run: a private copy. Where modes of files do not tell that (Windows) none is kept.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from hrnet_zoo.errors import CachePermissionError, CheckpointFormatError
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.part import disk_errors

MOST = 16  # in the cache; the oldest go
KEPT = os.name == "posix"


def stem_of(name: str) -> str:
    """Return what the stems of a network's packages begin with."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)[:60]


def forget(name: str) -> list[cache.CacheEntry]:
    """Remove the packages of a network; return what went.

    Raises:
        CacheError: the cache cannot be written.

    """
    ours = re.compile(rf"{stem_of(name)}-[0-9]+x[0-9]+-[0-9a-f]+")
    stems = [entry.stem for entry in cache.entries() if entry.kind == "package" and ours.fullmatch(entry.stem)]
    return [gone for stem in stems for gone in cache.clear(stem)]


def take(stem: str, copy: Path) -> bool:
    """Copy a package to a private place; False: there is none, and `copy` is not made.

    Raises:
        CacheError: the cache cannot be read, or others can write the package.
        CheckpointFormatError: it is damaged.

    """
    path = cache.package_path(stem)
    if not KEPT or not cache.is_cached(stem, "package"):
        return False
    with disk_errors(path, f"read {path}"):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as source, copy.open("xb") as target:
            _require_private(path, os.fstat(descriptor))
            shutil.copyfileobj(source, target)
    check(copy)
    return True


def keep(stem: str, source: Path) -> None:
    """Copy a package into the cache, for this user alone, and remove the oldest beyond `MOST`.

    Raises:
        CacheError: the cache cannot be written.
        CheckpointFormatError: it is damaged.

    """
    if not KEPT:
        return

    def write(file: BinaryIO) -> None:
        os.fchmod(file.fileno(), 0o600)
        with source.open("rb") as package:
            shutil.copyfileobj(package, file)

    path = cache.publish(stem, write, check, "package")
    with disk_errors(path.parent, "remove the oldest packages"):
        others = [entry.path for entry in cache.entries() if entry.kind == "package" and entry.path != path]
        ages = {each: each.stat().st_mtime for each in others if each.exists()}
        for each in sorted(ages, key=lambda each: -ages[each])[MOST - 1 :]:
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                each.unlink()


def check(path: Path) -> None:
    """Read a package to its end.

    Raises:
        CheckpointFormatError: it is damaged.
        CacheError: it cannot be read.

    """
    try:
        with disk_errors(path, f"read {path}"), zipfile.ZipFile(path) as package:
            if damaged := package.testzip():
                raise zipfile.BadZipFile(f"{damaged} is not what it was")
    # What zipfile raises depends on the bit that is wrong: a method or a flag that it does not know, a name, a length.
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, zlib.error) as error:
        raise CheckpointFormatError(
            asked=f"the compiled plan {path.name}",
            found=f"it is damaged: {error}",
            done="it was not loaded",
            advice="nothing need be done: it is made again when it is next needed",
            source=str(path),
        ) from error


def _require_private(path: Path, facts: os.stat_result) -> None:
    if facts.st_uid not in {os.geteuid(), 0} or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CachePermissionError(
            asked=f"load the compiled plan {path}",
            found="it belongs to another user, or others may write it: it is code that would be run",
            done="it was not loaded",
            advice=f"remove it, or set HRNET_ZOO_CACHE to a folder of your own: {path}",
            path=path,
        )
