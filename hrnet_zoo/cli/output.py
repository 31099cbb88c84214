"""What commands print: facts for people or as JSON on stdout, errors on stderr.

Output for people quotes control characters in names; JSON escapes them itself, and keeps names exact.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

import click

from hrnet_zoo.errors import HRNetZooError, printable, redact


def say(*lines: object, err: bool = False) -> None:
    """Print lines for people, on stdout or stderr."""
    click.echo("\n".join(map(printable, lines)), err=err)


def say_facts(facts: Mapping[str, object]) -> None:
    """Print facts for people, one a line, nested ones indented."""
    say(*_fact_lines(facts, ""))


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


def say_errors(errors: Sequence[HRNetZooError]) -> None:
    """Print errors on stderr, each on its four lines."""
    for error in errors:
        click.echo(f"error: {error}", err=True)


def exit_with(errors: Sequence[HRNetZooError]) -> None:
    """Print errors, and end the command with the first one's exit code."""
    say_errors(errors)
    if errors:
        leave(errors[0].exit_code)


def leave(code: int) -> NoReturn:
    """End the command with this exit code."""
    raise click.exceptions.Exit(code)
