"""Compiled plans in the cache, `v1/packages`: see `hrnet_zoo.engines.inductor`.

They are machine code: only what this user (or root) alone can write is taken, file and folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import zipfile
from pathlib import Path
from typing import BinaryIO

from hrnet_zoo.errors import CachePermissionError, CheckpointFormatError
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.part import disk_errors

MOST = 16  # in the cache; the oldest go


def find(stem: str) -> Path | None:
    """Return where a package lies, whole; None: it is not there, or was damaged and is no more.

    Raises:
        CacheError: the cache cannot be read, or others can write the package; or it is damaged and cannot be removed.

    """
    path = cache.package_path(stem)
    if not cache.is_cached(stem, "package"):
        return None
    with disk_errors(path, f"read {path}"):
        _require_private(path)
    try:
        check(path)
    except CheckpointFormatError:
        cache.remove_damaged(path, check)
        return None
    return path


def keep(stem: str, source: Path) -> Path:
    """Copy a package into the cache, where no others can write it, and remove the oldest beyond `MOST`.

    Raises:
        CacheError: the cache cannot be written.

    """

    def write(file: BinaryIO) -> None:
        if os.name == "posix":
            os.fchmod(file.fileno(), 0o600)
        with source.open("rb") as package:
            shutil.copyfileobj(package, file)

    path = cache.publish(stem, write, check, "package")
    kept = [entry.path for entry in cache.entries() if entry.kind == "package" and entry.path != path]
    with disk_errors(path.parent, "remove the oldest packages"):
        ages = {each: each.stat().st_mtime for each in kept if each.exists()}
        for each in sorted(ages, key=lambda each: -ages[each])[MOST - 1 :]:
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                each.unlink()
    return path


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
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise CheckpointFormatError(
            asked=f"the compiled plan {path.name}",
            found=f"it is damaged: {error}",
            done="it was not loaded",
            advice="nothing need be done: it is made again when it is next needed",
            source=str(path),
        ) from error


def _require_private(path: Path) -> None:
    if os.name != "posix":
        return
    for each in (path, path.parent):
        facts = each.stat()
        if facts.st_uid not in {os.geteuid(), 0} or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise CachePermissionError(
                asked=f"load the compiled plan {path}",
                found=f"{each} belongs to another user, or others may write it: it is code that would be run",
                done="it was not loaded",
                advice=f"chmod go-w {each}, or set HRNET_ZOO_CACHE to a folder of your own",
                path=each,
            )
