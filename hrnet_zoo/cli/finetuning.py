"""The command that teaches a network new classes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from hrnet_zoo.cli.options import as_json, say, say_json
from hrnet_zoo.errors import HRNetZooError


def _sides(_: click.Context, option: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Read two numbers of pixels, such as 512x1024."""
    if text is None:
        return None
    first, cross, second = text.partition("x")
    if not (cross and first.isdecimal() and second.isdecimal()):
        raise click.BadParameter(f"{text!r} is no pair of sides, such as 512x1024", param=option)
    return int(first), int(second)


def _weights(_: click.Context, option: click.Parameter, text: str | None) -> str | list[float] | None:
    """Read "auto", or numbers with commas between them."""
    if text is None or text == "auto":
        return text
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is neither 'auto' nor numbers such as 1,1,2.5", param=option) from error


def _val(_: click.Context, __: click.Parameter, text: str | None) -> float | str | None:
    """Read a share such as 0.2, or a path."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _as_options(text: str) -> str:
    """Say arguments as they are typed: --resume for resume=True, --crop 64x64 for crop=(64, 64)."""
    names = [each.name for each in click.get_current_context().command.params if isinstance(each, click.Option)]

    def option(match: re.Match[str]) -> str:
        name, value = match[1].replace("_", "-"), match[2].strip("'()").replace(", ", "x")
        return f"--{name}" if value == "True" else f"--{name} {value}"

    return re.sub(rf"\b({'|'.join(map(str, names))})=('[^']*'|\(\d+, \d+\)|[\w.+-]*\w)", option, text)


@click.command()
@click.argument("name")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="images/, masks/ and classes.txt.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for everything that is made.")
@click.option("--classes", help="Comma-separated names by index of your own classes, where no classes.txt says them.")
@click.option("--val", callback=_val, help="Share to validate on (0: none), a file of names, or a folder.")
@click.option("--epochs", type=int, help="How often each image is seen; default: 50.")
@click.option("--steps", type=int, help="Updates of the weights, in place of --epochs.")
@click.option("--batch", type=int, help="Images of one update, over all processes.")
@click.option("--accumulate", type=int, default=1, help="Parts to compute a batch in, to save memory.")
@click.option("--crop", callback=_sides, metavar="HxW", help="What the network sees of an image, in pixels.")
@click.option("--resize-to", callback=_sides, metavar="LONGxSHORT", help="Resize images to fit, also later in predict.")
@click.option("--lr", type=float, default=0.01, show_default=True, help="Highest learning rate.")
@click.option(
    "--backbone-lr", type=float, default=1.0, metavar="FACTOR", help="Factor on --lr for the backbone; 0.1: a tenth."
)
@click.option("--head-lr", type=float, default=1.0, metavar="FACTOR", help="Factor on --lr for the head.")
@click.option("--weight-decay", type=float, default=5e-4, show_default=True, help="Of all parameters.")
@click.option("--warmup", type=int, default=0, help="Updates in which the learning rate rises.")
@click.option("--freeze", type=click.Choice(["backbone"]), help="Only the head learns.")
@click.option("--loss", default="cross_entropy", help="cross_entropy, ohem, dice or lovasz.")
@click.option("--class-weights", callback=_weights, help="'auto', or comma-separated numbers by index.")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Of the arithmetic.")
@click.option("--ema", type=float, default=0.0, help="Keep a running average of the weights, such as 0.999.")
@click.option("--gradient-checkpointing", is_flag=True, help="Less memory, about a third slower.")
@click.option("--patience", type=int, help="Stop after so many validations without a gain.")
@click.option("--validate-every", type=int, help="Updates; default: an epoch.")
@click.option("--save-every", type=int, help="Updates; default: at each validation.")
@click.option("--seed", type=int, default=0, help="Of everything random.")
@click.option("--workers", type=int, help="Processes that read ahead; default: half the processors.")
@click.option("--device", help='Such as "cpu" or "cuda:1"; default: CUDA if there is one.')
@click.option("--resume", is_flag=True, help="Go on where OUT stands, with the same arguments.")
@click.option("--tensorboard", is_flag=True, help="Also write events for TensorBoard.")
@as_json
def finetune(name: str, data: Path, out: Path, classes: str | None, as_json: bool, **options: Any) -> None:  # noqa: ANN401
    """Teach the model NAME the classes of DATA.

    OUT becomes a model folder, and its path is a name: hrnet-zoo predict OUT photo.jpg

    DATA holds images/, masks/ and classes.txt, or train/ and val/ with the first two inside, or is a download of one
    of the four datasets. Several GPUs: accelerate launch -m hrnet_zoo finetune NAME --data DATA --out OUT
    """
    from hrnet_zoo.evaluation.ranks import is_first
    from hrnet_zoo.training.finetune import finetune
    from hrnet_zoo.training.run import STATE_FILE

    names = [each.strip() for each in classes.split(",")] if classes else None
    try:
        made = finetune(name, data, out, classes=names, **options)
    except HRNetZooError as error:
        error.asked, error.found, error.advice = map(_as_options, (error.asked, error.found, error.advice))
        raise
    except (KeyboardInterrupt, SystemExit):
        if is_first() and (out / STATE_FILE).exists():
            say("the same command with --resume goes on", err=True)
        raise
    if not is_first():
        return
    facts = {"folder": str(made.folder), "steps": made.steps, "miou": made.miou, "loss": made.loss}
    if as_json:
        say_json(facts)
    else:
        figure = "no validation images" if made.miou is None else f"mIoU {made.miou:.2f} on the validation images"
        say(f'{made.folder}: {made.steps} updates, {figure}; create_model("local-dir:{made.folder}")')
