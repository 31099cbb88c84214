"""Choices of classes: groups, the rest, colors, and every wrong choice in words."""

import dataclasses
from typing import Any

import pytest

from hrnet_zoo.datasets.dataset import CITYSCAPES
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.inference.class_groups import group_classes
from hrnet_zoo.models.fcn import FCNHRNet

NAMES = CITYSCAPES.classes


def test_groups_keep_their_order_and_the_rest_comes_last() -> None:
    groups = group_classes({"green": ["terrain", "vegetation"], "road": ["road"], "air": "sky"}, CITYSCAPES)
    assert groups.classes == ("green", "road", "air", "other")
    assert groups.members[:3] == ((8, 9), (0,), (10,))
    assert sorted(index for group in groups.members for index in group) == list(range(19))
    assert groups.palette[0] == CITYSCAPES.palette[9]  # of the class named first
    assert groups.palette[3] == (0, 0, 0)


def test_a_list_keeps_names() -> None:
    for choice in (["car", "road"], ("car", "road"), {"car": ["car"], "road": ["road"]}):
        groups = group_classes(choice, CITYSCAPES)
        assert groups.classes == ("car", "road", "other")
        assert groups.members[:2] == ((13,), (0,))
    assert group_classes("car", CITYSCAPES).classes == ("car", "other")


def test_all_classes_leave_no_other() -> None:
    assert group_classes(NAMES, CITYSCAPES) == (NAMES, CITYSCAPES.palette, tuple((index,) for index in range(19)))
    half = group_classes({"other": NAMES[:9], "things": NAMES[9:]}, CITYSCAPES)
    assert half.classes == ("other", "things")


def test_other_is_gray_beside_a_black_class() -> None:
    dataset = CITYSCAPES.with_classes(["background", "crack", "wall"])
    assert group_classes(["background"], dataset).palette == ((0, 0, 0), (128, 128, 128))
    assert group_classes(["crack"], dataset).palette[1] == (0, 0, 0)


def test_classes_of_one_name_go_together() -> None:
    labels = (("a", (1, 1, 1)), ("b", (2, 2, 2)), ("a", (3, 3, 3)))
    groups = group_classes(["a"], dataclasses.replace(CITYSCAPES, labels=labels))
    assert groups.members == ((0, 2), (1,))


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (["vegetatoin"], r"no class 'vegetatoin'[\s\S]*did you mean 'vegetation'\?"),
        ({"green": ["vegetation", "Terrain"]}, r"no class 'Terrain'[\s\S]*'terrain'"),
        (["zzz"], r"no class 'zzz'\n.*\n +next: +model\.classes lists"),
        ([3], "no class 3"),
        ({"a": ["car", 3]}, "no class 3"),
        (["car", "car"], "'car' is named more than once"),
        ({"a": ["car"], "b": ["bus", "car"]}, "'car' is named more than once"),
        ({"a": ["car", "car"]}, "'car' is named more than once"),
        ([], "no class"),
        ({}, "no class"),
        ("", "no class ''"),
        ({"green": []}, "group 'green' has no class"),
        ({"other": ["car"]}, "the name of the 18 classes that are not chosen"),
        ({" ": ["car"]}, "' ' is not the name of a group"),
        ({1: ["car"]}, "1 is not the name of a group"),
        (5, "5 is neither"),
        ({"a": 5}, "5 is neither"),
    ],
)
def test_wrong_choices(choice: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        group_classes(choice, CITYSCAPES)
    assert caught.value.done == "nothing was computed"


def test_wrong_choices_are_refused_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = FCNHRNet("hr18s", CITYSCAPES)
    monkeypatch.setattr("hrnet_zoo.inference.predict.read_image", pytest.fail)
    monkeypatch.setattr(network, "_optimized", pytest.fail)
    for image in ("absent.png", ["absent.png"]):
        for fast in (False, True):
            with pytest.raises(ConfigError, match="did you mean 'car'"):
                network.predict(image, classes=["cars"], fast=fast)
