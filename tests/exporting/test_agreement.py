"""The check finds what a file gets wrong."""

from typing import Any

import numpy as np
import pytest
import torch

from hrnet_zoo.datasets import ADE20K, CITYSCAPES, PASCAL_CONTEXT, SCENES
from hrnet_zoo.exporting.agreement import MOST_PIXELS, Arrays, checks, compare, pixel_agreement
from hrnet_zoo.exporting.graphs import LabelsGraph, LogitsGraph, unfolded
from hrnet_zoo.exporting.metadata import LEAST_SIZE, Agreement
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.zoo.create import create_model


@pytest.fixture(scope="module")
def demo() -> FCNHRNet:
    return create_model("demo", device="cpu").requires_grad_(False)


@pytest.mark.parametrize(
    ("data", "size"),
    [(SCENES, (384, 768)), (CITYSCAPES, (512, 1024)), (ADE20K, (512, 1024)), (PASCAL_CONTEXT, (480, 480))],
)
def test_sizes(data: Any, size: tuple[int, int]) -> None:
    least, *odd, box, batch = checks(data)
    assert least.input_size == (LEAST_SIZE, LEAST_SIZE)
    assert all(side % 2 for each in odd for side in (*each.input_size, *each.size))
    assert box.input_size == box.size == batch.size == size
    assert size[0] * size[1] <= MOST_PIXELS
    assert (box.batch, batch.batch) == (1, 2)
    assert ("sliding window" in box.name) == data.sliding_window


def test_the_network_agrees_with_itself_and_a_wrong_file_does_not(
    demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hrnet_zoo.exporting.agreement.MOST_PIXELS", 96 * 192)
    labels, logits = (kind(unfolded(demo), torch.float32) for kind in (LabelsGraph, LogitsGraph))

    def run_labels(arrays: Arrays) -> Arrays:
        found = labels(*map(torch.from_numpy, arrays.values()))
        return {"labels": found[0].numpy(), "logits": found[1].numpy()}

    def run_logits(arrays: Arrays) -> Arrays:
        return {"logits": logits(torch.from_numpy(arrays["image"])).numpy()}

    def without_classes_below_8(arrays: Arrays) -> Arrays:
        found = logits(torch.from_numpy(arrays["image"]))
        found[:, :8] = -30.0
        return {"logits": found.numpy()}

    for agreements in (list(compare(demo, run_labels, "labels")), list(compare(demo, run_logits, "logits"))):
        assert len(agreements) == 5
        for each in agreements:
            assert each.pixel_agreement == 1
            assert each.largest_logit_error < 1e-4 < each.largest_logit
    wrong = list(compare(demo, without_classes_below_8, "logits"))
    assert 0.05 < pixel_agreement(wrong) < 0.8
    assert min(each.largest_logit_error for each in wrong) > 20


def test_share_of_all_pixels() -> None:
    def one(batch: int, side: int, share: float) -> Agreement:
        return Agreement("", batch, (33, 33), (side, side), share, 0.0, 1.0)

    assert pixel_agreement([one(1, 10, 0.5), one(2, 10, 0.8)]) == pytest.approx((50 + 160) / 300)
    assert np.isclose(pixel_agreement([one(1, 1, 0.0), one(1, 100, 1.0)]), 1 - 1 / 10001)
