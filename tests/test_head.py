"""The kernel for the head against convolutions in float64."""

import pytest
import torch
import torch.nn.functional as F

from hrnet_zoo.engines.cuda import FusedHead
from hrnet_zoo.engines.plan import Convolution, Head
from tests.kernel_device import kernel_device, maps
from tests.plans import relative


@pytest.mark.parametrize(
    ("widths", "classes", "size"),
    [((24, 40, 72, 144), 24, (9, 13)), ((48, 96, 192, 384), 152, (5, 3)), ((24, 40, 72, 144), 8, (1, 1))],
)
def test_kernel_gives_the_scores_of_the_head(widths: tuple[int, ...], classes: int, size: tuple[int, int]) -> None:
    device, dtype = kernel_device(), torch.float16  # the interpreter multiplies no matrices of bfloat16
    sizes = [tuple(-(-side // 2**level) for side in size) for level in range(4)]
    features = maps(*((2, width, *each) for width, each in zip(widths, sizes, strict=True)), dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    mixed = sum(widths) - 10  # no multiple of anything
    mix = Convolution(
        torch.randn(mixed, sum(widths), 1, 1, generator=generator).to(dtype).float() / 16,
        torch.randn(mixed, generator=generator),
        stride=1,
        relu=True,
    )
    weight = torch.randn(classes, mixed, 1, 1, generator=generator).to(dtype).float() / 16
    step = Head(mix, Convolution(weight, torch.randn(classes, generator=generator), stride=1))
    head = FusedHead(step, widths, device, dtype)
    found = head(*features)
    expected = step.double()(*(each.cpu().double() for each in features))
    assert found.shape == expected.shape
    assert found.dtype == dtype
    assert relative(found.cpu(), expected) < 4e-3


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_on_a_gpu_larger_maps(dtype: torch.dtype) -> None:
    widths = (24, 40, 72, 144)
    features = maps(*((4, width, 128 >> level, 256 >> level) for level, width in enumerate(widths)), dtype=dtype)
    mix, last = torch.randn(272, 280, 1, 1) / 16, torch.randn(24, 272, 1, 1) / 16
    step = Head(Convolution(mix, torch.randn(272), 1, relu=True), Convolution(last, torch.randn(24), 1))
    found = FusedHead(step, widths, features[0].device, dtype)(*features)
    expected = F.relu(step.to(features[0].device)(*(each.float() for each in features)))
    assert relative(found.float().relu(), expected) < (4e-3 if dtype == torch.float16 else 3e-2)
