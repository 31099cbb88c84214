"""Arguments of a fine-tuning, resolved and checked."""

import dataclasses
import json
import math
from typing import Any

import pytest
import torch

from hrnet_zoo.errors import ConfigError
from hrnet_zoo.training.config import (
    EPOCHS,
    MIN_SIDE,
    TrainingConfig,
    images_digest,
    require_whole,
    resolve_class_weights,
    resolve_precision,
    resolve_steps,
)
from hrnet_zoo.zoo.create import create_model

CPU = torch.device("cpu")

CONFIG = TrainingConfig(
    arch="hr18s",
    classes=("a", "b"),
    images=images_digest("123"),
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
    sets = [images_digest(names) for names in (["a", "b"], ["b", "a"], ["ab"], ["a"], ["a", "b", "\udcff"])]
    assert len({*sets}) == len(sets)
    assert sets[0].startswith("2 pictures")
    assert len(images_digest(map(str, range(200_000)))) < 120  # the header of a state is limited


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
        ("crop", (63, 64)),
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
        dataclasses.replace(CONFIG, **{name: value})


def test_json_and_back_is_the_same() -> None:
    assert json.loads(json.dumps(CONFIG.to_dict())) == CONFIG.to_dict()


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3", None, float("nan")])
def test_whole_numbers(value: Any) -> None:
    assert require_whole("patience", 1, 1) == 1
    with pytest.raises(ConfigError, match="patience is a whole number, at least 1"):
        require_whole("patience", value, 1)


def test_steps() -> None:
    assert [resolve_steps(a, b, 7) for a, b in ((None, None), (2, None), (None, 5))] == [7 * EPOCHS, 14, 5]
    for epochs, steps in ((1, 1), (0, None), (1.5, None), ("2", None), (None, 0), (None, 2.0)):
        with pytest.raises(ConfigError):
            resolve_steps(epochs, steps, 7)  # type: ignore[arg-type]


def test_class_weights() -> None:
    assert resolve_class_weights(None, 2) == resolve_class_weights("auto", 2) == ()
    assert resolve_class_weights([0, 2.5], 2) == (0.0, 2.5)
    wrong: list[Any] = [[1.0], [0, 0], [1, float("nan")], [1, -1], [1, 1e7], ["1", "2"], "12", 3, {1.0, 2.0}]
    for each in wrong:
        with pytest.raises(ConfigError, match="'auto', or 2 numbers"):
            resolve_class_weights(each, 2)


def test_precision() -> None:
    assert resolve_precision(None, CPU) == resolve_precision("fp32", CPU) == "fp32"
    with pytest.raises(ConfigError, match="needs a GPU"):
        resolve_precision("fp16", CPU)


def test_batch_norm_has_two_values_in_the_smallest_crop() -> None:
    network = create_model("demo").train()
    network(torch.zeros(1, 3, MIN_SIDE, MIN_SIDE))
    with pytest.raises(ValueError, match="more than 1 value"):
        network(torch.zeros(1, 3, 32, 32))
