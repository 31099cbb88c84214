"""The command that shows, records and passes on the digests of published files."""

from __future__ import annotations

from pathlib import Path

import click

from hrnet_zoo.cli.options import as_json, force_option, say, say_json
from hrnet_zoo.images.atomic import check_place


@click.command()
@click.option("--export", "target", type=click.Path(path_type=Path), help="Write whole digests to a file.")
@force_option
@click.option("--import", "source", type=click.Path(path_type=Path), help="Record what such a file states.")
@as_json
def lock(target: Path | None, force: bool, source: Path | None, as_json: bool) -> None:
    """Show and record the SHA-256 of every published file.

    The whole digest of a file is recorded in the cache when it is first accepted (for what was cached before that, by
    this command); another file with the same eight digits is refused after that. The catalog's own digests count more.
    The files of --export and --import have the format of sha256sum.
    """
    if target and source:
        raise click.UsageError("--export and --import go one at a time")
    if target:
        check_place(target, force=force)
    from hrnet_zoo.zoo.first_seen import export, take
    from hrnet_zoo.zoo.published import record_cached

    found = take(source) if source else record_cached()
    if target:
        found = export(target)
        say(f"written: {target}, {len(found)} whole digests", err=True)
    if as_json:
        facts = [{"name": each.info.name, "sha256": each.sha256, "authority": each.authority} for each in found]
        say_json(facts)
        return
    for each in found:
        say(f"{each.info.name:<28} {each.authority:<9} {each.sha256}")
