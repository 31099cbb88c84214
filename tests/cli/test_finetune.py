"""The command `finetune`, and `check-data`, on images of other bands than RGB."""

import re
from pathlib import Path

import numpy as np

from tests.cli.conftest import Run
from tests.support.band_images import write_band_images


def test_the_statistics_that_are_missing_can_be_pasted(run: Run, tmp_path: Path) -> None:
    data, bands = write_band_images(tmp_path / "data", 3), ("--bands", "red,green,blue,nir")
    given = ("finetune", "demo", "--data", data, "--out", tmp_path / "run", "--val", "0", *bands)
    run(*given, code=2)
    found = re.search(r"over the 3 training images they are (--mean [\d.,]+) and (--std [\d.,]+)", run.err)
    assert found, run.err
    assert run("check-data", data, *bands).splitlines()[-1] == "no errors"
    np.save(data / "images" / "2.npy", np.zeros((64, 96, 3)))
    assert "64 x 96 x 3 where" in run("check-data", data, *bands, code=5)
    # With them the data are read, and the fault is found.
    run(*given, *found[1].split(), *found[2].split(), code=5)
    assert "unreadable image" in run.err
    run(*given, "--mean", "a,b", code=2)
    assert "'a,b' is not numbers" in run.err
