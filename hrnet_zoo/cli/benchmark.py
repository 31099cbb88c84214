"""The command `benchmark`: a model's speed and memory on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hrnet_zoo.cli import options
from hrnet_zoo.cli.output import say_facts, say_json, say_table
from hrnet_zoo.errors import raise_on_oom
from hrnet_zoo.images.atomic import refuse_existing


@click.command()
@options.name
@click.option(
    "--size", callback=options.parse_size, metavar="HxW", help="Of the images, in pixels; default: the dataset's."
)
@click.option("--batch", type=click.IntRange(1), help="Images at once through the network; default: 1.")
@click.option("--table", is_flag=True, help="The published Mem and fps columns, and the same measured here.")
@click.option("--against", is_flag=True, help="Beside its fast forms: each engine and precision that works here.")
@click.option("--compile", "compiled", is_flag=True, help="With --against: torch.compile too, which takes a minute.")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), help="With --against: also draw bars into this .png."
)
@options.force
@options.device
@options.dtype
@options.as_json
def benchmark(
    name: str,
    size: tuple[int, int] | None,
    batch: int | None,
    table: bool,
    against: bool,
    compiled: bool,
    plot: Path | None,
    force: bool,
    device: str | None,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Measure speed and memory of the model NAME here.

    Nothing is downloaded: with random weights, on which neither depends. --against also compares the labels, and takes
    the model's weights if they are on this machine. NAME may also be hr18s, hr18, hr32, hr40 or hr48: the network with
    19 classes.
    """
    if table and (size or batch or dtype or against):
        raise click.UsageError("--table has its own size, batch and dtype: leave all options but --device out")
    if (against and batch) or ((compiled or plot) and not against):
        raise click.UsageError("--batch goes without --against, and --compile and --plot go with it")
    from hrnet_zoo.evaluation.benchmark import benchmark, benchmark_table, compare
    from hrnet_zoo.zoo.create import create_model
    from hrnet_zoo.zoo.resolve import is_arch, is_here

    if plot and not force:
        refuse_existing([plot])
    if table:
        facts = benchmark_table(name, device=device).to_dict()
    else:
        with raise_on_oom(f"benchmark {name}"):
            classes = 19 if is_arch(name) else None
            pretrained = against and not classes and is_here(name)
            model = create_model(name, pretrained=pretrained, classes=classes, device=device, dtype=dtype)
        if against:
            comparison = compare(model, size=size, compiled=compiled)
            facts = comparison.to_dict()
            if plot:
                comparison.save_plot(plot)
        else:
            facts = benchmark(model, size=size, batch=batch or 1).to_dict()
    if as_json:
        say_json(facts)
        return
    if against:
        _say_variants(facts.pop("variants"))
    say_facts(facts)


def _say_variants(variants: list[dict[str, Any]]) -> None:
    """Print a table: medians, how many times as fast as exact they are, and the share of pixels labeled as by exact."""
    rows = []
    for each in variants:
        cells = [f"{each['name']} {each['dtype']}"]
        for part in ("network", "prediction"):
            cost, speedup = each[part], each[f"{part}_speedup"]
            cells.append(f"{1000 * cost['median']:,.1f} ms {speedup:>6.2f} x" if cost else "")
        rows.append([*cells, f"{each['agreement']:.2%}" if each["agreement"] is not None else ""])
    say_table(("", "network", "image to mask", "equal pixels"), rows)
