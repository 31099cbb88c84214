"""The command `evaluate`, and --fast."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import hrnet_zoo
from hrnet_zoo.datasets import SCENES
from hrnet_zoo.demo.dataset import write_dataset
from hrnet_zoo.engines.optimize import OptimizedModel
from hrnet_zoo.errors import OutputError
from hrnet_zoo.zoo.catalog import DEMO
from tests.cli.conftest import Run
from tests.support.http_server import FaultServer

NAME = "fcn_hr18s_cityscapes_40k"


def test_evaluate_generated_scenes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEMO.__dict__, "dataset", dataclasses.replace(SCENES, val_images=2))
    data = tmp_path / "scenes"
    assert run("demo", "--as-dataset", "--scenes", "2", "--out", data) == f"2 scenes in {data}\n"
    options = ("--device", "cpu", "--workers", "0")
    text = run("evaluate", "demo", data, *options)
    assert "published 80.76, difference" in text
    assert any(line.split()[:1] == ["bicycle"] for line in text.splitlines())
    saved = tmp_path / "figures.json"
    facts = json.loads(run("evaluate", "demo", data, "--limit", "1", "--save", saved, "--json", *options))
    assert facts == json.loads(saved.read_text(encoding="utf-8"))
    assert facts["images"] == 1
    assert facts["published_miou"] is None
    assert facts["miou_interval"] is None  # of one image
    assert (
        json.loads(run("evaluate", "demo", data, "--limit", "1", "--max-memory", "30MB", "--json", *options)) == facts
    )
    fast = json.loads(run("evaluate", "demo", data, "--limit", "1", "--fast", "--json", *options))
    assert fast["miou"] == pytest.approx(facts["miou"], abs=0.1)
    assert (facts["engine"], facts["dtype"]) == ("exact", "float32")
    assert fast["engine"] in ("onednn", "pytorch", "openvino")


def test_fast_is_the_same_in_python_and_in_the_commands(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one engine in one dtype, whichever is chosen, unless another dtype is asked for."""
    seen: list[tuple[str, torch.dtype]] = []
    real = OptimizedModel.logits_stride4

    def spied(self: OptimizedModel, x: torch.Tensor) -> torch.Tensor:
        seen.append((self.engine, x.dtype))
        return real(self, x)

    monkeypatch.setattr(OptimizedModel, "logits_stride4", spied)
    data = tmp_path / "scenes"
    run("demo", "--as-dataset", "--scenes", "1", "--out", data)
    image = next(data.rglob("*_leftImg8bit.png"))
    model = hrnet_zoo.create_model("demo", device="cpu")
    model.predict(image, fast=True)
    hrnet_zoo.evaluate(model, data, workers=0, fast=True)
    run("predict", "demo", image, "--fast", "--device", "cpu", "--no-overlay", "--out", tmp_path / "out")
    run("evaluate", "demo", data, "--fast", "--device", "cpu", "--workers", "0")
    assert len(seen) == 4
    fast = hrnet_zoo.optimize(model)
    assert set(seen) == {(fast.engine, fast.dtype)}
    if fast.trials:
        assert f"fast: {fast.engine} {str(fast.dtype).removeprefix('torch.')}, of " in run.err
    run("evaluate", "demo", data, "--fast", "--device", "cpu", "--workers", "0", "--dtype", "float16")
    assert seen[-1][1] == torch.float16


def test_confusion_matrix_as_a_picture(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    run("demo", "--as-dataset", "--scenes", "1", "--out", tmp_path / "scenes")
    options = ("evaluate", "demo", tmp_path / "scenes", "--device", "cpu", "--workers", "0", "--confusion")
    run(*options, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size[0] > 1000
    monkeypatch.setattr("hrnet_zoo.cli.options.load_model", pytest.fail)
    run(*options, tmp_path / "a.png", code=5)
    assert "it exists already" in run.err
    run(*options, tmp_path / "a.gif", code=2)
    assert "give a file that ends in .png, .svg, .pdf" in run.err


def test_evaluate_bad_input(run: Run, tmp_path: Path) -> None:
    assert run("evaluate", "demo", tmp_path, "--device", "cpu", code=5) == ""
    assert "leftImg8bit" in run.err
    run("evaluate", "demo", tmp_path, "--max-memory", "lots", code=2)
    assert "500MB" in run.err


def test_evaluate_looks_before_it_loads(
    run: Run, tmp_path: Path, host: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
    (tmp_path / "file").touch()
    for name in ("absent", "file"):
        run("evaluate", NAME, tmp_path / name, code=5)
        assert ": no such folder (" in run.err
    run("evaluate", NAME, tmp_path, "--save", tmp_path / "absent" / "figures.json", code=5)
    assert "its own folder is missing" in run.err
    run("evaluate", NAME, tmp_path, "--save", tmp_path, code=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    run("evaluate", NAME, tmp_path, "--save", tmp_path / "figures.json", code=2)
    assert "RANK is ''" in run.err
    assert host.requests == []


def test_evaluate_shows_its_figures_even_if_they_cannot_be_saved(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OutputError(asked="a", found="no space", done="c", advice="d", path=tmp_path)

    write_dataset(tmp_path / "scenes", seeds=[0], progress=False)
    monkeypatch.setattr("hrnet_zoo.evaluation.evaluate.atomic_write", full)
    options = ("--device", "cpu", "--workers", "0", "--save", tmp_path / "figures.json")
    text = run("evaluate", "demo", tmp_path / "scenes", *options, code=5)
    assert "1 of 50 images; Cityscapes val, one scale, whole image, float32 on cpu" in text
    assert "published" not in text
    assert "no space" in run.err


def test_evaluate_is_in_float32_on_the_gpu_of_this_process(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load(name: str, device: str | None, dtype: str, *_: object) -> None:
        asked.append((device, dtype))
        raise OutputError(asked="a", found="b", done="c", advice="d", path=tmp_path)

    monkeypatch.setattr("hrnet_zoo.cli.options.load_model", load)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    for options in ((), ("--device", "cuda", "--dtype", "float16"), ("--device", "cpu")):
        run("evaluate", "demo", tmp_path, *options, code=5)
    assert asked == [("cuda:3", "float32"), ("cuda:3", "float16"), ("cpu", "float32")]
    assert "Default: float32" in run("evaluate", "--help")
