"""Options, output and model loading that several commands share.

Output for people quotes control characters in names; JSON escapes them itself, and keeps names exact.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from hrnet_zoo.errors import HRNetZooError, printable, redact

if TYPE_CHECKING:
    from hrnet_zoo.engines.optimize import OptimizedModel
    from hrnet_zoo.models.fcn import FCNHRNet


def say(*lines: object, err: bool = False) -> None:
    """Print lines for people, on stdout or stderr."""
    click.echo("\n".join(map(printable, lines)), err=err)


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
    """Print errors on stderr, on the four lines that each consists of."""
    for error in errors:
        click.echo(f"error: {error}", err=True)


def leave(code: int) -> NoReturn:
    """End the command with this exit code."""
    raise click.exceptions.Exit(code)


def _bytes(_: click.Context, option: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG]?)B?", text, re.IGNORECASE)
    number = int(float(match[1]) * {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}[match[2].lower()]) if match else 0
    if not number:
        raise click.BadParameter(f"{text!r} is not a number of bytes, such as 500MB or 2GB", param=option)
    return number


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
max_memory_option = click.option(
    "--max-memory",
    callback=_bytes,
    metavar="BYTES",
    help="Memory limit for full-resolution logits, e.g. 500MB; default: whatever is fastest.",
)
force_option = click.option("--force", is_flag=True, help="Overwrite existing files.")
fast_option = click.option(
    "--fast", is_flag=True, help="Use the optimized network: several times faster, rounds differently."
)
device_option = click.option("--device", help='E.g. "cpu" or "cuda:1"; default: CUDA if available.')
dtypes = click.Choice(["float16", "bfloat16", "float32"])


def model_options(command: click.decorators.FC) -> click.decorators.FC:
    """Add --device and --dtype to a command."""
    return device_option(click.option("--dtype", type=dtypes, help="Precision of the arithmetic.")(command))


def parse_classes(text: str | None) -> int | list[str] | None:
    """Return the value of --classes: a number, or comma-separated names."""
    if text is None or text.strip().isdecimal():
        return int(text) if text else None
    return [name.strip() for name in text.split(",")]


def load_model(
    name: str,
    device: str | None,
    dtype: str | None,
    checkpoint: str | None = None,
    classes: int | list[str] | None = None,
) -> FCNHRNet:
    """Create the model that a command's options describe."""
    from hrnet_zoo.zoo.create import create_model

    return create_model(name, checkpoint=checkpoint, classes=classes, device=device, dtype=dtype)


def load_optimized(
    name: str,
    device: str | None,
    dtype: str | None,
    checkpoint: str | None = None,
    classes: int | list[str] | None = None,
) -> OptimizedModel:
    """Create the model for --fast: float32 weights, rounded once to the dtype of `optimize`."""
    import torch

    from hrnet_zoo.engines.optimize import optimize

    model = load_model(name, device, "float32", checkpoint, classes)
    return optimize(model, dtype=getattr(torch, dtype) if dtype else None)
