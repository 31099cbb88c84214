"""Progress bars that change nothing in the process."""

import threading

from tqdm import tqdm


class Bar(tqdm):  # type: ignore[type-arg] # which the class takes only in its stubs
    """A progress bar with a lock of this process.

    tqdm's own is shared with all forked processes: one of them that is killed while it holds it stops the others for
    ever (1 of about 500 kills of such did). And to make it fixes how `multiprocessing` starts processes, which is for
    the user's script to say.
    """


Bar.set_lock(threading.RLock())
