"""Commands that tell of the published checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hrnet_zoo.cli.options import as_json, say, say_json
from hrnet_zoo.datasets import DATASETS
from hrnet_zoo.zoo.catalog import ARCHS, DEMO, DEMO_KNOWS, is_saved, list_models, model_info

if TYPE_CHECKING:
    from hrnet_zoo.zoo.model_config import ModelConfig


@click.command("list")
@click.argument("pattern", default="*")
@click.option("--dataset", type=click.Choice(list(DATASETS)), help="Only this dataset.")
@click.option("--arch", type=click.Choice(list(ARCHS)), help="Only this network.")
@as_json
def list_(pattern: str, dataset: str | None, arch: str | None, as_json: bool) -> None:
    """List the published models.

    PATTERN is a part of their names, as cityscapes, or a pattern, as "*hr48*160k".
    """
    rows = [model_info(name) for name in list_models(pattern, dataset=dataset, arch=arch)]
    if as_json:
        say_json([row.to_dict() for row in rows])
        return
    if not rows:
        say(f"no model's name has {pattern!r} in it with these options; all: hrnet-zoo list", err=True)
        return
    say(f"{'name':<28} {'dataset':<22} {'params':>7} {'mIoU':>6} {'ms+flip':>8}")
    for row in rows:
        size = f"{row.parameters / 1e6:.1f} M"
        say(f"{row.name:<28} {row.dataset_title:<22} {size:>7} {row.miou:>6.2f} {row.miou_ms_flip:>8.2f}")


@click.command()
@click.argument("name")
@as_json
def info(name: str, as_json: bool) -> None:
    """Tell everything about one model.

    NAME is that of a published model, a model folder's path, or hf-hub:ORG/NAME.
    """
    if is_saved(name):
        from hrnet_zoo.zoo.resolve import resolve

        model = resolve(name)
        if model.config:
            _show_saved(model.config, model.name, as_json)
        return
    row = model_info(name)
    facts = {**row.to_dict(), "aliases": row.aliases, "classes": row.classes, "palette": row.palette}
    if as_json:
        say_json(facts)
        return
    del facts["palette"]
    for key, value in facts.items():
        shown = ", ".join(value) if isinstance(value, tuple) else "-" if value is None else value
        say(f"{key:<23} {shown}")
    if row is DEMO:
        say(f"{'knows':<23} {DEMO_KNOWS}")


def _show_saved(config: ModelConfig, name: str, as_json: bool) -> None:
    facts = {"name": name, **config.to_dict(), "data_sha256": config.data_sha256}
    if as_json:
        say_json(facts)
        return
    facts["classes"] = ", ".join(config.dataset.classes)
    for key, value in facts.items():
        parts = {f"{key} {part}": each for part, each in value.items()} if isinstance(value, dict) else {key: value}
        for title, shown in parts.items():
            say(f"{title:<23} {'-' if shown is None else shown}")
