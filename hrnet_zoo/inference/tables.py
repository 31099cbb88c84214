"""Results -> a table with a row for each image: CSV, JSON lines or Parquet, written as the images are labeled.

A row is one append to the file, so that a process that is killed leaves whole rows; whatever a power cut or a full disk
leaves of a last one is cut when the table is resumed. A Parquet file is readable only once it is complete, so its rows
go into a file of JSON lines beside it, of which it is made at the end.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from hrnet_zoo.errors import ConfigError, OutputError
from hrnet_zoo.images.atomic import check_place, output_errors, refuse_existing, replacing
from hrnet_zoo.images.capture import read_capture
from hrnet_zoo.inference.result import SegmentationResult

SUFFIXES = (".csv", ".jsonl", ".parquet")
BEFORE, AFTER = ("path", "width", "height", "time", "latitude", "longitude"), ("error",)
OF_FRAME = ("path", "frame", "seconds", "width", "height")  # instead of BEFORE
_ROWS_AT_ONCE = 1000  # which make a row group of a Parquet file

Row = dict[str, str | int | float | None]


def table_columns(classes: Sequence[str], *, confidence: bool = False, frames: bool = False) -> tuple[str, ...]:
    """Return the columns of a table: what is known of an image, the share of each class by its name, and `error`.

    With `confidence`, the mean confidence of each class as well, as "road confidence". With `frames`, for `frame_row`.
    """
    means = map(_confidence_column, classes) if confidence else ()
    before = OF_FRAME if frames else BEFORE
    return (*before, *dict.fromkeys((*map(_share_column, classes), *means)), *AFTER)


def table_row(
    path: str | os.PathLike[str], result: SegmentationResult, fractions: Mapping[str, float] | None = None
) -> Row:
    """Return the row of an image: values by column, None for unknown.

    Args:
        path: of the image file; the row has it as it is given, with escapes for line breaks and what is not UTF-8.
        result: of which the size in pixels, as displayed, is taken, and the mean confidence, if it has any.
        fractions: shares by class name, 0 to 1; None: `result.fractions()`. Absent classes get 0.

    Returns:
        `time`, `latitude` and `longitude` are those of `hrnet_zoo.images.capture.Capture`; `error` is empty.

    Raises:
        ImageError: the file cannot be read.

    """
    height, width = result.mask.shape
    row: Row = {"path": one_line(path), "width": width, "height": height, **vars(read_capture(Path(path)))}
    return row | _shares(result, fractions or result.fractions())


def frame_row(path: str, frame: int, seconds: float, result: SegmentationResult) -> Row:
    """Return the row of a frame of a video: its number, its time from the start, its size in pixels, and the shares."""
    height, width = result.mask.shape
    row: Row = {"path": one_line(path), "frame": frame, "seconds": seconds, "width": width, "height": height}
    return row | _shares(result, result.fractions())


def _shares(result: SegmentationResult, fractions: Mapping[str, float]) -> Row:
    row: Row = dict.fromkeys(map(_share_column, result.classes), 0.0)
    row |= {_share_column(name): share for name, share in fractions.items()}
    if result.confidence is not None:
        row |= dict.fromkeys(map(_confidence_column, result.classes))
        row |= {_confidence_column(name): mean for name, mean in result.mean_confidence().items()}
    return {**row, "error": ""}


def error_row(path: str | os.PathLike[str], error: str) -> Row:
    """Return the row of an image that has no result: its path, and what was wrong."""
    return {"path": one_line(path), "error": one_line(error)}


def check_table(path: Path, *, resume: bool, force: bool) -> None:
    """Raise an error if a table cannot be written, before its rows are computed.

    Raises:
        ConfigError: another ending than .csv, .jsonl and .parquet, or pyarrow is missing for the last one.
        OutputError: it exists and neither `resume` nor `force` is given, or it cannot be written.

    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            asked=f"write the table {path}",
            found=f"the ending {path.suffix!r}",
            done="nothing was computed or written",
            advice=f"give a file that ends in {', '.join(SUFFIXES)}",
        )
    if _is_parquet(path):
        _pyarrow(path)
    check_target(path, resume=resume, force=force)


def check_target(path: Path, *, resume: bool, force: bool) -> None:
    """Raise OutputError if a file made of rows cannot be written, or exists and neither is given."""
    check_place(path, force=True)
    if not (resume or force):
        files = [*{path, rows_path(path)}]
        refuse_existing(files, "--resume goes on with it, --force replaces it; or name another file")


class TableWriter:
    """Appends rows to a table; a context manager, which completes the file if no error is raised within.

    Attributes:
        done: the paths of the rows that the table had.
        added: the number of rows that were appended.
        place: the file that has the rows.

    """

    def __init__(self, path: str | Path, columns: Sequence[str], *, resume: bool = False, force: bool = False) -> None:
        """Begin a table, or go on with one.

        Args:
            path: a .csv, .jsonl or .parquet (extra `tables`).
            columns: see `table_columns`.
            resume: go on with the table if there is one. An incomplete last row is cut.
            force: begin it anew if there is one.

        Raises:
            ConfigError: the ending is another one, or pyarrow is missing.
            OutputError: the file exists, is no such table, has other columns, is being written by another process, or
                cannot be read or written.

        """
        self.path, self.columns = Path(path), tuple(columns)
        check_table(self.path, resume=resume, force=force)
        self.done: set[str] = set()
        self._failed: set[str] = set()
        self.added = 0
        self.place = self._rows = rows_path(self.path)
        self._is_csv = self._rows.suffix.lower() == ".csv"
        with self._errors():
            if resume and _is_parquet(self.path) and self.path.exists() and not self._rows.exists():
                self._unpack()
            self._file = self._rows.open("a+b", buffering=0)
            try:
                self._lock()
                end = self._read() if resume else 0
                self._file.truncate(end)
                if self._is_csv and end == 0:
                    self._write(_csv_line(self.columns))
            except BaseException:
                self._file.close()
                raise

    def has(self, path: str | os.PathLike[str]) -> bool:
        """Tell whether the table had a row of this image when it was opened."""
        return one_line(path) in self.done

    def has_error(self, path: str | os.PathLike[str]) -> bool:
        """Tell whether the row that the table had of this image says that it failed."""
        return one_line(path) in self._failed

    def append(self, row: Mapping[str, object]) -> None:
        """Append a row; columns that it lacks stay empty.

        Raises:
            OutputError: it cannot be written; the other rows are as before.

        """
        with self._errors():
            self._write(self._line(row))
        self.added += 1

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._errors():
            with self._file:
                if kind is None:
                    os.fsync(self._file.fileno())
            if kind is None and _is_parquet(self.path):
                self._pack()
                self.place = self.path
                self._rows.unlink()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        done = f"the rows in {self._rows} were kept"
        advice = "check the path, the permissions and the free space; --resume goes on with the rows that are there"
        with output_errors(self.path, f"write the table {self.path}", done, advice):
            yield

    def _line(self, row: Mapping[str, Any]) -> bytes:
        values = [row.get(column) for column in self.columns]
        if self._is_csv:
            return _csv_line(values)
        return json.dumps(dict(zip(self.columns, values, strict=True)), ensure_ascii=False).encode() + b"\n"

    def _lock(self) -> None:
        """Refuse a table that another process is writing; the lock ends with the process."""
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise self._refusal("another process is writing it", "wait for it, or name another table") from error
        except OSError:  # a file system without locks
            return

    def _write(self, line: bytes) -> None:
        before = self._file.seek(0, os.SEEK_END)
        try:
            left = memoryview(line)
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            with suppress(OSError):  # what is left of the row would be cut by --resume
                self._file.truncate(before)
            raise

    def _read(self) -> int:
        """Note the paths of all whole rows; return where the last of them ends."""
        end = 0
        first = _csv_line(self.columns) if self._is_csv else b'{"path": "'
        with self._rows.open("rb") as file:
            try:
                for number, (line, place) in enumerate(_whole_lines(file), start=1):
                    row: Any = next(csv.reader([line], strict=True)) if self._is_csv else json.loads(line)
                    if number == 1:
                        self._refuse_others(list(row))
                    if len(row) != len(self.columns):
                        raise ValueError(f"line {number} has {len(row)} columns")
                    if not (self._is_csv and number == 1):
                        path, error = (row[0], row[-1]) if self._is_csv else (row["path"], row.get("error"))
                        self.done.add(path)
                        if error:
                            self._failed.add(path)
                    end = place
                file.seek(0)
                if end == 0 and not first.startswith(file.read(len(first))):  # only a row of ours may be cut
                    raise ValueError("it begins otherwise")
            except (ValueError, KeyError, TypeError, csv.Error, StopIteration, RecursionError) as error:
                raise self._refusal(f"it is damaged, or no such table: {error}") from error
        return end

    def _pack(self) -> None:
        """Make the Parquet file of the rows."""
        pyarrow, parquet = _pyarrow(self.path)
        kinds = {
            **dict.fromkeys(("path", "error"), pyarrow.string()),
            **dict.fromkeys(("width", "height", "frame"), pyarrow.int32()),
            "time": pyarrow.timestamp("ms"),
        }
        schema = pyarrow.schema([(column, kinds.get(column, pyarrow.float64())) for column in self.columns])
        with (
            self._rows.open("rb") as rows,
            replacing(self.path) as file,
            parquet.ParquetWriter(file, schema) as writer,
        ):
            while lines := list(islice(rows, _ROWS_AT_ONCE)):
                found = [json.loads(line) for line in lines]
                for row in found:
                    if row.get("time"):
                        row["time"] = datetime.fromisoformat(row["time"])
                writer.write_table(pyarrow.Table.from_pylist(found, schema))

    def _unpack(self) -> None:
        """Make the file of rows of a complete Parquet file, which cannot be appended to."""
        pyarrow, parquet = _pyarrow(self.path)
        with self.path.open("rb") as file, replacing(self._rows) as rows:
            try:
                table = parquet.ParquetFile(file)
                self._refuse_others(table.schema_arrow.names)
                for batch in table.iter_batches(_ROWS_AT_ONCE):
                    for row in batch.to_pylist():
                        if row.get("time"):
                            row["time"] = row["time"].isoformat()
                        rows.write(self._line(row))
            except (pyarrow.ArrowException, AttributeError) as error:  # a column of another type has no isoformat
                raise self._refusal(f"it is damaged, or no such table: {error}") from error

    def _refuse_others(self, columns: Sequence[str]) -> None:
        if list(columns) != list(self.columns):
            lacks, more = (
                ", ".join(repr(name) for name in some if name not in others) or "nothing"
                for some, others in ((self.columns, columns), (columns, self.columns))
            )
            raise self._refusal(f"it has other columns: it lacks {lacks[:300]}; it has more: {more[:300]}")

    def _refusal(self, found: str, advice: str = "") -> OutputError:
        return OutputError(
            asked=f"go on with the table {self.path}",
            found=found,
            done="nothing was computed or changed",
            advice=advice
            or "use the model and the options it was begun with, or name another table; --force replaces it",
            path=self.path,
        )


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def rows_path(path: Path) -> Path:
    """Return the file that rows are appended to: the file itself, or one beside what is read only when complete."""
    return path if path.suffix.lower() in (".csv", ".jsonl") else path.with_name(f"{path.name}.jsonl")


def _share_column(name: str) -> str:
    """Return the column of a class; ADE20K has one called "path"."""
    return f"{one_line(name)} share" if name in (*BEFORE, *OF_FRAME, *AFTER) else one_line(name)


def _confidence_column(name: str) -> str:
    return f"{one_line(name)} confidence"


def one_line(name: str | os.PathLike[str]) -> str:
    """Escape what is not UTF-8, as names of files may be, and line breaks: a row is one line of a table."""
    text = os.fspath(name).encode(errors="backslashreplace").decode()
    return text.replace("\n", "\\n").replace("\r", "\\r")


def _csv_line(values: Sequence[object]) -> bytes:
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue().encode()


def _whole_lines(file: IO[bytes]) -> Iterator[tuple[str, int]]:
    """Yield each line that is complete, and where it ends."""
    end = 0
    for line in file:
        if line.endswith(b"\n"):
            end += len(line)
            yield line.decode(), end


def _pyarrow(path: Path) -> tuple[ModuleType, ModuleType]:
    """Return pyarrow and its Parquet module; ConfigError if it is missing."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            asked=f"write the table {path}",
            found=f"Parquet needs pyarrow: {error}",
            done="nothing was computed or written",
            advice="pip install '.[tables]' in the checkout of hrnet-zoo, or use .csv or .jsonl",
        ) from error
    return pyarrow, parquet
