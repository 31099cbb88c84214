"""A part: a private file that holds the beginning of a body, and the note beside it that says of which body.

Only its owner writes a part. The note (same name, `.json`) names what the bytes belong to; where it is absent or does
not fit, the bytes count for nothing and a transfer starts again from byte 0.
"""

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from hrnet_zoo.errors import CacheError, CachePermissionError, CacheSpaceError
from hrnet_zoo.images.atomic import NO_SPACE

STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')  # RFC 9110, 8.8.3, ASCII only; a weak one starts with W/


@dataclass(frozen=True)
class Note:
    """What the bytes of a part belong to: the address (without secrets), its strong ETag, its whole size in bytes."""

    url: str
    etag: str | None
    total: int | None


class PartLostError(Exception):
    """The part is no longer at its path: an owner that was silent for long may lose it to another process."""


def write(part: Path, blocks: Iterable[bytes], start: int, note: Note) -> int:
    """Write blocks into the part from byte `start` on (its end, or 0 to begin anew) and return the size reached.

    An exception out of `blocks` passes through and leaves what was written before.

    Raises:
        CacheError: the part cannot be written (CacheSpaceError also where the whole size is known not to fit).
        PartLostError: another process took the part over.

    """
    with disk_errors(part, f"write {part}"):
        need, free = (note.total or 0) - size_of(part), shutil.disk_usage(part.parent).free
        if need > free:
            raise OSError(errno.ENOSPC, f"{need:,} bytes are needed and {free:,} are free")
        size = start
        with open(part, "ab", opener=_unlinked) as file:
            if not start:  # in this order: old bytes never lie under a new note
                file.truncate(0)
                with open(note_path(part), "w", encoding="utf-8", opener=_unlinked) as beside:
                    json.dump(asdict(note), beside)
            for block in blocks:
                if not _is_at(part, file.fileno()):
                    raise PartLostError
                file.write(block)
                size += len(block)
        return size


def read_note(part: Path) -> Note | None:
    """Read the note beside a part; None if there is none to rely on, which only costs a start from byte 0."""
    with disk_errors(part, f"continue {part}"), contextlib.suppress(FileNotFoundError, ValueError):
        match json.loads(note_path(part).read_text(encoding="utf-8")):
            case {"url": str(url), "etag": str() | None as etag, "total": int() | None as total}:
                if etag is None or STRONG_ETAG.fullmatch(etag):
                    return Note(url, etag, total)
    return None


def size_of(part: Path) -> int:
    """Bytes in the part; 0 if it is absent."""
    with disk_errors(part, f"continue {part}"), contextlib.suppress(FileNotFoundError):
        return part.stat().st_size
    return 0


def resumable_bytes(part: Path) -> int:
    """Bytes from which the next transfer can go on; without a strong ETag none."""
    note = read_note(part)
    return size_of(part) if note and note.etag else 0


def note_path(part: Path) -> Path:
    """Where the note of a part lies."""
    return part.with_suffix(".json")


def discard(part: Path) -> None:
    """Remove a part and its note; absent ones are fine.

    Raises:
        CacheError: the folder does not let them go.

    """
    with disk_errors(part, f"remove {part}"):
        part.unlink(missing_ok=True)
        note_path(part).unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: Path, asked: str) -> Iterator[None]:
    """Turn an OSError met at `path` into CacheSpaceError, CachePermissionError or CacheError."""
    try:
        yield
    except OSError as error:
        kind, advice = CacheError, "look at that path, or set HRNET_ZOO_CACHE to another folder"
        found = error.strerror or str(error)
        if error.errno in NO_SPACE:
            kind, advice = CacheSpaceError, "free some space, or set HRNET_ZOO_CACHE to a folder on a larger disk"
        elif error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            kind, advice = CachePermissionError, "set HRNET_ZOO_CACHE to a folder that you may write"
            found += f" (user id {os.getuid()})" if hasattr(os, "getuid") else ""
        raise kind(
            asked=asked,
            found=f"{found}: {path}",
            done="finished files of the cache are as they were",
            advice=advice,
            path=path,
        ) from error


def _unlinked(path: str, flags: int) -> int:
    """Open a file, but not where a link leads to: whoever may write to the folder could plant one."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
