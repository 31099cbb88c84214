"""8 bits, where NNCF is installed: most pixels as before; where it is not, that is said."""

import dataclasses
import logging
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hrnet_zoo.acceleration import agreement, optimize
from hrnet_zoo.creation import create_model
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.engines.openvino import OpenVINOEngine, unreported
from hrnet_zoo.engines.quantization import MOST, Quantization, calibration_pictures
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.models.fcn import FCNHRNet


@pytest.fixture
def demo() -> FCNHRNet:
    network = create_model("demo", device="cpu")
    network.dataset = dataclasses.replace(network.dataset, box=(192, 96))
    return network


def test_pixels_agree(demo: FCNHRNet, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """All but three in a hundred of small pictures (found: 2.4 to 2.6), as the log says; of pictures not seen too."""
    with unreported():
        pytest.importorskip("openvino")
        pytest.importorskip("nncf")
    pictures = [scene(seed, 96, 192).image for seed in range(6)]
    with caplog.at_level(logging.WARNING, "hrnet_zoo"):
        fast = optimize(demo, engine="openvino", dtype=torch.float32, calibration=pictures[:4])
    (record,) = (each for each in caplog.records if each.name == "hrnet_zoo")
    said = re.search(r"^in 8 bits (.+) % of the pixels are labelled as by demo itself$", record.message)
    assert said
    assert float(said[1]) == pytest.approx(100 * agreement(demo, fast, pictures[:4]), abs=0.006)
    for some in (pictures[:4], pictures[4:]):
        assert 0.97 < agreement(demo, fast, some) < 1
    assert not capfd.readouterr().out
    engine = fast._engine
    assert isinstance(engine, OpenVINOEngine)
    kinds = [each.get_type_name() for each in engine._model.get_ordered_ops()]
    assert kinds.count("FakeQuantize") > kinds.count("Convolution") / 2


def test_pictures(tmp_path: Path) -> None:
    given = [np.zeros((8, 8, 3), np.uint8)]
    assert calibration_pictures(given) is given
    (tmp_path / "deep").mkdir()
    for name in ("b.png", "deep/a.jpg", "deep/notes.txt"):
        if name.endswith("txt"):
            (tmp_path / name).write_text("no picture", encoding="utf-8")
        else:
            Image.fromarray(given[0]).save(tmp_path / name)
    for folder in (tmp_path, str(tmp_path)):
        assert calibration_pictures(folder) == [tmp_path / "b.png", tmp_path / "deep" / "a.jpg"]


def test_no_pictures(tmp_path: Path) -> None:
    cases = {"it is empty": [], "without pictures": tmp_path, "is no folder": "nowhere", "it is a int": 7}
    for found, given in cases.items():
        with pytest.raises(ConfigError, match=f"{found}; it takes a list of pictures"):
            calibration_pictures(given)  # type: ignore[arg-type]


def test_many_pictures_are_taken_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrnet_zoo.engines.quantization._nncf", lambda: None)
    names = [str(number) for number in range(3 * MOST)]
    assert Quantization(names, (64, 64))._pictures == names[::3]
    assert Quantization(names[:5], (64, 64))._pictures == names[:5]


def test_not_installed(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    monkeypatch.setattr("hrnet_zoo.engines.openvino.dtypes", lambda: (torch.float32,))
    monkeypatch.setattr("hrnet_zoo.acceleration.make_plan", pytest.fail)  # said before any work
    with pytest.raises(ConfigError, match="NNCF cannot be imported") as caught:
        optimize(demo, engine="openvino", calibration=[scene(0, 64, 64).image])
    assert "pip install '.[int8]'" in caught.value.advice
