"""Progress bars say what they count, and how long it will take."""

import io
import re

import pytest

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
