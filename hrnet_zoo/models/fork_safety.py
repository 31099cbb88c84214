"""Refuse to compute in a fork of a process that has: the threads of torch are missing there, and it would hang."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from hrnet_zoo.errors import ConfigError

_computed_in: set[int] = set()  # ids of this process and those it was forked from


def refuse_after_fork(device: torch.device) -> None:
    """Raise ConfigError if computing on a CPU with several threads would hang, in a fork of a process that did.

    It would with GNU's OpenMP (libgomp), which torch's packages for Linux contain. Only what this library computed is
    known.
    """
    if device.type != "cpu" or torch.get_num_threads() == 1:
        return
    if _computed_in - {os.getpid()} and sys.platform == "linux" and "libgomp" in Path("/proc/self/maps").read_text():
        raise ConfigError(
            asked=f"compute with {torch.get_num_threads()} threads in process {os.getpid()}",
            found="it was forked after its parent had computed, whose threads it lacks and would wait for",
            done="nothing was computed",
            advice="start processes before the first prediction, or by multiprocessing.get_context('spawn'); or call "
            "torch.set_num_threads(1) first in the forked process",
        )
    _computed_in.add(os.getpid())
