"""The commands `predict` and `demo`."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.inference.polygons import rasterize
from hrnet_zoo.inference.predict import view_logits
from hrnet_zoo.zoo.create import create_model
from tests.cli.conftest import Run
from tests.support.band_images import BANDS, MEAN, STD, write_band_images


def test_predict_with_the_bundled_network(run: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (96, 64), (90, 90, 90)).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    out = tmp_path / "out"
    text = run("predict", "demo", tmp_path, "--out", out, "--device", "cpu", code=5)
    first, second = text.splitlines()
    assert first.startswith(f"{tmp_path / 'a.png'}: ")
    assert second.endswith(f"; written: {out / 'b_labels.png'} and {out / 'b_overlay.png'}")
    assert "broken.jpg" in run.err
    assert run.err.endswith("2 of 3 images labeled, 1 failed\n")
    assert "the demo network knows generated street scenes, and nothing else" in run.err
    assert sorted(path.name for path in out.iterdir()) == [
        *("a_labels.png", "a_overlay.png", "b_labels.png", "b_overlay.png"),
    ]
    run("predict", "demo", tmp_path / "a.png", "--out", out, code=5)
    assert "--force" in run.err
    facts = json.loads(
        run("predict", "demo", tmp_path / "a.png", "--out", out, "--force", "--no-overlay", "--json", "--device", "cpu")
    )
    assert facts["images"][0]["overlay"] is None
    assert sum(facts["images"][0]["fractions"].values()) == pytest.approx(1)
    assert facts["failed"] == {}
    options = ("--out", tmp_path / "fast", "--no-overlay", "--json", "--device", "cpu", "--fast", "--dtype", "float32")
    fast = json.loads(run("predict", "demo", tmp_path / "a.png", *options))
    assert fast["images"][0]["fractions"] == pytest.approx(facts["images"][0]["fractions"], abs=1e-3)


def test_8_bits(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the optimized network alone; the shares of the classes stay within a hundredth."""
    Image.fromarray(scene(0, 96, 192).image).save(tmp_path / "a.png")
    arguments = ("predict", "demo", tmp_path / "a.png", "--no-overlay", "--json", "--device", "cpu", "--out")
    run(*arguments, tmp_path / "no", "--dtype", "int8", code=2)
    assert "--dtype int8 is for the optimized network: add --fast" in run.err
    assert not (tmp_path / "no").exists()
    pytest.importorskip("openvino")
    monkeypatch.setattr("hrnet_zoo.engines.quantization.SCENES", range(1_000_000, 1_000_003))
    exact, fast = (
        json.loads(run(*arguments, tmp_path / name, *options))["images"][0]["fractions"]
        for name, options in (("exact", ()), ("fast", ("--fast", "--dtype", "int8")))
    )
    assert fast == pytest.approx(exact, abs=0.01)
    assert fast != exact


def test_what_was_done_is_told_when_something_ends_the_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        Image.new("RGB", (32, 16)).save(tmp_path / f"{name}.png")
    (tmp_path / "out" / "b_labels.png").mkdir(parents=True)  # in the way of a result
    arguments = ("predict", "demo", tmp_path, "--out", tmp_path / "out", "--device", "cpu", "--force")
    text = run(*arguments, code=5)
    assert text.splitlines()[0].startswith(f"{tmp_path / 'a.png'}: ")
    assert "1 of 3 images labeled, 0 failed\n" in run.err
    assert "b_labels.png" in run.err

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hrnet_zoo.inference.folders.predict_files", interrupted)
    assert json.loads(run(*arguments, "--json", code=130)) == {"images": [], "failed": {}}
    assert run.err.split("\n")[-4:] == ["0 of 3 images labeled, 0 failed", "", "interrupted", ""]


def test_a_table_instead_of_images(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, resumed, and with images that cannot be read, it is the table of one run."""
    folder, table = tmp_path / "in", tmp_path / "shares.csv"
    folder.mkdir()
    for index in range(6):
        Image.fromarray(scene(index, 64, 128).image).save(folder / f"{index}.png")
    (folder / "3.png").write_text("no image")
    nothing = ("--no-labels", "--no-overlay", "--out", tmp_path / "out", "--device", "cpu", "--table")
    text = run("predict", "demo", folder, *nothing, table, code=5)
    assert text == f"{table}: 6 rows written\n"
    assert "5 of 6 images labeled, 1 failed" in run.err
    assert not (tmp_path / "out").exists()
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["path"]).name for row in rows] == [f"{index}.png" for index in range(6)]
    assert "none of the formats" in rows.pop(3)["error"]
    classes = create_model("demo").classes
    for row in rows:
        assert sum(float(row[name]) for name in classes) == pytest.approx(1)
        assert (row["width"], row["height"], row["error"]) == ("128", "64", "")
    whole = table.read_bytes()
    run("predict", "demo", folder, *nothing, table, code=5)
    assert "it exists already" in run.err
    table.write_bytes(whole[: whole.index(b"4.png") + 9])
    facts = json.loads(run("predict", "demo", folder, *nothing, table, "--resume", "--json"))
    assert facts == {"table": str(table), "labeled": 2, "skipped": 4, "failed": {}}
    assert table.read_bytes() == whole
    assert run("predict", "demo", folder, *nothing, table, "--resume") == f"{table}: 0 rows written, 6 were there\n"
    run("predict", "demo", folder, *nothing, table, "--resume", "--classes", "a,b", "--checkpoint", "x", code=5)
    run("predict", "fcn_hr18s_voc12aug_20k", folder, *nothing, tmp_path / "a.xls", code=2)
    assert "the ending '.xls'" in run.err
    more = ("--confidence", "--only", "ground=road+sidewalk,sky", "--min-confidence", "0.5")
    run("predict", "demo", folder / "0.png", *nothing, table, "--resume", *more, code=5)
    assert "it has other columns: it lacks 'ground'" in run.err
    run("predict", "demo", folder / "0.png", *nothing, tmp_path / "chosen.jsonl", *more)
    row = json.loads((tmp_path / "chosen.jsonl").read_text(encoding="utf-8"))
    assert list(row)[6:] == [
        "ground",
        "sky",
        "other",
        *(f"{name} confidence" for name in ("ground", "sky", "other")),
        "error",
    ]
    assert 0.5 <= row["ground confidence"] <= 1
    assert 0.9 < row["ground"] + row["sky"] + row["other"] <= 1
    for options in (("--resume",), ("--resume", "--force", "--table", table)):
        run("predict", "demo", folder, *options, code=2)
        assert "--resume goes on with a table" in run.err


def test_confidence_and_coarser_polygons(run: Run, tmp_path: Path) -> None:
    """As in Python; what they would do nothing for is refused."""
    image = scene(3, 96, 192).image
    Image.fromarray(image).save(tmp_path / "a.png")
    arguments = ("predict", "demo", tmp_path / "a.png", "--device", "cpu", "--out", tmp_path / "out")
    for wrong in (
        ("--confidence", "--no-overlay"),
        ("--min-area", "5"),
        ("--simplify", "1", "--coco", tmp_path / "a.json"),
        ("--simplify", "nan", "--geojson"),
    ):
        run(*arguments, *wrong, code=2)
    assert not (tmp_path / "out").exists()
    result = create_model("demo", device="cpu").predict(tmp_path / "a.png", confidence=True)
    facts = json.loads(run(*arguments, "--no-labels", "--confidence", "--geojson", "--min-area", "20", "--json"))
    assert facts["images"][0]["confidence"] == str(tmp_path / "out" / "a_confidence.png")
    with Image.open(tmp_path / "out" / "a_confidence.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(result.confidence_image()))
    assert json.loads((tmp_path / "out" / "a.geojson").read_bytes()) == result.to_geojson(min_area=20)
    run(*arguments, "--no-overlay", "--coco", tmp_path / "a.json", "--min-area", "20")
    areas = [each["area"] for each in json.loads((tmp_path / "a.json").read_bytes())["annotations"]]
    assert areas == [region.area for region in result.regions(min_area=20)]
    pytest.importorskip("shapely", "2.1")
    run(*arguments, "--force", "--geojson", "--simplify", "2")
    assert json.loads((tmp_path / "out" / "a.geojson").read_bytes())["simplified"]["moved_pixels"] > 0


def test_polygons_beside_label_maps(run: Run, tmp_path: Path) -> None:
    """A GeoJSON file of each image and one COCO file of all, also if an image cannot be read."""
    folder, out, coco = tmp_path / "in", tmp_path / "out", tmp_path / "all.json"
    folder.mkdir()
    for number in range(2):
        Image.fromarray(scene(number, 64, 96).image).save(folder / f"{number}.png")
    (folder / "bad.png").write_bytes(b"nothing")
    arguments = ("predict", "demo", folder, "--out", out, "--no-overlay", "--geojson", "--coco", coco)
    text = run(*arguments, code=5)
    assert str(out / "0.geojson") in text
    data = json.loads(coco.read_bytes())
    assert [image["file_name"] for image in data["images"]] == [(folder / f"{n}.png").as_posix() for n in range(2)]
    for number in range(2):
        mask = np.asarray(Image.open(out / f"{number}_labels.png"))
        features = json.loads((out / f"{number}.geojson").read_bytes())["features"]
        rings = [each["geometry"]["coordinates"] for each in features]
        polygons = [tuple(np.array(ring[:-1], np.int32) for ring in polygon) for polygon in rings]
        indices = np.array([each["properties"]["class_index"] for each in features])
        assert np.array_equal(indices[rasterize(polygons, mask.shape)], mask)
        regions = [each for each in data["annotations"] if each["image_id"] == number + 1]
        assert [each["area"] for each in regions] == [each["properties"]["area"] for each in features]
    assert {path.name for path in out.iterdir()} == {
        f"{n}{end}" for n in range(2) for end in ("_labels.png", ".geojson")
    }
    assert not list(tmp_path.glob(".*"))
    run(*arguments, code=5)
    assert "all.json" in run.err
    coco.unlink()
    run(*arguments[:-2], "--no-labels", code=5)
    assert "0.geojson" in run.err
    run(*arguments[:-1], tmp_path / "all.txt", code=2)


def test_a_table_and_a_coco_file_go_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted, resumed, and run again when complete: as of one run. Label maps without a row are replaced."""
    for index in range(5):
        Image.fromarray(scene(index, 64, 96).image).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_bytes(b"nothing")
    arguments = ("predict", "demo", tmp_path, "--no-overlay", "--device", "cpu", "--out", tmp_path / "out", "--table")
    run(*arguments, tmp_path / "whole.csv", "--no-labels", "--coco", tmp_path / "whole.json", code=5)
    some = (*arguments, tmp_path / "a.csv", "--coco", tmp_path / "a.json")
    calls = 0

    def ended(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return view_logits(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr("hrnet_zoo.inference.predict.view_logits", ended)
        text = run(*some, code=130)
    assert text == f"{tmp_path / 'a.csv'}: 3 rows written\n{tmp_path / 'a.json.jsonl'}: 2 images written\n"
    assert not (tmp_path / "a.json").exists()
    (tmp_path / "out" / "3_labels.png").write_bytes(b"of a row that is missing")
    run(*some, code=5)
    assert "--resume goes on with it" in run.err
    for _ in range(2):
        run(*some, "--resume")
        for ending in ("csv", "json"):
            assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()
    with Image.open(tmp_path / "out" / "3_labels.png") as labels:
        assert labels.size == (96, 64)
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".csv", ".json", ""}
    (tmp_path / "a.json").unlink()
    run(*some, "--resume")  # what the table has is not in the new file yet
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_panoramas(run: Run, tmp_path: Path) -> None:
    Image.fromarray(scene(0, 64, 128).image).save(tmp_path / "a.png")
    Image.fromarray(scene(0, 64, 130).image).save(tmp_path / "b.png")
    options = ("--no-labels", "--no-overlay", "--json", "--device", "cpu")
    flat, sphere = (
        json.loads(run("predict", "demo", tmp_path, *options, *more, code=code))
        for more, code in (((), 0), (("--panorama",), 5))
    )
    expected = create_model("demo", device="cpu").predict(tmp_path / "a.png").fractions(panorama=True)
    assert sphere["images"][0]["fractions"] == expected != flat["images"][0]["fractions"]
    assert "130 x 64 pixels; an equirectangular panorama" in sphere["failed"][str(tmp_path / "b.png")]
    assert str(tmp_path / "b.png") in sphere["failed"][str(tmp_path / "b.png")]


def test_predict_bad_arguments(run: Run, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(image)
    run("predict", "demo", image, "--out", tmp_path / "out", "--device", "cuda:77", code=2)
    assert "devices here: cpu" in run.err
    run("predict", "demo", image, "--out", tmp_path / "out", "--checkpoint", tmp_path / "none.pth", code=5)
    run("predict", "demo", image, "--mode", "tiles", code=2)
    run("predict", "demo", image, "--classes", "only", "--out", tmp_path / "out", code=2)
    run("predict", "demo", image, "--out", tmp_path / "out", "--max-memory", "0", "--device", "cpu", code=2)
    assert "'0' is not a number of bytes" in run.err
    run("demo", "--seed", "1000000", code=2)
    assert not (tmp_path / "out").exists()


def test_demo(run: Run, tmp_path: Path) -> None:
    text = run("demo", "--out", tmp_path / "out", "--scenes", "2", "--device", "cpu")
    assert "mIoU" in text
    assert "on 2 scenes never seen in training" in text
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["scene_0000.png", "scene_0001.png", "street.jpg"]
    photo = (tmp_path / "out" / "street.jpg").read_bytes()
    facts = json.loads(
        run("demo", "--out", tmp_path / "out", "--scenes", "1", "--seed", "7", "--json", "--device", "cpu")
    )
    assert 0 < facts["miou"] <= 1
    assert facts["images"] == [str(tmp_path / "out" / "scene_0007.png")]
    assert facts["photo"] == str(tmp_path / "out" / "street.jpg")
    assert (tmp_path / "out" / "street.jpg").read_bytes() == photo  # one that is there stays


def test_demo_as_dataset_takes_an_empty_folder_and_no_device(run: Run, tmp_path: Path) -> None:
    for options in (("--device", "cpu"), ("--dtype", "float16")):
        run("demo", "--as-dataset", "--scenes", "1", "--out", tmp_path / "new", *options, code=2)
        assert "--as-dataset only fills a new folder" in run.err
    (tmp_path / "notes.txt").touch()
    run("demo", "--as-dataset", "--scenes", "1", "--out", tmp_path, code=5)
    assert "holds something already" in run.err


def test_chosen_classes_and_the_least_confidence(run: Run, tmp_path: Path) -> None:
    """As in Python; what is wrong is told before a network is optimized."""
    image = scene(3, 96, 192).image
    Image.fromarray(image).save(tmp_path / "a.png")
    arguments = ("predict", "demo", tmp_path / "a.png", "--no-overlay", "--device", "cpu", "--out")
    for wrong, words in (
        ("--only=gren=vegetatoin,road", "did you mean 'vegetation'?"),
        ("--only=road,road", "'road' appears more than once"),
        ("--only=green=vegetation+,road", "has an empty name"),
        ("--only=", "has an empty name"),
        ("--only=a=car,b=car", "class 'car' is named more than once"),
        ("--min-confidence=60", "0<=x<=1"),
    ):
        run(*arguments, tmp_path / "no", wrong, "--fast", code=2)
        assert words in run.err
        assert "fast:" not in run.err
    assert not (tmp_path / "no").exists()
    only = ("--only", "green = vegetation + terrain, road", "--min-confidence", "0.7")
    facts = json.loads(run(*arguments, tmp_path / "out", *only, "--json"))
    choice = {"green": ["vegetation", "terrain"], "road": ["road"]}
    result = create_model("demo", device="cpu").predict(image, classes=choice, min_confidence=0.7)
    assert facts["images"][0]["fractions"] == result.fractions()
    assert sorted(result.fractions()) == ["green", "other", "road"]
    with Image.open(tmp_path / "out" / "a_labels.png") as labels:
        assert np.array_equal(np.asarray(labels), result.mask)
        assert (result.mask == 255).any()
        assert np.array_equal(np.asarray(labels.convert("RGB")), np.asarray(result.colorize()))


def test_a_checkpoint_of_a_network_alone(run: Run, tmp_path: Path) -> None:
    model = create_model("demo", classes=["a", "b"])
    save_file(model.state_dict(), tmp_path / "own.safetensors")
    Image.new("RGB", (48, 32)).save(tmp_path / "a.png")
    checkpoint = ("--checkpoint", tmp_path / "own.safetensors", "--classes", "a,b")
    run("predict", "hr18s", tmp_path / "a.png", *checkpoint, "--out", tmp_path / "out")
    assert (tmp_path / "out/a_labels.png").exists()


def test_a_folder_of_images_with_other_bands(run: Run, tmp_path: Path) -> None:
    data = write_band_images(tmp_path / "data", 3)
    model = create_model("demo", bands=BANDS, mean=MEAN, std=STD)
    model.save_pretrained(tmp_path / "model")
    (data / "images" / "notes.png").write_bytes(b"")  # no image for this model
    np.save(data / "images" / "bad.npy", np.zeros((8, 8, 3)))
    out, table = tmp_path / "out", tmp_path / "table.csv"
    printed = run("predict", tmp_path / "model", data / "images", "--out", out, "--table", table, code=5)
    assert "4 rows written" in printed
    assert "8 x 8 x 3 where height, width and 4 bands (red, green, blue, nir) are expected" in run.err
    for name in "012":
        with Image.open(out / f"{name}_labels.png") as labels, Image.open(out / f"{name}_overlay.png") as overlay:
            assert labels.size == (96, 64)
            assert overlay.mode == "RGB"
    assert table.read_text(encoding="utf-8").count(",96,64,") == 3
