"""8 bits, where NNCF is installed: most pixels as before; where it is not, that is said."""

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.engines.openvino import OpenVINOEngine
from hrnet_zoo.engines.optimize import optimize, pixel_agreement
from hrnet_zoo.engines.quantization import _calibration_images
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.zoo.create import create_model


@pytest.fixture
def demo() -> FCNHRNet:
    network = create_model("demo", device="cpu")
    network.dataset = dataclasses.replace(network.dataset, resize_to=(192, 96))
    return network


def test_pixels_agree(demo: FCNHRNet) -> None:
    """All but three in a hundred of small images (found: 2.4 to 2.6)."""
    for package in ("openvino", "nncf"):
        if not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not installed")
    images = [scene(seed, 96, 192).image for seed in range(6)]
    fast = optimize(demo, engine="openvino", dtype=torch.float32, calibration=images[:4])
    for some in (images[:4], images[4:]):
        assert 0.97 < pixel_agreement(demo, fast, some) < 1
    engine = fast._engine
    assert isinstance(engine, OpenVINOEngine)
    kinds = [each.get_type_name() for each in engine._model.get_ordered_ops()]
    assert kinds.count("FakeQuantize") > kinds.count("Convolution") / 2


def test_images(tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    assert _calibration_images([image])[0] is image
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "notes.txt").write_text("no image", encoding="utf-8")
    for name in ("b.png", "deep/a.jpg"):
        Image.fromarray(image).save(tmp_path / name)
    for folder in (tmp_path, str(tmp_path)):
        assert _calibration_images(folder) == [tmp_path / "b.png", tmp_path / "deep" / "a.jpg"]


def test_no_images(tmp_path: Path) -> None:
    cases: list[Any] = [[], tmp_path, "nowhere", 7]
    for given in cases:
        with pytest.raises(ConfigError) as caught:
            _calibration_images(given)
        assert caught.value.asked == f"optimize with calibration={str(given)!r}"
        assert "no images: calibration is a list of images, or a folder" in caught.value.found


@pytest.mark.parametrize(("count", "drawn"), [(1, 1), (3, 3), (80, 80), (1000, 80)])
def test_few_images_are_drawn_evenly(count: int, drawn: int) -> None:
    found = [int(str(each)) for each in _calibration_images([str(number) for number in range(count)])]
    assert len(found) == drawn
    assert found == sorted(set(found))
    assert np.diff([-1, *found, count]).max() <= 2 * count / drawn + 2


def test_not_installed(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    monkeypatch.setattr("hrnet_zoo.engines.openvino.dtypes", lambda: (torch.float32,))
    monkeypatch.setattr("hrnet_zoo.engines.optimize.Plan", pytest.fail)  # said before any work
    with pytest.raises(ConfigError, match="nncf cannot be imported") as caught:
        optimize(demo, engine="openvino", calibration=[scene(0, 64, 64).image])
    assert "pip install '.[int8]'" in caught.value.advice
