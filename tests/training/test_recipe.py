"""What decides a training's result."""

import dataclasses
import json
import math
from typing import Any

import pytest

from hrnet_zoo.errors import ConfigError
from hrnet_zoo.training.recipe import Recipe, image_set

RECIPE = Recipe(
    arch="hr18s",
    classes=("a", "b"),
    images=image_set("123"),
    steps=100,
    batch=2,
    accumulate=1,
    crop=(64, 64),
    resize_to=(192, 96),
    lr=0.01,
    backbone_lr=1.0,
    head_lr=10.0,
    weight_decay=5e-4,
    warmup=0,
    freeze="",
    loss="cross_entropy",
    class_weights=(),
    precision="fp32",
    ema=0.0,
    gradient_checkpointing=False,
    seed=0,
)


def test_images_have_a_short_name_that_tells_them_apart() -> None:
    sets = [image_set(names) for names in (["a", "b"], ["b", "a"], ["ab"], ["a"], ["a", "b", "\udcff"])]
    assert len({*sets}) == len(sets)
    assert sets[0].startswith("2 images")
    assert len(image_set(map(str, range(200_000)))) < 120  # the header of a state is limited


def test_learning_rate_falls_to_a_hundredth_as_in_the_published_training() -> None:
    assert RECIPE.lr_at(0) == pytest.approx(0.01)
    # 0.01 to 1e-4, power 0.9: (0.01 - 1e-4) * 0.5 ** 0.9 + 1e-4
    assert RECIPE.lr_at(50) == pytest.approx(0.00540531, rel=1e-5)
    assert RECIPE.lr_at(100) == pytest.approx(1e-4)


def test_warmup_rises_in_equal_steps() -> None:
    warm = dataclasses.replace(RECIPE, warmup=4)
    rates = [warm.lr_at(step) / RECIPE.lr_at(step) for step in range(6)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("steps", 2.5),
        ("steps", True),
        ("lr", "0.1"),
        ("crop", (64,)),
        ("crop", 64),
        ("batch", 0),
        ("accumulate", 3),
        ("crop", (16, 64)),
        ("resize_to", (64, 8)),
        ("lr", 0.0),
        ("lr", math.nan),
        ("backbone_lr", -1.0),
        ("head_lr", math.inf),
        ("weight_decay", 1.0),
        ("warmup", 101),
        ("freeze", "head"),
        ("precision", "int8"),
        ("ema", 1.0),
        ("seed", -1),
    ],
)
def test_what_cannot_be_used_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"with {name}="):
        dataclasses.replace(RECIPE, **{name: value})


def test_json_and_back_is_the_same() -> None:
    assert json.loads(json.dumps(RECIPE.to_dict())) == RECIPE.to_dict()
