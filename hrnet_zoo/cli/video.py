"""`predict` for a video, stream or camera."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from hrnet_zoo.cli import options
from hrnet_zoo.cli.output import say, say_json
from hrnet_zoo.errors import redact

# Options of `predict` that videos have, too.
_COMMON = (
    *("name", "images", "out", "overlay", "alpha", "table", "confidence", "checkpoint", "classes", "mode", "ms_flip"),
    *("only", "min_confidence", "every", "smooth", "fast", "force", "max_memory", "device", "dtype", "as_json"),
)
_AS_THEY_ARE = ("alpha", "force", "mode", "ms_flip", "max_memory", "confidence", "min_confidence")


def is_video(images: tuple[str, ...], out: Path) -> bool:
    """Tell whether to label a video; UsageError if it is one of several sources."""
    from hrnet_zoo.images.video import FORMATS
    from hrnet_zoo.images.video import is_video as by_name

    video = any(map(by_name, images)) or out.suffix.lower() in FORMATS
    if video and len(images) > 1:
        raise click.UsageError("one video at a time: a command for each, with an --out of its own")
    return video


def predict_video(context: click.Context) -> None:
    """Run the command `predict` for a video, with its options."""
    from hrnet_zoo.images.atomic import make_folder
    from hrnet_zoo.images.video import FORMATS
    from hrnet_zoo.inference.class_groups import group_classes
    from hrnet_zoo.inference.tables import TableWriter, check_table, table_columns
    from hrnet_zoo.inference.video import predict_video

    given: dict[str, Any] = context.params
    for option in context.command.params:
        explicit = context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
        if explicit and option.name not in _COMMON:
            raise click.UsageError(f"{option.opts[0]} is not for videos")
    (source,), table, force = given["images"], given["table"], given["force"]
    out: Path | None = given["out"]
    if not given["overlay"]:
        out = None
        if not table:
            raise click.UsageError("--no-overlay leaves nothing to write: add --table")
    elif out and out.suffix.lower() not in FORMATS:
        make_folder(out)
        stem = re.sub(r"[^\w.-]+", "_", Path(redact(source)).stem)
        out /= f"{stem}_overlay.mp4"
    if table:
        check_table(table, resume=False, force=force)

    def groups(dataset: Any) -> Any:  # noqa: ANN401
        return group_classes(given["only"], dataset) if given["only"] else None

    wanted = {name: given[name] for name in ("name", "device", "dtype", "checkpoint", "classes", "fast")}
    model = options.load_model(**wanted, check=groups)
    chosen = groups(model.dataset)
    columns = table_columns(chosen.classes if chosen else model.classes, confidence=given["confidence"], frames=True)
    shares: Counter[str] = Counter()
    number, seconds = 0, 0.0
    try:
        with TableWriter(table, columns, force=force) if table else nullcontext() as rows:
            frames = predict_video(
                *(model, source),
                out=out,
                every=given["every"] or 1,
                smooth=given["smooth"] or 0.0,
                table=rows,
                classes=given["only"],
                **{name: given[name] for name in _AS_THEY_ARE},
            )
            with closing(frames):
                for frame in frames:
                    number, seconds = number + 1, frame.time
                    shares.update(frame.result.fractions())
    finally:  # report what was done, however the run ends
        means = {name: share / number for name, share in shares.most_common()}
        written = [str(path) for path in (out, table) if path and number]
        if given["as_json"]:
            facts = {"video": source, "frames": number, "seconds": seconds, "fractions": means, "written": written}
            say_json(facts)
        else:
            top = ", ".join(f"{name} {share:.0%}" for name, share in list(means.items())[:5])
            files = " and ".join(written) or "nothing"
            say(f"{source}: {number} frames labeled, to {seconds:.3f} s: {top}; written: {files}")
