"""File values to class indices and back."""

from pathlib import Path

import numpy as np
import pytest

from hrnet_zoo.datasets import CITYSCAPES, DATASETS
from hrnet_zoo.datasets.label_rules import (
    ADE20K_VALUES,
    CITYSCAPES_IDS,
    CITYSCAPES_TRAIN_IDS,
    IGNORE_INDEX,
    OFFICIAL_LABELS,
    LabelRule,
    from_one,
    identity,
)

RULES = [
    (CITYSCAPES_IDS, 19),
    (CITYSCAPES_TRAIN_IDS, 19),
    (ADE20K_VALUES, 150),
    (from_one(7), 7),
    (identity(1), 1),
    (identity(5), 5),
    (identity(255), 255),
]
every_rule = pytest.mark.parametrize(("rule", "count"), RULES, ids=[rule.title for rule, _ in RULES])


@every_rule
def test_indices_survive_the_way_to_a_file_and_back(rule: LabelRule, count: int) -> None:
    indices = np.array([*range(count), IGNORE_INDEX], np.uint8)
    values = rule.values(indices)
    assert values.dtype == np.uint8
    assert not rule.unknown(values.tolist())
    np.testing.assert_array_equal(rule.indices(values), indices)
    assert rule.indices(values).dtype == np.uint8


@every_rule
def test_known_values_survive_the_way_to_indices_and_back(rule: LabelRule, count: int) -> None:
    every = np.arange(256, dtype=np.uint8)
    back = rule.values(rule.indices(every))
    for value in range(256):
        assert back[value] == (value if value in rule.of_class else rule.ignored[0])
    assert len(rule.of_class) == len(set(rule.of_class)) == count
    assert not set(rule.of_class) & set(rule.ignored)


@every_rule
def test_each_value_is_a_class_or_ignored_or_unknown(rule: LabelRule, count: int) -> None:
    unknown = rule.unknown(range(256))
    assert sorted((*rule.of_class, *rule.ignored, *unknown)) == list(range(256))
    assert IGNORE_INDEX not in unknown
    np.testing.assert_array_equal(rule.indices(np.array(unknown, np.uint8)), np.full(len(unknown), IGNORE_INDEX))


def test_as_many_values_as_classes() -> None:
    for key, rule in OFFICIAL_LABELS.items():
        assert len(rule.of_class) == len(DATASETS[key].classes), key


def test_images_keep_their_shape() -> None:
    values = np.array([[0, 1, 2], [150, 151, 255]], np.uint8)
    np.testing.assert_array_equal(ADE20K_VALUES.indices(values), [[255, 0, 1], [149, 255, 255]])
    assert ADE20K_VALUES.unknown(values.ravel().tolist()) == [151]
    np.testing.assert_array_equal(OFFICIAL_LABELS["potsdam"].indices(values), [[255, 0, 1], [255, 255, 255]])


def test_cityscapes_ids() -> None:
    names = dict(zip(CITYSCAPES.classes, CITYSCAPES_IDS.of_class, strict=True))
    assert (names["road"], names["sky"], names["car"], names["train"], names["bicycle"]) == (7, 23, 26, 31, 33)
    assert CITYSCAPES_IDS.unknown(range(256)) == list(range(34, 255))
    assert CITYSCAPES_IDS.values(np.array([IGNORE_INDEX], np.uint8)) == [0]


def test_real_labels_both_ways(shared: Path) -> None:
    from PIL import Image

    base = shared / "pictures" / "frankfurt_000000_000294_gtFine_label"
    with Image.open(f"{base}Ids.png") as ids, Image.open(f"{base}TrainIds.png") as train_ids:
        same = CITYSCAPES_IDS.indices(np.asarray(ids)) == np.asarray(train_ids)
    assert same.mean() > 0.997  # the two files were made smaller one by one and differ at a few edges


def test_values_come_as_python_or_numpy_numbers() -> None:
    assert identity(3).unknown(np.unique(np.array([0, 3, 4, 4, 255], np.uint8))) == [3, 4]
