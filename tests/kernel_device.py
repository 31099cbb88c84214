"""Where kernels are tested: a GPU if there is one; else on the CPU, in Triton's interpreter, if that is switched on."""

import importlib.util
import os

import pytest
import torch


def kernel_device() -> torch.device:
    """Return the device, or skip: `tests/test_kernels.py` runs these tests in the interpreter where there is no GPU."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    if os.environ.get("TRITON_INTERPRET") == "1":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no GPU; in Triton's interpreter tests/test_kernels.py runs this")
    return torch.device("cuda", 0)


def maps(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> list[torch.Tensor]:
    """Return random maps (N, C, H, W), channels_last, on the device."""
    generator = torch.Generator().manual_seed(seed)
    random = (torch.randn(shape, generator=generator) for shape in shapes)
    return [each.to(kernel_device(), dtype).contiguous(memory_format=torch.channels_last) for each in random]
