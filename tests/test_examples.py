"""The examples run."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from hrnet_zoo.demo.scenes import scene
from tests.tables import ROOT

EXAMPLES = ROOT / "examples"


def run(script: str, *arguments: str | Path) -> str:
    return subprocess.run(  # noqa: S603
        [sys.executable, EXAMPLES / script, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HRNET_ZOO_OFFLINE": "1"},
    ).stdout


def test_every_example_is_tested() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix in {".py", ".ipynb"}}
    assert names == {"label_a_photo.py", "quickstart.ipynb", "shares_to_csv.py", "train_demo.py"}


def test_label_a_photo(tmp_path: Path) -> None:
    Image.fromarray(scene(0, 96, 192).image).save(tmp_path / "street.jpg")
    assert "%" in run("label_a_photo.py", tmp_path / "street.jpg")
    with Image.open(tmp_path / "street_labels.png") as labels:
        assert labels.size == (192, 96)
    assert (tmp_path / "street_overlay.png").is_file()


def test_shares_to_csv(tmp_path: Path) -> None:
    for seed in range(2):
        Image.fromarray(scene(seed, 96, 192).image).save(tmp_path / f"{seed}.jpg")
    (tmp_path / "notes.txt").write_text("no picture")
    table = list(csv.DictReader(io.StringIO(run("shares_to_csv.py", tmp_path, "road", "sky"))))
    assert [row["picture"] for row in table] == ["0.jpg", "1.jpg"]
    assert all(0 < float(row["road"]) < 1 for row in table)


def test_train_demo_writes_a_checkpoint_of_the_published_form(tmp_path: Path) -> None:
    sizes = ("--size", "64", "128", "--crop", "64", "64", "--batch", "2", "--fresh", "1", "--pool", "4")
    where = ("--out", tmp_path / "demo.pth", "--device", "cpu", "--workers", "0", "--minutes", "0.02")
    text = run("train_demo.py", *where, *sizes)
    assert "mIoU" in text
    (checkpoint,) = tmp_path.glob("demo-????????.pth")
    assert checkpoint.stat().st_size < 9e6
    from hrnet_zoo.creation import create_model

    model = create_model("fcn_hr18s_cityscapes_40k", checkpoint=checkpoint, device="cpu")
    assert model.predict(scene(0, 64, 128).image).mask.shape == (64, 128)


@pytest.mark.filterwarnings("default")  # of the notebook machinery, not of ours
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert not any(output.output_type == "error" for output in shown)
