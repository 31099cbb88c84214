"""Every format, output and precision: half a minute each."""

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hrnet_zoo
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.exporting.export import export
from hrnet_zoo.inference.predict import resized
from hrnet_zoo.zoo.create import create_model
from tests.support.tables import ROOT

for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(package)


@pytest.mark.parametrize(
    ("suffix", "outputs", "precision", "megabytes"),
    [
        (".onnx", "logits", "fp32", 16),
        (".onnx", "labels", "fp16", 8),
        (".onnx", "labels", "int8", 5),
        (".pt2", "labels", "fp16", 12),
        (".xml", "labels", "fp32", 16),
        (".xml", "logits", "fp16", 8),
        (".xml", "labels", "int8", 5),
    ],
)
def test_the_demo_network(suffix: str, outputs: Any, precision: Any, megabytes: float, tmp_path: Path) -> None:
    made = export(create_model("demo", device="cpu"), tmp_path / f"demo{suffix}", outputs=outputs, precision=precision)
    error = {"fp32": 1e-4, "fp16": 0.1, "int8": 4}[precision]
    assert all(each.largest_logit_error < error for each in made.agreement)
    assert made.agreement[3].pixel_agreement > {"fp32": 0.9999, "fp16": 0.999, "int8": 0.995}[precision]
    weights = made.path.with_suffix(".bin") if suffix == ".xml" else made.path
    assert 0.8 * megabytes < weights.stat().st_size / 1e6 < 1.1 * megabytes
    package = str(Path(hrnet_zoo.__file__).parents[1]).encode()
    for path in made.files:
        assert package not in path.read_bytes()
        assert str(tmp_path).encode() not in path.read_bytes()


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".xml"])
def test_the_same_bytes_again(suffix: str, tmp_path: Path) -> None:
    """Under the same name, in other folders."""
    digests = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        made = export(create_model("demo", device="cpu"), folder / f"demo{suffix}")
        digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in made.files})
    assert digests[0] == digests[1]


def test_other_classes_and_a_sliding_window(tmp_path: Path) -> None:
    """Random weights, which are as exact in float32; 60 classes, and the window in the metadata."""
    torch.manual_seed(0)
    model = create_model("fcn_hr48_pascal_context_80k", pretrained=False, device="cpu")
    made = export(model, tmp_path / "context.onnx")
    assert made.metadata["sliding_window"] == {"size": 480, "stride": 320}
    assert made.agreement[3].input_size == (480, 480)
    assert len(made.metadata["untrained_classes"]) == 60


def test_a_file_that_disagrees_is_not_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("fcn_hr18s_ade20k_160k", pretrained=False, device="cpu")
    model.dataset = dataclasses.replace(model.dataset, resize_to=(192, 96))  # where the check is quick
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ConfigError, match=r"at least 99\.50% are required") as caught:
        export(model, out / "a.onnx", precision="int8", calibration=[scene(seed, 128, 256).image for seed in range(4)])
    assert re.search(r"labels \d\d\.\d{4}% of the pixels", caught.value.found)
    assert not list(out.iterdir())


def test_openvino_labels_are_those_of_predict(tmp_path: Path) -> None:
    import openvino

    model = create_model("demo", device="cpu")
    export(model, tmp_path / "demo.xml")
    compiled = openvino.Core().compile_model(tmp_path / "demo.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for seed, size in enumerate([(203, 301), (384, 768), (600, 450)]):
        image = scene(seed, *size).image
        (view,) = resized(image, model.dataset.resize_to, ms_flip=False)
        labels = compiled({"image": view[None], "size": np.array(size)})["labels"][0]
        assert (labels == model.predict(image).mask).mean() > 0.9999


def test_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    session: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "examples/guide_export.md").read_text(), flags=re.DOTALL):
        exec(compile(block, "the guide", "exec"), session)  # noqa: S102
    assert session["exported"].path == Path("demo.pt2")
    assert {path.name for path in tmp_path.iterdir()} >= {"demo.pt2", "demo.json"}
