"""8 bits, where NNCF is installed: most pixels as before; where it is not, that is said."""

import dataclasses
import logging
import re
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.engines.openvino import OpenVINOEngine, unreported
from hrnet_zoo.engines.optimize import agreement, optimize
from hrnet_zoo.engines.plan import Plan
from hrnet_zoo.engines.pytorch import PyTorchEngine
from hrnet_zoo.engines.quantization import MOST, MOST_OTHERS, Quantization, calibration_images, drawn
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.zoo.create import create_model


@pytest.fixture
def demo() -> FCNHRNet:
    network = create_model("demo", device="cpu")
    network.dataset = dataclasses.replace(network.dataset, resize_to=(192, 96))
    return network


def test_pixels_agree(demo: FCNHRNet, caplog: pytest.LogCaptureFixture) -> None:
    """All but three in a hundred of small images (found: 2.4 to 2.6), as the log says of one that was not seen."""
    with unreported("nncf"):
        pytest.importorskip("openvino")
        pytest.importorskip("nncf")
    images = [scene(seed, 96, 192).image for seed in range(6)]
    with caplog.at_level(logging.WARNING, "hrnet_zoo"):
        fast = optimize(demo, engine="openvino", dtype=torch.float32, calibration=images[:4])
    (record,) = (each for each in caplog.records if each.name == "hrnet_zoo")
    said = re.search(r"^in 8 bits (.+) % of the pixels of 1 images are labeled as by demo itself$", record.message)
    assert said
    _, judged = drawn(images[:4])
    assert float(said[1]) == pytest.approx(100 * agreement(demo, fast, judged), abs=0.006)
    for some in (images[:4], images[4:]):
        assert 0.97 < agreement(demo, fast, some) < 1
    engine = fast._engine
    assert isinstance(engine, OpenVINOEngine)
    kinds = [each.get_type_name() for each in engine._model.get_ordered_ops()]
    assert kinds.count("FakeQuantize") > kinds.count("Convolution") / 2


def test_images(tmp_path: Path) -> None:
    given = [np.zeros((8, 8, 3), np.uint8)]
    assert calibration_images(given) is given
    (tmp_path / "deep").mkdir()
    for name in ("b.png", "deep/a.jpg", "deep/notes.txt"):
        if name.endswith("txt"):
            (tmp_path / name).write_text("no image", encoding="utf-8")
        else:
            Image.fromarray(given[0]).save(tmp_path / name)
    for folder in (tmp_path, str(tmp_path)):
        assert calibration_images(folder) == [tmp_path / "b.png", tmp_path / "deep" / "a.jpg"]


def test_no_images(tmp_path: Path) -> None:
    cases = {"it is empty": [], "without images": tmp_path, "is no folder": "nowhere", "it is a int": 7}
    for found, given in cases.items():
        with pytest.raises(ConfigError, match=f"{found}; it takes a list of images"):
            calibration_images(given)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 3, 4, 20, 63, 64, 80, 81, 1000])
def test_few_images_are_drawn_evenly_and_others_judge(count: int) -> None:
    taken, judging = ([int(str(each)) for each in part] for part in drawn([str(number) for number in range(count)]))
    assert len(taken) == (min(MOST, count - len(judging)) if count >= 4 else count)
    assert len(judging) == (min(MOST_OTHERS, count // 4) if count >= 4 else count)
    assert count < 4 or not set(taken) & set(judging)
    for part in (taken, judging):
        assert part == sorted(set(part))
        gaps = np.diff([-1, *part, count])
        assert gaps.max() <= 2 * count / len(part) + 2


def test_the_exact_network_judges_few_of_many_images(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calibration itself is left out: it would take minutes."""
    calibrated: list[object] = []

    class Engine(PyTorchEngine):
        def __init__(self, plan: Plan, dtype: torch.dtype, quantize: Quantization) -> None:
            super().__init__(plan, torch.device("cpu"), dtype)
            calibrated.extend(quantize._images)

    monkeypatch.setattr("hrnet_zoo.engines.quantization._nncf", lambda: None)
    monkeypatch.setattr("hrnet_zoo.engines.openvino.OpenVINOEngine", Engine)
    monkeypatch.setattr("hrnet_zoo.engines.openvino.dtypes", lambda: (torch.float32,))
    exact: list[object] = []
    real = FCNHRNet.predict

    def predict(self: FCNHRNet, image: object) -> object:
        exact.append(image)
        return real(self, cast(Any, image))

    monkeypatch.setattr(FCNHRNet, "predict", predict)
    images = [np.full((8, 8, 3), number, np.uint8) for number in range(200)]
    optimize(demo, engine="openvino", calibration=images)
    assert (len(calibrated), len(exact)) == (MOST, MOST_OTHERS)
    assert not {id(each) for each in calibrated} & {id(each) for each in exact}


def test_not_installed(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    monkeypatch.setattr("hrnet_zoo.engines.openvino.dtypes", lambda: (torch.float32,))
    monkeypatch.setattr("hrnet_zoo.engines.optimize.Plan", pytest.fail)  # said before any work
    with pytest.raises(ConfigError, match="NNCF cannot be imported") as caught:
        optimize(demo, engine="openvino", calibration=[scene(0, 64, 64).image])
    assert "pip install '.[int8]'" in caught.value.advice
