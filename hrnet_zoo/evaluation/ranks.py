"""Processes on one or more machines that share a job, as `torchrun` starts them; one alone is the plain case."""

from __future__ import annotations

import atexit
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from hrnet_zoo.errors import ConfigError, DeviceError, HRNetZooError, RankError

T = TypeVar("T")

# How long one rank waits for the others, whose shares may be slower. That one has died is noticed long before.
PATIENCE = timedelta(hours=12)
# How long it waits for them to come at the beginning, and after how many of these seconds it says so.
RENDEZVOUS_S, SILENT_S = 600.0, 30.0
TURN_S = 2.0  # of one try to connect, after which signals are heard

logger = logging.getLogger("hrnet_zoo")


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that share the job.

    Attributes:
        rank: its number, 0 to size - 1.
        size: how many there are.
        device: the model's; on CUDA also what the processes talk over.

    """

    rank: int
    size: int
    device: torch.device

    def share(self, items: Sequence[T]) -> list[T]:
        """Return this rank's part of the items: every `size`-th."""
        return list(items[self.rank :: self.size])

    def together(self, work: Callable[[], T]) -> list[T]:
        """Let every rank work; return what each found, by rank.

        Raises:
            HRNetZooError: that of the first rank that met one, on all of them.
            RankError: a rank is gone.

        """
        mine: T | HRNetZooError
        try:
            mine = work()
        except HRNetZooError as error:
            if self.size == 1:
                raise
            mine = error
        everybody: list[T | HRNetZooError | None] = [mine] if self.size == 1 else [None] * self.size
        if self.size > 1:
            # NCCL sends objects by way of the current device, which need not be the model's.
            with meeting(self), torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
                dist.all_gather_object(everybody, mine)
        for each in everybody:
            if isinstance(each, HRNetZooError):
                raise each
        return everybody  # type: ignore[return-value]  # errors are gone, and every place is filled


@contextmanager
def join(device: torch.device) -> Iterator[Ranks]:
    """Meet the other ranks, if there are any: over gloo on a CPU, NCCL on CUDA.

    A process group that exists is used; else one is made if the environment is torchrun's, and stays for the next job.

    Raises:
        ConfigError: the environment is torchrun's in part only.
        RankError: the others cannot be reached.

    """
    if dist.is_available() and dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    elif not dist.is_available() or (place := environment()) is None:
        yield Ranks(0, 1, device)
    else:
        ranks = Ranks(*place, device)
        start_group(ranks)
        yield ranks


def start_group(ranks: Ranks) -> None:
    """Make the process group that torchrun's environment describes: over gloo on a CPU, NCCL on CUDA.

    It is taken down when the process ends. Not before: one that is made anew over torchrun's store finds the addresses
    of the old one there, and hangs.

    Raises:
        RankError: one of the processes does not come, or cannot be reached.

    """
    if ranks.device.type == "cuda":
        torch.cuda.set_device(ranks.device)  # NCCL speaks for the current device
    with meeting(ranks):
        store = _met(ranks)
        store.set_timeout(PATIENCE)
        dist.init_process_group(
            "nccl" if ranks.device.type == "cuda" else "gloo",
            store=dist.PrefixStore("hrnet-zoo", store),  # type: ignore[attr-defined]
            rank=ranks.rank,
            world_size=ranks.size,
            timeout=PATIENCE,
        )
    atexit.register(lambda: dist.destroy_process_group() if dist.is_initialized() else None)


def _met(ranks: Ranks) -> Any:  # noqa: ANN401 - a store; torch exports no name for it
    """Wait until all ranks are there. torch would wait for them in one call, in which Python hears no signal."""
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    prefix = f"hrnet-zoo/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    began, told = time.monotonic(), False
    store = None
    absent = [0]
    while True:
        if store is None and _answers(ranks):
            store = _store(ranks)
            store.set(f"{prefix}/{ranks.rank}", "here")
        if store is not None:
            absent = [rank for rank in range(ranks.size) if not store.check([f"{prefix}/{rank}"])]
            if not absent:
                return store
        waited = time.monotonic() - began
        who = f"process{'es' if len(absent) > 1 else ''} {', '.join(map(str, absent[:20]))} of {ranks.size}"
        if waited > SILENT_S and not told:
            told = True
            logger.warning("process %d waits for %s at %s, up to %.0f s", ranks.rank, who, place, RENDEZVOUS_S)
        if waited > RENDEZVOUS_S:
            raise RankError(
                asked=f"a job of {ranks.size} processes, in process {ranks.rank}",
                found=f"{who} did not come to {place} within {RENDEZVOUS_S:.0f} s",
                done="nothing was computed",
                advice="start them all, each with its own RANK and all with the same WORLD_SIZE, MASTER_ADDR and "
                "MASTER_PORT, which every machine must reach; for one process alone unset WORLD_SIZE",
                rank=ranks.rank,
                size=ranks.size,
            )
        time.sleep(0.05)


def _serves(ranks: Ranks) -> bool:
    """Tell whether this process serves the store over which the ranks meet; else torchrun does, or rank 0."""
    return ranks.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)


def _answers(ranks: Ranks) -> bool:
    """Tell whether the store can be had; torch itself would print a stack for each try in vain."""
    if _serves(ranks):
        return True
    try:
        socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), timeout=TURN_S).close()
    except OSError:  # it is not there yet, nor may be its machine, or that one's name
        return False
    return True


def _store(ranks: Ranks) -> Any:  # noqa: ANN401 - as above
    """Serve or reach the store, as torch's `env://` does, but without waiting for others."""
    return dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        ranks.size,
        is_master=_serves(ranks),
        timeout=timedelta(seconds=60),
        wait_for_workers=False,
        multi_tenant=True,
    )


def environment() -> tuple[int, int] | None:
    """Return this process's rank and the number of processes, as torchrun says them; None: this one is alone.

    Raises:
        ConfigError: WORLD_SIZE says that there are several, but what they need to meet is missing or no such number.

    """
    size = _number("WORLD_SIZE", 1, least=1)
    if size == 1:
        return None
    needed = ("RANK", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in needed if not os.environ.get(name)]:
        raise _half(f"WORLD_SIZE is {size}, and {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set")
    rank = _number("RANK", 0)
    _number("MASTER_PORT", 0)
    if rank >= size:
        raise _half(f"RANK is {rank} and WORLD_SIZE is {size}: ranks count from 0")
    return rank, size


def processes_here() -> int:
    """Return how many processes torchrun started on this machine: LOCAL_WORLD_SIZE; 1 without torchrun.

    Raises:
        ConfigError: it is no such number.

    """
    return _number("LOCAL_WORLD_SIZE", 1, least=1)


def local_device(asked: str | None = None) -> str | None:
    """Name this process's own GPU among those that torchrun started here.

    Args:
        asked: what the user wants; anything but None and "cuda" is returned as it is, and so are these two without
            torchrun or CUDA.

    Raises:
        ConfigError: LOCAL_RANK is no number.
        DeviceError: there are fewer GPUs here than processes.

    """
    if asked not in (None, "cuda") or not os.environ.get("LOCAL_RANK") or not torch.cuda.is_available():
        return asked
    index, count = _number("LOCAL_RANK", 0), torch.cuda.device_count()
    if index >= count:
        raise DeviceError(
            asked=f"a GPU for process {index} of this machine (LOCAL_RANK={index})",
            found=f"GPUs here: {count}",
            done="nothing was computed",
            advice=f"start no more than {count} processes on this machine, or compute on the device cpu",
        )
    return f"cuda:{index}"


def is_first() -> bool:
    """Tell whether this process is the one that speaks for all.

    Raises:
        ConfigError: the environment is torchrun's in part only.

    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    place = environment()
    return place is None or place[0] == 0


def _number(name: str, default: int, *, least: int = 0) -> int:
    """Read a whole number from an environment variable."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < least:
        raise _half(f"{name} is {text[:50]!r}, and no whole number from {least}")
    return int(text)


def _half(found: str) -> ConfigError:
    return ConfigError(
        asked="the place of this process among those that share the job",
        found=found,
        done="nothing was computed",
        advice="start all processes by torchrun, which sets all of these; for one process alone unset WORLD_SIZE",
    )


@contextmanager
def meeting(ranks: Ranks) -> Iterator[None]:
    """Say what it means when the others cannot be reached."""
    try:
        yield
    except RuntimeError as error:  # the base of all that torch.distributed raises
        raise RankError(
            asked=f"results of {ranks.size} processes, in process {ranks.rank}",
            found=f"one of them is gone or cannot be reached: {str(error).splitlines()[0][:300]}",
            done="nothing was returned: a result over fewer images would be another one",
            advice="look at what the others said last (one that vanishes without a word often ran out of memory; NCCL "
            "also fails where two processes share one GPU: start no more of them than there are)",
            rank=ranks.rank,
            size=ranks.size,
        ) from error
