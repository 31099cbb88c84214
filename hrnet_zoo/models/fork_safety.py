"""Refuse to compute in a fork of a process that has computed: it lacks torch's threads, and would hang."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from hrnet_zoo.errors import ConfigError

_computed_in: set[int] = set()  # ids of this process and those it was forked from


def refuse_after_fork(device: torch.device) -> None:
    """Raise ConfigError if computing would hang: with several CPU threads, in a fork of a process that has computed.

    So it does with GNU's OpenMP (libgomp), which torch's Linux packages contain. Only this library's own computations
    are known.
    """
    if device.type != "cpu" or torch.get_num_threads() == 1:
        return
    if _computed_in - {os.getpid()} and sys.platform == "linux" and "libgomp" in Path("/proc/self/maps").read_text():
        raise ConfigError(
            asked=f"compute with {torch.get_num_threads()} threads in process {os.getpid()}",
            found="it was forked after its parent had computed; it lacks the parent's threads, and would wait for them",
            done="nothing was computed",
            advice="start processes before the first prediction, or by multiprocessing.get_context('spawn'); or call "
            "torch.set_num_threads(1) first in the forked process",
        )
    _computed_in.add(os.getpid())
