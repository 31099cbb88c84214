"""Files appear whole or not at all."""

from pathlib import Path

import pytest

from hrnet_zoo.errors import OutputError
from hrnet_zoo.outputs import check_place, make_folder, write_file


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_file(path, b"one")
    write_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_refuses_a_missing_folder_and_a_folder_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"write .*b\.bin[\s\S]*No such file or directory[\s\S]*no file was made"):
        write_file(tmp_path / "none" / "b.bin", b"")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match=r"Is a directory|directory"):
        write_file(tmp_path / "taken", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_makes_folders(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="name another folder"):
        make_folder(tmp_path / "file" / "c")


def test_a_place_where_nothing_can_be_written(tmp_path: Path) -> None:
    check_place(tmp_path / "new.json")
    (tmp_path / "file").touch()
    check_place(tmp_path / "file")
    for path, found in (
        (tmp_path, "it is a folder"),
        (tmp_path / "absent" / "x", "there is no folder"),
        (tmp_path / "file" / "x", "there is no folder"),
    ):
        with pytest.raises(OutputError, match=found):
            check_place(path)
