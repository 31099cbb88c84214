"""Processes on one or more machines that share a job, as `torchrun` starts them; one alone is the plain case."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from hrnet_zoo.errors import HRNetZooError, RankError

T = TypeVar("T")

# How long one rank waits for the others, whose shares may be slower. That one has died is noticed long before.
PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that share the job.

    Attributes:
        rank: its number, 0 to size - 1.
        size: how many there are.
        device: where sums are made: the model's.

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
            with _meeting(self):
                dist.all_gather_object(everybody, mine)
        for each in everybody:
            if isinstance(each, HRNetZooError):
                raise each
        return everybody  # type: ignore[return-value]  # errors are gone, and every place is filled

    def sum(self, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the sum over all ranks: of whole numbers, so that it is the same in any order.

        Raises:
            RankError: a rank is gone.

        """
        if self.size == 1:
            return counts
        total = torch.from_numpy(counts).to(self.device)
        with _meeting(self):
            dist.all_reduce(total)
        result: npt.NDArray[np.int64] = total.cpu().numpy()
        return result


@contextmanager
def join(device: torch.device) -> Iterator[Ranks]:
    """Meet the other ranks, if there are any: over gloo on a CPU, NCCL on CUDA.

    A process group that exists is used and left as it is; else one is made if the environment is torchrun's.

    Raises:
        RankError: the others cannot be reached.

    """
    if not dist.is_available():
        yield Ranks(0, 1, device)
    elif dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    elif int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks(0, 1, device)
    else:
        ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), device)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # NCCL speaks for the current device
        with _meeting(ranks):
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        try:
            yield ranks
        finally:
            dist.destroy_process_group()


def local_device() -> str | None:
    """Name this process's own GPU among those that torchrun started here; None without torchrun or CUDA."""
    if "LOCAL_RANK" not in os.environ or not torch.cuda.is_available():
        return None
    return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"


def is_first() -> bool:
    """Tell whether this process is the one that speaks for all."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def _meeting(ranks: Ranks) -> Iterator[None]:
    """Say what it means when the others cannot be reached."""
    try:
        yield
    except RuntimeError as error:  # the base of all that torch.distributed raises
        raise RankError(
            asked=f"results of {ranks.size} processes, in process {ranks.rank}",
            found=f"one of them is gone or cannot be reached: {str(error).splitlines()[0][:300]}",
            done="nothing was returned: a result over fewer pictures would be another one",
            advice="look at what the others said last (a process that vanishes without a word often ran out of memory)",
            rank=ranks.rank,
            size=ranks.size,
        ) from error
