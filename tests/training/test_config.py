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
    TrainingConfig,
    images_digest,
    require_batch_statistics,
    require_whole,
    resolve_class_weights,
    resolve_precision,
    resolve_steps,
)

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


def test_learning_rate_falls_to_a_hundredth_as_in_the_published_training() -> None:
    assert CONFIG.lr_at(0) == pytest.approx(0.01)
    # 0.01 to 1e-4, power 0.9: (0.01 - 1e-4) * 0.5 ** 0.9 + 1e-4
    assert CONFIG.lr_at(50) == pytest.approx(0.00540531, rel=1e-5)
    assert CONFIG.lr_at(100) == pytest.approx(1e-4)


def test_warmup_rises_in_equal_steps() -> None:
    warm = dataclasses.replace(CONFIG, warmup=4)
    rates = [warm.lr_at(step) / CONFIG.lr_at(step) for step in range(6)]
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


def test_bfloat16_needs_a_processor_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(ConfigError, match="no bfloat16 instructions"):
        resolve_precision("bf16", CPU)


@pytest.mark.parametrize(
    ("crop", "batch", "accumulate", "processes", "usable"),
    [
        ((32, 32), 1, 1, 1, False),
        ((32, 33), 1, 1, 1, True),
        ((32, 32), 2, 1, 1, True),
        ((32, 32), 2, 2, 1, False),
        ((32, 32), 3, 2, 1, False),  # parts of 2 and 1
        ((32, 32), 4, 3, 1, True),  # parts of 2 and 2: `chunk` makes fewer
        ((32, 32), 2, 1, 2, True),  # batch norm sees both processes
    ],
)
def test_batch_norm_needs_two_values(
    crop: tuple[int, int], batch: int, accumulate: int, processes: int, usable: bool
) -> None:
    smallest = min(map(len, torch.zeros(batch // processes).chunk(accumulate)))
    sees = torch.nn.BatchNorm2d(1).train()
    pixels = torch.zeros(processes * smallest, 1, *(-(-side // 32) for side in crop))
    if usable:
        require_batch_statistics(crop, batch, accumulate, processes)
        sees(pixels)
    else:
        with pytest.raises(ConfigError, match="batch norm needs two values"):
            require_batch_statistics(crop, batch, accumulate, processes)
        with pytest.raises(ValueError, match="more than 1 value"):
            sees(pixels)


def test_processes_share_a_batch_evenly() -> None:
    with pytest.raises(ConfigError, match="equally many"):
        require_batch_statistics((64, 64), 3, 1, 2)
