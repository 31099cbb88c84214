"""Addresses -> the verified body of the first that has it: resumes, retries, limits. Knows nothing of models.

A partial download begins with one line of JSON that says what the bytes after it belong to. Where that line is absent
or does not fit, the bytes count for nothing.
"""

import contextlib
import errno
import functools
import itertools
import json
import logging
import os
import random
import re
import shutil
import socket
import ssl
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from time import monotonic, sleep
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.request import url2pathname

import requests
import requests.adapters
import urllib3
import urllib3.exceptions

from hrnet_zoo.errors import (
    CheckpointError,
    DownloadError,
    HTTPStatusError,
    OfflineError,
    TransferError,
    UnexpectedContentError,
    printable,
    redact,
)
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.weights.addresses import is_loopback, is_offline, mirrors
from hrnet_zoo.weights.cache import discard, disk_errors, release_partial

TIMEOUT_S = (10.0, 30.0)  # to connect; between two packets
ANSWER_S = 60.0  # for the headers of the last answer, over all redirects
SLOWEST_BYTES, SLOWEST_S = 120 << 10, 120.0  # a body slower than 1 KiB/s for two minutes has stalled
TRIES = 5  # in a row without PROGRESS_BYTES of new data
PROGRESS_BYTES = 1 << 20
LONGEST_BACKOFF_S = 8.0
LONGEST_RETRY_AFTER_S = 60.0
MAX_REDIRECTS = 5
RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
PAGE_TYPES = frozenset({"text/html", "text/xml", "application/xml", "application/xhtml+xml"})
ADVICE = (
    "check the network, its proxy and certificates (REQUESTS_CA_BUNDLE), and run the same again; or name another host "
    "in HRNET_ZOO_MIRRORS, or bring the file by hand: hrnet-zoo import FILE (your own: checkpoint=FILE)"
)

_CHUNK_BYTES = 1 << 18
_MAX_NOTE_BYTES = 1 << 17
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')  # RFC 9110, 8.8.3, ASCII only; a weak one starts with W/
# RFC 9110, 14.4. No file has more than 19 digits of bytes, and int() of thousands of them fails.
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_LENGTH = re.compile(r"[0-9]{1,19}")
_NO_FILE = (b"<", b"version https://git-lfs")  # how a page begins, and a pointer of Git LFS

_log = logging.getLogger("hrnet_zoo")
_jitter = random.Random()  # noqa: S311 - no secret; the module's own generator is the user's


@dataclass(frozen=True)
class Note:
    """What the bytes of a partial download belong to: address (without secrets), strong ETag, size of the whole."""

    url: str
    etag: str | None
    total: int | None


class TryAgainError(Exception):
    """A try failed in a way that another may mend; `wait_s` is what the host asked for."""

    def __init__(self, found: str, wait_s: float | None = None) -> None:
        super().__init__(found)
        self.wait_s = wait_s


@dataclass(frozen=True)
class _Source:
    """One address, and the partial download that its body goes to."""

    url: str
    partial: Path
    max_bytes: int
    progress: bool

    @property
    def shown(self) -> str:
        return redact(self.url)

    def refusal(self, found: str, kind: type[DownloadError] = DownloadError, **facts: int) -> DownloadError:
        """Return the error; `fetch` says in it what is kept."""
        return kind(asked=f"download {self.shown}", found=found, done="", advice=ADVICE, url=self.shown, **facts)

    def unexpected(self, found: str) -> DownloadError:
        return self.refusal(f"{found} in place of the file", UnexpectedContentError)


def fetch(
    urls: Sequence[str], partial: Path, *, max_bytes: int, verify: Callable[[bytes], object], progress: bool
) -> bytes:
    """Return the body of the first URL that works; it stays in `partial` too.

    What `partial` already holds is resumed if its first line permits. A body that `verify` refuses is fetched once more
    from byte 0, then the next URL is tried. An interrupted download stays for the next call.

    Args:
        urls: https:// or file:// addresses; http:// only to this machine or to a base named in HRNET_ZOO_MIRRORS.
        partial: a private file, made if absent; its folder exists.
        max_bytes: the largest body accepted; nothing beyond is written.
        verify: raises CheckpointError if the body is not what was asked for.
        progress: show a bar on stderr, else a line once a minute.

    Raises:
        CheckpointError: an address served the wrong bytes twice and no other served the right ones.
        DownloadError: no address served the file (OfflineError, HTTPStatusError, TransferError, ...).
        CacheError: the partial download cannot be written.

    """
    offline = is_offline()
    failures: list[DownloadError | CheckpointError] = []
    try:
        for url in urls:
            source = _Source(url, partial, max_bytes, progress)
            try:
                if offline and not url.startswith("file:"):
                    found = (
                        "HRNET_ZOO_OFFLINE or HF_HUB_OFFLINE forbids the network (unset it), and the file is not cached"
                    )
                    raise source.refusal(found, OfflineError)
                return _verified(source, verify)
            except (DownloadError, CheckpointError) as failure:
                _log.info("%s: %s", source.shown, failure.found)
                failures.append(failure)
    except KeyboardInterrupt:
        _log.warning("interrupted: %s", _kept(partial))
        raise
    finally:
        release_partial(partial)
    worst = min(failures, key=lambda each: not isinstance(each, CheckpointError))  # wrong bytes, or the first
    if isinstance(worst, DownloadError):
        worst.done = _kept(partial)
    if isinstance(worst, TransferError):
        worst.kept = resumable_bytes(partial)
    if len(failures) > 1:
        worst.found = "; ".join(f"{redact(url)}: {each.found}" for url, each in zip(urls, failures, strict=True))
    raise worst


def _verified(source: _Source, verify: Callable[[bytes], object]) -> bytes:
    for last in (False, True):
        _download(source)
        with disk_errors(source.partial, f"verify {source.partial}"):
            try:
                with source.partial.open("rb") as file:
                    file.readline(_MAX_NOTE_BYTES)
                    body = file.read()
                verify(body)
            except (CheckpointError, FileNotFoundError) as error:  # wrong, or taken over by another process
                body = b""
                discard(source.partial)
                if last:
                    raise
                _log.warning("%s: %s; fetching it once more from the start", source.shown, error)
            else:
                return body
    raise AssertionError  # the last turn has returned or raised


def _download(source: _Source) -> None:
    """Try until the body is whole, or TRIES in a row brought less than PROGRESS_BYTES beyond the furthest point."""
    local = source.url.startswith("file:")
    if not local:
        _check_hop(source, source.url)
    reached, failed, level = _state(source.partial)[1], 0, logging.WARNING
    while True:
        try:
            return _copy(source) if local else _request(source)
        except TryAgainError as again:
            size = _state(source.partial)[1]
            if size >= reached + PROGRESS_BYTES:
                reached, failed = size, 0
            else:
                failed += 1
            if failed == TRIES:
                raise source.refusal(f"{again} ({TRIES} tries without progress)", TransferError, kept=0) from again
            backoff = min(LONGEST_BACKOFF_S, 0.5 * 2 ** max(failed - 1, 0)) * _jitter.uniform(0.5, 1)
            wait_s = backoff if again.wait_s is None else min(again.wait_s, LONGEST_RETRY_AFTER_S)
            _log.log(level, "%s: %s; retrying in %.1f s", source.shown, again, wait_s)
            level = logging.INFO  # a user who waits should know what for; the others say nothing new
            sleep(wait_s)


def _copy(source: _Source) -> None:
    path = Path(url2pathname(urlsplit(source.url).path))
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # a pipe would block for ever
            raise source.refusal(f"{path} is not a regular file")
        with path.open("rb") as file:
            blocks = iter(functools.partial(file.read, _CHUNK_BYTES), b"")
            _store(source, blocks, 0, Note(source.shown, None, facts.st_size))
    except OSError as error:
        raise source.refusal(f"{path} cannot be read: {error.strerror}") from error


def _request(source: _Source) -> None:
    """Ask once for what is missing of the body, and store what comes."""
    note, size = _state(source.partial)
    if note is None or note.url != source.shown:
        note = None
    elif size and size == note.total:
        return  # whole already: the process that fetched it ended before it could use it
    etag = note.etag if note and size and size < (note.total or size + 1) else None
    start = size if etag else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-", "If-Range": etag} if etag else {})
    with TimedSession(ANSWER_S) as session, _ask(source, session, headers) as response:
        _check_answer(source, response, start)
        length = _LENGTH.fullmatch(response.headers.get("Content-Length", ""))
        total, answered_etag = int(length[0]) if length else None, response.headers.get("ETag", "")
        if "Content-Range" in response.headers or response.status_code == 206:
            sliced = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            total = int(sliced[3]) if sliced else 0
            if (
                not sliced
                or int(sliced[1]) != start
                or not start <= int(sliced[2]) < total
                or (etag and note and note.total not in {None, total})
                or (etag and answered_etag not in {"", etag})
            ):
                discard(source.partial)
                raise TryAgainError("the host answered with another slice than the one asked for")
        else:
            start = 0  # the whole body, whether or not a slice was asked for
        new = Note(source.shown, answered_etag if _STRONG_ETAG.fullmatch(answered_etag) else None, total)
        stored = _store(source, _body(session, response), start, new)
    if total is not None and stored < total:
        raise TryAgainError(f"the body broke off at {stored:,} of {total:,} bytes")


def _state(partial: Path) -> tuple[Note | None, int]:
    """Read what a partial download belongs to, and how many bytes of it are there; None and 0 if that is unknown."""
    with (
        disk_errors(partial, f"continue {partial}"),
        contextlib.suppress(FileNotFoundError, ValueError, RecursionError),
        partial.open("rb") as file,
    ):
        line = file.readline(_MAX_NOTE_BYTES)
        match json.loads(line):
            case {"url": str(url), "etag": str() | None as etag, "total": int() | None as total}:
                if line.endswith(b"\n") and (etag is None or _STRONG_ETAG.fullmatch(etag)):
                    return Note(url, etag, total), os.fstat(file.fileno()).st_size - len(line)
    return None, 0


def resumable_bytes(partial: Path) -> int:
    """Return how many bytes of a partial download can be resumed: without a strong ETag none."""
    note, size = _state(partial)
    return size if note and note.etag else 0


def _kept(partial: Path) -> str:
    kept = resumable_bytes(partial)
    return f"{kept:,} bytes stay in {partial}; the next call resumes there" if kept else "nothing was kept"


def _store(source: _Source, blocks: Iterator[bytes], start: int, note: Note) -> int:
    """Write a body from byte `start` on (0: begin anew) and return the size reached; keep none that looks wrong."""
    partial, total = source.partial, note.total
    if total is not None and total > source.max_bytes:
        raise source.unexpected(f"{total:,} bytes, where at most {source.max_bytes:,} can be right,")
    first = next(blocks, b"")
    if not start and (not first or first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_NO_FILE)):
        raise source.unexpected(f"a body that begins with {first[:20]!r} (a login page, or a pointer of Git LFS?)")
    name = printable(PurePosixPath(urlsplit(source.url).path).name)
    quiet = None if source.progress and sys.stderr else True  # None: unless stderr is a terminal
    with (
        disk_errors(partial, f"write {partial}"),
        Bar(desc=name, total=total, initial=start, unit="B", unit_scale=True, disable=quiet) as bar,
    ):
        need, free = (total or 0) - _state(partial)[1], shutil.disk_usage(partial.parent).free
        if need > free:
            raise OSError(errno.ENOSPC, f"{need:,} bytes are needed and {free:,} are free")
        with open(partial, "ab", opener=_open_no_link) as file:
            if not start:
                file.truncate(0)
                file.write(json.dumps(asdict(note)).encode() + b"\n")
            size = start
            for block in itertools.chain((first,), blocks):
                size += len(block)
                if size > source.max_bytes:
                    break
                if not _is_at(partial, file.fileno()):
                    raise TryAgainError("another process took over the partial download")
                file.write(block)
                bar.update(len(block))
            else:
                return size
    discard(partial)
    raise source.unexpected(f"a body that goes on after the {source.max_bytes:,} bytes that can be right")


def _open_no_link(path: str, flags: int) -> int:
    """Open a file, but no link: whoever may write to the folder could plant one."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


class TimedSession(requests.Session):
    """A session whose connections end when its time is up, whatever the host sends until then.

    The timeouts of requests bound silence; a host that drips headers, trailers or "100 Continue" is never silent.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.late = False
        self._closed = threading.Event()
        self._connections: list[Any] = []
        self.allow(seconds)
        for scheme in ("https://", "http://"):
            self.mount(scheme, _Adapter(self._connections))
        threading.Thread(target=self._watch, name="hrnet-zoo: deadline", daemon=True).start()

    def allow(self, seconds: float) -> None:
        """Set the deadline to so many seconds from now."""
        self._deadline = monotonic() + seconds

    def close(self) -> None:
        """Close all connections."""
        self._closed.set()
        for connection in self._connections:
            connection.close()
        super().close()

    def _watch(self) -> None:
        while not self._closed.wait(0.05):
            if monotonic() < self._deadline:
                continue
            self.late = True
            for connection in list(self._connections):
                for each in (connection.sock, connection.used):
                    with contextlib.suppress(OSError, TypeError):  # not open, or not any more
                        socket.socket.shutdown(each, socket.SHUT_RDWR)


class _Adapter(requests.adapters.HTTPAdapter):
    """Records every connection it makes."""

    def __init__(self, connections: list[Any]) -> None:
        super().__init__()
        self._connections = connections

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as in the base class
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        connections = self._connections

        class Recorded(type(pool).ConnectionCls):  # type: ignore[misc]
            used = None

            def connect(self) -> None:
                connections.append(self)
                super().connect()
                self.used = self.sock  # http.client lets go of it with the last answer, unread as that is

        Recorded.__name__ = type(pool).ConnectionCls.__name__  # urllib3 shows it in errors
        pool.ConnectionCls = Recorded
        return pool


def _check_hop(source: _Source, url: str, before: str = "") -> None:
    """Refuse an unsafe address: the first, or one that a redirect from `before` leads to."""
    leads = "a redirect leads to " if before else ""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # whose text may quote a password
        raise source.refusal(f"{leads}a malformed address") from None
    if parts.scheme not in {"http", "https"}:
        raise source.refusal(f"{leads}the scheme {parts.scheme!r}, which is not used here; https:// and file:// are")
    named = {(base.hostname, base.port) for base in map(urlsplit, mirrors()) if base.scheme == "http"}
    if parts.scheme == "http" and (before.startswith("https:") or not (is_loopback(host) or (host, port) in named)):
        found = f"{leads}http:// without TLS, which is not used here except to a host that HRNET_ZOO_MIRRORS names"
        raise source.refusal(f"{found} (and never behind https://)")


def _ask(source: _Source, session: TimedSession, headers: Mapping[str, str]) -> requests.Response:
    """Send the request and follow redirects; return the unread answer."""
    find_target = session.get_redirect_target
    # Or requests would read the bodies of redirects, decoded and whole
    session.get_redirect_target = lambda resp: None  # type: ignore[method-assign]
    url = source.url
    for _ in range(MAX_REDIRECTS + 1):
        late = TryAgainError(f"no whole answer within {ANSWER_S:.0f} s")
        try:
            response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S, allow_redirects=False)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            # `from None`: a chain would show the whole address, with what is secret in it, in every traceback.
            raise (late if session.late else _explain(source, url, error)) from None
        if session.late:  # the headers end where the connection was ended
            response.close()
            raise late
        if not response.is_redirect:
            return response
        response.close()
        try:
            target = urljoin(url, find_target(response))
            user, at, place = urlsplit(url).netloc.rpartition("@")
            if at and target.startswith(f"{urlsplit(url).scheme}://{place}/"):  # the same host gets the same user
                target = target.replace("//", f"//{user}@", 1)
        except ValueError:
            raise source.refusal("a redirect leads to a malformed address") from None
        _check_hop(source, target, before=url)
        url = target
    raise source.refusal(f"more than {MAX_REDIRECTS} redirects")


def _explain(source: _Source, url: str, error: Exception) -> TryAgainError | DownloadError:
    """Turn what requests raises into the error to raise: one for another try, or one that no try mends."""
    names = (f"{urlsplit(url).scheme}_proxy", f"{urlsplit(url).scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    setting = next((name for name in names if os.environ.get(name)), "the system's settings")
    whom = f"the proxy named by {setting}" if isinstance(error, requests.exceptions.ProxyError) else "the host"
    refused = "Tunnel connection failed: 4" in str(error)  # 407 and its like; http.client has no class for it
    lasting = refused or isinstance(_bottom(error), ssl.SSLError)
    if isinstance(error, requests.ConnectionError | requests.Timeout) and not lasting:
        return TryAgainError(f"{whom} cannot be reached ({cause(error)})")
    malformed = isinstance(error, requests.exceptions.InvalidURL)  # its text may quote a password
    why = f"the address, or the proxy named by {setting}, is malformed" if malformed else cause(error)
    return source.refusal(f"no secure connection can be made with {whom} ({why})")


def _check_answer(source: _Source, response: requests.Response, start: int) -> None:
    """Refuse everything but a body that may be the file, before anything on disk is touched."""
    status, headers = response.status_code, response.headers
    if status == 416 and start:
        discard(source.partial)
        raise TryAgainError("the host cannot continue at the byte asked for")
    if status in RETRIED_STATUS:
        try:
            wait_s = urllib3.Retry().parse_retry_after(headers.get("Retry-After", ""))
        except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):  # absent, or thousands of digits
            wait_s = None
        raise TryAgainError(f"HTTP status {status}", wait_s)
    if status not in {200, 206}:
        raise source.refusal(f"HTTP status {status} {response.reason or ''}".strip(), HTTPStatusError, status=status)
    encoding = headers.get("Content-Encoding", "").strip().lower() or "identity"
    if encoding != "identity":  # nothing is decoded: a bomb of a few kilobytes would fill the disk
        raise source.unexpected(f"a body encoded as {encoding}, though none was asked for,")
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in PAGE_TYPES:
        raise source.unexpected(f"a {kind} page (a login or error page?)")


def _body(session: TimedSession, response: requests.Response) -> Iterator[bytes]:
    """Read a body in blocks; SLOWEST_BYTES of it must come within each SLOWEST_S, whatever else comes."""
    session.allow(SLOWEST_S)
    count = 0
    while True:
        try:
            block = response.raw.read1(_CHUNK_BYTES)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if not session.late:
                raise TryAgainError(f"the body broke off ({cause(error)})") from error
        if session.late:
            raise TryAgainError(f"less than {SLOWEST_BYTES:,} bytes came in {SLOWEST_S:.0f} s")
        if not block:
            return
        yield block
        count += len(block)
        if count >= SLOWEST_BYTES:
            session.allow(SLOWEST_S)
            count = 0


def cause(error: BaseException) -> str:
    """Return the innermost of a chain of wrapped network errors in words, without secrets."""
    bottom = _bottom(error)
    return redact(str(bottom) or type(bottom).__name__)


def _bottom(error: BaseException) -> BaseException:
    while True:
        inner = (getattr(error, "reason", None), getattr(error, "original_error", None), *error.args)
        wrapped = next((each for each in inner if isinstance(each, BaseException)), None)
        if wrapped is None:
            return error
        error = wrapped
