"""Files read in worker processes, ahead of who uses them."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from hrnet_zoo.datasets.pairing import Sample
from hrnet_zoo.errors import WorkerError

T = TypeVar("T")


def read_ahead(samples: Sequence[Sample], load: Callable[[Sample], T], workers: int) -> Iterator[T]:
    """Yield what `load` makes of each sample, in order, while worker processes go on with the next ones.

    Args:
        samples: pictures with their labels.
        load: a function of a module; what it raises is raised here.
        workers: how many processes, and how many samples they are ahead; 0: none, everything happens here.

    Raises:
        WorkerError: a worker process died.

    """
    if workers == 0 or not samples:
        yield from map(load, samples)
        return
    # Forked workers start at once and need no `if __name__ == "__main__"` in the user's script. They only read files
    # and compute with numpy, which is safe beside the threads of torch; newer Pythons warn of any threads.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_ignore_interrupts)
    waiting: deque[tuple[Sample, Future[T]]] = deque()
    coming = iter(samples)

    def submit(number: int) -> None:
        waiting.extend((sample, pool.submit(load, sample)) for sample in islice(coming, number))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            submit(workers + 1)
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


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the main process, which ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
