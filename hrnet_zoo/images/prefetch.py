"""Prefetching with worker processes or threads."""

import functools
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import FrameType
from typing import Any, TypeVar

from hrnet_zoo.errors import ProcessError

Item = TypeVar("Item")
T = TypeVar("T")

# Forked workers start at once, need no `if __name__ == "__main__"` in the user's script, and take any function. They
# read files and compute with NumPy, which is safe beside torch's threads; a user's augmentation may use one thread.
START_METHOD = "fork" if sys.platform == "linux" else None

LAST_SECONDS = 30  # after SIGTERM, in which the main process may still need images to finish its step

logger = logging.getLogger("hrnet_zoo")


def prefetch_in_processes(
    items: Iterable[Item], work: Callable[[Item], T], workers: int, ahead: int | None = None
) -> Generator[T, None, None]:
    """Yield the result of `work` for each item, in order, while worker processes compute the next ones.

    Closing it, or leaving it behind after an error, ends the processes.

    Args:
        items: taken as they are needed; they may have no end.
        work: what it raises is raised here; where processes are not forked, it must be picklable.
        workers: how many processes; 0: everything happens here. A daemonic process (of Celery, or of a
            `multiprocessing.Pool`) must not start any: threads do the work there.
        ahead: how many items they are ahead; None: one more than there are workers, so that none idles.

    Raises:
        ProcessError: a worker process died.

    """
    if workers == 0:
        yield from map(work, items)
        return
    ahead = workers + 1 if ahead is None else ahead
    if multiprocessing.current_process().daemon:
        _warn_of_threads()
        yield from prefetch_in_threads(items, work, threads=workers, ahead=ahead)
        return
    context = multiprocessing.get_context(START_METHOD)
    pool = ProcessPoolExecutor(workers, context, initializer=_serve, initargs=(work,))
    try:
        yield from _in_order(pool, items, _work, ahead)
    except BrokenProcessPool as error:
        guard = "if your script does not, put what it does below `if __name__ == '__main__':`, for workers import it; "
        raise ProcessError(
            asked=f"images read by {workers} worker processes",
            found=f"one of them died: {error}",
            done="the run was stopped",
            advice=f"{'' if START_METHOD == 'fork' else guard}if memory is short, use fewer workers, or workers=0",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def prefetch_in_threads(
    items: Iterable[Item], work: Callable[[Item], T], *, threads: int, ahead: int, finish: bool = False
) -> Generator[T, None, None]:
    """Yield the result of `work` for each item, in order, while threads compute the next ones.

    Closing it, or leaving it behind after an error, ends the threads.

    Args:
        items: taken as they are needed, in the thread that asks for results.
        work: such as decoding, compressing or writing, which release Python's lock; what it raises is raised here.
        threads: how many.
        ahead: how many items they are ahead.
        finish: when closed, or left behind after an error, finish the items that were taken instead of dropping them;
            before an error of `items` itself is raised, yield their results.

    """
    pool = ThreadPoolExecutor(threads, "hrnet-zoo")
    try:
        yield from _in_order(pool, items, work, ahead, finish)
    finally:
        pool.shutdown(cancel_futures=not finish)


def _in_order(
    pool: Executor, items: Iterable[Item], work: Callable[[Item], T], ahead: int, finish: bool = False
) -> Generator[T, None, None]:
    """Yield each item's result; by then the `ahead` next ones are submitted."""
    waiting: deque[tuple[Item, Future[T]]] = deque()

    def results(most: int) -> Iterator[T]:
        while len(waiting) > most:
            item, future = waiting.popleft()
            try:
                yield future.result()
            except BrokenProcessPool as error:
                error.args = (f"while {getattr(item, 'image', item)} was waited for",)
                raise

    coming = iter(items)
    while True:
        try:
            item = next(coming)
        except StopIteration:
            break
        except (Exception, KeyboardInterrupt, SystemExit):
            if finish:
                yield from results(0)
            raise
        waiting.append((item, pool.submit(work, item)))
        yield from results(ahead)
    yield from results(0)


@functools.cache
def _warn_of_threads() -> None:
    """Log it once in a process."""
    logger.warning("this process is daemonic and cannot start others: threads prefetch the images")


_works: list[Callable[[Any], Any]] = []  # in a worker: the one that it does


def _work(item: Any) -> Any:  # noqa: ANN401 - which `_works` has
    return _works[0](item)


def _serve(work: Callable[[Any], Any]) -> None:
    """Let the main process decide when a worker ends, but never outlive it."""
    _works[:] = [work]
    if "torch" in sys.modules:  # which would wait for threads that the fork left behind
        sys.modules["torch"].set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_soon)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_soon(number: int, frame: FrameType | None) -> None:
    """Keep working for a while after SIGTERM, which a whole job may get, but end: a broken pool waits for that."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process
    signal.alarm(LAST_SECONDS)


def _end_with_parent() -> None:
    """End the worker once the main process is gone, even if it was killed: the pool's queue would block forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        # `is_alive` reads a pipe, which another process that the parent forked may hold open.
        while parent.is_alive() and os.getppid() == parent.pid:
            parent.join(1)
        os._exit(1)
