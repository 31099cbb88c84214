"""The command `evaluate`: model and labeled images -> mIoU beside the published figure."""

from __future__ import annotations

from pathlib import Path

import click

import hrnet_zoo
from hrnet_zoo.cli import options
from hrnet_zoo.cli.output import say, say_json
from hrnet_zoo.datasets.layouts import check_root
from hrnet_zoo.images.atomic import check_place
from hrnet_zoo.images.figure import new_figure


@click.command()
@options.name
@click.argument("data", type=click.Path(path_type=Path))
@options.ms_flip
@click.option("--limit", type=click.IntRange(1), help="Only the first images, for a quick look.")
@click.option("--workers", type=click.IntRange(0), help="Processes that prefetch images; default: see above.")
@options.max_memory
@options.checkpoint
@options.classes
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="Also write the figures to a JSON file.")
@click.option(
    "--confusion",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also draw the confusion matrix: .png, .svg or .pdf.",
)
@options.fast
@options.force
@options.device
@click.option(
    "--dtype",
    type=options.fast_dtypes,
    help="Default: float32 without TF32; with --fast, the fastest here. int8 goes with --fast alone.",
)
@options.as_json
def evaluate(
    name: str,
    data: Path,
    ms_flip: bool,
    limit: int | None,
    workers: int | None,
    max_memory: int | None,
    checkpoint: str | None,
    classes: int | list[str] | None,
    save: Path | None,
    confusion: Path | None,
    fast: bool,
    force: bool,
    device: str | None,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Score the model NAME on the labeled images in DATA.

    DATA is a download of the model's dataset, or a folder with images/ and masks/. Under torchrun, the processes share
    the images: torchrun --nproc-per-node 2 -m hrnet_zoo evaluate NAME DATA

    By default, on Linux, half as many workers as processors, at most 8; elsewhere none.
    """
    from hrnet_zoo.evaluation.ranks import is_first, local_device

    check_root(data)
    for path in (save, confusion) if is_first() else ():
        if path:
            check_place(path, force=force)
    if confusion:
        new_figure(confusion, "the confusion matrix", (1, 1))  # refuses another ending, and a missing matplotlib
    dtype = dtype or (None if fast else "float32")
    model = options.load_model(name, local_device(device), dtype, checkpoint, classes, fast)
    figures = hrnet_zoo.evaluate(model, data, ms_flip=ms_flip, limit=limit, workers=workers, max_memory=max_memory)
    if not is_first():
        return
    # Print first: saving may fail.
    if as_json:
        say_json(figures.to_dict())
    else:
        say(*str(figures).splitlines())
    if save:
        figures.to_json(save)
    if confusion:
        figures.save_confusion(confusion)
