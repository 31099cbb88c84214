"""The commands `download`, `import`, `verify` and `cache`: weights in the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from hrnet_zoo.cli import options
from hrnet_zoo.cli.output import exit_with, say, say_json
from hrnet_zoo.errors import HRNetZooError
from hrnet_zoo.zoo.catalog import PublishedFile, list_models, published_file

if TYPE_CHECKING:
    from hrnet_zoo.weights.cache import CacheEntry

T = TypeVar("T")


@click.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All published checkpoints.")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Save the original files in this mirror folder, for HRNET_ZOO_MIRRORS, instead of the cache.",
)
@options.as_json
def download(names: tuple[str, ...], everything: bool, folder: Path | None, as_json: bool) -> None:
    """Download and verify checkpoints, and print their paths.

    A name is a published model's, or hr18s, hr18, hr32, hr40, hr48 for a backbone's ImageNet weights.

    A failure does not stop the others; the exit code is that of the first failure.
    """
    if bool(names) == everything:
        raise click.UsageError("give names, or --all")
    rows = [published_file(name) for name in (list_models() if everything else names)]
    from hrnet_zoo.zoo import resolve

    def fetch(row: PublishedFile) -> tuple[PublishedFile, Path]:
        expected = resolve.published_shapes(row)
        if folder:
            return row, resolve.mirror(row, folder, expected, progress=True)
        return row, resolve.download(row, expected, progress=True)

    _fetch_each(fetch, rows, as_json)


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.as_json
def import_(files: tuple[Path, ...], as_json: bool) -> None:
    """Convert published .pth files that you fetched yourself.

    A failure does not stop the others; the exit code is that of the first failure.
    """
    from hrnet_zoo.zoo.resolve import import_file

    _fetch_each(import_file, files, as_json)


def _fetch_each(fetch: Callable[[T], tuple[PublishedFile, Path]], items: Sequence[T], as_json: bool) -> None:
    """Print the name and path of every model, then the errors."""
    models, errors = [], []
    for item in items:
        try:
            row, path = fetch(item)
        except HRNetZooError as error:
            errors.append(error)
            continue
        models.append({"name": row.name, "path": str(path)})
        if not as_json:
            say(f"{row.name} {path}")
    if as_json:
        say_json(models)
    exit_with(errors)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All files in the cache.")
@click.option("--sha256sum", is_flag=True, help="Print the published files' SHA-256, as `sha256sum` does.")
@options.as_json
def verify(names: tuple[str, ...], everything: bool, sha256sum: bool, as_json: bool) -> None:
    """Hash cached models again, and report which are damaged."""
    if bool(names) == everything or (sha256sum and as_json):
        raise click.UsageError("give names, or --all; and --sha256sum or --json, not both")
    from hrnet_zoo.zoo.maintenance import source_digests, verify

    verdicts = verify(names)
    if sha256sum:
        say(*source_digests(verdicts))
    elif as_json:
        found = {each: each.error.found if each.error else "whole" for each in verdicts}
        say_json([{"name": each.name, "path": each.path and str(each.path), "found": found[each]} for each in verdicts])
    else:
        for each in verdicts:
            say(f"{each.name}: {'not whole' if each.error else 'whole'}")
    exit_with([each.error for each in verdicts if each.error])


@click.group()
def cache() -> None:
    """Show, clear, prune and repair what is cached."""


@cache.command("path")
def cache_path() -> None:
    """Print the cache folder."""
    from hrnet_zoo.weights.cache import root

    say(root())


@cache.command("show")
@options.as_json
def cache_show(as_json: bool) -> None:
    """List the files in the cache."""
    from hrnet_zoo.weights.cache import entries, root

    found = entries()
    if as_json:
        say_json([{"kind": e.kind, "name": e.key, "path": str(e.path), "bytes": e.size} for e in found])
        return
    for entry in found:
        say(f"{entry.kind:<7} {entry.size / 1e6:>9.1f} MB  {entry.path.name}")
    say(f"{sum(entry.size for entry in found) / 1e6:.1f} MB in {root()}")


@cache.command("clear")
@click.argument("name", required=False, shell_complete=options.complete_name)
@click.option("--all", "everything", is_flag=True, help="Everything.")
def cache_clear(name: str | None, everything: bool) -> None:
    """Remove a model, a file or everything from the cache.

    NAME is a model (its training log is removed too), or a file that `cache show` lists.
    """
    if bool(name) == everything:
        raise click.UsageError("give a name, or --all")
    from hrnet_zoo.weights.cache import clear, entries
    from hrnet_zoo.zoo.maintenance import clear_model

    files = {entry.path.name: entry.key for entry in entries()}
    key = files.get(name) if name else None
    _say_removed(clear_model(published_file(name)) if name and not key else clear(key))


@cache.command("prune")
def cache_prune() -> None:
    """Remove what killed processes and older versions left."""
    from hrnet_zoo.zoo.maintenance import prune

    _say_removed(prune())


def _say_removed(gone: Sequence[CacheEntry]) -> None:
    say(f"removed {len(gone)} files, {sum(entry.size for entry in gone) / 1e6:.1f} MB")


@cache.command("repair")
def cache_repair() -> None:
    """Remove damaged files, and download published ones again."""
    from hrnet_zoo.zoo.maintenance import repair

    verdicts = repair(progress=True)
    for each in verdicts:
        say(f"{each.name}: was damaged; {'not repaired' if each.error else 'removed or downloaded again'}")
    if not verdicts:
        say("nothing is damaged")
    exit_with([each.error for each in verdicts if each.error])
