"""The command `finetune`, whose options are the arguments of `hrnet_zoo.finetune`."""

from __future__ import annotations

import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

import click

import hrnet_zoo
from hrnet_zoo.cli import options
from hrnet_zoo.cli.output import say, say_json
from hrnet_zoo.errors import HRNetZooError


def _parse_weights(_: click.Context, option: click.Parameter, text: str | None) -> str | list[float] | None:
    return text if text == "auto" else _parse_numbers(_, option, text)


def _parse_numbers(_: click.Context, option: click.Parameter, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(number) for number in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not numbers such as 1,1,2.5", param=option) from error


def _parse_val(_: click.Context, __: click.Parameter, text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _parse_batch(_: click.Context, option: click.Parameter, text: str | None) -> int | str | None:
    if text is None or text == "auto":
        return text
    if not text.isdecimal():
        raise click.BadParameter(f"{text!r} is neither 'auto' nor a number of images", param=option)
    return int(text)


_BY_TYPE: dict[str, dict[str, Any]] = {
    "bool": {"is_flag": True},
    "int | None": {"type": int},
    "tuple[int, int] | None": {"callback": options.parse_size, "metavar": "AxB"},
}
_BY_NAME: dict[str, dict[str, Any]] = {
    "classes": {"callback": options.parse_classes, "metavar": "NAME,NAME,..."},
    "bands": {"callback": options.parse_names, "metavar": "NAME,NAME,..."},
    **{name: {"callback": _parse_numbers, "metavar": "NUMBER,NUMBER,..."} for name in ("mean", "std")},
    "val": {"callback": _parse_val},
    "batch": {"callback": _parse_batch, "metavar": "auto|NUMBER"},
    "class_weights": {"callback": _parse_weights, "metavar": "auto|NUMBER,NUMBER,..."},
    "backbone_lr": {"metavar": "FACTOR"},
    "head_lr": {"metavar": "FACTOR"},
    "trackers": {"multiple": True, "metavar": "NAME"},
}


_PYTHON_ONLY = {"progress", "on_event", "augment", "augment_replaces"}
_FLAGS = {"trackers": "--tracker"}  # may be given several times


@cache
def _options() -> list[click.Option]:
    """Make an option of each keyword of `finetune`, from its signature and docstring."""
    keywords = {
        name: parameter
        for name, parameter in inspect.signature(hrnet_zoo.finetune).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in _PYTHON_ONLY
    }
    described = (inspect.getdoc(hrnet_zoo.finetune) or "").partition("Args:")[2].partition("Raises:")[0]
    helps = dict(re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", described, re.MULTILINE))
    options = []
    for name, parameter in keywords.items():
        text = re.sub(r"`(\w+)`", lambda match: _as_flag(match[1]) if match[1] in keywords else match[1], helps[name])
        options.append(
            click.Option(
                [_as_flag(name), name],
                default=parameter.default,
                show_default=parameter.default not in (None, False, ()),
                help=" ".join((text[0].upper() + text[1:]).replace("`", "").split()),
                **(_BY_NAME.get(name) or _BY_TYPE.get(str(parameter.annotation), {})),
            )
        )
    return options


def _as_flag(name: str) -> str:
    return _FLAGS.get(name) or "--" + name.replace("_", "-")


class _FinetuneCommand(click.Command):
    """A command that makes its options when they are needed, because that imports torch."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        declared = super().get_params(ctx)
        return [*declared[:3], *_options(), *declared[3:]]


def _as_typed(text: str) -> str:
    """Write arguments as options: --resume for resume=True, --crop 64x64 for crop=(64, 64)."""

    def option(match: re.Match[str]) -> str:
        value = match[2].strip("'()[]").replace(", ", "," if match[2].startswith("[") else "x")
        return _as_flag(match[1]) if value == "True" else f"{_as_flag(match[1])} {value}"

    names = "|".join(str(each.name) for each in _options())
    return re.sub(rf"\b({names})=('[^']*'|\[[^]]*\]|\(\d+, \d+\)|[\w.+-]*\w)", option, text)


@click.command(cls=_FinetuneCommand)
@options.name
@click.option("--data", type=click.Path(path_type=Path), required=True, help="images/, masks/ and classes.txt.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for all results.")
@options.as_json
def finetune(name: str, data: Path, out: Path, as_json: bool, **options: Any) -> None:  # noqa: ANN401
    """Train the model NAME on the classes of DATA.

    With hr18s, hr18, hr32, hr40 or hr48 as NAME, training starts from ImageNet instead of a published model.

    OUT becomes a model folder, and its path is a name: hrnet-zoo predict OUT photo.jpg

    DATA holds images/, masks/ and classes.txt, or train/ and val/ with the first two inside, or is a download of one
    of the datasets. Several GPUs: torchrun --nproc-per-node 4 -m hrnet_zoo finetune NAME --data DATA --out OUT
    """
    from hrnet_zoo.evaluation.ranks import is_first
    from hrnet_zoo.training.resume import STATE_FILE

    try:
        made = hrnet_zoo.finetune(name, data, out, **options)
    except HRNetZooError as error:
        error.asked, error.found, error.advice = map(_as_typed, (error.asked, error.found, error.advice))
        raise
    except (KeyboardInterrupt, SystemExit):
        if is_first() and (out / STATE_FILE).exists():
            say("the same command with --resume goes on", err=True)
        raise
    if not is_first():
        return
    if as_json:
        say_json({"folder": str(made.folder), "steps": made.steps, "miou": made.miou, "loss": made.loss})
    else:
        figure = "no validation images" if made.miou is None else f"mIoU {made.miou:.2f} on the validation images"
        say(f"{made.folder}: {made.steps} updates, {figure}")
