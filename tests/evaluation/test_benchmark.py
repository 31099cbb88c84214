"""What is measured, and under which conditions; never how fast."""

import dataclasses
import json
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hrnet_zoo
from hrnet_zoo.datasets import DATASETS, SCENES
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.engines import onednn
from hrnet_zoo.engines.optimize import OptimizedModel
from hrnet_zoo.errors import ConfigError, UnknownModelError
from hrnet_zoo.evaluation.agreement import load_labeler
from hrnet_zoo.evaluation.benchmark import (
    IMAGES,
    Comparison,
    Variant,
    _published,
    benchmark,
    benchmark_table,
    compare,
    infer,
    input_size,
)
from hrnet_zoo.evaluation.costs import MIN_RUNS, Measurement, machine_of
from hrnet_zoo.images.formats import MAX_PIXELS
from hrnet_zoo.images.preprocess import normalize, resize
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.zoo.catalog import ModelInfo, list_models, model_info
from hrnet_zoo.zoo.create import create_model

TELLS_MEMORY = Path("/proc/self/clear_refs").exists()
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> FCNHRNet:
    """Make the demo network, which sees images at 64 x 96, to be quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HRNET_ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        network = create_model("demo", device="cpu")
    network.dataset = dataclasses.replace(network.dataset, resize_to=(96, 64))
    return network


@pytest.fixture
def small_row(monkeypatch: pytest.MonkeyPatch) -> ModelInfo:
    """Let every name be that of a small row with sliding windows."""
    return _patch_row(monkeypatch)


def _patch_row(patch: pytest.MonkeyPatch) -> ModelInfo:
    row = model_info("fcn_hr48_pascal_context_40k")
    data = dataclasses.replace(row.dataset, crop=(64, 64), resize_to=(96, 96), batch_per_gpu=2)
    row = dataclasses.replace(row, arch="hr18s", dataset=data)
    for module in ("evaluation.benchmark", "zoo.resolve"):
        patch.setattr(f"hrnet_zoo.{module}.model_info", lambda _: row)
    return row


def test_figures(demo: FCNHRNet) -> None:
    timing = benchmark(demo, size=(64, 128), batch=3, seconds=0, progress=False)
    assert (timing.model, timing.height, timing.width, timing.batch) == ("demo", 64, 128, 3)
    assert timing.prediction_input == (48, 96)
    assert not timing.random_weights
    assert timing.network.runs == timing.prediction.runs == MIN_RUNS
    assert timing.images_per_second == 3 / timing.network.median
    assert timing.machine.device == "cpu"
    assert timing.machine.dtype == "float32"
    facts = json.loads(json.dumps(timing.to_dict()))
    assert facts["network"]["median"] == timing.network.median
    assert "peak_memory: of the first run" in facts["about"]


def test_what_goes_through_the_network(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, images = [], []
    forward, predict = demo.forward, demo.predict

    def seen(x: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(x.shape))
        assert torch.is_inference_mode_enabled()
        return forward(x)

    def predicted(image: Any, **options: Any) -> Any:
        images.append(image.shape)
        return predict(image, **options)

    monkeypatch.setattr(demo, "forward", seen)
    monkeypatch.setattr(demo, "predict", predicted)
    benchmark(demo, size=(40, 72), batch=2, seconds=0, progress=False)
    assert shapes[0] == (1, 3, 32, 32)  # the touch
    assert shapes[1:] == [(2, 3, 40, 72)] * (1 + 2 * MIN_RUNS)
    assert images == [(40, 72, 3)] * (1 + 2 * MIN_RUNS)


@pytest.mark.skipif(not TELLS_MEMORY, reason="this system does not tell the peak of resident memory")
def test_larger_images_take_more_memory(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrnet_zoo.evaluation.costs.MIN_RUNS", 1)
    small, large = (
        benchmark(demo, size=size, seconds=0, progress=False).network.peak_memory for size in ((32, 32), (512, 1024))
    )
    assert small is not None
    assert large is not None
    assert large - small > 70_000_000  # some 150 MB; Linux tells resident memory within tens of MB


def test_the_model_is_left_as_it_was(demo: FCNHRNet) -> None:
    before = {name: entry.clone() for name, entry in demo.state_dict().items()}
    demo.train()
    demo.backbone.bn1.eval()
    try:
        benchmark(demo, size=(32, 32), seconds=0, progress=False)
        assert demo.training
        assert demo.backbone.bn2.training
        assert not demo.backbone.bn1.training
    finally:
        demo.eval()
    assert all(torch.equal(entry, before[name]) for name, entry in demo.state_dict().items())
    assert all(parameter.grad is None for parameter in demo.parameters())


def test_sizes_follow_the_data_set() -> None:
    sizes = {key: input_size(dataset) for key, dataset in DATASETS.items()}
    assert sizes == {
        "cityscapes": (1024, 2048),
        "ade20k": (512, 683),
        "voc12aug": (512, 683),
        "pascal_context": (390, 520),
        "pascal_context_59": (390, 520),
        "loveda": (1024, 1024),
        "potsdam": (512, 512),
        "vaihingen": (512, 512),
        "isaid": (896, 896),
    }
    assert input_size(SCENES) == (384, 768)
    assert input_size(dataclasses.replace(SCENES, key="mine")) == (384, 768)
    assert set(IMAGES) == set(DATASETS)


def test_random_weights_are_called_so(demo: FCNHRNet) -> None:
    network = create_model("fcn_hr18s_cityscapes_40k", pretrained=False, device="cpu", dtype=torch.bfloat16)
    network.dataset = demo.dataset
    timing = benchmark(network, size=(32, 48), seconds=0, progress=False)
    assert timing.random_weights
    assert timing.model == "fcn_hr18s_cityscapes_40k"
    assert timing.machine.dtype == "bfloat16"


def test_bad_input(demo: FCNHRNet) -> None:
    bad: list[tuple[Any, Any]] = [
        ((0, 5), 1),
        ((5, -1), 1),
        ((64, 64), 0),
        ((64.0, 64), 1),
        ((64, 64, 3), 1),
        ((8000, MAX_PIXELS // 8000 + 1), 1),
    ]
    for size, batch in bad:
        with pytest.raises(ConfigError, match="benchmark images of size"):
            benchmark(demo, size=size, batch=batch)


def test_too_little_memory(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "forward", lambda _: torch.empty(1 << 50, dtype=torch.uint8))
    with pytest.raises(ConfigError, match=r"benchmark demo on 1 x 64 x 64 pixels[\s\S]*too little memory"):
        benchmark(demo, size=(64, 64), seconds=0, progress=False)


# --- the table -------------------------------------------------------------------------------------------------------


def test_every_row_has_published_figures() -> None:
    for name in list_models():
        row = model_info(name)
        if row.dataset.key == "pascal_context_59":  # of which no speed was published
            with pytest.raises(ConfigError, match=r"the table has no figures of hr48 with FCN on Pascal Context 59"):
                benchmark_table(name)
            continue
        source = _published(row)
        assert (source.arch, source.method, source.dataset) == (row.arch, row.method, row.dataset)
        assert source.inference_fps
        assert source.train_memory_gb
    assert _published(model_info("fcn_hr48_cityscapes_160k")).name == "fcn_hr48_cityscapes_40k"
    with pytest.raises(ConfigError, match="the table has no figures of hr18s"):
        benchmark_table("demo")
    with pytest.raises(UnknownModelError):
        benchmark_table("fcn_hr48")


def test_table_under_the_rows_conditions(small_row: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spied(original: Callable[[FCNHRNet, torch.Tensor], object]) -> Callable[[FCNHRNet, torch.Tensor], object]:
        def spy(self: FCNHRNet, x: torch.Tensor) -> object:
            assert x.dtype == torch.float32
            assert not torch.backends.cudnn.allow_tf32
            seen.append((self.training, torch.is_grad_enabled(), tuple(x.shape)))
            return original(self, x)

        return spy

    monkeypatch.setattr(FCNHRNet, "forward", spied(FCNHRNet.forward))
    monkeypatch.setattr(FCNHRNet, "heads_logits", spied(FCNHRNet.heads_logits))
    before = torch.backends.cudnn.allow_tf32
    timing = benchmark_table("any", device="cpu", seconds=0, progress=False)
    assert torch.backends.cudnn.allow_tf32 == before
    assert timing.model == timing.published_of == small_row.name
    assert (timing.published_fps, timing.published_memory_gb) == (8.86, 6.1)
    assert (timing.image, timing.network_input, timing.sliding_window) == ((375, 500), (72, 96), True)
    assert (timing.crop, timing.batch_per_gpu) == ((64, 64), 2)
    windows = [(False, False, (1, 3, 64, 64))] * 4 * (1 + 2 * MIN_RUNS)
    assert seen == [*windows, *[(True, True, (2, 3, 64, 64))] * 2]
    assert timing.fps == 1 / timing.inference.median
    assert json.loads(json.dumps(timing.to_dict()))["fps"] == timing.fps


@pytest.mark.skipif(not TELLS_MEMORY, reason="this system does not tell the peak of resident memory")
def test_training_memory() -> None:
    """In a process of its own, where nothing that others left becomes free meanwhile."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        memory, parameters = pool.submit(_training_memory).result(timeout=300)
    assert memory is not None
    assert memory > 3 * 4 * parameters  # weights, gradients, momentum


def _training_memory() -> tuple[int | None, int]:
    with pytest.MonkeyPatch.context() as patch:
        row = _patch_row(patch)
        return benchmark_table("any", device="cpu", seconds=0, progress=False).training_memory, row.parameters


@pytest.mark.parametrize("sliding_window", [False, True])
def test_the_mask_timed_is_that_of_predict(
    demo: FCNHRNet, sliding_window: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dataclasses.replace(SCENES, sliding_window=sliding_window, crop=(128, 128), resize_to=(288, 144))
    monkeypatch.setattr(demo, "dataset", dataset)
    drawn = scene(3, 160, 320)
    with torch.inference_mode():
        mask = infer(demo, normalize(resize(drawn.image, 144, 288)), (160, 320))
    assert mask.shape == (1, 160, 320)
    assert np.mean(mask[0].numpy() == demo.predict(drawn.image).mask) > 0.9999


# --- optimized forms -------------------------------------------------------------------------------------------------


@pytest.fixture
def _without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)


@pytest.mark.usefixtures("_without_openvino")
def test_comparison(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "has_native_bfloat16", lambda: False)
    found = compare(demo, size=(48, 96), seconds=0, progress=False)
    assert [(each.name, each.dtype) for each in found.variants] == [("exact", "float32"), ("onednn", "float32")]
    assert (found.model, found.height, found.width, found.random_weights) == ("demo", 48, 96, False)
    assert set(found.skipped) == {"bfloat16", "openvino", "torch.compile"}
    assert "pip install '.[openvino]'" in found.skipped["openvino"]
    assert found.optimize_takes == "onednn float32"
    assert [each.agreement for each in found.variants] == [None, 1]
    exact, fast = found.variants
    assert exact.prediction is not None
    assert fast.prediction is not None
    for cost in (exact.network, exact.prediction, fast.network, fast.prediction):
        assert cost.runs == MIN_RUNS
    assert (exact.network_speedup, exact.prediction_speedup) == (1, 1)
    assert fast.prediction_speedup == exact.prediction.median / fast.prediction.median
    facts = json.loads(json.dumps(found.to_dict()))
    assert facts["variants"][1]["network_speedup"] == exact.network.median / fast.network.median
    assert "logits at stride 4" in facts["about"]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_bars(demo: FCNHRNet, tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    cost = Measurement(5, 0.1, 0.1, 0.1, 0.1, 0.1, None)
    variants = (
        Variant("exact", "float32", cost, 1.0, cost, 1.0, None),
        Variant("onednn", "bfloat16", cost, 2.0, cost, 2.0, 0.9987),
        Variant("torch.compile", "float32", cost, 2.0, None, None, None),
    )
    found = Comparison("a$b$", True, machine_of(demo), 64, 128, variants, "onednn bfloat16", {})
    path = tmp_path / f"bars.{ending}"
    found.save_plot(path)
    if ending == "png":
        with Image.open(path) as image:
            assert min(image.size) > 300
    else:
        text = path.read_text(encoding="utf-8")
        assert text.count("<!-- 99.87 -->") == 1
        assert text.count("<!-- 100 -->") >= 5  # milliseconds of all bars
    with pytest.raises(ConfigError, match=r"the ending '\.bmp'"):
        found.save_plot(tmp_path / "bars.bmp")


@pytest.mark.usefixtures("_without_openvino")
def test_what_goes_through_the_forms(demo: FCNHRNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sees the image in its own dtype and at its size; and the network is left as it was."""
    seen = []
    for kind in (FCNHRNet, OptimizedModel):
        real = kind.logits_stride4

        def spied(self: FCNHRNet, x: torch.Tensor, real: object = real) -> torch.Tensor:
            assert torch.is_inference_mode_enabled()
            seen.append((type(self).__name__, x.dtype, tuple(x.shape)))
            return real(self, x)  # type: ignore[no-any-return, operator]

        monkeypatch.setattr(kind, "logits_stride4", spied)
    monkeypatch.setattr(onednn, "has_native_bfloat16", lambda: True)
    monkeypatch.setattr("hrnet_zoo.evaluation.benchmark.torch.compile", lambda run: run)
    demo.train()
    found = compare(demo, size=(32, 96), compiled=True, seconds=0, progress=False)
    assert demo.training
    demo.eval()
    assert [each.name for each in found.variants] == ["exact", "onednn", "onednn", "torch.compile"]
    assert found.variants[-1].prediction is None
    assert found.variants[-1].prediction_speedup is None
    assert "torch.compile" not in found.skipped
    for form, dtype in (("FCNHRNet", "float32"), ("OptimizedModel", "float32"), ("OptimizedModel", "bfloat16")):
        runs = [shape for *key, shape in seen if key == [form, getattr(torch, dtype)]]
        assert set(runs) == {(1, 3, 32, 96)}
        # And once for the share of equal pixels. The compiled one, too, is the exact one.
        assert len(runs) == (1 + 2 * MIN_RUNS) * (3 if form == "FCNHRNet" else 2) + 1


def test_impossible_sizes(demo: FCNHRNet) -> None:
    with pytest.raises(ConfigError, match="nothing was measured"):
        compare(demo, size=(0, 64))


@pytest.mark.cuda
@cuda
def test_cuda() -> None:
    network = create_model("fcn_hr18s_ade20k_80k", pretrained=False, device="cuda")
    timing = benchmark(network, batch=2, seconds=0, progress=False)
    assert timing.machine.device == "cuda:0"
    assert timing.machine.dtype == "float16"
    weights = 2 * network.info.parameters if network.info else 0
    for cost in (timing.network, timing.prediction):
        assert cost.peak_memory is not None
        assert cost.peak_memory > weights
    with pytest.raises(ConfigError, match="too little memory"):
        benchmark(network, size=(8000, 8000), batch=64, seconds=0, progress=False)


@pytest.mark.cuda
@cuda
def test_cuda_table() -> None:
    timing = benchmark_table("fcn_hr18s_voc12aug_20k", seconds=0, progress=False)
    assert timing.machine.dtype == "float32"
    assert timing.training_memory is not None
    assert timing.training_memory > 1e9  # published: 1.8 GB


def four_bands() -> FCNHRNet:
    bands = ["red", "green", "blue", "nir"]
    return create_model("demo", pretrained=False, bands=bands, mean=[0] * 4, std=[1] * 4, device="cpu")


@pytest.mark.parametrize(
    ("call", "asked"),
    [
        (lambda model, _: benchmark(model), "benchmark demo"),
        (lambda model, _: compare(model), "compare demo on a street scene"),
        (lambda model, folder: hrnet_zoo.export(model, folder / "a.onnx"), "export demo to a.onnx"),
        (lambda model, folder: hrnet_zoo.predict_video(model, folder / "a.mp4"), "label the video"),
        (lambda model, _: hrnet_zoo.optimize(model, dtype=torch.int8), "optimize demo with 8 bits"),
        (lambda model, folder: load_labeler(str(model.save_pretrained(folder / "m"))), "compare "),
    ],
)
def test_what_is_for_rgb_alone_says_so(call: Callable[[FCNHRNet, Path], object], asked: str, tmp_path: Path) -> None:
    words = "the network takes images of the bands red, green, blue, nir, and not 8-bit RGB"
    with pytest.raises(ConfigError, match=words) as caught:
        call(four_bands(), tmp_path)
    assert asked in caught.value.asked
