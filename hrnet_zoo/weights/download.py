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
BY_HAND = "bring the file by hand: hrnet-zoo import FILE (your own: checkpoint=FILE)"
ELSEWHERE = f"name another address in HRNET_ZOO_MIRRORS, or {BY_HAND}"

_CHUNK_BYTES = 1 << 18
_MAX_NOTE_BYTES = 1 << 17
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')  # RFC 9110, 8.8.3, ASCII only; a weak one starts with W/
# RFC 9110, 14.4. No file has more than 19 digits of bytes, and int() of thousands of them fails.
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_LENGTH = re.compile(r"[0-9]{1,19}")
_LFS_POINTER = b"version https://git-lfs"

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

    @property
    def name(self) -> str:
        try:
            return PurePosixPath(urlsplit(self.url).path).name or "the file"
        except ValueError:  # malformed, which `_check_hop` reports
            return "the file"

    def refusal(
        self, found: str, advice: str, kind: type[DownloadError] = DownloadError, **facts: int
    ) -> DownloadError:
        return kind(
            asked=f"download {self.shown}",
            found=found,
            done=_kept(self.partial),
            advice=advice,
            url=self.shown,
            **facts,
        )

    def page(self, found: str) -> DownloadError:
        return self.refusal(
            f"{found} in place of the file, which looks like a login or error page",
            f"sign in to the network or pass its proxy, then run the same again; or {ELSEWHERE}",
            UnexpectedContentError,
        )

    def oversize(self, found: str) -> DownloadError:
        return self.refusal(
            f"{found}, but at most {self.max_bytes:,} bytes can be right", ELSEWHERE, UnexpectedContentError
        )


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
        progress: show a bar on stderr, if that is a terminal.

    Raises:
        CheckpointError: an address served the wrong bytes twice and no other served the right ones.
        OfflineError: the network is switched off and no file:// address has the file.
        DownloadError: no address served the file (HTTPStatusError, TransferError, UnexpectedContentError, ...).
        CacheError: the partial download cannot be written (CacheSpaceError if the disk is full).

    """
    offline = is_offline()
    failures: list[DownloadError | CheckpointError] = []
    try:
        for url in urls:
            source = _Source(url, partial, max_bytes, progress)
            try:
                if offline and not url.startswith("file:"):
                    raise source.refusal(
                        "HRNET_ZOO_OFFLINE or HF_HUB_OFFLINE switches the network off, and the file is not cached",
                        f"unset it; or fetch {source.name} from {source.shown} on another machine and run: "
                        f"hrnet-zoo import {source.name}",
                        OfflineError,
                    )
                return _verified(source, verify)
            except (DownloadError, CheckpointError) as failure:
                _log.info("%s: %s", source.shown, failure.found)
                failures.append(failure)
    except KeyboardInterrupt:
        _log.warning("interrupted: %s", _kept(partial))
        raise
    finally:
        release_partial(partial)
    # Raise the most telling: wrong bytes, then the user's own switch, then what the first address said.
    worst = min(failures, key=lambda each: (not isinstance(each, CheckpointError), type(each) is not OfflineError))
    if len(failures) > 1:
        if isinstance(worst, DownloadError):
            worst.done = _kept(partial)  # a later address may have changed it
        if isinstance(worst, TransferError):
            worst.kept = resumable_bytes(partial)
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
    reached, failed, first = _state(source.partial)[1], 0, True
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
                raise source.refusal(
                    f"{again} ({TRIES} tries without progress)",
                    f"check the network and run the same again; or {ELSEWHERE}",
                    TransferError,
                    kept=resumable_bytes(source.partial),
                ) from again
            backoff = min(LONGEST_BACKOFF_S, 0.5 * 2 ** max(failed - 1, 0)) * _jitter.uniform(0.5, 1)
            wait_s = backoff if again.wait_s is None else min(again.wait_s, LONGEST_RETRY_AFTER_S)
            if first:  # a user who waits should know what for; the others say nothing new
                _log.warning("%s: %s; retrying", source.shown, again)
                first = False
            _log.info("%s: %s; next try in %.1f s", source.shown, again, wait_s)
            sleep(wait_s)


def _copy(source: _Source) -> None:
    path = Path(url2pathname(urlsplit(source.url).path))
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # a pipe would block for ever
            raise source.refusal(f"{path} is not a regular file", ELSEWHERE)
        with path.open("rb") as file:
            blocks = iter(functools.partial(file.read, _CHUNK_BYTES), b"")
            _store(source, blocks, 0, Note(source.shown, None, facts.st_size))
    except OSError as error:
        raise source.refusal(f"{path} cannot be read: {error.strerror}", ELSEWHERE) from error


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
    with _Session() as session, _ask(source, session, headers) as response:
        _check_answer(source, response, start)
        length = _LENGTH.fullmatch(response.headers.get("Content-Length", ""))
        total, answered_etag = int(length[0]) if length else None, response.headers.get("ETag", "")
        if "Content-Range" in response.headers or response.status_code == 206:
            sliced = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            total = int(sliced[3]) if sliced and sliced[3] != "*" else None
            known = note.total if note and etag else None
            if (
                not sliced
                or int(sliced[1]) != start
                or not start <= int(sliced[2]) < (total or int(sliced[2]) + 1)
                or (known and total and known != total)
                or (etag and answered_etag not in {"", etag})
            ):
                discard(source.partial)
                raise TryAgainError("the host answered with another slice than the one asked for")
            total = total or known
        else:
            start = 0  # the whole body, whether or not a slice was asked for
        new = Note(source.shown, answered_etag if _STRONG_ETAG.fullmatch(answered_etag) else None, total)
        stored = _store(source, _body(session, response), start, new)
    if total is not None and stored < total:
        raise TryAgainError(f"the body broke off at {stored:,} of {total:,} bytes")


# --- the partial download --------------------------------------------------------------------------------------------


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
        raise source.oversize(f"{total:,} bytes")
    first = next(blocks, b"")
    if not start:
        _check_opening(source, first)
    with disk_errors(partial, f"write {partial}"), _bar(source, start, total) as bar:
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
                if bar is not None:
                    bar.update(len(block))
            else:
                return size
    discard(partial)
    raise source.oversize("a body that goes on")


def _check_opening(source: _Source, first: bytes) -> None:
    if not first:
        raise source.page("an empty body")
    if first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise source.page("markup")
    if first.startswith(_LFS_POINTER):
        raise source.refusal(
            "a pointer of Git LFS in place of the file it stands for",
            f"run `git lfs pull` where that folder was cloned; or {ELSEWHERE}",
            UnexpectedContentError,
        )


def _open_no_link(path: str, flags: int) -> int:
    """Open a file, but no link: whoever may write to the folder could plant one."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _bar(source: _Source, start: int, total: int | None) -> contextlib.AbstractContextManager[Bar | None]:
    if not source.progress or sys.stderr is None or not sys.stderr.isatty():
        return contextlib.nullcontext()
    return Bar(desc=printable(source.name), total=total, initial=start, unit="B", unit_scale=True)


# --- HTTP ------------------------------------------------------------------------------------------------------------


class TimedSession(requests.Session):
    """A session whose connections end when its time is up, whatever the host sends until then.

    The timeouts of requests bound silence. A host that drips its headers, or chunk extensions, trailers and answers
    "100 Continue" without end, is never silent and never done.
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

        pool.ConnectionCls = Recorded
        return pool


class _Session(TimedSession):
    """A session that leaves redirects to `_ask`: requests would read their bodies, decoded and whole."""

    def __init__(self) -> None:
        super().__init__(ANSWER_S)

    def get_redirect_target(self, resp: requests.Response) -> None:
        del resp


def _check_hop(source: _Source, url: str, before: str | None = None) -> None:
    """Refuse an unsafe address: the first, or one that a redirect from `before` leads to.

    https:// may follow anything. http:// may only lead to this machine or to a host named in HRNET_ZOO_MIRRORS, and
    never follows https://, however the redirects began.
    """
    leads = "" if before is None else "a redirect leads to "
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # whose text may quote a password
        raise source.refusal(f"{leads}a malformed address", "give an https:// or file:// address") from None
    if parts.scheme == "https":
        return
    if parts.scheme != "http":
        found = f"{leads}the scheme {parts.scheme!r}, which is not used here"
        raise source.refusal(found, ELSEWHERE if leads else "give an https:// or file:// address")
    if before is not None and urlsplit(before).scheme == "https":
        raise source.refusal(f"a redirect from https:// down to http://{host}, which is not used here", ELSEWHERE)
    named = {(base.hostname, base.port) for base in map(urlsplit, mirrors()) if base.scheme == "http"}
    if not is_loopback(host) and (host, port) not in named:
        raise source.refusal(
            f"{leads}http:// without TLS",
            "use https://, or name this host in HRNET_ZOO_MIRRORS if you trust the way to it",
        )


def _ask(source: _Source, session: _Session, headers: Mapping[str, str]) -> requests.Response:
    """Send the request and follow redirects, whose bodies are never read; return the unread answer."""
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
            target = _next_hop(url, response.headers["Location"])
        except ValueError:
            raise source.refusal("a redirect leads to a malformed address", ELSEWHERE) from None
        _check_hop(source, target, before=url)
        url = target
    raise source.refusal(f"more than {MAX_REDIRECTS} redirects", ELSEWHERE)


def _next_hop(url: str, location: str) -> str:
    """Resolve a Location; user and password of the address go along only to the same host and port."""
    # http.client decodes headers as Latin-1; what is not ASCII was meant as UTF-8
    target = urljoin(url, location.encode("latin-1", "replace").decode("utf-8", "replace"))
    old, new = urlsplit(url), urlsplit(target)
    user, _, place = old.netloc.rpartition("@")
    if user and (old.scheme, place) == (new.scheme, new.netloc):
        return new._replace(netloc=old.netloc).geturl()
    return target


def _explain(source: _Source, url: str, error: Exception) -> TryAgainError | DownloadError:
    """Turn what requests raises into the error to raise: one for another try, or one that no try mends."""
    names = (f"{urlsplit(url).scheme}_proxy", f"{urlsplit(url).scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    setting = next((name for name in names if os.environ.get(name)), "the system's proxy settings")
    by_proxy = isinstance(error, requests.exceptions.ProxyError)
    bottom = _bottom(error)
    # A bare OSError is how requests reports a missing file of certificates.
    bare = isinstance(error, OSError) and not isinstance(error, requests.RequestException)
    if isinstance(error, requests.exceptions.SSLError) or (by_proxy and isinstance(bottom, ssl.SSLError)) or bare:
        whose = f"of the proxy named by {setting} " if by_proxy else ""
        if isinstance(bottom, ssl.SSLError) and not isinstance(bottom, ssl.SSLCertVerificationError):
            found = f"no secure connection can be made with the host {whose}({cause(error)})"
        else:
            found = f"the host's TLS certificate {whose}cannot be verified ({cause(error)})"
        return source.refusal(
            found,
            f"check the clock, and REQUESTS_CA_BUNDLE if your network has a certificate of its own; or {ELSEWHERE}",
        )
    if by_proxy:
        if "Tunnel connection failed: 4" in str(error):  # 407 and its like; http.client has no class for it
            return source.refusal(
                f"the proxy named by {setting} refuses the connection ({cause(error)})",
                f"correct {setting}, or {BY_HAND}",
            )
        return TryAgainError(f"the proxy named by {setting} cannot be reached ({cause(error)})")
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return TryAgainError(f"the host cannot be reached ({cause(error)})")
    if isinstance(error, requests.exceptions.InvalidURL):  # its text may quote a password
        return source.refusal(
            f"the address, or the proxy named by {setting}, is malformed", f"correct {setting}; or {ELSEWHERE}"
        )
    if isinstance(error, requests.exceptions.InvalidSchema):
        found = f"it leads to an address or a proxy of a kind that is not used here ({cause(error)})"
        return source.refusal(found, ELSEWHERE)
    return source.refusal(cause(error), ELSEWHERE)


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
        gone = "the file is gone from this host, a newer hrnet-zoo may know its place"
        raise source.refusal(
            f"HTTP status {status} {response.reason or ''}".strip(),
            f"{gone if status == 404 else 'try later'}; or {ELSEWHERE}",
            HTTPStatusError,
            status=status,
        )
    encoding = headers.get("Content-Encoding", "").strip().lower() or "identity"
    if encoding != "identity":  # nothing is decoded: a bomb of a few kilobytes would fill the disk
        found = f"a body encoded as {encoding} where none was asked for"
        raise source.refusal(found, ELSEWHERE, UnexpectedContentError)
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in PAGE_TYPES:
        raise source.page(f"a {kind} page")


def _body(session: _Session, response: requests.Response) -> Iterator[bytes]:
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
