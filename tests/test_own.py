"""A user's own checkpoint, in every form it may have."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest
import torch
from safetensors.torch import save_file

from hrnet_zoo.errors import (
    CheckpointError,
    CheckpointFormatError,
    CheckpointNotFoundError,
    HashMismatchError,
    StateDictMismatchError,
    TransferError,
)
from hrnet_zoo.weights import request, transfer
from hrnet_zoo.weights.addresses import PUBLISHED_HOST
from hrnet_zoo.weights.build import Entries, Weights, entries, with_classes
from hrnet_zoo.weights.convert import read_checkpoint
from hrnet_zoo.weights.own import load_own
from tests.checkpoints import legacy, zipped
from tests.http_server import FaultServer, drip, serve, whole

NETWORK = entries("hr18s", 19)


def own(source: str | Path, network: Entries = NETWORK) -> Weights:
    return load_own(str(source), "hr18s", network, progress=False)


def test_own_checkpoint_by_address_with_its_hash_in_the_name(hr18s: bytes, host: FaultServer) -> None:
    digest = hashlib.sha256(hr18s).hexdigest()
    address = host.play(f"/models/mine-{digest[:8]}.pth", whole(hr18s))
    first, provenance = own(address)
    second, _ = own(address)
    assert len(host.requests) == 1
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert provenance["source_sha256"] == digest
    with pytest.raises(HashMismatchError, match=r"expected 0000000a[\s\S]*rename it"):
        own(host.play("/models/mine-0000000a.pth", whole(hr18s)))


@pytest.mark.parametrize("digits", [8, 63])
def test_another_host_is_asked_where_a_hash_is_not_whole(digits: int, hr18s: bytes, host: FaultServer) -> None:
    """Whoever knows the digits makes another file with them; it must not come out of the cache for this address."""
    name = f"/mine-{hashlib.sha256(hr18s).hexdigest()[:digits]}.pth"
    own(host.play(name, whole(hr18s)))
    with serve() as other:
        own(other.play(name, whole(hr18s)))
        assert len(other.requests) == 1


def test_a_whole_hash_is_one_entry_of_the_cache(hr18s: bytes, host: FaultServer) -> None:
    name = f"/mine-{hashlib.sha256(hr18s).hexdigest()}.pth"
    own(host.play(name, whole(hr18s)))
    with serve() as other:
        own(other.play(name, whole(hr18s)))
        assert other.requests == []


@pytest.mark.parametrize(
    "name", ["mine.pth?token=secret", "mine-20240115.pth", "step-00080000.pth", "epoch-12-0000000000080000.pth"]
)
def test_own_address_without_a_hash_is_taken_with_one_warning(
    name: str, hr18s: bytes, host: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    address = host.play(f"/{name}", whole(hr18s))
    own(address)
    own(address)
    assert len([line for line in caplog.messages if "could not be checked" in line]) == 1
    assert "secret" not in caplog.text


def test_a_bad_body_is_fetched_anew_the_next_time(hr18s: bytes, host: FaultServer, cache: Path) -> None:
    address = host.play("/mine.pth", whole(hr18s[:-100]), whole(hr18s))
    with pytest.raises(CheckpointFormatError):
        own(address)
    assert not list(cache.rglob("*.part"))
    assert len(own(address)[0]) == 872


def test_a_host_that_never_ends_holds_no_lock(
    hr18s: bytes, host: FaultServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "ANSWER_S", 0.5)
    monkeypatch.setattr(transfer, "TRIES", 1)
    address = host.play("/mine.pth", drip(b"HTTP/1.1 100 Continue\r\n\r\n", 0.02, 1_000_000, lambda _: None))
    with pytest.raises(TransferError, match="no whole answer"):
        own(address)
    (lock,) = cache.rglob("*.lock")
    with filelock.FileLock(lock).acquire(timeout=0):
        pass
    host.play("/mine.pth", whole(hr18s))
    assert len(own(address)[0]) == 872


def test_the_publishers_other_files_come_through_mirrors(
    hr18s: bytes, host: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.play("/zoo/mmsegmentation/newer.pth", whole(hr18s))
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", f"{host.url}/zoo")
    assert len(own(f"{PUBLISHED_HOST}/mmsegmentation/newer.pth")[0]) == 872


@pytest.mark.parametrize("write", [legacy, zipped])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("bare", [False, True])
def test_own_pth_in_every_form(
    write: Callable[[dict[str, torch.Tensor]], bytes], prefix: str, bare: bool, hr18s: bytes, tmp_path: Path
) -> None:
    state = {f"{prefix}{name}": entry for name, entry in read_checkpoint(hr18s, "").state.items()}
    path = tmp_path / "mine.pth"
    if bare:
        torch.save(state, path, _use_new_zipfile_serialization=write is zipped)
    else:
        path.write_bytes(write(state))
    loaded, provenance = own(path)
    assert torch.equal(loaded["backbone.conv1.weight"], state[f"{prefix}backbone.conv1.weight"])
    assert provenance["source_url"] == "mine.pth"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_own_safetensors(dtype: torch.dtype, hr18s: bytes, tmp_path: Path) -> None:
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in read_checkpoint(hr18s, "").state.items()}
    save_file(state, tmp_path / "mine.safetensors", {"who": "me"})
    loaded, provenance = own(tmp_path / "mine.safetensors")
    assert loaded["backbone.conv1.weight"].dtype == torch.float32
    assert torch.equal(loaded["backbone.conv1.weight"], state["backbone.conv1.weight"].float())
    assert provenance["who"] == "me"


def test_own_class_count(hr18s: bytes, tmp_path: Path) -> None:
    state = read_checkpoint(hr18s, "").state
    for name in ("decode_head.conv_seg.weight", "decode_head.conv_seg.bias"):
        state[name] = state[name][:5].clone()
    path = tmp_path / "five.pth"
    path.write_bytes(legacy(state))
    with pytest.raises(StateDictMismatchError, match=r"classifier has 5 classes[\s\S]*classes=\[5 names\]"):
        own(path)
    loaded, _ = own(path, with_classes(NETWORK, 5))
    assert loaded["decode_head.conv_seg.bias"].shape == (5,)


def test_own_bad_files(hr18s: bytes, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "bad.pth"
    state = read_checkpoint(hr18s, "").state
    first = next(iter(state))
    cases: list[tuple[bytes, type[Exception], str]] = [
        (b"", CheckpointFormatError, "empty"),
        (b"<!DOCTYPE html><html>", CheckpointFormatError, "(?i)html"),
        (hr18s[:-100], CheckpointFormatError, "100 bytes"),
        (b"cposix\nsystem\n(S'echo'\ntR.", CheckpointError, "bad.pth"),
        (legacy({name: t for name, t in state.items() if name != first}), StateDictMismatchError, first),
        (legacy({**state, "auxiliary_head.x": torch.zeros(2)}), StateDictMismatchError, "auxiliary_head.x"),
        (legacy({**state, first: torch.zeros(2, 2)}), StateDictMismatchError, first),
        (legacy({**state, first: torch.full_like(state[first], torch.nan)}), StateDictMismatchError, first),
    ]
    for content, error, text in cases:
        path.write_bytes(content)
        with pytest.raises(error, match=text):
            own(path)
    with pytest.raises(CheckpointNotFoundError, match=r"absent\.pth"):
        own(tmp_path / "absent.pth")
    with pytest.raises(CheckpointNotFoundError, match=r"absent\.safetensors"):
        own(tmp_path / "absent.safetensors")
    assert not list(cache.rglob("*.safetensors"))


def test_own_safetensors_by_address(hr18s: bytes, host: FaultServer, tmp_path: Path) -> None:
    state = read_checkpoint(hr18s, "").state
    save_file(state, tmp_path / "mine.safetensors", {"file_classes": '["a", "b"]', "who": "me"})
    body = (tmp_path / "mine.safetensors").read_bytes()
    address = host.play(f"/mine-{hashlib.sha256(body).hexdigest()[:12]}.safetensors", whole(body))
    for _ in range(2):
        loaded, provenance = own(address)
        assert torch.equal(loaded["backbone.conv1.weight"], state["backbone.conv1.weight"])
        assert provenance["source_sha256"] == hashlib.sha256(body).hexdigest()
        assert provenance["file_classes"] == '["a", "b"]'
        assert "who" not in provenance
    assert len(host.requests) == 1


def test_a_damaged_cached_copy_is_built_again(
    hr18s: bytes, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mine.pth").write_bytes(hr18s)
    own(tmp_path / "mine.pth")
    (cached,) = cache.rglob("*.safetensors")
    cached.write_bytes(b"rotten")
    assert len(own(tmp_path / "mine.pth")[0]) == 872
    assert "is damaged or gone" in caplog.text


@pytest.mark.parametrize("name", ["-.pth", "...pth", "ä ö.pth", f"{'x' * 200}.pth"])
def test_foreign_names_in_the_cache(name: str, hr18s: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(hr18s)
    assert len(own(tmp_path / name)[0]) == 872
