"""Reading ahead: in order, errors where they belong, a worker that dies."""

import os
import signal
import subprocess
import sys
import threading
from itertools import count, islice
from pathlib import Path

import pytest

from hrnet_zoo import reading
from hrnet_zoo.datasets.pairing import Sample
from hrnet_zoo.errors import UnreadableImageError, WorkerError
from hrnet_zoo.images import read_image
from hrnet_zoo.reading import read_ahead

ROOT = Path(__file__).parents[1]


def samples(number: int) -> list[Sample]:
    return [Sample(str(i), Path(f"{i}.png"), Path(f"{i}_labels.png")) for i in range(number)]


def load(sample: Sample) -> tuple[str, int]:
    return sample.name, os.getpid()


def fail_at_3(sample: Sample) -> str:
    if sample.name == "3":
        read_image(sample.picture)
    return sample.name


def die_at_3(sample: Sample) -> str:
    if sample.name == "3":
        os.kill(os.getpid(), signal.SIGKILL)
    return sample.name


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
@pytest.mark.parametrize("number", [0, 1, 7])
def test_order_and_processes(workers: int, number: int) -> None:
    found = list(read_ahead(samples(number), load, workers))
    assert [name for name, _ in found] == [str(i) for i in range(number)]
    assert all((process == os.getpid()) == (workers == 0) for _, process in found)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_in_its_turn(workers: int) -> None:
    ahead = read_ahead(samples(9), fail_at_3, workers)
    assert [next(ahead) for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(UnreadableImageError, match=r"3\.png"):
        next(ahead)


def test_who_stops_early_leaves_nothing_running() -> None:
    ahead = read_ahead(samples(50), load, 2)
    _, process = next(ahead)
    ahead.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_worker_that_dies_is_told_with_the_file() -> None:
    with pytest.raises(WorkerError, match=r"died while \S+\.png was waited for[\s\S]*workers=0") as caught:
        list(read_ahead(samples(9), die_at_3, 1))
    assert caught.value.source.endswith(".png")


def test_as_far_ahead_as_asked_and_without_an_end(tmp_path: Path) -> None:
    endless = (Sample(str(i), Path(f"{i}.png"), tmp_path / f"{i}.done") for i in count())
    ahead = read_ahead(endless, mark, 1, ahead=5)
    assert next(ahead) == "0"
    assert next(endless).name == "6"  # five at first, and one in place of the first
    assert list(islice(ahead, 3)) == ["1", "2", "3"]
    ahead.close()


def mark(sample: Sample) -> str:
    sample.labels.touch()
    return sample.name


KILLED = """
import os, signal
from pathlib import Path
from hrnet_zoo.datasets.pairing import Sample
from hrnet_zoo.reading import read_ahead

def load(sample):
    return os.getpid()

ahead = read_ahead([Sample(str(i), Path("a"), Path("b")) for i in range(50)], load, 3)
print(next(ahead) != os.getpid(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems start workers that have to import the script")
def test_workers_end_when_the_main_process_is_killed() -> None:
    """They hold its output open: `run` returns once all of them are gone."""
    found = subprocess.run(  # noqa: S603
        [sys.executable, "-c", KILLED],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (found.returncode, found.stdout) == (-signal.SIGKILL, "True\n"), found.stderr


BESIDE = """
import os, signal, sys, time
from pathlib import Path
from hrnet_zoo.datasets.pairing import Sample
from hrnet_zoo.reading import read_ahead

def load(sample):
    return os.getpid()

ahead = read_ahead([Sample(str(i), Path("a"), Path("b")) for i in range(50)], load, 1)
next(ahead)
beside = os.fork()  # by another library: it holds all pipes open, and lives on
if beside == 0:
    os.close(1)
    os.close(2)
    time.sleep(100)
print(beside, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not fork workers")
def test_workers_end_though_another_process_holds_their_pipes() -> None:
    """The worker holds the output open, the other one does not: `run` returns once the worker is gone."""
    found = subprocess.run(  # noqa: S603
        [sys.executable, "-W", "ignore", "-c", BESIDE],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    os.kill(int(found.stdout), signal.SIGKILL)
    assert found.returncode == -signal.SIGKILL, found.stderr


def told_to_end(sample: Sample) -> str:
    os.kill(os.getpid(), signal.SIGTERM)
    return sample.name


def told_to_end_and_stuck(sample: Sample) -> None:
    told_to_end(sample)
    threading.Event().wait()


def test_workers_go_on_when_all_processes_are_told_to_end() -> None:
    """Whatever the main process does then, which forked workers inherit."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert list(read_ahead(samples(5), told_to_end, 2)) == ["0", "1", "2", "3", "4"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LAST_SECONDS", 1)
    with pytest.raises(WorkerError):
        list(read_ahead(samples(5), told_to_end_and_stuck, 2))
