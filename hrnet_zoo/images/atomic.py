"""Result files: written completely or not at all; an existing file is replaced only on request."""

import errno
import io
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from PIL import Image

from hrnet_zoo.errors import OutputError, OutputSpaceError

NO_SPACE = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}

STALE_S = 15 * 60.0  # no file takes so long to write


@contextmanager
def output_errors(path: Path, asked: str, done: str, advice: str) -> Iterator[None]:
    """Turn an OSError into an OutputError, or an OutputSpaceError if the disk is full."""
    try:
        yield
    except OSError as error:
        kind = OutputSpaceError if error.errno in NO_SPACE else OutputError
        found = error.strerror or str(error)
        raise kind(asked=asked, found=found, done=done, advice=advice, path=path) from error


def atomic_write(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a file that appears under its name only when it is complete; an existing one is replaced.

    Args:
        path: the file.
        data: its bytes, whole or in pieces.

    Raises:
        OutputError: the folder is missing, or the file cannot be written.

    """
    advice = "check the path, the length of its name, the permissions and the free space"
    with output_errors(path, f"write {path}", "no file was made or changed", advice), replacing(path) as file:
        file.writelines([data] if isinstance(data, bytes) else data)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that gets its name when it is complete, and vanishes if anything is raised."""
    temp = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with temp.open("xb") as file:  # never an existing file or link; mode as the umask says
            yield file
            file.flush()
            os.fsync(file.fileno())
        temp.replace(path)
    except BaseException:  # an interruption too leaves nothing behind
        with suppress(OSError):  # the error under way says more
            temp.unlink(missing_ok=True)
        raise


def check_place(path: Path, *, force: bool) -> None:
    """Raise OutputError if a path cannot be written or (without `force`) exists, before its content is computed."""
    special = os.path.exists(path) and not os.path.isfile(path)  # noqa: PTH110, PTH113 - never raise
    if special or not os.access(path.parent, os.W_OK | os.X_OK):
        found = "it is a folder or a device, or its own folder is missing or may not be written to"
        done = "nothing was computed or written"
        raise OutputError(asked=f"write {path}", found=found, done=done, advice="name another file", path=path)
    if not force:
        refuse_existing([path])


def refuse_existing(paths: Sequence[Path], advice: str = "name another place, or use --force") -> None:
    """Raise OutputError if one of the files exists, before any is written."""
    if existing := [path for path in paths if os.path.lexists(path)]:  # never raises, unlike Path.exists
        raise OutputError(
            asked=f"write {existing[0]}",
            found="it exists already" + f" ({len(existing)} of these files exist)" * (len(existing) > 1),
            done="nothing was computed or written",
            advice=advice,
            path=existing[0],
        )


def refuse_address(path: Path) -> None:
    """Raise OutputError for an address where a folder for results is expected."""
    # Of two letters at least: C: is a drive of Windows. Path makes one slash of two.
    if re.match(r"[a-z][a-z0-9+.-]+:/", path.as_posix(), re.IGNORECASE) and not os.path.lexists(path.parts[0]):
        raise OutputError(
            asked=f"make the folder {path}",
            found="an address, where a folder of this machine is expected",
            done="nothing was written",
            advice="name a folder, and copy it there afterwards",
            path=path,
        )


def make_folder(path: Path) -> None:
    """Make a folder for results, with its parents, unless it is there; raise OutputError if it cannot be made."""
    refuse_address(path)
    with output_errors(path, f"make the folder {path}", "nothing was written", "name another folder"):
        path.mkdir(parents=True, exist_ok=True)


def sweep_parts(folder: Path) -> None:
    """Remove what killed processes left of `atomic_write`, if it is older than a quarter of an hour."""
    with output_errors(folder, f"remove unfinished files from {folder}", "nothing was written", "remove them by hand"):
        for path in folder.glob(".*.part"):
            if re.fullmatch(r"\.[0-9a-f]{16}\.part", path.name) and time.time() - path.lstat().st_mtime > STALE_S:
                path.unlink(missing_ok=True)


def png(image: Image.Image) -> bytes:
    """Encode an image as the bytes of a PNG file."""
    stream = io.BytesIO()
    # zlib's Z_RLE, which finds runs alone: a quarter of the time for files as large, for PNG's filters leave runs.
    image.save(stream, "PNG", compress_level=1, compress_type=3)
    return stream.getvalue()
