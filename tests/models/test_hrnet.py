"""The backbone: names, shapes and maps."""

import pytest
import torch

from hrnet_zoo.models.hrnet import SPECS, ExchangeModule, Fusion, HRNet
from hrnet_zoo.models.skip_init import skip_init


@pytest.mark.parametrize("arch", SPECS)
def test_four_maps_at_halving_sizes(arch: str) -> None:
    with skip_init():
        backbone = HRNet(SPECS[arch]).eval()
    for height, width in ((64, 96), (33, 65), (1, 1)) if arch == "hr18s" else ((33, 65),):
        maps = backbone(torch.empty(2, 3, height, width, device="meta"))
        sides = [
            (-(-height // scale), -(-width // scale), channels)
            for scale, channels in zip((4, 8, 16, 32), SPECS[arch].widths, strict=True)
        ]
        assert [tuple(m.shape) for m in maps] == [(2, c, h, w) for h, w, c in sides]


def test_the_second_resize_matters_at_odd_sizes_only() -> None:
    """Leave the second resize out by hand and see where scores move."""
    torch.manual_seed(0)
    backbone = HRNet(SPECS["hr18s"]).eval()
    module = backbone.stage2[0]
    assert isinstance(module, ExchangeModule)
    fuse = module.fuse_layers[0]
    assert isinstance(fuse, Fusion)
    for size, moves in (((16, 24), False), ((17, 25), True)):
        maps = [torch.rand(1, 18, *size), torch.rand(1, 36, *(-(-side // 2) for side in size))]
        with torch.inference_mode():
            once = maps[0] + fuse[1](maps[1])[..., : size[0], : size[1]]
            assert torch.equal(fuse(maps), once.relu()) is not moves
