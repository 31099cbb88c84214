"""The command `prepare`: download or export -> the folder that `check-data`, `evaluate` and `finetune` read."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

import hrnet_zoo
from hrnet_zoo.cli import options
from hrnet_zoo.cli.output import say, say_json
from hrnet_zoo.datasets import DATASETS


@click.command()
@click.argument("dataset", metavar="FORMAT")
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("destination", metavar="DST", type=click.Path(path_type=Path))
@click.option("--classes", callback=options.parse_classes, help="Names (A,B,...) in the order of the mask values.")
@click.option("--empty", type=click.Choice(["background", "ignore"]), help="What pixels without a label become.")
@options.force
@options.as_json
def prepare(
    dataset: str,
    source: Path,
    destination: Path,
    classes: int | list[str] | None,
    empty: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Convert a download, or labels of a tool, to train on.

    Fill the folder DST from SRC, for check-data, evaluate and finetune.

    FORMAT of an export of a labeling tool, with its images: coco, labelme, cvat (for images 1.1), label-studio (JSON),
    color-masks (with labelmap.txt, classes.csv or classes.txt), binary-masks (black and white; --classes names the
    white). SRC is a folder or a zip file.

    FORMAT of a dataset: loveda, potsdam, vaihingen or isaid, and SRC the folder of its zip files, or of what is in
    them. The last three are cut into the tiles that the published figures were measured on.

    Files that DST holds already are kept: an interrupted run goes on where it stopped. After a new export of changed
    labels, use --force.
    """
    if isinstance(classes, int):
        raise click.UsageError("--classes takes names here: background,road")
    report = hrnet_zoo.prepare(dataset, source, destination, classes=classes, empty=empty, force=force, progress=True)
    if as_json:
        say_json(report.to_dict())
        return
    say(*(f"{split}{': ' * bool(split)}{count} images" for split, count in report.images.items()))
    say(f"{report.written} files written to {report.root}", *(f"note: {note}" for note in report.notes))
    known = ["--dataset", dataset] if dataset in DATASETS else []
    say(f"  next: {shlex.join(['hrnet-zoo', 'check-data', str(report.root), *known])}")
