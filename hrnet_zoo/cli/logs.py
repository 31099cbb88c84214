"""The command that shows how a published checkpoint was trained."""

from __future__ import annotations

from pathlib import Path

import click

from hrnet_zoo.cli.options import as_json, force_option, say, say_json
from hrnet_zoo.images.atomic import check_place

# Of env_info's many lines, those that tell what the training ran on.
SHOWN = ("Python", "GPU", "PyTorch:", "MMCV:", "MMSegmentation:")


@click.command()
@click.argument("name")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw loss and mIoU: .png, .svg or .pdf.")
@force_option
@as_json
def log(name: str, plot: Path | None, force: bool, as_json: bool) -> None:
    """Show how the model NAME was trained.

    NAME is that of a published model, or a folder that `finetune` made.
    """
    from hrnet_zoo.zoo.training_log import training_log

    if plot:
        check_place(plot, force=force)
    found = training_log(name)
    if plot:
        found.save_plot(plot)
    if as_json:
        say_json(found.to_dict())
        return
    say(found.name)
    for line in str(found.environment.get("env_info", "")).splitlines():
        if line.startswith(SHOWN):
            say(f"  {_short(line)}")
    for key in ("seed", "exp_name"):
        if key in found.environment:
            say(f"  {key}: {_short(found.environment[key])}")
    for key, title in (("iter", "iterations"), ("loss", "last loss")):
        say(f"{title:<11} {_short((found.train.get(key) or ['-'])[-1])}")
    if found.best:
        say("{:<11} {:g} at iteration {:g}".format("best mIoU", found.best[1], found.best[0]))
    keys = [key for key in ("iter", "mIoU", "mAcc", "aAcc") if key in found.val]
    say("".join(f"{key:>10}" for key in keys) or "no validation")
    for row in zip(*(found.val[key] for key in keys), strict=True):
        say("".join(f" {_short(figure):>9}" for figure in row))
    if plot:
        say(f"plot: {plot}")


def _short(value: object) -> str:
    """Shorten a text from a log, which may hold anything."""
    return str(value)[:100]
