"""The command `check-data`: folder of labeled images -> what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import click

import hrnet_zoo
from hrnet_zoo.cli import options
from hrnet_zoo.cli.output import leave, say, say_json, say_table
from hrnet_zoo.datasets import DATASETS
from hrnet_zoo.errors import DatasetError


@click.command("check-data")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--dataset", type=click.Choice(list(DATASETS)), help="Expected dataset; default: the recognized one.")
@options.classes
@click.option("--bands", callback=options.parse_names, help="Of other images than 8-bit RGB: red,green,blue,nir.")
@click.option("--split", default="val", show_default=True, help="Split to check.")
@options.as_json
def check_data(
    folder: Path,
    dataset: str | None,
    classes: int | list[str] | None,
    bands: list[str] | None,
    split: str,
    as_json: bool,
) -> None:
    """Check a FOLDER of labeled images.

    List everything that is wrong with it, and how often each class occurs.

    FOLDER holds an official download of one of the datasets, or images/ and masks/ (and classes.txt with one name
    per line; in an official download it makes the dataset custom).
    The exit code is 5 if there are errors; notes alone are fine.
    """
    report = hrnet_zoo.check_data(
        folder, dataset=dataset, classes=classes, bands=bands or (), split=split, progress=True
    )
    if as_json:
        say_json(report.to_dict())
    else:
        say(
            f"{report.title}{report.split and ', '}{report.split} in {report.root}",
            f"{report.pairs} images with masks, {report.pixels:,} pixels",
            f"labels: {report.rule}",
        )
        rows = [(each.name, f"{each.pixels:,}", f"{each.share:.2%}", str(each.images)) for each in report.classes]
        say_table(("class", "pixels", "share", "images"), [*rows, ("(ignored)", "", f"{report.ignored:.2%}", "")])
        for problem in report.problems:
            kind = "error" if problem.error else "note"
            say(f"{kind}: {problem.kind}: {problem.found}", f"  next: {problem.advice}")
        if report.ok:
            say("no errors")
    if not report.ok:
        leave(DatasetError.exit_code)
