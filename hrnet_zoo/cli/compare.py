"""The command `compare`: how far the label maps of two models, engines or exported files agree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hrnet_zoo.cli import options
from hrnet_zoo.cli.output import say, say_json, say_table
from hrnet_zoo.images.atomic import atomic_write, make_folder, png, refuse_existing

if TYPE_CHECKING:
    from hrnet_zoo.inference.agreement import LabelAgreement


@click.command()
@click.argument("a")
@click.argument("b")
@click.argument("images", nargs=-1, required=True, metavar="IMAGES...")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Write NAME_difference.png of each image."
)
@click.option("--trust-pt2", is_flag=True, help="Load .pt2 files, which may run any code that is in them.")
@options.force
@options.device
@options.as_json
def compare(
    a: str,
    b: str,
    images: tuple[str, ...],
    out: Path | None,
    trust_pt2: bool,
    force: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Compare the labels of A and B on IMAGES, pixel by pixel.

    A and B are models (demo, a folder), exported files (model.onnx, model.xml, model.pt2) or a model and how it is
    computed: demo@fast, demo@onednn, demo@openvino-int8, demo@float16.

    IMAGES are files, folders or globs.
    """
    from hrnet_zoo.evaluation.agreement import compare_image, load_labeler
    from hrnet_zoo.inference.agreement import draw_difference, require_same_classes
    from hrnet_zoo.inference.folders import plan

    jobs = plan(images, out or Path("compared"), labels=False, overlay=True, force=True)
    targets = [
        out / job.overlay.relative_to(out).with_name(job.overlay.name.replace("_overlay.png", "_difference.png"))
        for job in jobs
        if out and job.overlay
    ]
    if not force:
        refuse_existing(targets)
    sides = tuple(load_labeler(text, device=device, trust_pt2=trust_pt2) for text in (a, b))
    first, second = sides
    require_same_classes(first, second)
    total = None
    rows: list[dict[str, Any]] = []
    for number, job in enumerate(jobs):
        agreement, image, labels = compare_image(job.image, (first, second))
        found = {"pixel_agreement": agreement.pixels, "different": agreement.different}
        rows.append({"image": str(job.image), **found, "difference": None})
        total = total + agreement if total else agreement
        if targets:
            make_folder(targets[number].parent)
            atomic_write(targets[number], png(draw_difference(image, labels, (first, second))))
            rows[-1]["difference"] = str(targets[number])
        if not as_json:
            written = f"; written: {rows[-1]['difference']}" if targets else ""
            say(f"{job.image}: {_words(agreement)}{written}")
    assert total is not None  # noqa: S101 - `plan` finds an image or raises
    facts = total.to_dict()
    if as_json:
        say_json({"a": a, "b": b, "images": rows, **facts})
        return
    say(f"all: {_words(total)}")
    say_table(
        ("class", "IoU", "pixels in A", "in B"),
        [
            (each["class"], f"{each['iou']:.4%}", *(f"{count:,}" for count in each["pixels"]))
            for each in facts["classes"]
        ],
    )


def _words(agreement: LabelAgreement) -> str:
    pixels = int(agreement.counts.sum())
    return f"{agreement.different:,} of {pixels:,} pixels differ, {agreement.pixels:.4%} are alike"
