"""SIGINT and SIGTERM, heard but not obeyed until the work under way is safe."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


ECHO_S = 2.0  # within which a second signal is the first one, passed on by a launcher that got it too


class Interruption:
    """While it is entered, a first signal is only noted, and one that comes seconds after it acts as ever.

    A job's scheduler signals all its processes, torchrun among them, which signals its own ones once more.

    In other threads than the main one, where Python has no signals, it does nothing; nor to a signal that the process
    ignores (as one started in the background of a script ignores SIGINT), or that is handled outside of Python.

    Args:
        aloud: tell on stderr that the first one was heard.

    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, *, aloud: bool = False) -> None:
        self.aloud = aloud
        self.signal: signal.Signals | None = None
        self._at = 0.0
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            heard = (number for number in self.SIGNALS if signal.getsignal(number) not in (None, signal.SIG_IGN))
            self._before = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal and time.monotonic() < self._at + ECHO_S:
            return
        if self.signal:
            signal.signal(number, self._before[signal.Signals(number)])
            signal.raise_signal(number)
        self.signal, self._at = signal.Signals(number), time.monotonic()
        if self.aloud:
            with contextlib.suppress(OSError):  # nobody listens
                os.write(2, b"\nstopping: the work under way is finished and saved; once more ends it at once\n")

    @staticmethod
    def leave(number: int) -> None:
        """Do what a signal asks for.

        Raises:
            KeyboardInterrupt: it is SIGINT.
            SystemExit: it is SIGTERM; the code is 143.

        """
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)
