"""The kernel for sums: torch's two resizes in float32, whatever lies where."""

import pytest
import torch

from hrnet_zoo.engines.gpu_plan import Sum
from tests.kernel_device import kernel_device, maps

SIZES = [(8, 16), (13, 17), (1, 5), (7, 1), (1, 1)]


def coarser(size: tuple[int, int], factor: int) -> tuple[int, int]:
    return -(-size[0] // factor), -(-size[1] // factor)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [*((size, torch.float16) for size in SIZES), (SIZES[1], torch.float32), (SIZES[1], torch.bfloat16)],
)
def test_kernel_sums_as_torch(size: tuple[int, int], dtype: torch.dtype) -> None:
    kernel_device()  # skips where Triton cannot run
    from hrnet_zoo.kernels import resizing

    device = kernel_device()
    for channels, factors in ((24, (2, 4, 8)), (40, (1, 2)), (8, (1, 1, 1)), (8, ())):
        shapes = [(2, channels, *(size if factor == 1 else coarser(size, factor))) for factor in (1, *factors)]
        x, *others = maps(*shapes, dtype=dtype)
        bias = torch.linspace(-1, 1, channels, device=device)
        found = resizing.total(x, tuple(others), factors, bias)
        expected = Sum(factors, bias)(x.float(), *(each.float() for each in others))
        assert found.dtype == dtype
        assert found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(
            found.float(), expected, rtol=torch.finfo(dtype).eps, atol=4e-6 if dtype == torch.float32 else 1e-6
        )


def test_kernel_reads_parts_of_a_map_where_they_lie() -> None:
    kernel_device()  # skips where Triton cannot run
    from hrnet_zoo.kernels import resizing

    x, merged = maps((2, 16, 6, 10), (2, 40, 3, 5), dtype=torch.float16)
    _, part, _ = torch.split(merged, [8, 16, 16], dim=1)
    assert resizing.pixelwise(part) == (part, 40)
    bias = torch.zeros(16, device=x.device)
    found = resizing.total(x, (part,), (2,), bias)
    torch.testing.assert_close(found, resizing.total(x, (part.contiguous(),), (2,), bias))


def test_kernel_sums_are_positive_or_nan() -> None:
    kernel_device()  # skips where Triton cannot run
    from hrnet_zoo.kernels import resizing

    x, other = maps((1, 8, 2, 2), (1, 8, 2, 2))
    x[0, 0, 0, 0] = float("nan")
    found = resizing.total(x, (other,), (1,), torch.zeros(8, device=x.device))
    assert found[0, 0, 0, 0].isnan()
    assert found.isnan().sum() == 1
    assert bool((found.nan_to_num() >= 0).all())


def test_kernel_maps_in_any_order_of_memory() -> None:
    kernel_device()  # skips where Triton cannot run
    from hrnet_zoo.kernels import resizing

    (x,) = maps((2, 8, 3, 5))
    for each in (
        x,
        x.contiguous(),
        x[:, :, ::2],
        x[:, :, :, 1:3],
        x[1:],
        x.expand(2, 8, 3, 5),
        x[:1].expand(2, 8, 3, 5),
    ):
        dense, pixel = resizing.pixelwise(each)
        torch.testing.assert_close(dense, each)
        batch, channels, height, width = dense.shape
        seen = torch.as_strided(
            dense, (batch, height * width, channels), (height * width * pixel, pixel, 1), dense.storage_offset()
        )
        torch.testing.assert_close(seen.permute(0, 2, 1).reshape(dense.shape), dense)
