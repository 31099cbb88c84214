"""JSON read strictly: no key twice, no number that is none, every value of the type and range that is expected.

Of what `json` accepts, much is not JSON (NaN), is read differently by different readers (a key twice) or costs far more
than its size (deep nesting, long numbers).
"""

from __future__ import annotations

import json
import math
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn


class Fault(Exception):  # noqa: N818 - whoever reads a file makes an error of it
    """At `path` of the JSON ("$.classes[3].name") stands something else than may: `found`."""

    def __init__(self, path: str, found: str) -> None:
        super().__init__(path, found)
        self.path, self.found = path, found


def read(path: Path, most: int) -> bytes:
    """Read a small regular file, one byte beyond `most` at the most, or raise Fault."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # before open(), which would wait for the writer of a pipe
            raise Fault("$", "a folder, pipe or device")
        with path.open("rb") as file:
            return file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise Fault("$", f"no readable file: {getattr(error, 'strerror', None) or error}") from error


def parse(text: bytes | str, most: int) -> object:
    """Read a JSON text (UTF-8) of at most `most` bytes, or raise Fault."""
    if len(text) > most:
        raise Fault("$", f"more than {most:,} bytes")
    try:
        content: object = json.loads(
            text if isinstance(text, str) else text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_constant,
            parse_float=_finite,
            parse_int=_short,
        )
    except RecursionError:
        raise Fault("$", "JSON that nests too deep") from None
    except ValueError as error:  # no UTF-8, no JSON
        raise Fault("$", f"no JSON: {str(error)[:200]}") from None
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):  # readers differ on which of the two counts
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {shown(twice)} twice in one object")
    return table


def _constant(word: str) -> NoReturn:
    raise ValueError(f"{word}, which is no number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:20]}, which is infinite")
    return value


def _short(digits: str) -> int:
    if len(digits) > 18:  # longer ones take quadratic time
        raise ValueError("a number too long")
    return int(digits)


def as_object(value: object, path: str) -> dict[str, Any]:
    """Return an object of JSON, or raise Fault."""
    if not isinstance(value, dict):
        raise Fault(path, f"{shown(value)}, where an object is expected")
    return value


def require_keys(value: Mapping[str, Any], path: str, names: Sequence[str]) -> None:
    """Raise Fault unless the object has these keys and no others."""
    for name in names:
        if name not in value:
            raise Fault(f"{path}.{name}", "missing")
    for name in value:
        if name not in names:
            raise Fault(path, f"the unknown key {shown(name)}")


def as_text(value: object, path: str, most: int) -> str:
    """Return a text of 1 to `most` printable characters without outer blanks, or raise Fault."""
    if not isinstance(value, str):
        raise Fault(path, f"{shown(value)}, where a text is expected")
    if not 1 <= len(value) <= most or value != value.strip() or not value.isprintable():
        raise Fault(path, f"{shown(value)}, where 1 to {most} printable characters without outer blanks are expected")
    return value


def as_whole(value: object, path: str, low: int, high: int) -> int:
    """Return a whole number from `low` to `high`, or raise Fault."""
    if type(value) is not int or not low <= value <= high:  # True is an int to Python
        raise Fault(path, f"{shown(value)}, where a whole number from {low} to {high} is expected")
    return value


def as_pair(value: object, path: str, low: int, high: int) -> tuple[int, int]:
    """Return two whole numbers from `low` to `high`, or raise Fault."""
    if not isinstance(value, list) or len(value) != 2:
        raise Fault(path, f"{shown(value)}, where a list of two numbers is expected")
    first, second = (as_whole(number, f"{path}[{index}]", low, high) for index, number in enumerate(value))
    return first, second


def as_digest(value: object, path: str) -> str:
    """Return the 64 lower-case hex digits of a SHA-256, or raise Fault."""
    if not isinstance(value, str) or len(value) != 64 or not {*value} <= {*"0123456789abcdef"}:
        raise Fault(path, f"{shown(value)}, where the 64 hex digits of a SHA-256 are expected")
    return value


def require_same(value: object, path: str, known: object) -> None:
    """Raise Fault unless the value is the one that is known."""
    if value != known or type(value) is not type(known):
        raise Fault(path, f"{shown(value)}, where {shown(known)} is expected")


def shown(value: object) -> str:
    """Show any value on one short line, in ASCII."""
    return ascii(value)[:100]
