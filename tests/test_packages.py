"""Compiled plans in the cache: whole, this user's alone, and bounded in number."""

import os
import stat
import zipfile
from pathlib import Path

import pytest

from hrnet_zoo import upkeep
from hrnet_zoo.errors import CachePermissionError, CheckpointFormatError
from hrnet_zoo.weights import cache as files
from hrnet_zoo.weights import packages
from tests.cache_fsck import fsck

CODE = b"\x90" * 1000


@pytest.fixture
def package(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "plan.pt2", "w") as made:
        made.writestr("code", CODE)
    return tmp_path / "plan.pt2"


def test_kept_and_found(package: Path) -> None:
    assert packages.find("a") is None
    path = packages.keep("a", package)
    assert packages.find("a") == path
    assert path.read_bytes() == package.read_bytes()
    if os.name == "posix":
        assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)] == [0o600, 0o700]
    assert fsck(settled=True) == {"package": 1}


@pytest.mark.parametrize("fault", ["a bit", "cut", "empty", "no zip"])
def test_damaged(fault: str, package: Path) -> None:
    path = packages.keep("a", package)
    whole = path.read_bytes()
    bodies = {"a bit": whole.replace(b"\x90\x90", b"\x91\x90", 1), "cut": whole[:-30], "empty": b"", "no zip": CODE}
    path.write_bytes(bodies[fault])
    with pytest.raises(CheckpointFormatError, match="found: it is damaged: ") as caught:
        packages.check(path)
    assert "it is made again" in caught.value.advice
    (verdict,) = upkeep.verify()
    assert isinstance(verdict.error, CheckpointFormatError)
    assert packages.find("a") is None
    assert fsck() == {"lock": 1}
    with pytest.raises(CheckpointFormatError):
        packages.keep("a", _broken(package, bodies[fault]))
    assert fsck() == {"lock": 1}


def _broken(package: Path, body: bytes) -> Path:
    package.write_bytes(body)
    return package


@pytest.mark.skipif(os.name != "posix", reason="no modes")
@pytest.mark.parametrize("what", ["file", "folder"])
@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_others_can_write_it(what: str, mode: int, package: Path) -> None:
    path = packages.keep("a", package)
    each = path if what == "file" else path.parent
    each.chmod(mode)
    with pytest.raises(CachePermissionError, match=f"{each} belongs to another user, or others may write it"):
        packages.find("a")
    assert path.exists()


@pytest.mark.skipif(os.name != "posix", reason="no users")
def test_another_user_made_it(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packages.keep("a", package)
    owner = path.stat().st_uid
    if owner == 0:  # of root's files, all are taken
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(CachePermissionError, match="it was not loaded"):
        packages.find("a")


def test_the_latest_stay(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "MOST", 2)
    for number, stem in enumerate("abc"):
        os.utime(packages.keep(stem, package), (1e9 + number,) * 2)
    assert sorted(entry.stem for entry in files.entries()) == ["b", "c"]
    assert {entry.kind for entry in files.clear()} == {"package"}
