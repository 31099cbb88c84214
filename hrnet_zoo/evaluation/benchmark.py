"""Network -> its speed and memory here, compared with the published table and with its optimized forms."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hrnet_zoo.datasets import Dataset
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.engines import onednn, openvino
from hrnet_zoo.engines.choice import candidates
from hrnet_zoo.engines.optimize import optimize
from hrnet_zoo.errors import ConfigError, printable, raise_on_oom
from hrnet_zoo.evaluation.costs import Machine, Measurement, machine_of, measure, peak_memory
from hrnet_zoo.images.figure import new_figure
from hrnet_zoo.images.formats import MAX_PIXELS
from hrnet_zoo.images.preprocess import keep_ratio_size, normalize, resize
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.images.read import RGB
from hrnet_zoo.inference.predict import evaluating, windows
from hrnet_zoo.models.fcn import FCNHRNet, require_network
from hrnet_zoo.zoo.catalog import ModelInfo, list_models, model_info
from hrnet_zoo.zoo.create import create_model

# Typical (height, width) of each dataset's images. Cityscapes and aerial images: of all. Pascal VOC and Pascal Context:
# the most frequent. ADE20K: 4:3 at its resize_to.
IMAGES = {
    "cityscapes": (1024, 2048),
    "ade20k": (512, 683),
    **dict.fromkeys(("voc12aug", "pascal_context", "pascal_context_59"), (375, 500)),
    "loveda": (1024, 1024),
    **dict.fromkeys(("potsdam", "vaihingen"), (512, 512)),
    "isaid": (896, 896),
}

_MEMORY = (
    "; minimum to maximum: seconds of repeated runs; peak_memory: of the first run; CUDA: allocated by torch, weights "
    "included; CPU: growth of resident memory, weights excluded"
)


@dataclass(frozen=True)
class _Figures:
    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON types; "about" explains them."""
        return asdict(self)


@dataclass(frozen=True)
class Timing(_Figures):
    """Result of `benchmark`. Sizes are (height, width) in pixels; `predict` resizes an image to `prediction_input`."""

    model: str
    random_weights: bool
    machine: Machine
    height: int
    width: int
    batch: int
    network: Measurement
    images_per_second: float
    prediction: Measurement
    prediction_input: tuple[int, int]
    about: str = (
        "network: normalized tensors on the device -> logits at full size; prediction: model.predict, image in memory "
        "-> mask" + _MEMORY
    )


@dataclass(frozen=True)
class TableTiming(_Figures):
    """Result of `benchmark_table`: fps and memory as published (GB) and as measured (bytes), and their conditions.

    Sizes are (height, width). `published_of` is the row, of the same network and dataset, that has the figures.
    """

    model: str
    published_of: str
    published_fps: float | None
    published_memory_gb: float | None
    machine: Machine
    image: tuple[int, int]
    network_input: tuple[int, int]
    sliding_window: bool
    inference: Measurement
    fps: float
    crop: tuple[int, int]
    batch_per_gpu: int
    training_memory: int | None
    about: str = (
        "inference: float32, batch 1, normalized tensor on the device -> mask by way of all logits; published: on a "
        "V100; training memory: two steps of SGD with momentum, float32, one process; published: of one of four GPUs, "
        "with the buffers of their communication" + _MEMORY
    )


@dataclass(frozen=True)
class Variant:
    """One form of a network in a comparison: `name` is "exact", the engine, or "torch.compile" (without `predict`).

    The speedups are over the exact network, by medians; `agreement` is the share (0 to 1) of the image's pixels that
    are labeled as by the exact network.
    """

    name: str
    dtype: str
    network: Measurement
    network_speedup: float
    prediction: Measurement | None
    prediction_speedup: float | None
    agreement: float | None


@dataclass(frozen=True)
class Comparison(_Figures):
    """Result of `compare`: the exact network first, what `optimize` takes, and reasons for what was skipped."""

    model: str
    random_weights: bool
    machine: Machine
    height: int
    width: int
    variants: tuple[Variant, ...]
    optimize_takes: str
    skipped: dict[str, str]
    about: str = (
        "network: normalized tensor on the device -> logits at stride 4; prediction: image in memory -> mask; the "
        "image is a generated street scene; with random weights fewer pixels agree than with trained ones" + _MEMORY
    )

    def save_plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the times and the shares of equal pixels as bars into a .png, .svg or .pdf file; an existing one goes.

        Raises:
            ConfigError: another ending, or matplotlib is not installed.
            OutputError: the file cannot be written.

        """
        figure, write = new_figure(path, f"the comparison of {self.model}", size=(8, 1.5 + 0.6 * len(self.variants)))
        times, shares = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        names = [f"{each.name}\n{each.dtype}" for each in self.variants]
        places = np.arange(len(names))
        parts = {
            "network": [1000 * each.network.median for each in self.variants],
            "image to mask": [1000 * each.prediction.median if each.prediction else 0 for each in self.variants],
        }
        for shift, (part, milliseconds) in zip((-0.2, 0.2), parts.items(), strict=True):
            bars = times.barh(places + shift, milliseconds, 0.4, label=part)
            times.bar_label(bars, [f"{each:.0f}" if each else "" for each in milliseconds], padding=2, fontsize=8)
        times.set(xlabel="median time in ms", yticks=places, yticklabels=names)
        times.margins(x=0.12)
        times.invert_yaxis()
        times.legend(fontsize=8)
        percent = [100 * (each.agreement or 0) for each in self.variants]
        bars = shares.barh(places, percent, 0.5, color="tab:green")
        shares.bar_label(bars, [f"{each:.2f}" if each else "" for each in percent], padding=2, fontsize=8)
        shares.set(xlabel="pixels labeled as by exact, in %", xlim=(min(99, *filter(None, percent)) - 0.5, 100.4))
        threads = f"{self.machine.threads} threads" if self.machine.device == "cpu" else self.machine.device
        lines = f"{self.model}, {self.height} x {self.width} pixels", f"{self.machine.device_name}, {threads}"
        figure.suptitle("\n".join(map(printable, lines)), parse_math=False, fontsize=10)
        write()


def benchmark(
    model: FCNHRNet,
    *,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    seconds: float = 3.0,
    progress: bool = True,
) -> Timing:
    """Measure a network and `model.predict`, on its own device, in its own dtype, with images of noise.

    Args:
        model: the network; it is left unchanged.
        size: (height, width) of the images; None: that of the dataset's images, resized.
        batch: images that go through the network at once. `model.predict` gets one.
        seconds: measure for about this time, but at least 5 runs of each.
        progress: show a bar on a terminal, else a line once a minute.

    Raises:
        ConfigError: `size` or `batch` is invalid, or the device has too little memory.

    """
    require_network(model, "benchmark a network")
    model.dataset.require_rgb(f"benchmark {model.name}")
    height, width = _checked_size(model, size, batch)
    image = noise(height, width)
    with evaluating(model) as network, raise_on_oom(f"benchmark {model.name} on {batch} x {height} x {width} pixels"):
        one = normalize(image).to(model.device, model.dtype)
        x = one.repeat(batch, 1, 1, 1).contiguous(memory_format=torch.channels_last)
        network(x[:1, :, :32, :32])  # reads memory-mapped weights, which would count as memory of the first run
        runs = {"network": lambda: network(x), "prediction": lambda: network.predict(image, progress=False)}
        costs = measure(runs, model.device, seconds, progress)
    return Timing(
        model.name,
        not model.provenance,
        machine_of(model),
        *(height, width, batch),
        network=costs["network"],
        images_per_second=batch / costs["network"].median,
        prediction=costs["prediction"],
        prediction_input=keep_ratio_size(height, width, model.dataset.resize_to),
    )


def benchmark_table(
    name: str, *, device: str | torch.device | None = None, seconds: float = 3.0, progress: bool = True
) -> TableTiming:
    """Measure a row's network under the conditions of the published table, with random weights: nothing is downloaded.

    The conditions are those of `tools/benchmark.py` and the configurations of mmsegmentation 0.x. The other arguments
    are those of `create_model` and `benchmark`.

    Raises:
        UnknownModelError: no row has this name.
        ConfigError: the model is not in the table, or the device cannot be used or has too little memory.

    """
    info = model_info(name)
    dataset, published = info.dataset, _published(info)
    # As published: no TF32, which the V100 lacks, and no search for the fastest kernels.
    with (
        torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False),
        raise_on_oom(f"benchmark {info.name} as the published table"),
    ):
        model = create_model(info.name, pretrained=False, device=device, dtype=torch.float32)
        machine, where = machine_of(model), model.device
        with evaluating(model) as network:
            x = normalize(noise(*input_size(dataset))).to(where, memory_format=torch.channels_last)
            runs = {"inference": partial(infer, network, x, IMAGES[dataset.key])}
            inference = measure(runs, where, seconds, progress)["inference"]
        del model, network, x, runs  # whose memory is not that of training
        training_memory = peak_memory(lambda: _train(info, where, progress), where)
    return TableTiming(
        info.name,
        published.name,
        published.inference_fps,
        published.train_memory_gb,
        machine,
        image=IMAGES[dataset.key],
        network_input=input_size(dataset),
        sliding_window=dataset.sliding_window,
        inference=inference,
        fps=1 / inference.median,
        crop=dataset.crop,
        batch_per_gpu=dataset.batch_per_gpu,
        training_memory=training_memory,
    )


def _published(info: ModelInfo) -> ModelInfo:
    """Return the row of the same network and dataset that has the published figures."""
    for row in map(model_info, list_models(arch=info.arch, method=info.method)):
        if row.dataset is info.dataset and row.inference_fps is not None:
            return row
    raise ConfigError(
        asked=f"compare {info.name} with the published table",
        found=f"the table has no figures of {info.arch} with {info.method} on {info.dataset.title}",
        done="nothing was measured",
        advice="leave --table out (hrnet_zoo.benchmark), or name one of `hrnet-zoo list`",
    )


def infer(model: FCNHRNet, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the mask (1, height, width) of a normalized tensor as for the published fps: all logits at full size."""
    logits = _slide(model, x) if model.dataset.sliding_window else model(x)
    if logits.shape[-2:] != size:
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    return F.softmax(logits, dim=1).argmax(dim=1).cpu()


def _slide(model: FCNHRNet, x: Tensor) -> Tensor:
    """Return the mean logits of overlapping windows: (N, 3, H, W) -> (N, classes, H, W)."""
    side, stride = model.dataset.window
    total = x.new_zeros(len(x), len(model.classes), *x.shape[-2:])
    count = x.new_zeros(1, 1, *x.shape[-2:])
    for rows, columns in product(*(windows(length, side, stride) for length in x.shape[-2:])):
        total[..., rows, columns] += model(x[..., rows, columns])
        count[..., rows, columns] += 1
    return total / count


def _train(info: ModelInfo, device: torch.device, progress: bool) -> None:
    """Take two training steps under the row's conditions, on noise; the second has momentum too."""
    random = torch.Generator().manual_seed(0)
    model = create_model(info.name, pretrained=False, device=device, dtype=torch.float32).train()
    # configs/_base_/schedules of mmsegmentation 0.x
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)
    shape = (info.dataset.batch_per_gpu, *info.dataset.crop)
    x = torch.randn(shape[0], 3, *shape[1:], generator=random).to(device, memory_format=torch.channels_last)
    labels = torch.randint(info.num_classes, shape, generator=random).to(device)
    labels[:, :8] = 255
    for _ in Bar(range(2), desc="training", unit="step", disable=None if progress else True):
        optimizer.zero_grad(set_to_none=False)  # gradients stay allocated, as in PyTorch of 2020
        losses = [F.cross_entropy(logits, labels, ignore_index=255) for logits in model.heads_logits(x)]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def compare(
    model: FCNHRNet,
    *,
    size: tuple[int, int] | None = None,
    compiled: bool = False,
    seconds: float = 3.0,
    progress: bool = True,
) -> Comparison:
    """Measure a network and all forms that `optimize` chooses from, in turns, on a generated street scene.

    Arguments and errors are those of `benchmark`; `compiled` adds `torch.compile`, which takes a minute to compile.
    """
    model.dataset.require_rgb(f"compare {model.name} on a street scene")
    height, width = _checked_size(model, size, 1)
    image = resize(scene(0).image, height, width)
    skipped = _skipped(model.device, compiled)
    agreements: dict[str, float] = {}
    with evaluating(model) as network, raise_on_oom(f"compare {model.name} on {height} x {width} pixels"):
        x = normalize(image).to(model.device, memory_format=torch.channels_last)
        exact = f"exact {_name(model.dtype)}"
        runs: dict[str, Callable[[], object]] = {
            f"network {exact}": partial(network.logits_stride4, x.to(model.dtype)),
            f"prediction {exact}": partial(network.predict, image),
        }
        mask = network.predict(image).mask
        for candidate in candidates(model.device):
            form = optimize(model, engine=candidate.engine, dtype=candidate.dtype)
            runs[f"network {candidate}"] = partial(form.logits_stride4, x.to(form.dtype))
            runs[f"prediction {candidate}"] = partial(form.predict, image)
            agreements[str(candidate)] = float((form.predict(image).mask == mask).mean())
        taken = optimize(model)
        if compiled:
            runs[f"network torch.compile {_name(model.dtype)}"] = partial(
                torch.compile(network.logits_stride4), x.to(model.dtype)
            )
        costs = measure(runs, model.device, seconds, progress)
    exact_network, exact_prediction = (costs[f"{kind} {exact}"].median for kind in ("network", "prediction"))
    variants = []
    for name in dict.fromkeys(run.partition(" ")[2] for run in runs):
        engine, _, dtype = name.partition(" ")
        cost, prediction = costs[f"network {name}"], costs.get(f"prediction {name}")
        speedups = exact_network / cost.median, exact_prediction / prediction.median if prediction else None
        variants.append(Variant(engine, dtype, cost, speedups[0], prediction, speedups[1], agreements.get(name)))
    return Comparison(
        model.name,
        not model.provenance,
        machine_of(model),
        *(height, width),
        tuple(variants),
        f"{taken.engine} {_name(taken.dtype)}",
        skipped,
    )


def _skipped(device: torch.device, compiled: bool) -> dict[str, str]:
    """Return what is not compared here, and why."""
    skipped = {} if compiled else {"torch.compile": "it takes a minute to compile; --compile includes it"}
    if device.type == "cpu":
        if not onednn.has_native_bfloat16():
            skipped["bfloat16"] = "this processor does not multiply in it"
        try:
            openvino.openvino()
        except ConfigError as error:  # not installed
            skipped["openvino"] = f"{error.found}; {error.advice}"
    return skipped


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def input_size(dataset: Dataset) -> tuple[int, int]:
    """Return the size to which the dataset's typical image is resized; `resize_to` where none is known."""
    long, short = dataset.resize_to
    return keep_ratio_size(*IMAGES.get(dataset.key, (short, long)), dataset.resize_to)


def noise(height: int, width: int) -> RGB:
    """Return an image of noise, always the same."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def _checked_size(model: FCNHRNet, size: tuple[int, int] | None, batch: int) -> tuple[int, int]:
    size = size or input_size(model.dataset)
    numbers = (*size, batch)
    whole = len(numbers) == 3 and all(isinstance(number, int) and number >= 1 for number in numbers)
    if not whole or size[0] * size[1] > MAX_PIXELS:
        raise ConfigError(
            asked=f"benchmark images of size={size} (height, width) with batch={batch}",
            found=f"all three must be whole numbers from 1, with at most {MAX_PIXELS:,} pixels per image",
            done="nothing was measured",
            advice="choose such a size and batch, or leave them out",
        )
    return size
