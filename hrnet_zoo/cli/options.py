"""What several commands share: options, the model that they make, and the one way to print.

Names of files and classes are quoted in whatever is printed for people; JSON escapes them itself, and keeps them exact.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NoReturn

import click

from hrnet_zoo.errors import HRNetZooError, printable, redact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hrnet_zoo.engines.optimize import OptimizedModel
    from hrnet_zoo.models.fcn import FCNHRNet


def say(*lines: object, err: bool = False) -> None:
    """Print lines for people, on stdout or stderr."""
    click.echo("\n".join(map(printable, lines)), err=err)


def say_json(facts: object) -> None:
    """Print facts for programs."""
    click.echo(json.dumps(_redacted(facts), indent=1, allow_nan=False))


def _redacted(facts: object) -> object:
    """Blank what is secret in all texts."""
    if isinstance(facts, dict):
        return {redact(str(key)): _redacted(value) for key, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [_redacted(value) for value in facts]
    return redact(facts) if isinstance(facts, str) else facts


def say_errors(errors: Sequence[HRNetZooError]) -> None:
    """Print errors, which quote themselves."""
    for error in errors:
        click.echo(f"error: {error}", err=True)


def leave(code: int) -> NoReturn:
    """End the command with this exit code."""
    raise click.exceptions.Exit(code)


def _bytes(_: click.Context, option: click.Parameter, text: str | None) -> int | None:
    """Read a number of bytes, such as 500MB or 2GB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG]?)B?", text or "", re.IGNORECASE)
    if text is not None and not match:
        raise click.BadParameter(f"{text!r} is no number of bytes, such as 500MB or 2GB", param=option)
    number = int(float(match[1]) * {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}[match[2].lower()]) if match else None
    if number == 0:
        raise click.BadParameter("that is not a byte", param=option)
    return number


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
max_memory_option = click.option(
    "--max-memory",
    callback=_bytes,
    metavar="BYTES",
    help="For scores at full size, as 500MB; default: what is fastest.",
)


force_option = click.option("--force", is_flag=True, help="Overwrite what is there.")
device_option = click.option("--device", help='Such as "cpu" or "cuda:1"; default: CUDA if there is one.')
dtypes = click.Choice(["float16", "bfloat16", "float32"])


def model_options(command: click.decorators.FC) -> click.decorators.FC:
    """Options of every command that computes."""
    return device_option(click.option("--dtype", type=dtypes, help="Of the arithmetic.")(command))


def parse_classes(text: str | None) -> int | list[str] | None:
    """Read --classes: a number, or names with commas between them."""
    if text is None or text.strip().isdecimal():
        return int(text) if text else None
    return [name.strip() for name in text.split(",")]


fast_option = click.option(
    "--fast", is_flag=True, help="Let the optimized network compute: several times faster, rounds differently."
)


def load_model(
    name: str,
    device: str | None,
    dtype: str | None,
    checkpoint: str | None = None,
    classes: int | list[str] | None = None,
) -> FCNHRNet:
    """Create the model that a command's options describe."""
    from hrnet_zoo.zoo.create import create_model

    return create_model(
        name,
        checkpoint=checkpoint,
        classes=classes,
        device=device,
        dtype=dtype,
    )


def load_optimized(
    name: str,
    device: str | None,
    dtype: str | None,
    checkpoint: str | None = None,
    classes: int | list[str] | None = None,
) -> OptimizedModel:
    """Create what --fast lets compute: of float32 weights, which are rounded once, and in the dtype of `optimize`."""
    import torch

    from hrnet_zoo.engines.optimize import optimize

    model = load_model(name, device, "float32", checkpoint, classes)
    return optimize(model, dtype=getattr(torch, dtype) if dtype else None)
