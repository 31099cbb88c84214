"""Files appear whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from hrnet_zoo.errors import OutputError, OutputSpaceError
from hrnet_zoo.images.atomic import atomic_write, check_place, make_folder, refuse_existing


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    atomic_write(path, b"one")
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_refuses_a_missing_folder_and_a_folder_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"write .*b\.bin[\s\S]*No such file or directory[\s\S]*no file was made"):
        atomic_write(tmp_path / "none" / "b.bin", b"")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match=r"Is a directory|directory"):
        atomic_write(tmp_path / "taken", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_makes_folders(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="name another folder"):
        make_folder(tmp_path / "file" / "c")


@pytest.mark.parametrize("address", ["s3://user:S3cret@bucket/run", "https://host/run?sig=S3cret", "gs:/bucket"])
def test_an_address_is_no_folder(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="an address") as caught:
        make_folder(Path(address))
    assert "S3cret" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    Path("odd:").mkdir()
    make_folder(Path("odd:/run"))
    assert Path("odd:/run").is_dir()


def test_a_place_where_nothing_can_be_written(tmp_path: Path) -> None:
    check_place(tmp_path / "new.json", force=False)
    (tmp_path / "file").touch()
    check_place(tmp_path / "file", force=True)
    with pytest.raises(OutputError, match=r"it exists already[\s\S]*--force"):
        check_place(tmp_path / "file", force=False)
    for path in (tmp_path, tmp_path / "absent" / "x", tmp_path / "file" / "x"):
        with pytest.raises(OutputError, match="it is a folder or a device, or its own folder is missing"):
            check_place(path, force=True)


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "a.bin", b"one")
    assert not list(tmp_path.iterdir())


def test_files_that_would_be_replaced(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "c", "x" * 5000)]
    refuse_existing(paths)
    paths[1].touch()
    paths[2].symlink_to(tmp_path / "absent")
    with pytest.raises(OutputError, match=r"it exists already \(2 of these files exist\)") as caught:
        refuse_existing(paths)
    assert caught.value.path == paths[1]


def test_a_full_disk_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for code, kind, exit_code in (
        (errno.ENOSPC, OutputSpaceError, 6),
        (errno.EFBIG, OutputSpaceError, 6),
        (errno.EACCES, OutputError, 5),
    ):

        def fail(*_: object, code: int = code) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OutputError) as caught:
            atomic_write(tmp_path / "a", b"x")
        assert (type(caught.value), caught.value.exit_code) == (kind, exit_code)
        assert not list(tmp_path.iterdir())
