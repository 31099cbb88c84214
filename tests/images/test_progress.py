"""Progress bars say what they count, and how long it will take."""

import io
import re
import sys

import pytest

from hrnet_zoo.images import progress
from hrnet_zoo.images.progress import Bar


@pytest.mark.parametrize(
    ("total", "unit", "words"),
    [
        (4, "image", r"predict:  50%\|.*\| 2 of 4 images, .*image/s, 00:00 left"),
        (4_000_000, "B", r"predict:   0%\|.*\| 2\.00 of 4\.00M B, .*B/s, .* left"),
        (None, "B", r"predict: 2\.00B"),
    ],
)
def test_unit_and_time_left(total: int | None, unit: str, words: str) -> None:
    shown = io.StringIO()
    with Bar(desc="predict", total=total, unit=unit, unit_scale=unit == "B", file=shown, mininterval=0) as bar:
        bar.update(2)
    assert re.search(words, shown.getvalue())


def test_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one after a minute: what is done by then prints nothing."""
    shown = io.StringIO()
    with Bar(range(4), desc="predict", unit="image", disable=None, file=shown) as bar:
        list(bar)
    assert shown.getvalue() == ""
    monkeypatch.setattr(progress, "LINE_S", 1e-9)
    with Bar(desc="predict", total=4, unit="image", disable=None, file=shown) as bar:
        bar.update(2)
        bar.update(1)
    first, second = shown.getvalue().splitlines()
    assert re.fullmatch(r"predict: 50%, 2 of 4 images, .*image/s, 00:00 left", first)
    assert second.startswith("predict: 75%, 3 of 4 images, ")
    with Bar(range(4), disable=True, file=shown) as bar:
        list(bar)
    assert len(shown.getvalue().splitlines()) == 2


@pytest.mark.parametrize("stream", [None, "closed"])
def test_without_stderr(stream: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_S", 1e-9)
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed if stream else None)
    assert list(Bar(range(3), disable=None)) == [0, 1, 2]
