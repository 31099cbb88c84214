"""The gate admits what torch.save and safetensors write, and nothing else; what it refuses is never executed."""

import io
import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from hrnet_zoo.errors import CheckpointError, CheckpointFormatError, CheckpointNotFoundError
from hrnet_zoo.weights.convert import read_checkpoint
from hrnet_zoo.weights.scan import SafetensorsHeader, inspect_checkpoint, inspect_safetensors
from tests.conftest import SHARED
from tests.support.checkpoints import (
    ATTACKS,
    GOOD_LEGACY,
    GOOD_ZIP,
    META,
    legacy,
    legacy_file,
    small_network,
    storage,
    tensor,
    weights,
    zip_file,
    zipped,
)

FORMATS = pytest.mark.parametrize("save", [legacy, zipped])
Save = Callable[[dict[str, Any]], bytes]


def trained() -> dict[str, Any]:
    """Return what a training loop saves: parameters that need gradients, and the state of two optimizers."""
    network = small_network()
    adam, sgd = torch.optim.Adam(network.parameters()), torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    adam.step()
    sgd.step()
    return dict(network.named_parameters()) | {"adam": adam.state_dict(), "sgd": sgd.state_dict()}


def every_dtype() -> dict[str, Any]:
    """Return one tensor of each type that is stored."""
    names = ["float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"]
    return {name: torch.ones(3, dtype=getattr(torch, name)) for name in names}


def views() -> dict[str, Any]:
    """Return tensors that share one storage, with and without gaps, and an empty one."""
    base = torch.arange(24.0).reshape(2, 3, 4)
    return {
        "base": base,
        "row": base[1],
        "flipped": base.permute(2, 0, 1),
        "none": base[:, :0],
        "scalar": base[1, 2, 3],
    }


@FORMATS
@pytest.mark.parametrize(
    "content", [lambda: small_network().state_dict(), trained, every_dtype, views, dict], ids=lambda make: make.__name__
)
def test_admits_what_torch_saves(save: Save, content: Callable[[], dict[str, Any]]) -> None:
    """Real saves of this torch pass, and nothing is lost."""
    data = save(content())
    found, _ = inspect_checkpoint(data, "a.pth")
    assert isinstance(found, dict)
    assert found["meta"] == META
    assert list(found["state_dict"]) == list(content())


@pytest.mark.parametrize("data", [GOOD_LEGACY, GOOD_ZIP], ids=["legacy", "zip"])
def test_admits_the_files_written_by_hand(data: bytes) -> None:
    """What the attacks are variations of is sound: each is refused for its own fault alone."""
    inspect_checkpoint(data, "a.pth")
    assert torch.load(io.BytesIO(data), weights_only=True)["w0"].tolist() == [1, 2, 3, 4]


def test_admits_a_storage_seen_from_two_sides() -> None:
    """Two tensors may view one storage."""
    inspect_checkpoint(legacy_file(weights(tensor(), tensor(shape=(2, 2), strides=(1, 2)))), "a.pth")
    inspect_checkpoint(zip_file(weights(*[tensor(storage(view=b""))] * 2)), "a.pth")


@pytest.mark.parametrize("name", ATTACKS)
def test_refuses(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attack ends in its class and words, names the source, and leaves no trace."""
    data, error, words = ATTACKS[name]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        read_checkpoint(data, "https://host/evil.pth")
    assert type(caught.value) is error
    assert words in caught.value.found
    assert "https://host/evil.pth" in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).replace("\n", "").isprintable()
    assert not list(tmp_path.iterdir())


@FORMATS
def test_refuses_every_truncation(save: Save) -> None:
    """A broken-off file is damage, wherever it ends."""
    data = save(small_network().state_dict())
    for length in range(0, len(data), 11):
        with pytest.raises(CheckpointFormatError):
            inspect_checkpoint(data[:length], "a.pth")


@FORMATS
def test_mutants_are_admitted_or_refused_in_words(save: Save) -> None:
    """Chance damage never escapes as another exception; what is admitted never claims more than the file holds."""
    data, chance, refused = save(small_network().state_dict()), random.Random(7), 0  # noqa: S311 - no secret
    for _ in range(400):
        mutant = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            mutant[chance.randrange(len(mutant))] = chance.randrange(256)
        try:
            inspect_checkpoint(bytes(mutant), "a.pth")
        except CheckpointError:
            refused += 1
    assert 100 < refused <= 400


@pytest.mark.skipif(not (SHARED / "golden").is_dir(), reason="the golden checkpoint lies outside the repository")
def test_admits_the_golden_checkpoint() -> None:
    """A real file of the published kind passes."""
    for path in (SHARED / "golden").glob("*.pth"):
        inspect_checkpoint(path.read_bytes(), path.name)


# --- safetensors -----------------------------------------------------------------------------------------------------


def header(text: str, data: bytes = bytes(16)) -> bytes:
    """Return a safetensors file with this header."""
    return struct.pack("<Q", len(text.encode())) + text.encode() + data


def entry(dtype: object = "F32", shape: object = (4,), span: object = (0, 16)) -> str:
    """Return a header of one tensor."""
    return json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": span}})


DAMAGED = "a safetensors header that is damaged"
BAD_HEADERS: dict[str, tuple[bytes, str]] = {
    "trailing byte": (header(entry()) + b"x", "a file of 87 bytes that describes 86"),
    "missing byte": (header(entry())[:-1], "a file of 85 bytes that describes 86"),
    "half a header": (header(entry())[:40], "a file of 40 bytes that describes a header of 62"),
    "oversize header": (struct.pack("<Q", 5 << 20) + b"{", "the limit is 4,194,304"),
    "no JSON": (header("{]"), DAMAGED),
    "UTF-16": (struct.pack("<Q", 4) + "{}".encode("utf-16-le"), DAMAGED),
    "nested": (header('{"w":' * 100_000), DAMAGED),
    "a name twice": (header(entry()[:-1] + "," + entry()[1:]), DAMAGED),
    "a key twice": (header(entry().replace('"shape"', '"dtype": "F32", "shape"')), DAMAGED),
    "NaN": (header('{"w": NaN}'), DAMAGED),
    "a number of 5000 digits": (header(entry().replace("[4]", "[" + "9" * 5000 + "]")), DAMAGED),
    "no tensor": (header('{"w": 5}'), DAMAGED),
    "a key too many": (header(entry().replace('"shape"', '"x": 1, "shape"')), DAMAGED),
    "three offsets": (header(entry(span=(0, 8, 16))), DAMAGED),
    "unknown type": (header(entry(dtype="F8_E4M3", span=(0, 4))), DAMAGED),
    "a shape of text": (header(entry(shape="4444")), DAMAGED),
    "a true side": (header(entry(shape=(True, 4))), DAMAGED),
    "a broken side": (header(entry(shape=(4.0,))), DAMAGED),
    "a negative side": (header(entry(shape=(-2, -2))), DAMAGED),
    "sides that overflow": (header(entry(shape=(0, 10**17, 10**17), span=(0, 0)), b""), DAMAGED),
    "dimensions": (header(entry(shape=[1] * 17 + [4])), DAMAGED),
    "a shape too large": (header(entry(shape=(5,))), DAMAGED),
    "a gap": (header(entry(span=(4, 20)), bytes(20)), DAMAGED),
    "an overlap": (
        header(entry()[:-1] + "," + entry(span=(8, 24)).replace('"w"', '"v"')[1:], bytes(24)),
        DAMAGED,
    ),
    DAMAGED: (header('{"__metadata__": {"a": "\\udc00"}}', b""), DAMAGED),
    "metadata of numbers": (header('{"__metadata__": {"a": 5}}', b""), DAMAGED),
    "metadata of a list": (header('{"__metadata__": []}', b""), DAMAGED),
    "too many tensors": (
        header("{" + ",".join(f'"{i}":{{}}' for i in range(20_001)) + "}", b""),
        DAMAGED,
    ),
    "a terminal's orders": (header('{"\\u001b[2J' + "x" * 500 + '": {"data_offsets": 5}}'), r"\x1b[2Jxxx"),
    "a renamed legacy file": (GOOD_LEGACY, "a pickle, where a safetensors file was expected"),
    "a renamed zip": (GOOD_ZIP, "a zip archive, where"),
    "a page": (b"<html>", "HTML"),
    "empty": (b"", "an empty file"),
    "eight bytes": (bytes(8), "an unknown kind of file"),
}


def test_reads_a_safetensors_header(tmp_path: Path) -> None:
    """Names, types, shapes, metadata and the start of the data."""
    path = tmp_path / "a.safetensors"
    state = {"b": torch.ones(2, 3, dtype=torch.float16), "n": torch.tensor(5), "none": torch.ones(0, 3)}
    safetensors.torch.save_file(state, path, {"format": "pt", "a": "ü"})
    found = inspect_safetensors(path, "a.safetensors")
    assert isinstance(found, SafetensorsHeader)
    assert found.entries == {"b": ("F16", (2, 3)), "n": ("I64", ()), "none": ("F32", (0, 3))}
    assert found.metadata == {"format": "pt", "a": "ü"}
    assert found.size == path.stat().st_size
    assert found.data_start == found.size - 2 * 6 - 8
    assert found.places == {"n": found.data_start, "none": found.data_start + 8, "b": found.data_start + 8}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_refuses_a_safetensors_header(name: str, tmp_path: Path) -> None:
    """Each fault is named, briefly and without control characters."""
    data, words = BAD_HEADERS[name]
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointFormatError) as caught:
        inspect_safetensors(path, "mine.safetensors")
    assert words in caught.value.found
    assert "mine.safetensors" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_refuses_what_is_no_regular_file(tmp_path: Path) -> None:
    """A folder, a pipe (which would hang) and impossible names are not found."""
    pipe = tmp_path / "pipe.safetensors"
    paths = [tmp_path, tmp_path / "none.safetensors", tmp_path / "a\0b", tmp_path / "\ud800", tmp_path / ("x" * 300)]
    if hasattr(os, "mkfifo"):
        os.mkfifo(pipe)
        paths.append(pipe)
    for path in paths:
        with pytest.raises(CheckpointNotFoundError) as caught:
            inspect_safetensors(path, "mine.safetensors")
        assert "no regular, readable file" in str(caught.value)
