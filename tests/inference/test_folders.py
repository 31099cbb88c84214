"""Files, folders and globs to results on disk."""

import dataclasses
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hrnet_zoo.datasets.pairing import find_images
from hrnet_zoo.errors import HRNetZooError, ImageError, OutputError
from hrnet_zoo.images.atomic import png
from hrnet_zoo.inference.coco_file import CocoFile
from hrnet_zoo.inference.folders import RESULTS_BEHIND, Job, plan, predict_files, remaining
from hrnet_zoo.inference.predict import PredictOptions, view_logits
from hrnet_zoo.inference.result import SegmentationResult
from hrnet_zoo.inference.tables import TableWriter, error_row, table_columns
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.zoo.create import create_model


def test_what_remains_of_a_resumed_run(tmp_path: Path) -> None:
    """What failed is in no COCO file; what only one of them has is done again."""
    names = [Path(name) for name in ("both", "failed", "table", "coco", "none")]
    jobs = [Job(name, None, None) for name in names]
    result = SegmentationResult(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8), ("a",), ((0, 0, 0),))
    with TableWriter(tmp_path / "a.csv", table_columns(("a",))) as table, CocoFile(tmp_path / "a.json", ("a",)) as coco:
        for name, error in zip(names[:3], ("", "bad", ""), strict=True):
            table.append(error_row(name, error))
        for name in (names[0], names[3]):
            coco.add(name, result)
    assert remaining(jobs, None, None) == jobs
    table = TableWriter(tmp_path / "a.csv", table_columns(("a",)), resume=True)
    coco = CocoFile(tmp_path / "a.json", ("a",), resume=True)
    assert remaining(jobs, table, None) == jobs[3:]
    assert remaining(jobs, None, coco) == [jobs[1], jobs[2], jobs[4]]
    assert remaining(jobs, table, coco) == jobs[2:]
    for file in (table, coco):
        file.__exit__(None, None, None)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.png", "a.jpg", "deep/c.png", ".hidden.png", "notes.txt"):
        Image.new("RGB", (8, 8)).save(folder / name, "png")
    return folder


def planned(inputs: list[Path | str], out: Path, **options: bool) -> list[Job]:
    chosen: dict[str, Any] = {"labels": True, "overlay": True, "force": False, **options}
    return plan([str(text) for text in inputs], out, **chosen)


def test_folder_keeps_its_structure(images: Path, tmp_path: Path) -> None:
    jobs = planned([images], tmp_path / "out")
    assert [job.image.name for job in jobs] == ["a.jpg", "b.png", "c.png"]
    assert jobs[2] == Job(
        images / "deep/c.png", tmp_path / "out/deep/c_labels.png", tmp_path / "out/deep/c_overlay.png"
    )


def test_globs_files_and_each_image_once(images: Path, tmp_path: Path) -> None:
    jobs = planned([images / "b.png", f"{images}/**/*.png", images / "b.png"], tmp_path / "out", overlay=False)
    assert [job.image.name for job in jobs] == ["b.png", "c.png"]
    assert all(job.overlay is None for job in jobs)


def test_a_pattern_without_match_is_a_missing_image(tmp_path: Path) -> None:
    (job,) = planned([tmp_path / "*.jpg"], tmp_path / "out")
    assert job.image == tmp_path / "*.jpg"


def test_the_output_folder_may_be_anywhere(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images)
    assert [job.labels for job in planned(["b.png"], Path())] == [Path("b_labels.png")]
    assert len(planned(["."], Path())) == 3
    assert len(planned([images], Path("deep"), force=True)) == 2  # what lies in the output folder is no input
    assert len(planned([images / "deep" / "c.png"], images / "deep")) == 1  # unless it is named


def test_links_are_followed_and_no_loop(images: Path, tmp_path: Path) -> None:
    """As every command lists folders."""
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "elsewhere" / "d.jfif", "JPEG")
    (images / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (images / "deep" / "up").symlink_to(images, target_is_directory=True)
    jobs = planned([images], tmp_path / "out")
    assert [job.image.name for job in jobs] == ["a.jpg", "b.png", "c.png", "d.jfif"]
    assert jobs[3].labels == tmp_path / "out/more/d_labels.png"
    found, _ = find_images(images, images)
    assert [job.image for job in jobs] == found


def test_photographs_that_are_not_read_are_told_of(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("IMG_1.HEIC", "deep/IMG_2.CR2", "scan.jp2"):
        (images / name).write_bytes(b"x")
    assert len(planned([images], tmp_path / "out")) == 3
    (record,) = caplog.records
    message = "unsupported photograph format: skipped (3: IMG_1.HEIC, deep/IMG_2.CR2, scan.jp2); export it"
    assert message in record.getMessage()
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "IMG_1.HEIC").write_bytes(b"x")
    with pytest.raises(ImageError, match=r"format: skipped \(1: IMG_1\.HEIC\)"):
        planned([tmp_path / "phone"], tmp_path / "out")


@pytest.mark.skipif(os.name == "nt", reason="names with asterisks")
def test_folders_with_the_characters_of_patterns(tmp_path: Path) -> None:
    """What exists is meant as it is called; only the rest is a pattern."""
    for name in ("trip [1]", "trip 1", "*"):
        (tmp_path / name / "deep").mkdir(parents=True)
        for file in ("a.jpg", "deep/b.jpg"):
            Image.new("RGB", (8, 8)).save(tmp_path / name / file)
    jobs = planned([f"{tmp_path}/trip [1]/*.jpg"], tmp_path / "out")
    assert [job.image for job in jobs] == [tmp_path / "trip [1]" / "a.jpg"]
    jobs = planned([f"{tmp_path}/trip [1]/**/*.jpg"], tmp_path / "out")
    assert [job.image.name for job in jobs] == ["a.jpg", "b.jpg"]
    assert [job.image.parent for job in planned([f"{tmp_path}/*/a.jpg"], tmp_path / "out")] == [tmp_path / "*"]
    assert len(planned([f"{tmp_path}/trip [0-9]/*.jpg"], tmp_path / "out")) == 1


def test_no_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ImageError, match=r"no file with one of the endings"):
        planned([tmp_path], tmp_path / "out")


def test_a_name_too_long_or_empty_is_a_missing_image(tmp_path: Path) -> None:
    for text in ("x" * 5000, ""):
        (job,) = planned([text], tmp_path / "out", labels=False, overlay=False)
        assert str(job.image) in (text, ".")


def test_results_go_to_no_address(images: Path) -> None:
    with pytest.raises(OutputError, match="an address, where a folder"):
        planned([images], Path("s3://bucket/results"))


def test_names_that_clash(images: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(images / "a.png")
    jobs = planned([images / "a.png", images / "a.jpg"], tmp_path / "out")
    assert [job.labels and job.labels.name for job in jobs] == ["a.png_labels.png", "a.jpg_labels.png"]
    Image.new("RGB", (8, 8)).save(images / "deep" / "b.png")
    with pytest.raises(OutputError, match="several of the images have this name"):
        planned([images / "b.png", images / "deep" / "b.png"], tmp_path / "out")


def test_earlier_results_are_kept_and_are_no_images(images: Path) -> None:
    out = images / "out"
    out.mkdir()
    Image.new("RGB", (8, 8)).save(out / "a_labels.png")
    with pytest.raises(OutputError, match=r"a_labels\.png[\s\S]*exists already[\s\S]*--force"):
        planned([images], out)
    assert len(planned([images], out, force=True)) == 3


@pytest.fixture
def model() -> FCNHRNet:
    """Make a network with random weights that sees images at 64 pixels, to be quick."""
    network = create_model("fcn_hr18s_cityscapes_40k", pretrained=False, device="cpu")
    network.dataset = dataclasses.replace(network.dataset, resize_to=(64, 64))
    return network


def test_a_bad_image_does_not_stop_the_others(images: Path, tmp_path: Path, model: FCNHRNet) -> None:
    (images / "a.jpg").write_text("no image")
    jobs = planned([images], tmp_path / "out")
    done, failed = run(model, jobs)
    assert [Path(each["image"]).name for each in done] == ["b.png", "c.png"]
    assert list(failed) == [str(images / "a.jpg")]
    assert sum(done[0]["fractions"].values()) == pytest.approx(1)
    with (
        Image.open(tmp_path / "out/deep/c_labels.png") as labels,
        Image.open(tmp_path / "out/b_overlay.png") as overlay,
    ):
        assert labels.size == (8, 8)
        assert labels.mode == "P"
        assert overlay.width > 8
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b_labels.png", "b_overlay.png", "deep"]


def run(model: FCNHRNet, jobs: list[Job]) -> tuple[list[dict[str, Any]], dict[str, HRNetZooError]]:
    outcomes = list(predict_files(model, jobs, PredictOptions()))
    assert [job for job, _ in outcomes] == jobs
    done = [each for _, each in outcomes if not isinstance(each, HRNetZooError)]
    return done, {str(job.image): each for job, each in outcomes if isinstance(each, HRNetZooError)}


@pytest.mark.skipif(sys.platform == "win32", reason="names as bytes")
def test_a_name_that_no_result_can_have_does_not_stop_the_others(tmp_path: Path, model: FCNHRNet) -> None:
    """Names of 250 bytes leave no room for "_overlay.png"; odd ones (bytes, dots, spaces, reserved) are names here."""
    folder = tmp_path / "in"
    folder.mkdir()
    odd = ["end. ", "CON", os.fsdecode(b"\xff\xfe"), "two\nlines", "水" * 78, "A", "z"]
    too_long = ["b" * 246, "水" * 82]
    for name in (*odd, *too_long):
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
    Image.new("RGB", (8, 8)).save(folder / "a.jpg")
    jobs = planned([folder], tmp_path / "out")
    done, failed = run(model, jobs)
    assert sorted(failed) == sorted(str(folder / f"{name}.png") for name in too_long)
    for error in failed.values():
        assert isinstance(error, OutputError)
        assert error.found == "File name too long"
        assert error.advice == "check the path, the length of its name, the permissions and the free space"
    assert len(done) == 8
    names = {path.name for path in (tmp_path / "out").iterdir()}
    # "A" and "a" may be one to the file system of the results.
    stems = [*(name for name in odd if name != "A"), "A.png", "a.jpg"]
    assert names == {f"{stem}_{kind}.png" for stem in stems for kind in ("labels", "overlay")}
    with pytest.raises(OutputError, match="File name too long"):
        list(predict_files(model, planned([folder], tmp_path / "2"), PredictOptions(), on_error="raise"))


def many(folder: Path, number: int) -> list[Job]:
    """Plan the prediction of so many different images, one of each size."""
    folder.mkdir()
    for index in range(number):
        Image.new("RGB", (8 + index, 8), (index, 99, 0)).save(folder / f"{index:02}.png")
    return planned([folder], folder / "out")


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("hrnet-zoo")]


def test_results_are_in_order_and_those_of_one_at_a_time(tmp_path: Path, model: FCNHRNet) -> None:
    jobs = many(tmp_path / "in", 9)
    done, failed = run(model, jobs)
    assert not failed
    assert [each["image"] for each in done] == [str(job.image) for job in jobs]
    for job, each in zip(jobs, done, strict=True):
        assert job.labels is not None
        assert job.overlay is not None
        alone = model.predict(job.image)
        alone.save(tmp_path / "alone.png")
        assert job.labels.read_bytes() == (tmp_path / "alone.png").read_bytes()
        assert job.overlay.read_bytes() == png(alone.overlay(alpha=0.5))
        assert each["fractions"] == alone.fractions()
    assert not threads()


def test_what_cannot_be_written_stops_the_run_soon(tmp_path: Path, model: FCNHRNet) -> None:
    jobs = many(tmp_path / "in", 9)
    target = jobs[1].labels
    assert target is not None
    target.mkdir(parents=True)
    with pytest.raises(OutputError, match=r"01_labels\.png"):
        run(model, jobs)
    written = sorted(path.name for path in target.parent.iterdir() if path.is_file())
    assert written[:2] == ["00_labels.png", "00_overlay.png"]
    assert len(written) <= 2 * (2 + RESULTS_BEHIND)
    assert not threads()


def test_what_was_computed_before_an_interruption_is_written(
    tmp_path: Path, model: FCNHRNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, seen = many(tmp_path / "in", 9), 0

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == 4:
            raise KeyboardInterrupt
        return view_logits(*args, **kwargs)

    monkeypatch.setattr("hrnet_zoo.inference.predict.view_logits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(model, jobs)
    assert sorted(path.name for path in (tmp_path / "in/out").glob("*_labels.png")) == [
        f"{index:02}_labels.png" for index in range(3)
    ]
    assert not threads()


def test_the_first_bad_image_ends_it_if_asked(images: Path, tmp_path: Path, model: FCNHRNet) -> None:
    (images / "b.png").write_text("no image")
    jobs = planned([images], tmp_path / "out", overlay=False)
    with pytest.raises(ImageError, match=r"b\.png"):
        list(predict_files(model, jobs, PredictOptions(), on_error="raise"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_labels.png"]


def test_a_image_is_no_result(images: Path) -> None:
    """Not even --force replaces an image that is to be labeled."""
    Image.new("RGB", (8, 8)).save(images / "b_labels.png")
    with pytest.raises(OutputError, match=r"b_labels\.png[\s\S]*one of the images to label"):
        planned([images / "b.png", images / "b_labels.png"], images, force=True)


def test_a_link_to_itself_is_a_bad_image(images: Path, tmp_path: Path) -> None:
    (images / "loop.png").symlink_to(images / "loop.png")
    assert [job.image.name for job in planned([images], tmp_path / "out")][-1] == "loop.png"
