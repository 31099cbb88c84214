"""Commands that score a network."""

from __future__ import annotations

from pathlib import Path

import click

from hrnet_zoo.cli.options import (
    as_json,
    device_option,
    dtypes,
    fast_option,
    force_option,
    load_model,
    load_optimized,
    max_memory_option,
    parse_classes,
    say,
    say_json,
)
from hrnet_zoo.datasets.layouts import check_root
from hrnet_zoo.images.atomic import check_place


@click.command()
@click.argument("name")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--ms-flip", is_flag=True, help="Six scales, each also mirrored: about 17 times slower.")
@click.option("--limit", type=click.IntRange(1), help="Only the first images, for a quick look.")
@click.option("--workers", type=click.IntRange(0), help="Processes that read ahead; default: see below.")
@max_memory_option
@click.option("--checkpoint", help="Path or address of a .pth or .safetensors to use instead of the published file.")
@click.option("--classes", help="Comma-separated names, or number, of the checkpoint's classes if they are not NAME's.")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="Also write the figures to a JSON file.")
@fast_option
@force_option
@device_option
@click.option(
    "--dtype", type=dtypes, help="Of the arithmetic; default: float32 without TF32, and with --fast what is fast here."
)
@as_json
def evaluate(
    name: str,
    data: Path,
    ms_flip: bool,
    limit: int | None,
    workers: int | None,
    max_memory: int | None,
    checkpoint: str | None,
    classes: str | None,
    save: Path | None,
    fast: bool,
    force: bool,
    device: str | None,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Score the model NAME on the labeled images in DATA.

    The published figure stands beside it.

    DATA is a download of the model's dataset, or a folder with images/ and masks/. Under torchrun, every process takes
    a part of the images: torchrun --nproc-per-node 2 -m hrnet_zoo evaluate NAME DATA

    By default half the processors read ahead, 8 at most, on Linux; elsewhere nobody does.
    """
    from hrnet_zoo.evaluation.evaluate import evaluate
    from hrnet_zoo.evaluation.ranks import is_first, local_device

    check_root(data)
    if save and is_first():
        check_place(save, force=force)
    load = load_optimized if fast else load_model
    dtype = dtype or (None if fast else "float32")
    model = load(name, local_device(device), dtype, checkpoint, parse_classes(classes))
    figures = evaluate(model, data, ms_flip=ms_flip, limit=limit, workers=workers, max_memory=max_memory)
    if not is_first():  # the others have the same figures
        return
    # First of all they are shown: the file may fail even now.
    if as_json:
        say_json(figures.to_dict())
    else:
        say(*figures.lines())
    if save:
        figures.to_json(save)
