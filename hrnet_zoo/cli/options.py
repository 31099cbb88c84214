"""Shared options, and the model that they describe."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

import hrnet_zoo
from hrnet_zoo.cli.output import say

if TYPE_CHECKING:
    from hrnet_zoo.datasets import Dataset
    from hrnet_zoo.engines.optimize import OptimizedModel
    from hrnet_zoo.models.fcn import FCNHRNet


def _parse_bytes(_: click.Context, option: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG]?)B?", text, re.IGNORECASE)
    number = int(float(match[1]) * {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}[match[2].lower()]) if match else 0
    if not number:
        raise click.BadParameter(f"{text!r} is not a number of bytes, such as 500MB or 2GB", param=option)
    return number


def parse_classes(_: click.Context, __: click.Parameter, text: str | None) -> int | list[str] | None:
    """Return the value of --classes: a number, or comma-separated names."""
    if text is None or text.strip().isdecimal():
        return int(text) if text else None
    return [name.strip() for name in text.split(",")]


def parse_names(_: click.Context, __: click.Parameter, text: str | None) -> list[str] | None:
    """Return comma-separated names."""
    return None if text is None else [name.strip() for name in text.split(",")]


def parse_choice(_: click.Context, option: click.Parameter, text: str | None) -> dict[str, list[str]] | None:
    """Return the value of --only, "green=vegetation+terrain,road": class names by group."""
    if text is None:
        return None
    groups: dict[str, list[str]] = {}
    for part in text.split(","):
        title, equals, members = (each.strip() for each in part.partition("="))
        names = [name.strip() for name in members.split("+")] if equals else [title]
        if not title or not all(names):
            raise click.BadParameter(f"{text!r} has an empty name; write green=vegetation+terrain,road", param=option)
        if title in groups:
            raise click.BadParameter(f"{title!r} appears more than once", param=option)
        groups[title] = names
    return groups


def parse_size(_: click.Context, option: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Return two sides in pixels, given as 512x1024."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text, re.IGNORECASE)
    if not match:
        raise click.BadParameter(f"{text!r} is not two sides in pixels, such as 512x1024", param=option)
    return int(match[1]), int(match[2])


def complete_name(_: click.Context, __: click.Parameter, text: str) -> list[CompletionItem]:
    """Complete a model's name; what begins as none of them may be a folder."""
    names = [name for name in ("demo", *hrnet_zoo.list_models()) if name.startswith(text)]
    return [CompletionItem(name) for name in names] or [CompletionItem(text, type="dir")]


name = click.argument("name", shell_complete=complete_name)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
force = click.option("--force", is_flag=True, help="Overwrite existing files.")
classes = click.option("--classes", callback=parse_classes, help="Names (A,B,...) or number of custom classes.")
checkpoint = click.option("--checkpoint", help="Path or address of a .pth or .safetensors to load instead of NAME's.")
ms_flip = click.option("--ms-flip", is_flag=True, help="Six scales, each also mirrored: about 17 times slower.")
max_memory = click.option(
    "--max-memory",
    callback=_parse_bytes,
    metavar="BYTES",
    help="Memory limit for full-resolution logits, e.g. 500MB; default: whatever is fastest.",
)
fast = click.option("--fast", is_flag=True, help="Use the optimized network: several times faster, rounds differently.")
device = click.option("--device", help='E.g. "cpu" or "cuda:1"; default: CUDA if available.')
dtypes = click.Choice(["float16", "bfloat16", "float32"])
dtype = click.option("--dtype", type=dtypes, help="Precision of the arithmetic.")
fast_dtypes = click.Choice([*dtypes.choices, "int8"])


def load_model(
    name: str,
    device: str | None,
    dtype: str | None,
    checkpoint: str | None,
    classes: int | list[str] | None,
    fast: bool,
    check: Callable[[Dataset], object] = lambda dataset: None,
) -> FCNHRNet | OptimizedModel:
    """Create the model that a command's options describe; if `fast`, from float32 weights that are rounded once.

    `check` raises what is wrong with further options, before the model is optimized.
    """
    if dtype == "int8" and not fast:
        raise click.UsageError("--dtype int8 is for the optimized network: add --fast")
    precision = "float32" if fast else dtype
    model = hrnet_zoo.create_model(name, checkpoint=checkpoint, classes=classes, device=device, dtype=precision)
    check(model.dataset)
    if not fast:
        return model
    import torch

    form = hrnet_zoo.optimize(model, dtype=getattr(torch, dtype) if dtype else None)
    if form.trials:
        took = f"{form.engine} {form.precision}"
        say(f"fast: {took}, of {', '.join(map(str, form.trials))} for 256 x 512 pixels", err=True)
    return form
