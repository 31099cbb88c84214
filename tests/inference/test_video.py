"""Frames to results, and to a video of overlays."""

import csv
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hrnet_zoo
from hrnet_zoo.errors import ConfigError, ImageError, OutputError
from hrnet_zoo.images.video import VideoReader
from hrnet_zoo.inference.masks import make_mask
from hrnet_zoo.inference.predict import resized, view_logits
from hrnet_zoo.inference.tables import TableWriter, table_columns
from hrnet_zoo.inference.video import predict_video
from hrnet_zoo.models.fcn import FCNHRNet
from tests.support.videos import VARYING, Pixels, frame_times, scenes, sound_packets, write_video

av: Any = pytest.importorskip("av")


@pytest.fixture(scope="module")
def model() -> FCNHRNet:
    model = hrnet_zoo.create_model("demo", device="cpu")
    model.dataset = replace(model.dataset, resize_to=(96, 64))
    return model


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "a.mp4", scenes(12))


def images(path: Path) -> list[Pixels]:
    with VideoReader(path) as reader:
        return [frame.image for frame in reader.frames()]


def comment(path: Path) -> str:
    with av.open(path) as container:
        return next(str(value) for key, value in container.metadata.items() if key.lower() == "comment")


def test_each_frame_is_labeled_as_an_image(model: FCNHRNet, clip: Path, tmp_path: Path) -> None:
    out, shares = tmp_path / "b.mp4", tmp_path / "b.csv"
    columns = table_columns(model.classes, frames=True)
    with TableWriter(shares, columns) as table:
        found = []
        for frame in hrnet_zoo.predict_video(model, clip, out=out, table=table, every=2):
            assert not torch.is_inference_mode_enabled()
            found.append(frame)
    assert [frame.number for frame in found] == [0, 2, 4, 6, 8, 10]
    assert [frame.time for frame in found] == [float(time) for time in VARYING[:12:2]]
    for frame, image in zip(found, images(clip)[::2], strict=True):
        np.testing.assert_array_equal(frame.result.mask, model.predict(image).mask)
    assert frame_times(out) == list(VARYING[:12:2])
    assert sound_packets(out) == sound_packets(clip)
    for shown, frame in zip(images(out), found, strict=True):
        assert np.abs(shown.astype(int) - np.asarray(frame.result.overlay(legend=False))).mean() < 8
    assert "smoothed" not in comment(out)
    with shares.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == columns
    for row, frame in zip(rows, found, strict=True):
        assert (row["path"], int(row["frame"]), float(row["seconds"])) == (str(clip), frame.number, frame.time)
        assert (row["width"], row["height"]) == ("96", "64")
        assert float(row["road"]) == frame.result.fractions().get("road", 0)


def test_smoothing_is_the_exponential_mean_of_the_logits(model: FCNHRNet, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.mkv"
    masks = [frame.result.mask for frame in predict_video(model, clip, out=out, smooth=0.75)]
    mean: torch.Tensor | None = None
    plain = 0
    for image, mask in zip(images(clip), masks, strict=True):
        with torch.inference_mode():
            (view,) = view_logits(
                model.ready(), resized(image, model.dataset.resize_to, False), slide=False, flip=False
            )
        (window,) = view.windows
        mean = window.logits if mean is None else torch.lerp(window.logits, mean, 0.75)
        expected = make_mask([replace(view, windows=(replace(window, logits=mean),))], *mask.shape)
        np.testing.assert_array_equal(mask, expected)
        plain += int((model.predict(image).mask != mask).sum())
    assert plain > 0
    assert comment(out).endswith("labels are smoothed over time: exponential mean of the logits, 0.75 of the past")


def test_options_of_predict(model: FCNHRNet, clip: Path) -> None:
    options: Any = {"classes": ["road", "car"], "confidence": True, "min_confidence": 0.9}
    optimized = hrnet_zoo.optimize(model, engine="pytorch")
    frames = list(predict_video(optimized, clip, every=11, fast=True, **options))
    for frame, image in zip(frames, images(clip)[::11], strict=True):
        expected = optimized.predict(image, **options)
        np.testing.assert_array_equal(frame.result.mask, expected.mask)
        np.testing.assert_array_equal(frame.result.confidence, expected.confidence)
        assert frame.result.classes == ("road", "car", "other")


def test_who_leaves_early_has_a_whole_file(model: FCNHRNet, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.mp4"
    frames = predict_video(model, clip, out=out)
    for frame in frames:
        if frame.number == 3:
            assert not out.exists()
            break
    frames.close()
    times = frame_times(out)
    assert times == list(VARYING[: len(times)])
    assert len(times) >= 4
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["a.mp4", "b.mp4"]


def test_a_broken_network_keeps_what_was_labeled(clip: Path, tmp_path: Path, model: FCNHRNet) -> None:
    calls = 0

    def fail(module: torch.nn.Module, inputs: object) -> None:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise ValueError("of the user's own hook")

    hook = model.backbone.register_forward_pre_hook(fail)
    try:
        with pytest.raises(ValueError, match="hook"):
            list(predict_video(model, clip, out=tmp_path / "b.mp4"))
    finally:
        hook.remove()
    assert frame_times(tmp_path / "b.mp4") == list(VARYING[:5])


def test_a_truncated_clip(model: FCNHRNet, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "a.mkv", scenes(24), [Fraction(number, 4) for number in range(24)])
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"found: at .*\n.*what could be read was labeled, and is in .*b\.webm"):
        list(predict_video(model, clip, out=tmp_path / "b.webm"))
    assert 4 < len(frame_times(tmp_path / "b.webm")) < 20


def test_wrong_arguments_are_refused_before_anything_is_opened(model: FCNHRNet, clip: Path, tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        *({"every": 0}, {"smooth": 1}, {"smooth": -0.1}, {"alpha": 2}, {"mode": "tiles"}, {"classes": ["lake"]}),
        {"min_confidence": 7},
    ]
    for options in wrong:
        with pytest.raises(ConfigError):
            predict_video(model, tmp_path / "missing.mp4", **options)
    with pytest.raises(OutputError, match="exists already"):
        predict_video(model, clip, out=clip)
    assert not list(tmp_path.glob(".*"))


def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", scenes(3))
    text = (Path(__file__).parents[2] / "examples" / "guide_video.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(block, "guide_video.md", "exec"), {})  # noqa: S102
    assert len((tmp_path / "shares.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    assert "smoothed" in comment(tmp_path / "clip_seg.mp4")
