"""`hrnet-zoo compare`: the table, JSON and pictures, and what it refuses."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from hrnet_zoo.demo.scenes import scene
from tests.cli.conftest import Run


def photos(folder: Path) -> None:
    folder.mkdir()
    for seed in range(2):
        Image.fromarray(scene(seed, 96, 192).image).save(folder / f"{seed}.jpg")


def test_table_and_pictures(run: Run, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    out = run("compare", "demo", "demo", tmp_path / "photos", "--out", tmp_path / "out", "--device", "cpu").splitlines()
    assert out[0].startswith(
        f"{tmp_path / 'photos' / '0.jpg'}: 0 of 18,432 pixels differ, 100.0000% are alike; written: "
    )
    assert out[2] == "all: 0 of 36,864 pixels differ, 100.0000% are alike"
    assert out[3].split() == ["class", "IoU", "pixels", "in", "A", "in", "B"]
    assert "road" in {line.split()[0] for line in out[4:]}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0_difference.png", "1_difference.png"]
    with Image.open(tmp_path / "out" / "0_difference.png") as picture:
        assert picture.width > 2 * 192
    run("compare", "demo", "demo", tmp_path / "photos", "--out", tmp_path / "out", code=5)
    assert "use --force" in run.err


def test_json(run: Run, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    found = json.loads(run("compare", "demo", "demo@bfloat16", tmp_path / "photos", "--json", "--device", "cpu"))
    assert (found["a"], found["b"], found["pixels"]) == ("demo", "demo@bfloat16", 2 * 96 * 192)
    assert 0.9 < found["pixel_agreement"] < 1
    assert found["different"] == sum(row["different"] for row in found["images"])
    assert np.isclose(found["pixel_agreement"], np.mean([row["pixel_agreement"] for row in found["images"]]))
    assert sum(row["pixels"][0] for row in found["classes"]) == found["pixels"]
    assert {row["difference"] for row in found["images"]} == {None}


def test_refusals(run: Run, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    run("compare", "demo", "demo", code=2)
    run("compare", "demo", "demoo", tmp_path / "photos", code=2)
    assert "demoo" in run.err
    run("compare", "demo", "demo@onnxx", tmp_path / "photos", code=2)
    run("compare", "demo", tmp_path / "missing.onnx", tmp_path / "photos", code=2)
    assert "is no .onnx or .xml file" in run.err
    run("compare", "demo", "demo", tmp_path / "missing.jpg", code=5)
    (tmp_path / "notes.jpg").write_text("no image")
    run("compare", "demo", "demo", tmp_path / "notes.jpg", code=5)
