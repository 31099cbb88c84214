"""`hrnet-zoo app`: what it says when it cannot start; tests/app has the page."""

import re
import socket
import subprocess
import sys

import pytest

from tests.cli.conftest import Run


def test_missing_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    run("app", code=2)
    assert "pip install '.[app]' in the checkout of hrnet-zoo" in run.err


def test_port_in_use(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio")
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # which the command sets, in its own process
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert run("app", "--port", str(port), code=2) == ""
    assert f"port {port}" in run.err
    assert "in use" in run.err


PROGRAM = """
import sys
from hrnet_zoo.app import server
server.serve = lambda page, listener: print([getattr(block, "value", "") for block in page.blocks.values()])
from hrnet_zoo.cli import main
main(sys.argv[1:])
"""


def test_a_page_for_others_says_so() -> None:
    pytest.importorskip("gradio")
    arguments = ("app", "--host", "0.0.0.0", "--port", "0", "--device", "cpu")  # noqa: S104 - not served
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], check=True, capture_output=True, text=True)  # noqa: S603
    words = "Everybody who reaches this machine over the network can use the page: it has no password."
    assert done.stderr == f"warning: listening on 0.0.0.0. {words}\n"
    assert re.match(rf"http://{re.escape(socket.gethostname())}:\d+\n", done.stdout)
    assert f"**{words}**" in done.stdout
