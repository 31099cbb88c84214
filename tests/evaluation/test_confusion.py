"""The picture of a count matrix."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrnet_zoo.errors import ConfigError, OutputError
from hrnet_zoo.evaluation.confusion import draw_confusion

colormaps = pytest.importorskip("matplotlib").colormaps

COUNTS = np.array([[9, 1, 0], [2, 2, 0], [0, 0, 0]], np.int64)


def test_rows_are_percent_of_the_true_class(tmp_path: Path) -> None:
    draw_confusion(tmp_path / "a.svg", COUNTS, ("a$b", "crack\n", "tree" * 20), "net")
    draw_confusion(tmp_path / "a.png", COUNTS, ("a$b", "crack\n", "tree" * 20), "net")
    assert (tmp_path / "a.svg").read_bytes().startswith(b"<?xml")
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    cell = (pixels == 211).all(axis=2).sum() / 3  # lightgray: no pixel is of the third class
    assert 50**2 < cell < 100**2
    for percent, cells in ((0, 2), (10, 1), (50, 2), (90, 1)):  # of which the figures take a little
        shown = [255 * channel for channel in colormaps["Blues"]((percent / 100) ** 0.5)[:3]]
        assert 0.75 < (abs(pixels - shown).max(axis=2) < 3).sum() / cell / cells < 1.1, percent


def test_150_classes(tmp_path: Path) -> None:
    draw_confusion(tmp_path / "a.png", np.eye(150, dtype=np.int64), [f"class {i}" for i in range(150)], "net")
    with Image.open(tmp_path / "a.png") as image:
        assert 2000 < image.size[0] < 5000


def test_where_it_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.png, \.svg, \.pdf"):
        draw_confusion(tmp_path / "a.gif", COUNTS, "abc", "net")
    with pytest.raises(OutputError, match="absent"):
        draw_confusion(tmp_path / "absent" / "a.png", COUNTS, "abc", "net")
