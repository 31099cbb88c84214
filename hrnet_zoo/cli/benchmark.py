"""The command `benchmark`: a model's speed and memory on this machine."""

from __future__ import annotations

import click

from hrnet_zoo.cli import options
from hrnet_zoo.cli.output import say, say_facts, say_json
from hrnet_zoo.errors import raise_on_oom


@click.command()
@click.argument("name")
@click.option(
    "--size", callback=options.parse_size, metavar="HxW", help="Of the images, in pixels; default: the dataset's."
)
@click.option("--batch", type=click.IntRange(1), help="Images at once through the network; default: 1.")
@click.option("--table", is_flag=True, help="The published Mem and fps columns, and the same measured here.")
@click.option("--against", is_flag=True, help="Beside its fast forms: each engine and precision that works here.")
@click.option("--compile", "compiled", is_flag=True, help="With --against: torch.compile too, which takes a minute.")
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
    device: str | None,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Measure speed and memory of the model NAME here.

    With random weights, on which neither depends: nothing is downloaded.
    """
    if table and (size or batch or dtype or against):
        raise click.UsageError("--table has its own size, batch and dtype: leave all options but --device out")
    if (against and batch) or (compiled and not against):
        raise click.UsageError("--batch goes without --against, and --compile goes with it")
    from hrnet_zoo.evaluation.benchmark import benchmark, benchmark_table, compare
    from hrnet_zoo.zoo.create import create_model

    if table:
        facts = benchmark_table(name, device=device).to_dict()
    else:
        with raise_on_oom(f"benchmark {name}"):
            model = create_model(name, pretrained=False, device=device, dtype=dtype)
        if against:
            facts = compare(model, size=size, compiled=compiled).to_dict()
        else:
            facts = benchmark(model, size=size, batch=batch or 1).to_dict()
    if as_json:
        say_json(facts)
        return
    for variant in facts.pop("variants", ()):
        for part in ("network", "prediction"):
            if cost := variant[part]:
                title, speedup = f"{variant['name']} {variant['dtype']}", variant[f"{part}_speedup"]
                say(f"{title:<23} {part:<10} {1000 * cost['median']:>10,.1f} ms, {speedup:.2f} times as fast as exact")
    say_facts(facts)
