"""Progress bars that change nothing in the process; where there is no terminal, a line once a minute."""

import sys
import threading
from typing import Any

from tqdm import tqdm

LINE_S = 60.0  # seconds between lines
_FACTS = " {n_fmt} of {total_fmt} UNITS, {rate_fmt}, {remaining} left{postfix}"
BAR, LINE = "{desc}: {percentage:3.0f}%|{bar}|" + _FACTS, "{desc}: {percentage:.0f}%," + _FACTS


def is_terminal(file: Any) -> bool:  # noqa: ANN401 - what `sys.stderr` may be, None included
    """Tell whether a file is a terminal, on which a bar can move."""
    return hasattr(file, "isatty") and not file.closed and bool(file.isatty())


class Bar(tqdm):  # type: ignore[type-arg] # which the class takes only in its stubs
    """A progress bar with a lock of this process; with disable=None and no terminal, lines.

    tqdm's own lock is shared with all forked processes: one of them that is killed while it holds it stops the others
    for ever (1 of about 500 kills of such did). And to make it fixes how `multiprocessing` starts processes, which is
    for the user's script to say.
    """

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - as tqdm takes them
        file = options.get("file") or sys.stderr
        self._is_line = options.get("disable", False) is None and not is_terminal(file)
        if self._is_line:
            seconds = dict.fromkeys(("delay", "mininterval", "maxinterval"), LINE_S)
            options |= {"disable": file is None, "leave": False, **seconds}  # results follow the last line
        super().__init__(*args, **options)

    @property
    def format_dict(self) -> dict[str, Any]:
        """The facts of the bar, shown with unit and time left where the total is known."""
        facts = super().format_dict
        if facts["total"]:
            form = LINE if self._is_line else BAR
            facts["bar_format"] = form.replace("UNITS", "B" if self.unit == "B" else f"{self.unit}s")
        return dict(facts)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show the bar, or print the line."""
        if not self._is_line:
            super().display(msg, pos)
        elif msg is None:  # and not to be wiped
            self.fp.write(f"{self}\n")
            self.fp.flush()


Bar.set_lock(threading.RLock())
