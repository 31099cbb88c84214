"""Faults of a host, as answers that it plays, and what each must end in."""

import gzip
import random
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

from hrnet_zoo.errors import (
    DownloadError,
    HashMismatchError,
    HRNetZooError,
    HTTPStatusError,
    TransferError,
    UnexpectedContentError,
)
from tests.support.http_server import Answer, chunked, drip, ranged, reset, stall, status, whole


@dataclass(frozen=True)
class Fault:
    """What the file's path answers, one after the other, the last for ever; and the end, the file where it is None."""

    answers: tuple[Answer, ...]
    ends_in: type[HRNetZooError] | None = None


def faults(body: bytes, path: str, stall_s: float) -> dict[str, Fault]:
    """Every fault by name; `body` is the right file of more than 300 kB, `path` where it should be."""
    cut, half = 100_000, len(body) // 2
    wrong = random.Random(0).randbytes(len(body))  # noqa: S311 - any bytes will do
    bomb = gzip.compress(bytes(64 << 20))

    def compressed_if_accepted(handler: BaseHTTPRequestHandler) -> None:
        if "gzip" in handler.headers.get("Accept-Encoding", ""):
            status(200, {"Content-Encoding": "gzip"}, gzip.compress(body, 1))(handler)
        else:
            whole(body)(handler)

    def slice_of(start: int, *, code: int = 206, told: str = "", etag: str = '"v1"') -> Answer:
        """Answer a question for a slice with this one, whatever was asked for; other questions as a good host."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            if "Range" not in handler.headers:
                return ranged(body)(handler)
            end = len(body) - 1
            headers = {"ETag": etag, "Content-Range": told or f"bytes {start}-{end}/{len(body)}"}
            return status(code, headers, body[start:])(handler)

        return answer

    def slices(step: int) -> Answer:
        """Send no more than so many bytes at a time."""
        return ranged(body, stop=step)

    return {
        "nothing wrong": Fault((ranged(body),)),
        "no ETag, no ranges": Fault((whole(body, etag=None),)),
        "chunked": Fault((chunked(body[:cut], body[cut:]),)),
        "redirect": Fault((status(302, {"Location": path}), ranged(body))),
        "more bytes than its length": Fault((status(200, body=body + b"surplus", length=len(body)),)),
        "gzip only if accepted": Fault((compressed_if_accepted,)),
        # for a moment
        "429 once, wait a moment": Fault((status(429, {"Retry-After": "1"}), ranged(body))),
        "500 once": Fault((status(500), ranged(body))),
        "503 once": Fault((status(503), ranged(body))),
        "reset in the middle": Fault((reset(body, cut), ranged(body))),
        "stall in the middle": Fault((stall(body, cut, stall_s), ranged(body))),
        "broken off once": Fault((ranged(body, stop=cut), ranged(body))),
        "broken off twice, halfway each time": Fault((slices(half), slices(half), ranged(body))),
        "broken off in a chunk": Fault((chunked(body[:cut], finished=False), ranged(body))),
        "short under a lying length": Fault((status(200, body=body[:cut]), ranged(body))),
        "short without a length": Fault((status(200, body=body[:cut], length=None), ranged(body))),
        "wrong bytes once": Fault((whole(wrong), ranged(body))),
        # when it is asked to go on
        "the range ignored": Fault((ranged(body, stop=cut), whole(body))),
        "another offset": Fault((ranged(body, stop=cut), slice_of(7), ranged(body))),
        "another size": Fault((ranged(body, stop=cut), slice_of(cut, told=f"bytes {cut}-9/9"), ranged(body))),
        "another version's slice": Fault((ranged(body, stop=cut), slice_of(cut, etag='"v2"'), ranged(body))),
        "416": Fault((ranged(body, stop=cut), status(416), ranged(body))),
        "a slice under status 200": Fault((ranged(body, stop=cut), slice_of(cut, code=200))),
        "another slice under status 200": Fault((ranged(body, stop=cut), slice_of(7, code=200), ranged(body))),
        "another file since": Fault((ranged(wrong, '"v0"', stop=cut), ranged(body))),
        # for ever
        "403 with XML": Fault((status(403, {"Content-Type": "application/xml"}, b"<Error/>"),), HTTPStatusError),
        "404": Fault((status(404, {"Content-Type": "text/html"}, b"<html>gone</html>"),), HTTPStatusError),
        "503 for ever": Fault((status(503),), TransferError),
        "broken off at the same byte": Fault((status(200, body=body[:cut], length=len(body)),), TransferError),
        "broken off in a chunk for ever": Fault((chunked(body[:cut], finished=False),), TransferError),
        "redirects in a circle": Fault((status(302, {"Location": path}),), DownloadError),
        "redirect to file://": Fault((status(302, {"Location": "file:///etc/hostname"}),), DownloadError),
        "a login page": Fault((status(200, {"Content-Type": "text/html"}, b"<html>sign in"),), UnexpectedContentError),
        "markup of unknown type": Fault((status(200, {}, b"<?xml version='1.0'?><Error/>"),), UnexpectedContentError),
        "an empty body": Fault((status(200),), UnexpectedContentError),
        "a pointer of Git LFS": Fault(
            (status(200, {}, b"version https://git-lfs.github.com/spec/v1\n"),), UnexpectedContentError
        ),
        "gzip though not accepted": Fault(
            (status(200, {"Content-Encoding": "gzip"}, gzip.compress(body, 1)),), UnexpectedContentError
        ),
        "a gzip bomb": Fault((status(200, {"Content-Encoding": "gzip"}, bomb),), UnexpectedContentError),
        "a body without end": Fault((drip(b"x" * 65536, 0, 4000),), UnexpectedContentError),
        "short for ever, without a length": Fault((status(200, body=body[:cut], length=None),), HashMismatchError),
        "wrong bytes of the right size": Fault((whole(wrong),), HashMismatchError),
    }
