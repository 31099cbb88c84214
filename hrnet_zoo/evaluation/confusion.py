"""Count matrix -> a picture of it, drawn by matplotlib (extra `plot`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hrnet_zoo.errors import printable
from hrnet_zoo.images.figure import new_figure
from hrnet_zoo.inference.metrics import Counts

NUMBERED = 30  # classes up to which cells are large enough for their figures
_LONGEST_NAME = 24  # characters; longer names are cut


def draw_confusion(path: str | Path, counts: Counts, classes: Sequence[str], title: str) -> None:
    """Draw a count matrix (K, K), rows true and columns predicted, each row as percent of its true class.

    Rows of classes that do not occur stay gray. Up to 30 classes, the cells hold their figures.

    Raises:
        ConfigError: the ending is not .png, .svg or .pdf, or matplotlib is not installed.
        OutputError: the file cannot be written.

    """
    number = len(classes)
    cell = 0.42 if number <= NUMBERED else 0.14  # inches
    figure, write = new_figure(path, "the confusion matrix", (cell * number + 3.4, cell * number + 2.4))
    from matplotlib.colors import PowerNorm

    figure.set_layout_engine("compressed")  # for axes of a fixed shape
    axes = figure.subplots()
    axes.set_facecolor("lightgray")
    true = counts.sum(axis=1, keepdims=True)
    percent = np.ma.masked_invalid(np.divide(100 * counts, true, out=np.full(counts.shape, np.nan), where=true > 0))
    # The square root lets confusions of a few percent be seen.
    image = axes.imshow(percent, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100))
    figure.colorbar(image, ax=axes, label="percent of the true class", fraction=0.04, pad=0.02)
    names = [
        name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..." for name in map(printable, classes)
    ]
    size = 9 if number <= NUMBERED else 6
    axes.set_xticks(range(number), names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(number), names, fontsize=size, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(printable(title)[:100], parse_math=False)
    for row, column in np.argwhere(percent.filled(0) >= 0.5) if number <= NUMBERED else ():
        value = percent[row, column]
        color = "white" if value > 36 else "black"
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=color)
    write()
