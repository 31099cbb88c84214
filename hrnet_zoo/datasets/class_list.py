"""Read `classes.txt`: the class names of a folder, and their colors if given.

One name per line, in the order of the label values, as `name` or `0: name`; `name #rrggbb` also sets its color. `#`
starts a comment. Other formats are refused, so that no syntax is taken for a class name.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hrnet_zoo.datasets.dataset import Color
from hrnet_zoo.errors import ConfigError, DatasetError

MAX_CLASSES = 255  # in 8-bit labels, which keep 255 for ignored pixels

_FORM = "write one name per line, in the order of the label values, as UTF-8; colors as #rrggbb: road #804080"
_INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\ufeff"
_NUMBERED = re.compile(r"(\d+)(?:\s*[:=,;.)]\s*|\s+)(\S.*)")
_COLOR = re.compile(r"\s#([0-9a-fA-F]{6})$")
_OTHER_FORMAT = re.compile(
    r"""
    [-\[{"'].*                                         # YAML or JSON
    | (names|classes|nc|path|train|val|test)\s*:.*     # a key of a YAML file
    | .*[:=,;\t]\s*\d+ | .*\d\s+\d+\s+\d+             # a number after the name; a color as three numbers
    | .*[\0-\x1f].*                                   # a control character
    | __ignore__                                      # labelme's name for ignored pixels
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class ClassList:
    """The classes that a file lists."""

    names: tuple[str, ...]  # by index, all different
    colors: dict[str, Color]  # RGB by class name, where the file gives a color


def read_class_list(file: Path) -> ClassList:
    """Read a class list.

    Raises:
        DatasetError: it cannot be read, has no names or one twice, or seems to be in another format.

    """
    return parse_class_list(read_text(file), file)


def parse_class_list(text: str, file: Path) -> ClassList:
    """Read the content of a class list; see `read_class_list`."""
    lines = [line.strip(_INVISIBLE + " \t,;") for line in text.splitlines()]
    lines = [re.sub(r"\s+#\s.*$", "", line) for line in lines if line and not line.startswith("#")]
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if all(numbered):
        for index, match in enumerate(numbered):
            if match and int(match[1]) != index:
                raise _refusal(file, f"{match[0]!r} where the number {index} is expected")
        lines = [match[2] for match in numbered if match]
    names, colors = list[str](), dict[str, Color]()
    for line in lines:
        found = _COLOR.search(line)
        name = line[: found.start()].strip() if found else line
        if _OTHER_FORMAT.fullmatch(name):
            raise _refusal(file, f"{name!r} is not a class name")
        if name in names:
            raise _refusal(file, f"{name!r} appears more than once")
        if found:
            red, green, blue = bytes.fromhex(found[1])
            colors[name] = red, green, blue
        names.append(name)
    if not names or (len(names) == 1 and "," in names[0]):
        raise _refusal(file, "no names" if not names else f"one line, {names[0]!r}")
    return ClassList(tuple(names), colors)


def class_names(classes: int | Sequence[str], asked: str) -> tuple[str, ...]:
    """Return class names, given as such or by their number.

    Raises:
        ConfigError: they are not 2 to 255 different names.

    """
    if isinstance(classes, int):
        names = [f"class {index}" for index in range(min(classes, MAX_CLASSES + 1))]
    else:
        names = [] if isinstance(classes, str) else list(classes)
    valid = all(isinstance(name, str) and name.strip() for name in names) and len(set(names)) == len(names)
    if not valid or not 2 <= len(names) <= MAX_CLASSES:
        raise ConfigError(
            asked=f"{asked} classes={classes!r:.100}",
            found=f"classes must be 2 to {MAX_CLASSES} different names, or their number",
            done="no image was opened",
            advice="name each class once; if there is only one, add a background class",
        )
    return tuple(names)


def read_text(file: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a byte order mark, as Notepad may write it.

    Raises:
        DatasetError: it cannot be read or decoded.

    """
    try:
        data = file.read_bytes()
        utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if utf_16 else "utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the path
        found = error.strerror if isinstance(error, OSError) else f"not UTF-8 ({error})"
        advice = "check its name and permissions, and save it as UTF-8"
        raise DatasetError(asked=f"read {file}", found=found or str(error), advice=advice, path=file) from error


def _refusal(file: Path, found: str) -> DatasetError:
    return DatasetError(asked=f"read the class list {file}", found=found, advice=_FORM, path=file)
