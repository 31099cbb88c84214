"""Compiled plans in the cache: whole, this user's alone, and bounded in number."""

import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hrnet_zoo import upkeep
from hrnet_zoo.catalog import model_info
from hrnet_zoo.errors import CacheError, CachePermissionError, CheckpointFormatError
from hrnet_zoo.weights import cache as files
from hrnet_zoo.weights import packages
from tests.cache_fsck import fsck

CODE = b"\x90" * 1000

pytestmark = pytest.mark.skipif(os.name != "posix", reason="none is kept where modes of files tell nothing")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "plan.pt2", "w") as made:
        made.writestr("code", CODE)
    return tmp_path / "plan.pt2"


def taken(tmp_path: Path, stem: str = "a") -> bytes | None:
    copy = tmp_path / f"copy{len(list(tmp_path.glob('copy*')))}"
    return copy.read_bytes() if packages.take(stem, copy) else None


def test_kept_and_taken(package: Path, tmp_path: Path) -> None:
    assert taken(tmp_path) is None
    packages.keep("a", package)
    assert taken(tmp_path) == package.read_bytes()
    path = files.package_path("a")
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)] == [0o600, 0o700]
    assert fsck(settled=True) == {"package": 1}
    assert [verdict.error for verdict in upkeep.verify()] == [None]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a bit of the code": lambda whole: whole.replace(b"\x90\x90", b"\x91\x90", 1),
    "cut": lambda whole: whole[:-30],
    "empty": lambda whole: b"",
    "no zip": lambda whole: CODE,
    # Of the directory at the end: flags (8 bytes in), method (10), the name (46).
    "said to be encrypted": lambda whole: changed(whole, 8, 1),
    "said to be deflated": lambda whole: changed(whole, 10, 8),
    "of no known method": lambda whole: changed(whole, 10, 77),
    "a name of no encoding": lambda whole: changed(changed(whole, 9, 8), 46, 0xFF),
}


def changed(whole: bytes, place: int, value: int) -> bytes:
    at = whole.rindex(b"PK\x01\x02") + place
    return whole[:at] + bytes([value]) + whole[at + 1 :]


@pytest.mark.parametrize("fault", DAMAGE)
def test_damaged(fault: str, package: Path, tmp_path: Path) -> None:
    packages.keep("a", package)
    path = files.package_path("a")
    whole = path.read_bytes()
    path.write_bytes(DAMAGE[fault](whole))
    with pytest.raises(CheckpointFormatError, match="found: it is damaged: ") as caught:
        taken(tmp_path)
    assert "it is made again" in caught.value.advice
    (verdict,) = upkeep.verify()
    assert isinstance(verdict.error, CheckpointFormatError)
    packages.keep("a", package)
    assert taken(tmp_path) == whole
    package.write_bytes(DAMAGE[fault](whole))
    with pytest.raises(CheckpointFormatError):
        packages.keep("b", package)
    path.write_bytes(DAMAGE[fault](whole))
    (verdict,) = upkeep.repair(progress=False)
    assert verdict.error is None
    assert fsck(settled=True) == {"lock": 1}


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_others_can_write_it(mode: int, package: Path, tmp_path: Path) -> None:
    packages.keep("a", package)
    files.package_path("a").chmod(mode)
    with pytest.raises(CachePermissionError, match="it belongs to another user, or others may write it"):
        taken(tmp_path)


def test_another_user_made_it(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages.keep("a", package)
    path = files.package_path("a")
    owner = path.stat().st_uid
    if owner == 0:  # of root's files, all are taken
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(CachePermissionError, match="it was not loaded"):
        taken(tmp_path)


def test_a_link_is_not_followed(package: Path, tmp_path: Path) -> None:
    packages.keep("a", package)
    files.package_path("b").symlink_to(files.package_path("a"))
    with pytest.raises(CacheError, match="read"):
        taken(tmp_path, "b")


def test_nothing_is_kept_where_modes_tell_nothing(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages.keep("a", package)
    monkeypatch.setattr(packages, "KEPT", False)
    assert taken(tmp_path) is None
    packages.keep("b", package)
    assert not files.is_cached("b", "package")


def test_the_latest_stay(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "MOST", 2)
    for number, stem in enumerate("abc"):
        packages.keep(stem, package)
        os.utime(files.package_path(stem), (1e9 + number,) * 2)
    assert sorted(entry.stem for entry in files.entries()) == ["b", "c"]
    assert {entry.kind for entry in files.clear()} == {"package"}


def test_those_of_a_forgotten_model_go(package: Path) -> None:
    info = model_info("fcn_hr18s_cityscapes_40k")
    for stem in (f"{info.name}-32x64-0a1b", f"{info.name}-8x8-ff", f"{info.name}_x-8x8-ff", "other-8x8-ff"):
        packages.keep(stem, package)
    assert len([entry for entry in upkeep.forget(info) if entry.kind == "package"]) == 2
    assert sorted(entry.stem for entry in files.entries() if entry.kind == "package") == [
        f"{info.name}_x-8x8-ff",
        "other-8x8-ff",
    ]
