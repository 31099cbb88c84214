"""The tiles of `prepare` beside those of the reference's converters, where it is installed (see test_reference.py)."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrnet_zoo.datasets.layouts import find_samples
from hrnet_zoo.datasets.prepare import prepare
from tests.support import raw_downloads

MAKERS: dict[str, Callable[[Path], Path]] = {
    "loveda": raw_downloads.loveda,
    "potsdam": lambda home: raw_downloads.potsdam(
        home, {"2_10": (1536, 1024), "2_13": (1500, 1100), "7_7": (512, 512), "4_15": (513, 1023)}
    ),
    "vaihingen": lambda home: raw_downloads.vaihingen(
        home, {"area1": (1919, 2569), "area6": (700, 512), "area38": (1024, 1025)}
    ),
    "isaid": lambda home: raw_downloads.isaid(
        home,
        {
            "train/P0000": ((2000, 1500), "RGB"),
            "train/P0001": ((500, 700), "RGB"),
            "train/P0002": ((1408, 896), "L"),
            "val/P0003": ((1000, 600), "RGBA"),
            "val/P0004": ((600, 1921), "P"),
            "val/P0005": ((896, 500), "RGB"),  # of which the reference loses rows
            "val/P0006": ((300, 896), "RGB"),
            "val/P0007": ((896, 896), "RGB"),
            "test/P0008": ((1200, 900), "RGB"),
        },
    ),
}


# Runs a converter. That of iSAID saves indices as a palette image without palette, of which the Pillow of its day (9.5
# was tried) made one with 256 gray levels; Pillow 13 makes one with a single color, and the indices are lost.
CONVERT = """
import runpy, sys
from PIL import Image

def save(image, *arguments, save=Image.Image.save, **options):
    if image.mode == "P":
        image.putpalette(bytes(range(256)) * 3)
    save(image, *arguments, **options)

Image.Image.save = save
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def converters() -> Path:
    found = importlib.util.find_spec("mmseg")
    if found is None or not found.submodule_search_locations or importlib.util.find_spec("cv2") is None:
        pytest.skip("mmsegmentation is not installed")
    return Path(found.submodule_search_locations[0], ".mim/tools/dataset_converters")


@pytest.mark.parametrize("key", MAKERS)
def test_every_tile_is_the_references(key: str, converters: Path, tmp_path: Path) -> None:
    source, theirs, ours = MAKERS[key](tmp_path / "raw"), tmp_path / "theirs", tmp_path / "ours"
    command = [sys.executable, "-c", CONVERT, *map(str, (converters / f"{key}.py", source, "-o", theirs))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the installed converter
    assert done.returncode == 0, done.stderr
    report = prepare(key, source, ours, progress=False)

    files = sorted(path.relative_to(theirs) for path in theirs.rglob("*.png"))
    assert files == sorted(path.relative_to(ours) for path in ours.rglob("*.png"))
    assert len(files) == report.written
    for file in files:
        with Image.open(theirs / file) as expected, Image.open(ours / file) as found:
            np.testing.assert_array_equal(np.asarray(found), np.asarray(expected), err_msg=str(file))
    # Both are read alike, in BMP files by the name of PNG too.
    for root in (theirs, ours):
        folder = find_samples(root, None)
        assert (folder.key, len(folder.samples)) == (key, report.images["val"])
        assert not folder.problems
    print(key, f"{len(files)} files, as decoded identical:", dict(report.images))  # noqa: T201 - `pytest -rP` shows it
