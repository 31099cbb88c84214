"""Files read in worker processes, ahead of who uses them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from types import FrameType
from typing import TypeVar

from hrnet_zoo.datasets.pairing import Sample
from hrnet_zoo.errors import WorkerError

S = TypeVar("S", bound=Sample)
T = TypeVar("T")

LAST_SECONDS = 30  # that a worker goes on after SIGTERM, for a main process that waits for pictures to finish its step


def read_ahead(
    samples: Iterable[S], load: Callable[[S], T], workers: int, ahead: int | None = None
) -> Generator[T, None, None]:
    """Yield what `load` makes of each sample, in order, while worker processes go on with the next ones.

    Args:
        samples: pictures with their labels; also without an end, for they are taken as they are needed.
        load: a function of a module; what it raises is raised here.
        workers: how many processes; 0: none, everything happens here.
        ahead: how many samples they are ahead; None: one more than there are workers, so that none idles.

    Closing it, or leaving it behind after an error, ends the processes.

    Raises:
        WorkerError: a worker process died.

    """
    if workers == 0:
        yield from map(load, samples)
        return
    # Forked workers start at once and need no `if __name__ == "__main__"` in the user's script. They only read files
    # and compute with numpy, which is safe beside the threads of torch; newer Pythons warn of any threads.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_serve)
    waiting: deque[tuple[S, Future[T]]] = deque()
    coming = iter(samples)

    def submit(number: int) -> None:
        waiting.extend((sample, pool.submit(load, sample)) for sample in islice(coming, number))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            submit(workers + 1 if ahead is None else ahead)
        while waiting:
            sample, future = waiting.popleft()
            try:
                result = future.result()
                submit(1)
            except BrokenProcessPool as error:
                raise WorkerError(
                    asked=f"pictures read by {workers} worker processes",
                    found=f"one of them died while {sample.picture} was waited for",
                    done="the run was stopped",
                    advice="it may have run out of memory: use fewer workers, or workers=0",
                    source=str(sample.picture),
                ) from error
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _serve() -> None:
    """Let the main process decide when it is over, but never outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_soon)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_soon(number: int, frame: FrameType | None) -> None:
    """Go on for a while after SIGTERM, which all processes of a job may get at once: what is under way is finished.

    A pool that is broken ends what is left of it by this signal and waits, so it must not be ignored.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process
    signal.alarm(LAST_SECONDS)


def _end_with_parent() -> None:
    """Wait until the main process is gone, even if it was killed, and end: the pool's queue would block for ever.

    A pipe tells of its end, but only when nothing else that it forked holds the pipe's other end; the parent's id
    tells in any case, within a second.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        while parent.is_alive() and os.getppid() == parent.pid:
            parent.join(1)
        os._exit(1)
