"""Where files live, and how one gets in: claim a part, publish by rename, sweep what the dead left, inspect.

    <root>/CACHEDIR.TAG
    <root>/v1/models/<stem>.safetensors      finished files, never opened for writing
    <root>/v1/logs/<stem>.log.json           the same, of training logs
    <root>/v1/digests/<stem>.sha256          the same, of published files' digests; the first to be written stays
    <root>/v1/models/.<stem>.<owner>.tmp     being written; in the others alike
    <root>/v1/downloads/<stem>.<owner>.part  being fetched, with its note <stem>.<owner>.json
    <root>/v1/locks/<stem>.lock

Correct without locks: every writer has private files, and a finished file appears by one rename. Some network file
systems grant every lock to everybody, so a lock only saves bandwidth.
"""

import contextlib
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import filelock

from hrnet_zoo.errors import CacheError, HRNetZooError
from hrnet_zoo.weights import owner
from hrnet_zoo.weights.part import discard, disk_errors, note_path

LOCK_NOTICE_S = 10.0  # silence before a wait is reported
LOCK_WAIT_S = 600.0
STALE_S = 15 * 60.0  # a transfer writes far more often: its longest silence is five tries of 30 s and waits of 60 s
REPLACE_WAITS_S = (0.05, 0.1, 0.2, 0.4)  # a virus scanner holds a new file for about so long on Windows

# What a finished file is: weights of a model, a training log, a digest. No stem is used for two.
Finished = Literal["model", "log", "digest"]
Kind = Literal["model", "log", "digest", "part", "temp", "lock", "unknown"]
_ENDINGS: dict[Finished, str] = {"model": "safetensors", "log": "log.json", "digest": "sha256"}

_STEM = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,119}"
_NAMES: dict[tuple[str, str], Kind] = {
    ("models", rf"(?P<stem>{_STEM})\.safetensors"): "model",
    ("models", rf"\.(?P<stem>{_STEM})\.{owner.PATTERN}\.tmp"): "temp",
    ("logs", rf"(?P<stem>{_STEM})\.log\.json"): "log",
    ("logs", rf"\.(?P<stem>{_STEM})\.{owner.PATTERN}\.tmp"): "temp",
    ("digests", rf"(?P<stem>{_STEM})\.sha256"): "digest",
    ("digests", rf"\.(?P<stem>{_STEM})\.{owner.PATTERN}\.tmp"): "temp",
    ("downloads", rf"(?P<stem>{_STEM})\.{owner.PATTERN}\.(part|json)"): "part",
    ("downloads", rf"\.(?P<stem>{_STEM})\.{owner.PATTERN}\.tmp"): "temp",
    ("locks", rf"(?P<stem>{_STEM})\.lock"): "lock",
}
_log = logging.getLogger("hrnet_zoo")


@dataclass(frozen=True)
class CacheEntry:
    """A file of the cache: what it is, of which stem, and its size in bytes; `unknown` is not ours."""

    kind: Kind
    stem: str
    path: Path
    size: int


def root() -> Path:
    """Find the folder that `HRNET_ZOO_CACHE` names, or the assets cache of huggingface_hub.

    Raises:
        CacheError: neither can be determined (no home folder, a file in the way).

    """
    asked = "find the cache folder"
    named = os.environ.get("HRNET_ZOO_CACHE", "")
    try:
        if named:
            return Path(named).expanduser().absolute()
        from huggingface_hub import cached_assets_path, constants  # slow, and a named cache need not pay for it

        if constants.HF_ASSETS_CACHE.startswith("~"):  # it would be a folder of this name, below the working folder
            raise RuntimeError("no home folder: neither HOME nor the system tells of one")
        with disk_errors(Path(constants.HF_ASSETS_CACHE), asked):
            return cached_assets_path("hrnet-zoo", namespace="weights")
    except (RuntimeError, ValueError) as error:  # no home folder; a file in the way
        raise CacheError(
            asked=asked,
            found=str(error),
            done="nothing was written",
            advice="set HRNET_ZOO_CACHE to a folder that you may write",
            path=Path(named),
        ) from error


def model_path(stem: str) -> Path:
    """Where the finished weights of `stem` lie or would lie; looks at nothing and makes nothing."""
    return _final(stem, "model")


def log_path(stem: str) -> Path:
    """Where the training log of `stem` lies or would lie; looks at nothing and makes nothing."""
    return _final(stem, "log")


def digest_path(stem: str) -> Path:
    """Where the digest recorded for `stem` lies or would lie; looks at nothing and makes nothing."""
    return _final(stem, "digest")


def is_cached(stem: str, kind: Finished = "model") -> bool:
    """Tell whether the finished file of `stem` is there; opens and makes nothing.

    Raises:
        CacheError: the cache cannot be looked into.

    """
    path = _final(stem, kind)
    with disk_errors(path, f"look for {stem} in the cache"):
        try:
            return stat.S_ISREG(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):  # the latter is said by whoever goes on to write
            return False


@contextlib.contextmanager
def lock(stem: str) -> Iterator[None]:
    """Keep other processes and threads off one stem where the file system can; go on without after LOCK_WAIT_S."""
    path = _folder("locks") / f"{_checked(stem)}.lock"
    # No file in place of a lock where there is no flock: who is killed leaves it, and all others wait for nobody.
    held = filelock.FileLock(path, fallback_to_soft=False)
    try:
        try:
            held.acquire(timeout=LOCK_NOTICE_S)
        except filelock.Timeout:
            _log.warning("waiting for another process or thread that works on %s (lock %s)", stem, path)
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


def claim_part(stem: str, kind: Finished = "model") -> Path:
    """Take over the longest part of `stem` that its owner left behind, or begin a new one; it is ours to write.

    Raises:
        CacheError: the cache cannot be written, or something that is no file stands where the finished file would go.

    """
    final = _final(stem, kind)
    folder = _folder("downloads")
    with disk_errors(folder, f"begin a download of {stem}"):
        if final.is_dir():
            raise IsADirectoryError(None, f"a folder stands where the file goes, {final}")
        _warn_of_others(folder.parent.parent)
        mine = folder / f"{stem}.{owner.token()}.part"
        left = [entry for entry in entries() if entry.stem == stem and entry.path.suffix == ".part"]
        for entry in sorted(left, key=lambda entry: -entry.size):
            if _is_abandoned(entry.path) and _take_over(entry.path, mine):
                return mine
        mine.touch(exist_ok=False)
        return mine


def _take_over(theirs: Path, mine: Path) -> bool:
    """Make an abandoned part, with its note, ours; whoever is killed in between, the note stays with the bytes."""
    old, new = note_path(theirs), note_path(mine)
    try:
        os.utime(theirs)  # before the rename, or the next process would call it stale again
        with contextlib.suppress(OSError):  # no note, or no hard links on this file system
            os.link(old, new)
        theirs.rename(mine)
    except (FileNotFoundError, PermissionError):  # another process was faster, or it is another user's
        new.unlink(missing_ok=True)
        return False
    with contextlib.suppress(FileNotFoundError, PermissionError):
        if new.exists():
            old.unlink()
        else:
            old.rename(new)
    return True


def publish(
    stem: str,
    write: Callable[[BinaryIO], object],
    check: Callable[[Path], None],
    kind: Finished = "model",
    *,
    first: bool = False,
) -> Path:
    """Make the finished file of `stem` and return its path: write a private file, check it by its path, rename it.

    `first`: a finished file that is there already stays, and this one goes.

    Raises:
        CacheError: the file cannot be written; whatever `write` and `check` raise also leaves nothing behind.

    """
    final, folder = _final(stem, kind), _folder(f"{kind}s")
    temp = folder / f".{stem}.{owner.token()}.tmp"
    try:
        with disk_errors(final, f"write the {kind} {stem} into the cache"):
            with temp.open("xb") as file:  # never an existing file or link; mode as the umask says
                write(file)
                file.flush()
                os.fsync(file.fileno())
            check(temp)
            try:
                _place_first(temp, final) if first else _replace(temp, final)
            except PermissionError:
                # Windows lets nobody replace a file that others have mapped. One name has one content: theirs serves.
                if not _passes(final, check):
                    raise
                temp.unlink()
    except BaseException:
        with contextlib.suppress(OSError):  # the error under way says more; a sweep takes what stays
            temp.unlink(missing_ok=True)
        raise
    _sync(folder)
    return final


def remove_damaged(path: Path, check: Callable[[Path], object]) -> bool:
    """Remove a finished file if `check` still refuses it, under its lock; tell whether it went.

    It is taken off its name before the last look, so that a good one which another process has just put there is never
    removed, with or without locks.

    Raises:
        CheckpointError: the file cannot be read, which is not damage; it stays.
        CacheError: the cache cannot be written.

    """
    stem = _classified(path, path.lstat())[1] if os.path.lexists(path) else ""
    if not stem:
        return False
    taken = path.with_name(f".{stem}.{owner.token()}.tmp")
    with lock(stem), disk_errors(path, f"remove the damaged {path}"):
        try:
            path.rename(taken)
        except FileNotFoundError:
            return False
        try:
            check(taken)
        except HRNetZooError as error:
            if not isinstance(error.__cause__, OSError):
                taken.unlink(missing_ok=True)
                return True
            _replace(taken, path)
            raise
        _replace(taken, path)
        return False


def sweep(*, everything: bool = False) -> list[CacheEntry]:
    """Remove what dead processes left, of all stems; return what went.

    A stem without a finished file keeps its longest part for resuming, unless `everything` is to go.

    Raises:
        CacheError: the cache cannot be written.

    """
    spared: set[str] = set()
    gone: list[CacheEntry] = []
    for entry in sorted(entries(), key=lambda entry: -entry.size):
        if entry.kind not in {"part", "temp"} or not _is_abandoned(entry.path):
            continue
        if entry.path.suffix == ".part":
            finished = any(_final(entry.stem, kind).exists() for kind in get_args(Finished))
            if entry.stem not in spared and not finished and not everything:
                spared.add(entry.stem)
                continue
        elif entry.kind == "part" and entry.path.with_suffix(".part").exists():
            continue  # a note goes with its part
        try:
            discard(entry.path)
            gone.append(entry)
        except CacheError as error:  # another user's, say: theirs to remove, and no harm to what was just built
            _log.info("%s", error)
    return gone


def entries() -> list[CacheEntry]:
    """Every file under `v1`, in the order of their paths.

    Raises:
        CacheError: the cache cannot be read.

    """
    found: list[CacheEntry] = []
    top = root() / "v1"
    with disk_errors(top, "look through the cache"):
        for path in sorted(top.rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                facts = path.lstat()
                if not stat.S_ISDIR(facts.st_mode):
                    kind, stem = _classified(path, facts)
                    found.append(CacheEntry(kind, stem, path, facts.st_size))
    return found


def clear(stem: str | None = None) -> list[CacheEntry]:
    """Remove one stem's finished file with all its parts, or (None) all of them, each under its lock; return what went.

    Locks, unknown files and what a living process is just publishing stay.

    Raises:
        CacheError: the cache cannot be written.

    """
    wanted = None if stem is None else _checked(stem)
    stems = {entry.stem for entry in entries() if entry.stem and wanted in {None, entry.stem}}
    gone: list[CacheEntry] = []
    for each in sorted(stems):
        with lock(each):
            for entry in entries():
                # A temp lives for seconds: one whose writer may live means that the lock excludes nobody here.
                if entry.stem == each and (
                    entry.kind in {"model", "log", "part"} or (entry.kind == "temp" and _is_abandoned(entry.path))
                ):
                    with disk_errors(entry.path, f"remove {each} from the cache"):
                        entry.path.unlink(missing_ok=True)
                    gone.append(entry)
    return gone


def _classified(path: Path, facts: os.stat_result) -> tuple[Kind, str]:
    for (folder, pattern), kind in _NAMES.items():
        match = re.fullmatch(pattern, path.name)
        # A finished file may be a link to other storage; a part that is a link or a pipe is a trap, never taken over.
        ours = stat.S_ISREG(facts.st_mode) or (kind in get_args(Finished) and stat.S_ISLNK(facts.st_mode))
        if match and ours and path.parent.name == folder:
            return kind, match["stem"]
    return "unknown", ""


def _final(stem: str, kind: Finished) -> Path:
    return root() / "v1" / f"{kind}s" / f"{_checked(stem)}.{_ENDINGS[kind]}"


def _checked(stem: str) -> str:
    if not re.fullmatch(_STEM, stem):
        raise ValueError(f"{stem!r} cannot name a file of the cache")
    return stem


def _folder(name: str) -> Path:
    """Make a folder of the cache if absent, and tag the root as a cache when it is made."""
    top = root()
    folder = top / "v1" / name
    with disk_errors(folder, "make the cache folder"):
        if not folder.is_dir():
            fresh = not top.exists() or not any(top.iterdir())  # never tag a folder that holds other things
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(exist_ok=True)
            if fresh:
                (top / "CACHEDIR.TAG").write_text(  # https://bford.info/cachedir/
                    "Signature: 8a477f597d28d172789f06886806bc55\n# Cache of hrnet-zoo; backups may leave it out.\n",
                    encoding="ascii",
                )
    return folder


def _is_abandoned(path: Path) -> bool:
    """Tell whether nobody writes this part or temp: its owner is provably gone.

    Where nothing can be proved (another machine, or a container of this one), silence for STALE_S has to do; one taken
    from the living by mistake costs a start from byte 0, and no more.
    """
    alive = owner.lives(path.name)
    if alive is not None:
        return not alive
    try:
        return _now_s(path.parent) - path.lstat().st_mtime > STALE_S
    except FileNotFoundError:
        return False


def _now_s(folder: Path) -> float:
    """Read the clock by which the files of a folder are dated: a server's, which may differ from this machine's."""
    probe = folder / f".now.{owner.token()}.tmp"
    probe.touch(exist_ok=False)
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _passes(path: Path, check: Callable[[Path], object]) -> bool:
    try:
        check(path)
    except (HRNetZooError, FileNotFoundError):
        return False
    return True


def _warn_of_others(top: Path) -> None:
    """Say so if the cache belongs to another user and anybody may change its files."""
    facts = top.stat()
    if os.name == "posix" and facts.st_mode & 0o1002 == 0o0002 and facts.st_uid != os.geteuid():
        _log.warning("anybody may change the files of the cache %s; set HRNET_ZOO_CACHE to a folder of your own", top)


def _replace(temp: Path, final: Path) -> None:
    for wait_s in REPLACE_WAITS_S:
        try:
            temp.replace(final)
        except PermissionError:
            time.sleep(wait_s)
        else:
            return
    temp.replace(final)


def _place_first(temp: Path, final: Path) -> None:
    """Give a file its final name unless another was faster; the temp goes either way."""
    try:
        os.link(temp, final)
    except FileExistsError:
        pass
    except OSError:  # no hard links on this file system: here the lock, if there is one, keeps the others off
        if not os.path.lexists(final):
            _replace(temp, final)
            return
    temp.unlink()


def _sync(folder: Path) -> None:
    """Let the rename outlive a power failure, where a folder can be synced."""
    if os.name == "posix":
        with contextlib.suppress(OSError):  # some network file systems cannot; the file itself is safe
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
