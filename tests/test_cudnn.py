"""Fused convolutions: what stands for them where cuDNN has none, and on a GPU, that they compute the same."""

import itertools
from typing import Any

import pytest
import torch

from hrnet_zoo.engines import cudnn
from hrnet_zoo.engines.cudnn import CudnnConvolution, usable
from hrnet_zoo.engines.plan import Convolution

CPU = torch.device("cpu")
KINDS = list(itertools.product((1, 3), (1, 2), (False, True), (False, True), (False, True)))


def example(kernel: int, stride: int, relu: bool, biased: bool) -> tuple[Convolution, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(16, 8, kernel, kernel, generator=generator) / 9
    bias = torch.randn(16, generator=generator) * biased
    step = Convolution(weight, bias, stride, relu)
    x = torch.randn(2, 8, 7, 9, generator=generator)
    return step, x, torch.randn(step(x).shape, generator=generator)


@pytest.mark.parametrize(("kernel", "stride", "relu", "biased", "added"), KINDS)
def test_as_the_step_without_cudnn(kernel: int, stride: int, relu: bool, biased: bool, added: bool) -> None:
    step, x, other = example(kernel, stride, relu, biased)
    lowered = CudnnConvolution(step, CPU, torch.float32, fused=False)
    kept = other.clone()
    torch.testing.assert_close(lowered(x, other if added else None), step(x, other if added else None))
    assert torch.equal(other, kept)


def test_without_cudnn_one_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    usable.cache_clear()
    assert not usable(CPU, torch.float32)
    assert not usable(CPU, torch.float32)
    (line,) = (each.getMessage() for each in caplog.records)
    assert line.startswith("cuDNN's fused convolutions cannot be used in torch.float32, PyTorch's are: ")
    usable.cache_clear()


def test_wrong_results_are_refused(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def wrong(self: CudnnConvolution, x: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
        return torch.zeros(1, 8, 6, 5)

    monkeypatch.setattr(CudnnConvolution, "_one_call", wrong)
    usable.cache_clear()
    assert not usable(CPU, torch.float32)
    assert "its results are off by" in caplog.text
    usable.cache_clear()


def test_a_shape_for_which_cudnn_has_no_engine(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def none(self: CudnnConvolution, *args: Any) -> torch.Tensor:
        calls.append(args)
        raise RuntimeError("GET was unable to find an engine to execute this computation")

    monkeypatch.setattr(cudnn.CudnnConvolution, "_one_call", none)
    step, x, _ = example(3, 1, relu=True, biased=True)
    lowered = CudnnConvolution(step, CPU, torch.float32, fused=True)
    for _ in range(2):
        torch.testing.assert_close(lowered(x), step(x))
    assert len(calls) == len(caplog.records) == 1


def test_other_errors_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: CudnnConvolution, *args: Any) -> torch.Tensor:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(cudnn.CudnnConvolution, "_one_call", broken)
    step, x, _ = example(3, 1, relu=True, biased=True)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        CudnnConvolution(step, CPU, torch.float32, fused=True)(x)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_on_a_gpu_as_on_a_cpu(dtype: torch.dtype) -> None:
    from hrnet_zoo.prediction import full_precision

    device = torch.device("cuda", 0)
    with full_precision():
        assert usable(device, dtype)
        for kernel, stride, relu, biased, added in KINDS:
            step, x, other = example(kernel, stride, relu, biased)
            step.weight, step.bias = step.weight.to(dtype).float(), step.bias.to(dtype).float()
            x, other = x.to(dtype), other.to(dtype)
            expected = step(x.float(), other.float() if added else None)
            lowered = CudnnConvolution(step, device, dtype, fused=True)
            there = other.to(device).contiguous(memory_format=torch.channels_last) if added else None
            found = lowered(x.to(device).contiguous(memory_format=torch.channels_last), there)
            assert float((found.float().cpu() - expected).abs().max()) < 64 * torch.finfo(dtype).eps
