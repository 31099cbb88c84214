"""What a user asks a fine-tuning for."""

from typing import Any

import pytest
import torch

from hrnet_zoo.errors import ConfigError
from hrnet_zoo.training.options import (
    EPOCHS,
    number_of_steps,
    numbers_by_class,
    require_statistics,
    usable_precision,
    whole,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3", None, float("nan")])
def test_whole_numbers(value: Any) -> None:
    assert whole("patience", 1, 1) == 1
    with pytest.raises(ConfigError, match="patience is a whole number, at least 1"):
        whole("patience", value, 1)


def test_steps() -> None:
    assert [number_of_steps(a, b, 7) for a, b in ((None, None), (2, None), (None, 5))] == [7 * EPOCHS, 14, 5]
    for epochs, steps in ((1, 1), (0, None), (1.5, None), ("2", None), (None, 0), (None, 2.0)):
        with pytest.raises(ConfigError):
            number_of_steps(epochs, steps, 7)  # type: ignore[arg-type]


def test_class_weights() -> None:
    assert numbers_by_class(None, 2) == numbers_by_class("auto", 2) == ()
    assert numbers_by_class([0, 2.5], 2) == (0.0, 2.5)
    wrong: list[Any] = [[1.0], [0, 0], [1, float("nan")], [1, -1], [1, 1e7], ["1", "2"], "12", 3, {1.0, 2.0}]
    for each in wrong:
        with pytest.raises(ConfigError, match="'auto', or 2 numbers"):
            numbers_by_class(each, 2)


def test_precision() -> None:
    assert usable_precision(None, CPU) == usable_precision("fp32", CPU) == "fp32"
    with pytest.raises(ConfigError, match="needs a GPU"):
        usable_precision("fp16", CPU)


def test_bfloat16_needs_a_processor_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(ConfigError, match="no instructions"):
        usable_precision("bf16", CPU)


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
        require_statistics(crop, batch, accumulate, processes)
        sees(pixels)
    else:
        with pytest.raises(ConfigError, match="batch norm needs two values"):
            require_statistics(crop, batch, accumulate, processes)
        with pytest.raises(ValueError, match="more than 1 value"):
            sees(pixels)
