"""What is captured, and when, on a CPU with captures of our own; scores on a GPU where there is one."""

import logging
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.engines import cuda
from hrnet_zoo.engines.cuda import MOST, Recurring
from hrnet_zoo.engines.optimize import agreement, optimize
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.zoo.create import create_model


class Copy:
    """A capture as CUDA's: one input, which each replay overwrites."""

    def __init__(self, run: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self.input, self.inside = torch.empty_like(x), 0

    def __call__(self, x: Tensor) -> Tensor:
        """Double the input, by way of the buffer."""
        self.inside += 1
        assert self.inside == 1, "one replay at a time"
        self.input.copy_(x)
        result = self.input * 2
        self.inside -= 1
        return result


def test_the_second_run_of_a_shape_is_captured() -> None:
    runs: list[tuple[int, ...]] = []
    recurring = Recurring(lambda x: runs.append(tuple(x.shape)) or x * 2, Copy)  # type: ignore[func-returns-value]
    for number in range(4):
        for side in (1, 2):
            x = torch.full((1, 3, side, side), float(number))
            assert torch.equal(recurring(x), x * 2)
    assert runs == [(1, 3, 1, 1), (1, 3, 2, 2)]


def test_so_many_shapes_and_no_more() -> None:
    recurring = Recurring(lambda x: x * 2, Copy)
    for _ in range(3):
        for side in range(1, MOST + 3):
            assert torch.equal(recurring(torch.ones(side)), torch.full((side,), 2.0))
    assert len(recurring._replays) == MOST


def test_what_cannot_be_captured_runs_without(caplog: pytest.LogCaptureFixture) -> None:
    tries = []

    def capture(run: Callable[[Tensor], Tensor], x: Tensor) -> Copy:
        tries.append(x)
        raise RuntimeError("CUDA error: operation not permitted\nmore")

    recurring = Recurring(lambda x: x * 2, capture)
    with caplog.at_level(logging.WARNING):
        for side in (1, 2, 1, 2, 1, 2):
            assert torch.equal(recurring(torch.ones(side)), torch.full((side,), 2.0))
    assert len(tries) == 1
    (record,) = caplog.records
    assert record.getMessage() == (
        "no CUDA graph for (1,), operations are started one by one: CUDA error: operation not permitted"
    )


def test_threads_share_it() -> None:
    recurring = Recurring(lambda x: x * 2, Copy)
    wrong: list[int] = []

    def work(number: int) -> None:
        x = torch.full((64, 64), float(number))
        wrong.extend(number for _ in range(200) if not torch.equal(recurring(x), x * 2))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_for_nvidias_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.version.cuda", "13.0")
    assert cuda.usable(torch.device("cuda", 0))
    assert not cuda.usable(torch.device("cpu"))
    monkeypatch.setattr("torch.version.cuda", None)  # AMD's, which torch calls "cuda" as well
    assert not cuda.usable(torch.device("cuda", 0))


def test_a_network_on_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optimize with engine='cuda'\n[\s\S]*the network is on cpu"):
        optimize(create_model("demo", device="cpu"), engine="cuda")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_pixels_agree(dtype: torch.dtype) -> None:
    """Of the same images again and again: started one by one, captured, replayed."""
    fast = optimize(create_model("demo", device="cuda", dtype=torch.float32), dtype=dtype)
    assert fast.engine == "cuda"
    images = [scene(seed, *size).image for seed, size in enumerate([(128, 256), (97, 131), (64, 70)])]
    exact = create_model("demo", device="cpu")
    for _ in range(3):
        assert agreement(exact, fast, images) >= (0.9999 if dtype == torch.float32 else 0.995)
