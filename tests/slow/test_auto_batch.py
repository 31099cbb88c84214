"""`batch="auto"` where memory is short; `test_distributed_training.py` has it among several processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.training_data import write_own_folder

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


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell their memory")
@pytest.mark.parametrize(("megabytes", "fits"), [(60, False), (400, False), (700, True)])
def test_with_little_memory_it_is_small_or_refused(megabytes: int, fits: bool, tmp_path: Path) -> None:
    data = write_own_folder(tmp_path / "data", 16)
    options = json.dumps({**OPTIONS, "batch": "auto"})
    command = [sys.executable, "-c", LIMITED, str(data), str(tmp_path / "out"), str(megabytes), options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    assert done.returncode == (0 if fits else 1), done.stderr  # a library that crashes ends it by a signal
    if fits:
        first = json.loads((tmp_path / "out" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
        assert first["auto_batch"]["batch"] == first["config"]["batch"] < 16
        assert first["auto_batch"]["update_memory"] < 0.9 * megabytes * 1e6
    else:
        assert "the device has too little memory" in done.stderr
