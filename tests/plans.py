"""Plans of networks with random weights whose batch norms do something."""

import torch
from torch import fx, nn

from hrnet_zoo.creation import create_model
from hrnet_zoo.engines.plan import make_plan


def plan_of(name: str = "fcn_hr18s_cityscapes_40k", classes: int | None = None, seed: int = 0) -> fx.GraphModule:
    """Return the plan of a catalog network with random weights, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create_model(name, pretrained=False, classes=classes, device="cpu", dtype=torch.float32)
        for norm in (each for each in model.modules() if isinstance(each, nn.BatchNorm2d)):
            for tensor, low, high in ((norm.weight, 0.5, 1.5), (norm.bias, -1, 1), (norm.running_var, 0.5, 2.0)):
                assert tensor is not None
                nn.init.uniform_(tensor, low, high)
            assert norm.running_mean is not None
            nn.init.normal_(norm.running_mean)
    return make_plan(model)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return random pictures (N, 3, H, W)."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return how far two tensors are apart at most, as a share of the largest value."""
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())
