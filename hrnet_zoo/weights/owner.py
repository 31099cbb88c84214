"""Who writes a private file of the cache, and whether that thread still lives: said by a token in the file's name.

    <host>-<place>-<pid>-<start>-<thread>-<random>

Process numbers mean the same only within one boot and one pid namespace, of which `place` is a digest.
"""

import hashlib
import os
import platform
import re
import secrets
import sys
import threading
import uuid
from pathlib import Path

PATTERN = (
    r"[A-Za-z0-9_]*-(?P<place>[0-9a-f]{8})-(?P<pid>[1-9][0-9]{0,8})-(?P<start>[0-9]+)-(?P<thread>[0-9]+)-[0-9a-f]{8}"
)
NO_PLACE = "00000000"


def token() -> str:
    """Name this thread of this process on this machine, never twice the same."""
    host = re.sub("[^A-Za-z0-9_]", "", platform.node())[:16]
    pid = os.getpid()
    start = _process(pid)[1] or "0"
    return f"{host}-{place()}-{pid}-{start}-{threading.get_ident()}-{secrets.token_hex(4)}"


def lives(name: str) -> bool | None:
    """Tell whether the owner of a file of this name still writes it; None where that cannot be known.

    False is a proof: the process or thread has ended, or is the one that asks, which has come back from its writing.
    A name without a token is nobody's that could be known.
    """
    owner = re.search(rf"\.{PATTERN}\.[a-z]+$", name)
    if owner is None or owner["place"] == NO_PLACE or owner["place"] != place():
        return None
    pid, thread = int(owner["pid"]), int(owner["thread"])
    runs, start = _process(pid)
    if not runs or (start and start != owner["start"]):
        return False
    if pid != os.getpid():
        return True if start else None  # without its start it may be another process of the same number
    return thread != threading.get_ident() and thread in {each.ident for each in threading.enumerate()}


def place() -> str:
    """Digest of where process numbers mean the same; NO_PLACE where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        where = f"{boot}{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        if sys.platform != "darwin":
            return NO_PLACE
        where = f"{platform.node()}{uuid.getnode()}"  # no namespaces; a boot is not seen, and a start time neither
    return hashlib.sha256(where.encode()).hexdigest()[:8]


def _process(pid: int) -> tuple[bool, str]:
    """Whether a process runs, and its start time in clock ticks since boot; "" where that cannot be seen."""
    try:
        if pid != os.getpid():
            os.kill(pid, 0)  # signal 0 only asks
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except ProcessLookupError:
        return False, ""
    except OSError:  # another user's process, or no /proc
        return True, ""
    return fields[0] not in "ZX", fields[19]  # proc(5), fields 3 and 22; a zombie writes no more
