"""The commands `predict` and `demo`: images -> label maps and overlays."""

from __future__ import annotations

import os
import re
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, Literal

import click

from hrnet_zoo.cli import options
from hrnet_zoo.cli.output import leave, say, say_errors, say_json
from hrnet_zoo.errors import HRNetZooError
from hrnet_zoo.images.atomic import refuse_existing
from hrnet_zoo.zoo.catalog import DEMO, DEMO_KNOWS


@click.command()
@click.argument("name")
@click.argument("images", nargs=-1, metavar="IMAGES...")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("segmented"), show_default=True)
@click.option("--labels/--no-labels", default=True, help="Write NAME_labels.png: palette image of class indices.")
@click.option("--overlay/--no-overlay", default=True, help="Write NAME_overlay.png: photo, colors and legend.")
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Opacity of the colors.")
@click.option("--geojson", is_flag=True, help="Write NAME.geojson: a polygon for each region, in pixels.")
@click.option(
    "--coco",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the regions of all images into a COCO file (JSON), when all are labeled.",
)
@click.option(
    "--table",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write a row for each image: size, time, place, share of each class; .csv, .jsonl or .parquet.",
)
@click.option("--confidence", is_flag=True, help="With --table: also the mean confidence of each class.")
@click.option("--resume", is_flag=True, help="With --table: skip the images that it has.")
@click.option("--panorama", is_flag=True, help="Shares of the sphere: weigh equirectangular images by solid angle.")
@options.checkpoint
@options.classes
@click.option("--mode", type=click.Choice(["whole", "slide"]), help="Default: the dataset's own.")
@options.ms_flip
@click.option(
    "--only",
    callback=options.parse_choice,
    metavar="CLASSES",
    help='These classes, the rest is "other"; "green=vegetation+terrain,road" merges two of them into one.',
)
@click.option(
    "--min-confidence",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Label pixels whose class is less probable with 255, e.g. 0.6.",
)
@options.fast
@click.option(
    "--on-error",
    type=click.Choice(["skip", "raise"]),
    default="skip",
    show_default=True,
    help="For an unreadable image: skip it and list it at the end, or stop.",
)
@options.force
@options.max_memory
@options.device
@click.option(
    "--dtype",
    type=options.fast_dtypes,
    help="Precision of the arithmetic; int8, with --fast alone, is calibrated with generated street scenes.",
)
@options.as_json
def predict(
    name: str,
    images: tuple[str, ...],
    out: Path,
    labels: bool,
    overlay: bool,
    alpha: float,
    geojson: bool,
    coco: Path | None,
    table: Path | None,
    confidence: bool,
    resume: bool,
    panorama: bool,
    checkpoint: str | None,
    classes: int | list[str] | None,
    mode: str | None,
    ms_flip: bool,
    only: dict[str, list[str]] | None,
    min_confidence: float,
    on_error: Literal["skip", "raise"],
    force: bool,
    fast: bool,
    max_memory: int | None,
    device: str | None,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Label every pixel of IMAGES with the model NAME.

    IMAGES are files, folders or globs; results are named after them, in the folder --out.

    If an image cannot be read, the exit code is 5 (6: the disk is full).
    """
    if not images:
        raise click.UsageError(f"a model and images are needed: hrnet-zoo predict demo {name}")
    if any(re.match("https?://", text) for text in images):
        raise click.UsageError("images are files: fetch the address first (curl -O ADDRESS), then name the file")
    if out.suffix.lower() in (".png", ".jpg", ".jpeg") and not out.is_dir():
        raise click.UsageError(f"--out names a folder, and results are named after the images: --out {out.stem}")
    if confidence and not table:
        raise click.UsageError("--confidence is a matter of tables: add --table")
    if coco and coco.suffix.lower() != ".json":
        raise click.UsageError(f"a COCO file is JSON: --coco {coco.stem}.json")
    if resume and coco:
        raise click.UsageError("--coco is written at the end, of all images: leave --resume out")
    if resume and (force or not table):
        raise click.UsageError("--resume goes on with a table: it needs --table, and goes without --force")
    from hrnet_zoo.inference.annotations import CocoFile
    from hrnet_zoo.inference.folders import plan, predict_files
    from hrnet_zoo.inference.predict import PredictOptions
    from hrnet_zoo.inference.tables import TableWriter, check_table, table_columns

    if table:
        check_table(table, resume=resume, force=force)
    regions = CocoFile(coco, force=force) if coco else None
    jobs = plan(images, out, labels=labels, overlay=overlay, geojson=geojson, force=force or resume)
    settings = PredictOptions(
        mode,
        ms_flip,
        max_memory=max_memory,
        classes=only,
        confidence=confidence,
        min_confidence=min_confidence,
    )
    model = options.load_model(name, device, dtype, checkpoint, classes, fast, check=settings.groups)
    if model.name == DEMO.name and checkpoint is None:
        say(f"note: the demo network knows {DEMO_KNOWS}", err=True)
    rows = None
    if table:
        groups = settings.groups(model.dataset)
        columns = table_columns(groups.classes if groups else model.classes, confidence=confidence)
        rows = TableWriter(table, columns, resume=resume, force=force)
        jobs = [job for job in jobs if not rows.has(job.image)]
    done: list[dict[str, Any]] = []
    number = 0
    failed: dict[str, HRNetZooError] = {}
    try:
        with (
            rows or nullcontext(),
            regions or nullcontext(),
            closing(
                predict_files(
                    *(model, jobs, settings),
                    alpha=alpha,
                    progress=True,
                    on_error=on_error,
                    panorama=panorama,
                    table=rows,
                    coco=regions,
                )
            ) as outcomes,
        ):
            for job, outcome in outcomes:
                if isinstance(outcome, HRNetZooError):
                    failed[str(job.image)] = outcome
                    continue
                number += 1
                if not rows:  # which has it all, of any number of images
                    done.append(outcome)
    finally:  # report what was done, however the run ends
        errors = {path: str(error) for path, error in failed.items()}
        if as_json and rows:
            say_json({"table": str(rows.place), "labeled": number, "skipped": len(rows.done), "failed": errors})
        elif as_json:
            say_json({"images": done, "failed": errors})
        elif rows:
            say(f"{rows.place}: {rows.added} rows added to {len(rows.done)}")
        for image in () if as_json else done:
            shares = ", ".join(f"{name} {share:.0%}" for name, share in list(image["fractions"].items())[:5])
            files = " and ".join(image[kind] for kind in ("labels", "overlay", "geojson") if image[kind])
            say(f"{image['image']}: {shares}; written: {files or 'nothing, as asked'}")
        say_errors(list(failed.values()))
        if number < len(jobs):
            say(f"{number} of {len(jobs)} images labeled, {len(failed)} failed", err=True)
    if failed:
        leave(max(error.exit_code for error in failed.values()))


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("demo-out"), show_default=True)
@click.option("--scenes", type=click.IntRange(1, 1000), default=8, show_default=True, help="Number of scenes.")
@click.option("--seed", type=click.IntRange(0, 900_000), default=0, show_default=True, help="Seed of the first scene.")
@click.option("--as-dataset", is_flag=True, help="Write scenes and labels in Cityscapes' layout, for `evaluate`.")
@options.force
@options.device
@options.dtype
@options.as_json
def demo(
    out: Path,
    scenes: int,
    seed: int,
    as_dataset: bool,
    force: bool,
    device: str | None,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Label generated street scenes, and print the mIoU.

    The network has not seen them in training. Needs no connection.
    """
    seeds = range(seed, seed + scenes)
    if as_dataset:
        if device or dtype or force:
            raise click.UsageError("--as-dataset only fills a new folder: leave --device, --dtype and --force out")
        from hrnet_zoo.demo.dataset import write_dataset

        write_dataset(out, seeds=seeds, progress=True)
        if as_json:
            say_json({"data": str(out), "images": scenes})
        else:
            say(f"{scenes} scenes in {out}")
        return
    from hrnet_zoo.evaluation.run_demo import overlay_paths, run_demo
    from hrnet_zoo.zoo.create import create_model

    if not force:
        refuse_existing(overlay_paths(out, seeds))
    report = run_demo(create_model("demo", device=device, dtype=dtype), out, seeds=seeds, progress=True)
    if as_json:
        say_json(report)
        return
    for name, iou in report["iou"].items():
        say(f"{name:<14} {iou:7.2%} {'#' * round(30 * iou)}")
    say(f"{'mIoU':<14} {report['miou']:7.2%} on {scenes} scenes never seen in training")
    say(f"overlays: {out}{os.sep}scene_*.png; an image to try: {report['photo']}")
