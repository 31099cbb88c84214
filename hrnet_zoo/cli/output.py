"""What commands print: facts for people or as JSON on stdout, errors on stderr.

Output for people quotes control characters in names; JSON escapes them itself, and keeps names exact.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

import click

from hrnet_zoo.errors import HRNetZooError, printable, redact


def colors() -> bool | None:
    """Return what click takes as `color`: None for colors on a terminal, False if NO_COLOR is set (no-color.org)."""
    return False if os.environ.get("NO_COLOR") else None


def say(*lines: object, err: bool = False) -> None:
    """Print lines for people, on stdout or stderr."""
    click.echo("\n".join(map(printable, lines)), err=err)


def say_table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, text: int = 1) -> None:
    """Print rows in aligned columns under bold titles: so many of text, to the left, and then numbers, to the right.

    On a terminal that is too narrow, the first column is cut.
    """
    cells = [[printable(cell) for cell in row] for row in (titles, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - sum(widths[1:]) - 2 * len(widths[1:])
        widths[0] = max(8, min(widths[0], room))
    for number, row in enumerate(cells):
        if len(row[0]) > widths[0]:
            row[0] = f"{row[0][: widths[0] - 3]}..."
        aligned = (
            cell.ljust(width) if column < text else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        line = "  ".join(aligned).rstrip()
        click.echo(click.style(line, bold=True) if number == 0 else line, color=colors())


def say_facts(facts: Mapping[str, object]) -> None:
    """Print facts for people, one a line, nested ones indented; on a terminal, long ones are wrapped."""
    lines = list(map(printable, _fact_lines(facts, "")))
    if sys.stdout.isatty():
        lines = [part for line in lines for part in _wrapped(line)]
    click.echo("\n".join(lines))


def _wrapped(line: str) -> list[str]:
    """Wrap a fact under its value; a word that is too long, as an address, stays on its line."""
    columns = max(shutil.get_terminal_size().columns, 24 + max(map(len, line.split())))
    return textwrap.wrap(line, columns, subsequent_indent=" " * 24, break_long_words=False, break_on_hyphens=False)


def _fact_lines(facts: Mapping[str, object], indent: str) -> Iterator[str]:
    for key, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}"
            yield from _fact_lines(value, indent + "  ")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            yield f"{indent}{key}"
            for each in value:
                yield f"{indent}  " + ", ".join(f"{name} {_shown(name, fact)}" for name, fact in each.items())
        else:
            yield f"{indent + key:<23} {_shown(key, value)}"


def _shown(key: str, value: object) -> str:
    if value is None or value in ({}, [], ()):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and key.endswith(("bytes", "memory")):
        return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def say_json(facts: object) -> None:
    """Print facts as JSON, with secrets blanked."""
    click.echo(json.dumps(_redacted(facts), indent=1, allow_nan=False))


def _redacted(facts: object) -> object:
    if isinstance(facts, dict):
        return {redact(str(key)): _redacted(value) for key, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [_redacted(value) for value in facts]
    return redact(facts) if isinstance(facts, str) else facts


def two_lines(cause: str, advice: str) -> str:
    """Return an error as people see it: a line for the cause, and one for what to do next."""
    title, step = click.style("error:", fg="red", bold=True), click.style("next:", bold=True)
    return f"{title} {printable(cause)}\n  {step} {printable(advice)}"


def error_lines(error: HRNetZooError) -> str:
    """Return one of our errors on two lines."""
    return two_lines(f"{error.asked}: {error.found}{error.done and f' ({error.done})'}", error.advice)


def say_errors(errors: Sequence[HRNetZooError]) -> None:
    """Print errors on stderr, each on two lines."""
    for error in errors:
        click.echo(error_lines(error), err=True, color=colors())


def exit_with(errors: Sequence[HRNetZooError]) -> None:
    """Print errors, and end the command with the first one's exit code."""
    say_errors(errors)
    if errors:
        leave(errors[0].exit_code)


def leave(code: int) -> NoReturn:
    """End the command with this exit code."""
    raise click.exceptions.Exit(code)
