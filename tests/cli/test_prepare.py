"""`hrnet-zoo prepare`: what it prints."""

import json
from pathlib import Path

import numpy as np

from tests.cli.conftest import Run
from tests.support import raw_downloads
from tests.support.label_folders import image, labels, mask


def test_prepare_and_check(run: Run, tmp_path: Path) -> None:
    source, out = raw_downloads.loveda(tmp_path / "raw"), tmp_path / "out"
    lines = run("prepare", "loveda", source, out).splitlines()
    assert lines == [
        *("test: 2 images", "train: 2 images", "val: 2 images"),
        f"10 files written to {out}",
        f"  next: hrnet-zoo check-data {out} --dataset loveda",
    ]
    assert "LoveDA, val in" in run("check-data", out, "--dataset", "loveda")
    facts = json.loads(run("prepare", "loveda", source, out, "--json"))
    assert facts == {"root": str(out), "images": {"test": 2, "train": 2, "val": 2}, "written": 0, "notes": []}
    assert json.loads(run("prepare", "loveda", source, out, "--json", "--force"))["written"] == 10


def test_masks_of_a_tool(run: Run, tmp_path: Path) -> None:
    image(tmp_path / "raw/images/a.png")
    labels(tmp_path / "raw/masks/a.png", mask(2) * np.uint8(255))
    source, out = tmp_path / "raw", tmp_path / "my data"
    assert run("prepare", "binary-masks", source, out, "--classes", "crack").splitlines() == [
        "1 images",
        f"3 files written to {out}",
        f"  next: hrnet-zoo check-data '{out}'",
    ]
    assert "crack" in run("check-data", out)
    run("prepare", "binary-masks", source, out, "--empty", "ignore", code=2)
    assert "1 classes, foreground" in run.err
    run("prepare", "binary-masks", source, out, "--classes", "2", code=2)
    assert "--classes takes names here" in run.err
    run("prepare", "coco", source, out, code=5)
    assert "no JSON file of COCO among 2 files" in run.err


def test_errors_end_with_their_exit_codes(run: Run, tmp_path: Path) -> None:
    run("prepare", "lovda", tmp_path, tmp_path / "out", code=2)
    assert "the nearest names are loveda" in run.err
    run("prepare", "loveda", tmp_path, tmp_path / "out", code=5)
    assert "fetch Train.zip, Val.zip or Test.zip" in run.err
