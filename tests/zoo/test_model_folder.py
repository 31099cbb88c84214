"""A model folder says one thing, or is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save_file

from hrnet_zoo.errors import (
    CheckpointFormatError,
    CheckpointNotFoundError,
    HashMismatchError,
    ModelConfigError,
    StateDictMismatchError,
)
from hrnet_zoo.weights.convert import network_shapes
from hrnet_zoo.weights.scan import inspect_safetensors
from hrnet_zoo.zoo.create import create_model
from hrnet_zoo.zoo.model_config import CONFIG_FILE, CONFIG_KEY, WEIGHTS_FILE
from hrnet_zoo.zoo.model_folder import load_folder, read_folder, read_stored_config, verify_folder
from tests.support.tables import ROOT

NETWORK = network_shapes("hr18s", 19)


@pytest.fixture
def folder(demo_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_folder, tmp_path / "a"))


def test_weights_are_mapped_and_provenance_filled(folder: Path) -> None:
    config = read_folder(folder)
    state, provenance = load_folder(folder, config, NETWORK, rewritable=False)
    assert list(state) == list(NETWORK)
    assert provenance["data_sha256"] == config.data_sha256
    assert provenance["license"] == "apache-2.0"
    assert provenance[CONFIG_KEY] == config.to_header()
    with torch.no_grad():
        state["backbone.conv1.weight"].zero_()  # of a private map: the file is not written to
    verify_folder(folder)


def test_config_json_may_be_away_when_loading_but_not_when_passing_on(folder: Path) -> None:
    (folder / CONFIG_FILE).unlink()
    assert read_folder(folder).classes[0] == "road"
    with pytest.raises(ModelConfigError, match=CONFIG_FILE):
        verify_folder(folder)


def test_config_json_of_other_weights_is_ignored(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = create_model("demo", classes=["road", "x"], device="cpu").save_pretrained(folder.parent / "b")
    shutil.copy(other / CONFIG_FILE, folder / CONFIG_FILE)
    caplog.clear()
    assert len(read_folder(folder).classes) == 19
    assert len([line for line in caplog.messages if "belongs to other weights" in line]) == 1
    with pytest.raises(ModelConfigError, match="another value"):
        verify_folder(folder)


def test_config_json_that_contradicts_is_refused(folder: Path) -> None:
    path = folder / CONFIG_FILE
    path.write_bytes(path.read_bytes().replace(b'"road"', b'"rode"'))
    with pytest.raises(ModelConfigError) as caught:
        read_folder(folder)
    assert caught.value.json_path == "$.classes"
    path.write_bytes(b"{")
    with pytest.raises(ModelConfigError):
        read_folder(folder)


def test_damage_is_found(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(CheckpointFormatError, match="bytes"):
        read_folder(folder)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    read_folder(folder)  # the header is whole
    with pytest.raises(HashMismatchError):
        verify_folder(folder)
    path.write_bytes(b"<html>")
    with pytest.raises(CheckpointFormatError, match="HTML"):
        read_folder(folder)


def test_what_is_no_model_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"no model\.safetensors there"):
        read_folder(tmp_path / "absent")
    with pytest.raises(CheckpointNotFoundError):
        read_folder(Path("a\0b"))
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointNotFoundError, match=r"no model\.safetensors there[\s\S]*checkpoint=PATH"):
        read_folder(tmp_path / "pickled")
    (tmp_path / "foreign").mkdir()
    save_file(load_file(folder / WEIGHTS_FILE), tmp_path / "foreign" / WEIGHTS_FILE)
    with pytest.raises(CheckpointFormatError, match="without a configuration"):
        read_folder(tmp_path / "foreign")


def test_a_header_that_lies(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    state, metadata = load(path.read_bytes()), inspect_safetensors(path, "").metadata  # no pages of what is rewritten
    (folder / CONFIG_FILE).unlink()

    def rewrite(change: dict[str, object]) -> None:
        config = {**json.loads(metadata[CONFIG_KEY]), **change}
        save_file(state, path, {**metadata, CONFIG_KEY: json.dumps(config)})

    rewrite({"arch": "hr48"})
    with pytest.raises(StateDictMismatchError, match="missing"):
        create_model(f"local-dir:{folder}", device="cpu")
    rewrite({"classes": json.loads(metadata[CONFIG_KEY])["classes"][:5]})
    with pytest.raises(StateDictMismatchError, match="conv_seg"):
        create_model(f"local-dir:{folder}", device="cpu")
    rewrite({"classes": 10**9})
    with pytest.raises(ModelConfigError) as caught:
        read_stored_config(path)
    assert caught.value.json_path == "$.classes"


def test_a_model_replaced_while_it_is_read(folder: Path) -> None:
    config = read_folder(folder)
    model = create_model("demo", device="cpu")
    with torch.no_grad():
        model.decode_head.conv_seg.weight += 1
    model.save_pretrained(folder)
    state, provenance = load_folder(folder, config, NETWORK, rewritable=True)
    assert torch.equal(state["decode_head.conv_seg.weight"], model.decode_head.conv_seg.weight)
    assert provenance["data_sha256"] != config.data_sha256
    create_model("demo", classes=["road", "x"], device="cpu").save_pretrained(folder)
    with pytest.raises(ModelConfigError, match="another network"):
        load_folder(folder, config, NETWORK, rewritable=True)


# In a child: one that is ended by SIGBUS must not take the tests along.
REWRITTEN = """
import os, shutil, sys
from hrnet_zoo.zoo.create import create_model
import torch

torch.set_num_threads(1)
own, other = sys.argv[1:]
models = [create_model(f"local-dir:{own}", device="cpu")]
models.append(create_model("demo", checkpoint=f"{own}/model.safetensors", device="cpu"))
before = [{name: entry.clone() for name, entry in model.state_dict().items()} for model in models]
shutil.copyfile(f"{other}/model.safetensors", f"{own}/model.safetensors")
os.truncate(f"{own}/model.safetensors", 1000)
for model, state in zip(models, before):
    assert all(torch.equal(entry, state[name]) for name, entry in model.state_dict().items())
print("unmoved")
"""


def test_a_file_that_is_rewritten_in_place_moves_no_network(folder: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        other = create_model("demo", pretrained=False, device="cpu").save_pretrained(folder.parent / "b")
    command = [sys.executable, "-c", REWRITTEN, str(folder), str(other)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    assert (done.returncode, done.stdout) == (0, "unmoved\n"), done.stderr
