"""The evaluation of the golden data by the reference, in full size."""

import json
from pathlib import Path

import pytest

from hrnet_zoo.zoo.create import create_model
from tests.evaluation.test_evaluate import score
from tests.models.test_fcn import GOLDEN


def test_the_reference_s_own_figures(shared: Path) -> None:
    recorded = json.loads((shared / "golden/expected_scores.json").read_text(encoding="utf-8"))
    model = create_model("fcn_hr18s_cityscapes_40k", checkpoint=shared / GOLDEN, device="cpu")
    scores = score(model, shared / "golden/mini_cityscapes")
    for name, found in (("mIoU", scores.miou), ("mAcc", scores.macc), ("aAcc", scores.aacc)):
        assert found == pytest.approx(recorded[name], abs=0.05)
    for i, (iou, accuracy) in enumerate(scores.per_class.values()):
        assert iou == pytest.approx(100 * recorded["IoU"][i], abs=0.05, nan_ok=True)
        assert accuracy == pytest.approx(100 * recorded["Acc"][i], abs=0.05, nan_ok=True)
    assert scores.published is None  # other weights than the row's
