"""Freed memory retained by malloc from one prediction to the next.

glibc returns large blocks to the system at once, which zeroes every page of the next ones: 3 to 7 % of a fast run of
W18-Small in float32 on 1024 x 2048 pixels (two cores of a Xeon). While an optimized model on a CPU exists, `mallopt(3)`
therefore makes malloc retain freed memory, for the whole process, and `malloc_trim(3)` returns it from time to time.
The last such model to go restores glibc's defaults; earlier settings (MALLOC_... in the environment) are lost. Blocks
above 64 MiB are retained for the main thread only. Without glibc nothing is done.
"""

import ctypes
import functools
import itertools
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
# All blocks from the heap, which shrinks when more than this (the highest possible value) is free at its end.
_RETAIN = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1}
# What malloc adapts itself to once a block of 32 MiB has been freed.
_DEFAULT = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}

TRIM_EVERY = 64  # calls of a network, so that zeroing the pages again costs next to nothing

_lock = threading.RLock()  # the garbage collector may finalize a user in the thread that holds it
_users: set[int] = set()
_calls = itertools.count(1)


def retain(user: object) -> None:
    """Let malloc retain freed memory as long as `user` exists."""
    with _lock:
        _users.add(id(user))
        weakref.finalize(user, _release, id(user)).atexit = False
        _set(_RETAIN)


def tick() -> None:
    """Count a call of a network, and trim after every 64th."""
    if next(_calls) % TRIM_EVERY == 0:
        trim()


def trim() -> None:
    """Return free memory to the system."""
    if malloc_trim := _glibc("malloc_trim"):
        malloc_trim(0)


@contextmanager
def default_malloc() -> Iterator[None]:
    """Let malloc return freed memory at once meanwhile, for a fair comparison with other runtimes."""
    with _lock:
        _set(_DEFAULT)
    try:
        yield
    finally:
        with _lock:
            if _users:
                _set(_RETAIN)


def _release(user: int) -> None:
    with _lock:
        _users.discard(user)
        if not _users:
            _set(_DEFAULT)
            trim()


def _set(settings: dict[int, int]) -> None:
    if mallopt := _glibc("mallopt"):
        for name, value in settings.items():
            mallopt(name, value)


@functools.cache
def _glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
