"""The plan in PyTorch's own operations, in every dtype."""

import pytest
import torch

from hrnet_zoo.engines.plan import Plan
from hrnet_zoo.engines.pytorch import PyTorchEngine
from tests.support.reference_cases import random_network


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 5e-6), (torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_logits(dtype: torch.dtype, most: float) -> None:
    network = random_network("hr18s")
    engine = PyTorchEngine(Plan(network), torch.device("cpu"), dtype)
    for size in ((65, 33), (32, 64), (1, 1)):
        x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            found, expected = engine(x.to(dtype)), network.logits_stride4(x)
        assert found.dtype == dtype
        assert found.shape == expected.shape
        assert float((found.float() - expected).abs().max() / expected.abs().max()) < most
