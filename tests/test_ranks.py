"""Ranks: shares, sums, errors that reach everybody, and a rank that vanishes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hrnet_zoo.errors import ConfigError
from hrnet_zoo.ranks import Ranks, is_first, join, local_device

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")

PRELUDE = """
import os, sys
import numpy as np, torch
from pathlib import Path
from hrnet_zoo.errors import DatasetError, HRNetZooError
from hrnet_zoo.ranks import join
"""


def run(size: int, body: str) -> list[subprocess.CompletedProcess[str]]:
    """Run Python code in processes with torchrun's environment; return them by rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", PRELUDE + body],
            env={**os.environ, **world, "RANK": str(rank), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    done = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return done


def test_one_process_is_the_plain_case(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert is_first()
    assert local_device() is None
    with join(CPU) as ranks:
        assert (ranks.rank, ranks.size) == (0, 1)
        assert ranks.share("abc") == ["a", "b", "c"]
        assert ranks.together(lambda: 7) == [7]
        assert ranks.sum(np.array([1, 2])).tolist() == [1, 2]


def test_an_error_of_one_process_is_raised_as_it_is() -> None:
    error = ConfigError(asked="a", found="b", done="c", advice="d")

    def work() -> None:
        raise error

    with pytest.raises(ConfigError) as caught:
        Ranks(0, 1, CPU).together(work)
    assert caught.value is error


def test_shares_are_a_partition() -> None:
    items = list(range(11))
    for size in range(1, 13):
        shares = [Ranks(rank, size, CPU).share(items) for rank in range(size)]
        assert sorted(item for share in shares for item in share) == items
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_sums_and_errors_reach_everybody() -> None:
    body = """
with join(torch.device("cpu")) as ranks:
    print(ranks.sum(np.array([[ranks.rank, 1 << 40]])).tolist(), ranks.together(lambda: ranks.rank * 10))
    def fail():
        if ranks.rank == 1:
            raise DatasetError(asked="read", found="nothing", done="stopped", advice="x", path=Path("p"), problems=())
    try:
        ranks.together(fail)
    except DatasetError as error:
        print(type(error).__name__, error.asked, error.path)
    print(ranks.together(lambda: ranks.size))
"""
    first, second = run(2, body)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stdout == second.stdout
    assert first.stdout.splitlines() == [f"[[1, {2 << 40}]] [0, 10]", "DatasetError read p", "[2, 2]"]


def test_a_rank_that_vanishes() -> None:
    body = """
with join(torch.device("cpu")) as ranks:
    ranks.together(lambda: 1)
    if ranks.rank == 1:
        os._exit(9)
    try:
        ranks.together(lambda: 2)
    except HRNetZooError as error:
        print(type(error).__name__, error.rank, error.size, "|", error)
        sys.stdout.flush()
        os._exit(5)  # gloo itself has nobody left to say goodbye to
"""
    first, second = run(2, body)
    assert (first.returncode, second.returncode) == (5, 9), first.stderr
    assert first.stdout.startswith("RankError 0 2 |")
    assert "one of them is gone" in first.stdout
