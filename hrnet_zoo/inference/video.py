"""Video -> the result of each frame, and a video of the overlays: `predict_video`."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hrnet_zoo import __version__
from hrnet_zoo.errors import ConfigError, ImageError
from hrnet_zoo.images.prefetch import prefetch_in_threads
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.images.read import RGB
from hrnet_zoo.images.video import Frame, VideoReader, VideoWriter, check_video_path
from hrnet_zoo.inference.class_groups import ClassChoice
from hrnet_zoo.inference.folders import RESULTS_BEHIND
from hrnet_zoo.inference.logits import ViewLogits
from hrnet_zoo.inference.predict import PredictOptions, computing, evaluating, predict_each
from hrnet_zoo.inference.result import SegmentationResult
from hrnet_zoo.inference.tables import TableWriter, frame_row
from hrnet_zoo.models.base import SegmentationModel


class LabeledFrame(NamedTuple):
    """A frame of a video: its number, from 0; its time in seconds from the start; and its result."""

    number: int
    time: float
    result: SegmentationResult


def predict_video(
    model: SegmentationModel,
    source: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    every: int = 1,
    smooth: float = 0.0,
    alpha: float = 0.5,
    table: TableWriter | None = None,
    force: bool = False,
    fast: bool = False,
    progress: bool = True,
    mode: str | None = None,
    ms_flip: bool = False,
    max_memory: int | None = None,
    classes: ClassChoice | None = None,
    confidence: bool = False,
    min_confidence: float = 0.0,
) -> Generator[LabeledFrame, None, None]:
    """Label the frames of a video, in order, as `model.predict` labels images.

    Returns a generator: frames are read, labeled and written while it is iterated, and none is kept. Rotation is
    applied. When it ends, is closed or raises, `out` is a whole file of all frames until then. Needs PyAV (extra
    `video`).

    Args:
        model: the network, or its optimized form.
        source: a file, an address (rtsp://host/path), or the number of a camera ("0"). Streams and cameras, whose end
            is Ctrl-C, leave out frames that come faster than they are labeled.
        out: a file for the overlays, at the times of the frames and with the sound: .mp4, .mov or .mkv for H.264,
            .webm for VP9.
        every: label every n-th frame; the others are left out.
        smooth: average the logits over time, against flicker: the weight of the past, from 0 (none) to below 1. Labels
            are no longer those of each frame alone, and `out` says so in its comment.
        alpha: opacity of the colors in `out`, from 0 to 1.
        table: gets a row for each frame; its columns are `table_columns(classes, frames=True)`.
        force: replace `out` if it exists.
        fast: use the optimized network.
        progress: show a bar on a terminal, else a line once a minute.
        mode: as of `model.predict`, and so are all further arguments.
        ms_flip: average six scales and their mirror images.
        max_memory: bytes for full-resolution logits.
        classes: the classes or groups to ask for.
        confidence: keep the probability of each pixel's class.
        min_confidence: label pixels of lower probability 255.

    Raises:
        ConfigError: an argument has a value that it cannot have, or PyAV is missing.
        ImageError: the source cannot be opened or has no video. While iterated, after all frames that could be read:
            it has no frame, is damaged or incomplete, has no times, or its size changes.
        OutputError: `out` exists, or cannot be written.

    """
    options = PredictOptions(
        mode, ms_flip, max_memory=max_memory, classes=classes, confidence=confidence, min_confidence=min_confidence
    )
    options.groups(model.dataset)
    model.dataset.require_rgb(f"label the video {source}")
    for name, value, valid, rule in (
        ("every", every, every >= 1, "a number of frames, at least 1"),
        ("smooth", smooth, 0 <= smooth < 1, "a weight, from 0 to below 1"),
        ("alpha", alpha, 0 <= alpha <= 1, "a weight, from 0 to 1"),
    ):
        if not valid:
            raise ConfigError(
                asked=f"predict_video({name}={value})",
                found=f"{name} is {rule}",
                done="nothing was computed",
                advice=f"correct it, or leave {name} out",
            )
    if out is not None:
        check_video_path(Path(out), force=force)
    model = model._optimized() if fast else model
    reader = VideoReader(source, sound=out is not None)
    writer = None
    if out is not None:
        comment = f"overlays of {model.name}, hrnet-zoo {__version__}"
        if smooth:
            comment += f"; labels are smoothed over time: exponential mean of the logits, {smooth} of the past"
        writer = VideoWriter(Path(out), reader, every=every, comment=comment, force=force)
    return _predict_video(model, reader, writer, options, every, smooth, alpha, table, progress)


def _predict_video(
    model: SegmentationModel,
    reader: VideoReader,
    writer: VideoWriter | None,
    options: PredictOptions,
    every: int,
    smooth: float,
    alpha: float,
    table: TableWriter | None,
    progress: bool,
) -> Generator[LabeledFrame, None, None]:
    def write(each: tuple[Frame, SegmentationResult]) -> LabeledFrame:
        frame, result = each
        labeled = LabeledFrame(frame.number, float(frame.pts * reader.time_base), result)
        if writer:
            writer.write(frame, np.asarray(result.overlay(alpha=alpha, legend=False)))
        if table:
            table.append(frame_row(reader.name, labeled.number, labeled.time, result))
        return labeled

    total = reader.expected and -(-reader.expected // every)
    with ExitStack() as stack:
        stack.enter_context(reader)
        if writer:
            stack.enter_context(writer)
        results = stack.enter_context(closing(_results(model, reader, options, every, smooth)))
        bar = Bar(results, "predict", total, unit="frame", disable=None if progress else True)
        behind = prefetch_in_threads(bar, write, threads=1, ahead=RESULTS_BEHIND, finish=True)
        yield from stack.enter_context(closing(behind))
    where = f", and is in {writer.path}" if writer and reader.count else ""
    reader.raise_fault(f"what could be read was labeled{where}")


def _results(
    model: SegmentationModel, reader: VideoReader, options: PredictOptions, every: int, smooth: float
) -> Generator[tuple[Frame, SegmentationResult], None, None]:
    """Yield each frame and its result; what it computes with is set only while it computes."""
    waiting: deque[Frame] = deque()

    def images() -> Generator[RGB, None, None]:
        with closing(reader.frames(every)) as frames:
            for frame in frames:
                waiting.append(frame)
                yield frame.image

    with evaluating(model) as network:
        pass
    smoothing = (_ExponentialMean(smooth),) if smooth else ()
    with (
        closing(images()) as frames,  # which ends the thread of a stream, while the reader is open
        closing(predict_each(network, frames, options, *smoothing)) as results,
    ):
        while True:
            with computing(network):
                result = next(results, None)
            if result is None:
                return
            if isinstance(result, ImageError):  # which an array of pixels never gives
                raise result
            yield waiting.popleft(), result


class _ExponentialMean:
    """The exponential mean over time of the logits of each view."""

    def __init__(self, past: float) -> None:
        self.past = past
        self.mean: list[Tensor] = []

    def __call__(self, views: list[ViewLogits]) -> list[ViewLogits]:
        logits = [window.logits.float() for view in views for window in view.windows]
        self.mean = [torch.lerp(*each, self.past) for each in zip(logits, self.mean or logits, strict=True)]
        means = iter(self.mean)
        return [
            replace(view, windows=tuple(replace(window, logits=next(means)) for window in view.windows))
            for view in views
        ]
