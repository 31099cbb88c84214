"""Results on disk: whole or not at all."""

import contextlib
import os
import secrets
from pathlib import Path

from hrnet_zoo.errors import OutputError


def write_file(path: Path, data: bytes) -> None:
    """Write a file that appears under its name when it is complete; one that is there already is replaced.

    Raises:
        OutputError: the folder is missing, or the file cannot be written.

    """
    temp = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with temp.open("xb") as file:  # never an existing file or link; mode as the umask says
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temp.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the error under way says more
            temp.unlink(missing_ok=True)
        raise OutputError(
            asked=f"write {path}",
            found=error.strerror or str(error),
            done="no file was made or changed",
            advice="check the path, the permissions and the free space",
            path=path,
        ) from error


def make_folder(path: Path) -> None:
    """Make a folder for results, with its parents, unless it is there.

    Raises:
        OutputError: it cannot be made.

    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            asked=f"make the folder {path}",
            found=error.strerror or str(error),
            done="nothing was written",
            advice="name another folder",
            path=path,
        ) from error
