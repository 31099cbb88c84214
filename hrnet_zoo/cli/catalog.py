"""The commands `list`, `info` and `log`: the published models and how they were trained."""

from __future__ import annotations

from pathlib import Path

import click

import hrnet_zoo
from hrnet_zoo.cli import options
from hrnet_zoo.cli.output import say, say_facts, say_json, say_table
from hrnet_zoo.datasets import DATASETS
from hrnet_zoo.images.atomic import check_place
from hrnet_zoo.zoo.catalog import DEMO, DEMO_KNOWS, METHODS, PUBLISHED_ARCHS, is_saved, list_models, model_info

# The lines of env_info that describe the machine and the software.
_ENVIRONMENT = ("Python", "GPU", "PyTorch:", "MMCV:", "MMSegmentation:")


@click.command("list")
@click.argument("pattern", default="*")
@click.option("--method", type=click.Choice(list(METHODS), case_sensitive=False), help="Only this head.")
@click.option("--dataset", type=click.Choice(list(DATASETS)), help="Only this dataset.")
@click.option("--arch", type=click.Choice(PUBLISHED_ARCHS), help="Only this network.")
@options.as_json
def list_(pattern: str, method: str | None, dataset: str | None, arch: str | None, as_json: bool) -> None:
    """List the published models.

    The FCN table of 2020 comes first, then all others.

    PATTERN is part of a name, such as cityscapes, or a glob pattern, such as "*hr48*160k".
    """
    rows = [model_info(name) for name in list_models(pattern, method=method, dataset=dataset, arch=arch)]
    if as_json:
        say_json([row.to_dict() for row in rows])
        return
    if not rows:
        say(f"no model's name has {pattern!r} in it with these options; all: hrnet-zoo list", err=True)
        return
    say_table(
        ("name", "dataset", "params", "mIoU", "ms+flip"),
        [
            (row.name, row.dataset.title, f"{row.parameters / 1e6:.1f} M", f"{row.miou:.2f}", f"{row.miou_ms_flip:.2f}")
            for row in rows
        ],
        text=2,
    )


@click.command()
@options.name
@options.as_json
def info(name: str, as_json: bool) -> None:
    """Show what is known of a model.

    NAME is a published model, a model folder, or hf-hub:ORG/NAME.
    """
    if is_saved(name):
        from hrnet_zoo.zoo.resolve import resolve

        model = resolve(name)
        if model.config is None:
            return
        facts = {"name": model.name, **model.config.to_dict(), "data_sha256": model.config.data_sha256}
        if not as_json:
            facts["classes"] = model.config.dataset.classes
    else:
        row = model_info(name)
        facts = {**row.to_dict(), "aliases": row.aliases, "classes": row.classes}
        if as_json:
            facts["palette"] = row.palette
        elif row is DEMO:
            facts["knows"] = DEMO_KNOWS
    (say_json if as_json else say_facts)(facts)


@click.command()
@options.name
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw loss and mIoU: .png, .svg or .pdf.")
@options.force
@options.as_json
def log(name: str, plot: Path | None, force: bool, as_json: bool) -> None:
    """Show how a model was trained.

    NAME is a published model, or a folder that `finetune` made.
    """
    if plot:
        check_place(plot, force=force)
    found = hrnet_zoo.training_log(name)
    if plot:
        found.save_plot(plot)
    if as_json:
        say_json(found.to_dict())
        return
    say(found.name)
    for line in str(found.environment.get("env_info", "")).splitlines():
        if line.startswith(_ENVIRONMENT):
            say(f"  {_short(line)}")
    facts: dict[str, object] = {key: _short(found.environment.get(key, "-")) for key in ("seed", "exp_name")}
    for key, title in (("iter", "iterations"), ("loss", "last loss")):
        facts[title] = _short((found.train.get(key) or ["-"])[-1])
    if found.best:
        facts["best mIoU"] = "{1:g} at iteration {0:g}".format(*found.best)
    say_facts(facts)
    keys = [key for key in ("iter", "mIoU", "mAcc", "aAcc") if key in found.val]
    if not keys:
        say("no validation")
        return
    rows = zip(*(found.val[key] for key in keys), strict=True)
    say_table(keys, [[_short(figure) for figure in row] for row in rows], text=0)


def _short(value: object) -> str:
    """Shorten a value of a log, which may be anything."""
    return str(value)[:100]
