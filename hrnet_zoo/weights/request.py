"""One question to a host, over as many redirects as it takes: what each hop may be, and what an answer means.

Raises `TryAgainError` where another try may mend it, and a DownloadError where none will.
"""

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import requests.adapters
import urllib3.exceptions

from hrnet_zoo.errors import DownloadError, HTTPStatusError, UnexpectedContentError, redact
from hrnet_zoo.weights.addresses import is_loopback, mirrors
from hrnet_zoo.weights.part import discard, resumable_bytes

TIMEOUT_S = (10.0, 30.0)  # to connect; between two packets
ANSWER_S = 60.0  # until the headers of the last answer are whole, over all redirects
MAX_REDIRECTS = 5
RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
PAGE_TYPES = frozenset({"text/html", "text/xml", "application/xml", "application/xhtml+xml"})
BY_HAND = "bring the file by hand: hrnet-zoo import FILE (your own: checkpoint=FILE)"
ELSEWHERE = f"name another address in HRNET_ZOO_MIRRORS, or {BY_HAND}"


@dataclass(frozen=True)
class Job:
    """One address and the part that its body goes to."""

    url: str
    part: Path
    max_bytes: int
    progress: bool

    @property
    def shown(self) -> str:
        """The address without secrets."""
        return redact(self.url)

    @property
    def name(self) -> str:
        """Name of the file."""
        try:
            return PurePosixPath(urlsplit(self.url).path).name or "the file"
        except ValueError:  # malformed: said by `check_hop`
            return "the file"

    def refusal(
        self, found: str, advice: str, kind: type[DownloadError] = DownloadError, **facts: int
    ) -> DownloadError:
        """Make the error that ends this job."""
        return kind(
            asked=f"download {self.shown}", found=found, done=fate(self.part), advice=advice, url=self.shown, **facts
        )


class TimedSession(requests.Session):
    """A session whose connections end when its time is up, whatever the host sends until then.

    A timeout of requests is one for silence. A host that drips its headers, or chunk extensions, trailers and answers
    "100 Continue" without end, is never silent and never done.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.late = False
        self._connections: list[Any] = []
        self._change = threading.Condition()
        self._until: float | None = time.monotonic() + seconds
        for scheme in ("https://", "http://"):
            self.mount(scheme, _Adapter(self._connections))
        threading.Thread(target=self._watch, name="hrnet-zoo: time of a connection", daemon=True).start()

    def allow(self, seconds: float) -> None:
        """Let the time be up so many seconds from now."""
        with self._change:
            self._until = time.monotonic() + seconds
            self._change.notify()

    def close(self) -> None:
        """Close all connections, and end the watch."""
        with self._change:
            self._until = None
            self._change.notify()
        for connection in self._connections:
            connection.close()
        super().close()

    def _watch(self) -> None:
        with self._change:
            while self._until is not None:
                left = self._until - time.monotonic()
                if left > 0:
                    self._change.wait(left)
                    continue
                self.late = True
                for connection in self._connections:
                    for each in (connection.sock, connection.used):
                        with contextlib.suppress(OSError, TypeError):  # not open, or not any more
                            socket.socket.shutdown(each, socket.SHUT_RDWR)
                self._change.wait(0.1)  # one that is being made has no socket yet


class _Adapter(requests.adapters.HTTPAdapter):
    """Note down every connection that is made."""

    def __init__(self, connections: list[Any]) -> None:
        super().__init__()
        self._connections = connections

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as in the base class
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        make = type(pool).ConnectionCls

        def connection(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the class takes
            made = make(*args, **kwargs)
            connect = made.connect

            def connect_and_note() -> None:
                connect()
                made.used = made.sock  # http.client lets go of it when the answer is the last one, unread as it is

            made.connect, made.used = connect_and_note, None
            self._connections.append(made)
            return made

        pool.ConnectionCls = connection
        return pool


class Session(TimedSession):
    """A session that leaves redirects to `ask`: requests reads their bodies, decoded and whole, also if told not to."""

    def __init__(self) -> None:
        super().__init__(ANSWER_S)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Find none."""
        del resp


class TryAgainError(Exception):
    """One try failed in a way that another may mend; `wait_s` is what the host asked for."""

    def __init__(self, found: str, wait_s: float | None = None) -> None:
        super().__init__(found)
        self.wait_s = wait_s


def fate(part: Path) -> str:
    """Say what of a part stays for the next call."""
    kept = resumable_bytes(part)
    return f"{kept:,} bytes stay in {part}; the next call resumes there" if kept else "nothing was kept"


def check_hop(job: Job, url: str, before: str | None = None) -> None:
    """Refuse an address that may not be asked: the job's own, or one that a redirect from `before` leads to.

    https:// may follow anything. http:// may only be the way to this machine or to a host named in HRNET_ZOO_MIRRORS,
    and never follows https://, however the redirects began.
    """
    leads = "" if before is None else "a redirect leads to "
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise job.refusal(
            f"{leads}a malformed address", "give an https:// or file:// address"
        ) from None  # which may quote a password
    if parts.scheme not in {"http", "https"}:
        found = f"{leads}the scheme {parts.scheme!r}, which is not used here"
        raise job.refusal(found, ELSEWHERE if leads else "give an https:// or file:// address")
    if parts.scheme == "https":
        return
    if before is not None and urlsplit(before).scheme == "https":
        raise job.refusal(f"a redirect from https:// down to http://{host}, which is not used here", ELSEWHERE)
    named = {(base.hostname, base.port) for base in map(urlsplit, mirrors()) if base.scheme == "http"}
    if not is_loopback(host) and (host, port) not in named:
        raise job.refusal(
            f"{leads}http:// without TLS",
            "use https://, or name this host in HRNET_ZOO_MIRRORS if you trust the way to it",
        )


def ask(job: Job, session: Session, headers: Mapping[str, str]) -> requests.Response:
    """Send the question and follow redirects, whose bodies are never read; return the unread answer."""
    url = job.url
    for _ in range(MAX_REDIRECTS + 1):
        try:
            response = _get(job, session, url, headers)
        except (TryAgainError, DownloadError):
            if session.late:
                raise _late() from None
            raise
        if session.late:  # the headers end where the connection was ended
            response.close()
            raise _late()
        if not response.is_redirect:
            return response
        response.close()
        try:
            target = _next_hop(url, response.headers["Location"])
        except ValueError:
            raise job.refusal("a redirect leads to a malformed address", ELSEWHERE) from None
        check_hop(job, target, before=url)
        url = target
    raise job.refusal(f"more than {MAX_REDIRECTS} redirects", ELSEWHERE)


def _late() -> TryAgainError:
    return TryAgainError(f"no whole answer within {ANSWER_S:.0f} s")


def check_answer(job: Job, response: requests.Response, start: int) -> None:
    """Refuse everything but a body that may be the file, before anything on disk is touched."""
    status, headers = response.status_code, response.headers
    if status == 416 and start:
        discard(job.part)
        raise TryAgainError("the host cannot continue at the byte asked for")
    if status in RETRIED_STATUS:
        raise TryAgainError(f"HTTP status {status}", retry_after_s(headers.get("Retry-After", "")))
    if status not in {200, 206}:
        advice = (
            "the file is gone from this host, a newer hrnet-zoo may know its place" if status == 404 else "try later"
        )
        raise job.refusal(
            f"HTTP status {status} {response.reason or ''}".strip(),
            f"{advice}; or {ELSEWHERE}",
            HTTPStatusError,
            status=status,
        )
    encoding = headers.get("Content-Encoding", "").strip().lower() or "identity"
    if encoding != "identity":  # nothing is decoded: a bomb of a few kilobytes would fill the disk
        raise job.refusal(f"a body encoded as {encoding} where none was asked for", ELSEWHERE, UnexpectedContentError)
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in PAGE_TYPES:
        raise page(job, f"a {kind} page")


def page(job: Job, found: str) -> DownloadError:
    """Make the error for a page in place of the file."""
    return job.refusal(
        f"{found} in place of the file, which looks like a login or error page",
        f"sign in to the network or pass its proxy, then run the same again; or {ELSEWHERE}",
        UnexpectedContentError,
    )


def retry_after_s(value: str) -> float | None:
    """Read Retry-After, which is a number of seconds or a date (RFC 9110, 10.2.3)."""
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # OverflowError: a year of twenty digits
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or timezone.utc) - datetime.now(timezone.utc)).total_seconds())


def cause(error: BaseException) -> str:
    """Find what is at the bottom of a chain of wrapped network errors, in words without secrets."""
    bottom = _bottom(error)
    return redact(str(bottom) or type(bottom).__name__)


def _get(job: Job, session: Session, url: str, headers: Mapping[str, str]) -> requests.Response:
    # `from None`: a chain would show the whole address, with what is secret in it, in every traceback. The bottom of
    # it is told in words.
    try:
        return session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S, allow_redirects=False)
    except requests.exceptions.SSLError as error:  # a ConnectionError too, but no retry mends a certificate
        raise _refused_tls(job, error) from None
    except requests.exceptions.ProxyError as error:
        setting = _proxy_setting(url)
        if isinstance(_bottom(error), ssl.SSLError):  # a proxy that is spoken to by TLS
            raise _refused_tls(job, error, f"of the proxy named by {setting} ") from None
        if "Tunnel connection failed: 4" in str(error):  # 407 and its like; http.client has no class for it
            raise job.refusal(
                f"the proxy named by {setting} refuses the connection ({cause(error)})",
                f"correct {setting}, or {BY_HAND}",
            ) from None
        raise TryAgainError(f"the proxy named by {setting} cannot be reached ({cause(error)})") from None
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
        raise TryAgainError(f"the host cannot be reached ({cause(error)})") from None
    except requests.exceptions.InvalidURL:  # its text may quote a password
        raise job.refusal(
            f"the address, or the proxy named by {_proxy_setting(url)}, is malformed",
            f"correct {_proxy_setting(url)}; or {ELSEWHERE}",
        ) from None
    except requests.exceptions.InvalidSchema as error:
        found = f"it leads to an address or a proxy of a kind that is not used here ({cause(error)})"
        raise job.refusal(found, ELSEWHERE) from None
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        raise job.refusal(cause(error), ELSEWHERE) from None
    except OSError as error:  # what requests raises, bare, for a missing file of certificates
        raise _refused_tls(job, error) from None


def _next_hop(url: str, location: str) -> str:
    """Resolve a Location; user and password of the address go along only to the same host and port."""
    # http.client decodes headers as Latin-1; what is not ASCII was meant as UTF-8
    target = urljoin(url, location.encode("latin-1", "replace").decode("utf-8", "replace"))
    old, new = urlsplit(url), urlsplit(target)
    user, _, place = old.netloc.rpartition("@")
    if user and (old.scheme, place) == (new.scheme, new.netloc):
        return new._replace(netloc=old.netloc).geturl()
    return target


def _refused_tls(job: Job, error: OSError, whose: str = "") -> DownloadError:
    bottom = _bottom(error)
    if isinstance(bottom, ssl.SSLError) and not isinstance(bottom, ssl.SSLCertVerificationError):
        found = f"no secure connection can be made with the host {whose}({cause(error)})"
    else:
        found = f"the host's TLS certificate {whose}cannot be verified ({cause(error)})"
    return job.refusal(
        found,
        f"check the clock, and REQUESTS_CA_BUNDLE if your network has a certificate of its own; or {ELSEWHERE}",
    )


def _proxy_setting(url: str) -> str:
    scheme = urlsplit(url).scheme
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    return next((name for name in names if os.environ.get(name)), "the system's proxy settings")


def _bottom(error: BaseException) -> BaseException:
    while True:
        inner = (getattr(error, "reason", None), getattr(error, "original_error", None), *error.args)
        wrapped = next((each for each in inner if isinstance(each, BaseException)), None)
        if wrapped is None:
            return error
        error = wrapped
