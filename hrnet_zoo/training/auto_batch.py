"""The largest batch that fits into memory, found by updates of copies of the network."""

from __future__ import annotations

import copy
import gc
import math
from dataclasses import replace
from functools import partial
from itertools import chain, count

import torch

from hrnet_zoo.errors import ConfigError, raise_on_oom
from hrnet_zoo.evaluation.costs import address_space_limit, available_memory, peak_memory, resident
from hrnet_zoo.evaluation.ranks import Ranks, environment_number
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.training.config import MIN_SIDE, TrainingConfig, config_error
from hrnet_zoo.training.losses import Loss
from hrnet_zoo.training.update import Updater

ADVICE = "a smaller crop; or accumulate, gradient_checkpointing, precision='bf16'"
SHARE = 0.9  # of the free memory; the rest is for images that are read ahead
SYNC_FACTOR = 1.6  # an update with `CPUSyncBatchNorm2d` beside one without: 1.38 and 1.45 were measured (W18-Small)
# Libraries and compiled kernels, which stay: the first update on a CPU took 122 (W18-Small) to 181 MB (W48) for them,
# and 100 MB of address space for the stack and heap of a second thread.
FIRST_UPDATE, THREAD = 250_000_000, 100_000_000
FRACTION = 1 / 64  # of the crop's pixels, tried first


def largest_batch(network: FCNHRNet, config: TrainingConfig, loss: Loss, ranks: Ranks, most: int) -> tuple[int, int]:
    """Return how many images of the crop's size each process can learn from in an update, and its peak memory in bytes.

    It is the largest power of two that fits in all processes: doubled from 1 (or enough for `config.accumulate`) while
    it is at most `most`. On a CPU, the system or a library may end a process without memory before there is an error:
    there a small crop is doubled to the whole one first, and each update is tried only if twice the memory of the one
    before is free.

    Raises:
        ConfigError: not even the smallest batch fits, or this system does not tell its memory.

    """
    on_cpu = ranks.device.type == "cpu"
    fitting, memory, peak, free, base = 0, 0, 0, 0, 0
    first = 1 << (config.accumulate - 1).bit_length()
    crops = _crops(config.crop) if on_cpu else [config.crop]
    if on_cpu:
        require_memory(ranks, (4 if config.ema else 3) * sum(each.nbytes for each in network.parameters()))
        ranks.all_gather(partial(_try_update, network, replace(config, crop=crops[0]), loss, ranks, first, 0))
        free = min(ranks.all_gather(lambda: _free_memory(ranks)))
        base = resident("VmSize") if address_space_limit() is not None else 0
    for crop, number in chain(((crop, first) for crop in crops), ((config.crop, first << n) for n in count(1))):
        if fitting and number > most:
            break
        try:
            if on_cpu and 2 * peak > free:
                what = f"an update with {number} images of {crop[0]} x {crop[1]} pixels"
                raise _too_little(what, 2 * peak, free)
            work = partial(_try_update, network, replace(config, crop=crop), loss, ranks, number, base)
            peak = max(ranks.all_gather(work))
        except ConfigError:
            if not fitting:
                raise
            break
        if crop == config.crop:
            fitting, memory = number, peak
    return fitting, memory


def _crops(crop: tuple[int, int]) -> list[tuple[int, int]]:
    """Return crops of twice as many pixels each, up to the whole one."""
    crops = [crop]
    while max(crops[0]) >= 2 * MIN_SIDE and math.prod(crops[0]) > FRACTION * math.prod(crop):
        height, width = crops[0]
        crops.insert(0, (height, -(-width // 2)) if width >= height else (-(-height // 2), width))
    return crops


def require_memory(ranks: Ranks, weights: int = 0) -> None:
    """Raise ConfigError unless the memory for a first update on a CPU is free, with bytes for all copies of weights."""
    threads = (torch.get_num_threads() - 1) * THREAD if address_space_limit() is not None else 0
    needed, free = FIRST_UPDATE + threads + weights, min(ranks.all_gather(lambda: _free_memory(ranks)))
    if needed > free:
        raise _too_little("a first update", needed, free)


def _too_little(what: str, needed: int, free: int) -> ConfigError:
    found = f"the device has too little memory: {what} may take {needed / 1e9:.2f} GB; {free / 1e9:.2f} GB are free"
    return config_error("with batch='auto'", found, f"{ADVICE}; or name the number of images, which is tried unchecked")


def _free_memory(ranks: Ranks) -> int:
    """Return the bytes that this process may take on a CPU."""
    free = available_memory()
    if free is None:
        found, advice = "this system does not tell how much memory is free", "name the number of images"
        raise config_error("with batch='auto' on a CPU", found, advice)
    sharing = environment_number("LOCAL_WORLD_SIZE", str(ranks.size), range(1, ranks.size + 1))
    return int(SHARE * free / sharing / (SYNC_FACTOR if ranks.size > 1 else 1))


def _try_update(network: FCNHRNet, config: TrainingConfig, loss: Loss, ranks: Ranks, number: int, base: int) -> int:
    """Do an update of a copy of the network with noise; return its peak memory.

    `base` is the address space before all updates, or 0 if it has no limit.
    """
    alone = Ranks(0, 1, ranks.device)  # ranks that wait for the sums of one without memory would wait for ever

    def update() -> None:
        generator = torch.Generator("cpu").manual_seed(0)
        channels = network.backbone.conv1.weight.shape[1]
        images = torch.randn((number, channels, *config.crop), generator=generator, device="cpu")
        labels = torch.randint(len(config.classes), (number, *config.crop), generator=generator, device="cpu")
        Updater(copy.deepcopy(network), config, loss, alone).update(images, labels)

    devices = [ranks.device] if ranks.device.type == "cuda" else []
    with (
        raise_on_oom(
            f"fine-tune with {number} images of {config.crop[0]} x {config.crop[1]} pixels",
            done="nothing was computed",
            advice=ADVICE,
        ),
        torch.random.fork_rng(devices),  # from which a loss of the user's may draw
    ):
        peak = peak_memory(update, ranks.device)
    gc.collect()
    if peak is None:
        raise config_error("with batch='auto'", "this system does not tell how much memory is used")
    # Where it is limited, address space ends before memory: threads and allocators reserve more than they use.
    return max(peak, resident("VmPeak") - base) if base else peak
