"""Freed memory of this process, kept from one prediction to the next.

glibc's malloc hands large blocks back to the system as soon as they are freed, and the system clears every page of the
next ones: measured, a quarter to two fifths of a fast prediction of a 1024 x 2048 image. Other runtimes have an
allocator of their own against that; torch on a CPU has malloc's. Hence, as long as something fast exists, malloc is
told (mallopt(3)) to keep what is freed, for the whole process, and now and then to hand back what was not used again.

Users are counted under a lock, and the last one to go sets what glibc comes to by itself. Nothing else of the process
is set for fast predictions. Blocks above 64 MiB are kept for the process's main thread alone; glibc has it so. What its
settings were before (MALLOC_... in the environment) counts no more from then on. Other C libraries and systems have no
such switch: there nothing is done.
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
# All blocks from the heap, whose end goes back to the system when more than this (the most that can be said) is free.
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1}
# What malloc comes to by its own rule as soon as a block of 32 MiB has been freed.
_USUAL = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}

CALLS = 64  # of the network, after which what is free goes back: to be cleared anew once in so many costs nothing

_lock = threading.RLock()  # a user may go, by the garbage collector, in a thread that holds it
_users: set[int] = set()
_calls = itertools.count(1)


def keep(user: object) -> None:
    """Let malloc keep freed memory as long as this object exists."""
    with _lock:
        _users.add(id(user))
        weakref.finalize(user, _leave, id(user)).atexit = False
        _tell(_KEEPING)


def used() -> None:
    """Count a call of a network, and after some of them hand back what is free."""
    if next(_calls) % CALLS == 0:
        give_back()


def give_back() -> None:
    """Hand what is free back to the system."""
    if trim := _glibc("malloc_trim"):
        trim(0)


@contextmanager
def as_usual() -> Iterator[None]:
    """Let malloc do what it does by itself: a fair comparison with what has no such help."""
    with _lock:
        _tell(_USUAL)
    try:
        yield
    finally:
        with _lock:
            if _users:
                _tell(_KEEPING)


def _leave(user: int) -> None:
    with _lock:
        if user in _users:
            _users.remove(user)
            if not _users:
                _tell(_USUAL)
                give_back()


def _tell(settings: dict[int, int]) -> None:
    if mallopt := _glibc("mallopt"):
        for name, value in settings.items():
            mallopt(name, value)


@functools.cache
def _glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
