"""Networks whose modules somebody changed by hand: they work, or are refused in words."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import hrnet_zoo
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.errors import ConfigError, LogitsError, StateDictMismatchError
from hrnet_zoo.zoo.create import create_model
from tests.support.training_data import GROUPS, write_own_folder

pytestmark = pytest.mark.usefixtures("quick_demo")

IMAGE = scene(0, 64, 96).image
ADVICE = r"create_model\(\.\.\., classes=\[names\]\)"


@pytest.mark.parametrize("count", [3, 30])
def test_a_head_of_other_classes(count: int, tmp_path: Path) -> None:
    model = create_model("demo", device="cpu")
    model.decode_head.conv_seg = nn.Conv2d(270, count, 1)
    folder = write_own_folder(tmp_path / "data", 2)
    for probabilities in (False, True):
        with pytest.raises(ConfigError, match=rf"(?s)predict 19 classes.*gives {count} logits.*{ADVICE}"):
            model.predict(IMAGE, probabilities=probabilities)
    with pytest.raises(ConfigError, match=rf"(?s){ADVICE}"):
        model.predict(IMAGE, ms_flip=True)
    with pytest.raises(StateDictMismatchError, match=rf"(?s)19 classes.*{count}, 270.*{ADVICE}"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    with pytest.raises(ConfigError, match=r"create_model\(\.\.\., classes="):
        hrnet_zoo.finetune(model, folder, tmp_path / "run", steps=1, device="cpu", progress=False)
    model.dataset = model.dataset.with_classes([f"class {index}" for index in range(count)])
    saved = create_model(f"local-dir:{model.save_pretrained(tmp_path / 'own')}", device="cpu")
    for each in (model, saved):
        assert each.predict(IMAGE).classes[0] == "class 0"


def test_evaluate_with_a_head_of_other_classes(tmp_path: Path) -> None:
    model = create_model("demo", device="cpu", classes=list(GROUPS))
    model.decode_head.conv_seg = nn.Conv2d(270, 4, 1)
    with pytest.raises(ConfigError, match=rf"(?s)gives 4 logits.*{ADVICE}"):
        hrnet_zoo.evaluate(model, write_own_folder(tmp_path, 2), workers=0, progress=False)


def test_dropout_before_the_classifier_predicts_and_is_not_saved(tmp_path: Path) -> None:
    model, plain = (create_model("demo", device="cpu") for _ in range(2))
    model.decode_head.conv_seg = nn.Sequential(nn.Dropout2d(0.5), model.decode_head.conv_seg)
    assert np.array_equal(model.train().predict(IMAGE).mask, plain.predict(IMAGE).mask)
    assert (model.device, model.dtype) == (plain.device, plain.dtype)
    with pytest.raises(StateDictMismatchError, match=r"(?s)conv_seg\.1\.weight.*torch\.save\(model\.state_dict"):
        model.save_pretrained(tmp_path)


def test_a_compiled_backbone_predicts() -> None:
    model, plain = (create_model("demo", device="cpu") for _ in range(2))
    model.backbone = torch.compile(model.backbone, backend="eager")  # type: ignore[assignment]
    assert np.array_equal(model.predict(IMAGE).mask, plain.predict(IMAGE).mask)
    with pytest.raises(ConfigError, match=r"(?s)OptimizedModule.*call model\.eval\(\) first"):
        model.train().predict(IMAGE)
    with pytest.raises(ConfigError, match="backbone is OptimizedModule"):
        model.eval().predict(IMAGE, fast=True)


def test_weights_that_are_no_numbers_have_not_changed(caplog: pytest.LogCaptureFixture) -> None:
    model = create_model("demo", device="cpu")
    with torch.no_grad():
        model.decode_head.conv_seg.weight[0] = torch.nan
    for _ in range(2):
        with pytest.raises(LogitsError):
            model.predict(IMAGE, fast=True)
    assert not caplog.records
