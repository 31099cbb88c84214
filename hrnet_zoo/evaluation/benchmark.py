"""Speed and memory of a network on this machine, alone and beside the published table's columns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hrnet_zoo.datasets import Dataset
from hrnet_zoo.errors import ConfigError, raise_on_oom
from hrnet_zoo.evaluation.costs import Cost, Machine, machine_of, measure, peak_memory
from hrnet_zoo.images.headers import MAX_PIXELS
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.images.read import RGB, keep_ratio_size, normalise
from hrnet_zoo.inference.predict import evaluating
from hrnet_zoo.models.fcn import FCNHRNet, require_network
from hrnet_zoo.zoo.catalog import ModelInfo, list_models, model_info
from hrnet_zoo.zoo.create import create_model

# Sizes (height, width) of the data sets' pictures. Cityscapes: all. The others differ from picture to picture: the
# commonest of Pascal VOC, on which Pascal Context rests, and 4:3 at the short side of ADE20K's test box.
PICTURES = {"cityscapes": (1024, 2048), "ade20k": (512, 683), "voc12aug": (375, 500), "pascal_context": (375, 500)}

ABOUT = {
    "network": "normalised tensors on the device -> scores at their size; no reading, resizing or argmax",
    "prediction": "model.predict of one picture in memory -> mask: resize into the data set's box, network, argmax",
    "peak_memory": "first run. CUDA: peak that torch had allocated, weights included, its context and cache not. CPU: "
    "growth of the process's resident set, weights not included. None: this system does not tell",
    "times": "machines drift: compare only figures taken in one run, and not these with another day's",
}
TABLE_ABOUT = {
    "inference": "float32, batch 1: normalised tensor on the device -> mask at the picture's size, all scores at once "
    "as the reference does; published on a V100. Random weights, noise for a picture",
    "published_of": "the row of the same network and data set that has figures; they do not depend on the schedule",
    "training_memory": "forward, cross-entropy, backward and SGD with momentum, float32, one process: bytes at "
    "the peak, with weights, gradients and momentum. Published: GB (10^9 or 2^30 bytes) of one GPU of four, with what "
    "these exchange",
    "peak_memory": ABOUT["peak_memory"],
    "times": ABOUT["times"],
}


@dataclass(frozen=True)
class Timing:
    """What `benchmark` found.

    Attributes:
        model: catalog name, or the network's own where there is no row.
        random_weights: the weights come from no file; speed and memory do not depend on it.
        machine: where.
        height: of the pictures, in pixels.
        width: of the pictures, in pixels.
        batch: pictures that go through the network at once.
        network: normalised tensors to scores at their size, the whole batch.
        prediction: `model.predict` of one picture of this size to its mask.
        prediction_input: (height, width) to which `model.predict` resizes it, for the data set's box.

    """

    model: str
    random_weights: bool
    machine: Machine
    height: int
    width: int
    batch: int
    network: Cost
    prediction: Cost
    prediction_input: tuple[int, int]

    @property
    def pictures_per_second(self) -> float:
        """Through the network, by the median."""
        return self.batch / self.network.median

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; "about" says what each figure is."""
        return {**asdict(self), "pictures_per_second": self.pictures_per_second, "about": ABOUT}


@dataclass(frozen=True)
class TableTiming:
    """The published table's Mem and fps columns, and what this machine gives under the same conditions.

    Attributes:
        model: catalog name.
        published_of: the row that has the figures, of the same network and data set.
        published_fps: pictures per second on a V100.
        published_memory_gb: training memory of one GPU.
        machine: where the others were measured.
        picture: (height, width) of a typical picture of the data set.
        network_input: (height, width) of the same in the data set's box.
        slides: whether windows slide over it.
        inference: normalised tensor of that size to mask at the picture's size.
        crop: (height, width) of a training picture.
        pictures_per_gpu: training batch.
        training_memory: peak bytes of training steps; None where the system does not tell.

    """

    model: str
    published_of: str
    published_fps: float | None
    published_memory_gb: float | None
    machine: Machine
    picture: tuple[int, int]
    network_input: tuple[int, int]
    slides: bool
    inference: Cost
    crop: tuple[int, int]
    pictures_per_gpu: int
    training_memory: int | None

    @property
    def fps(self) -> float:
        """Pictures per second, by the median."""
        return 1 / self.inference.median

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; "about" says what each figure is and is not."""
        return {**asdict(self), "fps": self.fps, "about": TABLE_ABOUT}


def benchmark(
    model: FCNHRNet,
    *,
    size: tuple[int, int] | None = None,
    batch: int = 1,
    seconds: float = 3.0,
    progress: bool = True,
) -> Timing:
    """Measure a network on its own device, in its own dtype, with noise for pictures.

    The network alone and `model.predict` take turns, so that what else the machine does meets both alike.

    Args:
        model: the network; left as it was.
        size: (height, width) of the pictures; None: that of the data set's pictures in its box.
        batch: pictures that go through the network at once. `model.predict` gets one.
        seconds: go on at least so long, and for at least 5 runs of each.
        progress: show a bar on a terminal.

    Raises:
        ConfigError: there are no pictures of this size, or the device's memory does not suffice.

    """
    require_network(model, "benchmark a network")
    height, width = usable_size(size or input_size(model.dataset), batch)
    weight = model.decode_head.conv_seg.weight
    picture = noise(height, width)
    with evaluating(model) as network, raise_on_oom(f"benchmark {model.name} on {batch} x {height} x {width} pixels"):
        one = normalise(picture).to(weight.device, weight.dtype)
        x = one.repeat(batch, 1, 1, 1).contiguous(memory_format=torch.channels_last)
        network(x[:1, :, :32, :32])  # touches all weights: mapped ones would count as memory of the first run
        costs = measure(
            {"network": lambda: network(x), "prediction": lambda: network.predict(picture, progress=False)},
            weight.device,
            seconds,
            progress,
        )
    return Timing(
        model.name,
        not model.provenance,
        machine_of(weight),
        *(height, width, batch),
        costs["network"],
        costs["prediction"],
        prediction_input=keep_ratio_size(height, width, model.dataset.box),
    )


def benchmark_table(
    name: str, *, device: str | torch.device | None = None, seconds: float = 3.0, progress: bool = True
) -> TableTiming:
    """Measure a row's network under the conditions of the published table: needs no download, weights are random.

    Source of the conditions: `tools/benchmark.py`, and the configurations of mmsegmentation 0.x.

    Args:
        name: catalog name or alias.
        device: None: CUDA if there is one, else the CPU.
        seconds: time inference at least so long, and for at least 5 runs.
        progress: show a bar on a terminal.

    Raises:
        UnknownModelError: no row has this name.
        ConfigError: the model is not in the table, or the device cannot be used or has too little memory.

    """
    info = model_info(name)
    published = _published(info)
    # As published: no TF32, which the V100 lacks, and no search for the fastest kernels.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
        machine, inference = _time_inference(info, device, seconds, progress)
        where = torch.device(machine.device)
        with raise_on_oom(f"two training steps of {info.name}"):
            training_memory = peak_memory(lambda: _train(info, where, progress), where)
    return TableTiming(
        info.name,
        published.name,
        published.inference_fps,
        published.train_memory_gb,
        machine,
        PICTURES[info.data.key],
        input_size(info.data),
        info.data.slides,
        inference,
        info.data.crop,
        info.data.pictures_per_gpu,
        training_memory,
    )


def _time_inference(
    info: ModelInfo, device: str | torch.device | None, seconds: float, progress: bool
) -> tuple[Machine, Cost]:
    with raise_on_oom(f"the network of {info.name}"):
        model = create_model(info.name, pretrained=False, device=device, dtype=torch.float32)
    weight = model.decode_head.conv_seg.weight
    with evaluating(model) as network, raise_on_oom(f"the fps of {info.name}"):
        x = normalise(noise(*input_size(info.data))).to(weight.device, memory_format=torch.channels_last)
        runs = {"inference": lambda: infer(network, x, PICTURES[info.data.key])}
        return machine_of(weight), measure(runs, weight.device, seconds, progress)["inference"]


def infer(model: FCNHRNet, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Normalised tensor to mask as the published fps was taken: all scores at full size, softmax, argmax.

    Args:
        model: the network, in eval mode.
        x: (1, 3, H, W) normalised RGB, on the model's device.
        size: (height, width) of the picture.

    Returns:
        (1, height, width) class indices, int64, on the CPU.

    """
    scores = _slide(model, x) if model.dataset.slides else model(x)
    if scores.shape[-2:] != size:
        scores = F.interpolate(scores, size, mode="bilinear", align_corners=False)
    return F.softmax(scores, dim=1).argmax(dim=1).cpu()


def _slide(model: FCNHRNet, x: Tensor) -> Tensor:
    """Score overlapping windows and average: (N, 3, H, W) -> (N, classes, H, W)."""
    side, stride = model.dataset.window
    total = x.new_zeros(len(x), len(model.classes), *x.shape[-2:])
    count = x.new_zeros(1, 1, *x.shape[-2:])
    for top, left in product(*(_starts(length, side, stride) for length in x.shape[-2:])):
        window = (..., slice(top, top + side), slice(left, left + side))
        total[window] += model(x[window])
        count[window] += 1
    return total / count


def _starts(length: int, side: int, stride: int) -> list[int]:
    """Where windows begin; the last one is shifted back inside."""
    last = max(length - side, 0)
    return [min(start, last) for start in range(0, last + stride, stride)]


def _train(info: ModelInfo, device: torch.device, progress: bool) -> None:
    """Take two training steps as the row's were, on noise; from the second on the momentum is there too."""
    random = torch.Generator().manual_seed(0)
    model = create_model(info.name, pretrained=False, device=device, dtype=torch.float32).train()
    # configs/_base_/schedules of mmsegmentation 0.x
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)
    shape = (info.data.pictures_per_gpu, *info.data.crop)
    x = torch.randn(shape[0], 3, *shape[1:], generator=random).to(device, memory_format=torch.channels_last)
    labels = torch.randint(info.num_classes, shape, generator=random).to(device)
    labels[:, :8] = 255
    for _ in Bar(range(2), desc="training", unit="step", disable=None if progress else True):
        optimiser.zero_grad(set_to_none=False)  # gradients stay allocated, as in PyTorch of 2020
        F.cross_entropy(model(x), labels, ignore_index=255).backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def input_size(dataset: Dataset) -> tuple[int, int]:
    """Return the size of the data set's pictures in its box; the whole box where no size is known."""
    long, short = dataset.box
    return keep_ratio_size(*PICTURES.get(dataset.key, (short, long)), dataset.box)


def noise(height: int, width: int) -> RGB:
    """Return a picture of noise, always the same."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def _published(info: ModelInfo) -> ModelInfo:
    """Find the row that has the figures of this one's network and data set: the table gives them once."""
    rows = [model_info(name) for name in list_models(arch=info.arch)]
    found = [row for row in rows if row.data is info.data and row.inference_fps is not None]
    if not found:
        raise ConfigError(
            asked=f"compare {info.name} with the published table",
            found="it has no row there",
            done="nothing was measured",
            advice="leave --table out (hrnet_zoo.benchmark), or name one of `hrnet-zoo list`",
        )
    return found[0]


def usable_size(size: tuple[int, int], batch: int) -> tuple[int, int]:
    """Return (height, width) if there are pictures of it.

    Raises:
        ConfigError: it is no size, or too large; or there is no such batch.

    """
    numbers = (*size, batch)
    whole = len(numbers) == 3 and all(isinstance(number, int) and number >= 1 for number in numbers)
    if not whole or size[0] * size[1] > MAX_PIXELS:
        raise ConfigError(
            asked=f"benchmark pictures of size={size} (height, width) with batch={batch}",
            found=f"whole numbers from 1, and at most {MAX_PIXELS:,} pixels, are what can be measured",
            done="nothing was measured",
            advice="choose such a size and batch, or leave them out",
        )
    return size
