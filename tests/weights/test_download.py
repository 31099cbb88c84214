"""Every fault of a network that can be played on this machine ends in the right file or in the stated error."""

import contextlib
import errno
import gc
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import requests
from tqdm import tqdm

from hrnet_zoo.errors import (
    CacheError,
    CacheSpaceError,
    DownloadError,
    HashMismatchError,
    HRNetZooError,
    HTTPStatusError,
    OfflineError,
    TransferError,
    UnexpectedContentError,
)
from hrnet_zoo.weights import download
from hrnet_zoo.weights.cache import discard
from hrnet_zoo.weights.download import fetch, resumable_bytes
from tests.support.http_server import Answer, FaultServer, chunked, drip, ranged, reset, serve, stall, status, whole

BODY = random.Random(0).randbytes(300_000)  # noqa: S311 - any bytes will do
LONG = random.Random(1).randbytes(5 << 20)  # noqa: S311
PATH = "/v0.5/model-93db27d0.pth"


@pytest.fixture
def host() -> Iterator[FaultServer]:
    with serve() as running:
        yield running


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return tmp_path / "model.0123.part"


def wants(body: bytes) -> Callable[[bytes], None]:
    """Verify as the caller does: by SHA-256."""

    def verify(found: bytes) -> None:
        if found != body:
            raise HashMismatchError(
                asked="verify a body",
                found="another SHA-256",
                done="it was removed",
                advice="tell the maintainers",
                source="a.pth",
                expected=hashlib.sha256(body).hexdigest(),
                actual=hashlib.sha256(found).hexdigest(),
                size=len(found),
            )

    return verify


def bring(
    *urls: str, partial: Path, body: bytes = BODY, limit: int = 8 << 20, naps: list[float] | None = None
) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "sleep", (lambda _: None) if naps is None else naps.append)
        return fetch(urls, partial, max_bytes=limit, verify=wants(body), progress=False)


def leave(partial: Path, body: bytes, url: str, total: int | None = len(BODY), etag: str | None = '"v1"') -> None:
    """Leave what an interrupted transfer leaves."""
    partial.write_bytes(json.dumps({"url": url, "etag": etag, "total": total}).encode() + b"\n" + body)


def kept(partial: Path) -> bytes:
    """Return what a partial download holds of the body."""
    return partial.read_bytes().partition(b"\n")[2]


def told(error: BaseException) -> str:
    """Give all that a traceback would show."""
    return "".join(traceback.format_exception(error))


def pieces(error: HRNetZooError) -> None:
    """Check that a message has its four parts and offers no way round a check."""
    text = str(error)
    assert all((error.asked, error.found, error.done, error.advice))
    assert "verify=False" not in text
    assert "no-verify" not in text


# --- bodies that arrive in the end -----------------------------------------------------------------------------------

RECOVERED: dict[str, tuple[list[Answer], int]] = {  # fault: (answers, requests that it takes)
    "nothing wrong": ([ranged(BODY)], 1),
    "no ETag": ([whole(BODY, etag=None)], 1),
    "chunked": ([chunked(BODY[:1000], BODY[1000:])], 1),
    "more than its length": ([status(200, body=BODY + b"surplus", length=len(BODY))], 1),
    "503 once": ([status(503), ranged(BODY)], 2),
    "each status worth a retry": ([*map(status, (408, 425, 429, 500)), ranged(BODY)], 5),
    "and of a gateway": ([*map(status, (502, 504)), ranged(BODY)], 3),
    "reset": ([reset(BODY, 200_000), ranged(BODY)], 2),
    "cut short once": ([ranged(BODY, stop=100_000), ranged(BODY)], 2),
    "cut short in a chunk": ([chunked(BODY[:1000], finished=False), ranged(BODY)], 2),
    "Range ignored": ([ranged(BODY, stop=100_000), whole(BODY)], 2),
    "another offset": (
        [ranged(BODY, stop=100_000), status(206, {"Content-Range": "bytes 7-299999/300000"}, BODY[7:]), ranged(BODY)],
        3,
    ),
    "another total": (
        [
            ranged(BODY, stop=100_000),
            status(206, {"Content-Range": "bytes 100000-300000/300001"}, BODY[100_000:]),
            ranged(BODY),
        ],
        3,
    ),
    "slice of another version": (
        [
            ranged(BODY, stop=100_000),
            status(206, {"Content-Range": "bytes 100000-299999/300000", "ETag": '"v2"'}, BODY[100_000:]),
            ranged(BODY),
        ],
        3,
    ),
    "206 without Content-Range": ([ranged(BODY, stop=100_000), status(206, body=BODY[100_000:]), ranged(BODY)], 3),
    "a slice that ends beyond the file": (
        [
            ranged(BODY, stop=100_000),
            status(206, {"Content-Range": "bytes 100000-300000/300000"}, BODY[100_000:]),
            ranged(BODY),
        ],
        3,
    ),
    "a slice that ends before it begins": (
        [ranged(BODY, stop=100_000), status(206, {"Content-Range": "bytes 100000-7/*"}, BODY[100_000:]), ranged(BODY)],
        3,
    ),
    "a slice of untold size": (
        [
            ranged(BODY, stop=100_000),
            status(206, {"Content-Range": "bytes 100000-299999/*"}, BODY[100_000:]),
            ranged(BODY),
        ],
        3,
    ),
    "numbers of 5,000 digits": (
        [
            ranged(BODY, stop=100_000),
            status(206, {"Content-Range": f"bytes 100000-299999/{'9' * 5000}"}, BODY[100_000:]),
            status(200, {"ETag": '"v1"', "Content-Length": "9" * 5000}, BODY, length=None),
        ],
        3,
    ),
    "slice under status 200": (
        [ranged(BODY, stop=100_000), status(200, {"Content-Range": "bytes 100000-299999/300000"}, BODY[100_000:])],
        2,
    ),
    "416": ([ranged(BODY, stop=100_000), status(416), ranged(BODY)], 3),
    "ETag changes": ([ranged(BODY[::-1], '"v1"', stop=100_000), ranged(BODY, '"v2"')], 2),
    "weak ETag": ([ranged(BODY, 'W/"v1"', stop=100_000), ranged(BODY, 'W/"v1"')], 2),
    "wrong bytes once": ([whole(BODY[::-1]), ranged(BODY)], 2),
    "short without a length": ([status(200, body=BODY[:1000], length=None), ranged(BODY)], 2),
    "short with a lying length": ([status(200, body=BODY[:1000]), ranged(BODY)], 2),
    "slices end early": (
        [
            ranged(BODY, stop=1000),
            status(206, {"Content-Range": "bytes 1000-1999/300000"}, BODY[1000:2000]),
            ranged(BODY),
        ],
        3,
    ),
}


@pytest.mark.parametrize("fault", RECOVERED)
def test_recovers(host: FaultServer, partial: Path, fault: str) -> None:
    answers, requests = RECOVERED[fault]
    url = host.play(PATH, *answers)
    assert bring(url, partial=partial) == BODY
    assert kept(partial) == BODY
    assert len(host.requests) == requests
    assert all(request.headers["Accept-Encoding"] == "identity" for request in host.requests)


def test_resumes_at_the_byte_under_the_strong_etag(host: FaultServer, partial: Path) -> None:
    url = host.play(PATH, ranged(BODY, stop=100_000), ranged(BODY))
    bring(url, partial=partial)
    first, second = host.requests
    assert "Range" not in first.headers
    assert (second.headers["Range"], second.headers["If-Range"]) == ("bytes=100000-", '"v1"')


def test_no_range_without_a_strong_etag(host: FaultServer, partial: Path) -> None:
    url = host.play(PATH, ranged(BODY, 'W/"v1"', stop=100_000), ranged(BODY, 'W/"v1"'))
    bring(url, partial=partial)
    assert all("Range" not in request.headers for request in host.requests)


def test_resumes_what_an_earlier_process_left(host: FaultServer, partial: Path) -> None:
    url = host.play(PATH, ranged(BODY))
    leave(partial, BODY[:123_456], url)
    bring(url, partial=partial)
    assert host.requests[0].headers["Range"] == "bytes=123456-"


def test_a_whole_part_needs_no_request(host: FaultServer, partial: Path) -> None:
    url = host.play(PATH, status(500))
    leave(partial, BODY, url)
    assert bring(url, partial=partial) == BODY
    assert host.requests == []


def test_a_resumed_part_with_wrong_bytes_is_fetched_whole_once(host: FaultServer, partial: Path) -> None:
    url = host.play(PATH, ranged(BODY))
    leave(partial, b"x" * 100_000, url)
    bring(url, partial=partial)
    assert [request.headers.get("Range") for request in host.requests] == ["bytes=100000-", None]


@pytest.mark.parametrize(
    "note",
    [
        "",
        "[",
        "[]",
        "{}",
        '{"url": 1, "etag": "\\"v1\\"", "total": 300000}',
        '{"url": "https://elsewhere/", "etag": "\\"v1\\"", "total": 300000}',
        '{"url": "URL", "etag": "v1\\r\\nX: y", "total": 300000}',
        '{"url": "URL", "etag": "W/\\"v1\\"", "total": 300000}',
        '{"url": "URL", "etag": null, "total": null}',
        '{"url": "URL", "etag": "\\"v1\\"", "total": 99}',
    ],
)
def test_starts_anew_under_a_note_that_does_not_fit(host: FaultServer, partial: Path, note: str) -> None:
    url = host.play(PATH, ranged(BODY))
    partial.write_bytes(note.replace("URL", url).encode() + b"\n" + b"x" * 100)
    bring(url, partial=partial)
    assert [request.headers.get("Range") for request in host.requests] == [None]


def test_real_progress_never_runs_out_of_tries(host: FaultServer, partial: Path) -> None:
    url = host.play(PATH, ranged(LONG, stop=600_000))
    bring(url, partial=partial, body=LONG)
    assert len(host.requests) == -(-len(LONG) // 600_000)


def test_restarts_are_no_progress(host: FaultServer, partial: Path) -> None:
    url = host.play(PATH, status(200, body=LONG[: 2 << 20], length=len(LONG)))
    with pytest.raises(TransferError) as caught:
        bring(url, partial=partial, body=LONG)
    assert len(host.requests) == 1 + download.TRIES
    assert caught.value.kept == 0  # no ETag, so nothing to resume with


def test_gives_up_below_the_progress_rule_and_keeps_the_part(host: FaultServer, partial: Path) -> None:
    url = host.play(PATH, ranged(LONG, stop=100_000))
    naps: list[float] = []
    with pytest.raises(TransferError) as caught:
        bring(url, partial=partial, body=LONG, naps=naps)
    pieces(caught.value)
    assert caught.value.kept == 500_000 == len(kept(partial))
    assert "500,000 bytes stay" in caught.value.done
    assert len(naps) == download.TRIES - 1
    assert all(low <= nap <= high for nap, low, high in zip(naps, (0.25, 0.5, 1, 2), (0.5, 1, 2, 4), strict=True))
    host.play(PATH, ranged(LONG))
    assert bring(url, partial=partial, body=LONG) == LONG


# --- waiting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("7", 7, 7),
        ("86400", 60, 60),
        (formatdate(4_000_000_000, usegmt=True), 60, 60),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0, 0),
        ("9" * 5000, 0.25, 0.5),
        (f"Fri, 31 Dec {'9' * 20} 23:59:59 GMT", 0.25, 0.5),
        ("Fri, 31 Dec 2199 23:59:59 +9999999", 60, 60),
        ("soon", 0.25, 0.5),
        ("-3", 0.25, 0.5),
        ("", 0.25, 0.5),
    ],
)
def test_retry_after(host: FaultServer, partial: Path, value: str, low: float, high: float) -> None:
    url = host.play(PATH, status(429, {"Retry-After": value}), ranged(BODY))
    naps: list[float] = []
    bring(url, partial=partial, naps=naps)
    assert len(naps) == 1
    assert low <= naps[0] <= high


def test_backoff_is_capped(host: FaultServer, partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TRIES", 12)
    url = host.play(PATH, status(503))
    naps: list[float] = []
    with pytest.raises(TransferError, match="503"):
        bring(url, partial=partial, naps=naps)
    assert max(naps) <= 8


def test_a_stall_is_a_break(host: FaultServer, partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", (5.0, 0.3))
    url = host.play(PATH, stall(BODY, 100_000, seconds=1), ranged(BODY))
    bring(url, partial=partial)
    assert host.requests[1].headers["Range"] == "bytes=100000-"


def test_a_drip_is_a_stall(host: FaultServer, partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SLOWEST_S", 0.2)
    url = host.play(PATH, drip(b"x", 0.02, 200), ranged(BODY))
    bring(url, partial=partial)
    assert len(host.requests) == 2


def raw(answer: bytes) -> Answer:
    """Send bytes that need not be HTTP."""
    return lambda handler: (handler.wfile.write(answer), None)[1]


def endless(opening: bytes, block: bytes, pause_s: float = 0.02) -> Answer:
    """Send an opening, then a block again and again, until the connection ends."""
    return drip(block, pause_s, 1_000_000, raw(opening))


OK, CONTINUE = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = OK + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS: dict[str, Answer] = {
    "a status line": endless(b"HTTP/1.1 200 ", b"O"),
    "a header": endless(OK + b"X-A: ", b"a"),
    "headers": endless(OK, b"X: x\r\n", 0.2),
    "100 Continue, slowly": endless(b"", CONTINUE),
    "100 Continue, fast": endless(b"", CONTINUE * 500, 0),
    "headers of a redirect": endless(b"HTTP/1.1 302 Found\r\nX-A: ", b"a"),
    "a body": endless(OK + b"\r\n", b"x"),
    "the size of a chunk": endless(CHUNKED + b"10000\r\n" + BODY[: 1 << 16] + b"\r\n", b"0"),
    "an extension of a chunk": endless(CHUNKED + b"5;", b"a"),
    "an extension of a chunk, of the last answer": endless(LAST + b"5;", b"a"),
    "chunks": endless(CHUNKED, b"1\r\nx\r\n"),
    "a trailer": endless(CHUNKED + b"5\r\nxxxxx\r\n0\r\nX: ", b"a"),
    "trailers": endless(CHUNKED + b"5\r\nxxxxx\r\n0\r\n", b"X: x\r\n"),
}


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no patience."""
    monkeypatch.setattr(download, "ANSWER_S", 0.5)
    monkeypatch.setattr(download, "SLOWEST_S", 0.5)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("what", ENDLESS)
def test_a_host_that_is_never_silent_and_never_done(
    what: str, host: FaultServer, partial: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = host.play(PATH, ENDLESS[what], ranged(BODY))
    assert bring(url, partial=partial) == BODY
    assert kept(partial) == BODY
    assert any(words in caplog.messages[0] for words in ("no whole answer within 0 s", "bytes came in 0 s"))


@pytest.mark.usefixtures("hurried")
def test_such_a_host_is_given_up(host: FaultServer, partial: Path) -> None:
    with pytest.raises(TransferError, match="no whole answer within"):
        bring(host.play(PATH, ENDLESS["a header"]), partial=partial)
    assert len(host.requests) == download.TRIES
    for thread in threading.enumerate():
        if thread.name.startswith("hrnet-zoo"):
            thread.join(10)
            assert not thread.is_alive()


@pytest.mark.usefixtures("hurried")
def test_all_redirects_together_have_one_time(host: FaultServer, partial: Path) -> None:
    def slow(target: str) -> Answer:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            time.sleep(0.2)
            status(302, {"Location": target})(handler)

        return answer

    hops = [f"/{number}" for number in range(5)]
    for hop, target in zip(hops, [*hops[1:], PATH], strict=True):
        host.play(hop, slow(target))
    host.play(PATH, ranged(BODY))
    with pytest.raises(TransferError, match="no whole answer within"):
        bring(host.url + hops[0], partial=partial)


@pytest.mark.usefixtures("hurried")
@pytest.mark.filterwarnings("ignore:.*unclosed <ssl:ResourceWarning")  # by ssl: begun on a connection just ended
@pytest.mark.filterwarnings("ignore:.*SSLSocket:pytest.PytestUnraisableExceptionWarning")
def test_a_proxy_that_never_comes_to_an_end(host: FaultServer, partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.play("elsewhere.invalid:443", ENDLESS["a header"])
    monkeypatch.setenv("https_proxy", host.url)
    with pytest.raises(TransferError, match="no whole answer within"):
        bring("https://elsewhere.invalid/a.pth", partial=partial)
    gc.collect()


@pytest.mark.usefixtures("hurried")
def test_the_time_of_a_connection_by_tls(certificate: Path, partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with serve(certificate) as host:
        for what in ("a header", "100 Continue, fast", "an extension of a chunk"):
            bring(host.play(PATH, ENDLESS[what], ranged(BODY)), partial=partial)
            discard(partial)


# --- answers that are final ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [204, 304, 400, 401, 403, 404, 407, 410, 451, 501])
def test_final_status(host: FaultServer, partial: Path, code: int) -> None:
    url = host.play(PATH, status(code, {"Content-Type": "application/xml"}, b"" if code in {204, 304} else b"<Error/>"))
    with pytest.raises(HTTPStatusError, match=str(code)) as caught:
        bring(url, partial=partial)
    pieces(caught.value)
    assert caught.value.status == code
    assert caught.value.url == url
    assert len(host.requests) == 1
    assert not partial.exists()


@pytest.mark.parametrize(
    "answer",
    [
        status(200, {"Content-Type": "text/html; charset=utf-8"}, b"sign in"),
        status(200, {"Content-Type": "Application/XML"}, BODY),
        status(200, {}, b"<!DOCTYPE html>"),
        status(200, {}, b"\xef\xbb\xbf\r\n <Error/>"),
        status(200, {}, b""),
        status(200, {}, b"", length=None),
        status(200, {"Content-Encoding": "gzip"}, BODY),
        status(200, {"Content-Encoding": "br"}, BODY),
        status(200, {"Content-Encoding": "identity, gzip"}, gzip.compress(bytes(1 << 24))),
        status(200, {}, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n"),
    ],
)
def test_pages_and_encoded_bodies_are_never_kept(host: FaultServer, partial: Path, answer: Answer) -> None:
    url = host.play(PATH, answer)
    with pytest.raises(UnexpectedContentError) as caught:
        bring(url, partial=partial)
    pieces(caught.value)
    assert len(host.requests) == 1
    assert not partial.exists()


def test_a_login_page_leaves_a_begun_part_alone(host: FaultServer, partial: Path) -> None:
    url = host.play(PATH, status(200, {}, b"<html>"))
    leave(partial, BODY[:1000], url)
    with pytest.raises(UnexpectedContentError, match="1,000 bytes stay"):
        bring(url, partial=partial)
    assert kept(partial) == BODY[:1000]


def test_oversize_is_refused_from_the_header(host: FaultServer, partial: Path) -> None:
    url = host.play(PATH, whole(BODY))
    with pytest.raises(UnexpectedContentError, match="299,999"):
        bring(url, partial=partial, limit=len(BODY) - 1)
    assert not partial.exists()


def test_an_endless_body_stops_at_the_limit(host: FaultServer, partial: Path) -> None:
    url = host.play(PATH, drip(b"x" * 65536, 0, 10_000))
    with pytest.raises(UnexpectedContentError, match="1,000,000") as caught:
        bring(url, partial=partial, limit=1_000_000)
    assert caught.value.done == "nothing was kept"
    assert not partial.exists()
    assert bring(host.play(PATH, whole(BODY)), partial=partial, limit=len(BODY))  # the limit itself is allowed


def test_wrong_bytes_twice(host: FaultServer, partial: Path) -> None:
    url = host.play(PATH, ranged(BODY[::-1]))
    with pytest.raises(HashMismatchError) as caught:
        bring(url, partial=partial)
    assert caught.value.actual == hashlib.sha256(BODY[::-1]).hexdigest()
    assert len(host.requests) == 2
    assert not partial.exists()


# --- addresses that cannot be reached --------------------------------------------------------------------------------


def test_refused(partial: Path) -> None:
    with pytest.raises(TransferError, match="refused") as caught:
        bring("http://127.0.0.1:9/file.pth", partial=partial)
    pieces(caught.value)
    assert caught.value.kept == 0
    assert "hrnet-zoo import" in caught.value.advice


def test_unknown_host(partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*args: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    naps: list[float] = []
    with pytest.raises(TransferError, match="not known"):
        bring("https://nowhere.invalid/file.pth", partial=partial, naps=naps)
    assert len(naps) == 4


def test_redirects(host: FaultServer, partial: Path) -> None:
    host.play(PATH, ranged(BODY, stop=1000), ranged(BODY))
    url = host.play("/moved", status(302, {"Location": PATH}))
    bring(url, partial=partial)
    assert host.to(PATH)[1].headers["Range"] == "bytes=1000-"


def test_redirect_loop(host: FaultServer, partial: Path) -> None:
    url = host.play("/loop", status(302, {"Location": "/loop"}))
    with pytest.raises(DownloadError, match="5 redirects"):
        bring(url, partial=partial)
    assert len(host.requests) == 6


@pytest.mark.parametrize(
    "answer",
    [
        status(302, {"Location": PATH, "Content-Encoding": "gzip"}, gzip.compress(bytes(1 << 28))),
        drip(b"x" * 65536, 0, 100_000, status(302, {"Location": PATH}, length=None)),
    ],
    ids=["a bomb", "without end"],
)
def test_the_body_of_a_redirect_is_never_read(host: FaultServer, partial: Path, answer: Answer) -> None:
    host.play(PATH, whole(BODY))
    url = host.play("/moved", answer)
    tracemalloc.start()
    bring(url, partial=partial)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20
    assert [request.path for request in host.requests] == ["/moved", PATH]


def test_user_and_password_go_along_to_the_same_host_only(host: FaultServer, partial: Path) -> None:
    host.play(PATH, whole(BODY))
    relative, absolute = host.play("/relative", status(302, {"Location": PATH})), host.url + PATH
    named = host.play("/absolute", status(302, {"Location": absolute}))
    with serve() as other:
        other.play(PATH, whole(BODY))
        elsewhere = host.play("/elsewhere", status(302, {"Location": other.url + PATH}))
        for url in (relative, named, elsewhere):
            bring(url.replace("//", "//me:secret@"), partial=partial)
            discard(partial)
        assert all("Authorization" in request.headers for request in host.requests)
        assert [request.headers.get("Authorization") for request in other.requests] == [None]
    assert [request.path for request in host.requests] == ["/relative", PATH, "/absolute", PATH, "/elsewhere"]


@pytest.mark.parametrize(
    "location", ["https://[::1/a", "https://a:b/c", "http:///", "//", "\xff\xfe", "http://\0/", f"https://{'a' * 300}"]
)
def test_a_redirect_to_nowhere(host: FaultServer, partial: Path, location: str) -> None:
    url = host.play("/moved", status(302, {"Location": location}))
    with pytest.raises(DownloadError) as caught:
        bring(url, partial=partial)
    pieces(caught.value)
    assert not partial.exists()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0" * 100_000,
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\nContent-Type: text/html\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"9" * 70_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n0\r\n\r\n",
    ],
)
def test_what_is_no_http(host: FaultServer, partial: Path, answer: bytes) -> None:
    url = host.play(PATH, raw(answer))
    with pytest.raises(DownloadError) as caught:
        bring(url, partial=partial)
    pieces(caught.value)
    assert resumable_bytes(partial) == 0


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/file"])
def test_redirect_to_another_scheme(host: FaultServer, partial: Path, target: str) -> None:
    url = host.play("/moved", status(302, {"Location": target}))
    with pytest.raises(DownloadError, match="not used here"):
        bring(url, partial=partial)
    assert len(host.requests) == 1


@pytest.mark.parametrize(
    "url", ["http://example.invalid/a.pth", "ftp://127.0.0.1/a.pth", "a.pth", "", "https://[::1/a.pth", "https://a:b/c"]
)
def test_unusable_address(partial: Path, url: str) -> None:
    with pytest.raises(DownloadError) as caught:
        bring(url, partial=partial)
    pieces(caught.value)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a self-signed certificate for this machine."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl command to make a certificate with")
    pem = tmp_path_factory.mktemp("tls") / "host.pem"
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    name = [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        f"{pem}.key",
        "-out",
        str(pem),
    ]
    subprocess.run([openssl, *made, *name], check=True, capture_output=True)  # noqa: S603 - fixed words
    pem.write_text(pem.read_text() + Path(f"{pem}.key").read_text())
    return pem


def test_unverified_certificate_is_final(certificate: Path, partial: Path) -> None:
    naps: list[float] = []
    with serve(certificate) as host:
        url = host.play(PATH, whole(BODY))
        with pytest.raises(DownloadError, match="REQUESTS_CA_BUNDLE") as caught:
            bring(url, partial=partial, naps=naps)
        assert host.requests == []
    pieces(caught.value)
    assert "certificate" in caught.value.found
    assert naps == []


def test_verified_certificate(certificate: Path, partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with serve(certificate) as host:
        bring(host.play(PATH, ranged(BODY, stop=100_000), ranged(BODY)), partial=partial)


def test_missing_certificates(certificate: Path, partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    with serve(certificate) as host, pytest.raises(DownloadError, match=r"/nowhere/ca\.pem") as caught:
        bring(host.play(PATH, whole(BODY)), partial=partial)
    assert "REQUESTS_CA_BUNDLE" in caught.value.advice


def test_no_way_down_from_https(
    certificate: Path, host: FaultServer, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    plain = host.play(PATH, whole(BODY))
    with serve(certificate) as secure, pytest.raises(DownloadError, match="not used here"):
        bring(secure.play(PATH, status(302, {"Location": plain})), partial=partial)
    assert host.requests == []


def test_no_way_down_behind_a_mirror_that_is_plain(
    certificate: Path, host: FaultServer, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user named the way to one host as safe: neither another such way, nor one down from https, comes with it."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setattr(download, "is_loopback", lambda host: False)
    monkeypatch.setenv("HRNET_ZOO_MIRRORS", f"{host.url}/zoo")
    with serve(certificate) as secure, serve() as other:
        end = host.play(PATH, whole(BODY))
        up = host.play("/zoo/up", status(302, {"Location": secure.play(PATH, ranged(BODY))}))
        assert bring(up, partial=partial) == BODY
        discard(partial)
        along = host.play("/zoo/along", status(302, {"Location": PATH}))
        assert bring(along, partial=partial) == BODY
        discard(partial)
        down = host.play("/zoo/down", status(302, {"Location": secure.play("/down", status(302, {"Location": end}))}))
        with pytest.raises(DownloadError, match="never behind https://"):
            bring(down, partial=partial)
        aside = host.play("/zoo/aside", status(302, {"Location": other.play(PATH, whole(BODY))}))
        with pytest.raises(DownloadError, match="a redirect leads to http:// without TLS"):
            bring(aside, partial=partial)
        assert other.requests == []
    assert len(host.to(PATH)) == 1
    assert not partial.exists()


def test_no_tls_where_it_should_be(host: FaultServer, partial: Path) -> None:
    naps: list[float] = []
    url = host.play(PATH, whole(BODY)).replace("http:", "https:")
    with pytest.raises(DownloadError, match="no secure connection") as caught:
        bring(url, partial=partial, naps=naps)
    assert "certificate" not in caught.value.found
    assert naps == []


def test_unverified_certificate_of_a_proxy_is_final(
    certificate: Path, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    with serve(certificate) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url.replace("//", "//user:secret@"))
        with pytest.raises(DownloadError, match=r"the proxy named by https_proxy.*certificate") as caught:
            bring("https://elsewhere.invalid/a.pth", partial=partial, naps=naps)
        assert proxy.requests == []
    assert naps == []
    assert "secret" not in told(caught.value)


def test_proxy_refuses(host: FaultServer, partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.play("elsewhere.invalid:443", status(407))
    monkeypatch.setenv("https_proxy", host.url.replace("//", "//user:secret@"))
    with pytest.raises(DownloadError, match="https_proxy") as caught:
        bring("https://elsewhere.invalid/a.pth", partial=partial)
    assert "407" in caught.value.found
    assert "secret" not in told(caught.value)
    assert len(host.requests) == 1


@pytest.mark.parametrize("proxy", ["http://", "http://user:secret@[::1", "nonsense://user:secret@127.0.0.1:9"])
def test_malformed_proxy(partial: Path, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    naps: list[float] = []
    with pytest.raises(DownloadError) as caught:
        bring("https://elsewhere.invalid/a.pth", partial=partial, naps=naps)
    assert naps == []
    assert "proxy" in str(caught.value)
    assert "secret" not in told(caught.value)


def test_unreachable_proxy(partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@127.0.0.1:9")
    with pytest.raises(TransferError, match="HTTPS_PROXY") as caught:
        bring("https://elsewhere.invalid/a.pth", partial=partial)
    assert "secret" not in told(caught.value)


# --- several addresses -----------------------------------------------------------------------------------------------


def test_the_next_address_serves(host: FaultServer, partial: Path) -> None:
    bad, good = host.play("/bad/a.pth", status(404)), host.play("/good/a.pth", whole(BODY))
    assert bring(bad, good, partial=partial) == BODY


def test_all_addresses_are_named_and_wrong_bytes_tell_most(host: FaultServer, partial: Path) -> None:
    gone, wrong = host.play("/gone/a.pth", status(404)), host.play("/wrong/a.pth", whole(BODY[::-1]))
    with pytest.raises(HashMismatchError) as caught:
        bring(gone, wrong, "http://127.0.0.1:9/a.pth", partial=partial)
    for told in (f"{gone}: HTTP status 404", f"{wrong}: another SHA-256", "http://127.0.0.1:9/a.pth: the host cannot"):
        assert told in caught.value.found


def test_what_stays_is_counted_at_the_end(host: FaultServer, partial: Path) -> None:
    first = host.play("/first/a.pth", ranged(LONG, stop=1000))
    wrong = host.play("/wrong/a.pth", status(200, {}, b"x" * 5_000_000, length=6_000_000))
    with pytest.raises(TransferError) as caught:
        bring(first, wrong, partial=partial, body=LONG)
    assert caught.value.kept == 0
    assert caught.value.done == "nothing was kept"


def test_plain_http_only_where_named(partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "is_loopback", lambda host: False)
    with serve() as host:
        url = host.play(PATH, whole(BODY))
        with pytest.raises(DownloadError, match="without TLS"):
            bring(url, partial=partial)
        assert host.requests == []
        monkeypatch.setenv("HRNET_ZOO_MIRRORS", host.url)
        assert bring(url, partial=partial) == BODY


def test_folder_as_mirror(tmp_path: Path, partial: Path) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    (folder / "a.pth").write_bytes(BODY)
    url = (folder / "a.pth").as_uri()
    assert bring(url, partial=partial) == BODY
    assert kept(partial) == BODY
    with pytest.raises(UnexpectedContentError):
        bring(url, partial=partial.with_name("b.partial"), limit=1000)
    (folder / "a.pth").write_bytes(BODY[::-1])
    with pytest.raises(HashMismatchError):
        bring(url, partial=partial.with_name("c.partial"))


def test_folder_without_the_file(tmp_path: Path, partial: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    for name, words in (
        ("absent.pth", "absent.pth cannot be read: No such file"),
        ("pipe.pth", "pipe.pth is not a regular file"),
        ("", "is not a regular file"),
    ):
        with pytest.raises(DownloadError, match=words):
            bring((tmp_path / name).as_uri(), partial=partial)


# --- why it is tried again -------------------------------------------------------------------------------------------


def stolen(partial: Path) -> Answer:
    """Take the partial away when the beginning of the body is in it."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        status(200, body=BODY[:1000], length=len(BODY))(handler)
        handler.wfile.flush()
        while not partial.exists():
            time.sleep(0.001)
        partial.rename(partial.with_name("stolen"))
        handler.wfile.write(BODY[1000:])

    return answer


AGAIN: dict[str, Callable[[Path], list[Answer]]] = {
    "HTTP status 503": lambda _: [status(503)],
    "the host cannot continue at the byte asked for": lambda _: [ranged(BODY, stop=1000), status(416)],
    "the host answered with another slice than the one asked for": lambda _: [
        ranged(BODY, stop=1000),
        status(206, {"Content-Range": "bytes 7-299999/300000", "ETag": '"v1"'}, BODY[7:]),
    ],
    "the body broke off at 2,000 of 300,000 bytes": lambda _: [
        ranged(BODY, stop=1000),
        status(206, {"Content-Range": "bytes 1000-299999/300000", "ETag": '"v1"'}, BODY[1000:2000]),
    ],
    "the body broke off (": lambda _: [chunked(BODY[:1000], finished=False)],
    "another process took over the partial download": lambda partial: [stolen(partial)],
    "the host cannot be reached (": lambda _: [lambda handler: handler.connection.close()],
}


@pytest.mark.parametrize("words", AGAIN)
def test_the_log_says_why_it_is_tried_again(
    words: str, host: FaultServer, partial: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = host.play(PATH, *AGAIN[words](partial), ranged(BODY))
    with caplog.at_level("INFO"):
        bring(url, partial=partial)
    assert f": {words}" in caplog.text
    assert "; retrying in " in caplog.text
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_a_user_who_waits_is_told_once(partial: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TransferError) as caught:
        bring("http://127.0.0.1:9/file.pth", partial=partial)
    (line,) = caplog.messages
    assert line.startswith("http://127.0.0.1:9/file.pth: the host cannot be reached (")
    assert "); retrying in " in line
    assert "(HTTPConnection(host=" in line
    assert str(caught.value).count("http://127.0.0.1:9/file.pth") == 1


def test_what_requests_cannot_ask(partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise requests.exceptions.InvalidHeader("a header that is none")

    monkeypatch.setattr(requests.Session, "get", refused)
    with pytest.raises(DownloadError, match="a header that is none"):
        bring("https://localhost/a.pth", partial=partial)


# --- the user's switch -----------------------------------------------------------------------------------------------


def test_offline_opens_no_socket(tmp_path: Path, partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRNET_ZOO_OFFLINE", "1")
    monkeypatch.setattr(socket, "socket", None)
    (tmp_path / "a.pth").write_bytes(BODY)
    local = (tmp_path / "a.pth").as_uri()
    with pytest.raises(OfflineError) as caught:
        bring("https://a.example/a.pth", "file:///nowhere/a.pth", partial=partial)
    assert "hrnet-zoo import FILE" in caught.value.advice
    assert "https://a.example/a.pth" in caught.value.asked
    assert bring("https://a.example/a.pth", local, partial=partial) == BODY


# --- the disk and the process ----------------------------------------------------------------------------------------


def test_too_little_space_is_seen_beforehand(host: FaultServer, partial: Path) -> None:
    url = host.play(PATH, status(200, body=b"x", length=1 << 60))
    with pytest.raises(CacheSpaceError, match="HRNET_ZOO_CACHE") as caught:
        bring(url, partial=partial, limit=1 << 61)
    assert f"{1 << 60:,}" in caught.value.found
    assert not partial.exists()


def run_child(code: str, partial: Path, url: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own that has `partial`, `url` and `fetch`."""
    head = f"""
        import os, resource
        from pathlib import Path
        from hrnet_zoo.weights import download
        partial, url = Path({str(partial)!r}), {url!r}
        def go():
            download.sleep = str
            download.fetch([url], partial, max_bytes=1 << 30, verify=len, progress=True)
    """
    script = textwrap.dedent(head) + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)  # noqa: S603


def test_file_size_limit(host: FaultServer, partial: Path) -> None:
    url = host.play(PATH, ranged(BODY))
    done = run_child("resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); go()", partial, url)
    assert "CacheSpaceError" in done.stderr
    assert partial.stat().st_size == 100_000  # with the line that says what it belongs to
    count = resumable_bytes(partial)
    assert 99_000 < count < 100_000
    assert kept(partial) == BODY[:count]
    bring(url, partial=partial)
    assert host.requests[-1].headers["Range"] == f"bytes={count}-"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become nobody")
def test_folder_that_may_not_be_written(host: FaultServer, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    done = run_child("os.setuid(65534); go()", tmp_path / "a.part", host.play(PATH, ranged(BODY)))
    assert "CacheError" in done.stderr
    assert "65534" in done.stderr
    assert "HRNET_ZOO_CACHE" in done.stderr


def test_interrupt_passes_and_keeps_the_part(
    host: FaultServer, partial: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    url = host.play(PATH, ranged(LONG, stop=300_000), ranged(LONG))
    monkeypatch.setattr(download, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch([url], partial, max_bytes=1 << 30, verify=wants(LONG), progress=False)
    assert resumable_bytes(partial) == 300_000
    assert partial.stat().st_mtime == 0  # the next call takes it at once
    assert "; retrying in " in caplog.messages[0]
    assert caplog.messages[1:] == [f"interrupted: 300,000 bytes stay in {partial}; the next call resumes there"]
    bring(url, partial=partial, body=LONG)


def test_killed_while_downloading(host: FaultServer, partial: Path) -> None:
    url = host.play(PATH, stall(BODY, 200_000, seconds=2), ranged(BODY))
    code = """
        import threading, time
        def watch():
            while not partial.exists() or partial.stat().st_size < 1000: time.sleep(0.01)
            os.kill(os.getpid(), 9)
        threading.Thread(target=watch).start()
        go()
    """
    assert run_child(code, partial, url).returncode == -signal.SIGKILL
    count = resumable_bytes(partial)
    assert 100 <= count <= 200_000
    bring(url, partial=partial)
    assert host.requests[-1].headers["Range"] == f"bytes={count}-"


def test_no_bar_where_stderr_is_no_terminal(host: FaultServer, partial: Path) -> None:
    done = run_child("go()", partial, host.play(PATH, ranged(BODY)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("shown", [False, True])
def test_the_lock_of_all_bars_stops_no_transfer(
    host: FaultServer, partial: Path, monkeypatch: pytest.MonkeyPatch, shown: bool
) -> None:
    """A forked process that was killed while it drew a bar holds it for ever."""
    url, held, done = host.play(PATH, ranged(BODY)), threading.Event(), threading.Event()
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: shown)
    monkeypatch.setattr(sys, "stderr", screen)

    def hold() -> None:
        with tqdm.get_lock():  # type: ignore[no-untyped-call]
            held.set()
            done.wait(30)

    def work() -> None:
        fetch([url], partial, max_bytes=1 << 20, verify=wants(BODY), progress=True)

    holder, worker = (threading.Thread(target=each, daemon=True) for each in (hold, work))
    holder.start()
    assert held.wait(30)
    worker.start()
    worker.join(10)
    ended = not worker.is_alive()
    done.set()
    holder.join()
    worker.join()
    assert ended
    assert ("100%" in screen.getvalue()) is shown


def test_a_part_taken_over_is_begun_anew(host: FaultServer, partial: Path) -> None:
    def steal(handler: BaseHTTPRequestHandler) -> None:
        partial.rename(partial.with_name("stolen"))
        ranged(BODY)(handler)

    url = host.play(PATH, ranged(BODY, stop=1000), steal, ranged(BODY))
    bring(url, partial=partial)
    assert kept(partial.with_name("stolen")) == BODY[:1000]


@pytest.mark.parametrize("times", [1, 2])
def test_a_part_taken_before_it_was_verified(
    host: FaultServer, partial: Path, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = host.play(PATH, ranged(BODY))
    real, taken = download._download, list[Path]()

    def then_taken(source: download._Source) -> None:
        real(source)
        if len(taken) < times:
            taken.append(partial.rename(partial.with_name(f"stolen {len(taken)}")))

    monkeypatch.setattr(download, "_download", then_taken)
    with pytest.raises(CacheError, match="verify") if times == 2 else contextlib.nullcontext():
        bring(url, partial=partial)
    assert len(host.requests) == 2
    assert partial.exists() is (times == 1)


# --- words -----------------------------------------------------------------------------------------------------------


def test_no_secret_on_disk_or_in_messages(host: FaultServer, partial: Path) -> None:
    path = f"{PATH}?Signature=hunter2"
    url = host.play(path, ranged(BODY, stop=1000), status(403)).replace("//", "//me:hunter2@")
    with pytest.raises(HTTPStatusError) as caught:
        bring(url, partial=partial)
    assert "hunter2" not in f"{told(caught.value)} {caught.value.url} {partial.read_bytes()!r}"
    away = f"http://me:hunter2@127.0.0.1:9{path}"
    with pytest.raises(TransferError) as lost:
        bring(away, partial=partial)
    moved = host.play("/moved", status(302, {"Location": away}))
    with pytest.raises(TransferError) as led:
        bring(moved, partial=partial)
    assert "hunter2" not in told(lost.value) + told(led.value)
    discard(partial)
    assert not partial.exists()


# --- the partial download --------------------------------------------------------------------------------------------


def test_old_bytes_never_lie_under_a_new_note(
    host: FaultServer, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = host.play(PATH, status(200, {"ETag": '"v1"'}, BODY[:1000], length=len(BODY)))
    leave(partial, b"x" * 100, url, etag=None)

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch([url], partial, max_bytes=1 << 20, verify=wants(BODY), progress=False)
    assert kept(partial) == BODY[:1000]
    assert json.loads(partial.read_bytes().partition(b"\n")[0])["etag"] == '"v1"'


def test_a_partial_download_of_the_last_version_is_begun_anew(host: FaultServer, partial: Path) -> None:
    """There the bytes stood alone, and the note beside them."""
    url = host.play(PATH, ranged(BODY))
    partial.write_bytes(BODY[:1000])
    partial.with_suffix(".json").write_text(json.dumps({"url": url, "etag": '"v1"', "total": len(BODY)}))
    assert bring(url, partial=partial) == BODY
    assert "Range" not in host.requests[0].headers


def test_disk_errors(host: FaultServer, partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def samestat(*args: object) -> None:
        raise OSError(errno.ESTALE, "stale")

    monkeypatch.setattr(os.path, "samestat", samestat)
    with pytest.raises(CacheError, match="stale") as caught:
        bring(host.play(PATH, ranged(BODY)), partial=partial)
    assert caught.value.path == partial


def test_a_planted_link_is_not_followed(host: FaultServer, partial: Path) -> None:
    (partial.parent / "precious").write_text("mine")
    partial.symlink_to(partial.parent / "precious")
    with pytest.raises(CacheError, match="HRNET_ZOO_CACHE"):
        bring(host.play(PATH, ranged(BODY)), partial=partial)
    assert (partial.parent / "precious").read_text() == "mine"
