"""Ranks: shares, sums, errors that reach everybody, and a rank that vanishes."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from hrnet_zoo.errors import ConfigError, ProcessError
from hrnet_zoo.evaluation.ranks import Ranks, environment, is_first, join, local_device, rank_errors

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")

PRELUDE = """
import os, sys
import numpy as np, torch
from pathlib import Path
from hrnet_zoo.errors import DatasetError, HRNetZooError
from hrnet_zoo.evaluation.ranks import is_first, join
"""


def run(
    size: int, body: str, *arguments: str, only: Sequence[int] | None = None, signalled: int = 0, **more: str
) -> list[subprocess.CompletedProcess[str]]:
    """Run Python code in processes with torchrun's environment, and more variables; return them by rank.

    With `only` the other ranks never come. `signalled` goes to each after its first line, when it waits.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", PRELUDE + body, *arguments],
            env={**os.environ, **world, **more, "RANK": str(rank), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (range(size) if only is None else only)
    ]
    done = []
    try:
        for process in processes:
            first = ""
            if signalled:
                assert process.stdout is not None
                first = process.stdout.readline()
                time.sleep(3)  # longer than a try to connect
                process.send_signal(signalled)
            out, err = process.communicate(timeout=300)
            done.append(subprocess.CompletedProcess(process.args, process.returncode, first + out, err))
    finally:
        for process in processes:
            process.kill()
    return done


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what a launcher of the tests may have set."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_one_process_is_the_plain_case() -> None:
    assert is_first()
    assert local_device() is None
    assert environment() is None
    with join(CPU) as ranks:
        assert (ranks.rank, ranks.size) == (0, 1)
        assert ranks.all_gather(lambda: 7) == [7]


def test_an_error_of_one_process_is_raised_as_it_is() -> None:
    error = ConfigError(asked="a", found="b", done="c", advice="d")

    def work() -> None:
        raise error

    with pytest.raises(ConfigError) as caught:
        Ranks(0, 1, CPU).all_gather(work)
    assert caught.value is error


def test_results_and_errors_reach_everybody() -> None:
    body = """
with join(torch.device("cpu")) as ranks:
    print(sum(ranks.all_gather(lambda: np.array([ranks.rank, 1 << 40]))).tolist())
    print(ranks.all_gather(lambda: ranks.rank * 10))
    print(is_first() == (ranks.rank == 0))
    def fail():
        if ranks.rank == 1:
            raise DatasetError(asked="read", found="nothing", done="stopped", advice="x", path=Path("p"))
    try:
        ranks.all_gather(fail)
    except DatasetError as error:
        print(type(error).__name__, error.asked, error.path)
    print(ranks.all_gather(lambda: ranks.size))
"""
    first, second = run(2, body)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stdout == second.stdout
    assert first.stdout.splitlines() == [f"[1, {2 << 40}]", "[0, 10]", "True", "DatasetError read p", "[2, 2]"]


ALONE = """
import logging, time
from hrnet_zoo.evaluation import ranks
from hrnet_zoo.errors import ProcessError

logging.basicConfig(format="%(message)s")
ranks.SILENT_S, ranks.RENDEZVOUS_S = float(sys.argv[1]), float(sys.argv[2])
print("begun", flush=True)
try:
    with join(torch.device("cpu")):
        print("met")
except ProcessError as error:
    print(error.found)
"""


@pytest.mark.parametrize("rank", [0, 1])
def test_a_partner_that_never_comes_is_waited_for_so_long_and_no_longer(rank: int) -> None:
    (done,) = run(2, ALONE, "0.1", "0.5", only=[rank])
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "begun"
    assert re.fullmatch(rf"process {1 - rank} of 2 did not reach 127.0.0.1:\d+ within 0 s", said[1])
    assert done.stderr.count(f"process {rank} waits for process {1 - rank} of 2 at") == 1


@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGINT), (1, signal.SIGTERM)])
def test_signals_end_the_waiting(rank: int, number: signal.Signals) -> None:
    handled = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"  # as the command does
    (done,) = run(2, handled + ALONE, "300", "300", only=[rank], signalled=number)
    assert done.returncode in ((143,) if number == signal.SIGTERM else (1, -signal.SIGINT, 130)), done.stderr
    assert ("KeyboardInterrupt" in done.stderr) == (number == signal.SIGINT)
    assert done.stdout == "begun\n"


def test_a_rank_that_vanishes() -> None:
    body = """
with join(torch.device("cpu")) as ranks:
    ranks.all_gather(lambda: 1)
    if ranks.rank == 1:
        os._exit(9)
    try:
        ranks.all_gather(lambda: 2)
    except HRNetZooError as error:
        print(type(error).__name__, error)
        sys.stdout.flush()
        os._exit(5)  # gloo itself has nobody left to say goodbye to
"""
    first, second = run(2, body)
    assert (first.returncode, second.returncode) == (5, 9), first.stderr
    assert first.stdout.startswith("ProcessError gather the results of 2 processes, in process 0\n")
    assert "one of them has ended" in first.stdout


WHOLE = {"WORLD_SIZE": "4", "RANK": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def set_all(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_the_environment_that_torchrun_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, WHOLE)
    assert environment() == (2, 4)
    assert not is_first()
    monkeypatch.setenv("RANK", "0")
    assert is_first()
    set_all(monkeypatch, {"WORLD_SIZE": "1", "RANK": "3"})  # as some queues of clusters have it
    assert environment() is None
    assert is_first()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"RANK": ""}, "RANK is ''"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"RANK": "-1"}, "RANK is '-1'"),
        ({"RANK": "4"}, "RANK is '4', not a whole number from 0 to 3"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
    ],
)
def test_half_an_environment(change: dict[str, str], found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {**WHOLE, **change})
    for use in (environment, is_first, lambda: join(CPU).__enter__()):
        with pytest.raises(ConfigError, match=found):
            use()


def test_each_process_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [local_device(asked) for asked in (None, "cuda", "cpu")] == [None, "cuda", "cpu"]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [local_device(asked) for asked in (None, "cuda", "cuda:0", "cpu")] == ["cuda:1", "cuda:1", "cuda:0", "cpu"]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match=r"LOCAL_RANK is '2', not a whole number from 0 to 1[\s\S]*one for each GPU"):
        local_device()
    assert local_device("cpu") == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "x")
    with pytest.raises(ConfigError, match="LOCAL_RANK is 'x'"):
        local_device()


def test_objects_go_by_way_of_the_ranks_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[torch.device] = []

    def gather(everybody: list[object], mine: object) -> None:
        everybody[:] = [mine, list(entered)]

    @contextmanager
    def device(which: torch.device) -> Iterator[None]:
        entered.append(which)
        yield

    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    monkeypatch.setattr("torch.cuda.device", device)
    assert Ranks(0, 2, CPU).all_gather(lambda: 1) == [1, []]
    gpu = torch.device("cuda:3")
    assert Ranks(0, 2, gpu).all_gather(lambda: 1) == [1, [gpu]]


def test_a_shared_gpu_is_among_the_causes() -> None:
    with (
        pytest.raises(ProcessError, match=r"Duplicate GPU[\s\S]*two processes share a GPU"),
        rank_errors(Ranks(0, 2, CPU)),
    ):
        raise RuntimeError("Duplicate GPU detected")
