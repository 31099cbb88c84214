"""From a checkpoint to safetensors and back: bit for bit what was stored, or an error that says what differs."""

import errno
import hashlib
import io
import json
import math
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from hrnet_zoo.errors import (
    CacheError,
    CacheSpaceError,
    CheckpointFormatError,
    CheckpointNotFoundError,
    HashMismatchError,
    StateDictMismatchError,
)
from hrnet_zoo.weights import cache as files
from hrnet_zoo.weights import convert
from hrnet_zoo.weights.cache import disk_errors
from hrnet_zoo.weights.convert import (
    CONVERTER_VERSION,
    check_hash,
    claimed_classes,
    network_shapes,
    provenance_of,
    read_checkpoint,
    read_file,
    size_limit,
    to_safetensors,
    verify_data,
    with_classes,
)
from hrnet_zoo.weights.state_dict import fit_state
from tests.conftest import SHARED
from tests.support.cache_fsck import fsck
from tests.support.checkpoints import (
    Member,
    archive,
    legacy,
    saved,
    small_network,
    stand_in,
    storage,
    tensor,
    weights,
    zipped,
)
from tests.support.http_server import FaultServer, whole
from tests.support.survival import BODY, CONVERTED, DIGEST, KEY, load
from tests.support.survival import EXPECTED as NETWORK
from tests.support.tables import ROOT

HEAD = {"decode_head.conv_seg.weight": (19, 8, 1, 1), "decode_head.conv_seg.bias": (19,)}
SHAPES = {"backbone.conv1.weight": (4, 3, 3, 3), "backbone.bn1.num_batches_tracked": (), **HEAD}
EXPECTED = {name: torch.Size(shape) for name, shape in SHAPES.items()}
PROVENANCE = {
    "source_url": "https://host/a.pth",
    "source_sha256": "ab" * 32,
    "converter_version": str(CONVERTER_VERSION),
}


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    """Whether two state dicts agree in names, order, types and every bit."""
    return list(found) == list(wanted) and all(
        found[name].dtype == wanted[name].dtype and torch.equal(found[name], wanted[name]) for name in wanted
    )


def write(path: Path, state: dict[str, Tensor]) -> Path:
    """Write a converted file."""
    path.write_bytes(to_safetensors(state, PROVENANCE))
    return path


# --- read_checkpoint -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [legacy, zipped])
def test_reads_what_was_saved(save: Callable[[Mapping[str, Tensor]], bytes]) -> None:
    """Both formats, with the meta of mmcv beside the weights."""
    state = stand_in(SHAPES)
    assert same(read_checkpoint(save(state), "a.pth").state, state)


def varied() -> dict[str, Tensor]:
    """Return tensors in every form in which weights are stored."""
    base = torch.arange(24.0).reshape(2, 3, 4)
    network = torch.nn.Conv2d(3, 4, 3)
    noted = torch.nn.Parameter(torch.ones(2))
    noted.note = "an attribute"  # type: ignore[attr-defined]
    kinds = ("float16", "bfloat16", "float64", "int64")
    return {
        "base": base,
        "row": base[1],
        "turned": base.permute(2, 0, 1),
        "none": base[:, :0],
        "scalar": base[1, 2, 3],
        "channels last": torch.nn.Parameter(network.weight.to(memory_format=torch.channels_last)),
        "noted": noted,
        "buffer of a buffer": torch.arange(10.0)[::3],
        **{kind: torch.arange(-3, 4).to(getattr(torch, kind)) for kind in kinds},
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("modern", [False, True])
def test_reads_what_torch_reads(modern: bool, protocol: int) -> None:
    """To the bit, with the same strides, and what shares memory does so still."""
    file, state = io.BytesIO(), varied()
    torch.save(state, file, pickle_protocol=protocol, _use_new_zipfile_serialization=modern)
    found = read_checkpoint(file.getvalue(), "a.pth").state
    file.seek(0)
    for wanted in (state, *([torch.load(file, weights_only=True)] if protocol == 2 else [])):
        assert same(found, wanted)
        assert [each.stride() for each in found.values()] == [each.stride() for each in wanted.values()]
    assert found["row"].untyped_storage().data_ptr() == found["base"].untyped_storage().data_ptr()
    assert not any(each.requires_grad for each in found.values())


def test_reads_a_bare_state_dict_of_data_parallel(tmp_path: Path) -> None:
    """A state dict at the top, parameters that need gradients, and one "module." before each name."""
    network = torch.nn.DataParallel(small_network())
    torch.save(OrderedDict(network.state_dict(keep_vars=True)), tmp_path / "a.pth")
    found = read_checkpoint((tmp_path / "a.pth").read_bytes(), "a.pth").state
    assert same(found, small_network().state_dict())
    assert not any(value.requires_grad for value in found.values())


def test_keeps_a_prefix_that_some_names_lack() -> None:
    """Then it is part of the names."""
    state = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert list(read_checkpoint(legacy(state), "a.pth").state) == ["module.a", "b"]


@pytest.mark.parametrize(
    ("meta", "classes"),
    [
        ({"CLASSES": ("road", "sky")}, ("road", "sky")),
        ({"CLASSES": ["road", "x" * 100]}, ("road", "x" * 100)),
        ({"CLASSES": ["x"] * 1000}, ("x",) * 1000),
        ({"dataset_meta": {"classes": ("road", "sky"), "palette": [[1, 2, 3], [4, 5, 6]]}}, ("road", "sky")),
        ({"dataset_meta": {"CLASSES": ("road", "sky")}, "CLASSES": None}, ("road", "sky")),
        ({"dataset_meta": None}, ()),
        ({"CLASSES": ["x"] * 1001}, ()),
        ({"CLASSES": ["road", "x" * 101]}, ()),
        ({"CLASSES": ["road", 5]}, ()),
        ({"CLASSES": "road"}, ()),
        ({"CLASSES": None}, ()),
        ({}, ()),
    ],
)
def test_keeps_the_names_that_a_file_claims(meta: dict[str, object], classes: tuple[str, ...]) -> None:
    """If they are names at all; a file without meta claims none."""
    assert read_checkpoint(legacy(stand_in(SHAPES), meta), "a.pth").classes == classes
    assert read_checkpoint(saved(stand_in(SHAPES), modern=True), "a.pth").classes == ()


@pytest.mark.parametrize("text", ['{"a": 1}', "[5]", '["a', "[" * 100_000, "null", '"road"', "[]"])
def test_claims_in_a_foreign_header(text: str) -> None:
    """There the key may hold anything."""
    assert claimed_classes({"file_classes": text}) == ()
    assert claimed_classes({}) == ()
    assert claimed_classes({"file_classes": '["road", "\\u00e4"]'}) == ("road", "ä")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, "no state dict"),
        ([torch.ones(1)], "no state dict"),
        (None, "no state dict"),
        ({"w": 5}, "no state dict"),
        ({"w": torch.ones(1), "optimizer": {}}, "'optimizer' of type 'dict'"),
        ({1: torch.ones(1)}, "name is no text"),
    ],
)
def test_refuses_what_is_no_state_dict(state: object, words: str) -> None:
    """Nothing is dropped to make a file fit."""
    with pytest.raises(CheckpointFormatError) as caught:
        read_checkpoint(saved({"state_dict": state}, modern=False), "a.pth")
    assert words in caught.value.found
    assert caught.value.source == "a.pth"


def test_refuses_a_format_of_the_future() -> None:
    """As torch does."""
    body = weights(tensor(storage(view=b"")))
    members = {"data.pkl": body, "data/0": bytes(16), "version": b"99\n"}
    with pytest.raises(CheckpointFormatError, match="a version of torch's format that is not known"):
        read_checkpoint(archive([Member(f"archive/{name}", data) for name, data in members.items()]), "a.pth")


# --- fit -----------------------------------------------------------------------------------------------------------


def test_fits_in_the_order_of_the_network() -> None:
    """Same values, other order."""
    state = stand_in(SHAPES)
    fitted = fit_state(dict(reversed(state.items())), EXPECTED, "a.pth", dtype=torch.float32)
    assert same(fitted, state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_makes_float32_of_other_floats(dtype: torch.dtype) -> None:
    """Unless the file must have a type and has another."""
    state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in stand_in(SHAPES).items()}
    fitted = fit_state(state, EXPECTED, "a.pth")
    assert same(fitted, {name: value.float() if value.is_floating_point() else value for name, value in state.items()})
    assert same(fit_state(state, EXPECTED, "a.pth", dtype=dtype), fit_state(state, EXPECTED, "a.pth"))
    with pytest.raises(StateDictMismatchError) as caught:
        fit_state(state, EXPECTED, "a.pth", dtype=torch.float32)
    assert f"backbone.conv1.weight: {dtype}, expected torch.float32" in caught.value.different


def test_parts_what_shares_memory() -> None:
    """Two names of one tensor, a view of another, and a transposed one become four plain tensors."""
    base = torch.arange(12.0).reshape(3, 4)
    state = {"a": base, "b": base, "c": base[1:], "d": base.T}
    fitted = fit_state(state, {name: value.shape for name, value in state.items()}, "a.pth")
    assert same(fitted, state)
    assert all(value.is_contiguous() for value in fitted.values())
    assert len({value.untyped_storage().data_ptr() for value in fitted.values()}) == 4
    fitted["a"].zero_()
    assert fitted["b"].sum() == 66


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"backbone.conv1.weight": None}, "missing", "1 missing: backbone.conv1.weight"),
        ({"auxiliary_head.w": torch.ones(2)}, "unexpected", "1 unexpected: auxiliary_head.w"),
        ({"backbone.conv1.weight": torch.ones(4, 3, 3)}, "different", "(4, 3, 3), expected (4, 3, 3, 3)"),
        ({"backbone.bn1.num_batches_tracked": torch.ones(())}, "different", "torch.float32, expected torch.int64"),
        ({"backbone.bn1.num_batches_tracked": torch.tensor([1])}, "different", "(1,), expected ()"),
        ({"decode_head.conv_seg.bias": torch.ones(19, dtype=torch.int32)}, "different", "torch.int32, expected"),
        ({"decode_head.conv_seg.bias": torch.full((19,), math.nan)}, "different", "infinite or not a number"),
        ({"decode_head.conv_seg.bias": torch.full((19,), -math.inf)}, "different", "infinite or not a number"),
        ({"decode_head.conv_seg.bias": torch.full((19,), 1e300, dtype=torch.float64)}, "different", "infinite or not"),
        ({"decode_head.conv_seg.bias": torch.ones(19).to_sparse()}, "different", "sparse"),
        ({"decode_head.conv_seg.bias": torch.ones(19, device="meta")}, "different", "without data"),
    ],
)
def test_says_what_does_not_fit(change: dict[str, Tensor | None], kind: str, words: str) -> None:
    """Each difference is in the message and in the attribute of its kind."""
    state = {name: value for name, value in {**stand_in(SHAPES), **change}.items() if value is not None}
    with pytest.raises(StateDictMismatchError) as caught:
        fit_state(state, EXPECTED, "a.pth")
    assert words in caught.value.found
    (name,) = change
    for attribute in ("missing", "unexpected", "different"):
        assert any(line.startswith(name) for line in getattr(caught.value, attribute)) == (attribute == kind)


def test_lists_five_names_and_keeps_all() -> None:
    """A checkpoint of another network must not fill the screen."""
    with pytest.raises(StateDictMismatchError) as caught:
        fit_state({f"w{i}\x1b" + "x" * 500: torch.ones(1) for i in range(100)}, EXPECTED, "a.pth")
    assert "4 missing" in caught.value.found
    assert "100 unexpected" in caught.value.found
    assert len(caught.value.unexpected) == 100
    assert len(str(caught.value)) < 1500
    assert "\x1b" not in str(caught.value)


def test_advises_on_another_number_of_classes() -> None:
    """The most common mistake has an answer of its own."""
    state = stand_in({**SHAPES, "decode_head.conv_seg.weight": (4, 8, 1, 1), "decode_head.conv_seg.bias": (4,)})
    with pytest.raises(StateDictMismatchError, match="classes="):
        fit_state(state, EXPECTED, "a.pth")


# --- safetensors -----------------------------------------------------------------------------------------------------


def test_writes_provenance_and_digest() -> None:
    """The file is plain safetensors; its header tells where the data came from and how it is hashed."""
    state = dict(stand_in(SHAPES))
    hostile = {**PROVENANCE, "note": '"data_sha256":"' + "0" * 64 + '"'}
    data = to_safetensors(state, hostile)
    start = 8 + int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8:start])["__metadata__"]
    assert metadata == {**hostile, "format": "pt", "data_sha256": hashlib.sha256(data[start:]).hexdigest()}
    assert same(dict(sorted(safetensors.torch.load(data).items())), dict(sorted(state.items())))


def test_finds_a_flipped_bit(tmp_path: Path) -> None:
    """The size is right, the header is right, one bit of a weight is not."""
    path = write(tmp_path / "a.safetensors", dict(stand_in(SHAPES)))
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(HashMismatchError) as caught:
        verify_data(path)
    start = 8 + int.from_bytes(data[:8], "little")
    assert caught.value.actual == hashlib.sha256(data[start:]).hexdigest() != caught.value.expected
    assert caught.value.size == len(data)
    assert str(path) in str(caught.value)


def test_verifies_only_what_states_a_digest(tmp_path: Path) -> None:
    """A file of another tool, or none."""
    safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(HashMismatchError, match="but the header says nothing"):
        verify_data(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointNotFoundError):
        verify_data(tmp_path / "none.safetensors")


def test_a_disk_that_fails_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.safetensors", dict(stand_in(SHAPES)))

    class Failing:
        def update(self, block: bytes) -> None:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(hashlib, "sha256", lambda *_: Failing())
    with pytest.raises(CheckpointNotFoundError, match=r"Input/output error[\s\S]*check the path and the disk"):
        verify_data(path)


@pytest.mark.skipif(not (SHARED / "golden").is_dir(), reason="the golden checkpoint lies outside the repository")
def test_converts_the_golden_checkpoint(tmp_path: Path) -> None:
    """A whole W18-Small in the published format: every one of its entries arrives, bit for bit."""
    (path,) = (SHARED / "golden").glob("fcn_hr18s_*.pth")
    shapes = json.loads((SHARED / "facts" / "state_dict_hr18s_19_classes.json").read_text())
    expected = {name: torch.Size(shape) for name, shape in shapes.items()}
    state = read_checkpoint(path.read_bytes(), path.name).state
    converted = write(tmp_path / "a.safetensors", fit_state(state, expected, path.name, dtype=torch.float32))
    verify_data(converted)
    wanted = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    assert same(dict(sorted(safetensors.torch.load_file(converted).items())), dict(sorted(wanted.items())))
    assert len(wanted) == len(expected)


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
    with pytest.raises(CheckpointNotFoundError, match="No such file"):
        read_file(tmp_path / "b.pth")
    with pytest.raises(CheckpointNotFoundError, match="a folder or special file"):
        read_file(tmp_path)
    os.truncate(tmp_path / "a.pth", 1 << 42)  # of which the disk holds nothing
    with pytest.raises(CheckpointNotFoundError, match="a file of 4,398,046,511,104 bytes; no checkpoint"):
        read_file(tmp_path / "a.pth")
    with pytest.raises(CheckpointNotFoundError, match="too long"):
        read_file(tmp_path / ("x" * 1000))


def test_a_file_that_is_rewritten_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real, seconds = tmp_path / "a.pth", os.fstat, iter(range(1, 10))
    path.write_bytes(b"x")

    def rewritten(descriptor: int) -> os.stat_result:
        os.utime(path, (0, next(seconds)))
        return real(descriptor)

    monkeypatch.setattr(os, "fstat", rewritten)
    with pytest.raises(CheckpointNotFoundError, match="changed while it was read"):
        read_file(path)


def test_entries_and_classes() -> None:
    network = network_shapes("hr18", 21)
    assert network["decode_head.conv_seg.weight"] == torch.Size((21, 270, 1, 1))
    assert with_classes(network, 5)["decode_head.conv_seg.bias"] == torch.Size((5,))
    assert network["decode_head.conv_seg.bias"] == torch.Size((21,))


def test_size_limit_is_just_above_the_file() -> None:
    published = 15_972_939  # bytes of a W18-Small file with 19 classes
    assert published + (12 << 20) < size_limit(network_shapes("hr18s", 19)) < 2.1 * published


# --- the cached file is there, damaged, or cannot be read ------------------------------------------------------------


def test_what_cannot_be_read_is_neither_removed_nor_fetched(host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory, no permission, a failing disk: the file may be whole, and of 264 MB."""
    url = host.play("/a.pth", whole(BODY))
    load(url)
    for code, kind in ((errno.EIO, CacheError), (errno.ENOMEM, CacheError), (errno.EACCES, CacheError)):

        def fails(*_: object, code: int = code, **__: object) -> None:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(mmap, "mmap", fails)
            with pytest.raises(CacheError, match=KEY) as caught:
                load(url)
        assert type(caught.value) is kind
        assert caught.value.path == files.path_of(KEY)
    load(url)
    assert len(host.requests) == 1
    fsck(NETWORK, DIGEST, settled=True)


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
    final = files.path_of(KEY)
    final.write_bytes(CONVERTED[:1000])
    real = files.remove_damaged

    def mend(path: Path, check: Callable[[Path], object]) -> None:
        convert.publish(KEY, CONVERTED)
        real(path, check)

    monkeypatch.setattr(files, "remove_damaged", mend)
    load(url)
    assert len(host.requests) == 1
    fsck(NETWORK, settled=True)


def test_a_cached_file_of_another_network_is_not_taken(host: FaultServer) -> None:
    load(host.play("/a.pth", whole(BODY)))
    path = files.path_of(KEY)
    with pytest.raises(StateDictMismatchError):
        convert.load(lambda: path, {})
    assert path.exists()


# --- the disk --------------------------------------------------------------------------------------------------------


def test_the_part_goes_only_where_that_helps(host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk with room for one copy does without the download at the end; one without room for that keeps it."""
    url = host.play("/a.pth", whole(BODY))
    real, failures = files.publish, [1]

    def publish(*arguments: object) -> Path:
        if failures[0]:
            failures[0] -= 1
            with disk_errors(files.path_of(KEY), "write the model"):
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "publish", publish)
    load(url)
    fsck(NETWORK, DIGEST, settled=True)
    files.clear()
    failures[0] = 1

    def disk_usage(folder: Path) -> SimpleNamespace:
        """Leave one byte too little, even without the partial download."""
        (partial,) = folder.glob("*.part")
        return SimpleNamespace(free=len(CONVERTED) - partial.stat().st_size - 1)

    monkeypatch.setattr(convert, "shutil", SimpleNamespace(disk_usage=disk_usage))
    with pytest.raises(CacheSpaceError):
        load(url)
    assert fsck()["partial"] == 1
    load(url)
    assert len(host.requests) == 2
    fsck(NETWORK, DIGEST, settled=True)


def test_no_room_and_the_part_is_gone(host: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fetched is released, and another process may sweep it: the error is still that of the full disk."""

    def publish(*_: object) -> Path:
        for entry in files.entries():
            if entry.kind == "partial":
                entry.path.unlink()
        with disk_errors(files.path_of(KEY), "write the model"):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "publish", publish)
    usage = SimpleNamespace(free=0)
    monkeypatch.setattr(convert, "shutil", SimpleNamespace(disk_usage=lambda _: usage))
    with pytest.raises(CacheSpaceError):
        load(host.play("/a.pth", whole(BODY)))


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o027, 0o002])
def test_modes_follow_the_umask(host: FaultServer, mask: int) -> None:
    old = os.umask(mask)
    try:
        load(host.play("/a.pth", whole(BODY)))
        fsck(NETWORK, DIGEST, settled=True)
    finally:
        os.umask(old)


AS_NOBODY = """
import os, sys
import torch
from hrnet_zoo.errors import CacheError
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
except CacheError as error:
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
