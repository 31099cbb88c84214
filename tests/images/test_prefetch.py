"""Prefetching: in order, errors where they belong, a worker that dies."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import pytest

from hrnet_zoo.datasets.pairing import Sample
from hrnet_zoo.errors import ImageError, ProcessError
from hrnet_zoo.images import prefetch as reading
from hrnet_zoo.images.prefetch import prefetch_in_processes, prefetch_in_threads
from hrnet_zoo.images.read import read_image

ROOT = Path(__file__).parents[2]


def samples(number: int) -> list[Sample]:
    return [Sample(str(i), Path(f"{i}.png"), Path(f"{i}_labels.png")) for i in range(number)]


def load(sample: Sample) -> tuple[str, int]:
    return sample.name, os.getpid()


def fail_at_3(sample: Sample) -> str:
    if sample.name == "3":
        read_image(sample.image)
    return sample.name


def die_at_3(sample: Sample) -> str:
    if sample.name == "3":
        os.kill(os.getpid(), signal.SIGKILL)
    return sample.name


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
@pytest.mark.parametrize("number", [0, 1, 7])
def test_order_and_processes(workers: int, number: int) -> None:
    found = list(prefetch_in_processes(samples(number), load, workers))
    assert [name for name, _ in found] == [str(i) for i in range(number)]
    assert all((process == os.getpid()) == (workers == 0) for _, process in found)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_in_its_turn(workers: int) -> None:
    ahead = prefetch_in_processes(samples(9), fail_at_3, workers)
    assert [next(ahead) for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(ImageError, match=r"3\.png"):
        next(ahead)


def test_who_stops_early_leaves_nothing_running() -> None:
    ahead = prefetch_in_processes(samples(50), load, 2)
    _, process = next(ahead)
    ahead.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_worker_that_dies_is_told_with_the_file() -> None:
    with pytest.raises(ProcessError, match=r"one of them died: while \S+\.png was waited for[\s\S]*workers=0"):
        list(prefetch_in_processes(samples(9), die_at_3, 1))


def test_as_far_ahead_as_asked_and_without_an_end(tmp_path: Path) -> None:
    endless = (Sample(str(i), Path(f"{i}.png"), tmp_path / f"{i}.done") for i in count())
    ahead = prefetch_in_processes(endless, mark, 1, ahead=5)
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
from hrnet_zoo.images.prefetch import prefetch_in_processes

def load(sample):
    return os.getpid()

ahead = prefetch_in_processes([Sample(str(i), Path("a"), Path("b")) for i in range(50)], load, 3)
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
from hrnet_zoo.images.prefetch import prefetch_in_processes

def load(sample):
    return os.getpid()

ahead = prefetch_in_processes([Sample(str(i), Path("a"), Path("b")) for i in range(50)], load, 1)
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


def test_workers_go_on_when_all_processes_are_told_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the main process does then, which forked workers inherit."""
    monkeypatch.setattr(reading, "LAST_SECONDS", 600)  # a machine may pause for half a minute
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert list(prefetch_in_processes(samples(5), told_to_end, 2)) == ["0", "1", "2", "3", "4"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LAST_SECONDS", 1)
    with pytest.raises(ProcessError):
        list(prefetch_in_processes(samples(5), told_to_end_and_stuck, 2))


# --- threads ---------------------------------------------------------------------------------------------------------


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("hrnet-zoo")]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("number", [0, 1, 7])
def test_threads_keep_the_order(threads: int, number: int) -> None:
    found = list(
        prefetch_in_threads(
            range(number), lambda item: (item, threading.current_thread().name), threads=threads, ahead=2
        )
    )
    assert [item for item, _ in found] == list(range(number))
    assert all(name.startswith("hrnet-zoo") for _, name in found)
    assert not ours()


def test_a_thread_s_error_comes_in_its_turn() -> None:
    ahead = prefetch_in_threads(range(9), lambda item: 1 // (item - 3), threads=2, ahead=4)
    assert [next(ahead) for _ in range(3)] == [-1, -1, -1]
    with pytest.raises(ZeroDivisionError):
        next(ahead)
    assert not ours()


def test_no_further_ahead_than_asked_and_items_are_made_here() -> None:
    taken: list[tuple[int, str]] = []

    def items() -> Iterator[int]:
        for item in count():
            taken.append((item, threading.current_thread().name))
            yield item

    ahead = prefetch_in_threads(items(), lambda item: item, threads=2, ahead=3)
    assert not taken
    assert next(ahead) == 0
    assert taken == [(item, threading.current_thread().name) for item in range(4)]
    assert next(ahead) == 1
    assert len(taken) == 5
    ahead.close()
    assert not ours()


def test_the_work_is_done_meanwhile() -> None:
    """The second item is made while the first is worked on."""
    made = threading.Event()

    def items() -> Iterator[str]:
        yield "first"
        made.set()
        yield "second"

    def work(item: str) -> str:
        assert made.wait(timeout=30)
        return item

    assert list(prefetch_in_threads(items(), work, threads=1, ahead=1)) == ["first", "second"]


@pytest.mark.parametrize(("finish", "worked"), [(False, [0]), (True, [0, 1, 2])])
def test_who_stops_early_drops_or_finishes_what_waits(finish: bool, worked: list[int]) -> None:
    begun, going_on = threading.Event(), threading.Event()
    done: list[int] = []

    def items() -> Iterator[int]:
        yield from (0, 1, 2)
        assert begun.wait(timeout=30)
        threading.Timer(0.2, going_on.set).start()
        raise KeyboardInterrupt

    def work(item: int) -> None:
        begun.set()
        assert going_on.wait(timeout=30)
        done.append(item)

    with pytest.raises(KeyboardInterrupt):
        list(prefetch_in_threads(items(), work, threads=1, ahead=4, finish=finish))
    assert done == worked
    assert not ours()


def test_a_pool_that_broke_takes_no_more() -> None:
    endless = (Sample("3", Path("3.png"), Path("3_labels.png")) for _ in count())
    with pytest.raises(ProcessError, match="one of them died"):
        list(prefetch_in_processes(endless, die_at_3, 1, ahead=2000))
