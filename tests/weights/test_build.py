"""What every checkpoint's way into the cache is made of."""

import errno
import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hrnet_zoo.errors import (
    CacheError,
    CachePermissionError,
    CacheSpaceError,
    CheckpointNotFoundError,
    HashMismatchError,
    StateDictMismatchError,
)
from hrnet_zoo.weights import build
from hrnet_zoo.weights import cache as files
from hrnet_zoo.weights.build import check_hash, entries, provenance_of, read_file, size_limit, with_classes
from hrnet_zoo.weights.part import disk_errors
from tests.support.cache_fsck import fsck
from tests.support.http_server import FaultServer, whole
from tests.support.survival import BODY, CONVERTED, DIGEST, EXPECTED, STEM, load
from tests.support.tables import ROOT

needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become nobody")
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # SHA-256 of nothing


def test_check_hash_takes_a_beginning_or_the_whole() -> None:
    for stated in ("", "e3b0c442", EMPTY):
        check_hash(b"", stated, "x.pth")
    with pytest.raises(
        HashMismatchError, match=rf"x\.pth[\s\S]*SHA-256 {EMPTY} of 0 bytes; expected e3b0c443\.\.\."
    ) as caught:
        check_hash(b"", "e3b0c443", "x.pth")
    assert caught.value.size == 0


def test_provenance_of() -> None:
    facts = provenance_of(b"", ["road", 'Schnür"'], "")
    assert facts["source_sha256"] == EMPTY
    assert facts["source_size"] == "0"
    assert facts["converter_version"] == "2"
    assert json.loads(facts["file_classes"]) == ["road", 'Schnür"']
    assert "file_notes" not in facts
    assert provenance_of(b"", [], "a note")["file_notes"] == "a note"
    assert "file_classes" not in provenance_of(b"", [], "")


def test_read_file(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"x")
    assert read_file(tmp_path / "a.pth") == b"x"
    with pytest.raises(CheckpointNotFoundError, match="no such file"):
        read_file(tmp_path / "b.pth")
    with pytest.raises(CheckpointNotFoundError, match="a folder or special file"):
        read_file(tmp_path)
    os.truncate(tmp_path / "a.pth", 1 << 42)  # of which the disk holds nothing
    with pytest.raises(CheckpointNotFoundError, match="a file of 4,398,046,511,104 bytes; no checkpoint"):
        read_file(tmp_path / "a.pth")
    with pytest.raises(CheckpointNotFoundError, match="too long"):
        read_file(tmp_path / ("x" * 1000))


def test_entries_and_classes() -> None:
    network = entries("hr18", 21)
    assert network["decode_head.conv_seg.weight"] == torch.Size((21, 270, 1, 1))
    assert with_classes(network, 5)["decode_head.conv_seg.bias"] == torch.Size((5,))
    assert network["decode_head.conv_seg.bias"] == torch.Size((21,))


def test_size_limit_is_just_above_the_file() -> None:
    published = 15_972_939  # bytes of a W18-Small file with 19 classes
    assert published < size_limit(entries("hr18s", 19)) < 1.4 * published


# --- the cached file is there, damaged, or cannot be read ------------------------------------------------------------


def test_what_cannot_be_read_is_neither_removed_nor_fetched(host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory, no permission, a failing disk: the file may be whole, and of 264 MB."""
    url = host.play("/a.pth", whole(BODY))
    load(url)
    for code, kind in ((errno.EIO, CacheError), (errno.ENOMEM, CacheError), (errno.EACCES, CachePermissionError)):

        def fails(*_: object, code: int = code, **__: object) -> None:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(mmap, "mmap", fails)
            with pytest.raises(CacheError, match=STEM) as caught:
                load(url)
        assert type(caught.value) is kind
        assert caught.value.path == files.model_path(STEM)
    load(url)
    assert len(host.requests) == 1
    fsck(EXPECTED, DIGEST, settled=True)


def test_a_stale_handle_is_tried_again(host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS answers when the file was replaced on the server: look once more, and fetch nothing."""
    url = host.play("/a.pth", whole(BODY))
    load(url)
    real, calls = mmap.mmap, []

    def stale_once(*args: Any, **options: Any) -> object:
        calls.append(args)
        if len(calls) == 1:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(*args, **options)

    monkeypatch.setattr(mmap, "mmap", stale_once)
    load(url)
    assert len(calls) == 2
    assert len(host.requests) == 1


def test_one_that_another_process_has_mended_is_used(host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two find the same damage; what the first has made since is not thrown away by the second."""
    url = host.play("/a.pth", whole(BODY))
    load(url)
    final = files.model_path(STEM)
    final.write_bytes(CONVERTED[:1000])
    real = build._mend

    def mend(*arguments: object) -> None:
        build.publish(STEM, CONVERTED)
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(build, "_mend", mend)
    load(url)
    assert len(host.requests) == 1
    fsck(EXPECTED, settled=True)


def test_a_cached_file_of_another_network_is_not_taken(host: FaultServer) -> None:
    load(host.play("/a.pth", whole(BODY)))
    path = files.model_path(STEM)
    with pytest.raises(StateDictMismatchError):
        build.load(lambda: path, lambda _: {})
    assert path.exists()


# --- the disk --------------------------------------------------------------------------------------------------------


def test_the_part_goes_only_where_that_helps(host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk with room for one copy does without the download at the end; one without room for that keeps it."""
    url = host.play("/a.pth", whole(BODY))
    real, failures = files.publish, [1]

    def publish(*arguments: object) -> Path:
        if failures[0]:
            failures[0] -= 1
            with disk_errors(files.model_path(STEM), "write the model"):
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "publish", publish)
    load(url)
    fsck(EXPECTED, DIGEST, settled=True)
    files.clear()
    failures[0] = 1
    free = len(CONVERTED) - len(BODY) - 1
    monkeypatch.setattr(build, "shutil", SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=free)))
    with pytest.raises(CacheSpaceError):
        load(url)
    assert fsck()["part"] == 2
    load(url)
    assert len(host.requests) == 2
    fsck(EXPECTED, DIGEST, settled=True)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o027, 0o002])
def test_modes_follow_the_umask(host: FaultServer, mask: int) -> None:
    old = os.umask(mask)
    try:
        load(host.play("/a.pth", whole(BODY)))
        fsck(EXPECTED, DIGEST, settled=True)
    finally:
        os.umask(old)


AS_NOBODY = """
import os, sys
import torch
from hrnet_zoo.errors import CachePermissionError
from tests.support.survival import load
wrote, folder = [], os.environ["HRNET_ZOO_CACHE"]
def hook(event, arguments):
    if event == "fcntl.flock" or event in ("os.mkdir", "os.remove", "os.rename", "os.utime"):
        wrote.append((event, arguments))
    elif event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR) and folder in str(arguments[0]):
        wrote.append((event, arguments))
if sys.argv[1] == "nobody":
    os.setuid(65534)
sys.addaudithook(hook)
load("http://127.0.0.1:9/never.pth")
print(wrote)
os.environ["HRNET_ZOO_CACHE"] += "/v1/elsewhere"
try:
    load("http://127.0.0.1:9/never.pth")
except CachePermissionError as error:
    print(error.path)
"""


@pytest.mark.parametrize("how", ["nobody", "mounted"])
@needs_root
def test_a_cache_that_may_only_be_read_serves(how: str, host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """To another user, and from a file system that is mounted so: mode bits alone stop no root."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        Path(folder).chmod(0o755)
        monkeypatch.setenv("HRNET_ZOO_CACHE", folder)
        load(host.play("/a.pth", whole(BODY)))
        read_only = ["-o", "bind,ro"]
        mounted = how == "mounted"
        mount, umount = shutil.which("mount") or "mount", shutil.which("umount") or "umount"
        if mounted and subprocess.run([mount, *read_only, folder, folder], check=False).returncode:  # noqa: S603
            pytest.skip("this user may not mount a file system")
        try:
            done = subprocess.run(  # noqa: S603 - our own words
                [sys.executable, "-c", AS_NOBODY, how], cwd=ROOT, capture_output=True, text=True, check=False
            )
        finally:
            if mounted:
                subprocess.run([umount, folder], check=True)  # noqa: S603
    assert done.stderr == ""
    wrote, path = done.stdout.splitlines()
    assert wrote == "[]"
    assert path.startswith(f"{folder}/v1/elsewhere")
