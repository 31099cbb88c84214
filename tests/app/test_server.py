"""Where the page listens (extra `app`)."""

import importlib
import socket

import pytest

from hrnet_zoo.errors import ConfigError

pytest.importorskip("gradio")
server = importlib.import_module("hrnet_zoo.app.server")


def test_loopback_and_others() -> None:
    for host, loopback in (("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)):  # noqa: S104 - not served
        with server.listen(host, 0) as listener:
            assert server.is_loopback(listener) is loopback
            assert listener.getsockname()[1] > 0


def test_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}\n  found: .*in use(.|\n)*--port 0 takes a free one"):
            server.listen("127.0.0.1", port)
