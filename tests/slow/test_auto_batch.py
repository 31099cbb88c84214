"""`batch="auto"` where memory is short, and among several processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.training_data import write_own_folder
from tests.training.test_finetune import lines, train_in_two_processes

OPTIONS = {"crop": [128, 128], "resize_to": [192, 96], "val": 0, "workers": 0, "device": "cpu", "steps": 1}

LIMITED = """
import json, resource, sys
import torch
from hrnet_zoo.evaluation.costs import resident
from hrnet_zoo.training.finetune import finetune

torch.set_num_threads(1)
data, out, megabytes, options = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
options = {name: tuple(each) if type(each) is list else each for name, each in options.items()}
limit = resident("VmSize") + megabytes * 10**6
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
finetune("demo", data, out, **options, progress=False)
"""


def limited(data: Path, out: Path, megabytes: int, batch: int | str) -> tuple[int, str]:
    command = [
        sys.executable,
        "-c",
        LIMITED,
        str(data),
        str(out),
        str(megabytes),
        json.dumps({**OPTIONS, "batch": batch}),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    return done.returncode, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell their memory")
def test_with_little_memory_it_is_small_and_four_times_as_much_does_not_fit(tmp_path: Path) -> None:
    data = write_own_folder(tmp_path / "data", 70)
    code, said = limited(data, tmp_path / "out", 1400, "auto")
    assert not code, said
    first = json.loads((tmp_path / "out" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["auto_batch"]["batch"] == first["config"]["batch"] < 64
    assert first["auto_batch"]["update_memory"] < 0.9 * 1400e6
    code, said = limited(data, tmp_path / "more", 1400, 4 * first["config"]["batch"])
    assert code
    assert "the device has too little memory" in said, said
    code, said = limited(data, tmp_path / "none", 60, "auto")
    assert code
    assert "the device has too little memory" in said, said


def test_processes_agree(tmp_path: Path) -> None:
    data = write_own_folder(tmp_path / "data", 8)
    train_in_two_processes(data, tmp_path / "out", tmp_path / "train.py", **OPTIONS, batch="auto")
    first = json.loads((tmp_path / "out" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["config"]["batch"] == 8  # 4 images for each process, of 8
    assert [line["iter"] for line in lines(tmp_path / "out", "train")] == [1]
