"""The bundled network scores what the catalog states, on all evaluation scenes."""

from pathlib import Path

import pytest

from hrnet_zoo.demo.scenes import EVALUATION_SEEDS
from hrnet_zoo.evaluation.run_demo import run_demo
from hrnet_zoo.zoo.catalog import DEMO
from hrnet_zoo.zoo.create import create_model


def test_the_bundled_network_is_a_trained_one(tmp_path: Path) -> None:
    """Score all 50 evaluation scenes, whose seeds training never draws, and find what the catalog states."""
    report = run_demo(create_model("demo", device="cpu"), tmp_path, seeds=EVALUATION_SEEDS, progress=False)
    assert len(report["iou"]) == 19
    assert report["miou"] >= 0.80
    assert 100 * report["miou"] == pytest.approx(DEMO.miou, abs=0.1)
