"""oneDNN's fused convolutions compute what the plan's steps do; where they do not, or are missing, that is found."""

import copy
import logging
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch

from hrnet_zoo.engines import onednn
from hrnet_zoo.engines.folding import Convolution, Plan
from hrnet_zoo.engines.onednn import OneDNNConvolution, OneDNNEngine, has_native_bfloat16, usable
from tests.support.reference_cases import random_network

DTYPES = [(torch.float32, 5e-6), (torch.bfloat16, 0.1)]
CASES = list(product((1, 3), (1, 2), (False, True), (False, True)))


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    usable.cache_clear()
    yield
    usable.cache_clear()


def require(dtype: torch.dtype) -> None:
    if not usable(dtype):
        pytest.skip(f"this processor's oneDNN has no {dtype}")


@pytest.mark.parametrize(("kernel", "stride", "relu", "sums"), CASES)
@pytest.mark.parametrize(("dtype", "most"), DTYPES)
def test_convolution(dtype: torch.dtype, most: float, kernel: int, stride: int, relu: bool, sums: bool) -> None:
    """Alone, and with another map, in its memory."""
    require(dtype)
    random = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(5, 7, kernel, kernel, generator=random) / 7, torch.randn(5, generator=random)
    step = Convolution(weight, bias, stride, relu)
    x = torch.randn(2, 7, 9, 12, generator=random).to(dtype, memory_format=torch.channels_last)
    fused = OneDNNConvolution(weight, bias, stride, relu).to(dtype)
    with torch.inference_mode():
        expected = step(x.float())
        other = torch.randn(expected.shape, generator=random).to(dtype, memory_format=torch.channels_last)
        maps = (other,) if sums else ()
        expected = step(x.float(), *(each.float() for each in maps))
        found = fused(x, *maps)
    assert (found.data_ptr() == other.data_ptr()) == sums
    assert float((found.float() - expected).abs().max() / expected.abs().max()) < most


@pytest.mark.parametrize("arch", ["hr18s", "hr48"])
def test_stripes(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In stripes of different heights the logits are the plan's; sides that are multiples of 32 or not."""
    plan = Plan(random_network(arch))
    engine = OneDNNEngine(copy.deepcopy(plan), torch.device("cpu"), torch.float32)
    for batch, height, width in ((1, 160, 64), (2, 96, 33), (1, 131, 40)):
        x = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = plan(x).permute(0, 2, 3, 1)
            for stripe_bytes in (1, 40_000, 1 << 40):
                for part in ("STEM_BYTES", "HEAD_BYTES"):
                    monkeypatch.setattr(onednn, part, stripe_bytes)
                found = engine(x)
                assert found.is_contiguous()
                assert float((found - expected).abs().max() / expected.abs().max()) < 5e-6, (
                    height,
                    width,
                    stripe_bytes,
                )


@pytest.mark.parametrize(("arch", "method"), [("hr18s", "FCN"), ("hr48", "FCN"), ("hr18s", "OCRNet")])
@pytest.mark.parametrize(("dtype", "most"), DTYPES)
def test_logits(dtype: torch.dtype, most: float, arch: str, method: str) -> None:
    require(dtype)
    network = random_network(arch, method)
    engine = OneDNNEngine(Plan(network), torch.device("cpu"), dtype)
    assert (engine.dtype, engine.device.type) == (dtype, "cpu")
    for size in ((32, 64), (65, 33), (34, 18), (1, 1)):
        x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            found, expected = engine(x.to(dtype)), network.logits_stride4(x)
        assert found.shape == expected.shape
        assert float((found.float() - expected).abs().max() / expected.abs().max()) < most


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def gone(*_: Any) -> Any:
        raise AttributeError("no such operation")

    monkeypatch.setattr(onednn, "OneDNNConvolution", gone)
    with caplog.at_level(logging.WARNING):
        assert not usable(torch.float32)
        assert not usable(torch.float32)
    (record,) = caplog.records
    assert "unavailable in torch.float32; using PyTorch" in record.message
    assert "no such operation" in record.message


def test_what_computes_something_else_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = OneDNNConvolution.forward
    monkeypatch.setattr(OneDNNConvolution, "forward", lambda *maps: real(*maps) + 0.5)
    with caplog.at_level(logging.WARNING):
        assert not usable(torch.float32)
    assert "off by 0.5" in caplog.text


@pytest.mark.parametrize(
    ("capabilities", "native"), [({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"avx512_f": True}, False)]
)
def test_native_bfloat16(capabilities: dict[str, bool], native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_native_bfloat16() == native


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_maps_that_become_one_column(dtype: torch.dtype) -> None:
    """With AMX, oneDNN in torch 2.13 reads foreign memory there in bfloat16."""
    require(dtype)
    random = torch.Generator().manual_seed(0)
    step = Convolution(torch.randn(384, 192, 3, 3, generator=random) / 40, torch.zeros(384), stride=2)
    fused = OneDNNConvolution(step.weight, step.bias, 2).to(dtype)
    for height, width in ((3, 2), (17, 1), (64, 2), (64, 3)):
        x = torch.randn(1, 192, height, width, generator=random).to(dtype, memory_format=torch.channels_last)
        with torch.inference_mode():
            expected = step(x.float())
            other = torch.zeros_like(expected, dtype=dtype, memory_format=torch.channels_last)
            for found in (fused(x), fused(x, other), Convolution(fused.weight, fused.bias, 2)(x)):
                assert found.dtype == dtype
                assert float((found.float() - expected).abs().max() / expected.abs().max()) < 0.02
