"""A host on this machine that misbehaves as told: scripted answers by path, every request on record."""

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass
class FaultServer:
    """The running host; each path plays its answers in order, and the last one for ever."""

    url: str
    requests: list[Request] = field(default_factory=list)
    scripts: dict[str, list[Answer]] = field(default_factory=dict)

    def play(self, path: str, *answers: Answer) -> str:
        """Set what `path` answers and return its URL."""
        self.scripts[path] = list(answers)
        return self.url + path

    def to(self, path: str) -> list[Request]:
        """List the requests that came for `path`."""
        return [request for request in self.requests if request.path == path]


@contextlib.contextmanager
def serve(certificate: Path | None = None) -> Iterator[FaultServer]:
    """Run a host on a free loopback port, with TLS where a PEM file with certificate and key is given."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            host.requests.append(Request(self.command, self.path, dict(self.headers.items())))
            self.close_connection = True
            script = host.scripts.get(self.path, [status(404)])
            answer = script.pop(0) if len(script) > 1 else script[0]
            with contextlib.suppress(ConnectionError):  # a client that has seen enough
                answer(self)

        do_HEAD = do_CONNECT = do_GET  # noqa: N815 - the names the base class looks for

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # refused TLS handshakes are part of the play

    server = Server(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        # The handshake in the thread of each answer: in this one, a client that says nothing would stop all others.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    host = FaultServer(f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def status(
    code: int, headers: Mapping[str, str] | None = None, body: bytes = b"", *, length: int | None = -1
) -> Answer:
    """Answer with a status, headers and a body; `length` is the Content-Length told (-1: the true one, None: none)."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        if length is not None:
            handler.send_header("Content-Length", str(len(body) if length < 0 else length))
        handler.send_header("Connection", "close")
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    return answer


def whole(body: bytes, etag: str | None = '"v1"') -> Answer:
    """Answer with all of a body and say nothing of ranges."""
    return status(200, {"ETag": etag} if etag else {}, body)


def ranged(body: bytes, etag: str = '"v1"', stop: int | None = None) -> Answer:
    """Answer as a good host does, Range and If-Range included; with `stop` the connection ends after so many bytes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start, end, wanted = 0, len(body), handler.headers.get("Range", "")
        headers = {"ETag": etag}
        if wanted and handler.headers.get("If-Range", etag) == etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{end}"
        part = body[start:][:stop]
        status(206 if "Content-Range" in headers else 200, headers, part, length=end - start)(handler)

    return answer


def reset(body: bytes, after: int) -> Answer:
    """Send some bytes of a body, then reset the connection."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        status(200, {"ETag": '"v1"'}, body[:after], length=len(body))(handler)
        handler.wfile.flush()
        time.sleep(0.05)  # lets the client read first; a reset discards what it has not
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()

    return answer


def stall(body: bytes, after: int, seconds: float) -> Answer:
    """Send some bytes of a body, then nothing for a while."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        status(200, {"ETag": '"v1"'}, body[:after], length=len(body))(handler)
        time.sleep(seconds)

    return answer


def drip(block: bytes, pause_s: float, count: int, opening: Answer | None = None) -> Answer:
    """Send an opening (default: status 200 without a length), then a block, pause, and so on."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        (opening or status(200, length=None))(handler)
        for _ in range(count):
            handler.wfile.write(block)
            time.sleep(pause_s)

    return answer


def chunked(*blocks: bytes, finished: bool = True) -> Answer:
    """Send blocks in the chunked coding, with or without the end of it."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        status(200, {"Transfer-Encoding": "chunked"}, length=None)(handler)
        for block in blocks:
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
        if finished:
            handler.wfile.write(b"0\r\n\r\n")

    return answer
