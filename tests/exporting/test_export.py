"""`export` writes a checked file, or says why not and leaves nothing."""

import dataclasses
import json
import logging
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hrnet_zoo
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.errors import ConfigError, HRNetZooError, ImageError, LogitsError, OutputError, OutputSpaceError
from hrnet_zoo.exporting import export as exporting
from hrnet_zoo.exporting.export import ExportedFile, export
from hrnet_zoo.exporting.metadata import KEY
from hrnet_zoo.inference.predict import resized
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.zoo.create import create_model


@pytest.fixture
def demo() -> FCNHRNet:
    return create_model("demo", device="cpu")


@pytest.fixture(scope="module")
def session(demo_onnx: ExportedFile) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(demo_onnx.path, providers=["CPUExecutionProvider"])


# --- a file in ONNX --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(203, 301), (384, 768), (600, 450)])
def test_labels_are_those_of_predict(session: Any, demo: FCNHRNet, size: tuple[int, int]) -> None:
    image = scene(11, *size).image
    (view,) = resized(image, demo.dataset.resize_to, ms_flip=False)
    labels, logits = session.run(["labels", "logits"], {"image": view[None], "size": np.array(size)})
    assert labels.dtype == np.uint8
    assert labels.shape == (1, *size)
    assert (labels[0] == demo.predict(image).mask).mean() > 0.9999
    height, width = view.shape[:2]
    assert logits.shape == (1, 19, -(-height // 4), -(-width // 4))


def test_logits_alone(session: Any) -> None:
    images = np.stack([scene(seed, 97, 131).image for seed in (0, 1)])
    feeds = {"image": images, "size": np.array([50, 60])}
    _, logits = session.run(None, feeds)
    none, same = session.run(None, {**feeds, "size": np.zeros(2, np.int64)})
    assert none.shape == (2, 0, 0)
    assert np.array_equal(same, logits)


def test_names_and_axes(session: Any) -> None:
    found = {each.name: (each.type, each.shape) for each in (*session.get_inputs(), *session.get_outputs())}
    assert found["image"] == ("tensor(uint8)", ["batch", "height", "width", 3])
    assert found["size"] == ("tensor(int64)", [2])
    assert found["labels"] == ("tensor(uint8)", ["batch", "label_height", "label_width"])
    kind, shape = found["logits"]
    assert (kind, shape[:2]) == ("tensor(float)", ["batch", 19])


def test_the_metadata_is_in_the_file_and_beside_it(session: Any, demo_onnx: ExportedFile, demo: FCNHRNet) -> None:
    facts = demo_onnx.metadata
    assert json.loads(session.get_modelmeta().custom_metadata_map[KEY]) == facts
    assert json.loads(demo_onnx.path.with_suffix(".json").read_text(encoding="utf-8")) == facts
    assert facts["file_format"] == "onnx"
    assert facts["weights_sha256"] == demo.provenance["data_sha256"]
    assert facts["license_note"].endswith("Apache-2.0.")
    assert facts["untrained_classes"] == []
    assert set(facts["versions"]) == {"torch", "onnx", "onnxscript", "onnxruntime"}
    assert len(demo_onnx.agreement) == 5
    for each in demo_onnx.agreement:
        assert each.pixel_agreement > 0.999
        assert each.largest_logit_error < 1e-3


def test_the_file_names_no_folder_and_nothing_else_is_left(demo_onnx: ExportedFile) -> None:
    body = demo_onnx.path.read_bytes()
    package = Path(hrnet_zoo.__file__).parent
    for path in (package, package.parent, Path(torch.__file__).parent, demo_onnx.path.parent, Path.home() / ".cache"):
        assert str(path).encode() not in body
    assert b".py" not in body
    assert sorted(path.name for path in demo_onnx.path.parent.iterdir()) == ["demo.json", "demo.onnx"]


# --- a file of torch.export, which needs no other package -------------------------------------------------------------


def test_pt2(demo: FCNHRNet, tmp_path: Path) -> None:
    """Its logits are the network's, to the bit."""
    demo.dataset = dataclasses.replace(demo.dataset, resize_to=(192, 96))  # where the check is quick
    made = export(demo, tmp_path / "demo.pt2", outputs="logits")
    assert all(each.pixel_agreement == 1 for each in made.agreement)
    assert all(each.largest_logit_error == 0 for each in made.agreement if each.batch == 1)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["demo.json", "demo.pt2"]
    package = str(Path(hrnet_zoo.__file__).parents[1]).encode()
    with zipfile.ZipFile(made.path) as archive:
        bodies = {name: archive.read(name) for name in archive.namelist()}
    assert not [name for name, body in bodies.items() if package in body or b"stack_trace" in body]
    (extra,) = (body for name, body in bodies.items() if name.endswith(f"extra/{KEY}"))
    assert json.loads(extra) == made.metadata


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "found", "advice"),
    [
        ("a.engine", {}, "the suffix '.engine'", r"\.onnx, \.pt2 \(torch\.export\) and \.xml"),
        ("a", {}, "the suffix ''", "suffixes"),
        ("a.onnx", {"outputs": "scores"}, "outputs='scores'", "'labels', 'logits'"),
        ("a.onnx", {"precision": "bf16"}, "precision='bf16'", "'fp32', 'fp16', 'int8'"),
        ("a.pt2", {"precision": "int8"}, "torch.export does not quantize", r"use \.onnx or \.xml"),
        ("a.onnx", {"calibration": "photos"}, "calibration for precision='fp32'", "leave calibration out"),
    ],
)
def test_arguments(
    demo: FCNHRNet, tmp_path: Path, name: str, arguments: dict[str, Any], found: str, advice: str
) -> None:
    with pytest.raises(ConfigError, match=advice) as caught:
        export(demo, tmp_path / name, **arguments)
    assert found in caught.value.found
    assert caught.value.asked == f"export demo to {name}"
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


@pytest.mark.parametrize(
    ("name", "arguments", "missing", "extras"),
    [
        ("a.onnx", {}, "onnx, onnxruntime", "export"),
        ("a.xml", {}, "onnx, openvino", "export,openvino"),
        ("a.xml", {"precision": "int8"}, "onnx, onnxruntime, openvino", "export,openvino"),
    ],
)
def test_missing_packages(
    demo: FCNHRNet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    arguments: dict[str, Any],
    missing: str,
    extras: str,
) -> None:
    for package in ("onnx", "onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "onnxscript", pytest)  # which is found
    with pytest.raises(ConfigError) as caught:
        export(demo, tmp_path / name, **arguments)
    assert caught.value.found == f"not installed: {missing}"
    assert f"pip install '.[{extras}]'" in caught.value.advice


@pytest.mark.parametrize("taken", ["a.pt2", "a.json"])
def test_existing_files(demo: FCNHRNet, tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="exists already"):
        export(demo, tmp_path / "a.pt2")
    assert (tmp_path / taken).read_text(encoding="utf-8") == "mine"
    with pytest.raises(OutputError, match="folder is missing"):
        export(demo, tmp_path / "nowhere" / "a.pt2")


def test_no_network(demo: FCNHRNet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no network of hrnet_zoo"):
        export("demo", tmp_path / "a.pt2")  # type: ignore[arg-type]
    demo.backbone.register_forward_hook(print)
    with pytest.raises(ConfigError, match="forward hook") as caught:
        export(demo, tmp_path / "a.pt2")
    assert caught.value.asked == "export demo to a.pt2"
    assert "can be optimized or exported" in caught.value.advice


def test_calibration_images(demo: FCNHRNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_require_packages", lambda *_: None)
    (tmp_path / "photo.jpg").write_text("no photo", encoding="utf-8")
    with pytest.raises(ImageError):
        export(demo, tmp_path / "a.onnx", precision="int8", calibration=[tmp_path / "photo.jpg"])
    with pytest.raises(ConfigError, match="no images") as caught:
        export(demo, tmp_path / "a.onnx", precision="int8", calibration=[])
    assert caught.value.asked == "export demo to a.onnx"
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"photo.jpg"}


def test_untrained_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Rows of the classifier that nobody trained are told of, in a log line and in the file."""
    network = create_model("demo", classes=["road", "crack", "moss"], device="cpu")
    told = []

    def worker(folder: Path, asked: str) -> dict[str, Any]:
        told.append(json.loads((folder / "job.json").read_text(encoding="utf-8"))["metadata"])
        raise LogitsError(asked=asked, found="", done="", advice="")

    monkeypatch.setattr(exporting, "_run_worker", worker)
    with caplog.at_level(logging.WARNING, "hrnet_zoo"), pytest.raises(LogitsError):
        export(network, tmp_path / "a.pt2")
    assert told[0]["untrained_classes"] == ["crack", "moss"]
    assert "2 of 3 classes were never trained" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


# --- a worker that fails ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ("kill -9 $$", ConfigError, "takes too much memory"),
        ("echo 'Traceback: ' >&2; echo 'ValueError: no such operator' >&2; exit 1", ConfigError, "no such operator"),
        ("exit 3", ConfigError, "code 3"),
        ("""echo '{"os_error": [28, "No space left on device"]}' > result.json""", OutputSpaceError, "No space left"),
        (
            """echo '{"error": "LogitsError", "facts": {"asked": "a", "found": "nan", "done": "c", "advice": "d"}}' """
            "> result.json",
            LogitsError,
            "nan",
        ),
    ],
)
def test_nothing_is_left(
    demo: FCNHRNet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    error: type[HRNetZooError],
    words: str,
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(error, match=words) as caught:
        export(demo, out / "a.pt2")
    assert type(caught.value) is error
    assert not list(out.iterdir())
