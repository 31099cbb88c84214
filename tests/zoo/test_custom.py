"""A user's own checkpoint, in every form it may have."""

import argparse
import datetime
import enum
import hashlib
import sys
import types
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import cast

import filelock
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hrnet_zoo.datasets import CITYSCAPES
from hrnet_zoo.errors import (
    CheckpointError,
    CheckpointFormatError,
    CheckpointNotFoundError,
    HashMismatchError,
    StateDictMismatchError,
    TransferError,
)
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.weights import download
from hrnet_zoo.weights.addresses import PUBLISHED_HOST
from hrnet_zoo.weights.convert import Shapes, Weights, network_shapes, read_checkpoint, with_classes
from hrnet_zoo.zoo.resolve import load_custom
from tests.support.checkpoints import legacy, zipped
from tests.support.http_server import FaultServer, drip, serve, whole

NETWORK = network_shapes("hr18s", 19)


def own(source: str | Path, network: Shapes = NETWORK) -> Weights:
    return load_custom(str(source), "hr18s", network, progress=False)


def test_own_checkpoint_by_address_with_its_hash_in_the_name(hr18s: bytes, host: FaultServer) -> None:
    digest = hashlib.sha256(hr18s).hexdigest()
    address = host.play(f"/models/mine-{digest[:8]}.pth", whole(hr18s))
    first, provenance = own(address)
    second, _ = own(address)
    assert len(host.requests) == 1
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert provenance["source_sha256"] == digest
    with pytest.raises(HashMismatchError, match=r"expected 0000000a[\s\S]*rename a file of your own"):
        own(host.play("/models/mine-0000000a.pth", whole(hr18s)))


def test_safetensors_are_unwrapped_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Whatever order safetensors gives, which is another one in each process."""
    state = {f"net.{name}": torch.zeros(shape) for name, shape in NETWORK.items() if not name.endswith("tracked")}
    state |= {f"critic.{number}.weight": torch.ones(1) for number in range(9)}
    save_file(state, tmp_path / "mine.safetensors")
    _, provenance = own(tmp_path / "mine.safetensors")
    assert "left out: 'critic.0.weight', 'critic.1.weight', 'critic.2.weight' and 6 more" in provenance["file_notes"]


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
    assert len([line for line in caplog.messages if "could not be verified" in line]) == 1
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
    monkeypatch.setattr(download, "ANSWER_S", 0.5)
    monkeypatch.setattr(download, "TRIES", 1)
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
    assert "who" not in provenance


# --- what training scripts write -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(hr18s: bytes) -> FCNHRNet:
    network = FCNHRNet("hr18s", CITYSCAPES)
    network.load_state_dict(read_checkpoint(hr18s, "").state, strict=True)
    return network.eval()


MMENGINE = ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer")


def mmengine(network: FCNHRNet, tmp_path: Path) -> object:
    """Return what mmengine 0.10's Runner.save_checkpoint writes with an EMAHook, as far as its kinds of values go."""
    history = type("HistoryBuffer", (), {"__module__": MMENGINE[-1]})
    sys.modules[MMENGINE[-1]].HistoryBuffer = history  # type: ignore[attr-defined]
    buffer = history()
    buffer.__dict__.update(
        _set_default=True,
        max_length=1_000_000,
        _log_history=np.linspace(0, 1, 160_000),
        _count_history=np.ones(160_000, np.int64),
        _statistics_methods=OrderedDict(min=min, max=max, mean=np.mean),
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    averaged = {f"module.{name}": entry for name, entry in network.state_dict().items()}
    return {
        "meta": {
            "epoch": 0,
            "iter": 160_000,
            "cfg": "model = dict(type='EncoderDecoder')\n" * 100,
            "seed": 1,
            "experiment_name": "x_20230101_000000",
            "time": "20230101_000000",
            "mmengine_version": "0.10.7",
            "dataset_meta": {"classes": CITYSCAPES.classes, "palette": [list(each) for each in CITYSCAPES.palette]},
        },
        "state_dict": {**network.state_dict(), "auxiliary_head.conv_seg.weight": torch.ones(19, 8, 1, 1)},
        "ema_state_dict": {**{name: entry + 1 for name, entry in averaged.items()}, "steps": torch.tensor(160_000)},
        "message_hub": {
            "log_scalars": OrderedDict({"train/loss": buffer}),
            "runtime_info": OrderedDict(
                iter=160_000,
                best=np.float64(0.8),
                shape=np.array([[1, 2]], dtype=np.int32),
                dtype=np.dtype("float32"),
                start=datetime.datetime(2023, 1, 1, tzinfo=datetime.timezone.utc),
                work_dir=tmp_path,
                counts=Counter(a=1),
                groups=defaultdict(list, a=[1]),
            ),
            "resumed_keys": {"loss": True},
        },
        "optimizer": optimizer.state_dict(),
        "param_schedulers": [torch.optim.lr_scheduler.MultiStepLR(optimizer, [3]).state_dict()],
    }


def lightning(network: FCNHRNet, tmp_path: Path) -> object:
    """Return what Lightning 2's Trainer.save_checkpoint writes, with a loss that has weights and an averaged copy."""
    del tmp_path
    own = {f"net.{name}": entry for name, entry in network.state_dict().items()}
    copy = {f"ema_model.module.{name}": entry * 2 for name, entry in network.state_dict().items()}
    return {
        "epoch": 3,
        "global_step": 100,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": OrderedDict({**copy, **own, "criterion.weight": torch.ones(19)}),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'miou'}": {"best_model_score": torch.tensor(0.8), "dirpath": "/a"}},
        "optimizer_states": [torch.optim.AdamW(network.parameters()).state_dict()],
        "hparams_name": "kwargs",
        "hyper_parameters": {"args": argparse.Namespace(lr=0.1, device=torch.device("cpu"), kind=Kind.GOOD), 0.5: {1}},
    }


class Kind(enum.Enum):
    """A setting of a training script."""

    GOOD = 1


def averaged(network: FCNHRNet, tmp_path: Path) -> object:
    """Return what torchvision's training script writes with --model-ema."""
    del tmp_path
    average = torch.optim.swa_utils.AveragedModel(network)
    average.update_parameters(network)
    for entry in average.module.parameters():
        entry.data += 1
    return {"model": network.state_dict(), "epoch": 1, "args": argparse.Namespace(), "model_ema": average.state_dict()}


WRITERS: dict[str, tuple[Callable[[FCNHRNet, Path], object], str]] = {
    "mmengine": (mmengine, "'state_dict' was taken, not 'ema_state_dict'"),
    "Lightning": (lightning, "taken off the names: 'net.'; left out: 'ema_model.module.backbone.conv1.weight'"),
    "torchvision with EMA": (averaged, "'model' was taken, not 'model_ema'"),
    "EMA alone": (
        lambda network, _: torch.optim.swa_utils.AveragedModel(network).state_dict(),
        "taken off the names: 'module.'; left out: 'n_averaged'",
    ),
    "mmcv's EMAHook": (
        lambda network, _: {
            "state_dict": network.state_dict()
            | {f"ema_{name.replace('.', '_')}": entry + 1 for name, entry in network.state_dict().items()}
        },
        "left out: 'ema_backbone_conv1_weight', ",
    ),
    "torch.compile": (
        lambda network, _: cast(torch.nn.Module, torch.compile(network, backend="eager")).state_dict(),
        "taken off the names: '_orig_mod.'",
    ),
    "parts compiled": (
        lambda network, _: {
            name.replace("backbone.", "backbone._orig_mod."): entry for name, entry in network.state_dict().items()
        },
        "taken off the names: '_orig_mod.'",
    ),
    "DDP of compiled": (
        lambda network, _: {f"module._orig_mod.{name}": entry for name, entry in network.state_dict().items()},
        "taken off the names: 'module.', '_orig_mod.'",
    ),
    "DDP": (lambda network, _: {"net": torch.nn.DataParallel(network).state_dict()}, "taken off the names: 'module.'"),
    "twice wrapped": (
        lambda network, _: torch.nn.DataParallel(torch.nn.DataParallel(network)).state_dict(),
        "taken off the names: 'module.module.'",
    ),
    "thop": (
        lambda network, _: {**network.state_dict(), "backbone.total_ops": torch.zeros(1, dtype=torch.float64)},
        "left out: 'backbone.total_ops'",
    ),
    "before torch 0.4.1": (
        lambda network, _: {
            name: entry for name, entry in network.state_dict().items() if not name.endswith("tracked")
        },
        "added, which no prediction needs: 'backbone.bn1.num_batches_tracked'",
    ),
}


@pytest.mark.parametrize(
    ("name", "modern"), [*((name, True) for name in WRITERS), ("mmengine", False), ("Lightning", False)]
)
def test_what_training_scripts_write(
    name: str,
    modern: bool,
    network: FCNHRNet,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same bits, nothing made but tensors, and one line that says what was taken and what left."""
    write, words = WRITERS[name]
    with monkeypatch.context() as patch:
        for module in MMENGINE:
            patch.setitem(sys.modules, module, types.ModuleType(module))
        torch.save(write(network, tmp_path), tmp_path / "mine.pth", _use_new_zipfile_serialization=modern)
    loaded, _ = own(tmp_path / "mine.pth")
    wanted = network.state_dict()
    assert loaded.keys() == wanted.keys()
    assert all(torch.equal(loaded[key], wanted[key]) or "tracked" in key for key in wanted)
    (line,) = caplog.messages
    assert f"mine.pth: {words}" in line
    own(tmp_path / "mine.pth")
    assert caplog.messages == [line, line]  # from the warm cache too


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle(protocol: int, network: FCNHRNet, tmp_path: Path) -> None:
    for modern in (False, True):
        torch.save(
            {"model_state_dict": network.state_dict(), "args": argparse.Namespace(a={1})},
            tmp_path / "mine.pth",
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=modern,
        )
        loaded, _ = own(tmp_path / "mine.pth")
        assert all(torch.equal(loaded[key], entry) for key, entry in network.state_dict().items())


def test_the_content_tells_the_kind_of_file(network: FCNHRNet, tmp_path: Path, host: FaultServer) -> None:
    state = {f"model.{name}": entry for name, entry in network.state_dict().items()}
    save_file(state, tmp_path / "mine.bin")
    torch.save(state, tmp_path / "mine.safetensors")
    for path in (tmp_path / "mine.bin", tmp_path / "mine.safetensors"):
        for source in (path, host.play(f"/{path.name}", whole(path.read_bytes()))):
            loaded, _ = own(source)
            assert torch.equal(loaded["backbone.conv1.weight"], network.backbone.conv1.weight)


def test_the_true_cause_and_names_of_the_file(network: FCNHRNet, tmp_path: Path) -> None:
    state, path = network.state_dict(), tmp_path / "mine.pth"
    cases: list[tuple[object, str]] = [
        (
            {name[9:]: entry for name, entry in state.items() if name.startswith("backbone.")},
            r"a backbone alone, without a decode_head[\s\S]*unexpected: conv1\.weight[\s\S]*backbone and head",
        ),
        (
            {name.replace("decode_head.", "decode_head.1."): entry for name, entry in state.items()},
            r"a cascade of heads \(OCRNet's\), where one FCN head was asked for",
        ),
        (
            {name: torch.empty(shape) for name, shape in network_shapes("hr48", 19).items()},
            r"size hr48, where hr18s was asked for[\s\S]*the name of the network that it was trained with",
        ),
        (
            {name: torch.empty(shape) for name, shape in network_shapes("hr18", 19).items()},
            r"size hr18, where hr18s was asked for",
        ),
        ({"model": network}, "a whole model object[\\s\\S]*FCNHRNet[\\s\\S]*save model.state_dict()"),
        (torch.nn.Linear(1, 1).state_dict(), "2 unexpected: weight, bias"),
        ({**state, "decode_head.conv_seg.bias": torch.full((19,), torch.nan)}, "did its training diverge"),
        ({"epoch": 1, "best": np.float64(1)}, "the keys: 'epoch', 'best'"),
    ]
    for content, words in cases:
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=words):
            own(path)


def test_own_class_count(hr18s: bytes, tmp_path: Path) -> None:
    state = read_checkpoint(hr18s, "").state
    for name in ("decode_head.conv_seg.weight", "decode_head.conv_seg.bias"):
        state[name] = state[name][:5].clone()
    path = tmp_path / "five.pth"
    path.write_bytes(legacy(state))
    with pytest.raises(StateDictMismatchError, match=r"\(5,[\s\S]*expected \(19,[\s\S]*classes=\.\.\."):
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
        (hr18s[:-100], CheckpointFormatError, f"a file of {len(hr18s) - 100:,} bytes that describes {len(hr18s):,}"),
        (b"cposix\nsystem\n(S'echo'\ntR.", CheckpointError, "bad.pth"),
        (legacy({name: t for name, t in state.items() if name != first}), StateDictMismatchError, first),
        (legacy({**state, "second_head.x": torch.zeros(2)}), StateDictMismatchError, "second_head.x"),
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
