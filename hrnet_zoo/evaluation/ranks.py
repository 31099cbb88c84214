"""Share a job among the processes that `torchrun` starts, on one or more machines; a single process needs no setup."""

from __future__ import annotations

import atexit
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from hrnet_zoo.errors import ConfigError, HRNetZooError, ProcessError

T = TypeVar("T")

PATIENCE = timedelta(hours=12)  # for ranks with slower shares; a dead one is noticed long before
RENDEZVOUS_S, SILENT_S = 600.0, 30.0  # how long the first meeting may take, and when a log line says who is missing
CONNECT_S = 2.0  # of one attempt to connect; between attempts Python handles signals

logger = logging.getLogger("hrnet_zoo")


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, 0 to size - 1, the size of the process group, and the model's device."""

    rank: int
    size: int
    device: torch.device

    def all_gather(self, work: Callable[[], T]) -> list[T]:
        """Run `work` on every rank; return all results, by rank.

        Raises:
            HRNetZooError: the error of the first rank that has one, on all ranks.
            ProcessError: a rank is gone.

        """
        if self.size == 1:
            return [work()]
        mine: T | HRNetZooError
        try:
            mine = work()
        except HRNetZooError as error:
            mine = error
        everybody: list[Any] = [None] * self.size
        # NCCL sends objects through the current device, which may differ from the model's.
        with rank_errors(self), torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            dist.all_gather_object(everybody, mine)
        for each in everybody:
            if isinstance(each, HRNetZooError):
                raise each
        return everybody


@contextmanager
def join(device: torch.device) -> Iterator[Ranks]:
    """Join the other ranks, if any: over gloo on a CPU, NCCL on CUDA.

    An existing process group is used. Otherwise one is made if torchrun's environment asks for it. It is destroyed when
    the process ends, not before: a second group over torchrun's store would find the addresses of the first one there,
    and hang.

    Raises:
        ConfigError: torchrun's environment variables are incomplete.
        ProcessError: a process is missing or cannot be reached.

    """
    if dist.is_available() and dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
        return
    ranks = Ranks(*(dist.is_available() and environment()) or (0, 1), device)
    if ranks.size > 1:
        if device.type == "cuda":
            torch.cuda.set_device(device)  # NCCL uses the current device
        with rank_errors(ranks):
            store = _rendezvous(ranks)
            store.set_timeout(PATIENCE)
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=dist.PrefixStore("hrnet-zoo", store),  # type: ignore[attr-defined]
                rank=ranks.rank,
                world_size=ranks.size,
                timeout=PATIENCE,
            )
        atexit.register(lambda: dist.destroy_process_group() if dist.is_initialized() else None)
    yield ranks


def _rendezvous(ranks: Ranks) -> Any:  # noqa: ANN401 - a store; torch exports no name for it
    """Wait until all ranks are there. torch would wait in a single call, in which Python handles no signals."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # torchrun hosts the store itself, or else rank 0 does.
    is_master = ranks.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)
    prefix = f"hrnet-zoo/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    began, told, store, absent = time.monotonic(), False, None, [0]
    while absent:
        if store is None and (is_master or _accepts_connections(host, port)):
            store = dist.TCPStore(  # type: ignore[attr-defined]
                *(host, port, ranks.size, is_master), timedelta(minutes=1), wait_for_workers=False, multi_tenant=True
            )
            store.set(f"{prefix}/{ranks.rank}", "here")
        if store is not None:
            absent = [rank for rank in range(ranks.size) if not store.check([f"{prefix}/{rank}"])]
        waited = time.monotonic() - began
        who = f"process{'es' if len(absent) > 1 else ''} {', '.join(map(str, absent[:20]))} of {ranks.size}"
        if absent and waited > RENDEZVOUS_S:
            raise ProcessError(
                asked=f"a job of {ranks.size} processes, in process {ranks.rank}",
                found=f"{who} did not reach {host}:{port} within {RENDEZVOUS_S:.0f} s",
                done="nothing was computed",
                advice="start all of them, each with its own RANK and the same WORLD_SIZE, MASTER_ADDR and "
                "MASTER_PORT, which every machine must reach; for a single process, unset WORLD_SIZE",
            )
        if absent and waited > SILENT_S and not told:
            told = True
            logger.warning("process %d waits for %s at %s:%d, up to %.0f s", ranks.rank, who, host, port, RENDEZVOUS_S)
        time.sleep(0.05)
    return store


def _accepts_connections(host: str, port: int) -> bool:
    """Tell whether the store is there; torch itself would print a stack for each failed attempt."""
    with suppress(OSError):  # not there yet; its machine or the machine's name may be missing, too
        socket.create_connection((host, port), timeout=CONNECT_S).close()
        return True
    return False


def environment() -> tuple[int, int] | None:
    """Return this process's rank and the number of processes from torchrun's variables; None: a single process."""
    size = environment_number("WORLD_SIZE", "1", range(1, 1 << 31))
    if size == 1:
        return None
    rank, _ = environment_number("RANK", "", range(size)), environment_number("MASTER_PORT", "", range(1 << 16))
    if not os.environ.get("MASTER_ADDR"):
        raise _invalid("MASTER_ADDR is not set")
    return rank, size


def local_device(asked: str | None = None) -> str | None:
    """Return the device of this process: under torchrun, each process of a machine takes its own GPU.

    `asked` is the user's choice, returned unchanged unless it is None or "cuda" and torchrun and CUDA are there.
    """
    if asked not in (None, "cuda") or not os.environ.get("LOCAL_RANK") or not torch.cuda.is_available():
        return asked
    return f"cuda:{environment_number('LOCAL_RANK', '', range(torch.cuda.device_count()))}"


def is_first() -> bool:
    """Tell whether this process is rank 0, which alone prints and writes."""
    rank, _ = environment() or (0, 1)
    return rank == 0


def environment_number(name: str, default: str, allowed: range) -> int:
    """Return the number in one of torchrun's variables."""
    text = os.environ.get(name) or default
    if not text.isdecimal() or int(text) not in allowed:
        raise _invalid(f"{name} is {text[:50]!r}, not a whole number from {allowed[0]} to {allowed[-1]}")
    return int(text)


def _invalid(found: str) -> ConfigError:
    return ConfigError(
        asked="find this process's rank",
        found=found,
        done="nothing was computed",
        advice="start all processes with torchrun, which sets these variables, at most one for each GPU of a machine; "
        "for a single process, unset WORLD_SIZE",
    )


@contextmanager
def rank_errors(ranks: Ranks) -> Iterator[None]:
    """Turn an error of torch.distributed into a ProcessError."""
    try:
        yield
    except RuntimeError as error:  # the base of all errors of torch.distributed
        raise ProcessError(
            asked=f"gather the results of {ranks.size} processes, in process {ranks.rank}",
            found=f"one of them has ended or cannot be reached: {str(error).splitlines()[0][:300]}",
            done="nothing was returned: fewer images would change the result",
            advice="look at the last lines of the others; a process that vanishes silently often ran out of memory; "
            "NCCL also fails where two processes share a GPU",
        ) from error
