"""What is compared, and under which conditions; never how fast."""

import dataclasses
import json
import sys

import pytest
import torch

from hrnet_zoo.engines import onednn
from hrnet_zoo.engines.optimize import OptimizedModel
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.evaluation.comparison import COMPARISON_ABOUT, compare
from hrnet_zoo.evaluation.costs import MIN_RUNS
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.zoo.create import create_model


@pytest.fixture
def demo() -> FCNHRNet:
    network = create_model("demo", device="cpu")
    network.dataset = dataclasses.replace(network.dataset, resize_to=(96, 64))
    return network


@pytest.fixture
def _without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)


@pytest.mark.usefixtures("_without_openvino")
def test_figures(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "has_native_bfloat16", lambda: False)
    found = compare(demo, size=(48, 96), seconds=0, progress=False)
    assert [(each.name, each.dtype) for each in found.contenders] == [("exact", "float32"), ("onednn", "float32")]
    assert (found.model, found.height, found.width, found.random_weights) == ("demo", 48, 96, False)
    assert set(found.skipped) == {"bfloat16", "openvino float32", "openvino bfloat16", "torch.compile"}
    assert "pip install '.[openvino]'" in found.skipped["openvino float32"]
    exact, fast = found.contenders
    assert exact.prediction is not None
    assert fast.prediction is not None
    for cost in (exact.network, exact.prediction, fast.network, fast.prediction):
        assert cost.runs == MIN_RUNS
    assert found.ratios(exact) == (1, 1)
    assert found.ratios(fast)[1] == exact.prediction.median / fast.prediction.median
    facts = json.loads(json.dumps(found.to_dict()))
    assert facts["contenders"][1]["network_times_as_fast"] == exact.network.median / fast.network.median
    assert facts["about"] == COMPARISON_ABOUT


@pytest.mark.usefixtures("_without_openvino")
def test_what_goes_through_the_forms(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sees the image in its own dtype, at its size and in the box; and the network is left as it was."""
    seen = []
    for kind in (FCNHRNet, OptimizedModel):
        real = kind.logits_stride4

        def spied(self: FCNHRNet, x: torch.Tensor, real: object = real) -> torch.Tensor:
            assert torch.is_inference_mode_enabled()
            seen.append((type(self).__name__, x.dtype, tuple(x.shape)))
            return real(self, x)  # type: ignore[no-any-return, operator]

        monkeypatch.setattr(kind, "logits_stride4", spied)
    monkeypatch.setattr(onednn, "has_native_bfloat16", lambda: True)
    monkeypatch.setattr("hrnet_zoo.evaluation.comparison.torch.compile", lambda run: run)
    demo.train()
    found = compare(demo, size=(32, 96), compiled=True, seconds=0, progress=False)
    assert demo.training
    assert [each.name for each in found.contenders] == ["exact", "onednn", "onednn", "torch.compile"]
    assert found.contenders[-1].prediction is None
    assert found.ratios(found.contenders[-1])[1] is None
    assert "torch.compile" not in found.skipped
    for form, dtype in (("FCNHRNet", "float32"), ("OptimizedModel", "float32"), ("OptimizedModel", "bfloat16")):
        runs = [shape for *key, shape in seen if key == [form, getattr(torch, dtype)]]
        assert set(runs) == {(1, 3, 32, 96)}
        assert len(runs) == (1 + 2 * MIN_RUNS) * (3 if form == "FCNHRNet" else 2)  # the compiled one, too, is the exact


def test_impossible_sizes(demo: FCNHRNet) -> None:
    with pytest.raises(ConfigError, match="nothing was measured"):
        compare(demo, size=(0, 64))
