"""Plots as files, drawn by matplotlib (extra `plot`)."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hrnet_zoo.errors import ConfigError
from hrnet_zoo.images.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOT_FORMATS = ("png", "svg", "pdf")


def new_figure(
    path: str | os.PathLike[str], what: str, size: tuple[float, float]
) -> tuple[Figure, Callable[[], object]]:
    """Return an empty figure of matplotlib, `size` inches wide and high, and what writes it to a .png, .svg or .pdf.

    Raises:
        ConfigError: another ending, or matplotlib is not installed.

    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    asked, done = f"draw {what} as {path}", "nothing was drawn"
    if kind not in PLOT_FORMATS:
        advice = f"give a file that ends in .{', .'.join(PLOT_FORMATS)}"
        raise ConfigError(asked=asked, found=f"the ending {path.suffix!r}", done=done, advice=advice)
    try:
        from matplotlib.figure import Figure  # without pyplot there is no state to share, and no display
    except ImportError as error:
        found, advice = f"matplotlib is missing ({error})", "pip install '.[plot]' in the checkout of hrnet-zoo"
        raise ConfigError(asked=asked, found=found, done=done, advice=advice) from error
    figure = Figure(figsize=size, dpi=150, layout="constrained")

    def write() -> None:
        file = io.BytesIO()
        figure.savefig(file, format=kind)
        atomic_write(path, file.getvalue())

    return figure, write
