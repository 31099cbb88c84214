"""The examples that take long: trainings and comparisons."""

import re
from pathlib import Path
from typing import Any

import pytest

from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.zoo.create import create_model
from tests.test_examples import EXAMPLES, execute, run


def test_compare_with_peers() -> None:
    """Whether it runs with whatever is installed here; figures of such sizes mean nothing."""
    options = "--rows network image ms-flip mask counts --shrink 16 --seconds 0"
    table = run("compare_with_peers.py", *options.split())
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")][2:]
    assert {len(row) for row in rows} == {8}
    assert all(float(row[2]) >= float(row[3]) > 0 for row in rows)
    for title in ("network, hr18s, 32x64", "image, hr18s, 64x128", "ms-flip, hr18s, 32x64"):
        found = {row[1]: row[7] for row in rows if row[0] == title}
        assert {"exact", "optimize"} <= set(found)
        (in_float32,) = (found[name] for name in ("onednn float32", "pytorch float32") if name in found)
        if title.startswith("network"):
            assert float(in_float32.removeprefix("scores off by ")) < 1e-4
        else:
            assert float(in_float32.removesuffix("% alike")) > 99.9
    masks = [row for row in rows if row[0].startswith("scores to mask")]
    assert [row[1] for row in masks] == ["make_mask", "interpolate + argmax"] * 3
    assert all(float(row[7].removesuffix("% alike")) > 99.9 for row in masks)
    assert "not measured: torch.compile: not asked for" in table


def test_train_demo_writes_a_checkpoint_of_the_published_form(tmp_path: Path) -> None:
    sizes = ("--size", "64", "128", "--crop", "64", "64", "--batch", "2", "--fresh", "1", "--pool", "4")
    where = ("--out", tmp_path / "demo.pth", "--device", "cpu", "--workers", "0", "--minutes", "0.02")
    text = run("train_demo.py", *where, *sizes)
    assert "mIoU" in text
    (checkpoint,) = tmp_path.glob("demo-????????.pth")
    assert checkpoint.stat().st_size < 9e6
    model = create_model("fcn_hr18s_cityscapes_40k", checkpoint=checkpoint, device="cpu")
    assert model.predict(scene(0, 64, 128).image).mask.shape == (64, 128)


def test_finetune_own_classes_draws_scenes_if_there_are_no_images(tmp_path: Path) -> None:
    sizes = ("--crop", "64", "64", "--batch", "2", "--workers", "0", "--scenes", "4")
    text = run("finetune_own_classes.py", "--out", tmp_path / "a", "--steps", "1", *sizes)
    assert re.search(r"^traffic +[\d.]+ +[\d.]+$", text, flags=re.MULTILINE)
    assert len(list((tmp_path / "a_data" / "masks").iterdir())) == 4


@pytest.mark.filterwarnings("default")
def test_finetune_notebook_runs_on_few_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = execute("finetune.ipynb", tmp_path, monkeypatch, cell_01="SCENES, STEPS = 4, 1")
    assert sum("image/png" in output.get("data", {}) for output in shown) == 3  # curves, sheet, before and after
    assert len(list((tmp_path / "runs" / "a" / "sheets").iterdir())) == 1
    assert create_model("local-dir:" + str(tmp_path / "my_model"), device="cpu").classes[-1] == "traffic"


@pytest.mark.filterwarnings("ignore:.*matmul:PendingDeprecationWarning")  # within rasterio
def test_the_guide_to_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rasterio = pytest.importorskip("rasterio")
    monkeypatch.chdir(tmp_path)
    text = (EXAMPLES / "guide_maps.md").read_text(encoding="utf-8")
    session: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(block, session)  # noqa: S102 - ours
    assert {round(sum(hectares.values()), 9) for _, hectares in session["report"].polygons} == {1}
    with rasterio.open("map.tif") as raster:
        assert raster.shape == (384, 768)
