"""The engine for GPUs: plan and fallbacks on a CPU, kernels in Triton's interpreter, and all of it on a GPU."""

import os
import threading
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hrnet_zoo.acceleration import optimize
from hrnet_zoo.creation import create_model
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.engines import cuda
from hrnet_zoo.engines.cuda import CudaEngine, FusedHead, FusedSum, lowered, widened
from hrnet_zoo.engines.cudnn import CudnnConvolution
from hrnet_zoo.engines.gpu_plan import Sum
from hrnet_zoo.engines.plan import Convolution, Exchange, Head
from hrnet_zoo.errors import ConfigError
from tests.kernel_device import kernel_device
from tests.plans import noise, plan_of, relative

CPU = torch.device("cpu")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
interpreted = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.mark.skipif(interpreted, reason="without kernels")
def test_without_triton_and_cudnn_it_is_the_plan() -> None:
    x = noise(1, 3, 37, 51)
    with torch.inference_mode():
        expected = plan_of()(x)
        plan, classes = lowered(plan_of(), CPU, torch.float32)
        scores = plan(widened(x))
    assert classes == 19
    assert relative(scores[:, :19], expected) < 5e-6
    kinds = {type(step) for step in plan.modules()}
    assert {CudnnConvolution, Sum, Head} <= kinds
    assert not {Convolution, Exchange} & kinds


def test_kernels_in_the_plan() -> None:
    """In the interpreter on a CPU, on a GPU where there is one; float32 goes without the head's, for its exactness."""
    device = kernel_device()
    x = noise(1, 3, 37, 51)
    with torch.inference_mode():
        expected = plan_of()(x)
        for dtype, error in ((torch.float16, 0.1), (torch.float32, 1e-5)):
            plan, _ = lowered(plan_of(), device, dtype)
            kinds = {type(step) for step in plan.modules()}
            assert FusedSum in kinds
            assert Sum not in kinds
            assert (FusedHead in kinds) == (dtype == torch.float16)
            if device.type == "cuda" or dtype == torch.float32:
                found = plan(widened(x.to(device, dtype)))
                assert relative(found[:, :19].cpu(), expected) < error


def test_pictures_are_widened_with_zeros() -> None:
    x = noise(2, 3, 5, 7)
    wide = widened(x)
    assert wide.shape == (2, 8, 5, 7)
    assert wide.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(wide[:, :3], x)
    assert not wide[:, 3:].any()


def test_for_nvidias_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.version.cuda", "13.0")
    assert cuda.usable(torch.device("cuda", 0))
    assert not cuda.usable(CPU)
    monkeypatch.setattr("torch.version.cuda", None)  # AMD's, which torch calls "cuda" as well
    assert not cuda.usable(torch.device("cuda", 0))


def test_a_network_on_a_cpu_is_refused() -> None:
    model = create_model("demo", device="cpu")
    with pytest.raises(ConfigError, match=r"optimize with engine='cuda'\n[\s\S]*the network is on cpu"):
        optimize(model, engine="cuda")


class Engine(CudaEngine):
    """The engine's fallback for want of memory, on a CPU."""

    def __init__(self, graphs: Any, run: Any) -> None:
        self.device, self.dtype, self._classes = CPU, torch.float16, 19
        self._graphs, self._run = graphs, run  # type: ignore[method-assign]


class Graphs:
    """Graphs that take too much memory."""

    cleared = False

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Take too much."""
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 GiB.\nmore")

    def clear(self) -> None:
        """Note it."""
        self.cleared = True


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    monkeypatch.setattr("torch.cuda.device", lambda device: nullcontext())
    monkeypatch.setattr("torch.cuda.is_current_stream_capturing", lambda: False)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: None)


@pytest.mark.usefixtures("no_cuda")
def test_want_of_memory_gives_the_graphs_up_first(caplog: pytest.LogCaptureFixture) -> None:
    graphs = Graphs()
    engine = Engine(graphs, lambda x: torch.ones(1, 24, 8, 16))
    assert engine(noise(1, 3, 32, 64)).shape == (1, 8, 16, 19)
    assert graphs.cleared
    assert [each.getMessage() for each in caplog.records] == [
        "too little memory on cpu, CUDA graphs are given up: CUDA out of memory. Tried to allocate 8 GiB."
    ]


@pytest.mark.usefixtures("no_cuda")
def test_want_of_memory_even_so() -> None:
    engine = Engine(Graphs(), Graphs())
    with pytest.raises(ConfigError, match=r"score 2 pictures of 32 x 64 pixels\n[\s\S]*too little memory"):
        engine(noise(2, 3, 32, 64))


@pytest.mark.usefixtures("no_cuda")
def test_within_a_capture_of_the_callers_there_is_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_current_stream_capturing", lambda: True)
    graphs = Graphs()
    assert Engine(graphs, lambda x: torch.ones(1, 24, 8, 16))(noise(1, 3, 32, 64)).shape == (1, 8, 16, 19)
    assert not graphs.cleared


@pytest.mark.cuda
@gpu
@pytest.mark.parametrize("name", ["fcn_hr18s_cityscapes_40k", "fcn_hr18_ade20k_160k", "fcn_hr48_pascal_context_80k"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_on_a_gpu_graphs_give_the_plans_scores(name: str, dtype: torch.dtype) -> None:
    from hrnet_zoo.prediction import full_precision

    device = torch.device("cuda", 0)
    engine = CudaEngine(plan_of(name), device, dtype)
    plan = plan_of(name).to(device).double()
    plain = plan_of(name).to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for shape in ((1, 3, 64, 128), (3, 3, 65, 71), (1, 3, 1, 1)):
        for seed in range(4):  # step by step, captured, replayed twice
            x = noise(*shape, seed=seed).to(device)
            with torch.inference_mode(), full_precision():
                expected = plan(x.double()).permute(0, 2, 3, 1)
                rounded = plain(x.to(dtype)).permute(0, 2, 3, 1)
                found = engine(x.to(dtype))
            assert found.shape == expected.shape
            # Random weights amplify rounding; the plain plan in the same dtype tells how much.
            assert relative(found, expected) < max(2 * relative(rounded, expected), 1e-5)
    assert len(engine._graphs.shapes) == 3


@pytest.mark.cuda
@gpu
def test_on_a_gpu_results_stay_and_streams_and_threads_may_differ() -> None:
    device = torch.device("cuda", 0)
    engine = CudaEngine(plan_of(), device, torch.float16)
    pictures = [noise(1, 3, 64, 128, seed=seed).to(device, torch.float16) for seed in range(6)]
    first = [engine(x) for x in pictures]
    kept = [each.clone() for each in first]
    for x in pictures:
        engine(x)
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))
    replayed = [engine(x) for x in pictures]
    wrong: list[int] = []

    def work(number: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream(device)):  # type: ignore[no-untyped-call]
            for _ in range(20):
                if not torch.equal(engine(pictures[number]), replayed[number]):
                    wrong.append(number)

    torch.cuda.synchronize()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    inference, outside = engine(pictures[0]), None
    with torch.inference_mode():
        outside = engine(pictures[0])
    assert torch.equal(inference, outside)


@pytest.mark.cuda
@gpu
@pytest.mark.parametrize("options", [{}, {"mode": "slide"}, {"ms_flip": True}])
def test_on_a_gpu_masks_are_the_networks(options: dict[str, Any]) -> None:
    model = create_model("demo", device="cuda")
    fast = optimize(model)
    assert fast.engine == "cuda"
    picture = scene(3, 200, 320).image
    masks = [each.predict(picture, **options).mask for each in (model, fast, fast, fast)]
    for mask in masks[1:]:
        assert np.mean(mask == masks[0]) > 0.995


@pytest.mark.cuda
@gpu
def test_on_a_gpu_a_capture_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 0)
    engine = CudaEngine(plan_of(), device, torch.float16)
    x = noise(1, 3, 64, 64).to(device, torch.float16)
    expected = engine(x)
    real = FusedSum.forward

    def fails(self: FusedSum, x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        if torch.cuda.is_current_stream_capturing():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, x, *others)

    monkeypatch.setattr(FusedSum, "forward", fails)
    before = torch.cuda.current_stream()
    torch.testing.assert_close(engine(x), expected)
    assert torch.cuda.current_stream() == before
    assert not engine._graphs.shapes
    monkeypatch.undo()
    y = F.pad(x, (0, 32))
    for _ in range(3):
        engine(y)
    assert len(engine._graphs.shapes) == 1
