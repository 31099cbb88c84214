"""Freed memory is retained while an optimized model exists, and trimmed from time to time."""

import subprocess
import sys
from typing import Any

import pytest

from hrnet_zoo.engines import heap

GLIBC = heap._glibc("mallopt") is not None and heap._glibc("malloc_trim") is not None


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the calls of the C library instead of making them."""
    recorded: list[Any] = []
    monkeypatch.setattr(heap, "_users", set())
    monkeypatch.setattr(heap, "_glibc", lambda name: lambda *args: recorded.append((name, *args)))
    return recorded


class User:
    """Stands for an optimized model."""


def test_as_long_as_an_optimized_model_exists(calls: list[Any]) -> None:
    first, second = User(), User()
    heap.retain(first)
    heap.retain(second)
    assert calls == [("mallopt", -4, 0), ("mallopt", -1, 2**31 - 1)] * 2
    calls.clear()
    del first
    assert calls == []
    del second
    default = [("mallopt", -4, 65536), ("mallopt", -3, 32 << 20), ("mallopt", -1, 64 << 20)]
    assert calls == [*default, ("malloc_trim", 0)]
    calls.clear()
    with heap.default_malloc():
        assert calls == default
    assert calls == default  # no optimized model is left


def test_free_memory_is_trimmed_from_time_to_time(calls: list[Any]) -> None:
    for _ in range(3 * heap.TRIM_EVERY):
        heap.tick()
    assert calls == [("malloc_trim", 0)] * 3


def test_other_c_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is called, and nothing fails."""
    monkeypatch.setattr(heap, "_users", set())
    monkeypatch.setattr(heap, "_glibc", lambda name: None)
    user = User()
    heap.retain(user)
    heap.trim()
    with heap.default_malloc():
        pass
    monkeypatch.undo()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert heap._glibc.__wrapped__("mallopt") is None


# Memory in use: what is free is trimmed before each look. Keeping each image would add 100 MB between the two looks;
# Linux tells it within tens of MB.
BOUND = 60_000_000
GROWTH = """
import dataclasses
import numpy as np
from hrnet_zoo import create_model, optimize
from hrnet_zoo.evaluation.costs import resident
from hrnet_zoo.engines import heap

model = create_model("demo", device="cpu")
model.dataset = dataclasses.replace(model.dataset, resize_to=(96, 64))
random = np.random.default_rng(0)
images = [random.integers(0, 256, (*random.integers(500, 1000, 2), 3), np.uint8) for _ in range(8)]
for form in (model, optimize(model)):
    for number in range(81):
        if number in (24, 80):
            heap.trim()
            print(resident("VmRSS"))
        form.predict(images[number % 8])
"""


@pytest.mark.skipif(not GLIBC, reason="not glibc's malloc")
def test_memory_stays_flat_over_mixed_sizes() -> None:
    """Of the network and of its optimized form, once the caches of oneDNN know all sizes."""
    run = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=False)  # noqa: S603
    assert run.returncode == 0, run.stderr
    exact_early, exact_late, fast_early, fast_late = map(int, run.stdout.split())
    assert exact_late < exact_early + BOUND
    assert fast_late < fast_early + BOUND
