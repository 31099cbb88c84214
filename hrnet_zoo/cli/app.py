"""The command `app`: a page for the browser."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hrnet_zoo.cli import options
from hrnet_zoo.cli.output import say
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.zoo.catalog import DEMO, list_models

if TYPE_CHECKING:
    from hrnet_zoo.models.base import SegmentationModel

_PRIVATE = "Nobody else can open this page."
_OPEN = "Everybody who reaches this machine over the network can use the page: it has no password."


@click.command()
@click.argument("name", default=DEMO.name, shell_complete=options.complete_name)
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0: other machines reach the page, too.")
@click.option("--port", type=click.IntRange(0, 65535), default=7860, show_default=True, help="0: any that is free.")
@options.fast
@options.device
@options.dtype
def app(name: str, host: str, port: int, fast: bool, device: str | None, dtype: str | None) -> None:
    """Open a page in the browser: the model NAME labels photos.

    NAME is as for predict, default: demo; the page also offers the models in the cache. It downloads and sends nothing,
    and removes its files when it ends. Stop it with Ctrl-C.
    """
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            asked="the page of hrnet-zoo app",
            found=f"it needs Gradio: {error}",
            done="nothing was started",
            advice="pip install '.[app]' in the checkout of hrnet-zoo",
        ) from error
    with tempfile.TemporaryDirectory(prefix="hrnet-zoo-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # of this command's own process, read by Gradio when it needs it
        from hrnet_zoo.app.page import Labeler, build_page
        from hrnet_zoo.app.server import is_loopback, listen, serve
        from hrnet_zoo.zoo.resolve import is_here

        listener = listen(host, port)  # which the server closes
        private = is_loopback(listener)
        names = [name, *(each for each in (DEMO.name, *list_models()) if each != name and is_here(each))]

        def load(each: str) -> SegmentationModel:
            return options.load_model(each, device, dtype, None, None, fast, lambda data: data.require_rgb("the page"))

        labeler = Labeler(names, load, Path(folder))
        page = build_page(labeler, f"Images stay on this machine. {_PRIVATE if private else f'**{_OPEN}**'}")
        address, port = listener.getsockname()[:2]
        if not private:
            say(f"warning: listening on {address}. {_OPEN}", err=True)
            address = socket.gethostname()
        say(f"http://{f'[{address}]' if ':' in address else address}:{port}")
        serve(page, listener)
