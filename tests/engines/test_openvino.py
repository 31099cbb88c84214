"""OpenVINO computes what the plan's steps do, where it is installed; where it is not, that is said."""

import copy
import importlib.util
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.engines import openvino
from hrnet_zoo.engines.folding import Plan
from hrnet_zoo.engines.openvino import OpenVINOEngine, as_openvino, dtypes
from hrnet_zoo.engines.optimize import optimize
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.evaluation.agreement import pixel_agreement
from hrnet_zoo.images.preprocess import normalize
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.zoo.create import create_model
from tests.support.reference_cases import random_network

CPU = torch.device("cpu")

# (batch, height, width): sides that are multiples of 32, that are not, and that are smaller than the coarsest map's.
SIZES = [(2, 64, 96), (1, 97, 131), (1, 65, 225), (1, 33, 64), (2, 3, 5), (1, 1, 1)]


@pytest.fixture
def _installed() -> None:
    if not importlib.util.find_spec("openvino"):
        pytest.skip("openvino is not installed")


@pytest.fixture
def demo() -> FCNHRNet:
    return create_model("demo", device="cpu")


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(("arch", "method"), [("hr18s", "FCN"), ("hr48", "FCN"), ("hr18s", "OCRNet")])
def test_logits(arch: str, method: str) -> None:
    """Error relative to the largest logit: float32 by rounding, bfloat16 as much as a network of noise makes of it."""
    network = random_network(arch, method)
    engines = {dtype: OpenVINOEngine(Plan(network), CPU, dtype) for dtype in dtypes()}
    random = torch.Generator().manual_seed(0)
    for batch, height, width in SIZES if arch == "hr18s" else SIZES[1:2]:
        x = torch.randn(batch, 3, height, width, generator=random)
        for memory in (torch.contiguous_format, torch.channels_last):
            with torch.inference_mode():
                expected = network.logits_stride4(x)
                for dtype, engine in engines.items():
                    found = engine(x.to(dtype, memory_format=memory))
                    assert (found.shape, found.dtype) == (expected.shape, dtype)
                    error = float((found.float() - expected).abs().max() / expected.abs().max())
                    assert error < (5e-6 if dtype == torch.float32 else 0.2), (batch, height, width, dtype)


@pytest.mark.usefixtures("_installed")
def test_masks(demo: FCNHRNet) -> None:
    """Shares of pixels: float32 all but one in a hundred thousand, bfloat16 all but one in two hundred."""
    images = [scene(seed, *size).image for seed, size in enumerate([(128, 256), (97, 131), (64, 70)])]
    for dtype in dtypes():
        fast = optimize(demo, engine="openvino", dtype=dtype)
        assert repr(fast) == f"OptimizedModel(demo: openvino, {str(dtype).removeprefix('torch.')} on cpu)"
        assert pixel_agreement(demo, fast, images) >= (0.99999 if dtype == torch.float32 else 0.995)
    assert optimize(demo, engine="openvino").dtype in dtypes()
    with pytest.raises(ConfigError, match="what openvino has compiled belongs to this process"):
        copy.copy(fast)


@pytest.mark.usefixtures("_installed")
def test_a_network_in_channels_last(demo: FCNHRNet) -> None:
    image = scene(0, 64, 96).image
    expected = demo.predict(image).mask
    fast = optimize(demo.to(memory_format=torch.channels_last), engine="openvino", dtype=torch.float32)  # type: ignore[call-overload]
    assert (fast.predict(image).mask == expected).mean() > 0.9999


@pytest.mark.usefixtures("_installed")
def test_nothing_is_copied(demo: FCNHRNet) -> None:
    """Neither an image in the network's memory order, nor logits, which belong to the caller, nor weights."""
    for dtype in dtypes():
        x = torch.randn(1, 3, 8, 8).to(dtype, memory_format=torch.channels_last)
        pixels = x.permute(0, 2, 3, 1).contiguous()
        assert pixels.data_ptr() == x.data_ptr()
        shared = openvino._shared(pixels)
        pixels.zero_()
        assert not np.any(shared.data)
    engine = OpenVINOEngine(Plan(demo), CPU, torch.float32)
    first = engine(normalize(scene(0, 64, 96).image))
    kept = first.clone()
    engine(normalize(scene(1, 64, 96).image))
    assert torch.equal(first, kept)
    other = Plan(demo)
    weights = {step.data_ptr() for step in other.buffers() if step.ndim == 4}
    constants = [each for each in as_openvino(other).get_ordered_ops() if each.get_type_name() == "Constant"]
    assert weights <= {each.data.ctypes.data for each in constants}


@pytest.mark.usefixtures("_installed")
def test_as_many_threads_as_torch_has(demo: FCNHRNet) -> None:
    engine = OpenVINOEngine(Plan(demo), CPU, torch.float32)
    assert engine._request.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == torch.get_num_threads()


@pytest.mark.usefixtures("_installed")
def test_several_callers_at_once(demo: FCNHRNet) -> None:
    engine = OpenVINOEngine(Plan(demo), CPU, torch.float32)
    images = [normalize(scene(seed, 64, 96).image) for seed in range(4)]
    expected = [engine(x) for x in images]
    found: list[list[torch.Tensor]] = [[] for _ in images]

    def work(place: int) -> None:
        found[place] += [engine(images[place]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, many in zip(expected, found, strict=True):
        assert len(many) == 5
        assert all(torch.equal(one, each) for each in many)


@pytest.mark.usefixtures("_installed")
def test_made_in_several_threads_at_once(demo: FCNHRNet) -> None:
    """While others use torch: nothing is traced or converted."""
    linear, image = nn.Linear(2, 2), scene(0, 64, 96).image
    expected = optimize(demo, engine="openvino", dtype=torch.float32).predict(image).mask
    with ThreadPoolExecutor(4) as threads:
        making = [threads.submit(optimize, demo, engine="openvino", dtype=torch.float32) for _ in range(3)]
        while not all(each.done() for each in making):
            assert linear(torch.ones(1, 2)).shape == (1, 2)
    assert all(np.array_equal(each.result().predict(image).mask, expected) for each in making)


@pytest.mark.usefixtures("_installed")
def test_what_it_cannot_do(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"engines that compute in torch\.float16 on cpu are"):
        optimize(demo, engine="openvino", dtype=torch.float16)
    monkeypatch.setattr("hrnet_zoo.engines.openvino.dtypes", lambda: (torch.float32,))
    with pytest.raises(ConfigError, match=r"engines that compute in torch\.bfloat16 on cpu are"):
        optimize(demo, engine="openvino", dtype=torch.bfloat16)
    assert optimize(demo, engine="openvino").dtype == torch.float32
    with pytest.raises(ConfigError, match="on meta are 'pytorch'"):
        optimize(demo.to("meta"), engine="openvino")


@pytest.mark.usefixtures("_installed")
def test_no_usage_statistics_are_sent() -> None:
    """The package's statistics are off in a process where we import it, and its environment is as before."""
    program = (
        "import os, openvino_telemetry as t; sent = []; t.Telemetry.send_event = lambda self, *a, **k: "
        "sent.append(a) if self.consent else None; before = dict(os.environ); "
        "from hrnet_zoo.engines.openvino import dtypes; dtypes(); print(sent, dict(os.environ) == before)"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "TF_BUILD", "JENKINS_URL")}
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment
    )
    assert done.stdout == "[] True\n"


def test_not_installed(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr("hrnet_zoo.engines.optimize.Plan", pytest.fail)  # said before any work
    with pytest.raises(ConfigError, match="openvino cannot be imported") as caught:
        optimize(demo, engine="openvino")
    assert "pip install '.[openvino]'" in caught.value.advice
