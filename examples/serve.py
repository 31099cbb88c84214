"""Label photos over HTTP with a file that hrnet-zoo exported; needs no torch. guide_serving.md tells how.

python examples/serve.py model.onnx
curl --data-binary @photo.jpg http://127.0.0.1:8000/labels --output labels.png
curl --data-binary @photo.jpg http://127.0.0.1:8000/shares
"""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

try:
    from hrnet_zoo.exporting.runner import Segmenter, SegmenterError, read_photo
except ModuleNotFoundError:  # the one that `hrnet-zoo export --with-runner` has written, beside this file
    from runner import Segmenter, SegmenterError, read_photo  # type: ignore[import-not-found, no-redef]

UPLOAD_S = 30.0  # for a whole photo to arrive
CONNECTIONS = 64  # more are answered with status 503
GONE = 499  # nobody reads the answer to a client that has hung up; logs show it


class Service:
    """Answers requests whose body is a photo; at most `at_once` are computed at a time, the others wait."""

    def __init__(self, segmenter: Segmenter, *, max_bytes: int, max_pixels: int, at_once: int) -> None:
        self._segmenter = segmenter
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._turns = asyncio.Semaphore(at_once)

    def app(self) -> FastAPI:
        """Return the application."""
        app = FastAPI(docs_url=None, redoc_url=None)  # these pages would fetch scripts from elsewhere
        app.add_api_route("/", self.about, methods=["GET"])
        app.add_api_route("/labels", self.labels, methods=["POST"], response_model=None)
        app.add_api_route("/shares", self.shares, methods=["POST"], response_model=None)
        return app

    async def about(self) -> dict[str, object]:
        """Return the classes, their colors, and the limits."""
        return {
            "classes": self._segmenter.classes,
            "palette": self._segmenter.palette,
            "max_bytes": self._max_bytes,
            "max_pixels": self._max_pixels,
        }

    async def labels(self, request: Request) -> Response:
        """Answer a photo with a palette PNG: its values are class indices, viewers show colors."""
        return await self._answer(request, self._png)

    async def shares(self, request: Request) -> Response:
        """Answer a photo with the share of each class in its pixels, as JSON."""
        return await self._answer(request, self._shares)

    async def _answer(self, request: Request, compute: Callable[[bytes], Response]) -> Response:
        try:
            photo = await asyncio.wait_for(self._body(request), UPLOAD_S)
        except ClientDisconnect:
            return Response(status_code=GONE)
        except asyncio.TimeoutError:
            return _error(408, f"the photo did not arrive within {UPLOAD_S:.0f} s")
        if photo is None:
            return _error(413, f"the upload is larger than {self._max_bytes:,} bytes")
        async with self._turns:
            if await request.is_disconnected():  # while it waited
                return Response(status_code=GONE)
            return await run_in_threadpool(compute, photo)

    async def _body(self, request: Request) -> bytes | None:
        """Return the body, or None if it is too large: it is read to its end, or the client would miss the answer."""
        chunks, size = [], 0
        async for chunk in request.stream():
            size += len(chunk)
            if size <= self._max_bytes:
                chunks.append(chunk)
            else:
                chunks.clear()
        return b"".join(chunks) if size <= self._max_bytes else None

    def _png(self, photo: bytes) -> Response:
        try:
            labels = self._segmenter(read_photo(io.BytesIO(photo), self._max_pixels))
        except SegmenterError as error:
            return _error(422, str(error))
        stream = io.BytesIO()
        self._segmenter.palette_image(labels).save(stream, "PNG")
        return Response(stream.getvalue(), media_type="image/png")

    def _shares(self, photo: bytes) -> Response:
        try:
            labels = self._segmenter(read_photo(io.BytesIO(photo), self._max_pixels))
        except SegmenterError as error:
            return _error(422, str(error))
        return JSONResponse({"shares": self._segmenter.shares(labels)})


def _error(status: int, words: str) -> Response:
    return JSONResponse({"error": words}, status)


def main() -> None:
    """Read the command line, load the file and serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an exported .onnx or .xml")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 to be reached from other machines")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-bytes", type=int, default=20_000_000, help="of an upload")
    parser.add_argument("--max-pixels", type=int, default=25_000_000, help="of a photo")
    parser.add_argument("--at-once", type=int, default=1, help="photos that are computed at a time")
    args = parser.parse_args()
    try:
        segmenter = Segmenter(args.model)
    except SegmenterError as error:
        sys.exit(f"error: {error}")
    service = Service(segmenter, max_bytes=args.max_bytes, max_pixels=args.max_pixels, at_once=args.at_once)
    uvicorn.run(service.app(), host=args.host, port=args.port, limit_concurrency=CONNECTIONS)


if __name__ == "__main__":
    main()
