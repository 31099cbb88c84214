"""Every block of README.md and of the guides runs, in order, in an empty folder, with the installed package."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tables import ROOT

# In the order in which a newcomer would read them.
DOCUMENTS = (
    "README.md",
    *(f"examples/guide_{name}.md" for name in ("masks", "evaluation", "speed", "finetuning", "offline")),
)

NEWCOMER = """
import json, subprocess, sys
session = {}
for kind, text in json.load(sys.stdin):
    if kind == "python":
        exec(compile(text, "a document", "exec"), session)
    else:
        subprocess.run(["/bin/sh", "-ec", text], check=True)
assert tuple(session["logits"].shape) == (1, 3, 64, 96)
"""
OFFLINE = ("cache show", "verify --all")  # of the console blocks; the others need a host or somebody's files


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX shell")
def test_blocks_run_as_a_newcomer_runs_them(tmp_path: Path) -> None:
    """In order, in an empty folder, with the installed package: shell blocks, and Python blocks as one session."""
    text = "".join((ROOT / document).read_text(encoding="utf-8") for document in DOCUMENTS)
    steps = re.findall(r"```(sh|python|console)\n(.*?)```", text, flags=re.DOTALL)
    steps.remove(("sh", "pip install '.[test]' && pytest\n"))  # which `.ci/run` runs, as the first
    steps[0] = ("sh", "hrnet-zoo demo --scenes 2\n")
    for number, (kind, text) in enumerate(steps):
        if kind == "console":
            commands = [line.removeprefix("$ ") for line in text.splitlines()]
            here = [each for each in commands if each.startswith(tuple(f"hrnet-zoo {name}" for name in OFFLINE))]
            steps[number] = ("sh", "\n".join(here))
    scripts, folder = tmp_path / "bin", tmp_path / "empty"
    scripts.mkdir()
    folder.mkdir()
    installed = shutil.which("hrnet-zoo", path=Path(sys.executable).parent)
    command = scripts / "hrnet-zoo"
    command.write_text(f'#!/bin/sh\nexec "{installed or sys.executable}" {"" if installed else "-m hrnet_zoo"} "$@"\n')
    command.chmod(0o755)
    environment = dict(os.environ, HRNET_ZOO_OFFLINE="1", PATH=f"{scripts}:{os.environ['PATH']}")
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-W", "error", "-c", NEWCOMER],
        input=json.dumps(steps),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    made = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert {"overlay.png", "labels.png", "scores.json", "demo-out/street.jpg"} <= made
    assert {f"segmented{name}/street_overlay.png" for name in ("", "-fast", "-own")} <= made
    assert {"runs/a/model.safetensors", "runs/b/metrics.jsonl", "my_model/README.md"} <= made
