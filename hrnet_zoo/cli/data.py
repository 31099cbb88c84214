"""The command `check-data`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hrnet_zoo.cli.options import as_json, leave, parse_classes, say, say_json
from hrnet_zoo.datasets import DATASETS
from hrnet_zoo.errors import DatasetError

if TYPE_CHECKING:
    from hrnet_zoo.datasets.check import DataReport

_SHOWN = 5  # files of each problem


@click.command("check-data")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--dataset", type=click.Choice(list(DATASETS)), help="Expected dataset; default: the recognized one.")
@click.option("--classes", help="Comma-separated names, or number, of the classes of a custom dataset.")
@click.option("--split", default="val", show_default=True, help="Split to check.")
@as_json
def check_data(folder: Path, dataset: str | None, classes: str | None, split: str, as_json: bool) -> None:
    """Check a FOLDER of labeled images.

    List everything that is wrong with it, and how often each class occurs.

    FOLDER holds an official download of one of the four datasets, or images/ and masks/ (and classes.txt with one name
    per line; in an official download it makes the dataset custom).
    The exit code is 5 if there are errors; notes alone are fine.
    """
    from hrnet_zoo.datasets import check

    report = check.check_data(folder, dataset=dataset, classes=parse_classes(classes), split=split, progress=True)
    if as_json:
        say_json(report.to_dict())
    else:
        say(*_lines(report))
    if not report.ok:
        leave(DatasetError.exit_code)


def _lines(report: DataReport) -> list[str]:
    split = f", {report.split}" if report.split else ""
    lines = [
        f"{report.title}{split} in {report.root}",
        f"{report.pairs} images with masks, {report.pixels:,} pixels",
        f"labels: {report.rule}",
        "",
        f"{'class':<24} {'pixels':>15} {'share':>8} {'images':>9}",
        *(f"{each.name:<24} {each.pixels:>15,} {each.share:>8.2%} {each.images:>9}" for each in report.classes),
        f"{'(ignored)':<24} {'':>15} {report.ignored:>8.2%}",
    ]
    for problem in report.problems:
        count = f": {len(problem.files)}" if problem.files else ""
        lines += ["", f"{'error' if problem.error else 'note'}: {problem.kind}{count}"]
        lines += [f"  {problem.text}"] if problem.text else []
        lines += [f"  {name}" for name in problem.files[:_SHOWN]]
        lines += [f"  and {len(problem.files) - _SHOWN} more"] if len(problem.files) > _SHOWN else []
        lines += [f"  next: {problem.advice}"]
    errors = sum(problem.error for problem in report.problems)
    return [*lines, "", f"{errors} kinds of errors" if errors else "no errors"]
