"""What is traced computes what `predict` computes, to the bit."""

import numpy as np
import pytest
import torch

from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.engines.folding import Plan
from hrnet_zoo.exporting.graphs import LabelsGraph, LogitsGraph, folded, unfolded
from hrnet_zoo.images.preprocess import normalize
from hrnet_zoo.inference.predict import resized
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.zoo.create import create_model


@pytest.fixture(scope="module")
def demo() -> FCNHRNet:
    return create_model("demo", device="cpu").requires_grad_(False)


@pytest.mark.parametrize("size", [(96, 160), (97, 131), (500, 333), (384, 768)])
def test_labels_are_those_of_predict(demo: FCNHRNet, size: tuple[int, int]) -> None:
    """Reduced, enlarged, and at the network's size (384 x 768)."""
    image = scene(3, *size).image
    (view,) = resized(image, demo.dataset.resize_to, ms_flip=False)
    labels, logits = LabelsGraph(unfolded(demo), torch.float32)(torch.from_numpy(view[None]), torch.tensor(size))
    assert labels.dtype == torch.uint8
    assert np.array_equal(labels[0], demo.predict(image).mask)
    assert torch.equal(logits, demo.decode_head(demo.backbone(normalize(view).contiguous())))


def test_no_labels(demo: FCNHRNet) -> None:
    image = torch.from_numpy(np.stack([scene(seed, 70, 90).image for seed in (0, 1)]))
    labels, logits = LabelsGraph(unfolded(demo), torch.float32)(image, torch.tensor([0, 0]))
    assert labels.shape == (2, 0, 0)
    assert logits.shape == (2, 19, 18, 23)


def test_logits_of_the_folded_network(demo: FCNHRNet) -> None:
    """The second resize is always made; where it changes nothing (96 x 160) and where it does, as in the plan."""
    for size in ((96, 160), (97, 131)):
        x = normalize(scene(0, *size).image)
        exact, plan = demo.decode_head(demo.backbone(x)), Plan(demo)(x)
        logits = LogitsGraph(folded(demo), torch.float32)(x)
        assert (logits - plan).abs().max() <= 1e-5 * plan.abs().max()
        assert 0 < (logits - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_half_precision_returns_float32(demo: FCNHRNet) -> None:
    x = normalize(scene(0, 64, 64).image)
    logits = LogitsGraph(folded(demo), torch.float16)(x)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, logits.half().float())
    assert demo.dtype == torch.float32
