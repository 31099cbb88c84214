"""Reading small regular files."""

from __future__ import annotations

import stat
from pathlib import Path


class Fault(Exception):  # noqa: N818 - whoever reads a file makes an error of it
    """At `path` of the JSON ("$.classes[3].name") stands something else than may: `found`."""

    def __init__(self, path: str, found: str) -> None:
        super().__init__(path, found)
        self.path, self.found = path, found


def read(path: Path, most: int) -> bytes:
    """Read a small regular file, one byte beyond `most` at the most, or raise Fault."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # before open(), which would wait for the writer of a pipe
            raise Fault("$", "a folder, pipe or device")
        with path.open("rb") as file:
            return file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise Fault("$", f"no readable file: {getattr(error, 'strerror', None) or error}") from error
