"""What lies in the cache is verified, mended, pruned and forgotten file by file."""

import dataclasses
import hashlib
import os
from pathlib import Path

import pytest

from hrnet_zoo.errors import (
    CacheError,
    CheckpointFormatError,
    CheckpointNotFoundError,
    HashMismatchError,
    OfflineError,
    StateDictMismatchError,
    UnexpectedContentError,
    UnknownModelError,
)
from hrnet_zoo.weights import cache
from hrnet_zoo.weights.convert import convert_checkpoint, network_shapes, publish
from hrnet_zoo.zoo import maintenance, resolve
from hrnet_zoo.zoo.catalog import ModelInfo, model_info, stated_digests
from hrnet_zoo.zoo.create import create_model
from hrnet_zoo.zoo.maintenance import clear_model, prune, repair, source_digests, verify
from hrnet_zoo.zoo.resolve import cache_key
from hrnet_zoo.zoo.training_log import log_key
from tests.support.cache_fsck import fsck

LOG = b'{"env_info": "x"}\n{"mode": "train", "iter": 50, "loss": 1.0}\n'


@pytest.fixture
def row(hr18s: bytes, monkeypatch: pytest.MonkeyPatch) -> ModelInfo:
    """Let the stand-in be the row's file, converted in the cache, with its log."""
    info = dataclasses.replace(
        model_info("fcn_hr18s_cityscapes_40k"), sha256_prefix=hashlib.sha256(hr18s).hexdigest()[:8]
    )
    for module in ("zoo.maintenance", "zoo.resolve"):
        monkeypatch.setattr(f"hrnet_zoo.{module}.model_info", lambda _: info)
    put(cache_key(info), hr18s)
    assert info.log_url
    cache.publish(log_key(info.log_url), LOG, lambda _: None, "log")
    return info


def put(stem: str, body: bytes) -> Path:
    network = network_shapes("hr18s", 19)
    publish(stem, convert_checkpoint([body], stem, network, {"source_url": stem}))
    return cache.path_of(stem)


def spoil(path: Path) -> None:
    """Flip the last bit, which no header tells of."""
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)


def test_verify(row: ModelInfo, hr18s: bytes, tmp_path: Path) -> None:
    own = put("mine-hr18s-0123456789abcdef-c2", hr18s)
    assert [(found.name, found.error) for found in verify()] == [
        (log_key(str(row.log_url)), None),
        (row.name, None),
        (own.stem, None),
    ]
    assert verify([row.name])[0].error is None
    spoil(own)
    spoil(cache.path_of(cache_key(row)))
    cache.path_of(log_key(str(row.log_url)), "log").write_bytes(b"<html>")
    found = [type(each.error) for each in verify()]
    assert found == [UnexpectedContentError, HashMismatchError, HashMismatchError]
    assert isinstance(verify([row.name])[0].error, HashMismatchError)
    cache.clear()
    assert isinstance(verify([row.name])[0].error, CheckpointNotFoundError)
    assert verify() == []


def test_verify_what_is_not_in_the_catalog(tmp_path: Path) -> None:
    folder = create_model("demo", device="cpu").save_pretrained(tmp_path / "a")
    (found,) = verify([f"local-dir:{folder}"])
    assert (found.path, found.error) == (None, None)
    spoil(folder / "model.safetensors")
    assert isinstance(verify([f"local-dir:{folder}"])[0].error, HashMismatchError)
    assert verify(["demo"])[0].error is None
    with pytest.raises(UnknownModelError):
        verify(["absent"])


def test_a_damaged_folder_is_a_verdict(tmp_path: Path) -> None:
    """Also where its header cannot be read, and so its network is not known."""
    folder = create_model("demo", device="cpu").save_pretrained(tmp_path / "a")
    os.truncate(folder / "model.safetensors", 1000)
    whole, damaged = verify(["demo", f"local-dir:{folder}"])
    assert whole.error is None
    assert damaged.name == f"local-dir:{folder}"
    assert isinstance(damaged.error, CheckpointFormatError)


def test_digests_as_sha256sum_prints_them(row: ModelInfo, hr18s: bytes, tmp_path: Path) -> None:
    """Of the published files that are whole: what the catalog reads."""
    put("mine-hr18s-0123456789abcdef-c2", hr18s)
    create_model("demo", device="cpu")
    digest = hashlib.sha256(hr18s).hexdigest()
    assert source_digests(verify()) == [f"{digest}  {row.file_name}"]
    (tmp_path / "digests.sha256").write_text(f"{digest}  {row.file_name}\n")
    assert stated_digests(tmp_path / "digests.sha256") == {row.file_name: digest}
    spoil(cache.path_of(cache_key(row)))
    assert source_digests(verify()) == []


def test_a_file_under_anothers_name(row: ModelInfo, hr18s: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole in itself, and not the file that the row states: of another source, or another network."""
    other = dataclasses.replace(row, sha256="0" * 64)
    monkeypatch.setattr(maintenance, "model_info", lambda _: other)
    (found,) = [each for each in verify() if each.name == row.name]
    assert isinstance(found.error, HashMismatchError)
    assert found.error.expected == "0" * 64
    assert f"from a file with SHA-256 {found.error.actual}; the catalog states {'0' * 64}" in found.error.found
    monkeypatch.setattr(maintenance, "model_info", lambda _: row)
    monkeypatch.setattr(resolve, "network_shapes", lambda _, classes, method: network_shapes("hr18", classes, method))
    (found,) = [each for each in verify() if each.name == row.name]
    assert isinstance(found.error, StateDictMismatchError)
    assert "backbone.stage2.0.branches.0.2.bn1.bias" in found.error.missing


def test_repair(row: ModelInfo, hr18s: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert repair(progress=False) == []
    own, model = put("mine-hr18s-0123456789abcdef-c2", hr18s), cache.path_of(cache_key(row))
    spoil(own)
    spoil(model)
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    found = {each.path: type(each.error) for each in repair(progress=False)}
    assert found == {own: type(None), model: OfflineError}
    assert not own.exists()
    assert not model.exists()
    put(cache_key(row), hr18s)
    spoil(model)
    mirror = tmp_path / row.checkpoint_url.removeprefix("https://download.openmmlab.com/")
    mirror.parent.mkdir(parents=True)
    mirror.write_bytes(hr18s)
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", tmp_path.as_uri())
    assert [each.error for each in repair(progress=False)] == [None]
    assert [each.error for each in verify([row.name])] == [None]
    fsck(settled=True)


def test_what_cannot_be_read_is_not_removed(row: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    log = cache.path_of(log_key(str(row.log_url)), "log")

    def fails(path: Path) -> bytes:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(Path, "read_bytes", fails)
    (found,) = repair(progress=False)
    assert (found.path, type(found.error)) == (log, CacheError)
    assert log.exists()


def test_prune_and_forget(row: ModelInfo, hr18s: bytes) -> None:
    put("mine-hr18s-0123456789abcdef-c1", hr18s)
    put("a-model-of-mine", hr18s)
    begun = cache.claim_partial("begun")
    begun.write_bytes(b"x")
    cache.release_partial(begun)  # as a download does that ends
    assert sorted(entry.key for entry in prune()) == ["begun", "mine-hr18s-0123456789abcdef-c1"]
    assert prune() == []
    assert {entry.key for entry in clear_model(row)} == {cache_key(row), log_key(str(row.log_url))}
    assert [entry.key for entry in cache.entries() if entry.kind != "lock"] == ["a-model-of-mine"]
    fsck(settled=True)
