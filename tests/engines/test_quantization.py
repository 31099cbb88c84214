"""8 bits, where OpenVINO is installed: most pixels as before, said in one line, and remembered."""

import dataclasses
import logging
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hrnet_zoo.demo.scenes import EVALUATION_SEEDS, TRAINING_SEEDS_START, Scene, scene
from hrnet_zoo.engines import quantization
from hrnet_zoo.engines.folding import Plan
from hrnet_zoo.engines.openvino import OpenVINOEngine, quantized_steps
from hrnet_zoo.engines.optimize import optimize
from hrnet_zoo.engines.quantization import CROP, SCENES, _crop, calibrate, drawn_images
from hrnet_zoo.errors import ConfigError, ImageError, LogitsError
from hrnet_zoo.evaluation.agreement import pixel_agreement
from hrnet_zoo.images.preprocess import normalize
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.weights import cache
from hrnet_zoo.zoo.create import create_model

IMAGES = [scene(seed, 96, 192).image for seed in range(10)]


@pytest.fixture
def demo(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FCNHRNet:
    network = create_model("demo", device="cpu")
    network.dataset = dataclasses.replace(network.dataset, resize_to=(192, 96))
    monkeypatch.setenv("HRNET_ZOO_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO, "hrnet_zoo")
    return network


def _ranges() -> list[Path]:
    return [entry.path for entry in cache.entries() if entry.kind == "range"]


def test_pixels_agree(demo: FCNHRNet, caplog: pytest.LogCaptureFixture) -> None:
    """All but two in a hundred of small images (found: 0.8 to 1)."""
    pytest.importorskip("openvino")
    fast = optimize(demo, dtype=torch.int8, calibration=IMAGES)
    assert repr(fast) == "OptimizedModel(demo: openvino, int8 on cpu)"
    assert (fast.engine, fast.precision, fast.dtype) == ("openvino", "int8", quantization.float_dtype())
    others = [scene(100 + seed, 96, 192).image for seed in range(4)]
    assert 0.98 < pixel_agreement(demo, fast, others) < 1
    engine = fast._engine
    assert isinstance(engine, OpenVINOEngine)
    nodes = list(engine._request.get_compiled_model().get_runtime_model().get_ordered_ops())
    facts = [{name: each.get_rt_info()[name].astype(str) for name in ("layerType", "primitiveType")} for each in nodes]
    convolutions = [each["primitiveType"] for each in facts if each["layerType"] == "Convolution"]
    assert len(convolutions) == 146
    assert sum("I8" in each or "i8" in each or "u8" in each for each in convolutions) == 145
    # Images 2 and 7 are held out, and those alone were compared.
    share = pixel_agreement(demo, fast, [IMAGES[2], IMAGES[7]])
    (line,) = [each for each in caplog.messages if "8 bits" in each]
    text = f"demo in 8 bits, calibrated with 8 images: {share:.2%} of the pixels keep their class, on 2 other images; "
    assert re.fullmatch(re.escape(text) + r"\d+\.\d s", line)


def test_the_old_spelling(demo: FCNHRNet, caplog: pytest.LogCaptureFixture) -> None:
    """Calibration alone means 8 bits; of few images none is held out."""
    pytest.importorskip("openvino")
    old = optimize(demo, engine="openvino", calibration=IMAGES[:3])
    assert "calibrated with 3 images" in caplog.text
    assert "on 3 images that calibrated it (none is held out)" in caplog.text
    new = optimize(demo, dtype=torch.int8, calibration=IMAGES[:3])
    assert caplog.text.count("calibrated with") == 1
    assert caplog.text.count("as remembered") == 1
    assert np.array_equal(old.predict(IMAGES[4]).mask, new.predict(IMAGES[4]).mask)


def test_scenes_calibrate(
    demo: FCNHRNet, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without images, generated scenes that are for training; an unwritable cache is said in one line."""
    pytest.importorskip("openvino")
    assert SCENES.start >= TRAINING_SEEDS_START > EVALUATION_SEEDS.stop
    drawn: list[int] = []

    def small(seed: int) -> Scene:
        drawn.append(seed)
        return scene(seed, 96, 192)

    monkeypatch.setattr(quantization, "scene", small)
    monkeypatch.setattr(quantization, "LOW_AGREEMENT", 1.1)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HRNET_ZOO_CACHE", str(tmp_path / "file"))
    fast = optimize(demo, dtype=torch.int8)
    assert drawn == list(SCENES)
    said, advised = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "the next process will calibrate again" in said.getMessage()
    assert re.search("generated street scenes: .* on 4 other images; .* images like those", advised.getMessage())
    assert pixel_agreement(demo, fast, IMAGES[:3]) > 0.98


def test_remembered(
    demo: FCNHRNet, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the weights and the images' contents; a damaged file is made again."""
    pytest.importorskip("openvino")
    for place, image in enumerate(IMAGES[:3]):
        Image.fromarray(image).save(tmp_path / f"{place}.png")
    mask = optimize(demo, dtype=torch.int8, calibration=tmp_path).predict(IMAGES[4]).mask
    (path,) = _ranges()
    text = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(quantization, "calibrate", pytest.fail)
        for given in (str(tmp_path), [tmp_path / f"{place}.png" for place in range(3)]):
            assert np.array_equal(optimize(demo, dtype=torch.int8, calibration=given).predict(IMAGES[4]).mask, mask)
    steps = set(quantized_steps(Plan(demo)))
    assert quantization._remembered(path.stem, steps)
    for damaged in (b"", b"[]", b"\xff", text.replace(b"stem.", b"leaf."), text.replace(b"0.0,", b"NaN,")):
        path.write_bytes(damaged)
        assert not quantization._remembered(path.stem, steps)
        assert not path.exists()
    path.write_bytes(text[:-9])
    caplog.clear()
    assert np.array_equal(optimize(demo, dtype=torch.int8, calibration=tmp_path).predict(IMAGES[4]).mask, mask)
    assert f"{path} is damaged" in caplog.text
    assert path.read_bytes().partition(b'"agreement"')[0] == text.partition(b'"agreement"')[0]
    Image.fromarray(IMAGES[5]).save(tmp_path / "2.png")
    fast = optimize(demo, dtype=torch.int8, calibration=tmp_path)
    with torch.no_grad():
        demo.decode_head.conv_seg.weight += 1
    fast.ready()
    assert len(_ranges()) == 3


def test_ranges(demo: FCNHRNet) -> None:
    """Least and greatest values, averaged over images; of the head, of all maps that it concatenates."""
    plan = Plan(demo)
    ranges = calibrate(plan, IMAGES[:2])
    assert ranges.keys() == quantized_steps(plan).keys()
    assert not any(step._forward_hooks or step._forward_pre_hooks for step in plan.modules())
    with torch.inference_mode():
        inputs = [normalize(image) for image in IMAGES[:2]]
        first = [float(plan.stem.steps[0](x).max()) for x in inputs]
        head = [max(float(each.max()) for each in plan.stages(plan.stem(x))) for x in inputs]
    assert ranges["stem.steps.0"] == pytest.approx((0, float(np.mean(first))))
    assert ranges["head"] == pytest.approx((0, float(np.mean(head))))
    assert ranges["stem.steps.2.shortcut"][0] < 0


def test_a_network_that_computes_no_numbers(demo: FCNHRNet) -> None:
    with torch.no_grad():
        demo.backbone.conv1.weight[0] = float("nan")
    with pytest.raises(LogitsError, match="infinite or not a number"):
        calibrate(Plan(demo), IMAGES[:1])


def test_dead_channels() -> None:
    """A map of zeros, and an output channel without weights, are no error."""
    pytest.importorskip("openvino")
    network = create_model("fcn_hr18s_voc12aug_20k", pretrained=False, device="cpu")
    with torch.no_grad():
        network.backbone.bn1.weight.zero_()
        network.backbone.bn1.bias.zero_()
        network.decode_head.conv_seg.weight[3].zero_()
    plan = Plan(network)
    ranges = calibrate(plan, [IMAGES[0]])
    assert ranges["stem.steps.0"] == (0, 1e-6)
    logits = OpenVINOEngine(plan, torch.device("cpu"), torch.float32, ranges)(normalize(IMAGES[0]))
    assert logits.isfinite().all()


def test_images(tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    assert drawn_images([image])[0] is image
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "notes.txt").write_text("no image", encoding="utf-8")
    for name in ("b.png", "deep/a.jpg"):
        Image.fromarray(image).save(tmp_path / name)
    for folder in (tmp_path, str(tmp_path)):
        assert drawn_images(folder) == [tmp_path / "b.png", tmp_path / "deep" / "a.jpg"]


def test_no_images(tmp_path: Path) -> None:
    cases: list[Any] = [[], tmp_path, "nowhere", 7]
    for given in cases:
        with pytest.raises(ConfigError) as caught:
            drawn_images(given)
        assert caught.value.asked == f"optimize with calibration={str(given)!r}"
        assert "no images: calibration is a list of images, or a folder" in caught.value.found


def test_an_unreadable_image(demo: FCNHRNet) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(ImageError, match="nowhere"):
        optimize(demo, dtype=torch.int8, calibration=["nowhere.jpg"])


@pytest.mark.parametrize(("count", "drawn"), [(1, 1), (3, 3), (80, 80), (1000, 80)])
def test_few_images_are_drawn_evenly(count: int, drawn: int) -> None:
    found = [int(str(each)) for each in drawn_images([str(number) for number in range(count)])]
    assert len(found) == drawn
    assert found == sorted(set(found))
    assert np.diff([-1, *found, count]).max() <= 2 * count / drawn + 2


def test_large_images_are_cropped() -> None:
    """Each of four to another corner; small ones stay whole."""
    image = np.random.default_rng(0).integers(0, 255, (600, 1200, 3), np.uint8)
    rows, columns = CROP
    corners = [_crop(image, (1200, 600), place) for place in range(5)]
    assert np.array_equal(corners[0], image[:rows, :columns])
    assert np.array_equal(corners[1], image[-rows:, :columns])
    assert np.array_equal(corners[2], image[:rows, -columns:])
    assert np.array_equal(corners[3], image[-rows:, -columns:])
    assert np.array_equal(corners[4], corners[0])
    assert np.array_equal(_crop(IMAGES[0], (192, 96), 3), IMAGES[0])


def test_refused(demo: FCNHRNet) -> None:
    with pytest.raises(ConfigError, match="only engine='openvino' computes in 8 bits"):
        optimize(demo, engine="onednn", dtype=torch.int8)
    with pytest.raises(ConfigError, match="calibration is for 8 bits"):
        optimize(demo, engine="openvino", dtype=torch.float32, calibration=IMAGES)
    with pytest.raises(ConfigError, match="on a CPU alone"):
        optimize(demo.to("meta"), dtype=torch.int8)


def test_not_installed(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr("hrnet_zoo.engines.optimize.Plan", pytest.fail)  # said before any work
    with pytest.raises(ConfigError, match="openvino cannot be imported") as caught:
        optimize(demo, dtype=torch.int8)
    assert "pip install '.[openvino]'" in caught.value.advice
