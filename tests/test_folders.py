"""Files, folders and globs to results on disk."""

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from hrnet_zoo.creation import create_model
from hrnet_zoo.errors import ConfigError, OutputError, UnreadableImageError
from hrnet_zoo.folders import Job, plan, predict_files
from hrnet_zoo.models.fcn import FCNHRNet


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.png", "a.jpg", "deep/c.png", ".hidden.png", "notes.txt"):
        Image.new("RGB", (8, 8)).save(folder / name, "png")
    return folder


def planned(inputs: list[Path | str], out: Path, **options: bool) -> list[Job]:
    chosen = {"labels": True, "overlay": True, "force": False, **options}
    return plan([str(text) for text in inputs], out, **chosen)


def test_folder_keeps_its_structure(pictures: Path, tmp_path: Path) -> None:
    jobs = planned([pictures], tmp_path / "out")
    assert [job.picture.name for job in jobs] == ["a.jpg", "b.png", "c.png"]
    assert jobs[2] == Job(
        pictures / "deep/c.png", tmp_path / "out/deep/c_labels.png", tmp_path / "out/deep/c_overlay.png"
    )


def test_globs_files_and_each_picture_once(pictures: Path, tmp_path: Path) -> None:
    jobs = planned([pictures / "b.png", f"{pictures}/**/*.png", pictures / "b.png"], tmp_path / "out", overlay=False)
    assert [job.picture.name for job in jobs] == ["b.png", "c.png"]
    assert all(job.overlay is None for job in jobs)


def test_a_pattern_without_match_is_a_missing_picture(tmp_path: Path) -> None:
    (job,) = planned([tmp_path / "*.jpg"], tmp_path / "out")
    assert job.picture == tmp_path / "*.jpg"


def test_the_output_folder_may_be_anywhere(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pictures)
    assert [job.labels for job in planned(["b.png"], Path())] == [Path("b_labels.png")]
    assert len(planned(["."], Path())) == 3
    assert len(planned([pictures], Path("deep"), force=True)) == 2  # what lies in the output folder is no input
    assert len(planned([pictures / "deep" / "c.png"], pictures / "deep")) == 1  # unless it is named


def test_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UnreadableImageError, match=r"no file with one of the endings"):
        planned([tmp_path], tmp_path / "out")


def test_a_name_too_long_or_empty_is_a_missing_picture(tmp_path: Path) -> None:
    for text in ("x" * 5000, ""):
        (job,) = planned([text], tmp_path / "out", labels=False, overlay=False)
        assert str(job.picture) in (text, ".")


def test_names_that_clash(pictures: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(pictures / "a.png")
    jobs = planned([pictures / "a.png", pictures / "a.jpg"], tmp_path / "out")
    assert [job.labels and job.labels.name for job in jobs] == ["a.png_labels.png", "a.jpg_labels.png"]
    Image.new("RGB", (8, 8)).save(pictures / "deep" / "b.png")
    with pytest.raises(OutputError, match="several of the pictures have this name"):
        planned([pictures / "b.png", pictures / "deep" / "b.png"], tmp_path / "out")


def test_earlier_results_are_kept_and_are_no_pictures(pictures: Path) -> None:
    out = pictures / "out"
    out.mkdir()
    Image.new("RGB", (8, 8)).save(out / "a_labels.png")
    with pytest.raises(OutputError, match=r"a_labels\.png[\s\S]*exists already[\s\S]*--force"):
        planned([pictures], out)
    assert len(planned([pictures], out, force=True)) == 3


@pytest.fixture
def model() -> FCNHRNet:
    """Make a network with random weights that sees pictures at 64 pixels, to be quick."""
    network = create_model("fcn_hr18s_cityscapes_40k", pretrained=False, device="cpu")
    network.dataset = dataclasses.replace(network.dataset, box=(64, 64))
    return network


def test_a_bad_picture_does_not_stop_the_others(pictures: Path, tmp_path: Path, model: FCNHRNet) -> None:
    (pictures / "a.jpg").write_text("no picture")
    jobs = planned([pictures], tmp_path / "out")
    done, failed = predict_files(model, jobs, mode=None, ms_flip=False, alpha=0.5, max_memory=None, progress=False)
    assert [Path(each["picture"]).name for each in done] == ["b.png", "c.png"]
    assert list(failed) == [str(pictures / "a.jpg")]
    assert sum(done[0]["fractions"].values()) == pytest.approx(1)
    with (
        Image.open(tmp_path / "out/deep/c_labels.png") as labels,
        Image.open(tmp_path / "out/b_overlay.png") as overlay,
    ):
        assert labels.size == (8, 8)
        assert labels.mode == "P"
        assert overlay.width > 8
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b_labels.png", "b_overlay.png", "deep"]


def test_no_memory_allowed_is_refused_before_any_picture(pictures: Path, tmp_path: Path, model: FCNHRNet) -> None:
    jobs = planned([pictures], tmp_path / "out")
    with pytest.raises(ConfigError, match="max_memory=0"):
        predict_files(model, jobs, mode=None, ms_flip=False, alpha=0.5, max_memory=0, progress=False)
    assert not (tmp_path / "out").exists()


def test_the_first_bad_picture_ends_it_if_asked(pictures: Path, tmp_path: Path, model: FCNHRNet) -> None:
    (pictures / "b.png").write_text("no picture")
    jobs = planned([pictures], tmp_path / "out", overlay=False)
    options = {"mode": None, "ms_flip": False, "alpha": 0.5, "max_memory": None, "progress": False}
    with pytest.raises(UnreadableImageError, match=r"b\.png"):
        predict_files(model, jobs, on_error="raise", **options)  # type: ignore[arg-type]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_labels.png"]


def test_a_picture_is_no_result(pictures: Path) -> None:
    """Not even --force replaces a picture that is to be labelled."""
    Image.new("RGB", (8, 8)).save(pictures / "b_labels.png")
    with pytest.raises(OutputError, match=r"b_labels\.png[\s\S]*itself one of the pictures to label"):
        planned([pictures / "b.png", pictures / "b_labels.png"], pictures, force=True)


def test_a_link_to_itself_is_a_bad_picture(pictures: Path, tmp_path: Path) -> None:
    (pictures / "loop.png").symlink_to(pictures / "loop.png")
    assert [job.picture.name for job in planned([pictures], tmp_path / "out")][-1] == "loop.png"
