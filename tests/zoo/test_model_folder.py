"""Saved and loaded is the same model, however saving ends; a folder says one thing, or is refused."""

import getpass
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file, save_file

from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.errors import (
    CheckpointFormatError,
    CheckpointNotFoundError,
    ConfigError,
    HashMismatchError,
    ModelConfigError,
    OutputError,
    StateDictMismatchError,
)
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.weights.convert import network_shapes
from hrnet_zoo.weights.scan import inspect_safetensors
from hrnet_zoo.zoo.create import create_model
from hrnet_zoo.zoo.model_config import (
    CARD_FILE,
    CONFIG_FILE,
    CONFIG_KEY,
    WEIGHTS_FILE,
    Metrics,
    ModelConfig,
    Parent,
    read_config,
)
from hrnet_zoo.zoo.model_folder import load_folder, read_folder, save_pretrained, verify_folder
from tests.support.tables import ROOT

ALL_FILES = sorted([CARD_FILE, CONFIG_FILE, WEIGHTS_FILE])


@pytest.fixture
def model() -> FCNHRNet:
    return create_model("demo", device="cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_round_trip(dtype: torch.dtype, tmp_path: Path) -> None:
    model = create_model("demo", device="cpu", dtype=dtype)
    folder = model.save_pretrained(tmp_path / "deep" / "a", metrics={"miou": 80.76, "data": "scenes", "steps": 4800})
    assert sorted(path.name for path in folder.iterdir()) == ALL_FILES
    stored = {kind for kind, _ in inspect_safetensors(folder / WEIGHTS_FILE, "").entries.values()}
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    assert stored == {names[dtype], "I64"}
    for own in (dtype, torch.float32):
        loaded = create_model(f"local-dir:{folder}", device="cpu", dtype=own)
        assert all(
            torch.equal(a.to(own), b)
            for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
        )
    image = scene(1, 96, 192).image
    same = create_model(f"local-dir:{folder}", device="cpu", dtype=dtype)
    assert np.array_equal(model.predict(image).mask, same.predict(image).mask)
    assert (same.classes, same.palette, same.dataset.resize_to) == (
        model.classes,
        model.palette,
        model.dataset.resize_to,
    )


def test_what_is_written_tells_of_no_machine_and_no_person(model: FCNHRNet, tmp_path: Path) -> None:
    first = model.save_pretrained(tmp_path / "secret-name")
    again = create_model(f"local-dir:{first}", device="cpu").save_pretrained(tmp_path / "b")
    own = tmp_path / "secret-name" / "mine.pth"
    torch.save(model.state_dict(), own)
    third = create_model("demo", checkpoint=own, device="cpu").save_pretrained(tmp_path / "c")
    words = {str(Path.home()), getpass.getuser(), platform.node(), "secret-name", str(ROOT), str(tmp_path)} - {"", "/"}
    for folder in (first, again, third):
        for path in folder.glob("*.*"):
            if path != own:
                header = path.read_bytes()[: 1 << 18].decode("utf-8", "replace")
                start = header[: inspect_safetensors(path, "").data_start] if path.name == WEIGHTS_FILE else header
                found = [word for word in words if word in start]
                assert not found, (path.name, found)
    assert [
        each.parent.name for each in (read_config(x / CONFIG_FILE) for x in (first, again, third)) if each.parent
    ] == [*("demo", "demo", "a custom checkpoint")]


def test_the_license_follows_the_weights(model: FCNHRNet, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "a", license="cc-by-nc-4.0")
    create_model(f"local-dir:{tmp_path / 'a'}", device="cpu").save_pretrained(tmp_path / "b")
    create_model("demo", pretrained=False, device="cpu").save_pretrained(tmp_path / "c")
    model.save_pretrained(tmp_path / "d")
    found = {name: read_config(tmp_path / name / CONFIG_FILE) for name in "abcd"}
    assert [each.license for each in found.values()] == ["cc-by-nc-4.0", "cc-by-nc-4.0", "unknown", "apache-2.0"]
    assert found["c"].parent is None


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_a_copy_keeps_figures_and_parent(stored: torch.dtype, tmp_path: Path) -> None:
    """Until its weights, classes or boxes differ; then the saved model is what it started from."""
    first = create_model("demo", device="cpu", dtype=stored)
    first.save_pretrained(tmp_path / "a", metrics={"miou": 80.76, "data": "scenes", "steps": 4800})
    said = read_config(tmp_path / "a" / CONFIG_FILE)

    def saved(model: FCNHRNet, **metrics: float) -> ModelConfig:
        return read_config(model.save_pretrained(tmp_path / "b", metrics=metrics) / CONFIG_FILE)

    model = create_model(f"local-dir:{tmp_path / 'a'}", device="cpu")
    copied = saved(model)
    assert (copied.metrics, copied.parent, copied.license) == (said.metrics, said.parent, said.license)
    assert said.parent
    assert said.parent.name == "demo"
    assert "80.76 %" in (tmp_path / "b" / CARD_FILE).read_text(encoding="utf-8")
    assert saved(create_model(f"local-dir:{tmp_path / 'b'}", device="cpu")).metrics == said.metrics
    assert saved(model, miou=1.5).metrics == Metrics(miou=1.5)
    model.dataset = replace(model.dataset, resize_to=(96, 64))
    assert saved(model).metrics == Metrics()
    changed = create_model(f"local-dir:{tmp_path / 'a'}", device="cpu")
    with torch.no_grad():
        next(iter(changed.parameters()))[0, 0, 0, 0] += 1
    found = saved(changed)
    assert found.metrics == Metrics()
    assert found.parent == Parent("local-dir", WEIGHTS_FILE, None, said.data_sha256)


def test_other_files_stay(model: FCNHRNet, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted([*ALL_FILES, "notes.txt"])


def test_what_cannot_be_saved(model: FCNHRNet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="loss"):
        save_pretrained(model, tmp_path, metrics={"loss": 1.0})
    with pytest.raises(ModelConfigError, match=r"\$\.metrics\.miou"):
        save_pretrained(model, tmp_path, metrics={"miou": 100.5})
    with pytest.raises(ModelConfigError, match="inf, expected percent"):
        save_pretrained(model, tmp_path, metrics={"macc": float("inf")})
    with pytest.raises(ConfigError, match="aacc"):
        save_pretrained(model, tmp_path, metrics={"aacc": [1.0]})  # type: ignore[dict-item]
    broken = create_model("demo", classes=["road", "a\nb"], device="cpu")
    with pytest.raises(ModelConfigError, match=r"\$\.classes\[1\]\.name"):
        broken.save_pretrained(tmp_path)
    with torch.no_grad():
        next(iter(model.parameters()))[0, 0, 0, 0] = torch.nan
    with pytest.raises(StateDictMismatchError, match="infinite or not a number"):
        model.save_pretrained(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_file()]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError):
        create_model("demo", device="cpu").save_pretrained(tmp_path / "file")


def test_figures_of_any_library(model: FCNHRNet, tmp_path: Path) -> None:
    figures = {"miou": np.float32(80.5), "macc": float("nan"), "steps": np.int64(3), "data": None}
    found = read_config(model.save_pretrained(tmp_path, metrics=figures) / CONFIG_FILE).metrics  # type: ignore[arg-type]
    assert (found.miou, found.macc, found.aacc, found.steps, found.data) == (80.5, None, None, 3, None)


def test_a_saved_config_is_json_for_everybody(model: FCNHRNet, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "a")
    content = json.loads((tmp_path / "a" / CONFIG_FILE).read_bytes())
    assert content["classes"][0] == {"name": "road", "color": [128, 64, 128]}
    assert content["data_sha256"] == model.provenance["data_sha256"]


# --- folders --------------------------------------------------------------------------------------------------------


NETWORK = network_shapes("hr18s", 19)


@pytest.fixture
def folder(demo_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_folder, tmp_path / "a"))


def test_weights_are_mapped_and_provenance_filled(folder: Path) -> None:
    config = read_folder(folder)
    state, provenance = load_folder(folder, config, NETWORK)
    assert list(state) == list(NETWORK)
    assert provenance["data_sha256"] == config.data_sha256
    assert provenance["license"] == "apache-2.0"
    assert provenance[CONFIG_KEY] == config.to_header()
    with torch.no_grad():
        state["backbone.conv1.weight"].zero_()  # of a private map: the file is not written to
    verify_folder(folder)


def test_config_json_may_be_away_when_loading_but_not_when_passing_on(folder: Path) -> None:
    (folder / CONFIG_FILE).unlink()
    assert read_folder(folder).dataset.classes[0] == "road"
    with pytest.raises(ModelConfigError, match=CONFIG_FILE):
        verify_folder(folder)


def test_config_json_of_other_weights_is_ignored(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = create_model("demo", classes=["road", "x"], device="cpu").save_pretrained(folder.parent / "b")
    shutil.copy(other / CONFIG_FILE, folder / CONFIG_FILE)
    caplog.clear()
    assert len(read_folder(folder).dataset.classes) == 19
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
        read_folder(folder)
    assert caught.value.json_path == "$.classes"


def test_a_model_replaced_while_it_is_read(folder: Path) -> None:
    config = read_folder(folder)
    model = create_model("demo", device="cpu")
    with torch.no_grad():
        model.decode_head.conv_seg.weight += 1
    model.save_pretrained(folder)
    state, provenance = load_folder(folder, config, NETWORK)
    assert torch.equal(state["decode_head.conv_seg.weight"], model.decode_head.conv_seg.weight)
    assert provenance["data_sha256"] != config.data_sha256
    create_model("demo", classes=["road", "x"], device="cpu").save_pretrained(folder)
    with pytest.raises(ModelConfigError, match="another network"):
        load_folder(folder, config, NETWORK)


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


def test_other_files_stay_and_old_parts_go(model: FCNHRNet, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    for name, age in ((f".{'0' * 16}.part", 3600), (f".{'1' * 16}.part", 0), (".other.part", 3600)):
        (tmp_path / name).write_bytes(b"")
        facts = (tmp_path / name).stat()
        os.utime(tmp_path / name, (facts.st_atime - age, facts.st_mtime - age))
    model.save_pretrained(tmp_path)
    kept = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert kept == sorted([*ALL_FILES, "notes.txt", f".{'1' * 16}.part", ".other.part"])
