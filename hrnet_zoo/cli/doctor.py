"""The command `doctor`: what works on this machine, and what does not."""

from __future__ import annotations

import click

import hrnet_zoo
from hrnet_zoo.cli import options
from hrnet_zoo.cli.output import colors, exit_with, say_facts, say_json


@click.command()
@click.argument("name", required=False, shell_complete=options.complete_name)
@click.option("--network", is_flag=True, help="Also ask all hosts and mirrors for the files of all models, or of NAME.")
@options.device
@options.dtype
@options.as_json
def doctor(name: str | None, network: bool, device: str | None, dtype: str | None, as_json: bool) -> None:
    """Check this machine, or what the model NAME computes on it.

    The weights are checked against their digest; the device and dtype against float32 on the CPU.

    The exit code is that of the first error.
    """
    report = hrnet_zoo.doctor(name, device=device, dtype=dtype, network=network)
    facts = report.to_dict()
    if as_json:
        say_json(facts)
    else:
        del facts["errors"]
        say_facts({title: found for title, found in facts.items() if found is not None})
        verdict = click.style("NOT FINE", fg="red") if report.errors else click.style("fine", fg="green")
        click.echo(f"verdict: {verdict}", color=colors())
    exit_with(report.errors)
