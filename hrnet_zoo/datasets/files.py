"""Files of a download, in zip files or unpacked -> contents; contents -> files of a prepared folder."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

from hrnet_zoo.datasets.pairing import relative_name
from hrnet_zoo.errors import DatasetError, OutputError
from hrnet_zoo.images.atomic import atomic_write, make_folder, output_errors, sweep_parts
from hrnet_zoo.images.prefetch import prefetch_in_threads

# What returns the content of a file, by its path below the download, whose own name comes first.
Files: TypeAlias = Mapping[str, Callable[[], bytes]]

MAX_BYTES = 1 << 30  # of a file, unpacked: ten times an image of Potsdam, twice COCO's largest annotations
_THREADS = min(8, os.cpu_count() or 1)
_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)  # RuntimeError: encrypted


@contextmanager
def open_files(source: Path) -> Iterator[Files]:
    """List the files below a folder, zip files counting as folders, or those of a single zip file.

    Links are followed, but no folder is entered twice. A path that exists unpacked and in a zip file is listed twice.

    Raises:
        DatasetError: a folder or zip file cannot be read; later, a file in it cannot.

    """
    with ExitStack() as stack:
        files: dict[str, Callable[[], bytes]] = {}
        for path in _paths(source):
            name = relative_name(path, source.parent)
            if path.suffix.lower() != ".zip":
                files[name] = partial(_read, path)
                continue
            with _faults(path):
                archive = stack.enter_context(zipfile.ZipFile(path))
            for member in archive.infolist():
                if not member.is_dir():
                    files[f"{name}/{member.filename}"] = partial(_unzip, path, archive, member)
        yield files


class OutputFolder:
    """A folder that is filled with whole files; those that are there already are kept, unless `force` is set.

    Attributes:
        root: the folder.
        images: number of its images by split, which whoever fills it counts.
        written: number of files that were written.
        notes: what is worth knowing about the files.

    """

    def __init__(self, root: Path, *, force: bool) -> None:
        self.root, self.force = root, force
        self.images, self.written, self.notes = Counter[str](), 0, list[str]()
        self._folders: set[Path] = set()

    def is_wanted(self, name: str) -> bool:
        """Return whether a file, by its path below the folder, is to be written."""
        return self.force or not (self.root / name).exists()

    def write(self, files: Iterable[tuple[str, Callable[[], bytes]]], same: Collection[str] = ()) -> None:
        """Write those files that are wanted: paths below the folder, and what makes their contents, in threads.

        Args:
            files: paths and contents.
            same: paths whose files, if they are there already, must have these contents.

        Raises:
            OutputError: a file cannot be written, or has other contents.

        """

        def write(file: tuple[str, Callable[[], bytes]]) -> bool:
            name, make = file
            path, content = self.root / name, make()
            if self.is_wanted(name):
                atomic_write(path, content)
                return True
            asked, done = f"write {path}", "it was not replaced"
            advice = "use --force (force=True) to replace what is there, or name an empty folder"
            with output_errors(path, asked, done, advice):
                is_same = path.read_bytes() == content
            if not is_same:
                found = "a file of this name with other content, such as labels before they were corrected"
                raise OutputError(asked=asked, found=found, done=done, advice=advice, path=path)
            return False

        wanted = [file for file in files if file[0] in same or self.is_wanted(file[0])]
        for folder in {(self.root / name).parent for name, _ in wanted} - self._folders:
            make_folder(folder)
            sweep_parts(folder)
            self._folders.add(folder)
        with closing(prefetch_in_threads(wanted, write, threads=_THREADS, ahead=2 * _THREADS)) as done:
            self.written += sum(done)


def _paths(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
        return

    def refuse(error: OSError) -> None:
        raise _refusal(Path(error.filename), error.strerror or str(error), "check its permissions") from error

    visited = set[str]()
    for path, folders, names in os.walk(source, onerror=refuse, followlinks=True):
        real = os.path.realpath(path)
        folders[:] = [] if real in visited else sorted(folders)
        yield from (Path(path, name) for name in sorted(names) if real not in visited)
        visited.add(real)


def _read(path: Path) -> bytes:
    with _faults(path):
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            found = f"no regular file, or one of more than {MAX_BYTES:,} bytes"
            raise _refusal(path, found, "name a folder without it")
        return path.read_bytes()


def _unzip(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.file_size > MAX_BYTES:
        found = f"{member.filename} of {member.file_size:,} bytes; the limit is {MAX_BYTES:,}"
        raise _refusal(path, found, "unpack it, if you trust it, and name the folder")
    with _faults(path):
        return archive.read(member)  # never more than the stated size, and its checksum is verified


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _refusal(path, error.strerror or str(error), "check the path and its permissions") from error
    except _FAULTS as error:
        found = f"a zip file that is damaged, incomplete or encrypted ({error})"
        raise _refusal(path, found, "download it again, or unpack it with its password") from error


def _refusal(path: Path, found: str, advice: str) -> DatasetError:
    return DatasetError(
        asked=f"read {path}", found=found, done="what was written before is whole", advice=advice, path=path
    )
