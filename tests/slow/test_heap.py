"""Repeated predictions of an optimized model zero no pages."""

import json
import subprocess
import sys

import pytest

from tests.engines.test_heap import GLIBC

# A fault is a page that the system had to zero. In a process of its own, whose malloc has its own settings.
FAULTS = '''
import dataclasses, json, resource, numpy as np, torch
from hrnet_zoo import create_model, optimize
from hrnet_zoo.engines import heap

model = create_model("demo")
model.dataset = dataclasses.replace(model.dataset, resize_to=(1024, 1024))
image = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
predict = optimize(model, dtype=torch.float32).predict

def faults(run):
    """Three calls: how soon the heap has its final size depends on what lies in it."""
    seen = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        run(image)
        seen.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return seen

print(json.dumps([faults(predict), faults(heap.default_malloc()(predict)), faults(predict)]))
'''


@pytest.mark.skipif(not GLIBC, reason="not glibc's malloc")
def test_predictions_zero_no_pages() -> None:
    run = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=False)  # noqa: S603
    assert run.returncode == 0, run.stderr
    retained, default, retained_again = json.loads(run.stdout)
    assert min(retained + retained_again) < max(default) / 4, run.stdout
