"""An exported demo network, made once for all tests and workers: it takes half a minute."""

import json

import pytest
from filelock import FileLock

from hrnet_zoo.exporting.export import ExportedFile, export
from hrnet_zoo.zoo.create import create_model


@pytest.fixture(scope="session")
def demo_onnx(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> ExportedFile:
    """Export the demo network as `demo.onnx`, labels in float32."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "exported"
    with FileLock(f"{folder}.lock"):
        path = folder / "demo.onnx"
        if path.exists():
            return ExportedFile(
                path, (path.with_suffix(".json"), path), json.loads(path.with_suffix(".json").read_text())
            )
        folder.mkdir()
        return export(create_model("demo", device="cpu"), path)
