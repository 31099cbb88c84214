"""The command `recommend`: which published model to take on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from hrnet_zoo.cli import options
from hrnet_zoo.cli.output import say, say_json, say_table
from hrnet_zoo.datasets import DATASETS
from hrnet_zoo.images.atomic import refuse_existing


@click.command()
@click.option("--dataset", type=click.Choice(list(DATASETS)), help="Whose published mIoU counts; default: cityscapes.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of your images, for their size.")
@click.option("--max-ms", type=float, help="Most milliseconds for an image.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Also draw mIoU against time (.png).")
@options.force
@options.device
@options.as_json
def recommend(
    dataset: str | None,
    data: Path | None,
    max_ms: float | None,
    plot: Path | None,
    force: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Time the networks here, and name the model to take.

    It is the one with the highest published mIoU that labels an image within --max-ms. Nothing is downloaded.
    """
    from hrnet_zoo.evaluation.recommend import recommend

    if plot and not force:
        refuse_existing([plot])
    found = recommend(dataset, data=data, max_ms=max_ms, device=device, progress=True)
    if plot:
        found.save_plot(plot)
    if as_json:
        say_json(found.to_dict())
        return
    say(
        f"{found.dataset}, images of {found.height} x {found.width} pixels",
        f"{found.machine.device_name}, {found.machine.threads} threads, {found.form}",
    )
    say_table(
        ("model", "parameters", "mIoU", "image to mask", ""),
        [
            (
                each.name,
                f"{each.parameters / 1e6:.1f} M",
                f"{each.miou:.2f}",
                f"{each.milliseconds:,.0f} ms",
                "" if each.best else "slower, no gain",
            )
            for each in found.choices
        ],
    )
    if found.name:
        use = f"finetune {found.name} --data {data} --out runs/a" if data else f"predict {found.name} IMAGES"
        say(f"take {found.name}", f"next: hrnet-zoo {use}")
    else:
        fastest = found.choices[0].milliseconds
        say(f"no network keeps to {max_ms:g} ms: the fastest takes {fastest:,.0f}; smaller images take less time")
