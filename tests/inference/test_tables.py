"""Tables of shares: what a row holds, what survives a kill, and what is refused."""

import csv
import dataclasses
import json
import math
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hrnet_zoo.errors import ConfigError, ImageError, OutputError, OutputSpaceError
from hrnet_zoo.inference.result import SegmentationResult
from hrnet_zoo.inference.tables import TableWriter, error_row, table_columns, table_row

CLASSES = ("road", "path", "sky, blue")
COLUMNS = table_columns(CLASSES)


@pytest.fixture(params=[".csv", ".jsonl", ".parquet"])
def suffix(request: pytest.FixtureRequest) -> str:
    if request.param == ".parquet":
        pytest.importorskip("pyarrow")
    return str(request.param)


def result(mask: Any = ((0, 0), (0, 2))) -> SegmentationResult:
    labels = np.array(mask, np.uint8)
    return SegmentationResult(np.zeros((*labels.shape, 3), np.uint8), labels, CLASSES, ((0, 0, 0),) * 3)


def rows(number: int) -> list[dict[str, Any]]:
    """Return rows of all kinds: with and without time and place, with names that need quotes, with errors."""
    found: list[dict[str, Any]] = []
    for index in range(number):
        place = {"time": "2024-05-01T12:30:00", "latitude": 48.1, "longitude": -11.5} if index % 2 else {}
        row = table_row(f'a "b",\n{index}.jpg', result(), {"road": 1 / (index + 3)}) if index % 5 else {}
        found.append({**error_row(f"é\u202e{index}", 'is, "broken"\r\n'), **row, **(place if row else {})})
    return found


@pytest.fixture(autouse=True)
def _no_file_is_read(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "reads" not in request.fixturenames:
        from hrnet_zoo.images.capture import Capture

        monkeypatch.setattr("hrnet_zoo.inference.tables.read_capture", lambda _: Capture())


@pytest.fixture
def reads() -> None:
    """Let a test read EXIF data."""


def write(path: Path, some: list[dict[str, Any]], **options: bool) -> None:
    with TableWriter(path, COLUMNS, **options) as table:
        for row in some:
            table.append(row)


def read(path: Path) -> list[dict[str, Any]]:
    """Read a table with the standard library, or pyarrow; what is unknown is None."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    from pyarrow import parquet

    return list(parquet.read_table(path).to_pylist())


def test_columns_are_unique_and_bear_the_classes_names() -> None:
    """ADE20K has a class `path`."""
    assert (
        *("path", "width", "height", "time", "latitude", "longitude"),
        *("road", "path share", "sky, blue"),
        "error",
    ) == COLUMNS
    assert len(table_columns(("a", "b", "a"))) == 9


def test_a_row(tmp_path: Path, reads: None) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x9003] = "2024:05:01 12:30:00"
    Image.new("RGB", (2, 2)).save(path, exif=exif)
    row = table_row(path, result())
    assert tuple(row) == COLUMNS
    assert row == {
        "path": str(path),
        "width": 2,
        "height": 2,
        "time": "2024-05-01T12:30:00",
        "latitude": None,
        "longitude": None,
        "road": 0.75,
        "path share": 0,
        "sky, blue": 0.25,
        "error": "",
    }
    assert table_row(path, result(), {"path": 1})["path share"] == 1
    with pytest.raises(ImageError, match="absent"):
        table_row(tmp_path / "absent.jpg", result())


def test_what_is_written_is_read(suffix: str, tmp_path: Path) -> None:
    path, some = tmp_path / f"a{suffix}", rows(12)
    write(path, some)
    assert [child.name for child in tmp_path.iterdir()] == [path.name]
    found = read(path)
    assert [list(row) for row in found] == [list(COLUMNS)] * 12
    for row, expected in zip(found, some, strict=True):
        for column in COLUMNS:
            value, wanted = row[column], expected.get(column)
            if suffix == ".csv":
                assert value == ("" if wanted is None else str(wanted))
            elif suffix == ".parquet" and column == "time":
                assert value == (wanted and datetime.fromisoformat(wanted))
            else:
                assert value == wanted


def test_pandas_reads_it_without_a_word(suffix: str, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    path = tmp_path / f"a{suffix}"
    write(path, rows(12))
    if suffix == ".csv":
        frame = pandas.read_csv(path, parse_dates=["time"])
    else:
        frame = pandas.read_json(path, lines=True) if suffix == ".jsonl" else pandas.read_parquet(path)
    assert list(frame.columns) == list(COLUMNS)
    assert frame["road"].dtype == frame["latitude"].dtype == np.float64
    assert frame["road"][1] == 1 / 4
    assert frame["longitude"].max() == -11.5
    assert frame["width"].sum() == 18
    assert pandas.to_datetime(frame["time"])[1] == datetime(2024, 5, 1, 12, 30)


@pytest.mark.parametrize("number", [0, 1, 7])
def test_resumed_anywhere_it_is_the_same_file(suffix: str, number: int, tmp_path: Path) -> None:
    """After a kill within any byte of the last row, too, and after a complete table."""
    some = rows(8)
    write(tmp_path / f"whole{suffix}", some)
    path = tmp_path / f"a{suffix}"
    appended = path if suffix != ".parquet" else path.with_name(f"{path.name}.jsonl")
    table = TableWriter(path, COLUMNS)
    for row in some[:number]:
        table.append(row)
    kept = appended.read_bytes()
    table.append(some[number])
    torn = appended.read_bytes()
    table._file.close()
    for end in range(len(kept), len(torn), 7):
        appended.write_bytes(torn[:end])
        with TableWriter(path, COLUMNS, resume=True) as again:
            assert [again.has(row["path"]) for row in some] == [True] * number + [False] * (8 - number)
            for row in some[number:]:
                again.append(row)
        assert path.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
        assert len(list(tmp_path.iterdir())) == 2
    write(path, some[:2], force=True)
    with TableWriter(path, COLUMNS, resume=True) as again:
        assert again.done == {some[0]["path"], some[1]["path"]}
        for row in some[2:]:
            again.append(row)
    assert read(path) == read(tmp_path / f"whole{suffix}")


def test_an_error_within_keeps_the_rows(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    table = TableWriter(path, COLUMNS)
    table.append(rows(1)[0])
    table.__exit__(KeyboardInterrupt)
    assert [child.name for child in tmp_path.iterdir()] == ["a.parquet.jsonl"]
    with pytest.raises(OutputError, match=r"a\.parquet\.jsonl[\s\S]*exists"):
        write(path, rows(1))
    write(path, rows(3)[1:], resume=True)
    assert len(read(path)) == 3


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", [dict(error_row("\udcff.jpg", "bad"))])
    with TableWriter(tmp_path / "a.csv", COLUMNS, resume=True) as table:
        assert table.has("\udcff.jpg")
        assert table.done == {"\\udcff.jpg"}


def test_another_table_is_refused_and_stays(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    write(path, rows(3))
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"other columns: it lacks 'car'; it has more: 'path share', 'sky, blue'"):
        TableWriter(path, table_columns(("road", "car")), resume=True)
    with pytest.raises(OutputError, match=r"it exists already\n[\s\S]*--resume goes on with it"):
        TableWriter(path, COLUMNS)
    assert path.read_bytes() == before
    doubled = [before[: len(before) // 2] + b"\n" + before] * (suffix != ".parquet")
    for spoilt in (
        b"notes without a line break",
        b"no table\n",
        b"\xff\xfe\n",
        b'{"path": 1}\n',
        b"[]\n",
        b"\n",
        *doubled,
    ):
        path.write_bytes(spoilt)
        with pytest.raises(OutputError, match="go on with the table"):
            TableWriter(path, COLUMNS, resume=True)
        assert path.read_bytes() == spoilt
        assert len(list(tmp_path.iterdir())) == 1
    write(path, rows(2), force=True)
    assert len(read(path)) == 2


def test_two_writers_of_one_table(suffix: str, tmp_path: Path) -> None:
    """The second one is refused, and takes nothing from the first."""
    path = tmp_path / f"a{suffix}"
    with TableWriter(path, COLUMNS) as table:
        table.append(rows(1)[0])
        for options in ({"resume": True}, {"force": True}):
            with pytest.raises(OutputError, match="another process is writing it"):
                TableWriter(path, COLUMNS, **options)
        table.append(rows(2)[1])
    assert len(read(path)) == 2


def test_where_no_table_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"the ending '\.xlsx'[\s\S]*\.csv, \.jsonl, \.parquet"):
        TableWriter(tmp_path / "a.xlsx", COLUMNS)
    with pytest.raises(OutputError, match="its own folder is missing"):
        TableWriter(tmp_path / "absent" / "a.csv", COLUMNS)
    (tmp_path / "b.csv").mkdir()
    os.mkfifo(tmp_path / "c.csv")  # where a writer would wait for a reader
    for name in "bc":
        with pytest.raises(OutputError, match="it is a folder or a device"):
            TableWriter(tmp_path / f"{name}.csv", COLUMNS, resume=True)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[tables\]'"):
        TableWriter(tmp_path / "a.parquet", COLUMNS)
    assert {child.name for child in tmp_path.iterdir()} == {"b.csv", "c.csv"}


def test_mean_confidence_of_the_classes_present() -> None:
    confidence = np.array([[1, 0.5], [0.75, 0.25]], np.float16)
    row = table_row("a.jpg", dataclasses.replace(result(), confidence=confidence))
    assert tuple(row) == table_columns(CLASSES, confidence=True)
    assert [row[f"{name} confidence"] for name in CLASSES] == [0.75, None, 0.25]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
def test_a_full_disk_leaves_whole_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    table = TableWriter(path, COLUMNS)
    table.append(rows(2)[0])
    before = path.read_bytes()
    table._file.close()
    table._file = Path("/dev/full").open("r+b", buffering=0)  # noqa: SIM115
    with pytest.raises(OutputSpaceError, match=r"rows in .*a\.csv were kept"):
        table.append(rows(2)[1])
    table._file.close()
    assert path.read_bytes() == before


def test_shares_of_a_panorama_are_solid_angles() -> None:
    """Of a cap of 25 degrees around a point of the horizon, and of what lies 30 degrees below it."""
    height = 1500
    latitude = math.pi * (0.5 - (np.arange(height) + 0.5) / height)[:, None]
    longitude = math.pi * ((np.arange(2 * height) + 0.5) / height - 1)[None]
    mask = np.zeros((height, 2 * height), np.uint8)
    mask[np.cos(latitude) * np.cos(longitude) > math.cos(math.radians(25))] = 1
    mask[np.broadcast_to(latitude < math.radians(-30), mask.shape)] = 2
    found = result(mask).fractions(panorama=True)
    expected = {"path": (1 - math.cos(math.radians(25))) / 2, "sky, blue": 0.25}
    for name, share in expected.items():
        assert abs(found[name] - share) < 0.001 * share
    assert sum(found.values()) == pytest.approx(1)
    assert list(found) == sorted(found, key=lambda name: -found[name])
    assert abs(result(mask).fractions()["path"] - expected["path"]) > 0.01 * expected["path"]
    whole = result(np.full((8, 16), 1)).fractions(panorama=True)
    assert whole == {"path": pytest.approx(1)}
    with pytest.raises(ImageError, match="3 x 2 pixels; an equirectangular panorama is twice as wide as high"):
        result(np.zeros((2, 3))).fractions(panorama=True)
