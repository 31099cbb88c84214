"""Serve the page with uvicorn, on a socket of our own.

`Blocks.launch` is not used: it asks its own address over HTTP, through whatever proxy the environment names, obeys
a dozen environment variables, and takes another port where one is in use.
"""

from __future__ import annotations

import concurrent.futures
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from hrnet_zoo.app.page import CSS, MAX_BYTES
from hrnet_zoo.errors import ConfigError

_GRACE_S = 1  # for answers under way when the server is stopped


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; connections wait until `serve` answers them.

    Raises:
        ConfigError: the port is in use, or the host is no address of this machine.

    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise ConfigError(
            asked=f"a page at {host}, port {port}",
            found=error.strerror or str(error),
            done="nothing was started",
            advice="name another port (--port 0 takes a free one), or another address of this machine",
        ) from error


def is_loopback(listener: socket.socket) -> bool:
    """Tell whether only this machine reaches a socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def serve(page: gr.Blocks, listener: socket.socket) -> None:
    """Answer browsers until something is raised in this thread, such as KeyboardInterrupt."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    theme = gr.themes.Default().set(block_info_text_color="*neutral_500", block_info_text_color_dark="*neutral_300")
    off = {"enable_monitoring": False, "mcp_server": False, "pwa": False, "run_history": False, "ssr_mode": False}
    gr.mount_gradio_app(app, page, "/", theme=theme, css=CSS, max_file_size=MAX_BYTES, footer_links=[], **off)
    server = uvicorn.Server(uvicorn.Config(_closed(app), log_level="warning", timeout_graceful_shutdown=_GRACE_S))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # outside the main thread, uvicorn handles no signals
        running = pool.submit(server.run, [listener])
        try:
            while not running.done():
                concurrent.futures.wait([running], 1)  # without a limit, Windows would not see Ctrl-C
        finally:
            server.should_exit = True
    running.result()


def _closed(app: FastAPI) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """Refuse paths with an address in them, which Gradio would fetch (file=https://...)."""

    async def closed(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - as in ASGI
        if "://" in scope.get("path", ""):
            await PlainTextResponse("this page fetches nothing from elsewhere\n", 403)(scope, receive, send)
        else:
            await app(scope, receive, send)

    return closed
