"""Note Ctrl-C (SIGINT) and SIGTERM, so that a training saves after the current update and leaves."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO_S = 2.0  # within which a second signal is the first one, passed on by a launcher that got it too


@contextmanager
def noted_signals(*, verbose: bool) -> Iterator[Mapping[int, float]]:
    """Yield what holds the first SIGINT or SIGTERM and its time; one that comes `ECHO_S` later has its usual effect.

    Nothing changes outside the main thread, where Python handles no signals, nor for a signal that the process ignores
    (as a script's background job ignores SIGINT) or that is handled outside of Python.
    """
    noted: dict[int, float] = {}
    before: dict[int, signal._HANDLER] = {}

    def note(number: int, frame: FrameType | None) -> None:
        if not noted:
            noted[number] = time.monotonic()
            if verbose:
                with suppress(OSError):  # stderr may be closed; `os.write` is safe in a signal handler
                    os.write(2, b"\nstopping: this update is finished and saved; a second signal ends it at once\n")
        elif time.monotonic() >= max(noted.values()) + ECHO_S:
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
