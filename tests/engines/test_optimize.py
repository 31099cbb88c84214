"""`optimize`: the same function of the image, whatever happens to the network that it was made of."""

import copy
import dataclasses
import gc
import logging
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

import hrnet_zoo
from hrnet_zoo.datasets import CITYSCAPES
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.engines import onednn
from hrnet_zoo.engines.folding import Plan
from hrnet_zoo.engines.optimize import OptimizedModel, optimize, optimized
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.evaluation.agreement import pixel_agreement
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.zoo.create import create_model

ENGINES = [
    ("onednn", torch.float32),
    ("onednn", torch.bfloat16),
    ("pytorch", torch.float32),
    ("pytorch", torch.float16),
]


@pytest.fixture
def demo(quick_demo: None) -> FCNHRNet:
    return create_model("demo", device="cpu")


def made(model: FCNHRNet, engine: str, dtype: torch.dtype) -> OptimizedModel:
    if engine == "onednn" and not onednn.usable(dtype):
        pytest.skip(f"this processor's oneDNN has no {dtype}")
    return optimize(model, engine=engine, dtype=dtype)


@pytest.mark.parametrize(("engine", "dtype"), ENGINES)
def test_pixels_agree(engine: str, dtype: torch.dtype) -> None:
    """Shares of pixels: float32 all but one in a hundred thousand, half precision all but one in two hundred."""
    demo = create_model("demo", device="cpu")
    fast = made(demo, engine, dtype)
    images = [scene(seed, *size).image for seed, size in enumerate([(128, 256), (97, 131), (64, 70)])]
    assert pixel_agreement(demo, fast, images) >= (0.99999 if dtype == torch.float32 else 0.995)


@pytest.mark.parametrize("options", [{"ms_flip": True}, {"mode": "slide"}, {"probabilities": True}, {"max_memory": 1}])
def test_predicts_as_the_network(demo: FCNHRNet, options: dict[str, Any]) -> None:
    demo.dataset = dataclasses.replace(demo.dataset, resize_to=(120, 90))
    fast = optimize(demo, dtype=torch.float32)
    images = [scene(seed, 90, 120).image for seed in range(2)]
    for exact, found in zip(demo.predict(images, **options), fast.predict(images, **options), strict=True):
        assert (found.mask == exact.mask).mean() >= 0.9999
        assert (found.classes, found.palette) == (exact.classes, exact.palette)
        if exact.probabilities is not None:
            assert found.probabilities is not None
            np.testing.assert_allclose(found.probabilities, exact.probabilities, atol=1e-3)


def test_the_switch(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    image = scene(0, 64, 96).image
    by_hand = optimize(demo).predict(image).mask
    assert np.array_equal(demo.predict(image, fast=True).mask, by_hand)
    monkeypatch.setattr("hrnet_zoo.engines.optimize.Plan", pytest.fail)  # a second call makes no second plan
    assert np.array_equal(demo.predict(image, fast=True).mask, by_hand)
    assert optimized(demo) is optimized(demo)
    assert demo.predict(image).mask.shape == (64, 96)


@pytest.mark.usefixtures("quick_demo")
def test_what_is_kept_goes_with_the_network() -> None:
    demo = create_model("demo", device="cpu")
    kept = weakref.ref(optimized(demo))
    alone = optimize(demo)
    there = weakref.ref(demo)
    expected = alone.predict(scene(0, 64, 96).image).mask
    del demo
    gc.collect()
    assert (there(), kept()) == (None, None)
    assert np.array_equal(alone.predict(scene(0, 64, 96).image).mask, expected)


def shrunk(model: FCNHRNet) -> dict[str, torch.Tensor]:
    return {name: value * 0.9 if value.is_floating_point() else value for name, value in model.state_dict().items()}


CHANGES: dict[str, Callable[[FCNHRNet], object]] = {
    "in place": lambda model: model.decode_head.conv_seg.weight.mul_(-1),
    "through .data": lambda model: [each.data.mul_(-1) for each in model.parameters()],
    "of the head alone, through .data": lambda model: model.decode_head.conv_seg.weight.data.mul_(-1),
    "loaded": lambda model: model.load_state_dict(shrunk(model)),
    "assigned": lambda model: model.load_state_dict(shrunk(model), assign=True),
    "another layer": lambda model: setattr(model.decode_head, "conv_seg", copy.deepcopy(model.decode_head.conv_seg)),
    "batch norm": lambda model: cast(torch.Tensor, model.backbone.bn1.running_mean).add_(1),
    "eps": lambda model: model.apply(lambda module: vars(module).update(eps=1.0)),
    "another batch norm": lambda model: setattr(model.backbone, "bn1", nn.BatchNorm2d(64, affine=False).eval()),
    "another block": lambda model: setattr(model.backbone, "stage4", copy.deepcopy(model.backbone.stage4).apply(noisy)),
    "dataset": lambda model: setattr(model, "dataset", dataclasses.replace(model.dataset, resize_to=(96, 64))),
}


def noisy(module: nn.Module) -> None:
    for each in module.parameters(recurse=False):
        nn.init.normal_(each, std=0.1)


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_followed(demo: FCNHRNet, change: str, caplog: pytest.LogCaptureFixture) -> None:
    fast = optimize(demo, dtype=torch.float32)
    image = scene(0, 64, 96).image
    with caplog.at_level(logging.WARNING):
        fast.predict(image)
        assert not caplog.records
        with torch.no_grad():
            CHANGES[change](demo)
        assert (fast.predict(image).mask == demo.predict(image).mask).mean() >= 0.999
        fast.predict(image)
    (record,) = caplog.records
    assert "has changed since it was optimized" in record.message


@pytest.mark.parametrize("part", ["backbone", "decode_head.convs"])
def test_a_hook_is_noticed(demo: FCNHRNet, part: str) -> None:
    """It may change what comes out; as long as it is there, there is no fast form."""
    image = scene(0, 64, 96).image
    expected = demo.predict(image, fast=True).mask
    hook = demo.get_submodule(part).register_forward_hook(lambda module, inputs, output: output)
    for _ in range(2):
        with pytest.raises(ConfigError, match=f"{part} is .* with a forward hook, which would not be called"):
            demo.predict(image, fast=True)
    assert demo.predict(image).mask.shape == (64, 96)
    hook.remove()
    assert np.array_equal(demo.predict(image, fast=True).mask, expected)


@pytest.mark.parametrize("engine", ["onednn", "pytorch"])
def test_autocast_around_it_changes_nothing(demo: FCNHRNet, engine: str) -> None:
    fast = made(demo, engine, torch.float32)
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = fast.logits_stride4(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(fast.logits_stride4(x), expected)
            onednn.usable.cache_clear()  # nor what is found out about this processor
            assert torch.equal(optimize(demo, engine=engine, dtype=torch.float32).logits_stride4(x), expected)


@pytest.mark.usefixtures("quick_demo")
def test_autocast_around_it_takes_every_dtype() -> None:
    model = create_model("demo", device="cpu", dtype=torch.float16)
    expected = optimize(model).predict(scene(0, 64, 96).image).mask
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(model.predict(scene(0, 64, 96).image, fast=True).mask, expected)


@pytest.mark.parametrize(
    ("what", "advice"),
    [(lambda model: "demo", "create_model"), (lambda model: nn.DataParallel(model), r"model\.module")],
)
def test_names_and_wrappers_are_no_networks(what: Callable[[FCNHRNet], Any], advice: str, demo: FCNHRNet) -> None:
    for call in (optimize, hrnet_zoo.benchmark, lambda model: hrnet_zoo.evaluate(model, ".")):
        with pytest.raises(ConfigError, match=rf"(?s)no network of hrnet_zoo\.create_model.*{advice}"):
            call(what(demo))
    for call in (optimize, hrnet_zoo.benchmark):
        with pytest.raises(ConfigError, match=r"(?s)OptimizedModel, no network.*create_model"):
            call(cast(Any, optimize(demo)))


def test_defaults_of_the_process_change_nothing(demo: FCNHRNet) -> None:
    image = scene(0, 64, 96).image
    expected = optimize(demo).predict(image).mask
    onednn.usable.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            fast = optimize(demo)
            found = fast.logits_stride4(torch.zeros(1, 3, 8, 8, dtype=fast.dtype, device="cpu"))
        assert found.device.type == "cpu"
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.array_equal(fast.predict(image).mask, expected)


@pytest.mark.parametrize(("engine", "dtype"), ENGINES)
def test_copies(demo: FCNHRNet, engine: str, dtype: torch.dtype) -> None:
    fast = made(demo, engine, dtype)
    image = scene(0, 64, 96).image
    expected = fast.predict(image).mask
    with torch.no_grad():
        demo.decode_head.conv_seg.weight.mul_(-1)
    del demo
    for other in (pickle.loads(pickle.dumps(fast)), copy.deepcopy(fast), copy.copy(fast)):  # noqa: S301 - our own
        assert repr(other) == repr(fast)
        assert np.array_equal(other.predict(image).mask, expected)  # a copy does not follow the network


def test_an_engine_that_belongs_to_the_process_is_not_pickled(demo: FCNHRNet) -> None:
    fast = optimize(demo)
    fast._engine.name = "openvino"
    with pytest.raises(ConfigError, match="what openvino has compiled belongs to this process"):
        pickle.dumps(fast)


def test_settings_that_compute_the_same_are_optimized(demo: FCNHRNet) -> None:
    for module in demo.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False
    image = scene(0, 64, 96).image
    assert (demo.predict(image, fast=True).mask == demo.predict(image).mask).mean() > 0.99


# In a process of its own: what is broken there is broken for good.
FIRST_CALLS = """
import dataclasses, sys, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np, torch, hrnet_zoo
torch.set_num_threads(1)
sys.setswitchinterval(1e-4)
random = np.random.default_rng(0)
images = [random.integers(0, 255, (32 + number, 48, 3), dtype=np.uint8) for number in range(8)]
models = [hrnet_zoo.create_model("demo", device="cpu") for _ in range(4)]
for model in models:
    model.dataset = dataclasses.replace(model.dataset, resize_to=(64, 48))
linear, stop, wrong = torch.nn.Linear(2, 2), threading.Event(), []

def beside():
    while not stop.is_set():
        try:
            linear(torch.ones(1, 2)), models[3].predict(images[0])
        except Exception as error:
            wrong.append(repr(error))

def first(number):
    start.wait()
    return models[number // 8].predict(images[number % 8], fast=True).mask

other = threading.Thread(target=beside)
other.start()
masks = []
with ThreadPoolExecutor(8) as threads:
    for turn in range(3):  # one model at a time, its first call by all threads at once
        start = threading.Barrier(8)
        masks += threads.map(first, range(8 * turn, 8 * turn + 8))
stop.set()
other.join()
expected = [models[3].predict(image, fast=True).mask for image in images]
print(wrong, sum(not np.array_equal(mask, expected[number % 8]) for number, mask in enumerate(masks)), len(masks))
"""


def test_first_calls_of_many_threads() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_CALLS], capture_output=True, text=True, check=False)  # noqa: S603
    assert (done.stdout, done.returncode) == ("[] 0 24\n", 0), done.stderr


def test_one_plan_for_all_threads(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    class Counted(Plan):
        def __init__(self, model: FCNHRNet) -> None:
            made.append(model)
            super().__init__(model)

    monkeypatch.setattr("hrnet_zoo.engines.optimize.Plan", Counted)
    image = scene(0, 64, 64).image
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(optimized, [demo] * 32))
        assert (len(found), len(made)) == (1, 1)
        with torch.no_grad():
            demo.decode_head.conv_seg.weight.mul_(2)
        list(threads.map(lambda _: demo.predict(image, fast=True), range(16)))
    assert len(made) == 2


@pytest.mark.usefixtures("quick_demo")
def test_a_network_made_in_inference_mode() -> None:
    """Its tensors have no count of changes; values are compared all the same."""
    with torch.inference_mode():
        network = FCNHRNet("hr18s", dataclasses.replace(CITYSCAPES, resize_to=(128, 64))).eval()
        fast = optimize(network, dtype=torch.float32)
        fast.predict(scene(0, 64, 64).image)
        for parameter in network.parameters():
            parameter.mul_(2)
        fast.predict(scene(0, 64, 64).image)


def test_the_network_is_left_as_it_was(demo: FCNHRNet) -> None:
    before = {key: value.clone() for key, value in demo.state_dict().items()}
    demo.train()
    image = scene(0, 64, 96).image
    optimize(demo).predict(image)
    demo.predict(image, fast=True)
    assert demo.training
    for key, value in demo.state_dict().items():
        assert torch.equal(value, before[key])


def test_what_it_is(demo: FCNHRNet) -> None:
    fast = hrnet_zoo.optimize(demo, dtype=torch.float32)
    assert isinstance(fast, hrnet_zoo.OptimizedModel)
    assert (fast.name, fast.info, fast.classes, fast.palette) == ("demo", demo.info, demo.classes, demo.palette)
    assert (fast.dataset, fast.provenance) == (demo.dataset, demo.provenance)
    assert repr(fast) == f"OptimizedModel(demo: {fast.engine}, float32 on cpu)"


def test_falls_back_to_pytorch(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "usable", lambda _: False)
    monkeypatch.setattr("hrnet_zoo.engines.openvino.dtypes", lambda: ())
    assert optimize(demo).engine == "pytorch"
    with pytest.raises(ConfigError, match="'onednn'"):
        optimize(demo, engine="onednn")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "tensorrt"}, "the engines that compute in torch.* on cpu are 'onednn', 'pytorch'"),
        ({"dtype": torch.float64}, "dtype is one of"),
        ({"dtype": torch.int16}, "dtype is one of"),
    ],
)
def test_refused(demo: FCNHRNet, options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        optimize(demo, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["openvino", "onednn", "cuda"])
def test_engines_of_another_device(demo: FCNHRNet, engine: str) -> None:
    with pytest.raises(ConfigError, match=r"compute in torch\.float32 on meta are 'pytorch'"):
        optimize(demo.to("meta"), engine=engine)


def test_what_engines_cannot_do(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrnet_zoo.engines.openvino.dtypes", lambda: (torch.float32,))
    monkeypatch.setattr("hrnet_zoo.engines.openvino.openvino", lambda: None)
    with pytest.raises(
        ConfigError, match=r"the engines that compute in torch\.bfloat16 on cpu are 'onednn', 'pytorch'"
    ):
        optimize(demo, engine="openvino", dtype=torch.bfloat16)
    with pytest.raises(ConfigError, match="only engine='openvino' computes in 8 bits"):
        optimize(demo, engine="onednn", calibration="photos")
    with pytest.raises(ConfigError, match=r"calibration is for 8 bits, dtype=torch\.int8"):
        optimize(demo, dtype=torch.float32, calibration="photos")


def test_too_little_memory_is_told(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = optimize(demo)

    def full(*_: object) -> torch.Tensor:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(type(fast._engine), "__call__", full)
    with pytest.raises(ConfigError, match="too little memory"):
        fast.logits_stride4(torch.zeros(1, 3, 8, 8))


def test_evaluates_as_the_network(demo: FCNHRNet, tmp_path: Path) -> None:
    from hrnet_zoo.demo.dataset import write_dataset

    write_dataset(tmp_path / "scenes", seeds=range(2), progress=False)
    demo.dataset = dataclasses.replace(demo.dataset, resize_to=(768, 384))
    exact = hrnet_zoo.evaluate(demo, tmp_path / "scenes", workers=0)
    for figures in (
        hrnet_zoo.evaluate(demo, tmp_path / "scenes", workers=0, fast=True),
        hrnet_zoo.evaluate(optimize(demo), tmp_path / "scenes", workers=0),
    ):
        assert figures.miou == pytest.approx(exact.miou, abs=0.1)
        assert figures.protocol["engine"] == optimized(demo).engine
        assert f"optimized ({optimized(demo).engine})" in figures.protocol["summary"]
    assert exact.protocol["engine"] == "exact"
