"""The demo: real scenes, real scores, images on disk."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.errors import CacheError, OutputError
from hrnet_zoo.evaluation.run_demo import run_demo
from hrnet_zoo.inference.metrics import class_iou, count_matrix
from hrnet_zoo.zoo.catalog import DEMO
from hrnet_zoo.zoo.create import create_model


def test_scores_are_those_of_the_masks(tmp_path: Path) -> None:
    model = create_model("demo", device="cpu")
    report = run_demo(model, tmp_path / "new" / "out", seeds=[3], progress=False)
    drawn = scene(3)
    expected = class_iou(count_matrix(drawn.mask, model.predict(drawn.image).mask, 19))
    assert report["miou"] == pytest.approx(np.nanmean(expected))
    assert set(report["iou"]) == {name for name, iou in zip(model.classes, expected, strict=True) if iou == iou}
    (path,) = report["images"]
    with Image.open(path) as sheet:
        assert np.array_equal(np.asarray(sheet)[:384, :768], drawn.image)
        assert sheet.height == 2 * 384
    with Image.open(report["photo"]) as photo:
        assert (photo.format, photo.size) == ("JPEG", (768, 384))
        assert abs(np.asarray(photo).astype(int) - drawn.image).mean() < 3


def test_the_bundled_file_is_small_and_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    assert create_model("demo", device="cpu").classes[0] == "road"
    assert Path(DEMO.checkpoint_url.removeprefix("file://")).stat().st_size <= 9_000_000


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    model = create_model("demo", device="cpu")
    with pytest.raises(OutputError, match="name another folder"):
        run_demo(model, tmp_path / "file", seeds=[0], progress=False)


@pytest.mark.parametrize("fault", ["read-only", "a file in the way", "no home"])
def test_no_cache_is_needed(
    fault: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The same weights, made in memory; one line says why."""
    there = create_model("demo", device="cpu")
    if fault == "no home":
        monkeypatch.setenv("HRNET_ZOO_CACHE", "~nobody-of-this-name/cache")
    elif fault == "a file in the way":
        (tmp_path / "file").touch()
        monkeypatch.setenv("HRNET_ZOO_CACHE", str(tmp_path / "file"))
    else:
        monkeypatch.setenv("HRNET_ZOO_CACHE", "/proc/hrnet-zoo")
    caplog.clear()
    model = create_model("demo", device="cpu")
    assert len([line for line in caplog.messages if "is converted in memory" in line]) == 1
    state = model.state_dict()
    assert all(torch.equal(state[name], entry) for name, entry in there.state_dict().items())
    assert model.provenance == there.provenance
    with pytest.raises(CacheError):
        create_model("fcn_hr18s_cityscapes_40k", device="cpu")


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE")
@pytest.mark.parametrize(
    "command", ["demo --scenes 1 --out out", "predict demo image.png --out out", "demo --as-dataset --out data"]
)
def test_a_full_disk_under_the_results(command: str, tmp_path: Path) -> None:
    create_model("demo", device="cpu")  # into the cache
    Image.fromarray(scene(3).image).save(tmp_path / "image.png")
    code = (
        "import resource, sys; from hrnet_zoo.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); main(sys.argv[1:])"
    )
    words = [sys.executable, "-c", code, *command.split()]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)  # noqa: S603
    assert done.returncode == 6, done.stderr
    assert "File too large" in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size == 100]
