"""Trials by processes that die: run as a process of its own, with one thread, from which each trial is forked.

    python -m tests.support.survival WHAT COUNT SEED

prints what came of it as JSON. torch is imported once, so a trial takes a tenth of a second instead of two.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hrnet_zoo.errors import CacheSpaceError
from hrnet_zoo.weights import cache, convert
from hrnet_zoo.weights.download import Note, _Source, _store
from tests.support.cache_fsck import fsck
from tests.support.checkpoints import legacy, stand_in
from tests.support.http_server import FaultServer, serve, status

SHAPES = {
    "backbone.conv1.weight": (64, 3, 3, 3),
    "backbone.stage2.weight": (270_000,),
    "backbone.bn1.num_batches_tracked": (),
    "decode_head.conv_seg.weight": (19, 64, 1, 1),
    "decode_head.conv_seg.bias": (19,),
}
EXPECTED = {name: torch.Size(shape) for name, shape in SHAPES.items()}
KEY = "small"
PATH = f"/{KEY}.pth"
SLICE, PAUSE_S = 64 << 10, 0.002  # the body takes a while to send, or most kills would come before or after it
SPACE, WRONG = 6, 1  # ends of a trial beside 0

torch.set_num_threads(1)  # a forked process has no others, and would wait for them


def small_state() -> dict[str, Tensor]:
    """Make the weights that all trials are about, 1.1 MB."""
    return stand_in(SHAPES)


BODY = legacy(small_state())
CONVERTED = convert.convert_checkpoint([BODY], KEY, EXPECTED, {"source_url": KEY})
DIGEST = hashlib.sha256(BODY).hexdigest()


def load(url: str) -> None:
    """Load the model as a user's call does, from the cache that is set, and compare every value."""

    def bring() -> Path:
        return convert.fetch_into_cache(
            KEY,
            [url],
            DIGEST,
            lambda bodies: convert.convert_checkpoint(bodies, url, EXPECTED, {"source_url": KEY}),
            max_bytes=len(BODY),
            progress=False,
        )

    state, _ = convert.load(bring, EXPECTED)
    wanted = small_state()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)


# --- the host --------------------------------------------------------------------------------------------------------


def slowly(body: bytes, sent: list[int]) -> Callable[[BaseHTTPRequestHandler], None]:
    """Answer as `ranged` does, a slice at a time, and count the bytes that left."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start, wanted = 0, handler.headers.get("Range", "")
        if wanted and handler.headers.get("If-Range") == '"v1"':
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        headers = {"ETag": '"v1"'}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SLICE)  # little is on its way to the dead
        status(206 if start else 200, headers, length=len(body) - start)(handler)
        for at in range(start, len(body), SLICE):
            block = body[at : at + SLICE]
            handler.wfile.write(block)
            handler.wfile.flush()
            sent[0] += len(block)
            time.sleep(PAUSE_S)

    return answer


class Host:
    """The host in a process of its own; its counts are asked for by HTTP."""

    def __init__(self) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            with serve() as host:
                self._run(host, writing)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            self.url = pipe.readline().strip()

    def _run(self, host: FaultServer, writing: int) -> None:
        sent = [0]

        def counts(handler: BaseHTTPRequestHandler) -> None:
            status(200, body=json.dumps({"sent": sent[0], "gets": len(host.to(PATH))}).encode())(handler)

        host.play(PATH, slowly(BODY, sent))
        host.play("/counts", counts)
        os.write(writing, f"{host.url}\n".encode())
        os.close(writing)
        signal.pause()

    def counts(self) -> dict[str, int]:
        """Ask for bytes sent and requests answered so far."""
        with urllib.request.urlopen(f"{self.url}/counts") as answer:  # noqa: S310 - our own host
            found: dict[str, int] = json.load(answer)
        return found


# --- trials ----------------------------------------------------------------------------------------------------------


def fork(work: Callable[[], object]) -> int:
    """Begin work in a process of its own, whose exit code says what came of it."""
    pid = os.fork()
    if pid:
        return pid
    code = WRONG
    try:
        work()
        code = 0
    except CacheSpaceError:
        code = SPACE
    except KeyboardInterrupt:
        code = 130
    except BaseException:  # noqa: BLE001 - the end of this process, whatever it is
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def end(pid: int) -> int:
    """Wait for a process; minus the signal that killed it, or its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextmanager
def fresh() -> Iterator[Path]:
    """Set an empty cache, and remove it afterwards."""
    folder = Path(tempfile.mkdtemp())
    os.environ["HRNET_ZOO_CACHE"] = str(folder / "cache")
    try:
        yield folder / "cache"
    finally:
        shutil.rmtree(folder)


def check(*, settled: bool = False) -> dict[str, int]:
    """Check the cache that is set."""
    return fsck(EXPECTED, DIGEST, settled=settled)


def time_passes(seconds: float = cache.SILENT_S + 1) -> None:
    """Make every unfinished file of the cache older, as if so much time had passed since it was written."""
    for entry in cache.entries():
        if entry.kind in {"partial", "temp"}:
            os.utime(entry.path, (entry.modified_s, entry.modified_s - seconds))


def settle() -> None:
    """Do what the next build of any model does with leftovers, a while later, and see that there are none."""
    check()
    time_passes(cache.STALE_S + 1)
    cache.sweep()
    check(settled=True)


EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.link", "os.utime", "os.truncate", "fcntl.flock", "os.rmdir")


def under_audit(folder: Path, kill_at: int, seen: list[str] | None = None) -> None:
    """Kill this process at its k-th event below a folder, and end it at once if it opens a finished file to write."""
    left = kill_at

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in EVENTS or not (event == "fcntl.flock" or str(folder) in str(arguments[0])):
            return
        if event == "open" and str(arguments[0]).endswith(".safetensors") and "/models/." not in str(arguments[0]):
            flags = arguments[2]
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC):
                os._exit(99)
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        if seen is not None:
            seen.append(event)

    sys.addaudithook(hook)


def at_every_event(host: Host) -> dict[str, Any]:
    """Kill at every event of fetch, convert and publish, from three beginnings; then let another process finish."""
    found: dict[str, Any] = {}
    needed = {nothing: len(BODY), half_a_download: len(BODY) - len(BODY) // 2, damaged: len(BODY)}
    before, all_needed = host.counts()["sent"], 0
    for beginning, bytes_needed in needed.items():
        point, ended = 0, -signal.SIGKILL
        while ended == -signal.SIGKILL:
            point += 1
            with fresh() as folder:
                beginning(host)

                def work(folder: Path = folder, point: int = point) -> None:
                    under_audit(folder, point)
                    load(host.url + PATH)

                ended = end(fork(work))
                assert ended in (0, -signal.SIGKILL), (beginning, point, ended)
                if beginning is not damaged:
                    check()
                time_passes()
                assert end(fork(lambda: load(host.url + PATH))) == 0, (beginning, point)
                settle()
            all_needed += bytes_needed
        found[beginning.__name__] = point - 1
    return {"points": found, "sent": (host.counts()["sent"] - before) / all_needed}


def nothing(_: Host) -> None:
    """Begin with an empty cache."""


def half_a_download(host: Host) -> None:
    """Begin with what a process left that was killed a while ago."""

    def leave() -> None:
        source = _Source(host.url + PATH, cache.claim_partial(KEY), len(BODY), progress=False)
        _store(source, iter([BODY[: len(BODY) // 2]]), 0, Note(source.url, '"v1"', len(BODY)))
        os.kill(os.getpid(), signal.SIGKILL)

    assert end(fork(leave)) == -signal.SIGKILL
    time_passes()


def damaged(_: Host) -> None:
    """Begin with a finished file that a failing disk, or another program, cut short."""
    cache.publish(KEY, CONVERTED[:1000], lambda _: None)


def at_random(host: Host, count: int, dice: random.Random) -> dict[str, Any]:
    """Kill at random times, one to three times in a row, then let a process finish."""
    took = time.monotonic()
    with fresh():
        assert end(fork(lambda: load(host.url + PATH))) == 0
    took = time.monotonic() - took
    before, kills, rounds, ends = host.counts()["sent"], 0, 0, Counter[str]()
    while kills < count:
        with fresh():
            for _ in range(dice.randint(1, 3)):
                pid = fork(lambda: load(host.url + PATH))
                time.sleep(dice.uniform(0, 0.8 * took))
                os.kill(pid, signal.SIGKILL)
                ended = end(pid)
                assert ended in (0, -signal.SIGKILL), ended
                kills += ended == -signal.SIGKILL
                ends["+".join(sorted(check()))] += 1
                time_passes()
            assert end(fork(lambda: load(host.url + PATH))) == 0
            settle()
            rounds += 1
    sent = (host.counts()["sent"] - before) / (rounds * len(BODY))
    return {"kills": kills, "rounds": rounds, "sent": sent, "left": dict(ends)}


def interrupted(host: Host, count: int, dice: random.Random) -> dict[str, Any]:
    """Send SIGINT, as Ctrl-C does, or SIGTERM, at random times."""
    ends = Counter[int]()
    for turn in range(count):
        with fresh():
            pid = fork(lambda: load(host.url + PATH))
            time.sleep(dice.uniform(0.02, 0.15))
            os.kill(pid, signal.SIGINT if turn % 2 else signal.SIGTERM)
            ends[end(pid)] += 1
            check()
            assert end(fork(lambda: load(host.url + PATH))) == 0
            settle()
    return {"ends": {str(code): times for code, times in ends.items()}}


def together(work: Callable[[], object], count: int) -> list[int]:
    """Begin the same work in so many processes, which go off at once."""
    reading, writing = os.pipe()

    def wait() -> None:
        os.close(writing)
        os.read(reading, 1)  # its end
        work()

    pids = [fork(wait) for _ in range(count)]
    os.close(reading)
    os.close(writing)
    return pids


def fails_with(code: int) -> Callable[..., object]:
    """Make a flock that fails."""

    def flock(*_: object) -> object:
        raise OSError(code, os.strerror(code))

    return flock


LOCKS: dict[str, Callable[..., object]] = {
    "flock": fcntl.flock,
    "no-op": lambda *_: None,
    "ENOSYS": fails_with(errno.ENOSYS),
    "ENOLCK": fails_with(errno.ENOLCK),
}


@contextmanager
def flock(kind: str) -> Iterator[None]:
    """Set what flock does."""
    real = fcntl.flock
    fcntl.flock = LOCKS[kind]  # type: ignore[assignment]
    try:
        yield
    finally:
        fcntl.flock = real


def crowds(host: Host, count: int) -> dict[str, Any]:
    """Let 32 processes, and 64 threads of one, ask at once, with each kind of lock."""
    found: dict[str, Any] = {}
    for kind in LOCKS:
        for name, crowd in (("32 processes", _processes), ("64 threads", _threads)):
            for _ in range(count):
                with fresh(), flock(kind):
                    before, began = host.counts()["gets"], time.monotonic()
                    failures = crowd(host)
                    took = time.monotonic() - began
                    settle()
                facts = found.setdefault(f"{name}, {kind}", {"failures": 0, "gets": 0, "seconds": 0})
                facts["failures"] += failures
                facts["gets"] = max(facts["gets"], host.counts()["gets"] - before)
                facts["seconds"] = max(facts["seconds"], round(took, 2))
    return found


def _processes(host: Host) -> int:
    pids = together(lambda: load(host.url + PATH), 32)
    return sum(end(pid) != 0 for pid in pids)


def _threads(host: Host) -> int:
    def work() -> None:
        failed: list[BaseException] = []

        def one() -> None:
            try:
                load(host.url + PATH)
            except BaseException as error:  # noqa: BLE001 - told below
                failed.append(error)

        threads = [threading.Thread(target=one) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]

    return int(end(fork(work)) != 0)


def thieves(host: Host, count: int) -> dict[str, Any]:
    """Let six processes without locks take partial downloads from one another, however recently they were written.

    Whoever finds its file gone begins anew, and nobody publishes what two have written.
    """
    gets, failures, rounds = 0, 0, 0
    cache.SILENT_S = -1.0
    while rounds < count or (gets <= 6 and rounds < 20 * count):  # until one took another's: how soon, timing decides
        rounds += 1
        with fresh(), flock("no-op"):
            before = host.counts()["gets"]
            pids = []
            for _ in range(6):
                pids.append(fork(lambda: load(host.url + PATH)))
                time.sleep(0.005 * (rounds % 4))
            failures += sum(end(pid) != 0 for pid in pids)
            gets = max(gets, host.counts()["gets"] - before)
            settle()
    return {"rounds": rounds, "failures": failures, "gets": gets}


def crowds_that_die(host: Host, count: int, dice: random.Random) -> dict[str, Any]:
    """Let six processes ask at once and kill five of them at random; the sixth always has its model."""
    kills = 0
    for turn in range(count):
        with fresh(), flock(list(LOCKS)[turn % len(LOCKS)]):
            survivor, *others = together(lambda: load(host.url + PATH), 6)
            ends = []
            for pid in others:
                time.sleep(dice.uniform(0, 0.06))
                os.kill(pid, signal.SIGKILL)
                ends.append(end(pid))
            assert end(survivor) == 0
            assert {*ends} <= {0, -signal.SIGKILL}, ends
            kills += ends.count(-signal.SIGKILL)
            check()
            assert end(fork(lambda: load(host.url + PATH))) == 0  # at once: nobody has been silent for long
            settle()
    return {"rounds": count, "kills": kills}


# --- disks that are full ---------------------------------------------------------------------------------------------


@contextmanager
def disk(size: int) -> Iterator[Path]:
    """Mount a file system of so many bytes and set the cache on it."""
    folder = Path(tempfile.mkdtemp())
    mount("-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(folder))
    os.environ["HRNET_ZOO_CACHE"] = str(folder / "cache")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S603, S607
        folder.rmdir()


def mount(*words: str) -> None:
    """Run mount; CalledProcessError where it is not allowed."""
    subprocess.run(["mount", *words], check=True, capture_output=True)  # noqa: S603, S607


def full_disk(host: Host, step: int) -> dict[str, Any]:
    """Go through disks of every size, from none to 2.2 times the file; then make room."""
    ends, sent = dict[int, int](), 0.0
    for size in range(0, int(2.2 * len(BODY)) + step, step):
        with disk(max(size, 4096)) as folder:
            before = host.counts()["sent"]
            ends[size] = end(fork(lambda: load(host.url + PATH)))
            assert ends[size] in (0, SPACE), (size, ends[size])
            check(settled=ends[size] == 0)
            mount("-o", f"remount,size={8 * len(BODY)}", str(folder))
            assert end(fork(lambda: load(host.url + PATH))) == 0, size
            settle()
            sent = max(sent, (host.counts()["sent"] - before) / len(BODY))
    return {"steps": len(ends), "refused": sum(code == SPACE for code in ends.values()), "sent": sent, **_edge(ends)}


def small_files(host: Host, step: int) -> dict[str, Any]:
    """Go through limits of the size of a file, which a quota is like; then lift it."""
    ends, sent = dict[int, int](), 0.0
    for size in range(0, len(BODY) + 3 * step, step):
        with fresh():
            before = host.counts()["sent"]

            def work(size: int = size) -> None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
                load(host.url + PATH)

            ends[size] = end(fork(work))
            assert ends[size] in (0, SPACE), (size, ends[size])
            check(settled=ends[size] == 0)
            assert end(fork(lambda: load(host.url + PATH))) == 0, size
            settle()
            sent = max(sent, (host.counts()["sent"] - before) / len(BODY))
    return {"steps": len(ends), "refused": sum(code == SPACE for code in ends.values()), "sent": sent, **_edge(ends)}


def _edge(ends: dict[int, int]) -> dict[str, float]:
    """Tell the smallest size, in files, from which on every one sufficed."""
    return {"enough": min(size for size in ends if not any(ends[each] for each in ends if each >= size)) / len(BODY)}


# --- pruning and reading ---------------------------------------------------------------------------------------------


def pruned(host: Host, count: int, dice: random.Random) -> dict[str, Any]:
    """Let one process load while another clears and sweeps, once in each load; every load has the right values."""
    with fresh():
        asked, answered = os.pipe(), os.pipe()

        def loads() -> None:
            for _ in range(count):
                os.write(asked[1], b"!")
                load(host.url + PATH)
                os.read(answered[0], 1)

        def clears() -> None:
            while os.read(asked[0], 1):
                time.sleep(dice.uniform(0, 0.03))
                cache.clear(KEY)
                cache.sweep()
                os.write(answered[1], b"!")

        loading, clearing = fork(loads), fork(clears)
        ended = end(loading)
        os.kill(clearing, signal.SIGKILL)
        end(clearing)
        settle()
    return {"loads": count, "end": ended}


def main() -> None:
    """Run what is named."""
    what, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    dice = random.Random(seed)  # noqa: S311 - times of kills
    host = Host()
    warnings.filterwarnings("ignore", "flock not supported")  # the library's own words on ENOSYS
    logging.getLogger("hrnet_zoo").setLevel(logging.ERROR)
    try:
        with fresh():
            load(host.url + PATH)  # imports what is imported late
        trials: dict[str, Callable[[], dict[str, Any]]] = {
            "events": lambda: at_every_event(host),
            "random": lambda: at_random(host, count, dice),
            "interrupts": lambda: interrupted(host, count, dice),
            "crowds": lambda: crowds(host, count),
            "thieves": lambda: thieves(host, count),
            "dying crowds": lambda: crowds_that_die(host, count, dice),
            "full disk": lambda: full_disk(host, count),
            "small files": lambda: small_files(host, count),
            "pruned": lambda: pruned(host, count, dice),
        }
        began = time.monotonic()
        found = trials[what]()
        print(json.dumps({**found, "took": round(time.monotonic() - began, 1)}))  # noqa: T201 - the result
    finally:
        os.kill(host.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
