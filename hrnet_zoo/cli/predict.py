"""The commands `predict` and `demo`: images -> label maps and overlays."""

from __future__ import annotations

import os
import re
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, Literal

import click

from hrnet_zoo.cli import options, video
from hrnet_zoo.cli.maps import check_map, is_map, map_options, write_map
from hrnet_zoo.cli.output import leave, say, say_errors, say_json
from hrnet_zoo.datasets.pairing import SUFFIXES
from hrnet_zoo.errors import ConfigError, HRNetZooError
from hrnet_zoo.images import bands
from hrnet_zoo.images.atomic import refuse_existing
from hrnet_zoo.zoo.catalog import DEMO, DEMO_KNOWS, is_saved, list_models


@click.command()
@options.name
@click.argument("images", nargs=-1, metavar="IMAGES...")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("segmented"),
    show_default=True,
    help="A folder for the results; for one georeferenced GeoTIFF a map: map.tif; for a video: out.mp4, .webm.",
)
@click.option("--labels/--no-labels", default=True, help="Write NAME_labels.png: palette image of class indices.")
@click.option("--overlay/--no-overlay", default=True, help="Write NAME_overlay.png: photo, colors and legend.")
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Opacity of the colors.")
@click.option(
    "--confidence",
    is_flag=True,
    help="Also the network's confidence: NAME_confidence.png beside the overlay, means in tables and polygons.",
)
@click.option("--geojson", is_flag=True, help="Write NAME.geojson: a polygon for each region, in pixels.")
@click.option(
    "--coco",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the regions of all images into a COCO file (JSON), when all are labeled.",
)
@click.option("--min-area", type=click.IntRange(0), default=0, help="Leave out regions of fewer pixels.")
@click.option("--simplify", type=float, default=0.0, help="With --geojson: pixels by which borders may move, e.g. 1.5.")
@click.option(
    "--table",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write a row for each image: size, time, place, share of each class; .csv, .jsonl or .parquet.",
)
@click.option("--resume", is_flag=True, help="With --table or --coco: skip the images that they have.")
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
@click.option("--every", type=click.IntRange(1), help="Of a video: label every n-th frame, and leave out the others.")
@click.option(
    "--smooth",
    type=click.FloatRange(0, 1, max_open=True),
    help="Of a video: average the logits over time, with this weight of the past, e.g. 0.7.",
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
@map_options
def predict(
    name: str,
    images: tuple[str, ...],
    out: Path,
    labels: bool,
    overlay: bool,
    alpha: float,
    confidence: bool,
    geojson: bool,
    coco: Path | None,
    min_area: int,
    simplify: float,
    table: Path | None,
    resume: bool,
    panorama: bool,
    checkpoint: str | None,
    classes: int | list[str] | None,
    mode: str | None,
    ms_flip: bool,
    only: dict[str, list[str]] | None,
    min_confidence: float,
    on_error: Literal["skip", "raise"],
    every: int | None,
    smooth: float | None,
    force: bool,
    fast: bool,
    max_memory: int | None,
    device: str | None,
    dtype: str | None,
    as_json: bool,
    map_arguments: dict[str, Any],
) -> None:
    """Label every pixel of IMAGES with the model NAME.

    IMAGES are files, folders or globs; results are named after them, in the folder --out. Or one video: a file, an
    address such as rtsp://host/path, or the number of a camera; --out may then be a file (.mp4, .mov, .mkv, .webm).

    If an image cannot be read, the exit code is 5 (6: the disk is full).
    """
    addresses = [text for text in images or (name,) if re.match("https?://", text)]
    if not images and not addresses:
        is_model = is_saved(name) or name in (DEMO.name, *list_models())
        raise ConfigError(
            asked=f"hrnet-zoo predict {name}",
            found="a model and images are needed",
            done="",
            advice=f"hrnet-zoo predict {name} photo.jpg" if is_model else f"hrnet-zoo predict demo {name}",
        )
    if images and video.is_video(images, out):
        video.predict_video(click.get_current_context())
        return
    if every or smooth:
        raise click.UsageError("--every and --smooth are for videos")
    if addresses:
        raise ConfigError(
            asked=f"hrnet-zoo predict {addresses[0]}",
            found="images are files",
            done="no connection was opened",
            advice="fetch the address first (curl -O ADDRESS), then name the file",
        )
    if out.suffix.lower() in (".png", ".jpg", ".jpeg") and not out.is_dir():
        raise click.UsageError(f"--out names a folder, and results are named after the images: --out {out.stem}")
    if makes_map := is_map(out, map_arguments):
        check_map(images, out, force=force)
    elif out.is_file():
        raise click.UsageError(f"--out names a folder, and {out} is a file")
    if confidence and not (overlay or table or geojson or coco):
        raise click.UsageError("--confidence goes beside overlays, into tables or polygons: leave --no-overlay out")
    if (min_area and not (geojson or coco)) or (simplify and not geojson):
        raise click.UsageError("--min-area is for --geojson and --coco, --simplify for --geojson: add one of them")
    if coco and coco.suffix.lower() != ".json":
        raise click.UsageError(f"a COCO file is JSON: --coco {coco.stem}.json")
    if resume and (force or not (table or coco)):
        raise click.UsageError("--resume goes on with a table: it needs --table or --coco, and goes without --force")
    from hrnet_zoo.inference.coco_file import CocoFile
    from hrnet_zoo.inference.folders import plan, predict_files, remaining
    from hrnet_zoo.inference.polygons import check_simplify
    from hrnet_zoo.inference.predict import PredictOptions
    from hrnet_zoo.inference.tables import TableWriter, check_table, check_target, table_columns
    from hrnet_zoo.zoo.resolve import is_arch, resolve

    if table:
        check_table(table, resume=resume, force=force)
    if coco:
        check_target(coco, resume=resume, force=force)
    check_simplify(simplify)
    wanted = {"labels": labels, "overlay": overlay, "geojson": geojson, "confidence": confidence and overlay}
    takes_bands = not (makes_map or is_arch(name)) and resolve(name).dataset.own_bands
    suffixes = bands.SUFFIXES if takes_bands else SUFFIXES
    jobs = [] if makes_map else plan(images, out, **wanted, force=force or resume, suffixes=suffixes)
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
    if makes_map:
        polygons = {"min_area": min_area, "simplify": simplify} if geojson else None
        write_map(
            *(model, images[0], out, settings, map_arguments),
            table=table,
            geojson=polygons,
            force=force,
            as_json=as_json,
        )
        return
    groups = settings.groups(model.dataset)
    names = groups.classes if groups else model.classes
    regions = CocoFile(coco, names, min_area=min_area, resume=resume, force=force) if coco else None
    rows = None
    if table:
        rows = TableWriter(table, table_columns(names, confidence=confidence), resume=resume, force=force)
    jobs = remaining(jobs, rows, regions)
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
                    min_area=min_area,
                    simplify=simplify,
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
            say(f"{rows.place}: {rows.added} rows written{_before(len(rows.done))}")
        if regions and not as_json:
            say(f"{regions.place}: {regions.added} images written{_before(regions.before)}")
        for image in () if as_json else done:
            shares = ", ".join(f"{name} {share:.0%}" for name, share in list(image["fractions"].items())[:5])
            files = " and ".join(image[kind] for kind in wanted if image[kind])
            say(f"{image['image']}: {shares}; written: {files or 'nothing, as asked'}")
        say_errors(list(failed.values()))
        if number < len(jobs):
            say(f"{number} of {len(jobs)} images labeled, {len(failed)} failed", err=True)
    if failed:
        leave(max(error.exit_code for error in failed.values()))


def _before(number: int) -> str:
    return f", {number} were there" if number else ""


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
    say(f"overlays: {out}{os.sep}scene_*.png; try next: hrnet-zoo predict demo {report['photo']}")
