"""Function -> Measurement: its time and peak memory on this machine."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hrnet_zoo.engines.choice import processor
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.models.base import SegmentationModel

MIN_RUNS = 5


@dataclass(frozen=True)
class Machine:
    """The machine of a measurement."""

    device: str
    device_name: str
    dtype: str
    threads: int
    torch: str


@dataclass(frozen=True)
class Measurement:
    """Seconds of repeated runs, with percentiles, and peak bytes of the first run (None where they are unknown)."""

    runs: int
    minimum: float
    p10: float
    median: float
    p90: float
    maximum: float
    peak_memory: int | None


def peak_memory(run: Callable[[], object], device: torch.device) -> int | None:
    """Run a function once and return its peak memory in bytes; None where the system does not report it.

    CUDA: the most that torch had allocated on the device, earlier allocations included. CPU, on Linux: how far the
    resident set of the process rose, to within tens of MB.
    """
    gc.collect()
    before = None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu":
        _return_free_memory()
        with suppress(OSError):  # not Linux, or a sandbox that forbids it
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak: proc(5)
            before = resident("VmRSS")
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    return None if before is None else max(0, resident("VmHWM") - before)


def _return_free_memory() -> None:
    """Let glibc give the system what it holds in reserve: it is resident, and would be used again unnoticed."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process can still take on Linux; None elsewhere.

    The least of what the machine has (MemAvailable), of what the limits of its control groups (version 1 or 2) leave,
    and of what RLIMIT_AS leaves. `root` is where `proc` and `sys` are found.
    """
    try:
        machine = (root / "proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return None
    left = [int(machine.partition("MemAvailable:")[2].split()[0]) * 1024]
    for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            first = controllers == "memory"
            home = root / "sys/fs/cgroup" / controllers
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if first else ("memory.max", "memory.current")
            group = home / path.lstrip("/")
            for folder in (group, *group.parents):
                with suppress(OSError, ValueError):  # there is no such file, or no limit: "max"
                    limit, used = (int((folder / name).read_text(encoding="utf-8")) for name in names)
                    stat = dict(each.split() for each in (folder / "memory.stat").read_text("utf-8").splitlines())
                    # Cached pages of idle files count as used; the kernel frees them when memory is short.
                    left.append(limit - used + int(stat["total_inactive_file" if first else "inactive_file"]))
                if folder == home:
                    break
    if (address_space := address_space_limit()) is not None:
        left.append(address_space - resident("VmSize"))
    return max(0, min(left))


def address_space_limit() -> int | None:
    """Return RLIMIT_AS in bytes, if this process has such a limit, on Linux."""
    if sys.platform != "linux":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def resident(field: str) -> int:
    """Return this process's resident bytes ("VmRSS"), their peak ("VmHWM"), or address space, on Linux."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024


def measure(
    runs: Mapping[str, Callable[[], object]], device: torch.device, seconds: float, progress: bool
) -> dict[str, Measurement]:
    """Run each function once for its memory, then all in turns for their time: about `seconds`, at least `MIN_RUNS`.

    In turns, because separate runs differ by 10 to 25 % with what else the machine does. A turn is two runs, of which
    the second is timed, so that no function finds the caches as another left them.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    peaks: dict[str, int | None] = {}
    total = len(runs) * (1 + 2 * MIN_RUNS)
    with Bar(desc="benchmark", total=total, unit="run", disable=None if progress else True) as bar:
        for name, run in runs.items():
            peaks[name] = peak_memory(run, device)
            bar.update()
        start, rounds, done = time.perf_counter(), MIN_RUNS, 0
        while done < rounds:
            for name, run in runs.items():
                run()
                times[name].append(_seconds(run, device))
                bar.update(2)
            done += 1
            if done == 1:
                rounds = max(MIN_RUNS, math.ceil(seconds / (time.perf_counter() - start)))
                bar.total = len(runs) * (1 + 2 * rounds)
    found = {}
    for name, each in times.items():
        minimum, p10, median, p90, maximum = np.percentile(each, (0, 10, 50, 90, 100)).tolist()
        found[name] = Measurement(len(each), minimum, p10, median, p90, maximum, peaks[name])
    return found


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def machine_of(model: SegmentationModel) -> Machine:
    """Return where a network runs."""
    device, dtype = model.device, str(model.dtype).removeprefix("torch.")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return Machine(str(device), name, dtype, torch.get_num_threads(), torch.__version__)


def busy_words() -> str | None:
    """Return a warning if other processes keep the processors busy while this one computes with several threads."""
    # Threads wait for each other: on two busy cores a training step took 62 s with two threads, and 1.6 s with one.
    load, processors = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    if torch.get_num_threads() == 1 or load <= 1.5 * processors:
        return None
    return (
        f"this machine is busy (load {load:.1f} on {processors} processors), where threads wait for each other: "
        "OMP_NUM_THREADS=1 may be much faster"
    )
