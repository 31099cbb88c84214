"""Progress bars that change nothing in the process."""

import threading
from typing import Any

from tqdm import tqdm

FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt} UNITS, {rate_fmt}, {remaining} left{postfix}"


class Bar(tqdm):  # type: ignore[type-arg] # which the class takes only in its stubs
    """A progress bar with a lock of this process.

    tqdm's own is shared with all forked processes: one of them that is killed while it holds it stops the others for
    ever (1 of about 500 kills of such did). And to make it fixes how `multiprocessing` starts processes, which is for
    the user's script to say.
    """

    @property
    def format_dict(self) -> dict[str, Any]:
        """The facts of the bar, shown with unit and time left where the total is known."""
        facts = super().format_dict
        if facts["total"]:
            facts["bar_format"] = FORMAT.replace("UNITS", "B" if self.unit == "B" else f"{self.unit}s")
        return dict(facts)


Bar.set_lock(threading.RLock())
