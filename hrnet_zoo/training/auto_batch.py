"""The largest batch that fits into memory, found by updates of copies of the network."""

from __future__ import annotations

import copy
import gc
from functools import partial

import torch

from hrnet_zoo.errors import ConfigError, raise_on_oom
from hrnet_zoo.evaluation.costs import address_space_limit, available_memory, peak_memory, resident
from hrnet_zoo.evaluation.ranks import Ranks, environment_number
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.training.config import TrainingConfig, config_error
from hrnet_zoo.training.losses import Loss
from hrnet_zoo.training.update import Updater

SHARE = 0.9  # of the free memory; the rest is for images that are read ahead
SYNC_FACTOR = 1.6  # an update with `CPUSyncBatchNorm2d` beside one without: 1.38 and 1.45 were measured (W18-Small)


def largest_batch(network: FCNHRNet, config: TrainingConfig, loss: Loss, ranks: Ranks, most: int) -> tuple[int, int]:
    """Return how many images of the crop's size each process can learn from in an update, and its peak memory in bytes.

    It is the largest power of two that fits in all processes: doubled from 1 (or enough for `config.accumulate`) while
    it is at most `most`. On a CPU, an update is tried only if twice the memory of the one before is free: where memory
    is overcommitted, the system would end the process.

    Raises:
        ConfigError: not even the smallest batch fits, or this system does not tell its memory.

    """
    on_cpu = ranks.device.type == "cpu"
    free = min(ranks.all_gather(lambda: _free_memory(ranks))) if on_cpu else 0
    fitting, memory, number = 0, 0, 1 << (config.accumulate - 1).bit_length()
    while not fitting or number <= most:
        try:
            peak = max(ranks.all_gather(partial(_try_update, network, config, loss, ranks, number)))
        except ConfigError:
            if not fitting:
                raise
            break
        fitting, memory, number = number, peak, 2 * number
        if on_cpu and 2 * peak > free:
            break
    return fitting, memory


def _free_memory(ranks: Ranks) -> int:
    """Return the bytes that this process may take on a CPU."""
    free = available_memory()
    if free is None:
        found, advice = "this system does not tell how much memory is free", "name the number of images"
        raise config_error("with batch='auto' on a CPU", found, advice)
    sharing = environment_number("LOCAL_WORLD_SIZE", str(ranks.size), range(1, ranks.size + 1))
    return int(SHARE * free / sharing / (SYNC_FACTOR if ranks.size > 1 else 1))


def _try_update(network: FCNHRNet, config: TrainingConfig, loss: Loss, ranks: Ranks, number: int) -> int:
    """Do an update of a copy of the network with noise; return its peak memory."""
    alone = Ranks(0, 1, ranks.device)  # ranks that wait for the sums of one without memory would wait for ever

    def update() -> None:
        generator = torch.Generator("cpu").manual_seed(0)
        channels = network.backbone.conv1.weight.shape[1]
        images = torch.randn((number, channels, *config.crop), generator=generator, device="cpu")
        labels = torch.randint(len(config.classes), (number, *config.crop), generator=generator, device="cpu")
        Updater(copy.deepcopy(network), config, loss, alone).update(images, labels)

    before = resident("VmSize") if ranks.device.type == "cpu" and address_space_limit() is not None else 0
    devices = [ranks.device] if ranks.device.type == "cuda" else []
    with (
        raise_on_oom(
            f"fine-tune with {number} images of {config.crop[0]} x {config.crop[1]} pixels",
            done="nothing was computed",
            advice="a smaller crop; or accumulate, gradient_checkpointing, precision='bf16'",
        ),
        torch.random.fork_rng(devices),  # from which a loss of the user's may draw
    ):
        peak = peak_memory(update, ranks.device)
    gc.collect()
    if peak is None:
        raise config_error("with batch='auto'", "this system does not tell how much memory is used")
    # Where it is limited, address space ends before memory: threads and allocators reserve more than they use.
    return max(peak, resident("VmPeak") - before) if before else peak
