"""Work done ahead of who uses it, or behind: in worker processes, or in threads of this one."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.synchronize import Event
from pathlib import Path
from types import FrameType
from typing import Protocol, TypeVar

from hrnet_zoo.errors import ProcessError

Item = TypeVar("Item")
T = TypeVar("T")


class _Sample(Protocol):
    @property
    def image(self) -> Path: ...


S = TypeVar("S", bound=_Sample)

logger = logging.getLogger("hrnet_zoo")

# Forked workers start at once and need no `if __name__ == "__main__"` in the user's script. They only read files and
# compute with NumPy, which is safe beside the threads of torch.
START_METHOD = "fork" if sys.platform == "linux" else None

LAST_SECONDS = 30  # that a worker goes on after SIGTERM, for a main process that waits for images to finish its step


def read_ahead(
    samples: Iterable[S], load: Callable[[S], T], workers: int, ahead: int | None = None
) -> Generator[T, None, None]:
    """Yield what `load` makes of each sample, in order, while worker processes go on with the next ones.

    Args:
        samples: images with their labels; also without an end, for they are taken as they are needed.
        load: a function of a module; what it raises is raised here.
        workers: how many processes; 0: none, everything happens here. A daemonic process (of Celery, or of a
            `multiprocessing.Pool`) must not start any: as many threads read ahead there, and one log line says so.
        ahead: how many samples they are ahead; None: one more than there are workers, so that none idles.

    Closing it, or leaving it behind after an error, ends the processes.

    Raises:
        ProcessError: a worker process died.

    """
    if workers == 0:
        yield from map(load, samples)
        return
    ahead = workers + 1 if ahead is None else ahead
    if multiprocessing.current_process().daemon:
        _tell_of_threads()
        yield from beside(samples, load, threads=workers, ahead=ahead)
        return
    context = multiprocessing.get_context(START_METHOD)
    begun = context.Event()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_serve, initargs=(begun,))

    def submit(sample: S) -> Future[T]:
        try:
            return pool.submit(load, sample)
        except BrokenProcessPool as error:  # said in this sample's turn; earlier ones may be done
            failed = Future[T]()
            failed.set_exception(error)
            return failed

    try:
        for sample, future in _in_turn(samples, submit, ahead):
            try:
                result = future.result()
            except BrokenProcessPool as error:
                died = begun.is_set() or START_METHOD == "fork"
                raise ProcessError(
                    asked=f"images read by {workers} worker processes",
                    found=f"one of them died while {sample.image} was waited for"
                    if died
                    else "they ended before they had begun",
                    done="the run was stopped",
                    advice="it may have run out of memory: use fewer workers, or workers=0"
                    if died
                    else "each of them imports your script first, which must not begin anew there: put what it does "
                    "below `if __name__ == '__main__':`; or use workers=0",
                ) from error
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def beside(
    items: Iterable[Item], work: Callable[[Item], T], *, threads: int, ahead: int, finish: bool = False
) -> Generator[T, None, None]:
    """Yield what `work` makes of each item, in order, while threads go on with the next ones.

    Args:
        items: taken as they are needed, in the thread that asks for results; so they may be made there meanwhile.
        work: something that leaves Python's lock alone for most of its time: decoding, compressing, writing. What it
            raises is raised here, in its turn.
        threads: how many.
        ahead: how many items they are ahead.
        finish: when closed, or left behind after an error, do what was begun to the end, instead of dropping it.

    Closing it, or leaving it behind after an error, ends the threads.

    """
    pool = ThreadPoolExecutor(threads, "hrnet-zoo")
    try:
        for _, future in _in_turn(items, lambda item: pool.submit(work, item), ahead):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=not finish)


def _in_turn(
    items: Iterable[Item], submit: Callable[[Item], Future[T]], ahead: int
) -> Generator[tuple[Item, Future[T]], None, None]:
    """Yield each item with its future, in order; the `ahead` next ones are submitted by then."""
    waiting: deque[tuple[Item, Future[T]]] = deque()
    coming = iter(items)
    waiting.extend((item, submit(item)) for item in islice(coming, ahead))
    while waiting:
        turn = waiting.popleft()
        waiting.extend((item, submit(item)) for item in islice(coming, 1))
        yield turn


@functools.cache
def _tell_of_threads() -> None:
    """Say it once in a process."""
    logger.warning("this process is daemonic and must not start others: threads read the images ahead")


def _serve(begun: Event) -> None:
    """Let the main process decide when it is over, but never outlive it."""
    begun.set()
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
