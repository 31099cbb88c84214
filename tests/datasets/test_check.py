"""Everything that is wrong with a folder of labeled images, in one report."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrnet_zoo.cli import main
from hrnet_zoo.datasets import ADE20K, CITYSCAPES, SCENES, VOC12AUG
from hrnet_zoo.datasets.check import MOSTLY_ABSENT, check_data, inspect_pairs, judge
from hrnet_zoo.datasets.label_rules import CITYSCAPES_IDS, CITYSCAPES_TRAIN_IDS
from hrnet_zoo.datasets.layouts import LabeledFolder, find_samples
from hrnet_zoo.datasets.pairing import Problem
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.errors import ConfigError, DatasetError
from hrnet_zoo.images.read import read_image
from tests.support.label_folders import ade20k, cityscapes, image, labels, mask, own, pascal_context, voc12

NAMES = ["wood", "stone", "glass"]


def kinds(problems: tuple[Problem, ...] | list[Problem], error: bool = True) -> dict[str, tuple[str, ...]]:
    """Return the files of each kind of error, or of each kind of note; a kind is reported once."""
    found = [problem for problem in problems if problem.error is error]
    assert len({problem.kind for problem in found}) == len(found)
    return {problem.kind: problem.files for problem in found}


def quick(folder: LabeledFolder) -> list[Problem]:
    """Return what is found without decoding images, by two ranks that share the pairs."""
    halves = [replace(folder, samples=samples) for samples in (folder.samples[::2], folder.samples[1::2])]
    return judge(folder, [each for half in halves for each in inspect_pairs(half, decode=False, progress=False)])


def faulty(home: Path) -> Path:
    """Make a folder with ten kinds of errors, and two of notes, among sound pairs."""
    own(home, ["sound", "turned_right"], NAMES)

    def pair(name: str, size: tuple[int, int] = (12, 8), mask_size: tuple[int, int] = (12, 8)) -> tuple[Path, Path]:
        at = home / f"images/{name}.png"
        return image(at, size), labels(home / f"masks/{name}.png", mask(3, mask_size))

    pair("single_picture")[1].unlink()
    pair("single_label")[0].unlink()
    pair("size", (12, 8), (6, 4))
    pair("twice")
    image(home / "images/twice.jpg")
    Image.new("RGB", (12, 8)).save(pair("colors")[1])
    Image.new("L", (12, 8)).save(pair("lossy")[1].with_suffix(".jpg"))
    (home / "masks/lossy.png").unlink()
    labels(pair("deep_values")[1], np.zeros((8, 12), np.uint16))
    labels(pair("outside")[1], np.full((8, 12), 77, np.uint8))
    labels(pair("from_one")[1], mask(3) + np.uint8(1))
    pair("nothing_in_it")[0].write_bytes(b"")
    torn = pair("torn_image", (300, 200), (300, 200))[0]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)).save(torn)
    torn.write_bytes(torn.read_bytes()[:-5000])
    torn = pair("torn_mask")[1]
    labels(torn, np.random.default_rng(0).integers(0, 3, (8, 12), np.uint8))
    torn.write_bytes(torn.read_bytes()[:-30])
    for name in ("images/._sound.jpg", "masks/.DS_Store", "masks/Thumbs.db"):
        (home / name).write_bytes(b"\0")
    (home / "images/notes.txt").write_text("x")
    labels(pair("ignored")[1], np.full((8, 12), 255, np.uint8))
    return home


ERRORS = {
    "image without mask": ("images/single_picture.png",),
    "mask without image": ("masks/single_label.png",),
    "ambiguous names": ("images/twice.jpg", "images/twice.png", "masks/twice.png"),
    "sizes differ": ("images/size.png: image 12 x 8, mask 6 x 4 pixels",),
    "RGB mask": ("masks/colors.png",),
    "JPEG mask": ("masks/lossy.jpg",),
    "16-bit mask": ("masks/deep_values.png",),
    "value outside the classes": ("masks/from_one.png", "masks/outside.png"),
    "unreadable image": ("images/nothing_in_it.png: an empty file", "images/torn_image.png"),
    "unreadable mask": ("masks/torn_mask.png",),
}
NOTES = {
    "not an image": ("images/notes.txt",),
    "fully ignored mask": ("masks/ignored.png",),
}


def test_ten_kinds_of_errors_in_one_report(tmp_path: Path) -> None:
    report = check_data(faulty(tmp_path), progress=False)
    assert not report.ok
    found = kinds(report.problems)
    assert sorted(found) == sorted(ERRORS)
    assert len(found) == 10
    for kind, files in ERRORS.items():
        assert len(found[kind]) == len(files), kind
        assert all(each.startswith(file) for each, file in zip(found[kind], files, strict=True)), kind
    assert kinds(report.problems, error=False) == NOTES
    assert [problem.error for problem in report.problems] == [True] * 10 + [False] * 2
    assert all(problem.advice for problem in report.problems)
    outside = next(problem for problem in report.problems if problem.kind == "value outside the classes")
    assert outside.text == "3 (32 pixels), 77 (96 pixels)"
    assert report.pairs == 12


def test_masks_and_headers_tell_all_but_torn_images(tmp_path: Path) -> None:
    folder = find_samples(faulty(tmp_path), None)
    problems = quick(folder)
    found = kinds(problems)
    assert found.keys() == ERRORS.keys()
    assert found["unreadable image"] == ("images/nothing_in_it.png: an empty file",)
    for kind in ("sizes differ", "value outside the classes"):
        assert sorted(found[kind]) == sorted(ERRORS[kind])
    (outside,) = (problem for problem in problems if problem.kind == "value outside the classes")
    assert outside.text == "3 (32 pixels), 77 (96 pixels)"
    assert {problem.kind for problem in folder.problems} <= {*found, *NOTES}


def test_frequencies(tmp_path: Path) -> None:
    own(tmp_path, ["a", "b"], [*NAMES, "never"])
    labels(tmp_path / "masks/a.png", np.repeat(np.array([[0, 1, 1, 255]], np.uint8), 8, 0).repeat(3, 1))
    labels(tmp_path / "masks/b.png", np.full((8, 12), 2, np.uint8))
    report = check_data(tmp_path, progress=False)
    assert report.ok
    assert [(each.name, each.pixels, each.images) for each in report.classes] == [
        ("wood", 24, 1),
        ("stone", 48, 1),
        ("glass", 96, 1),
        ("never", 0, 0),
    ]
    assert report.classes[1].share == 0.25
    assert report.ignored == 0.125
    assert report.pixels == 192
    assert not report.problems
    facts = json.loads(json.dumps(report.to_dict()))
    assert facts["ok"] is True
    assert facts["classes"][2] == {"name": "glass", "pixels": 96, "share": 0.5, "images": 1}


def test_a_folder_whose_classes_nothing_names(tmp_path: Path) -> None:
    own(tmp_path)
    report = check_data(tmp_path, progress=False)
    assert [each.name for each in report.classes] == ["0", "1", "2"]
    assert report.ok
    report = check_data(tmp_path, classes=["wood", "stone"], progress=False)
    assert [each.name for each in report.classes] == ["wood", "stone"]
    (problem,) = report.problems
    assert problem.kind == "value outside the classes"
    assert "for 2 classes, counted from 0" in problem.advice
    assert check_data(tmp_path, classes=3, progress=False).classes[2].name == "class 2"


@pytest.mark.parametrize("wrong", [0, -1, 256, 10**12, [], "ab", ["a", "a"], [str(index) for index in range(5000)]])
def test_unusable_classes_and_datasets(wrong: int | list[str] | str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="different names"):
        check_data(tmp_path, classes=wrong)
    with pytest.raises(ConfigError, match=r"classes=\[1, 2\][\s\S]*different names"):
        check_data(tmp_path, classes=[1, 2])  # type: ignore[list-item]  # names are words
    with pytest.raises(ConfigError, match="one of cityscapes, ade20k"):
        check_data(tmp_path, dataset="coco")
    with pytest.raises(DatasetError):
        check_data(tmp_path)


@pytest.mark.parametrize("make", [cityscapes, ade20k, voc12, pascal_context])
def test_sound_official_folders(make: Callable[[Path], Path], tmp_path: Path) -> None:
    report = check_data(make(tmp_path), progress=False)
    assert report.ok
    assert report.pairs == 2
    assert all(each.images == 2 for each in report.classes)
    assert not report.problems


# --- sizes as displayed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_orientation(orientation: int, ending: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = (8, 12) if orientation > 4 else (12, 8)
    image(tmp_path / f"images/a.{ending}", exif=exif)
    labels(tmp_path / "masks/a.png", mask(3, upright))
    folder = find_samples(tmp_path, None)
    assert quick(folder) == []
    assert check_data(tmp_path, progress=False).ok
    labels(tmp_path / "masks/a.png", mask(3, upright[::-1]))
    for problems in (quick(folder), list(check_data(tmp_path, progress=False).problems)):
        ((kind, files),) = kinds(problems).items()
        assert kind == "sizes differ"
        assert f"image {upright[0]} x {upright[1]}, mask {upright[1]} x {upright[0]}" in files[0]


@pytest.mark.parametrize("exif", [b"garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff"])
def test_broken_exif_of_a_whole_image(exif: bytes, tmp_path: Path) -> None:
    image(tmp_path / "images/a.png", exif=exif)
    labels(tmp_path / "masks/a.png", mask(3))
    assert read_image(tmp_path / "images/a.png").shape == (8, 12, 3)
    assert quick(find_samples(tmp_path, None)) == []
    assert check_data(tmp_path).ok


def test_names_that_are_not_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own(tmp_path)
    try:
        image(Path(os.fsdecode(os.fsencode(tmp_path) + b"/images/\xff.png")))
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    assert "images/\\udcff.png" in run(capsys, tmp_path, code=5)


def test_images_that_predict_refuses(tmp_path: Path) -> None:
    own(tmp_path, ["a"])
    (tmp_path / "images/a.jpg").unlink()
    Image.new("F", (12, 8)).save(tmp_path / "images/a.tif")
    for problems in (quick(find_samples(tmp_path, None)), check_data(tmp_path).problems):
        ((kind, (file,)),) = kinds(list(problems)).items()
        assert kind == "unreadable image"
        assert file.startswith("images/a.tif: a TIFF of 1 band of 32 bits, floating point")


# --- what the values are instead -----------------------------------------------------------------------------------


def scenes(home: Path, kind: str, **values: bool) -> Path:
    """Write four generated scenes, with `values[name]` saying whether train ids stand in the file of that name."""
    for name, train_ids in values.items():
        drawn = scene(len(name), 96, 192)
        rule = CITYSCAPES_TRAIN_IDS if train_ids else CITYSCAPES_IDS
        image(home / f"leftImg8bit/val/x/{name}_leftImg8bit.png", (192, 96))
        labels(home / f"gtFine/val/x/{name}_gtFine_label{kind}.png", rule.values(drawn.mask))
    return home


@pytest.mark.parametrize("kind", ["Ids", "TrainIds"])
def test_ids_mixed_with_train_ids_both_ways(kind: str, tmp_path: Path) -> None:
    right = kind == "TrainIds"
    assert check_data(scenes(tmp_path / "all", kind, a=right, bb=right, ccc=right, eeeee=right), progress=False).ok
    report = check_data(scenes(tmp_path / "some", kind, a=right, bb=not right, ccc=right, eeeee=not right))
    ((found, files),) = kinds(report.problems).items()
    assert found == ("value outside the classes" if right else "ids mixed with train ids")
    assert files == tuple(f"gtFine/val/x/{name}_gtFine_label{kind}.png" for name in ("bb", "eeeee"))


def test_no_scene_is_suspected_of_the_wrong_ids(tmp_path: Path) -> None:
    """Nor is a mask with no class but a few at the edge, as in a tunnel or a garage."""
    for seed in range(30):
        drawn = scene(seed, 96, 192)
        image(tmp_path / f"leftImg8bit/val/x/{seed}_leftImg8bit.png", (192, 96))
        labels(tmp_path / f"gtFine/val/x/{seed}_gtFine_labelIds.png", CITYSCAPES_IDS.values(drawn.mask))
    for name, ids in {
        "tunnel": [0, 1, 3, 7, 11, 16],
        "void": [0],
        "edge": [0, 1, 2, 3, 4],
        "hall": [3, 7, 8, 11, 12],
    }.items():
        image(tmp_path / f"leftImg8bit/val/x/{name}_leftImg8bit.png")
        values = np.array(ids, np.uint8)[mask(len(ids))]
        labels(tmp_path / f"gtFine/val/x/{name}_gtFine_labelIds.png", values)
    report = check_data(tmp_path, progress=False)
    assert report.ok
    assert kinds(report.problems, error=False)["fully ignored mask"] == tuple(
        f"gtFine/val/x/{name}_gtFine_labelIds.png" for name in ("edge", "void")
    )


def test_official_ids_in_a_custom_folder(tmp_path: Path) -> None:
    image(tmp_path / "images/a.png", (192, 96))
    labels(tmp_path / "masks/a.png", CITYSCAPES_IDS.values(scene(0, 96, 192).mask))
    found = kinds(check_data(tmp_path, dataset=SCENES, progress=False).problems)
    assert found == {"value outside the classes": ("masks/a.png",)}


def test_images_that_have_only_the_other_kind_of_labels(tmp_path: Path) -> None:
    cityscapes(tmp_path, ["x/a"])
    cityscapes(tmp_path, ["x/b"], kind="TrainIds")
    report = check_data(tmp_path, dataset="cityscapes", progress=False)
    assert kinds(report.problems) == {"image without mask": ("leftImg8bit/val/x/b_leftImg8bit.png",)}
    assert report.pairs == 1


def test_ade20k_labels_that_were_reduced_already(tmp_path: Path) -> None:
    ade20k(tmp_path, ["a"])
    labels(tmp_path / "annotations/validation/a.png", np.array([[0, 1, 149], [7, 255, 0]], np.uint8))
    image(tmp_path / "images/validation/a.jpg", (3, 2))
    assert "off-by-one labels" in kinds(check_data(tmp_path, dataset=ADE20K, progress=False).problems)
    labels(tmp_path / "annotations/validation/a.png", np.array([[0, 1, 150], [7, 255, 0]], np.uint8))
    assert check_data(tmp_path, dataset=ADE20K, progress=False).ok
    labels(tmp_path / "annotations/validation/a.png", np.array([[0, 1, 151], [7, 2, 0]], np.uint8))
    assert list(kinds(check_data(tmp_path, progress=False).problems)) == ["value outside the classes"]


def test_labels_that_begin_at_one(tmp_path: Path) -> None:
    voc12(tmp_path)
    labels(tmp_path / "SegmentationClass/2007_1.png", mask(21) + np.uint8(1))
    (problem,) = check_data(tmp_path, dataset=VOC12AUG, progress=False).problems
    assert (problem.kind, problem.text) == ("value outside the classes", "21 (4 pixels)")
    assert "counted from 0" in problem.advice


def two(home: Path, **values: list[int]) -> Path:
    """Write a folder of two classes, with a mask of equal shares of the values for each name."""
    own(home, list(values), ["background", "crack"])
    for name, some in values.items():
        labels(home / f"masks/{name}.png", np.array(some, np.uint8)[mask(len(some))])
    return home


def stray(home: Path, name: str, beside: int = 0) -> None:
    """Write a mask of one value (or of 0 and 255) with four pixels of 1."""
    values = np.zeros((100, 100), np.uint8)
    values[50:] = beside
    values[:2, :2] = 1
    labels(home / f"masks/{name}.png", values)
    image(home / f"images/{name}.jpg", (100, 100))


def errors_and_notes(home: Path) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Return errors and notes; the quick look finds the same."""
    problems = check_data(home, progress=False).problems
    folder = find_samples(home, None)
    assert {(each.kind, each.error, each.text, frozenset(each.files)) for each in quick(folder)} == {
        (each.kind, each.error, each.text, frozenset(each.files)) for each in problems
    }
    return kinds(problems), kinds(problems, error=False)


def test_255_as_a_class(tmp_path: Path) -> None:
    errors, _ = errors_and_notes(two(tmp_path, a=[0, 255], b=[0, 255], c=[0]))
    assert errors == {"255 as a class": ("masks/a.png", "masks/b.png")}


def test_stray_pixels_do_not_hide_it(tmp_path: Path) -> None:
    two(tmp_path, a=[0, 255], b=[0, 255])
    stray(tmp_path, "c")  # no 255 there, and a class
    stray(tmp_path, "d", beside=255)
    errors, _ = errors_and_notes(tmp_path)
    assert errors == {"255 as a class": ("masks/a.png", "masks/b.png", "masks/d.png")}


def test_small_objects_beside_ignored_pixels_are_no_stray_ones(tmp_path: Path) -> None:
    two(tmp_path, a=[0, 255], b=[0, 255])
    values = np.zeros((300, 300), np.uint8)
    values[:100], values[200, 100:140] = 255, 1  # a crack of 40 pixels, and a part without data
    labels(tmp_path / "masks/c.png", values)
    image(tmp_path / "images/c.jpg", (300, 300))
    errors, notes = errors_and_notes(tmp_path)
    assert (errors, notes) == ({}, {"255 as a class": ("masks/a.png", "masks/b.png")})


def test_masks_of_two_ways_of_writing(tmp_path: Path) -> None:
    assert errors_and_notes(two(tmp_path / "half", a=[0, 255], b=[0, 1]))[0] == {"255 as a class": ("masks/a.png",)}
    errors, notes = errors_and_notes(two(tmp_path / "few", a=[0, 255], b=[0, 1], c=[0, 1]))
    assert (errors, notes) == ({}, {"255 as a class": ("masks/a.png",)})
    errors, notes = errors_and_notes(
        two(tmp_path / "meant", a=[0, 255], b=[0, 255], c=[0, 1, 255])
    )  # a mask shows what 255 means
    assert (errors, notes) == ({}, {"255 as a class": ("masks/a.png", "masks/b.png")})
    assert errors_and_notes(two(tmp_path / "sound", a=[0, 1, 255], b=[0, 1], c=[0])) == ({}, {})


def test_gray_levels(tmp_path: Path) -> None:
    (problem,) = check_data(two(tmp_path, a=[0, 128, 255], b=[0, 128]), progress=False).problems
    assert (problem.kind, problem.files) == ("value outside the classes", ("masks/a.png", "masks/b.png"))
    labels(tmp_path / "masks/a.png", np.arange(96, dtype=np.uint8).reshape(8, 12))
    assert "nearest neighbor" in check_data(tmp_path, progress=False).problems[0].advice


def test_nothing_but_ignored_pixels(tmp_path: Path) -> None:
    errors, notes = errors_and_notes(two(tmp_path, a=[255], b=[255]))
    assert (list(errors), list(notes)) == (["nothing to score"], ["fully ignored mask"])


@pytest.mark.parametrize(("make", "count"), [(ade20k, "147 of 150"), (voc12, "18 of 21")])
def test_own_labels_in_official_folders_without_a_class_list(
    make: Callable[[Path], Path], count: str, tmp_path: Path
) -> None:
    home = make(tmp_path)
    for path in (*home.glob("annotations/*/*.png"), *home.glob("SegmentationClass/*.png")):
        with Image.open(path) as image:
            size = image.size
        labels(path, mask(3, size) + np.uint8(make is ade20k))
    report = check_data(home, progress=False)
    (problem,) = report.problems
    assert (problem.kind, problem.text, report.ok) == (MOSTLY_ABSENT, count, True)
    assert "list its classes in classes.txt" in problem.advice


def test_palettes_that_disagree(tmp_path: Path) -> None:
    red, green, black = (255, 0, 0), (0, 255, 0), (0, 0, 0)
    own(tmp_path, ["a", "b", "c", "d"], NAMES)
    palettes = {"a": (black, red, green), "b": (black, red, green, red), "c": (black, green, red)}
    for name, palette in palettes.items():
        image = Image.fromarray(mask(3))
        image.putpalette([level for color in palette for level in color])
        image.save(tmp_path / f"masks/{name}.png")
    (problem,) = check_data(tmp_path, progress=False).problems
    assert (problem.kind, problem.error) == ("palettes disagree", True)
    assert problem.files == (
        "#ff0000 is 1 in masks/a.png, 2 in masks/c.png",
        "#00ff00 is 2 in masks/a.png, 1 in masks/c.png",
    )
    (tmp_path / "masks/c.png").unlink()
    (tmp_path / "images/c.jpg").unlink()
    assert check_data(tmp_path, progress=False).ok


# --- the command ---------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["check-data", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert (caught.value.code or 0) == code, err
    assert "Traceback" not in err
    return out


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cityscapes(tmp_path / "good")
    out = run(capsys, tmp_path / "good")
    assert "Cityscapes, val in" in out
    assert "official ids (labelIds)" in out
    assert "no errors" in out
    assert any(line.split()[:2] == ["road", "12"] for line in out.splitlines())
    faulty(tmp_path / "bad")
    out = run(capsys, tmp_path / "bad", code=5)
    assert all(kind in out for kind in (*ERRORS, *NOTES))
    assert out.count("\nerror: ") == 10
    facts = json.loads(run(capsys, tmp_path / "bad", "--json", code=5))
    assert len([problem for problem in facts["problems"] if problem["error"]]) == 10
    assert facts["ok"] is False


def test_options_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own(tmp_path / "mine")
    assert "glass" in run(capsys, tmp_path / "mine", "--classes", ", ".join(NAMES))
    run(capsys, tmp_path / "mine", "--classes", "2", code=5)
    run(capsys, tmp_path / "mine", "--classes", "a,a", code=2)
    run(capsys, tmp_path / "mine", "--dataset", "coco", code=2)
    run(capsys, tmp_path / "absent", code=5)
    ade20k(tmp_path / "ade", split="training")
    run(capsys, tmp_path / "ade", "--dataset", "ade20k", code=5)
    run(capsys, tmp_path / "ade", "--dataset", "ade20k", "--split", "train")
    run(capsys, tmp_path / "ade", "--dataset", "cityscapes", code=5)


def test_a_fourth_band_that_may_be_infrared_gets_a_note(tmp_path: Path) -> None:
    for folder, mode in (("images", "RGBA"), ("masks", "L")):
        (tmp_path / folder).mkdir()
        Image.new(mode, (8, 6)).save(tmp_path / folder / "a.tif")
    (problem,) = check_data(tmp_path, classes=2, progress=False).problems
    assert (problem.kind, problem.files, problem.error) == ("fourth band", ("images/a.tif",), False)
    assert not check_data(tmp_path, classes=2, bands=["red", "green", "blue", "nir"], progress=False).problems


def test_the_golden_folder(shared: Path) -> None:
    report = check_data(shared / "golden", dataset=CITYSCAPES, progress=False)
    assert report.ok
    assert (report.pairs, report.pixels) == (3, 3 * 256 * 128)
