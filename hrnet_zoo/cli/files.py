"""Commands that bring checkpoints here, and show and clear what is here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from hrnet_zoo.cli.options import as_json, leave, say, say_errors, say_json
from hrnet_zoo.errors import HRNetZooError
from hrnet_zoo.zoo.catalog import ModelInfo, list_models, model_info

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
    help="A mirror folder for the original files, to be served or named in HRNET_ZOO_MIRRORS; else the cache.",
)
@as_json
def download(names: tuple[str, ...], everything: bool, folder: Path | None, as_json: bool) -> None:
    """Fetch and verify checkpoints, and print where they lie.

    One that cannot be had does not stop the others; the exit code is that of the first failure.
    """
    if bool(names) == everything:
        raise click.UsageError("give names, or --all")
    rows = [model_info(name) for name in (list_models() if everything else names)]
    from hrnet_zoo.weights.build import entries
    from hrnet_zoo.zoo.published import mirror, prefetch

    def fetched(row: ModelInfo) -> tuple[ModelInfo, Path]:
        expected = entries(row.arch, row.num_classes)
        return row, mirror(row, folder, expected, progress=True) if folder else prefetch(row, expected, progress=True)

    _for_each(fetched, rows, as_json)


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@as_json
def import_(files: tuple[Path, ...], as_json: bool) -> None:
    """Take published .pth files fetched by hand into the cache.

    One that cannot be used does not stop the others; the exit code is that of the first failure.
    """
    from hrnet_zoo.zoo.published import import_file

    _for_each(import_file, files, as_json)


@click.group()
def cache() -> None:
    """Show, clear, prune and repair what is cached."""


@cache.command("path")
def cache_path() -> None:
    """Print the cache folder."""
    from hrnet_zoo.weights.cache import root

    say(root())


@cache.command("show")
@as_json
def cache_show(as_json: bool) -> None:
    """List what is in the cache."""
    from hrnet_zoo.weights.cache import entries, root

    found = entries()
    if as_json:
        facts = [{"kind": e.kind, "name": e.stem, "path": str(e.path), "bytes": e.size} for e in found]
        say_json(facts)
        return
    for entry in found:
        say(f"{entry.kind:<6} {entry.size / 1e6:>9.1f} MB  {entry.path.name}")
    say(f"{sum(entry.size for entry in found) / 1e6:.1f} MB in {root()}")


@cache.command("clear")
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Everything.")
def cache_clear(name: str | None, everything: bool) -> None:
    """Remove a model, a file or everything from the cache.

    NAME is a model, whose training log goes too, or a file that `cache show` lists.
    """
    if bool(name) == everything:
        raise click.UsageError("give a name, or --all")
    from hrnet_zoo.weights.cache import clear, entries
    from hrnet_zoo.zoo.upkeep import forget

    files = {entry.path.name: entry.stem for entry in entries()}
    stem = files.get(name) if name else None
    _say_removed(forget(model_info(name)) if name and not stem else clear(stem))


@cache.command("prune")
def cache_prune() -> None:
    """Remove leftovers, unfinished downloads, old conversions.

    Leftovers are those of killed processes; old conversions, those of older versions.
    """
    from hrnet_zoo.zoo.upkeep import prune

    _say_removed(prune())


@cache.command("repair")
def cache_repair() -> None:
    """Remove damaged files, and fetch published ones again."""
    from hrnet_zoo.zoo.upkeep import repair

    verdicts = repair(progress=True)
    for each in verdicts:
        say(f"{each.name}: was damaged; {'removed' if each.error else 'removed or made anew'}")
    if not verdicts:
        say("nothing is damaged")
    _fail_with([each.error for each in verdicts if each.error])


@click.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that is in the cache.")
@as_json
def verify(names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Hash cached models again, and tell which are damaged."""
    if bool(names) == everything:
        raise click.UsageError("give names, or --all")
    from hrnet_zoo.zoo.upkeep import verify

    verdicts = verify(names)
    if as_json:
        facts = [
            {"name": v.name, "path": str(v.path) if v.path else None, "found": v.error.found if v.error else "whole"}
            for v in verdicts
        ]
        say_json(facts)
    else:
        for each in verdicts:
            say(f"{each.name}: {'not whole' if each.error else 'whole'}")
    _fail_with([each.error for each in verdicts if each.error])


def _say_removed(gone: Sequence[CacheEntry]) -> None:
    say(f"removed {len(gone)} files, {sum(entry.size for entry in gone) / 1e6:.1f} MB")


def _fail_with(errors: Sequence[HRNetZooError]) -> None:
    """Print errors, and exit with the first one's code."""
    say_errors(errors)
    if errors:
        leave(errors[0].exit_code)


def _for_each(take: Callable[[T], tuple[ModelInfo, Path]], items: Sequence[T], as_json: bool) -> None:
    """Print name and path of every model that `take` brings, then what failed, and exit with the first one's code."""
    taken, failed = [], []
    for item in items:
        try:
            taken.append(take(item))
        except HRNetZooError as failure:
            failed.append(failure)
        else:
            if not as_json:
                say(f"{taken[-1][0].name} {taken[-1][1]}")
    if as_json:
        say_json([{"name": row.name, "path": str(path)} for row, path in taken])
    _fail_with(failed)
