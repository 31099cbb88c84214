"""Freed memory is kept as long as something fast exists, handed back now and then, and as usual afterwards."""

import json
import subprocess
import sys
from typing import Any

import pytest

from hrnet_zoo.engines import heap

GLIBC = heap._glibc("mallopt") is not None and heap._glibc("malloc_trim") is not None

# Faults are pages that the system had to clear; a process of its own, whose malloc nothing else has told anything.
FAULTS = '''
import dataclasses, json, resource, numpy as np, torch
from hrnet_zoo import create_model, optimize
from hrnet_zoo.engines import heap

model = create_model("demo")
model.dataset = dataclasses.replace(model.dataset, resize_to=(1024, 1024))
image = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
predict = optimize(model, dtype=torch.float32).predict

def faults(run):
    """The fewest of five calls: how soon the heap has its final size depends on the machine's threads."""
    seen = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        run(image)
        seen.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(seen)

print(json.dumps([faults(predict), faults(heap.as_usual()(predict)), faults(predict)]))
'''


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what the C library would have been told."""
    calls: list[Any] = []
    monkeypatch.setattr(heap, "_users", set())
    monkeypatch.setattr(heap, "_glibc", lambda name: lambda *args: calls.append((name, *args)))
    return calls


@pytest.mark.skipif(not GLIBC, reason="not glibc's malloc")
def test_predictions_clear_no_pages() -> None:
    run = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=False)  # noqa: S603
    assert run.returncode == 0, run.stderr
    kept, as_usual, kept_again = json.loads(run.stdout)
    assert max(kept, kept_again) < as_usual / 4, run.stdout


class User:
    """Something fast."""


def test_as_long_as_somebody_wants_it(told: list[Any]) -> None:
    first, second = User(), User()
    heap.keep(first)
    heap.keep(second)
    assert told == [("mallopt", -4, 0), ("mallopt", -1, 2**31 - 1)] * 2
    told.clear()
    del first
    assert told == []
    del second
    usual = [("mallopt", -4, 65536), ("mallopt", -3, 32 << 20), ("mallopt", -1, 64 << 20)]
    assert told == [*usual, ("malloc_trim", 0)]
    told.clear()
    with heap.as_usual():
        assert told == usual
    assert told == usual  # nobody wants it otherwise


def test_what_is_free_goes_back_now_and_then(told: list[Any]) -> None:
    for _ in range(3 * heap.CALLS):
        heap.used()
    assert told == [("malloc_trim", 0)] * 3


def test_other_c_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to tell, and nothing fails."""
    monkeypatch.setattr(heap, "_users", set())
    monkeypatch.setattr(heap, "_glibc", lambda name: None)
    user = User()
    heap.keep(user)
    heap.give_back()
    with heap.as_usual():
        pass
    monkeypatch.undo()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert heap._glibc.__wrapped__("mallopt") is None


# Live memory: what is free is handed back before each look.
GROWTH = """
import dataclasses, sys
import numpy as np
from hrnet_zoo import create_model, optimize
from hrnet_zoo.evaluation.costs import resident
from hrnet_zoo.engines import heap

model = create_model("demo")
model.dataset = dataclasses.replace(model.dataset, resize_to=(192, 128))
form = optimize(model) if sys.argv[1] == "fast" else model
random = np.random.default_rng(0)
for number in range(251):
    if number in (100, 250):
        heap.give_back()
        print(resident("VmRSS"))
    form.predict(random.integers(0, 256, (*random.integers(32, 200, 2), 3), np.uint8))
"""


@pytest.mark.skipif(not GLIBC, reason="not glibc's malloc")
@pytest.mark.parametrize("form", ["exact", "fast"])
def test_memory_stays_flat_over_mixed_sizes(form: str) -> None:
    run = subprocess.run([sys.executable, "-c", GROWTH, form], capture_output=True, text=True, check=False)  # noqa: S603
    assert run.returncode == 0, run.stderr
    early, late = map(int, run.stdout.split())
    assert late < 1.06 * early  # by 250 the caches of oneDNN are full; measured: 4 % and 2 %, and 1 % more by 1,000
