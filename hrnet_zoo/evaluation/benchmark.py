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
from hrnet_zoo.images.read import RGB, keep_ratio_size, normalize
from hrnet_zoo.inference.predict import evaluating
from hrnet_zoo.models.fcn import FCNHRNet, require_network
from hrnet_zoo.zoo.catalog import ModelInfo, list_models, model_info
from hrnet_zoo.zoo.create import create_model

# Sizes (height, width) of the datasets' images. Cityscapes: all. The others differ from image to image: the
# commonest of Pascal VOC, on which Pascal Context rests, and 4:3 at the short side of ADE20K's test box.
IMAGES = {"cityscapes": (1024, 2048), "ade20k": (512, 683), "voc12aug": (375, 500), "pascal_context": (375, 500)}

ABOUT = {
    "network": "normalized tensors on the device -> scores at their size; no reading, resizing or argmax",
    "prediction": "model.predict of one image in memory -> mask: resize into the dataset's resize_to, network, argmax",
    "peak_memory": "first run. CUDA: peak that torch had allocated, weights included, its context and cache not. CPU: "
    "growth of the process's resident set, weights not included. None: this system does not tell",
    "times": "machines drift: compare only figures taken in one run, and not these with another day's",
}
TABLE_ABOUT = {
    "inference": "float32, batch 1: normalized tensor on the device -> mask at the image's size, all scores at once "
    "as the reference does; published on a V100. Random weights, noise for an image",
    "published_of": "the row of the same network and dataset that has figures; they do not depend on the schedule",
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
        height: of the images, in pixels.
        width: of the images, in pixels.
        batch: images that go through the network at once.
        network: normalized tensors to scores at their size, the whole batch.
        prediction: `model.predict` of one image of this size to its mask.
        prediction_input: (height, width) to which `model.predict` resizes it, for the dataset's box.

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
    def images_per_second(self) -> float:
        """Through the network, by the median."""
        return self.batch / self.network.median

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; "about" says what each figure is."""
        return {**asdict(self), "images_per_second": self.images_per_second, "about": ABOUT}


@dataclass(frozen=True)
class TableTiming:
    """The published table's Mem and fps columns, and what this machine gives under the same conditions.

    Attributes:
        model: catalog name.
        published_of: the row that has the figures, of the same network and dataset.
        published_fps: images per second on a V100.
        published_memory_gb: training memory of one GPU.
        machine: where the others were measured.
        image: (height, width) of a typical image of the dataset.
        network_input: (height, width) of the same in the dataset's box.
        sliding_window: whether windows slide over it.
        inference: normalized tensor of that size to mask at the image's size.
        crop: (height, width) of a training image.
        batch_per_gpu: training batch.
        training_memory: peak bytes of training steps; None where the system does not tell.

    """

    model: str
    published_of: str
    published_fps: float | None
    published_memory_gb: float | None
    machine: Machine
    image: tuple[int, int]
    network_input: tuple[int, int]
    sliding_window: bool
    inference: Cost
    crop: tuple[int, int]
    batch_per_gpu: int
    training_memory: int | None

    @property
    def fps(self) -> float:
        """Images per second, by the median."""
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
    """Measure a network on its own device, in its own dtype, with noise for images.

    The network alone and `model.predict` take turns, so that what else the machine does meets both alike.

    Args:
        model: the network; left as it was.
        size: (height, width) of the images; None: that of the dataset's images in its box.
        batch: images that go through the network at once. `model.predict` gets one.
        seconds: go on at least so long, and for at least 5 runs of each.
        progress: show a bar on a terminal.

    Raises:
        ConfigError: there are no images of this size, or the device's memory does not suffice.

    """
    require_network(model, "benchmark a network")
    height, width = usable_size(size or input_size(model.dataset), batch)
    weight = model.decode_head.conv_seg.weight
    image = noise(height, width)
    with evaluating(model) as network, raise_on_oom(f"benchmark {model.name} on {batch} x {height} x {width} pixels"):
        one = normalize(image).to(weight.device, weight.dtype)
        x = one.repeat(batch, 1, 1, 1).contiguous(memory_format=torch.channels_last)
        network(x[:1, :, :32, :32])  # touches all weights: mapped ones would count as memory of the first run
        costs = measure(
            {"network": lambda: network(x), "prediction": lambda: network.predict(image, progress=False)},
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
        prediction_input=keep_ratio_size(height, width, model.dataset.resize_to),
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
        IMAGES[info.dataset.key],
        input_size(info.dataset),
        info.dataset.sliding_window,
        inference,
        info.dataset.crop,
        info.dataset.batch_per_gpu,
        training_memory,
    )


def _time_inference(
    info: ModelInfo, device: str | torch.device | None, seconds: float, progress: bool
) -> tuple[Machine, Cost]:
    with raise_on_oom(f"the network of {info.name}"):
        model = create_model(info.name, pretrained=False, device=device, dtype=torch.float32)
    weight = model.decode_head.conv_seg.weight
    with evaluating(model) as network, raise_on_oom(f"the fps of {info.name}"):
        x = normalize(noise(*input_size(info.dataset))).to(weight.device, memory_format=torch.channels_last)
        runs = {"inference": lambda: infer(network, x, IMAGES[info.dataset.key])}
        return machine_of(weight), measure(runs, weight.device, seconds, progress)["inference"]


def infer(model: FCNHRNet, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Map a normalized tensor to a mask as the published fps was taken: all scores at full size, softmax, argmax.

    Args:
        model: the network, in eval mode.
        x: (1, 3, H, W) normalized RGB, on the model's device.
        size: (height, width) of the image.

    Returns:
        (1, height, width) class indices, int64, on the CPU.

    """
    scores = _slide(model, x) if model.dataset.sliding_window else model(x)
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
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)
    shape = (info.dataset.batch_per_gpu, *info.dataset.crop)
    x = torch.randn(shape[0], 3, *shape[1:], generator=random).to(device, memory_format=torch.channels_last)
    labels = torch.randint(info.num_classes, shape, generator=random).to(device)
    labels[:, :8] = 255
    for _ in Bar(range(2), desc="training", unit="step", disable=None if progress else True):
        optimizer.zero_grad(set_to_none=False)  # gradients stay allocated, as in PyTorch of 2020
        F.cross_entropy(model(x), labels, ignore_index=255).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def input_size(dataset: Dataset) -> tuple[int, int]:
    """Return the size of the dataset's images in its box; the whole box where no size is known."""
    long, short = dataset.resize_to
    return keep_ratio_size(*IMAGES.get(dataset.key, (short, long)), dataset.resize_to)


def noise(height: int, width: int) -> RGB:
    """Return an image of noise, always the same."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def _published(info: ModelInfo) -> ModelInfo:
    """Find the row that has the figures of this one's network and dataset: the table gives them once."""
    rows = [model_info(name) for name in list_models(arch=info.arch)]
    found = [row for row in rows if row.dataset is info.dataset and row.inference_fps is not None]
    if not found:
        raise ConfigError(
            asked=f"compare {info.name} with the published table",
            found="it has no row there",
            done="nothing was measured",
            advice="leave --table out (hrnet_zoo.benchmark), or name one of `hrnet-zoo list`",
        )
    return found[0]


def usable_size(size: tuple[int, int], batch: int) -> tuple[int, int]:
    """Return (height, width) if there are images of it.

    Raises:
        ConfigError: it is no size, or too large; or there is no such batch.

    """
    numbers = (*size, batch)
    whole = len(numbers) == 3 and all(isinstance(number, int) and number >= 1 for number in numbers)
    if not whole or size[0] * size[1] > MAX_PIXELS:
        raise ConfigError(
            asked=f"benchmark images of size={size} (height, width) with batch={batch}",
            found=f"whole numbers from 1, and at most {MAX_PIXELS:,} pixels, are what can be measured",
            done="nothing was measured",
            advice="choose such a size and batch, or leave them out",
        )
    return size
