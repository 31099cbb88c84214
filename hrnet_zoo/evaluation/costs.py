"""What a run costs on this machine: seconds and bytes, measured."""

from __future__ import annotations

import gc
import math
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hrnet_zoo.engines import heap
from hrnet_zoo.images.progress import Bar

MIN_RUNS = 5


@dataclass(frozen=True)
class Machine:
    """Where something was measured: device and its name, dtype, CPU threads, torch's version."""

    device: str
    device_name: str
    dtype: str
    threads: int
    torch: str


@dataclass(frozen=True)
class Cost:
    """What repeated runs took: seconds, 10th and 90th percentile among them, and bytes of the first run (or None)."""

    runs: int
    minimum: float
    p10: float
    median: float
    p90: float
    maximum: float
    peak_memory: int | None


def peak_memory(run: Callable[[], object], device: torch.device) -> int | None:
    """Run something once and return the bytes that it took at its peak; None where the system does not tell.

    CUDA: the most that torch had allocated on the device, what was there before included. CPU: how far the resident
    set of the whole process rose above what it was before; known on Linux. Other devices do not tell.
    """
    gc.collect()
    if device.type == "cuda":
        _finish(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        _finish(device)
        return torch.cuda.max_memory_allocated(device)
    before = _forget_resident_peak() if device.type == "cpu" else None
    run()
    peak = resident("VmHWM") if before is not None else None
    return None if before is None or peak is None else max(0, peak - before)


def measure(
    runs: Mapping[str, Callable[[], object]], device: torch.device, seconds: float, progress: bool
) -> dict[str, Cost]:
    """Run each of several things once for its memory, then all in turns for their time.

    In turns, so that what else the machine does meets all alike: separate runs differ by 10 to 25 %. A turn is two
    runs, of which the second is timed: none finds the caches and the memory as another left them.

    Args:
        runs: what to run, by name.
        device: where it runs; on CUDA the clock stops when the device has finished.
        seconds: go on at least so long, and for `MIN_RUNS` of each.
        progress: show a bar on a terminal.

    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    peaks: dict[str, int | None] = {}
    turn = 2 * len(runs)
    with Bar(
        desc="benchmark", total=len(runs) + MIN_RUNS * turn, unit="run", disable=None if progress else True
    ) as bar:
        for name, run in runs.items():
            peaks[name] = peak_memory(run, device)
            bar.update()
        start, spent, rounds = time.perf_counter(), 0.0, 0
        while rounds < MIN_RUNS or spent < seconds:
            for name, run in runs.items():
                run()
                taken[name].append(_seconds(run, device))
                bar.update(2)
            rounds += 1
            left = max(
                MIN_RUNS - rounds, math.ceil((seconds - (spent := time.perf_counter() - start)) / (spent / rounds))
            )
            bar.total = bar.n + turn * max(left, 0)
    return {name: _cost(times, peaks[name]) for name, times in taken.items()}


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    _finish(device)
    start = time.perf_counter()
    run()
    _finish(device)
    return time.perf_counter() - start


def _finish(device: torch.device) -> None:
    """Wait for what was started: CUDA goes on after a call has returned."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _cost(times: Sequence[float], peak: int | None) -> Cost:
    minimum, p10, median, p90, maximum = (float(each) for each in np.percentile(times, (0, 10, 50, 90, 100)))
    return Cost(len(times), minimum, p10, median, p90, maximum, peak)


def _forget_resident_peak() -> int | None:
    """Set this process's peak of resident memory to what is resident now, and return that."""
    heap.trim()  # what malloc keeps of freed memory is resident, and would be used again unseen
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5)
    except OSError:  # no Linux, or a sandbox that forbids it
        return None
    return resident("VmRSS")


def resident(field: str) -> int | None:
    """Return this process's resident bytes ("VmRSS") or their peak ("VmHWM"); None where the system does not tell."""
    line = re.search(rf"^{field}:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
    return int(line[1]) * 1024 if line else None


def machine_of(weight: Tensor) -> Machine:
    """Describe where a network runs, by one of its weights."""
    device = weight.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    dtype = str(weight.dtype).removeprefix("torch.")
    return Machine(str(device), name, dtype, torch.get_num_threads(), torch.__version__)


def busy_words() -> str | None:
    """Say that other processes keep the processors busy, where this one computes with several threads.

    None: they do not.

    Threads of one step wait for each other: measured on two busy cores, an update of a training took 62 s with two
    threads and 1.6 s with one.
    """
    load, processors = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    if torch.get_num_threads() == 1 or load <= 1.5 * processors:
        return None
    return (
        f"this machine is busy (load {load:.1f} on {processors} processors), where threads wait for each other: "
        "OMP_NUM_THREADS=1 may be much faster"
    )


def processor() -> str:
    """Name the CPU; on Linux `platform` does not know it."""
    with suppress(OSError):
        if line := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE):
            return line[1]
    return platform.processor() or platform.machine()
