"""From a checkpoint to safetensors and back: bit for bit what was stored, or an error that says what differs."""

import errno
import hashlib
import io
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from hrnet_zoo.errors import CheckpointFormatError, CheckpointNotFoundError, HashMismatchError, StateDictMismatchError
from hrnet_zoo.weights.convert import (
    CONVERTER_VERSION,
    claimed_classes,
    class_count,
    fit,
    read_checkpoint,
    to_safetensors,
    verify_data,
)
from hrnet_zoo.weights.gate import inspect_safetensors
from tests.conftest import SHARED
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
    kinds = ("float16", "bfloat16", "float64", "int8", "uint8", "int16", "int32", "int64")
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
    with pytest.raises(CheckpointFormatError, match="version '99"):
        read_checkpoint(archive([Member(f"archive/{name}", data) for name, data in members.items()]), "a.pth")


# --- class_count and fit ---------------------------------------------------------------------------------------------


def test_counts_classes() -> None:
    """The rows of the classifier; without one, or without rows, there is no answer."""
    assert class_count(stand_in(SHAPES), "a.pth") == 19
    for state in (
        {},
        {"decode_head.conv_seg.weight": torch.ones(19)},
        {"decode_head.conv_seg.weight": torch.ones(0, 8, 1, 1)},
    ):
        with pytest.raises(StateDictMismatchError, match=r"decode_head\.conv_seg\.weight"):
            class_count(state, "a.pth")


def test_fits_in_the_order_of_the_network() -> None:
    """Same values, other order."""
    state = stand_in(SHAPES)
    fitted = fit(dict(reversed(state.items())), EXPECTED, "a.pth", dtype=torch.float32)
    assert same(fitted, state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_makes_float32_of_other_floats(dtype: torch.dtype) -> None:
    """Unless the file must have a type and has another."""
    state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in stand_in(SHAPES).items()}
    fitted = fit(state, EXPECTED, "a.pth")
    assert same(fitted, {name: value.float() if value.is_floating_point() else value for name, value in state.items()})
    assert same(fit(state, EXPECTED, "a.pth", dtype=dtype), fit(state, EXPECTED, "a.pth"))
    with pytest.raises(StateDictMismatchError) as caught:
        fit(state, EXPECTED, "a.pth", dtype=torch.float32)
    assert f"backbone.conv1.weight: {dtype}, expected torch.float32" in caught.value.different


def test_parts_what_shares_memory() -> None:
    """Two names of one tensor, a view of another, and a transposed one become four plain tensors."""
    base = torch.arange(12.0).reshape(3, 4)
    state = {"a": base, "b": base, "c": base[1:], "d": base.T}
    fitted = fit(state, {name: value.shape for name, value in state.items()}, "a.pth")
    assert same(fitted, state)
    assert all(value.is_contiguous() for value in fitted.values())
    assert len({value.untyped_storage().data_ptr() for value in fitted.values()}) == 4
    fitted["a"].zero_()
    assert fitted["b"].sum() == 66


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"backbone.conv1.weight": None}, "missing", "1 missing: backbone.conv1.weight (4, 3, 3, 3)"),
        ({"auxiliary_head.w": torch.ones(2)}, "unexpected", "1 unexpected: auxiliary_head.w (2,)"),
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
        fit(state, EXPECTED, "a.pth")
    assert words in caught.value.found
    (name,) = change
    for attribute in ("missing", "unexpected", "different"):
        assert any(line.startswith(name) for line in getattr(caught.value, attribute)) == (attribute == kind)


def test_lists_five_names_and_keeps_all() -> None:
    """A checkpoint of another network must not fill the screen."""
    with pytest.raises(StateDictMismatchError) as caught:
        fit({f"w{i}\x1b" + "x" * 500: torch.ones(1) for i in range(100)}, EXPECTED, "a.pth")
    assert "4 missing" in caught.value.found
    assert "100 unexpected" in caught.value.found
    assert len(caught.value.unexpected) == 100
    assert len(str(caught.value)) < 1500
    assert "\x1b" not in str(caught.value)


def test_advises_on_another_number_of_classes() -> None:
    """The most common mistake has an answer of its own."""
    state = stand_in({**SHAPES, "decode_head.conv_seg.weight": (4, 8, 1, 1), "decode_head.conv_seg.bias": (4,)})
    with pytest.raises(StateDictMismatchError, match="classes="):
        fit(state, EXPECTED, "a.pth")


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
    with pytest.raises(CheckpointFormatError, match="without data_sha256"):
        verify_data(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointNotFoundError):
        verify_data(tmp_path / "none.safetensors")


def test_a_disk_that_fails_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.safetensors", dict(stand_in(SHAPES)))
    header = inspect_safetensors(path, "")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("hrnet_zoo.weights.convert.inspect_safetensors", lambda *_: header)
    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(CheckpointNotFoundError, match=r"to its end: Input/output error[\s\S]*check the disk"):
        verify_data(path)


@pytest.mark.skipif(not (SHARED / "golden").is_dir(), reason="the golden checkpoint lies outside the repository")
def test_converts_the_golden_checkpoint(tmp_path: Path) -> None:
    """A whole W18-Small in the published format: every one of its entries arrives, bit for bit."""
    (path,) = (SHARED / "golden").glob("fcn_hr18s_*.pth")
    shapes = json.loads((SHARED / "facts" / "state_dict_hr18s_19_classes.json").read_text())
    expected = {name: torch.Size(shape) for name, shape in shapes.items()}
    state = read_checkpoint(path.read_bytes(), path.name).state
    assert class_count(state, path.name) == 19
    converted = write(tmp_path / "a.safetensors", fit(state, expected, path.name, dtype=torch.float32))
    verify_data(converted)
    wanted = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    assert same(dict(sorted(safetensors.torch.load_file(converted).items())), dict(sorted(wanted.items())))
    assert len(wanted) == len(expected)
