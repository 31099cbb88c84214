"""The command `export`: model -> a file that runs without this library."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

import hrnet_zoo
from hrnet_zoo.cli import options
from hrnet_zoo.cli.output import say, say_json
from hrnet_zoo.images.atomic import atomic_write, check_place

if TYPE_CHECKING:
    from hrnet_zoo.exporting.metadata import Agreement, Outputs, Precision


@click.command()
@options.name
@click.option(
    "--to",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Its suffix is the format: .onnx, .pt2 (torch.export) or .xml (OpenVINO IR).",
)
@click.option(
    "--outputs",
    type=click.Choice(["labels", "logits"]),
    default="labels",
    help="labels (default): uint8 RGB in, class indices out; logits: normalized image in, stride-4 logits out.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    help="Of the network's arithmetic; default: fp32.",
)
@click.option("--calibration", metavar="FOLDER", help="Images for int8; default: generated street scenes.")
@click.option("--with-runner", is_flag=True, help="Write runner.py too, which runs an .onnx or .xml without torch.")
@options.checkpoint
@options.classes
@options.force
@options.as_json
def export(
    name: str,
    path: Path,
    outputs: Outputs,
    precision: Precision,
    calibration: str | None,
    with_runner: bool,
    checkpoint: str | None,
    classes: int | list[str] | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write the model NAME as a file that runs without this library.

    The file is compared with the network on generated scenes before it appears; that takes about half a minute.
    """
    runner_path = path.with_name("runner.py")
    if with_runner and path.suffix == ".pt2":
        raise click.UsageError("--with-runner goes with .onnx and .xml: a .pt2 needs torch")
    if with_runner:
        check_place(runner_path, force=force)
    start = time.perf_counter()
    model = hrnet_zoo.create_model(name, checkpoint=checkpoint, classes=classes, device="cpu")
    made = hrnet_zoo.export(model, path, outputs=outputs, precision=precision, calibration=calibration, force=force)
    files = list(made.files)
    if with_runner:
        from hrnet_zoo.exporting import runner  # numpy is slow to import

        atomic_write(runner_path, Path(runner.__file__).read_bytes())
        files.append(runner_path)
    if as_json:
        say_json({"files": [str(each) for each in files], **made.metadata})
        return
    say(*(f"{each}: {each.stat().st_size / 1000:,.0f} kB" for each in files))
    say(f"exported in {time.perf_counter() - start:.0f} s; compared with the network on generated scenes:")
    say(*map(_row, made.agreement))


def _row(each: Agreement) -> str:
    (height, width), (labels_height, labels_width) = each.input_size, each.size
    sizes = f"{each.batch} x {height}x{width} -> {labels_height}x{labels_width}"
    error = f"logits differ by {each.largest_logit_error:g} of {each.largest_logit:g}"
    return f"  {each.scene:<23} {sizes:<25} {each.pixel_agreement:>10.4%} of the pixels alike, {error}"
