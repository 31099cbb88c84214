"""Reading ahead: in order, errors where they belong, a worker that dies."""

import os
import signal
from pathlib import Path

import pytest

from hrnet_zoo.datasets.pairing import Sample
from hrnet_zoo.errors import UnreadableImageError, WorkerError
from hrnet_zoo.images import read_image
from hrnet_zoo.reading import read_ahead


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
    ahead.close()  # type: ignore[attr-defined]  # a generator
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_worker_that_dies_is_told_with_the_file() -> None:
    with pytest.raises(WorkerError, match=r"died while \S+\.png was waited for[\s\S]*workers=0") as caught:
        list(read_ahead(samples(9), die_at_3, 1))
    assert caught.value.source.endswith(".png")
