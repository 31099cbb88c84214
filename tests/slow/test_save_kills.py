"""A save that is killed at any step leaves the old model or the new one."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tables import ROOT

# Child n is killed the n-th time that it opens, renames or removes something in the folder.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)  # a forked process has no others, and would wait for them
from hrnet_zoo.zoo.create import create_model
from hrnet_zoo.weights.convert import verify_data

folder = Path(sys.argv[1])
old, new = create_model("demo", device="cpu"), create_model("demo", classes=["road", "x"], device="cpu")
old.save_pretrained(folder)
seen, count = [], 0
while not seen or seen[-1] != "whole":
    count += 1
    child = os.fork()
    if not child:
        left = [count]
        def hook(event, arguments):
            if event in ("open", "os.rename", "os.remove") and str(folder) in str(arguments[0]):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        new.save_pretrained(folder)
        os._exit(0)
    ended = os.waitpid(child, 0)[1]
    loaded = create_model(f"local-dir:{folder}", device="cpu")
    verify_data(folder / "model.safetensors")
    seen.append("whole" if not ended else {19: "old", 2: "new"}[len(loaded.classes)])
    assert ended in (0, signal.SIGKILL)
print(*seen)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and fork")
def test_killed_at_every_step(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    seen = done.stdout.split()
    assert seen[-1] == "whole"
    assert {*seen} == {"old", "new", "whole"}
    assert seen.index("new") > seen.index("old")
    assert len(seen) >= 7
