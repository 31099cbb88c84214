"""Note SIGINT and SIGTERM, so that a training finishes its update and saves before it leaves."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO_S = 2.0  # within which a second signal is the first one, passed on by a launcher that got it too


@contextmanager
def noted_signals(*, verbose: bool) -> Iterator[list[int]]:
    """Yield a list to which the first SIGINT or SIGTERM is added; one that comes `ECHO_S` later has its usual effect.

    Nothing changes outside the main thread, where Python handles no signals, nor for a signal that the process ignores
    (as a script's background job ignores SIGINT) or that is handled outside of Python.
    """
    noted: list[int] = []
    times: list[float] = []
    before: dict[int, signal._HANDLER] = {}

    def note(number: int, frame: FrameType | None) -> None:
        if not noted:
            noted.append(number)
            times.append(time.monotonic())
            if verbose:
                with suppress(OSError):  # stderr may be closed; `os.write` is safe in a signal handler
                    os.write(2, b"\nstopping: the work under way is finished and saved; once more ends it at once\n")
        elif time.monotonic() >= times[0] + ECHO_S:
            signal.signal(number, before[number])
            signal.raise_signal(number)

    if threading.current_thread() is threading.main_thread():
        handled = (each for each in STOP_SIGNALS if signal.getsignal(each) not in (None, signal.SIG_IGN))
        before = {each: signal.signal(each, note) for each in handled}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
