"""The command `prepare`: download -> the folder that `check-data`, `evaluate` and `finetune` read."""

from __future__ import annotations

from pathlib import Path

import click

import hrnet_zoo
from hrnet_zoo.cli import options
from hrnet_zoo.cli.output import say, say_json


@click.command()
@click.argument("dataset")
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("destination", metavar="DST", type=click.Path(path_type=Path))
@options.force
@options.as_json
def prepare(dataset: str, source: Path, destination: Path, force: bool, as_json: bool) -> None:
    """Turn a download into a folder that can be evaluated.

    Fill the folder DST from the download SRC, for check-data, evaluate and finetune.

    DATASET is loveda, potsdam, vaihingen or isaid, and SRC the folder of its zip files, or of what is in them. The last
    three are cut into the tiles that the published figures were measured on.

    Files that DST holds already are kept: an interrupted run goes on where it stopped.
    """
    report = hrnet_zoo.prepare(dataset, source, destination, force=force, progress=True)
    if as_json:
        say_json(report.to_dict())
        return
    say(*(f"{split}: {count} images" for split, count in report.images.items()))
    say(f"{report.written} files written to {report.root}", *(f"note: {note}" for note in report.notes))
    say(f"  next: hrnet-zoo check-data {report.root} --dataset {dataset}")
