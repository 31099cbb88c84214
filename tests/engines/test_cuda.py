"""What is captured, and when, on a CPU with graphs of our own; masks on a GPU where there is one."""

import logging
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.engines import cuda
from hrnet_zoo.engines.choice import candidates
from hrnet_zoo.engines.cuda import MAX_GRAPHS, CudaEngine
from hrnet_zoo.engines.folding import Plan
from hrnet_zoo.engines.optimize import optimize
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.evaluation.agreement import pixel_agreement
from hrnet_zoo.zoo.create import create_model


class Double(Plan):
    """Stands for a plan."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        """Double the input."""
        self.shapes.append(tuple(x.shape))
        return x * 2


class Graph:
    """Stands for a CUDA graph: one input, which each replay overwrites."""

    def __init__(self, run: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self.input, self.running = torch.empty_like(x), 0

    def __call__(self, x: Tensor) -> Tensor:
        """Double the input, by way of the buffer."""
        self.running += 1
        assert self.running == 1, "one replay at a time"
        self.input.copy_(x)
        result = (self.input * 2).permute(0, 2, 3, 1)
        self.running -= 1
        return result


class Engine(CudaEngine):
    """The engine on a CPU, with graphs of our own."""

    def __init__(self) -> None:
        self.plan = Double()
        super().__init__(self.plan, torch.device("cpu"), torch.float32)

    def check(self, side: int, value: float = 1) -> None:
        """Run a shape."""
        x = torch.full((1, 3, side, side), value)
        assert torch.equal(self._captured(x), (x * 2).permute(0, 2, 3, 1))


@pytest.fixture(autouse=True)
def _graphs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.node.get_closest_marker("cuda"):
        monkeypatch.setattr(cuda, "_Graph", Graph)


def test_the_second_run_of_a_shape_is_captured() -> None:
    engine = Engine()
    for number in range(4):
        for side in (1, 2):
            engine.check(side, number)
    assert engine.plan.shapes == [(1, 3, 1, 1), (1, 3, 2, 2)]


def test_so_many_shapes_and_no_more() -> None:
    engine = Engine()
    for _ in range(3):
        for side in range(1, MAX_GRAPHS + 3):
            engine.check(side)
    assert len(engine._graphs) == MAX_GRAPHS


def test_what_cannot_be_captured_runs_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    def capture(run: Callable[[Tensor], Tensor], x: Tensor) -> Graph:
        tries.append(x)
        raise RuntimeError("CUDA error: operation not permitted\nmore")

    monkeypatch.setattr(cuda, "_Graph", capture)
    engine = Engine()
    with caplog.at_level(logging.WARNING):
        for side in (1, 2, 1, 2, 1, 2):
            engine.check(side)
    assert len(tries) == 1
    (record,) = caplog.records
    assert record.getMessage() == (
        "no CUDA graph for (1, 3, 1, 1); launching operations one by one: CUDA error: operation not permitted"
    )


def test_threads_share_it() -> None:
    engine = Engine()
    wrong: list[int] = []

    def work(number: int) -> None:
        x = torch.full((1, 3, 32, 32), float(number))
        expected = (x * 2).permute(0, 2, 3, 1)
        wrong.extend(number for _ in range(200) if not torch.equal(engine._captured(x), expected))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_for_nvidias_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.version.cuda", "13.0")
    cuda = torch.device("cuda", 0)
    assert list(map(str, candidates(cuda))) == ["cuda float16"]
    assert list(map(str, candidates(cuda, "pytorch", torch.float32))) == ["pytorch float32"]
    with pytest.raises(ConfigError, match="the engines that compute in torch"):
        candidates(torch.device("cpu"), "cuda")
    monkeypatch.setattr("torch.version.cuda", None)  # AMD's, which torch calls "cuda" as well
    assert list(map(str, candidates(cuda))) == ["pytorch float16"]


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
        assert pixel_agreement(exact, fast, images) >= (0.9999 if dtype == torch.float32 else 0.995)
