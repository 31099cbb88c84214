"""`hrnet-zoo prepare`: what it prints."""

import json
from pathlib import Path

from tests.cli.conftest import Run
from tests.support import raw_downloads


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


def test_errors_end_with_their_exit_codes(run: Run, tmp_path: Path) -> None:
    run("prepare", "lovda", tmp_path, tmp_path / "out", code=2)
    assert "the nearest names are loveda" in run.err
    run("prepare", "loveda", tmp_path, tmp_path / "out", code=5)
    assert "fetch Train.zip, Val.zip or Test.zip" in run.err
