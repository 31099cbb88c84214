"""A safetensors file mapped: bit for bit, private pages, nothing before the header fits."""

import copy
import io
import mmap
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from hrnet_zoo.errors import CheckpointFormatError, CheckpointNotFoundError, StateDictMismatchError
from hrnet_zoo.weights.convert import map_safetensors, to_safetensors
from hrnet_zoo.weights.scan import SafetensorsHeader
from tests.support.checkpoints import stand_in

SHAPES = {"backbone.conv1.weight": (4, 3, 3, 3), "backbone.bn1.num_batches_tracked": (), "backbone.bn1.weight": (5,)}
EXPECTED = {name: torch.Size(shape) for name, shape in SHAPES.items()}


@pytest.fixture
def state() -> dict[str, Tensor]:
    return dict(stand_in(SHAPES))


@pytest.fixture
def path(state: dict[str, Tensor], tmp_path: Path) -> Path:
    file = tmp_path / "a.safetensors"
    file.write_bytes(to_safetensors(state, {"source_url": "https://host/a.pth"}))
    return file


def always(shapes: Mapping[str, torch.Size]) -> Callable[[SafetensorsHeader], Mapping[str, torch.Size]]:
    return lambda _: shapes


def same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    return list(found) == list(wanted) and all(
        found[name].dtype == wanted[name].dtype and torch.equal(found[name], wanted[name]) for name in wanted
    )


def test_bit_for_bit_in_the_order_of_the_network(path: Path, state: dict[str, Tensor]) -> None:
    found, metadata = map_safetensors(path, always(EXPECTED), "a", torch.float32)
    assert same(found, state)
    assert metadata["source_url"] == "https://host/a.pth"
    backwards = dict(reversed(EXPECTED.items()))
    assert list(map_safetensors(path, always(backwards), "a")[0]) == list(backwards)


def test_every_type_and_an_empty_tensor(tmp_path: Path) -> None:
    state = {
        str(kind): torch.arange(6).reshape(2, 3).to(kind) for kind in (torch.float16, torch.bfloat16, torch.float64)
    }
    state |= {"none": torch.empty(0, 3), "a.num_batches_tracked": torch.tensor(1 << 40)}
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    found, _ = map_safetensors(tmp_path / "a.safetensors", lambda _: {k: v.shape for k, v in state.items()}, "a")
    assert same(found, state)


def test_data_at_odd_places(path: Path, state: dict[str, Tensor]) -> None:
    """A header whose length is no multiple of the values' size: other tools may write it."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    path.write_bytes((length + 3).to_bytes(8, "little") + data[8 : 8 + length] + b"   " + data[8 + length :])
    found, _ = map_safetensors(path, always(EXPECTED), "a")
    assert same(found, state)
    assert not [name for name, entry in found.items() if entry.data_ptr() % entry.element_size()]


def test_writing_leaves_the_file_as_it_is(path: Path, state: dict[str, Tensor]) -> None:
    before = path.read_bytes()
    found, _ = map_safetensors(path, always(EXPECTED), "a")
    for entry in found.values():
        entry.zero_()
    assert path.read_bytes() == before
    assert same(map_safetensors(path, always(EXPECTED), "a")[0], state)
    assert not any(entry.any() for entry in found.values())


def test_tensors_stand_alone(path: Path, state: dict[str, Tensor]) -> None:
    """One tensor saved, copied or kept is that tensor, not the whole file."""
    found, _ = map_safetensors(path, always(EXPECTED), "a")
    name = "backbone.bn1.weight"
    assert found[name].untyped_storage().nbytes() == 20
    assert len({entry.untyped_storage().data_ptr() for entry in found.values()}) == len(found)
    kept, copied = found[name], copy.deepcopy(found)
    saved = io.BytesIO()
    torch.save(found, saved)
    saved.seek(0)
    del found
    path.unlink()
    assert torch.equal(kept, state[name])
    assert same(copied, state)
    assert same(torch.load(saved, weights_only=True), state)
    shared = kept.share_memory_()  # type: ignore[no-untyped-call]
    assert torch.equal(shared, state[name])


def test_compares_before_it_maps(path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, shapes and types are judged by the header alone."""
    monkeypatch.setattr(mmap, "mmap", lambda *_, **__: pytest.fail("the file was mapped"))
    with pytest.raises(StateDictMismatchError) as caught:
        map_safetensors(path, always({**EXPECTED, "more": torch.Size([2])}), "a")
    assert caught.value.missing == ("more",)
    with pytest.raises(StateDictMismatchError) as caught:
        map_safetensors(path, always({**EXPECTED, "backbone.bn1.weight": torch.Size([1, 5])}), "a")
    assert caught.value.different == ("backbone.bn1.weight: (5,), expected (1, 5)",)
    with pytest.raises(StateDictMismatchError, match=r"torch\.float32, expected torch\.float16"):
        map_safetensors(path, always(EXPECTED), "a", torch.float16)
    path.write_bytes(to_safetensors({name: value.long() for name, value in state.items()}, {}))
    with pytest.raises(StateDictMismatchError, match=r"torch\.int64, expected torch\.float16"):
        map_safetensors(path, always(EXPECTED), "a")
    with pytest.raises(StateDictMismatchError) as caught:
        map_safetensors(path, always({name: EXPECTED[name] for name in list(EXPECTED)[:2]}), "a")
    assert caught.value.unexpected == ("backbone.bn1.weight",)


def test_what_is_expected_may_depend_on_the_header(path: Path) -> None:
    seen: list[SafetensorsHeader] = []

    def refuse(header: SafetensorsHeader) -> Mapping[str, torch.Size]:
        seen.append(header)
        raise KeyError

    with pytest.raises(KeyError):
        map_safetensors(path, refuse, "a")
    assert seen[0].entries["backbone.bn1.weight"] == ("F32", (5,))


def test_refusals(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointNotFoundError):
        map_safetensors(tmp_path / "none.safetensors", always(EXPECTED), "a")

    def cut(header: SafetensorsHeader) -> Mapping[str, torch.Size]:
        """Somebody shortens the file after its header was read."""
        with path.open("rb+") as file:
            file.truncate(header.data_start + 4)
        return EXPECTED

    with pytest.raises(CheckpointNotFoundError, match="it was changed while it was read"):
        map_safetensors(path, cut, "mine")
    with pytest.raises(CheckpointFormatError, match=r"mine[\s\S]*bytes that describes "):
        map_safetensors(path, always(EXPECTED), "mine")
