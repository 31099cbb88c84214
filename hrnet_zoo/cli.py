"""The command line: one subcommand per verb, and no logic of its own.

Data goes to stdout, progress and errors to stderr. Everything heavy is imported by the command that needs it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click

from hrnet_zoo import __version__
from hrnet_zoo.catalog import ARCHS, ModelInfo, list_models, model_info
from hrnet_zoo.datasets import DATASETS
from hrnet_zoo.errors import HRNetZooError

if TYPE_CHECKING:
    from hrnet_zoo.models.fcn import FCNHRNet

T = TypeVar("T")

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
BAD_INPUT = 5


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code of what happened (`hrnet_zoo.errors` lists them)."""
    try:
        code = cli.main(args=arguments, prog_name="hrnet-zoo", standalone_mode=False)
        sys.stdout.flush()
    except HRNetZooError as error:
        click.echo(f"error: {error}", err=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has left; nothing more can reach it, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hrnet-zoo")
def cli() -> None:
    """Pretrained HRNet for semantic segmentation: a name becomes a network, a photo a labelled picture."""


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@cli.command("list")
@click.argument("pattern", default="*")
@click.option("--dataset", type=click.Choice(list(DATASETS)), help="Only this data set.")
@click.option("--arch", type=click.Choice(list(ARCHS)), help="Only this network.")
@as_json
def list_(pattern: str, dataset: str | None, arch: str | None, as_json: bool) -> None:
    """Name the published checkpoints; PATTERN as in "*cityscapes*"."""
    rows = [model_info(name) for name in list_models(pattern, dataset=dataset, arch=arch)]
    if as_json:
        click.echo(json.dumps([row.to_dict() for row in rows], indent=1))
        return
    click.echo(f"{'name':<28} {'backbone':<19} {'data set':<22} {'params':>8} {'mIoU':>6} {'ms+flip':>8}")
    for row in rows:
        size = f"{row.parameters / 1e6:.1f} M"
        click.echo(
            f"{row.name:<28} {row.backbone:<19} {row.dataset:<22} {size:>8} {row.miou:>6.2f} "
            f"{row.miou_ms_flip or 0:>8.2f}"
        )


@cli.command()
@click.argument("name")
@as_json
def info(name: str, as_json: bool) -> None:
    """Tell everything about one checkpoint."""
    row = model_info(name)
    facts = {**row.to_dict(), "aliases": row.aliases, "classes": row.classes, "palette": row.palette}
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    del facts["palette"]
    for key, value in facts.items():
        shown = ", ".join(value) if isinstance(value, tuple) else "-" if value is None else value
        click.echo(f"{key:<23} {shown}")


@cli.command()
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
    from hrnet_zoo.weights.published import mirror, prefetch

    def fetched(row: ModelInfo) -> tuple[ModelInfo, Path]:
        expected = entries(row.arch, row.num_classes)
        return row, mirror(row, folder, expected, progress=True) if folder else prefetch(row, expected, progress=True)

    _for_each(fetched, rows, as_json)


@cli.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@as_json
def import_(files: tuple[Path, ...], as_json: bool) -> None:
    """Take published .pth files that were fetched by hand into the cache.

    One that cannot be used does not stop the others; the exit code is that of the first failure.
    """
    from hrnet_zoo.weights.published import import_file

    _for_each(import_file, files, as_json)


def model_options(command: click.decorators.FC) -> click.decorators.FC:
    """Options of every command that computes."""
    for option in (
        click.option("--dtype", type=click.Choice(["float16", "bfloat16", "float32"]), help="Of the arithmetic."),
        click.option("--device", help='Such as "cpu" or "cuda:1"; default: CUDA if there is one.'),
    ):
        command = option(command)
    return command


@cli.command()
@click.argument("name")
@click.argument("pictures", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("segmented"), show_default=True)
@click.option("--labels/--no-labels", default=True, help="Write NAME_labels.png: palette picture of class indices.")
@click.option("--overlay/--no-overlay", default=True, help="Write NAME_overlay.png: photo, colours and legend.")
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Opacity of the colours.")
@click.option("--checkpoint", help="Path or address of a .pth or .safetensors to use instead of the published file.")
@click.option("--classes", help="Comma-separated names, or number, of the checkpoint's classes if they are not NAME's.")
@click.option("--mode", type=click.Choice(["whole", "slide"]), help="Default: what the data set asks for.")
@click.option("--ms-flip", is_flag=True, help="Six scales, each also mirrored: better, and about 17 times slower.")
@click.option("--force", is_flag=True, help="Overwrite earlier results.")
@model_options
@as_json
def predict(
    name: str,
    pictures: tuple[str, ...],
    out: Path,
    labels: bool,
    overlay: bool,
    alpha: float,
    checkpoint: str | None,
    classes: str | None,
    mode: str | None,
    ms_flip: bool,
    force: bool,
    device: str | None,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Label every pixel of PICTURES (files, folders, globs) with the model NAME.

    A picture that cannot be read is reported at the end; the others are done, and the exit code is 5.
    """
    from hrnet_zoo.folders import plan, predict_files

    jobs = plan(pictures, out, labels=labels, overlay=overlay, force=force)
    model = _model(name, device, dtype, checkpoint, _classes(classes))
    done, failed = predict_files(model, jobs, mode=mode, ms_flip=ms_flip, alpha=alpha, progress=True)
    if as_json:
        click.echo(json.dumps({"pictures": done, "failed": {path: str(error) for path, error in failed.items()}}))
    else:
        for picture in done:
            shares = ", ".join(f"{name} {share:.0%}" for name, share in list(picture["fractions"].items())[:5])
            click.echo(f"{picture['picture']}: {shares}")
    for error in failed.values():
        click.echo(f"error: {error}", err=True)
    if failed:
        click.echo(f"{len(failed)} of {len(jobs)} pictures failed", err=True)
        raise click.exceptions.Exit(BAD_INPUT)


@cli.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("demo-out"), show_default=True)
@click.option("--scenes", type=click.IntRange(1, 1000), default=8, show_default=True, help="How many.")
@click.option("--seed", type=click.IntRange(0, 900_000), default=0, show_default=True, help="Of the first scene.")
@model_options
@as_json
def demo(out: Path, scenes: int, seed: int, device: str | None, dtype: str | None, as_json: bool) -> None:
    """Draw street scenes never seen in training, label them, and score the result. Needs no network."""
    from hrnet_zoo.demo.tour import tour

    report = tour(_model("demo", device, dtype), out, seeds=range(seed, seed + scenes), progress=True)
    if as_json:
        click.echo(json.dumps(report.to_dict()))
        return
    for name, iou in report.iou.items():
        click.echo(f"{name:<14} {iou:7.2%} {'#' * round(30 * iou)}")
    click.echo(f"{'mIoU':<14} {report.miou:7.2%} on {scenes} scenes never seen in training")
    click.echo(f"pictures: {out}{os.sep}scene_*.png")


@cli.group()
def cache() -> None:
    """Show and clear what was downloaded and converted."""


@cache.command("path")
def cache_path() -> None:
    """Print the cache folder."""
    from hrnet_zoo.weights.cache import root

    click.echo(root())


@cache.command("show")
@as_json
def cache_show(as_json: bool) -> None:
    """List what is in the cache."""
    from hrnet_zoo.weights.cache import entries, root

    found = entries()
    if as_json:
        facts = [{"kind": e.kind, "name": e.stem, "path": str(e.path), "bytes": e.size} for e in found]
        click.echo(json.dumps(facts, indent=1))
        return
    for entry in found:
        click.echo(f"{entry.kind:<6} {entry.size / 1e6:>9.1f} MB  {entry.path.name}")
    click.echo(f"{sum(entry.size for entry in found) / 1e6:.1f} MB in {root()}")


@cache.command("clear")
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Everything.")
def cache_clear(name: str | None, everything: bool) -> None:
    """Remove one model from the cache, by its name or by that of its file, or everything."""
    if bool(name) == everything:
        raise click.UsageError("give a name, or --all")
    from hrnet_zoo.weights.cache import clear, entries
    from hrnet_zoo.weights.published import cached_stem

    files = {entry.path.name: entry.stem for entry in entries()}
    gone = clear((files.get(name) or cached_stem(model_info(name))) if name else None)
    click.echo(f"removed {len(gone)} files, {sum(entry.size for entry in gone) / 1e6:.1f} MB")


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
                click.echo(f"{taken[-1][0].name} {taken[-1][1]}")
    if as_json:
        click.echo(json.dumps([{"name": row.name, "path": str(path)} for row, path in taken], indent=1))
    for error in failed:
        click.echo(f"error: {error}", err=True)
    if failed:
        raise click.exceptions.Exit(failed[0].exit_code)


def _classes(text: str | None) -> int | list[str] | None:
    if text is None or text.strip().isdecimal():
        return int(text) if text else None
    return [name.strip() for name in text.split(",")]


def _model(
    name: str,
    device: str | None,
    dtype: str | None,
    checkpoint: str | None = None,
    classes: int | list[str] | None = None,
) -> FCNHRNet:
    import torch

    from hrnet_zoo.creation import create_model

    return create_model(
        name,
        checkpoint=checkpoint,
        classes=classes,
        device=device,
        dtype=getattr(torch, dtype) if dtype else None,
    )
