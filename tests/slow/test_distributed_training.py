"""Two processes train as one does, with every option that splits or copies the network."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tables import ROOT
from tests.support.training_data import write_own_folder
from tests.training.test_finetune import lines, train

SCRIPT = """
import json, os, sys
from hrnet_zoo.training.finetune import finetune

if __name__ == "__main__":
    for out, options in json.loads(sys.argv[2]).items():
        options = {name: tuple(each) if type(each) is list else each for name, each in options.items()}
        stop_after = options.pop("stop_after", None)

        def note(event):
            with open(out + "-heard.txt", "a") as heard:
                print(os.environ["RANK"], event.kind, event.step, event.reason, file=heard)
            return "stop" if event.step == stop_after else None

        finetune("demo", sys.argv[1], out, **options, on_event=note, progress=False)
"""
PLAIN: dict[str, Any] = {
    "steps": 2,
    "batch": 4,
    "lr": 0.001,
    "crop": (64, 64),
    "resize_to": (192, 96),
    "val": 0.25,
    "validate_every": 2,
    "workers": 0,
    "device": "cpu",
}
RUNS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "all": {**PLAIN, "gradient_checkpointing": True, "ema": 0.9, "accumulate": 2, "class_weights": "auto"},
    "auto": {**PLAIN, "steps": 3, "batch": "auto", "val": 0, "stop_after": 1, "trackers": "tensorboard"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_own_folder(tmp_path_factory.mktemp("data"), 8)


@pytest.fixture(scope="module")
def two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of all runs in two processes, which are started once."""
    root = tmp_path_factory.mktemp("two")
    (root / "train.py").write_text(SCRIPT, encoding="utf-8")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "HRNET_ZOO_CACHE": str(root / "cache"),
    }
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    runs = json.dumps({str(root / name): options for name, options in RUNS.items()})
    run = subprocess.run(  # noqa: S603
        [*torchrun, str(root / "train.py"), str(data), runs],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return root


@pytest.mark.parametrize("name", ["plain", "all"])
def test_two_processes_learn_as_one_does(name: str, data: Path, two: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(data, tmp_path, **RUNS[name])
    torch.set_num_threads(threads)
    losses = [[line["loss"] for line in lines(out, "train")] for out in (tmp_path, two / name)]
    assert len(losses[0]) == 2
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    scores = [[line["mIoU"] for line in lines(out, "val")] for out in (tmp_path, two / name)]
    assert scores[1] == pytest.approx(scores[0], abs=0.5)


def test_one_process_goes_on(data: Path, two: Path) -> None:
    state = (two / "all" / "training_state.safetensors").read_bytes()
    one_goes_on = train(data, two / "all", **RUNS["all"], resume=True)
    assert one_goes_on.loss is None  # nothing was left to do, for any number of processes
    assert (two / "all" / "training_state.safetensors").read_bytes() == state
    config = json.loads((two / "all" / "config.json").read_text(encoding="utf-8"))
    assert config["metrics"]["steps"] == 2


def test_processes_agree_on_a_batch_and_the_first_alone_tells_of_a_run(two: Path) -> None:
    first = json.loads((two / "auto" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["config"]["batch"] == 8  # 4 images for each process, of 8
    assert [line["iter"] for line in lines(two / "auto", "train")] == [1]
    heard = (two / "auto-heard.txt").read_text(encoding="utf-8").splitlines()
    assert [line.strip() for line in heard] == ["0 update 1", "0 end 1 stopped"]  # both processes stopped by it
    assert len([*(two / "auto" / "tensorboard").glob("*tfevents*")]) == 1
