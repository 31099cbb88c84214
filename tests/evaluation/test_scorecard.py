"""The figures of an evaluation, by hand, and what looks wrong with them."""

import json
from pathlib import Path

import numpy as np
import pytest

from hrnet_zoo.datasets import ADE20K, CITYSCAPES, VOC12AUG
from hrnet_zoo.datasets.label_rules import CITYSCAPES_IDS, IGNORE_INDEX
from hrnet_zoo.errors import OutputError
from hrnet_zoo.evaluation.metrics import Counts, count_matrix
from hrnet_zoo.evaluation.scorecard import Evaluation, suspicion


def card(counts: Counts, published: float | None = 50.0) -> Evaluation:
    protocol = {"summary": "a dataset", "limit": None}
    return Evaluation("net", ("road", "sky", "tree"), counts, 2, published, "Cityscapes", None, protocol)


COUNTS = np.array([[6, 2, 0], [0, 2, 0], [0, 0, 0]], np.int64)


def test_figures_by_hand() -> None:
    scores = card(COUNTS)
    assert scores.miou == pytest.approx(100 * (6 / 8 + 2 / 4) / 2)
    assert scores.macc == pytest.approx(100 * (6 / 8 + 1) / 2)
    assert scores.aacc == pytest.approx(80)
    assert scores.difference == pytest.approx(12.5)
    assert scores.per_class["road"] == (75, 75)
    assert np.isnan(scores.per_class["tree"]).all()
    assert card(COUNTS, None).difference is None


def test_table_shows_published_and_difference() -> None:
    text = str(card(COUNTS))
    assert "net: mIoU 62.50, mAcc 87.50, aAcc 80.00; published 50.00 on Cityscapes, difference +12.50" in text
    assert any(line.split() == ["tree", "-", "-"] for line in text.splitlines())
    assert "published" not in str(card(COUNTS, None))


def test_json_is_plain(tmp_path: Path) -> None:
    card(COUNTS).to_json(tmp_path / "figures.json")
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert found["miou"] == 62.5
    assert found["per_class"]["tree"] == {"iou": None, "acc": None}
    assert found["difference"] == 12.5
    with pytest.raises(OutputError, match=r"figures\.json"):
        card(COUNTS).to_json(tmp_path / "absent" / "figures.json")


def test_nothing_scored_is_null_everywhere(tmp_path: Path) -> None:
    empty = card(np.zeros((3, 3), np.int64))
    empty.to_json(tmp_path / "figures.json")
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert [found[name] for name in ("miou", "macc", "aacc", "difference")] == [None] * 4


def test_how_many_of_how_many() -> None:
    scores = card(COUNTS, None)
    scores.protocol["val_images"] = 500
    assert str(scores).endswith("\n2 of 500 images; a dataset")
    scores.protocol["limit"] = 2
    assert str(scores).endswith("\n2 of 500 images (a part only); a dataset")
    scores.protocol.update(val_images=2, limit=None)
    assert str(scores).endswith("\n2 images; a dataset")


def labels(count: int) -> np.ndarray:
    """Return truth (H, W) in which every class occurs."""
    return np.repeat(np.arange(count, dtype=np.uint8), 8).reshape(count, 8)


def test_a_good_figure_is_not_suspected() -> None:
    truth = labels(19)
    assert suspicion(count_matrix(truth, truth, 19), CITYSCAPES) is None


def test_labels_that_begin_at_1() -> None:
    mask = labels(21)
    truth = np.where(mask == 20, IGNORE_INDEX, mask + 1).astype(np.uint8)
    assert "begin at 1" in str(suspicion(count_matrix(truth, mask, 21), VOC12AUG))


def test_labels_reduced_once_too_often() -> None:
    mask = labels(150)
    truth = np.where(mask == 0, IGNORE_INDEX, mask - 1).astype(np.uint8)
    assert "reduced twice" in str(suspicion(count_matrix(truth, mask, 150), ADE20K))


def test_official_ids_taken_for_train_ids() -> None:
    """Only the ids below 19 can be met so: higher ones are refused as no class."""
    mask = labels(19)[:6]
    truth = CITYSCAPES_IDS.values(mask)
    assert truth.max() < 19
    assert "official ids, not train ids" in str(suspicion(count_matrix(truth, mask, 19), CITYSCAPES))


def test_train_ids_taken_for_official_ids() -> None:
    """Only the train ids that are official ids too are left: 7, 8, 11, 12, 13 and 17."""
    mask = labels(19)
    truth = CITYSCAPES_IDS.indices(mask)
    assert set(truth.ravel().tolist()) == {0, 1, 2, 3, 4, 5, IGNORE_INDEX}
    assert "train ids, not official ids" in str(suspicion(count_matrix(truth, mask, 19), CITYSCAPES))


def test_no_reading_helps() -> None:
    mask = labels(150)
    truth = np.roll(mask, 40, axis=0)
    assert "numbered differently" in str(suspicion(count_matrix(truth, mask, 150), ADE20K))
