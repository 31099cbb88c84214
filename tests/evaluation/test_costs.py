"""Seconds and bytes: what is counted, and in which order; never how long it took."""

import io
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hrnet_zoo.errors import ConfigError, raise_on_oom
from hrnet_zoo.evaluation.costs import MIN_RUNS, available_memory, machine_of, measure, peak_memory
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.zoo.create import create_model

CPU = torch.device("cpu")
MEGABYTE = 1_000_000
tells = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="this system does not tell the peak of resident memory"
)


def fill(megabytes: int) -> None:
    """Use memory and give it back."""
    np.ones(megabytes * MEGABYTE, np.uint8)


@tells
def test_memory_is_that_of_the_run() -> None:
    """Within 100 MB: Linux counts resident pages per processor, and may free some meanwhile."""
    for megabytes in (0, 200, 800):
        peak = peak_memory(lambda n=megabytes: fill(n), CPU)  # type: ignore[misc]
        assert peak is not None
        assert abs(peak - megabytes * MEGABYTE) < 100 * MEGABYTE


@tells
def test_memory_freed_before_is_not_taken_for_free() -> None:
    """In a process of its own: what a large one holds besides, the system may take back in the meantime."""
    code = """
import torch
from hrnet_zoo.evaluation.costs import peak_memory

def small_blocks():
    [bytearray(b"x" * 50_000) for _ in range(8_000)]

print(*(peak_memory(small_blocks, torch.device("cpu")) for _ in range(3)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)  # noqa: S603
    assert all(int(peak) > 300 * MEGABYTE for peak in done.stdout.split())
    assert len(done.stdout.split()) == 3


GROUPS_1 = "5:cpu,cpuacct:/elsewhere\n3:memory:/docker/abc\n"


def write_system(root: Path, groups: str, files: dict[str, str]) -> Path:
    files = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n", "proc/self/cgroup": groups, **files}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
@pytest.mark.parametrize(
    ("groups", "folder", "limit", "used", "stat", "expected"),
    [
        ("0::/a/b", "sys/fs/cgroup/a/b", "memory.max", "memory.current", "inactive_file 500\nanon 9", 5500),
        ("0::/a/b", "sys/fs/cgroup/a", "memory.max", "memory.current", "inactive_file 0", 5000),
        ("0::/a/b", "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file 0", 5000),
        (
            GROUPS_1,
            "sys/fs/cgroup/memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file 1",
            5001,
        ),
    ],
)
def test_free_memory_is_what_control_groups_leave(
    tmp_path: Path, groups: str, folder: str, limit: str, used: str, stat: str, expected: int
) -> None:
    root = write_system(tmp_path, groups, {})
    assert available_memory(root) == 8_192_000
    write_system(
        tmp_path, groups, {f"{folder}/{limit}": "max", f"{folder}/{used}": "2000", f"{folder}/memory.stat": stat}
    )
    assert available_memory(root) == 8_192_000
    (root / folder / limit).write_text("7000", encoding="utf-8")
    assert available_memory(root) == expected


def test_free_memory_is_not_told_elsewhere(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None


def test_no_figure_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[int] = []
    assert peak_memory(lambda: calls.append(1), torch.device("meta")) is None
    monkeypatch.setattr("hrnet_zoo.evaluation.costs.Path", lambda _: tmp_path / "absent" / "file")
    assert peak_memory(lambda: calls.append(1), CPU) is None
    assert calls == [1, 1]


def test_runs_take_turns() -> None:
    calls: list[str] = []
    runs: dict[str, Callable[[], object]] = {name: lambda name=name: calls.append(name) for name in "ab"}  # type: ignore[misc]
    costs = measure(runs, CPU, seconds=0, progress=False)
    assert "".join(calls) == "ab" + "aabb" * MIN_RUNS  # of each two the second is timed
    for cost in costs.values():
        assert cost.runs == MIN_RUNS
        assert 0 <= cost.minimum <= cost.p10 <= cost.median <= cost.p90 <= cost.maximum


def test_the_bar_has_a_total_and_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Bar] = []

    def shown(**options: Any) -> Bar:
        assert options["total"] == 1 + 2 * MIN_RUNS
        bars.append(Bar(**{**options, "disable": False, "file": io.StringIO()}))
        return bars[-1]

    monkeypatch.setattr("hrnet_zoo.evaluation.costs.Bar", shown)
    ticks = count()  # a clock that moves by a second whenever it is read
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    measure({"a": lambda: None}, CPU, seconds=30, progress=True)
    assert (bars[0].n, bars[0].total) == (21, 21)


def test_goes_on_for_the_seconds_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()  # a clock that moves by a second whenever it is read
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    (cost,) = measure({"a": lambda: None}, CPU, seconds=30, progress=False).values()
    # Two readings for a run, and a third to see whether to go on: at 3, 6, ... 30
    assert cost.runs == 10
    assert cost.minimum == cost.maximum == 1


def test_machine() -> None:
    name = "fcn_hr18s_cityscapes_40k"
    found = machine_of(create_model(name, pretrained=False, device="cpu", dtype=torch.bfloat16))
    assert (found.device, found.dtype, found.torch) == ("cpu", "bfloat16", torch.__version__)
    assert found.threads == torch.get_num_threads()


@pytest.mark.parametrize(
    "run",
    [lambda: torch.empty(1 << 50, dtype=torch.uint8), lambda: np.empty(1 << 50, np.uint8)],
    ids=["torch", "numpy"],
)
def test_too_little_memory(run: Callable[[], object]) -> None:
    words = r"ask for much[\s\S]*too little memory[\s\S]*smaller size"
    with pytest.raises(ConfigError, match=words), raise_on_oom("ask for much"):
        run()


def test_too_little_memory_on_cuda() -> None:
    with pytest.raises(ConfigError, match=r"too little memory: CUDA out of memory\. Tried"), raise_on_oom("x"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has ...")


def test_other_faults_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"), raise_on_oom("x"):
        torch.mv(torch.zeros(3, 4), torch.zeros(3))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_memory_is_that_of_the_run() -> None:
    device = torch.device("cuda:0")
    kept = torch.zeros(10 * MEGABYTE, dtype=torch.uint8, device=device)  # counts too
    peak = peak_memory(lambda: torch.zeros(200 * MEGABYTE, dtype=torch.uint8, device=device), device)
    assert peak is not None
    assert 200 * MEGABYTE + kept.numel() <= peak < 300 * MEGABYTE + torch.cuda.memory_allocated(device)


def test_what_was_done_and_what_to_do_are_the_callers_to_say() -> None:
    with pytest.raises(ConfigError) as caught, raise_on_oom("x", done="the run was stopped", advice="rest"):
        raise MemoryError
    assert (caught.value.done, caught.value.advice) == ("the run was stopped", "rest")
