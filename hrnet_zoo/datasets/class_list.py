"""Read `classes.txt`: the class names of a folder, and their colors if given.

One name per line, in the order of the label values; `name #rrggbb` also sets its color. Lines that start with `#` are
comments. Unambiguous variants are accepted: `0: name` or `name: 0` (in order), a YAML or JSON list, comma-separated
names on one line, a byte order mark, invisible characters. Anything else is refused.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hrnet_zoo.datasets import Color
from hrnet_zoo.errors import ConfigError, DatasetError

_FORM = "write one name per line, in the order of the label values, as UTF-8"
MAX_CLASSES = 255  # in 8-bit labels, which keep 255 for ignored pixels

_INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\ufeff"
_NUMBERED = re.compile(r"""(?P<quote>["']?)(?P<number>\d+)(?P=quote)(?:\s*[:=,;.)]\s*|\s+)(?P<name>\S.*)""")
_NUMBER_AFTER = re.compile(r"(?P<name>[^:=,;\t]+?)\s*[:=,;\t]\s*(?P<number>\d+)")
_COLOR = re.compile(r"\s#([0-9a-fA-F]{6})$")
_RGB = re.compile(r"[,;\s]\s*\d{1,3}\s*[,;\s]\s*\d{1,3}\s*[,;\s]\s*\d{1,3}$")


@dataclass(frozen=True)
class ClassList:
    """The classes that a file lists.

    Attributes:
        file: path of the file.
        names: class names by index, all different.
        colors: RGB by class name, where the file gives a color.

    """

    file: Path
    names: tuple[str, ...]
    colors: dict[str, Color]


def read_class_list(file: Path) -> ClassList:
    """Read a class list.

    Raises:
        DatasetError: it cannot be read, has no names or one twice, or is ambiguous.

    """
    lines = [_clean(file, number, line) for number, line in enumerate(read_text(file).splitlines(), start=1)]
    entries = _entries([line for line in lines if line and not line.startswith("#")])
    entries = _unnumbered(file, [re.sub(r"\s+#\s.*$", "", entry) for entry in entries])
    if keys := [entry for entry in entries if re.match(r"(names|nc|path|train|val|test)\s*:", entry)]:
        raise _refusal(file, f"{keys[0]!r} is a setting, not a name", _FORM)
    names, colors = list[str](), dict[str, Color]()
    for entry in entries:
        found = _COLOR.search(entry)
        name = _unquoted(entry[: found.start()] if found else entry)
        if "\t" in name:
            raise _refusal(file, f"{name!r} holds a tab", _FORM)
        if _RGB.search(name):
            raise _refusal(file, f"{name!r} seems to state a color", "write colors as #rrggbb: road #804080")
        if found:
            red, green, blue = bytes.fromhex(found[1])
            colors[name] = red, green, blue
        names.append(name)
    if not names:
        raise _refusal(file, "no names", _FORM)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise _refusal(file, f"{twice!r} appears more than once", _FORM)
    if "__ignore__" in names:
        raise _refusal(file, "'__ignore__' is labelme's name for ignored pixels, not a class", "remove the line")
    if "" in names:
        raise _refusal(file, "an empty name", _FORM)
    return ClassList(file, tuple(names), colors)


def class_names(classes: int | Sequence[str], asked: str) -> tuple[str, ...]:
    """Return the names of `classes`, which are given as names or as their number.

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
            advice="name each class once; a single class needs a background class beside it",
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


def _clean(file: Path, number: int, line: str) -> str:
    """Strip blanks, invisible characters, and commas at the end."""
    line = line.strip().strip(_INVISIBLE + " \t").rstrip(",; \t")
    if bad := next((letter for letter in line if ord(letter) < 32 and letter != "\t"), None):
        raise _refusal(file, f"line {number} holds the control character {bad!r}", f"remove it; {_FORM}")
    return line


def _entries(lines: Sequence[str]) -> list[str]:
    """Split the lines into one entry per class: a YAML or JSON list, names on one line, or one name per line."""
    if lines and re.match(r"(names|classes)\s*:", lines[0]):
        rest = lines[0].partition(":")[2].strip()
        lines = [*([rest] if rest else []), *lines[1:]]
    if lines and all(line.startswith("- ") for line in lines):
        return [line[2:].strip() for line in lines]
    if lines and lines[0][0] in "[{" and lines[-1][-1] in "]}":
        lines = [",".join(lines)[1:-1]]
    if len(lines) == 1 and not _RGB.search(lines[0]):  # a single class would be useless
        return [entry.strip() for entry in lines[0].strip(", ").split(",")]
    return list(lines)


def _unnumbered(file: Path, entries: Sequence[str]) -> list[str]:
    """Remove the numbers 0, 1, 2, ... before or after the names, if all entries have one."""
    ways = ([pattern.fullmatch(entry) for entry in entries] for pattern in (_NUMBERED, _NUMBER_AFTER))
    found = next((way for way in ways if all(way)), [])
    if not found:
        return list(entries)
    numbers = [int(match["number"]) for match in found if match]
    if numbers != list(range(len(numbers))):
        place = next(index for index, number in enumerate(numbers) if number != index)
        text = f"{entries[place]!r} where the number {place} is expected"
        raise _refusal(file, text, "number the names 0, 1, 2, ... in order, or remove the numbers")
    return [match["name"] for match in found if match]


def _unquoted(name: str) -> str:
    name = name.strip()
    return name[1:-1].strip() if len(name) > 1 and name[0] == name[-1] and name[0] in "\"'" else name


def _refusal(file: Path, found: str, advice: str) -> DatasetError:
    return DatasetError(asked=f"read the class list {file}", found=found, advice=advice, path=file)
