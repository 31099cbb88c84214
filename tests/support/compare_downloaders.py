"""The faults of tests/support/http_faults.py met by several downloaders, in one run against one host: prints the table.

    python -m tests.support.compare_downloaders

Not a test. What is not installed is left out. A downloader that knows a hash or a size is told it, except where its
column says so. "BAD": other bytes than the file's were taken for the file. Takes a few minutes.
"""

# ruff: noqa: T201 - it prints

import hashlib
import importlib.util
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import requests
import torch.hub

from hrnet_zoo.errors import CheckpointError
from hrnet_zoo.weights.convert import check_hash
from hrnet_zoo.weights.download import fetch
from tests.support.http_faults import Fault, faults
from tests.support.http_server import serve

LIMIT_S, STALL_S = 45.0, 90.0  # what takes longer than the first is said to hang
AT_ONCE = 8


def wheel() -> bytes:
    """Make a file that every one of them can be asked for: pip takes wheels only."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("small/data", random.Random(1).randbytes(400_000))  # noqa: S311 - any bytes will do
        archive.writestr("small-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n")
        archive.writestr("small-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("small-1.0.dist-info/RECORD", "")
    return file.getvalue()


BODY = wheel()
DIGEST = hashlib.sha256(BODY).hexdigest()
FILE = "small-1.0-py3-none-any.whl"


def _ours(url: str, folder: Path) -> Path:
    body = fetch(
        [url],
        folder / "file.part",
        max_bytes=len(BODY) + 1000,
        verify=lambda body: check_hash(body, DIGEST, url),
        progress=False,
    )
    (folder / "file").write_bytes(body)
    return folder / "file"


def _hub(url: str, folder: Path) -> Path:
    from huggingface_hub.file_download import http_get

    with (folder / "file").open("wb") as file:
        http_get(url, file, expected_size=len(BODY))
    return folder / "file"


def _pooch(url: str, folder: Path) -> Path:
    pooch = importlib.import_module("pooch")
    return Path(pooch.retrieve(url, known_hash=f"sha256:{DIGEST}", path=folder, fname="file"))


def _torch(url: str, folder: Path) -> Path:
    torch.hub.download_url_to_file(url, str(folder / "file"), progress=False)
    return folder / "file"


def _torch_hash(url: str, folder: Path) -> Path:
    torch.hub.download_url_to_file(url, str(folder / "file"), hash_prefix=DIGEST[:8], progress=False)
    return folder / "file"


def _pip(url: str, folder: Path) -> Path:
    words = ["download", "--no-index", "--no-deps", "--no-cache-dir", "--disable-pip-version-check", "-d", str(folder)]
    command = [sys.executable, "-m", "pip", *words, url]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own words
    return folder / FILE


DOWNLOADERS: dict[str, tuple[str, Callable[[str, Path], Path]]] = {
    "hrnet-zoo": ("hrnet_zoo", _ours),
    "huggingface_hub": ("huggingface_hub", _hub),
    "pooch": ("pooch", _pooch),
    "torch.hub": ("torch", _torch),
    "torch.hub+hash": ("torch", _torch_hash),
    "pip (no hash)": ("pip", _pip),
}


def _begin(work: Callable[[str, Path], Path], url: str, folder: Path) -> int:
    """Download in a process of its own, which leaves a word on what came of it."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()  # pip is a process of this one, and goes with it
    try:
        word = "good" if work(url, folder).read_bytes() == BODY else "BAD"
    except CheckpointError as error:
        word = type(error).__name__
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is what came of it
        word = type(error).__name__
    (folder / "word").write_text(word)
    os._exit(0)


def _host() -> tuple[int, str]:
    """Begin a host that plays every fault to every downloader at a path of its own."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        with os.fdopen(reading) as pipe:
            return pid, pipe.readline().strip()
    with serve() as host:
        for downloader in range(len(DOWNLOADERS)):
            for number in range(len(_faults(""))):
                path = _path(downloader, number)
                host.play(path, *list(_faults(path).values())[number].answers)
        os.write(writing, f"{host.url}\n".encode())
        signal.pause()
    raise AssertionError


def _faults(path: str) -> dict[str, Fault]:
    return faults(BODY, path, STALL_S)


def _path(downloader: int, number: int) -> str:
    return f"/{downloader}/{number}/{FILE}"


def main() -> None:
    """Run all, a few at once, and print the table."""
    there = {name: work for name, (module, work) in DOWNLOADERS.items() if importlib.util.find_spec(module)}
    for name in there:
        importlib.import_module(DOWNLOADERS[name][0])
    importlib.import_module("huggingface_hub.file_download")
    requests.Session().close()
    host, url = _host()
    names = list(_faults(""))
    found: dict[tuple[str, str], str] = {}
    waiting = [(name, number) for number in range(len(names)) for name in there]
    running: dict[int, tuple[str, int, Path, float]] = {}
    with tempfile.TemporaryDirectory() as top:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                name, number = waiting.pop(0)
                folder = Path(tempfile.mkdtemp(dir=top))
                pid = _begin(there[name], url + _path(list(DOWNLOADERS).index(name), number), folder)
                running[pid] = name, number, folder, time.monotonic()
            time.sleep(0.05)
            for pid, (name, number, folder, began) in list(running.items()):
                ended = os.waitpid(pid, os.WNOHANG)[0]
                if not ended and time.monotonic() - began < LIMIT_S:
                    continue
                if not ended:
                    with suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                word = folder / "word"
                found[names[number], name] = word.read_text() if word.exists() else f"hangs >{LIMIT_S:.0f} s"
                del running[pid]
    os.kill(host, signal.SIGKILL)
    print(f"| fault | {' | '.join(there)} |\n|---|{'---|' * len(there)}")
    for fault in names:
        print(f"| {fault} | {' | '.join(found[fault, name] for name in there)} |")
    recoverable = [fault for fault, row in _faults("").items() if row.ends_in is None]
    print(f"\n{len(names)} faults, of which {len(recoverable)} can be recovered from")
    for name in there:
        kinds = Counter(
            word if word in {"good", "BAD"} else "hangs" if word.startswith("hangs") else "error"
            for fault in names
            for word in [found[fault, name]]
        )
        recovered = sum(found[fault, name] == "good" for fault in recoverable)
        print(f"{name}: {recovered} of {len(recoverable)} recovered; {dict(kinds)}")


if __name__ == "__main__":
    main()
