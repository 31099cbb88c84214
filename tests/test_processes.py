"""Processes that others start: daemonic ones, forks, scripts without a main guard."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tables import ROOT

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")


def script(text: str, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *([text] if text.endswith(".py") else ["-c", text]), *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)  # noqa: S603


UNGUARDED = """
import sys
from pathlib import Path
from hrnet_zoo.images import prefetch
from hrnet_zoo.datasets.pairing import Sample

prefetch.START_METHOD = "spawn"  # as on macOS and Windows
{guard}list(prefetch.prefetch_in_processes([Sample("a", Path("a.png"), Path("b.png"))], str, 1))
"""


def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text(UNGUARDED.format(guard=""))
    done = script(str(file))
    assert done.returncode == 1
    last = done.stderr.partition("ProcessError: ")[2]
    assert "next:  if your script does not, put what it does below `if __name__ == '__main__':`" in last
    file.write_text(UNGUARDED.format(guard='if __name__ == "__main__":\n    '))
    assert script(str(file)).returncode == 0


FORKED = """
import dataclasses, os, sys
import numpy as np, torch
import hrnet_zoo
from hrnet_zoo.errors import ConfigError

torch.set_num_threads(2)
model, image = hrnet_zoo.create_model("demo", device="cpu"), np.zeros((64, 96, 3), np.uint8)
model.dataset = dataclasses.replace(model.dataset, resize_to=(96, 64))

def fork(threads):
    if child := os.fork():
        os.waitpid(child, 0)
        return
    torch.set_num_threads(threads)
    half = dict(dtype=torch.bfloat16, device="cpu")
    for work in (lambda: model.predict(image), lambda: hrnet_zoo.create_model("demo", **half)):
        try:
            work()
            print("computed")
        except ConfigError as error:
            print(error.found, error.advice)
    sys.stdout.flush()
    os._exit(0)

fork(2)  # making the model was enough: the file of its weights had to be checked
model.predict(image)
fork(2)
fork(1)
"""


@LINUX
def test_a_fork_that_would_wait_for_ever_is_refused() -> None:
    done = script(FORKED)
    said = done.stdout.splitlines()
    assert len(said) == 6, done.stderr
    for line in said[:4]:
        assert "forked after its parent had computed" in line
        assert "torch.set_num_threads(1)" in line
    assert said[4:] == ["computed"] * 2


def test_nothing_fixes_how_processes_are_started() -> None:
    text = (
        "import multiprocessing, numpy, hrnet_zoo; model = hrnet_zoo.create_model('demo', device='cpu')\n"
        "model.dataset.__dict__['resize_to'] = (64, 64)\n"
        "model.predict([numpy.zeros((64, 64, 3), 'uint8')] * 2); multiprocessing.set_start_method('spawn')"
    )
    done = script(text)
    assert not done.returncode, done.stderr
