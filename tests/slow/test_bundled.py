"""The bundled network scores what the catalog states, on all evaluation scenes."""

import numpy as np
import pytest

from hrnet_zoo.demo.scenes import EVALUATION_SEEDS, scene
from hrnet_zoo.inference.metrics import class_iou, count_matrix
from hrnet_zoo.zoo.catalog import DEMO
from hrnet_zoo.zoo.create import create_model


def test_the_bundled_network_is_a_trained_one() -> None:
    """Score all 50 evaluation scenes, whose seeds training never draws, and find what the catalog states."""
    model, counts = create_model("demo", device="cpu"), np.zeros((19, 19), np.int64)
    for drawn in map(scene, EVALUATION_SEEDS):
        counts += count_matrix(drawn.mask, model.predict(drawn.image).mask, 19)
    iou = class_iou(counts)
    assert np.isfinite(iou).all()
    assert iou.mean() >= 0.80
    assert 100 * iou.mean() == pytest.approx(DEMO.miou, abs=0.1)
