"""The cache folder: its layout, locks, temporary files and atomic publishing.

    <root>/CACHEDIR.TAG
    <root>/v1/models/<key>.safetensors      finished weights, never opened for writing
    <root>/v1/logs/<key>.log.json           finished training logs
    <root>/v1/timings/<key>.json            how fast the engines ran a network here
    <root>/v1/ranges/<key>.json             what a network's maps range over, for 8 bits
    <root>/v1/models/.<key>.<random>.tmp    being written; likewise in the other folders
    <root>/v1/downloads/<key>.<random>.part a partial download
    <root>/v1/locks/<key>.lock

Nothing here depends on locks for correctness: some network file systems grant every lock to everybody, so a lock only
saves bandwidth. Each writer has a private file, under a name that is never used twice, and a finished file appears by
one rename. A partial download that has been silent for SILENT_S is taken over by renaming it; a writer that finds its
file gone starts again. A temporary file or partial download without a write for STALE_S is garbage.

Every function raises CacheError where the cache cannot be read or written.
"""

import contextlib
import errno
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import filelock

from hrnet_zoo.errors import CacheError, CacheSpaceError, HRNetZooError
from hrnet_zoo.images.atomic import NO_SPACE

LOCK_NOTICE_S = 10.0  # wait for a lock so long before telling the user
LOCK_WAIT_S = 600.0
SILENT_S = 10.0
STALE_S = 15 * 60.0  # a download writes far more often: at worst five tries of 30 s with waits of 60 s

Finished = Literal["model", "log", "timing", "range"]
Kind = Literal["model", "log", "timing", "range", "partial", "temp", "lock", "unknown"]
_SUFFIXES: dict[Finished, str] = {"model": ".safetensors", "log": ".log.json", "timing": ".json", "range": ".json"}

_KEY = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,119}"
_RANDOM = r"[A-Za-z0-9_-]+"  # version 0.1 identified the writer here, and kept a .json beside each .part
_PATTERNS: dict[Kind, str] = {
    **{kind: rf"{kind}s/({_KEY}){re.escape(suffix)}" for kind, suffix in _SUFFIXES.items()},
    "temp": rf"(?:models|logs|timings|ranges|downloads)/\.({_KEY})\.{_RANDOM}\.tmp",
    "partial": rf"downloads/({_KEY})\.{_RANDOM}\.(?:part|json)",
    "lock": rf"locks/({_KEY})\.lock",
}
_log = logging.getLogger("hrnet_zoo")


@dataclass(frozen=True)
class CacheEntry:
    """A file of the cache; `unknown` is not ours. `modified_s` is by the file system's clock."""

    kind: Kind
    key: str
    path: Path
    size: int
    modified_s: float


def root() -> Path:
    """Return the folder that `HRNET_ZOO_CACHE` names, or else one in huggingface_hub's assets cache."""
    asked, named = "find the cache folder", os.environ.get("HRNET_ZOO_CACHE", "")
    try:
        if named:
            return Path(named).expanduser().absolute()
        from huggingface_hub import cached_assets_path, constants  # slow to import

        if constants.HF_ASSETS_CACHE.startswith("~"):  # a folder of that very name in the working folder
            raise RuntimeError("no home folder: neither HOME nor the system tells of one")
        with disk_errors(Path(constants.HF_ASSETS_CACHE), asked):
            return cached_assets_path("hrnet-zoo", namespace="weights")
    except (RuntimeError, ValueError) as error:
        raise CacheError(
            asked=asked,
            found=str(error),
            done="nothing was written",
            advice="set HRNET_ZOO_CACHE to a folder that you may write",
            path=Path(named),
        ) from error


def path_of(key: str, kind: Finished = "model") -> Path:
    """Return the path of the finished file of a cache key, which may not exist."""
    return root() / "v1" / f"{kind}s" / f"{_checked(key)}{_SUFFIXES[kind]}"


def is_cached(key: str, kind: Finished = "model") -> bool:
    """Return whether the finished file of a cache key exists."""
    path = path_of(key, kind)
    with disk_errors(path, f"look for {key} in the cache"):
        try:
            return stat.S_ISREG(path.stat().st_mode)  # Path.is_file hides what else is wrong, from Python 3.14 on
        except (FileNotFoundError, NotADirectoryError):  # the latter is reported by the first write
            return False


@contextlib.contextmanager
def lock(key: str) -> Iterator[None]:
    """Lock one cache key for this thread, if the file system can lock; go on without after LOCK_WAIT_S."""
    path = _folder("locks") / f"{_checked(key)}.lock"
    # No lock file in place of a missing flock: a killed process would leave it behind, and the others would wait.
    held = filelock.FileLock(path, fallback_to_soft=False)
    try:
        try:
            held.acquire(timeout=LOCK_NOTICE_S)
        except filelock.Timeout:
            _log.warning("waiting for another process or thread that works on %s (lock %s)", key, path)
            held.acquire(timeout=LOCK_WAIT_S - LOCK_NOTICE_S)
    except filelock.Timeout:
        _log.warning("went on without the lock %s after %.0f s", path, LOCK_WAIT_S)
    except (OSError, NotImplementedError) as error:  # no locks on this file system
        _log.info("went on without the lock %s: %s", path, error)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a file system that cannot unlock; the lock ends with the process
            held.release()


def claim_partial(key: str) -> Path:
    """Take over the longest abandoned partial download of a cache key, or begin an empty one.

    Call it with the lock of `key` held. No other process writes the file that it returns.
    """
    folder = _folder("downloads")
    mine = folder / f"{_checked(key)}.{secrets.token_hex(8)}.part"
    with disk_errors(folder, f"begin a download of {key}"):
        facts = root().stat()
        if os.name == "posix" and facts.st_mode & 0o1002 == 0o0002 and facts.st_uid != os.geteuid():
            _log.warning("anybody may change the files of the cache %s; set HRNET_ZOO_CACHE to your own folder", root())
        now_s = _now_s(folder)
        left = [entry for entry in entries() if entry.key == key and entry.path.suffix == ".part"]
        for entry in sorted(left, key=lambda entry: -entry.size):
            if now_s - entry.modified_s > SILENT_S:
                # PermissionError: another user's. FileNotFoundError: another process was faster.
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    os.utime(entry.path)  # before the rename, so that no other process claims it
                    entry.path.rename(mine)
                    return mine
        mine.touch(exist_ok=False)
    return mine


def release_partial(path: Path) -> None:
    """Let the next call take over a partial download at once, without waiting for SILENT_S."""
    with contextlib.suppress(OSError):  # gone, or the disk fails: that only costs bandwidth
        os.utime(path, (0, 0))


def publish(key: str, data: bytes, check: Callable[[Path], object], kind: Finished = "model") -> Path:
    """Publish a file: write a temporary one, let `check` read it back, rename it; return its path.

    An error leaves nothing behind.
    """
    final, temp = path_of(key, kind), _temp(_folder(f"{kind}s"), key)
    try:
        with disk_errors(final, f"write the {kind} {key} into the cache"):
            with temp.open("xb") as file:  # never an existing file or link; the umask decides the mode
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            check(temp)
            try:
                temp.replace(final)
            except PermissionError as error:
                # Windows does not replace a file that is mapped. All files of a key are equal: the old one is kept.
                try:
                    check(final)
                except (HRNetZooError, FileNotFoundError):
                    raise error from None
                temp.unlink()
    except BaseException:
        with contextlib.suppress(OSError):  # the error under way says more; a sweep takes what stays
            temp.unlink(missing_ok=True)
        raise
    return final


def remove_damaged(path: Path, check: Callable[[Path], object]) -> None:
    """Remove a finished file if `check` still refuses it once its lock is held.

    A file that cannot be read is not damaged: it stays, and the error of `check` is raised.
    """
    _, key = _classify(path)
    with lock(key):
        if os.path.lexists(path):
            try:
                check(path)
            except HRNetZooError as error:
                if isinstance(error.__cause__, OSError):
                    raise
                discard(path)


def sweep(*, everything: bool = False) -> list[CacheEntry]:
    """Remove temporary files and partial downloads without a write for STALE_S; return their entries.

    A key without a finished file keeps its longest partial download for resuming, unless `everything` is to go.
    """
    kept, gone = set[str](), list[CacheEntry]()
    unfinished = [entry for entry in entries() if entry.kind in {"partial", "temp"}]
    now_s = _now_s(_folder("downloads")) if unfinished else 0.0
    for entry in sorted(unfinished, key=lambda entry: -entry.size):
        finished = any(path_of(entry.key, kind).exists() for kind in _SUFFIXES)
        if now_s - entry.modified_s <= STALE_S:
            continue
        if entry.path.suffix == ".part" and not everything and not finished and entry.key not in kept:
            kept.add(entry.key)
            continue
        try:
            discard(entry.path)
            gone.append(entry)
        except CacheError as error:  # another user's, say; whatever was just published is fine
            _log.info("%s", error)
    return gone


def entries() -> list[CacheEntry]:
    """List all files of the cache, in the order of their paths."""
    found: list[CacheEntry] = []
    top = root() / "v1"
    with disk_errors(top, "look through the cache"):
        for path in sorted(top.rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                facts = path.lstat()
                kind, key = _classify(path)
                # A finished file may be a link to other storage; a partial download that is a link or a pipe is a trap.
                if not stat.S_ISREG(facts.st_mode) and not (kind in _SUFFIXES and stat.S_ISLNK(facts.st_mode)):
                    kind, key = "unknown", ""
                if not stat.S_ISDIR(facts.st_mode):
                    found.append(CacheEntry(kind, key, path, facts.st_size, facts.st_mtime))
    return found


def clear(key: str | None = None) -> list[CacheEntry]:
    """Remove the finished files and partial downloads of one cache key, or of all (None); return their entries."""
    wanted = None if key is None else _checked(key)
    gone: list[CacheEntry] = []
    for each in sorted({entry.key for entry in entries() if entry.key and wanted in {None, entry.key}}):
        with lock(each):
            for entry in entries():
                if entry.key == each and (entry.kind in _SUFFIXES or entry.kind == "partial"):
                    discard(entry.path)
                    gone.append(entry)
    return gone


def discard(path: Path) -> None:
    """Remove a file of the cache unless it is gone already."""
    with disk_errors(path, f"remove {path}"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: Path, asked: str) -> Iterator[None]:
    """Turn an OSError met at `path` into CacheSpaceError or CacheError."""
    try:
        yield
    except OSError as error:
        kind, advice = CacheError, "look at that path, or set HRNET_ZOO_CACHE to another folder"
        found = error.strerror or str(error)
        if error.errno in NO_SPACE:
            kind, advice = CacheSpaceError, "free some space, or set HRNET_ZOO_CACHE to a folder on a larger disk"
        elif error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            advice = "set HRNET_ZOO_CACHE to a folder that you may write"
            found += f" (user id {os.getuid()})" if hasattr(os, "getuid") else ""
        raise kind(
            asked=asked, found=f"{found}: {path}", done="no finished file was changed", advice=advice, path=path
        ) from error


def _classify(path: Path) -> tuple[Kind, str]:
    """Return the kind and the key of a file by its name."""
    for kind, pattern in _PATTERNS.items():
        if match := re.fullmatch(pattern, f"{path.parent.name}/{path.name}"):
            return kind, match[1]
    return "unknown", ""


def _temp(folder: Path, key: str) -> Path:
    return folder / f".{key}.{secrets.token_hex(8)}.tmp"


def _checked(key: str) -> str:
    if not re.fullmatch(_KEY, key):
        raise ValueError(f"{key!r} cannot name a file of the cache")
    return key


def _folder(name: str) -> Path:
    """Make a folder of the cache if absent, and tag a new cache, so that backups leave it out."""
    top = root()
    folder = top / "v1" / name
    with disk_errors(folder, "make the cache folder"):
        fresh = not top.exists() or not any(top.iterdir())  # never tag a folder that holds other things
        folder.mkdir(parents=True, exist_ok=True)
        if fresh:
            tag = "Signature: 8a477f597d28d172789f06886806bc55\n"  # https://bford.info/cachedir/
            (top / "CACHEDIR.TAG").write_text(tag, encoding="ascii")
    return folder


def _now_s(folder: Path) -> float:
    """Return the time by the file system of a folder, which may be a server's."""
    probe = _temp(folder, "now")
    with disk_errors(probe, "write into the cache"):
        probe.touch(exist_ok=False)
        now_s = probe.stat().st_mtime
        probe.unlink(missing_ok=True)
    return now_s
