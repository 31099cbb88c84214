"""Every kind of name leads to a network."""

from pathlib import Path

import pytest
import torch

from hrnet_zoo.errors import CheckpointNotFoundError, ConfigError, HashMismatchError, UnknownModelError
from hrnet_zoo.zoo.catalog import DEMO, is_saved
from hrnet_zoo.zoo.create import create_model
from hrnet_zoo.zoo.resolve import resolve


@pytest.fixture
def name(tmp_path: Path) -> str:
    return f"local-dir:{create_model('demo', device='cpu').save_pretrained(tmp_path / 'a')}"


def test_a_row() -> None:
    model = resolve(DEMO.file_name)
    assert (model.name, model.info, model.config, model.source) == ("demo", DEMO, None, DEMO.file_name)


def test_a_folder(name: str) -> None:
    model = resolve(name)
    assert (model.name, model.arch, model.info) == (name, "hr18s", None)
    assert model.config is not None
    assert model.dataset == model.config.dataset
    model.verify()
    path = Path(model.source)
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(HashMismatchError):
        model.verify()


def test_prefixes_and_folders_make_a_saved_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()  # a row's name stays the row's
    assert [is_saved(each) for each in (name, "hf-hub:a/b", "a", "demo", "local-dir", "a/local-dir:b")] == [
        *(True, True, True, False, False, False)
    ]


def test_a_path_is_the_name_of_its_folder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a text, a Path, relative, and with the home folder's sign."""
    path = Path(name.removeprefix("local-dir:"))
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("HOME", str(path.parent))
    for each in (str(path), path, "a", Path("a"), "./a/", "~/a"):
        model = create_model(each, device="cpu")
        assert model.name == f"local-dir:{each}"
        assert torch.equal(
            model.decode_head.conv_seg.weight, create_model("demo", device="cpu").decode_head.conv_seg.weight
        )


def test_what_is_no_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder after the colon"):
        resolve("local-dir:")
    for wrong in (f"local-dir:{tmp_path}/absent", "local-dir:~nobody-of-this-name/x", "local-dir:a\0b"):
        with pytest.raises(CheckpointNotFoundError):
            resolve(wrong)
    with pytest.raises(CheckpointNotFoundError, match=r"no model\.safetensors there"):
        resolve(str(tmp_path))
    with pytest.raises(UnknownModelError):
        resolve(f"{tmp_path}/absent")


def test_a_folder_takes_every_argument_of_create_model(name: str, tmp_path: Path) -> None:
    demo = create_model("demo", device="cpu")
    weight = demo.decode_head.conv_seg.weight
    new = create_model(name, classes=["bus", "road", "lake"], device="cpu", dtype=torch.float64)
    assert new.classes == ("bus", "road", "lake")
    assert torch.equal(new.decode_head.conv_seg.weight[1], weight[0].double())
    assert new.palette[1] == demo.palette[0]
    blank = create_model(name, pretrained=False, device="cpu")
    assert blank.provenance == {}
    assert not torch.equal(blank.decode_head.conv_seg.weight, weight)
    torch.save(demo.state_dict(), tmp_path / "own.pth")
    own = create_model(name, checkpoint=tmp_path / "own.pth", device="cpu")
    assert own.provenance["source_url"] == "own.pth"
    assert torch.equal(own.decode_head.conv_seg.weight, weight)
    assert {each.name for each in (new, blank, own)} == {name}
    with pytest.raises(ConfigError, match="only True goes with a checkpoint"):
        create_model(name, pretrained=False, checkpoint=tmp_path / "own.pth")


def test_only_weights_in_the_cache_are_mapped(name: str, cache: Path) -> None:
    """There nobody rewrites them; a folder's are read."""
    models = [create_model(each, device="cpu") for each in (name, "demo")]
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux tells what is mapped")
    files = {line.split()[-1] for line in maps.read_text().splitlines() if line.endswith(".safetensors")}
    mapped = {file for file in files if file.startswith(f"{cache.parent}/")}  # networks of other tests may be there yet
    assert mapped == {str(path) for path in cache.rglob("*.safetensors")}
    assert models[0].provenance["source_url"] == "model.safetensors"
