"""`hrnet-zoo lock`: what is known of the digests, as text, JSON and a file."""

import json
from pathlib import Path

import pytest

from hrnet_zoo.zoo.catalog import model_info
from hrnet_zoo.zoo.first_seen import record
from tests.cli.test_cli import Run

INFO = model_info("fcn_hr18s_cityscapes_40k")
ONE = INFO.sha256_prefix + 56 * "0"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


def test_shows_exports_and_imports(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = run("lock").splitlines()
    assert len(lines) == 23
    assert lines[0].split() == [INFO.name, "prefix", "93db27d0"]
    record(INFO, ONE, "a.pth")
    assert run("lock").splitlines()[0].split() == [INFO.name, "recorded", ONE]
    facts = json.loads(run("lock", "--export", tmp_path / "SUMS", "--json"))
    assert facts == [{"name": INFO.name, "sha256": ONE, "authority": "recorded"}]
    run("lock", "--export", tmp_path / "SUMS", code=5)
    assert "--force" in run.err
    run("lock", "--export", tmp_path / "SUMS", "--force")
    monkeypatch.setenv("HRNET_ZOO_CACHE", str(tmp_path / "other"))
    assert run("lock", "--import", tmp_path / "SUMS").split() == [INFO.name, "recorded", ONE]
    (tmp_path / "SUMS").write_text(f"{ONE[:-1]}1  {INFO.file_name}\n")
    run("lock", "--import", tmp_path / "SUMS", code=4)
    run("lock", "--import", tmp_path / "absent", code=2)
    run("lock", "--import", tmp_path / "SUMS", "--export", tmp_path / "x", code=2)
