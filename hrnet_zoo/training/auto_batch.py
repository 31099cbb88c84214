"""The largest batch that fits into memory, found by updates of copies of the network."""

from __future__ import annotations

import copy
import gc
import os
from collections.abc import Callable
from dataclasses import replace

import torch

from hrnet_zoo.datasets.label_rules import IGNORE_INDEX
from hrnet_zoo.errors import ConfigError, raise_on_oom
from hrnet_zoo.evaluation.costs import available_memory, peak_memory
from hrnet_zoo.evaluation.ranks import Ranks
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.training.config import TrainingConfig, config_error
from hrnet_zoo.training.losses import Loss
from hrnet_zoo.training.update import Updater

# Of the free memory; the rest is for reading images, and for what a computation needs beside an update.
SHARE = 0.9
# On CPUs, batch norm over several processes keeps more for the backward pass; measured by tests/slow/test_auto_batch.py.
SYNC_FACTOR = 2.0


def largest_batch(
    network: FCNHRNet, config: TrainingConfig, loss: Loss, ranks: Ranks, most: int
) -> tuple[int, dict[str, int]]:
    """Return the largest power of two of images for each process whose update fits, and its peak memory in bytes.

    Doubled from 1 (or `config.accumulate`) to at most `most`, the same on all ranks. On a CPU, an update is tried only
    if twice the memory of the one before is free: where memory is overcommitted, the system would end the process.

    Raises:
        ConfigError: not even the smallest batch fits, or this system does not report its memory.

    """
    smallest = 1 << (config.accumulate - 1).bit_length()
    on_cpu = ranks.device.type == "cpu"
    free = min(ranks.all_gather(lambda: _free(ranks))) if on_cpu else 0
    factor = SYNC_FACTOR if on_cpu and ranks.size > 1 else 1.0
    fitting: tuple[int, dict[str, int]] | None = None
    number = smallest
    while number <= max(most, smallest):
        tried = number
        try:
            peak = max(ranks.all_gather(lambda: _update(network, config, loss, ranks, tried)))
        except ConfigError:
            if fitting is None:
                raise
            break
        finally:
            gc.collect()  # what the failed update held
        fitting = number, {"batch_per_process": number, "update_memory": peak}
        if on_cpu and 2 * factor * peak > free:
            break
        number *= 2
    if fitting is None:
        raise AssertionError  # the first try fits, or raises
    return fitting
