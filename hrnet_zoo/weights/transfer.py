"""URL -> verified private part: resume, retry, limits. Knows nothing of models."""

import functools
import itertools
import logging
import os
import random
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests
import urllib3.exceptions
from tqdm import tqdm

from hrnet_zoo.errors import (
    CheckpointError,
    DownloadError,
    HTTPStatusError,
    OfflineError,
    TransferError,
    UnexpectedContentError,
)
from hrnet_zoo.weights.addresses import is_loopback, is_offline, mirrors, redact
from hrnet_zoo.weights.part import (
    STRONG_ETAG,
    Note,
    PartLostError,
    discard,
    disk_errors,
    read_note,
    resumable_bytes,
    size_of,
    write,
)

TIMEOUT_S = (10.0, 30.0)  # to connect; between two packets
TRIES = 5  # in a row without PROGRESS_BYTES of new data
PROGRESS_BYTES = 1 << 20
LONGEST_BACKOFF_S = 8.0
LONGEST_RETRY_AFTER_S = 60.0
SLOWEST_BYTES, SLOWEST_S = 120 << 10, 120.0  # a body below 1 KiB/s for two minutes counts as stalled
CHUNK_BYTES = 1 << 18
MAX_REDIRECTS = 5
RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
PAGE_TYPES = frozenset({"text/html", "text/xml", "application/xml", "application/xhtml+xml"})

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")  # RFC 9110, 14.4
_BY_HAND = "bring the file by hand: hrnet-zoo import FILE (your own: checkpoint=FILE)"
_ELSEWHERE = f"name another address in HRNET_ZOO_MIRRORS, or {_BY_HAND}"

_log = logging.getLogger(__name__)


def fetch(
    urls: Sequence[str],
    part: Path,
    *,
    max_bytes: int,
    verify: Callable[[Path], None],
    progress: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Bring the whole body of the first URL that works into `part` and return that URL.

    What `part` already holds is continued where its note allows. A body that `verify` refuses is fetched once more
    from byte 0, then the next URL is tried. An interrupted transfer leaves its part for the next call.

    Args:
        urls: https:// or file:// addresses; http:// only to this machine or to a base named in HRNET_ZOO_MIRRORS.
        part: a private file, made if absent; its folder exists.
        max_bytes: the largest body accepted; nothing beyond is written.
        verify: raises CheckpointError if the finished part is not what was asked for.
        progress: show a bar on stderr, if that is a terminal.
        sleep: waits between two tries, in seconds.

    Raises:
        CheckpointError: an address served the wrong bytes twice and no other served the right ones.
        OfflineError: the network is switched off and no file:// address has the file.
        DownloadError: no address served the file (HTTPStatusError, TransferError, UnexpectedContentError, ...).
        CacheError: the part cannot be written (CacheSpaceError, CachePermissionError).

    """
    offline = is_offline()
    failures: list[DownloadError | CheckpointError] = []
    for url in urls:
        job = _Job(url, part, max_bytes, progress)
        try:
            if offline and not url.startswith("file:"):
                raise job.refusal(
                    "HRNET_ZOO_OFFLINE or HF_HUB_OFFLINE switches the network off, and the file is not in the cache",
                    f"unset it; or fetch {job.name} from {job.shown} on another machine and run: "
                    f"hrnet-zoo import {job.name}",
                    OfflineError,
                )
            _bring(job, verify, sleep)
        except (DownloadError, CheckpointError) as failure:
            _log.info("%s: %s", job.shown, failure.found)
            failures.append(failure)
        else:
            return url
    # The most telling first: wrong bytes, then the user's own switch, then what the first address said.
    told = min(
        failures, key=lambda failure: (not isinstance(failure, CheckpointError), type(failure) is not OfflineError)
    )
    if len(failures) > 1:
        if isinstance(told, DownloadError):
            told.done = _fate(part)  # a later address may have changed it
        if isinstance(told, TransferError):
            told.kept = resumable_bytes(part)
        told.found = "; ".join(f"{redact(url)}: {failure.found}" for url, failure in zip(urls, failures, strict=True))
    raise told


@dataclass(frozen=True)
class _Job:
    """One address and the part that its body goes to."""

    url: str
    part: Path
    max_bytes: int
    progress: bool

    @property
    def shown(self) -> str:
        return redact(self.url)

    @property
    def name(self) -> str:
        return re.sub(r"[?#].*", "", self.url).rpartition("/")[2] or "the file"

    def refusal(
        self, found: str, advice: str, kind: type[DownloadError] = DownloadError, **facts: int
    ) -> DownloadError:
        return kind(
            asked=f"download {self.shown}", found=found, done=_fate(self.part), advice=advice, url=self.shown, **facts
        )


def _fate(part: Path) -> str:
    kept = resumable_bytes(part)
    return f"{kept:,} bytes stay in {part}; the next call resumes there" if kept else "nothing was kept"


class _TryAgainError(Exception):
    """One try failed in a way that another may mend; `wait_s` is what the host asked for."""

    def __init__(self, found: str, wait_s: float | None = None) -> None:
        super().__init__(found)
        self.wait_s = wait_s


def _bring(job: _Job, verify: Callable[[Path], None], sleep: Callable[[float], None]) -> None:
    for last in (False, True):
        _download(job, sleep)
        with disk_errors(job.part, f"verify {job.part}"):
            try:
                return verify(job.part)
            except (CheckpointError, FileNotFoundError) as error:  # wrong, or taken away by another process
                discard(job.part)
                if last:
                    raise
                _log.warning("%s: %s; fetching it once more from the start", job.shown, error)
    return None


def _download(job: _Job, sleep: Callable[[float], None]) -> None:
    """Try until the part is whole, or TRIES in a row brought less than PROGRESS_BYTES beyond the furthest point."""
    attempt = _chosen_way(job)
    reached, failed = size_of(job.part), 0
    while True:
        try:
            return attempt(job)
        except _TryAgainError as again:
            size = size_of(job.part)
            if size >= reached + PROGRESS_BYTES:
                reached, failed = size, 0
            else:
                failed += 1
            if failed == TRIES:
                raise job.refusal(
                    f"{again} ({TRIES} tries without progress)",
                    f"check the network and run the same again; or {_ELSEWHERE}",
                    TransferError,
                    kept=resumable_bytes(job.part),
                ) from again
            backoff = min(LONGEST_BACKOFF_S, 0.5 * 2 ** max(failed - 1, 0)) * random.uniform(0.5, 1)  # noqa: S311 - jitter
            wait_s = backoff if again.wait_s is None else min(again.wait_s, LONGEST_RETRY_AFTER_S)
            _log.info("%s: %s; next try in %.1f s", job.shown, again, wait_s)
            sleep(wait_s)


def _chosen_way(job: _Job) -> Callable[[_Job], None]:
    try:
        parts = urlsplit(job.url)
        scheme, host, _ = parts.scheme, parts.hostname or "", parts.port
    except ValueError as error:
        raise job.refusal("a malformed address", "give an https:// or file:// address") from error
    if scheme == "file":
        return _copy
    if scheme == "http" and not (is_loopback(host) or any(job.url.startswith(f"{b}/") for b in mirrors())):
        raise job.refusal(
            "http:// without TLS", "use https://, or name this host in HRNET_ZOO_MIRRORS if you trust the way to it"
        )
    if scheme not in {"http", "https"}:
        raise job.refusal(f"the scheme {scheme!r}", "give an https:// or file:// address")
    return _request


def _copy(job: _Job) -> None:
    path = Path(url2pathname(urlsplit(job.url).path))
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # a pipe would block for ever
            raise job.refusal(f"{path} is not a regular file", _ELSEWHERE)
        with path.open("rb") as source:
            _store(job, _blocks(functools.partial(source.read, CHUNK_BYTES)), 0, Note(job.shown, None, facts.st_size))
    except OSError as error:
        raise job.refusal(f"{path} cannot be read: {error.strerror}", _ELSEWHERE) from error


def _request(job: _Job) -> None:
    """Ask once for what is missing of the body, and store what comes."""
    size, note = size_of(job.part), read_note(job.part)
    if note is None or note.url != job.shown:
        note = None
    elif size and size == note.total:
        return  # whole already: the process that fetched it ended before it could use it
    etag = note.etag if note and size and size < (note.total or size + 1) else None
    start = size if etag else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-", "If-Range": etag} if etag else {})
    with _session(job.url) as session, _connect(job, session, headers) as response:
        _check_answer(job, response, start)
        total, answered_etag = _total(response.headers), response.headers.get("ETag", "")
        if "Content-Range" in response.headers or response.status_code == 206:
            sliced = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            total = int(sliced[2]) if sliced and sliced[2] != "*" else None
            known = note.total if note and etag else None
            if (
                not sliced
                or int(sliced[1]) != start
                or (known and total and known != total)
                or (etag and answered_etag not in {"", etag})
            ):
                discard(job.part)
                raise _TryAgainError("the host answered with another slice than the one asked for")
            total = total or known
        else:
            start = 0  # the whole body, whether or not a slice was asked for
        new = Note(job.shown, answered_etag if STRONG_ETAG.fullmatch(answered_etag) else etag if start else None, total)
        stored = _store(job, _blocks(functools.partial(response.raw.read1, CHUNK_BYTES)), start, new)
    if total is not None and stored < total:
        raise _TryAgainError(f"the body broke off at {stored:,} of {total:,} bytes")


def _session(url: str) -> requests.Session:
    session = requests.Session()
    session.max_redirects = MAX_REDIRECTS
    if not url.startswith("http:"):
        del session.adapters["http://"]  # a redirect from https down to http then has nowhere to go
    return session


def _connect(job: _Job, session: requests.Session, headers: Mapping[str, str]) -> requests.Response:
    try:
        return session.get(job.url, headers=headers, stream=True, timeout=TIMEOUT_S)
    except requests.exceptions.SSLError as error:  # a ConnectionError too, but no retry mends a certificate
        raise _refused_tls(job, error) from error
    except requests.exceptions.ProxyError as error:
        if "Tunnel connection failed: 4" in str(error):  # 407 and its like; http.client has no class for it
            raise job.refusal(
                f"the proxy named by {_proxy_setting(job)} refuses the connection ({_cause(error)})",
                f"correct {_proxy_setting(job)}, or {_BY_HAND}",
            ) from error
        raise _TryAgainError(f"the proxy named by {_proxy_setting(job)} cannot be reached ({_cause(error)})") from error
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
        raise _TryAgainError(f"the host cannot be reached ({_cause(error)})") from error
    except requests.exceptions.InvalidURL as error:  # its text may quote a password
        raise job.refusal(
            f"the address, or the proxy named by {_proxy_setting(job)}, is malformed",
            f"correct {_proxy_setting(job)}; or {_ELSEWHERE}",
        ) from error
    except requests.exceptions.InvalidSchema as error:
        found = f"it leads to an address or a proxy of a kind that is not used here ({_cause(error)})"
        raise job.refusal(found, _ELSEWHERE) from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        raise job.refusal(_cause(error), _ELSEWHERE) from error
    except OSError as error:  # what requests raises, bare, for a missing file of certificates
        raise _refused_tls(job, error) from error


def _refused_tls(job: _Job, error: OSError) -> DownloadError:
    return job.refusal(
        f"the host's TLS certificate cannot be verified ({_cause(error)})",
        f"check the clock, and REQUESTS_CA_BUNDLE if your network has a certificate of its own; or {_ELSEWHERE}",
    )


def _check_answer(job: _Job, response: requests.Response, start: int) -> None:
    """Refuse everything but a body that may be the file, before anything on disk is touched."""
    status, headers = response.status_code, response.headers
    if status == 416 and start:
        discard(job.part)
        raise _TryAgainError("the host cannot continue at the byte asked for")
    if status in RETRIED_STATUS:
        raise _TryAgainError(f"HTTP status {status}", _retry_after_s(headers.get("Retry-After", "")))
    if status not in {200, 206}:
        advice = (
            "the file is gone from this host, a newer hrnet-zoo may know its place" if status == 404 else "try later"
        )
        raise job.refusal(
            f"HTTP status {status} {response.reason or ''}".strip(),
            f"{advice}; or {_ELSEWHERE}",
            HTTPStatusError,
            status=status,
        )
    encoding = headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":  # nothing is decoded: a bomb of a few kilobytes would fill the disk
        raise job.refusal(f"a body encoded as {encoding} where none was asked for", _ELSEWHERE, UnexpectedContentError)
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in PAGE_TYPES:
        raise _page(job, f"a {kind} page")


def _page(job: _Job, found: str) -> DownloadError:
    return job.refusal(
        f"{found} in place of the file, which looks like a login or error page",
        f"sign in to the network or pass its proxy, then run the same again; or {_ELSEWHERE}",
        UnexpectedContentError,
    )


def _blocks(read: Callable[[], bytes]) -> Iterator[bytes]:
    since, count = time.monotonic(), 0
    while True:
        try:
            block = read()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _TryAgainError(f"the body broke off ({_cause(error)})") from error
        if not block:
            return
        yield block
        count += len(block)
        if time.monotonic() - since > SLOWEST_S:
            if count < SLOWEST_BYTES:
                raise _TryAgainError(f"only {count:,} bytes came in {SLOWEST_S:.0f} s")
            since, count = time.monotonic(), 0


def _store(job: _Job, blocks: Iterator[bytes], start: int, note: Note) -> int:
    """Let a body into the part from `start` on, and return the size reached; one that looks wrong touches nothing."""
    if note.total is not None and note.total > job.max_bytes:
        raise _oversize(job, f"{note.total:,} bytes")
    first = next(blocks, b"")
    if not first and not start:
        raise _page(job, "an empty body")
    if not start and first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise _page(job, "markup")
    disable = None if job.progress else True  # None: off unless stderr is a terminal
    with tqdm(desc=job.name, total=note.total, initial=start, unit="B", unit_scale=True, disable=disable) as bar:

        def limited() -> Iterator[bytes]:
            size = start
            for block in itertools.chain((first,), blocks):
                size += len(block)
                if size > job.max_bytes:
                    raise _oversize(job, "a body that goes on")
                yield block
                bar.update(len(block))

        try:
            return write(job.part, limited(), start, note)
        except PartLostError as error:
            raise _TryAgainError("another process took the part over") from error
        except UnexpectedContentError as error:
            discard(job.part)
            error.done = "nothing was kept"
            raise


def _oversize(job: _Job, found: str) -> DownloadError:
    return job.refusal(f"{found}, but at most {job.max_bytes:,} bytes can be right", _ELSEWHERE, UnexpectedContentError)


def _total(headers: Mapping[str, str]) -> int | None:
    length = headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdecimal() else None


def _retry_after_s(value: str) -> float | None:
    """Read Retry-After, which is a number of seconds or a date (RFC 9110, 10.2.3)."""
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or timezone.utc) - datetime.now(timezone.utc)).total_seconds())


def _proxy_setting(job: _Job) -> str:
    scheme = urlsplit(job.url).scheme
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    return next((name for name in names if os.environ.get(name)), "the system's proxy settings")


def _cause(error: BaseException) -> str:
    """Find what is at the bottom of a chain of wrapped network errors, in words without secrets."""
    while True:
        inner = getattr(error, "reason", None) or next(iter(error.args), None)
        if not isinstance(inner, BaseException):
            return redact(str(error) or type(error).__name__)
        error = inner
