"""`hrnet-zoo export`: what it asks for, and what it prints."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import hrnet_zoo
from hrnet_zoo.exporting import runner
from hrnet_zoo.exporting.export import ExportedFile
from hrnet_zoo.models.fcn import FCNHRNet
from tests.cli.conftest import Run

ROW = {
    "scene": "the least size",
    "batch": 2,
    "input_size": [33, 34],
    "size": [100, 200],
    "pixel_agreement": 0.99995,
    "largest_logit_error": 2.1e-05,
    "largest_logit": 31.25,
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Take the place of the function; what it was called with."""
    calls: list[Any] = []

    def export(model: FCNHRNet, path: Path, **arguments: Any) -> ExportedFile:
        calls.append((model, path, arguments))
        file = tmp_path / "demo.onnx"
        file.write_bytes(bytes(2_340_000))
        return ExportedFile(file, (file,), {"name": "demo", "agreement": [ROW]})

    monkeypatch.setattr(hrnet_zoo, "export", export, raising=False)
    return calls


def test_table(run: Run, asked: list[Any], tmp_path: Path) -> None:
    out = run("export", "demo", "--to", tmp_path / "demo.onnx")
    ((model, path, arguments),) = asked
    assert (model.name, str(model.device), path) == ("demo", "cpu", tmp_path / "demo.onnx")
    assert arguments == {"outputs": "labels", "precision": "fp32", "calibration": None, "force": False}
    first, second, row = out.splitlines()
    assert first == f"{tmp_path / 'demo.onnx'}: 2,340 kB"
    assert "compared with the network on generated scenes" in second
    text = "the least size 2 x 33x34 -> 100x200 99.9950% of the pixels alike, logits differ by 2.1e-05 of 31.25"
    assert " ".join(row.split()) == text


def test_options_and_json(run: Run, asked: list[Any], tmp_path: Path) -> None:
    choices = ("--outputs", "logits", "--precision", "int8", "--calibration", "photos", "--force", "--json")
    out = run("export", "demo", "--classes", "road,crack", "--to", "x.xml", *choices)
    ((model, _, arguments),) = asked
    assert model.classes == ("road", "crack")
    assert arguments == {"outputs": "logits", "precision": "int8", "calibration": "photos", "force": True}
    assert json.loads(out) == {"files": [str(tmp_path / "demo.onnx")], "name": "demo", "agreement": [ROW]}


def test_refusals(run: Run, tmp_path: Path) -> None:
    run("export", "demo", code=2)
    assert "--to" in run.err
    run("export", "demo", "--to", tmp_path / "demo.engine", code=2)
    assert ".onnx, .pt2 (torch.export) and .xml (OpenVINO IR)" in run.err
    (tmp_path / "demo.pt2").touch()
    run("export", "demo", "--to", tmp_path / "demo.pt2", code=5)
    assert "use --force" in run.err


def test_with_runner(run: Run, asked: list[Any], tmp_path: Path) -> None:
    out = run("export", "demo", "--to", tmp_path / "demo.onnx", "--with-runner")
    assert re.search(rf"{re.escape(str(tmp_path / 'runner.py'))}: \d+ kB", out)
    assert (tmp_path / "runner.py").read_bytes() == Path(runner.__file__).read_bytes()
    run("export", "demo", "--to", tmp_path / "other.onnx", "--with-runner", code=5)
    assert "use --force" in run.err
    run("export", "demo", "--to", tmp_path / "demo.pt2", "--with-runner", code=2)
    assert "a .pt2 needs torch" in run.err
    assert len(asked) == 1
