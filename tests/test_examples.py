"""The examples run."""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from hrnet_zoo.cli import cli
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.inference.tables import TableWriter, table_columns, table_row
from hrnet_zoo.zoo.create import create_model
from tests.support.tables import ROOT
from tests.support.training_data import GROUPS, write_own_folder

EXAMPLES = ROOT / "examples"


def run(script: str, *arguments: str | Path, code: int = 0, **environment: str) -> str:
    done = subprocess.run(  # noqa: S603
        [sys.executable, EXAMPLES / script, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HRNET_ZOO_OFFLINE": "1", **environment},
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout


def execute(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **replaced: str) -> list[Any]:
    """Run a notebook in a folder, with some of its text replaced; return what it showed."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    notebook = nbformat.read(EXAMPLES / name, as_version=4)  # type: ignore[no-untyped-call]
    install, *others = (cell for cell in notebook.cells if cell.cell_type == "code")
    assert re.fullmatch(r'%pip install --quiet "\.\.(\[plot\])?"', install.source)  # the checkout
    assert not any(re.search(r"\bpip\b|^[%!]", cell.source, flags=re.MULTILINE) for cell in others)
    install.source = ""  # not run: pip would reach the network, and change this environment
    for cell in notebook.cells:
        cell.source = replaced.pop(cell.id.replace("-", "_"), cell.source)
    assert not replaced
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not any(output.output_type == "error" for output in shown)
    return shown


def test_every_example_is_tested() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix in {".py", ".ipynb"}}
    assert names == {
        *(
            "batch_predict_ray.py",
            "compare_creation.py",
            "compare_with_peers.py",
            "finetune.ipynb",
            "finetune_own_classes.py",
        ),
        *("label_a_photo.py", "quickstart.ipynb", "serve.py", "train_demo.py"),
    }


def test_label_a_photo(tmp_path: Path) -> None:
    Image.fromarray(scene(0, 96, 192).image).save(tmp_path / "street.jpg")
    assert "%" in run("label_a_photo.py", tmp_path / "street.jpg")
    with Image.open(tmp_path / "street_labels.png") as labels:
        assert labels.size == (192, 96)
    assert (tmp_path / "street_overlay.png").is_file()


def test_compare_creation() -> None:
    ways = run("compare_creation.py", "demo", "--times", "1").splitlines()
    assert [line.split()[0] for line in ways[:2]] == ["hrnet-zoo", "plain"]
    assert all(re.fullmatch(r"[\w-]+ +[\d.]+ ms +(-?[\d.]+|nan) MB +[\d.]+x", line) for line in ways)


def test_finetune_own_classes(tmp_path: Path) -> None:
    data = write_own_folder(tmp_path / "data", 6)
    sizes = ("--crop", "64", "64", "--resize-to", "192", "96", "--batch", "2", "--val", "0.3", "--workers", "0")
    text = run(
        "finetune_own_classes.py", data, "--out", tmp_path / "a", "--steps", "2", *sizes, "--compare-with-random"
    )
    figures = dict(re.findall(r"^(\w+) +[\d.]+ +([\d.]+)$", text, flags=re.MULTILINE))
    assert list(figures) == [*GROUPS, "mean"]
    # The script's own figure of the model that was kept is the one that the run states.
    assert f"best mIoU: {figures['mean']} from demo" in text
    assert create_model("local-dir:" + str(tmp_path / "a"), device="cpu").classes == tuple(GROUPS)
    assert (tmp_path / "a_random" / "model.safetensors").is_file()
    with Image.open(tmp_path / "a" / "comparison.png") as image:
        assert image.size == (1200, 480)


def test_two_ray_workers_label_as_one_model_does(tmp_path: Path) -> None:
    pytest.importorskip("ray.data")
    photos, out = tmp_path / "photos", tmp_path / "labels"
    (photos / "more").mkdir(parents=True)
    for seed in range(6):
        name = f"more/{seed}.png" if seed % 2 else f"{seed}.jpg"
        Image.fromarray(scene(seed, 96, 192).image).save(photos / name)
    (photos / "broken.jpg").write_text("no image")
    options = ("--workers", "2", "--batch", "1")
    text = run("batch_predict_ray.py", photos, out, *options, code=1, HOME=str(tmp_path))
    assert text.startswith("6 of 7 images labeled")
    with (out / "shares.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert "none of the formats" in rows.pop(str(photos / "broken.jpg"))["error"]
    assert len(rows) == 6
    model = create_model("demo")
    with TableWriter(tmp_path / "here.csv", table_columns(model.classes)) as table:
        for path in rows:
            result = model.predict(path)
            table.append(table_row(path, result))
            with Image.open(out / f"{Path(path).relative_to(photos)}.png") as labels:
                np.testing.assert_array_equal(np.asarray(labels), result.mask)
    assert run("batch_predict_ray.py", photos, out, *options, "--resume").endswith("has all images\n")
    with (tmp_path / "here.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == list(rows.values())


def test_commands_for_clusters_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the launchers and of ours, with the parsers that will see them."""
    from torch.distributed.run import get_args_parser

    accelerate = pytest.importorskip("accelerate.commands.launch")
    launchers = {"torchrun": get_args_parser(), "accelerate": accelerate.launch_command_parser()}
    monkeypatch.setattr(sys, "argv", ["accelerate", "launch"])  # at which its parser looks
    text = (EXAMPLES / "guide_clusters.md").read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"```(?:ba)?sh\n(.*?)```", text, flags=re.DOTALL))
    commands = [*map(shlex.split, blocks.splitlines()), *map(shlex.split, re.findall(r"`(hrnet-zoo \w[^`]*)`", text))]
    found = []
    for words in commands:
        program, *rest = words[words[:1] == ["srun"] :] or [""]
        if program in launchers:
            parsed = launchers[program].parse_args(rest[program == "accelerate" :])
            assert parsed.module
            assert parsed.training_script == "hrnet_zoo"
            found.append((program, parsed.training_script_args[0]))
            rest = parsed.training_script_args
        elif program == "hrnet-zoo":
            found.append((program, rest[0]))
        else:
            assert "hrnet" not in " ".join(words), words
            continue
        command = cli.commands[rest[0]]
        command.parse_args(click.Context(command), rest[1:])
    assert sorted(found) == [
        ("accelerate", "finetune"),
        *[("hrnet-zoo", "download"), ("hrnet-zoo", "finetune")],
        *[("torchrun", "evaluate"), ("torchrun", "finetune"), ("torchrun", "finetune"), ("torchrun", "finetune")],
    ]


@pytest.mark.filterwarnings("default")  # of the notebook machinery, not of ours
def test_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = execute("quickstart.ipynb", tmp_path, monkeypatch)
    assert any("image/png" in output.get("data", {}) for output in shown)
