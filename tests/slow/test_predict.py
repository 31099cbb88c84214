"""Predictions that take long: six scales and flips at full size, and twelve megapixels."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hrnet_zoo.zoo.create import create_model
from tests.inference.test_predict import FRAME, assert_agrees
from tests.models.test_fcn import GOLDEN
from tests.support.tables import ROOT


def test_scales_and_flips_as_the_reference(shared: Path) -> None:
    golden = create_model("fcn_hr18s_cityscapes_40k", checkpoint=shared / GOLDEN, device="cpu")
    result = golden.predict(shared / "pictures" / FRAME, ms_flip=True)
    assert_agrees(result.mask, shared, f"{FRAME}.ms_flip", margin=0.002)


LARGE = """
import re
from pathlib import Path
import numpy as np, torch
from hrnet_zoo.zoo.create import create_model

def resident(field):
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\\s*(\\d+) kB", status)[1]) << 10

torch.manual_seed(0)
model = create_model("fcn_hr18s_ade20k_80k", pretrained=False, device="cpu")
small = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
image = small.repeat(250, axis=0).repeat(250, axis=1)
masks = []
for max_memory in (None, 300 << 20):
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    before = resident("VmRSS")
    masks.append(model.predict(image, max_memory=max_memory).mask)
    print(*masks[-1].shape, len(np.unique(masks[-1])), resident("VmHWM") - before)
print(np.array_equal(*masks))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system does not tell the peak of memory")
def test_twelve_megapixels_and_150_classes_in_two_gigabytes() -> None:
    """All full-resolution logits are 7.2 GB."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", LARGE],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *runs, same = done.stdout.splitlines()
    assert same == "True"
    for height, width, classes, peak in (map(int, run.split()) for run in runs):
        assert (height, width) == (3000, 4000)
        assert classes > 1
        assert 0 < peak < 2_000_000_000
