"""Saved and loaded is the same model, however saving ends."""

import getpass
import json
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.errors import ConfigError, ModelConfigError, OutputError, StateDictMismatchError
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.weights.scan import inspect_safetensors
from hrnet_zoo.zoo.create import create_model
from hrnet_zoo.zoo.model_config import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, Metrics, ModelConfig, Parent, read_config
from hrnet_zoo.zoo.save import save_pretrained
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


def test_other_files_stay_and_old_parts_go(model: FCNHRNet, tmp_path: Path) -> None:
    import os

    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    for name, age in ((f".{'0' * 16}.part", 3600), (f".{'1' * 16}.part", 0), (".other.part", 3600)):
        (tmp_path / name).write_bytes(b"")
        facts = (tmp_path / name).stat()
        os.utime(tmp_path / name, (facts.st_atime - age, facts.st_mtime - age))
    model.save_pretrained(tmp_path)
    kept = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert kept == sorted([*ALL_FILES, "notes.txt", f".{'1' * 16}.part", ".other.part"])


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
