"""The whole way of a published file: local web server, hash, gate, conversion, cache, memory map."""

import copy
import dataclasses
import hashlib
import json
import os
import socket
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hrnet_zoo.datasets import CITYSCAPES
from hrnet_zoo.errors import (
    CacheError,
    CheckpointError,
    CheckpointFormatError,
    CheckpointNotFoundError,
    ConfigError,
    HashMismatchError,
    HTTPStatusError,
    OfflineError,
    UnexpectedContentError,
    UnknownModelError,
)
from hrnet_zoo.weights import cache, convert
from hrnet_zoo.weights.convert import network_shapes, read_checkpoint
from hrnet_zoo.weights.scan import inspect_safetensors
from hrnet_zoo.zoo.catalog import ModelInfo, model_info
from hrnet_zoo.zoo.create import create_model
from hrnet_zoo.zoo.resolve import cache_key, import_file, load_published, mirror
from tests.support.checkpoints import saved
from tests.support.http_server import FaultServer, ranged, status, whole
from tests.zoo.test_custom import MMENGINE, mmengine

NAME = "fcn_hr18s_cityscapes_40k"
NETWORK = network_shapes("hr18s", 19)


@pytest.fixture
def row(hr18s: bytes) -> ModelInfo:
    """Make a row that states the hash of the stand-in."""
    return dataclasses.replace(model_info(NAME), sha256_prefix=hashlib.sha256(hr18s).hexdigest()[:8])


def path_of(info: ModelInfo) -> str:
    return info.checkpoint_url.removeprefix("https://download.openmmlab.com")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_published_file_through_a_mirror(
    row: ModelInfo, hr18s: bytes, host: FaultServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.play(path_of(row), whole(hr18s))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    state, provenance = load_published(row, NETWORK, progress=False)
    original = read_checkpoint(hr18s, "stand-in").state
    assert list(state) == list(original)
    assert all(torch.equal(state[name], original[name]) for name in original)
    assert provenance["source_url"] == row.checkpoint_url
    assert provenance["source_sha256"] == hashlib.sha256(hr18s).hexdigest()
    assert provenance["source_size"] == str(len(hr18s))
    assert provenance["model"] == NAME
    assert json.loads(provenance["file_classes"]) == ["road", "sidewalk", "building"]
    assert "mmseg_version" not in str(provenance)  # nothing else of the file's own metadata travels on
    stem = f"fcn_hr18s_512x1024_40k_cityscapes_20200601_014216-{row.sha256_prefix}-c2"
    assert files(cache) == ["CACHEDIR.TAG", f"{stem}.safetensors"]
    assert len(host.requests) == 1


def test_the_file_that_mmengine_wrote(host: FaultServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """OCRNet's of 2023: its publisher removed the optimizer alone, so the history of each figure is in it."""
    network = create_model("ocrnet_hr18s_cityscapes_40k", pretrained=False, device="cpu")
    with monkeypatch.context() as patch:
        for module in MMENGINE:
            patch.setitem(sys.modules, module, types.ModuleType(module))
        content: Any = mmengine(network, tmp_path)
        figures = content["message_hub"]["log_scalars"]
        figures.update({f"train/{number}": copy.deepcopy(figures["train/loss"]) for number in range(4)})
        for key in ("optimizer", "ema_state_dict"):
            del content[key]
        file = saved({**content, "state_dict": network.state_dict()}, modern=True)
    assert len(file) > 4 * sum(each.numel() for each in network.parameters()) + (12 << 20)
    info = model_info("ocrnet_hr18s_cityscapes_40k")
    assert "_20230227_" in info.file_name
    row = dataclasses.replace(info, sha256_prefix=hashlib.sha256(file).hexdigest()[:8])
    host.play(path_of(row), whole(file))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    state, provenance = load_published(row, network_shapes("hr18s", 19, "OCRNet"), progress=False)
    assert all(torch.equal(state[name], entry) for name, entry in network.state_dict().items())
    assert json.loads(provenance["file_classes"]) == list(CITYSCAPES.classes)
    assert "train/loss" not in str(provenance)


def test_second_call_opens_no_socket_and_writes_nothing(
    row: ModelInfo, hr18s: bytes, host: FaultServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.play(path_of(row), whole(hr18s))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    load_published(row, NETWORK, progress=False)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a warm call needs no connection and no conversion")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(convert, "publish", refuse)
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    load_published(row, NETWORK, progress=False)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before


def test_two_versions_share_a_cache(
    row: ModelInfo, hr18s: bytes, host: FaultServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own file, and neither touches the other's."""
    host.play(path_of(row), whole(hr18s))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    load_published(row, NETWORK, progress=False)
    (ours,) = cache.rglob("*-c2.safetensors")
    before = (ours.read_bytes(), ours.stat().st_mtime_ns, ours.stat().st_ino)
    with monkeypatch.context() as newer:
        for module in ("zoo.resolve", "weights.convert"):
            newer.setattr(f"hrnet_zoo.{module}.CONVERTER_VERSION", 3)
        _, provenance = load_published(row, NETWORK, progress=False)
        assert provenance["converter_version"] == "3"
        (theirs,) = cache.rglob("*-c3.safetensors")
    assert len(host.requests) == 2
    _, provenance = load_published(row, NETWORK, progress=False)
    assert provenance["converter_version"] == "2"
    assert len(host.requests) == 2
    assert (ours.read_bytes(), ours.stat().st_mtime_ns, ours.stat().st_ino) == before
    assert theirs.exists()


def test_wrong_hash_is_refused(hr18s: bytes, host: FaultServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in under the published address: right size, right names, not the file that the row states."""
    info = model_info(NAME)
    host.play(path_of(info), whole(hr18s))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    with pytest.raises(HashMismatchError) as caught:
        load_published(info, NETWORK, progress=False)
    assert caught.value.expected == "93db27d0"
    assert caught.value.actual == hashlib.sha256(hr18s).hexdigest()
    assert caught.value.actual in str(caught.value)
    assert "93db27d0" in str(caught.value)
    assert not list(cache.rglob("*.safetensors"))
    assert len(host.requests) == 2  # one clean second try


def test_a_full_digest_in_the_row_is_compared_whole(
    row: ModelInfo, hr18s: bytes, host: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = dataclasses.replace(row, sha256=row.sha256_prefix + 56 * "0")
    host.play(path_of(forged), whole(hr18s))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    with pytest.raises(HashMismatchError):
        load_published(forged, NETWORK, progress=False)


def test_the_catalog_counts_more_than_what_was_cached_before(
    row: ModelInfo, hr18s: bytes, host: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forged file with the eight digits of the name was accepted before the catalog knew the whole digest."""
    host.play(path_of(row), whole(hr18s))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    load_published(row, NETWORK, progress=False)
    with pytest.raises(HashMismatchError, match=f"the catalog states {row.sha256_prefix}0") as caught:
        load_published(dataclasses.replace(row, sha256=row.sha256_prefix + 56 * "0"), NETWORK, progress=False)
    assert caught.value.actual == hashlib.sha256(hr18s).hexdigest()
    assert "hrnet-zoo cache repair" in caught.value.advice


def test_a_digest_overrules_the_digits_of_the_name(
    row: ModelInfo, hr18s: bytes, host: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = dataclasses.replace(row, sha256_prefix="01234567", sha256=hashlib.sha256(hr18s).hexdigest())
    host.play(path_of(info), whole(hr18s))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    load_published(info, NETWORK, progress=False)


def test_next_mirror_when_one_fails(
    row: ModelInfo, hr18s: bytes, host: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.play("/dead" + path_of(row), status(404))
    host.play("/wrong" + path_of(row), whole(b"\x80\x02" + hr18s[2:-1] + b"?"))
    host.play("/good" + path_of(row), whole(hr18s))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", f"{host.url}/dead, {host.url}/wrong {host.url}/good/")
    state, _ = load_published(row, NETWORK, progress=False)
    assert len(state) == 872


def test_broken_off_and_resumed_by_the_next_call(
    row: ModelInfo, hr18s: bytes, host: FaultServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = len(hr18s) // 2
    host.play(path_of(row), ranged(hr18s, stop=half), status(404), ranged(hr18s))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(HTTPStatusError):
        load_published(row, NETWORK, progress=False)
    assert not list(cache.rglob("*.safetensors"))
    load_published(row, NETWORK, progress=False)
    assert host.requests[-1].headers["Range"] == f"bytes={half}-"
    assert not list(cache.rglob("*.part"))


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate")]
)
def test_want_of_memory_is_no_damage(
    error: Exception, row: ModelInfo, hr18s: bytes, host: FaultServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What was fetched stays, and serves the next call; a file that was fetched by hand is told of alike."""

    def greedy(*_: object, **__: object) -> None:
        raise error

    host.play(path_of(row), whole(hr18s))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    monkeypatch.setattr("hrnet_zoo.zoo.resolve.recognize", lambda _: row)
    (tmp_path / row.file_name).write_bytes(hr18s)
    with monkeypatch.context() as short:
        short.setattr("safetensors.torch.save", greedy)
        with pytest.raises(ConfigError, match="too little memory") as caught:
            load_published(row, NETWORK, progress=False)
        assert "what was fetched stays in " in caught.value.done
        with pytest.raises(ConfigError, match="nothing was imported"):
            import_file(tmp_path / row.file_name)
    load_published(row, NETWORK, progress=False)
    assert len(host.requests) == 1


def test_a_login_page_is_refused(
    row: ModelInfo, host: FaultServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.play(path_of(row), status(200, {"Content-Type": "text/html"}, b"<html>sign in</html>"))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    with pytest.raises(UnexpectedContentError):
        load_published(row, NETWORK, progress=False)
    assert not list(cache.rglob("*.safetensors"))


def test_a_refused_body_is_not_kept(
    hr18s: bytes, host: FaultServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body with the right hash that is no checkpoint, and then, under a corrected row, a good one."""
    junk = b"\x80\x02junk" * 1000
    bad = dataclasses.replace(model_info(NAME), sha256_prefix=hashlib.sha256(junk).hexdigest()[:8])
    good = dataclasses.replace(model_info(NAME), sha256_prefix=hashlib.sha256(hr18s).hexdigest()[:8])
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    host.play(path_of(bad), whole(junk))
    host.play(path_of(good), whole(hr18s))
    with pytest.raises(CheckpointError):
        load_published(bad, NETWORK, progress=False)
    assert not list(cache.rglob("*.part"))
    assert not list(cache.rglob("*.safetensors"))
    assert len(load_published(good, NETWORK, progress=False)[0]) == 872


def test_a_cache_that_cannot_be_looked_into(row: ModelInfo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HRNET_ZOO_CACHE", str(tmp_path / ("x" * 300)))
    with pytest.raises(CacheError, match="HRNET_ZOO_CACHE"):
        load_published(row, NETWORK, progress=False)


def test_offline_says_what_to_bring(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    with pytest.raises(OfflineError, match=r"-93db27d0\.pth[\s\S]*hrnet-zoo import FILE"):
        load_published(model_info(NAME), NETWORK, progress=False)
    assert not list(cache.rglob("*.safetensors"))


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b""), lambda path: os.truncate(path, 1000)])
def test_a_damaged_cached_file_is_built_again(
    damage: Callable[[Path], None],
    row: ModelInfo,
    hr18s: bytes,
    host: FaultServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    host.play(path_of(row), whole(hr18s))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    load_published(row, NETWORK, progress=False)
    damage(cache.path_of(cache_key(row)))
    state, _ = load_published(row, NETWORK, progress=False)
    assert torch.equal(state["backbone.conv1.weight"], read_checkpoint(hr18s, "").state["backbone.conv1.weight"])
    assert "is damaged or gone" in caplog.text


def test_import_by_hand(row: ModelInfo, hr18s: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrnet_zoo.zoo.catalog._ROWS", (row,))
    file = tmp_path / "whatever it is called.pth"
    file.write_bytes(hr18s)
    info, path = import_file(file)
    assert info == row
    assert file.read_bytes() == hr18s
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    state, provenance = load_published(row, NETWORK, progress=False)
    assert len(state) == 872
    assert provenance["source_url"] == row.checkpoint_url
    assert str(tmp_path) not in str(inspect_safetensors(path, "").metadata)


def test_import_refuses_what_it_does_not_know(hr18s: bytes, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(hr18s)
    with pytest.raises(UnknownModelError, match=r"mine\.pth[\s\S]*create_model\(NAME, checkpoint="):
        import_file(tmp_path / "mine.pth")
    named = tmp_path / model_info(NAME).file_name
    named.write_bytes(hr18s)
    with pytest.raises(HashMismatchError, match="expected 93db27d0"):
        import_file(named)
    for content, kind in ((b"", "empty"), (b"<html>sign in</html>", "(?i)html"), (hr18s[:-9], "bytes that describes")):
        (tmp_path / "bad.pth").write_bytes(content)
        with pytest.raises(CheckpointFormatError, match=kind):
            import_file(tmp_path / "bad.pth")
    with pytest.raises(CheckpointNotFoundError, match="No such file"):
        import_file(tmp_path / "absent.pth")
    with pytest.raises(CheckpointNotFoundError, match="a folder or special file"):
        import_file(tmp_path)
    assert not list(cache.rglob("*.safetensors"))


def test_mirror_folder_serves(
    row: ModelInfo, hr18s: bytes, host: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.play(path_of(row), whole(hr18s))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    folder = tmp_path / "mirror"
    path = mirror(row, folder, NETWORK, progress=False)
    assert path.read_bytes() == hr18s
    assert mirror(row, folder, NETWORK, progress=False) == path
    assert len(host.requests) == 1
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", folder.as_uri())
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    state, _ = load_published(row, NETWORK, progress=False)
    assert len(state) == 872
    path.write_bytes(b"rotten")
    with pytest.raises(HashMismatchError):
        mirror(row, folder, NETWORK, progress=False)
