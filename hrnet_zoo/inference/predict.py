"""Predict masks by the protocol of the published figures: read -> resize -> logits -> mask -> result."""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import product
from numbers import Real
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hrnet_zoo.datasets import Dataset
from hrnet_zoo.datasets.dataset import RGB_BANDS
from hrnet_zoo.errors import ConfigError, ImageError, LogitsError
from hrnet_zoo.images.bands import Pixels, read_bands, view_bands
from hrnet_zoo.images.prefetch import prefetch_in_threads
from hrnet_zoo.images.preprocess import keep_ratio_size, normalize_on, resize
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.images.read import RGB, ImageLike, read_image
from hrnet_zoo.inference.class_groups import ClassChoice, ClassGroups, group_classes
from hrnet_zoo.inference.confidence import mask_from_probabilities
from hrnet_zoo.inference.logits import ViewLogits, Window, check_max_memory
from hrnet_zoo.inference.masks import make_mask
from hrnet_zoo.inference.result import SegmentationResult
from hrnet_zoo.models.base import SegmentationModel
from hrnet_zoo.models.fork_safety import refuse_after_fork

# mmsegmentation's test-time augmentation (`img_ratios`), relative to the dataset's `resize_to`.
MS_RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)

# On CUDA, windows and flips go through the network together up to this many pixels, or it would wait for kernels.
CUDA_BATCH_PIXELS = 1 << 21

# Threads that read the next images of several, and how many images they are ahead.
READERS, IMAGES_AHEAD = 2, 3

# A PIL image reads its file at first use, and may be in a list twice.
_pil = threading.Lock()

logger = logging.getLogger("hrnet_zoo")

P = TypeVar("P", bound=SegmentationModel)
# An image (to look at), its file, and its sizes for the network.
Input: TypeAlias = tuple[Pixels, Path | None, list[Pixels]]
Seen: TypeAlias = tuple[Pixels, Path | None, list[ViewLogits]]


@dataclass(frozen=True)
class PredictOptions:
    """The arguments of `SegmentationModel.predict` that concern a single image; ConfigError if one is invalid."""

    mode: str | None = None
    ms_flip: bool = False
    probabilities: bool = False
    max_memory: int | None = None
    color: Literal["rgb", "bgr"] = "rgb"
    classes: ClassChoice | None = None
    confidence: bool = False
    min_confidence: float = 0.0

    def __post_init__(self) -> None:
        check_max_memory(self.max_memory)
        _check("mode", self.mode, (None, "whole", "slide"))
        if not isinstance(self.min_confidence, Real) or not 0 <= self.min_confidence <= 1:
            raise ConfigError(
                asked=f"predict with min_confidence={self.min_confidence!r}",
                found="min_confidence is a probability, from 0 to 1",
                done="nothing was computed",
                advice="correct it (0.6 is 60 %), or leave min_confidence out",
            )

    def groups(self, dataset: Dataset) -> ClassGroups | None:
        """Return the groups of classes that are asked for, or None; ConfigError if the choice is wrong."""
        return None if self.classes is None else group_classes(self.classes, dataset)


def _check_bands(dataset: Dataset, options: PredictOptions) -> None:
    if dataset.own_bands:
        _check("color", options.color, ("rgb",))  # the order of bands is the model's
    else:
        _warn_of_bands(dataset.title, dataset.bands)


@functools.cache
def _warn_of_bands(title: str, bands: tuple[str, ...]) -> None:
    """Log once in a process if a network does not take RGB images, though they are read as such."""
    if bands != RGB_BANDS:
        message = "networks of %s take %s in place of red, green and blue: what they see in an RGB photo is meaningless"
        logger.warning(message, title, ", ".join(bands))


def _check(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ConfigError(
            asked=f"predict with {name}={value!r}",
            found=f"{name} is one of {', '.join(map(repr, allowed))}",
            done="nothing was computed",
            advice=f"use one of these, or leave {name} out",
        )


def predict(
    model: SegmentationModel,
    image: ImageLike | list[ImageLike] | tuple[ImageLike, ...],
    options: PredictOptions,
    *,
    progress: bool,
    on_error: Literal["raise", "skip"],
) -> SegmentationResult | list[SegmentationResult] | list[SegmentationResult | ImageError]:
    """Label every pixel of an image, or of several: see `hrnet_zoo.models.base.SegmentationModel.predict`."""
    _check("on_error", on_error, ("raise", "skip"))
    groups = options.groups(model.dataset)
    _check_bands(model.dataset, options)
    with evaluating(model) as model:
        if not (isinstance(image, list | tuple) or (isinstance(image, Tensor) and image.ndim == 4)):
            rgb, path, sizes = _read_and_resize(image, model.dataset, options)
            return _result(model, rgb, path, _views(model, sizes, options), options, groups)
        results: list[SegmentationResult | ImageError] = []
        with closing(predict_each(model, image, options)) as each:
            for result in Bar(each, "predict", len(image), unit="image", disable=None if progress else True):
                if isinstance(result, ImageError) and on_error == "raise":
                    raise result
                results.append(result)
        if errors := [each for each in results if isinstance(each, ImageError)]:
            logger.warning("%d of %d images were skipped; the first: %s", len(errors), len(results), errors[0])
        return results


def predict_each(
    model: SegmentationModel,
    images: Iterable[ImageLike],
    options: PredictOptions,
    smooth: Callable[[list[ViewLogits]], list[ViewLogits]] = lambda views: views,
) -> Generator[SegmentationResult | ImageError, None, None]:
    """Yield the result of each image, or the error if it cannot be read, while threads read the next ones.

    On a CPU another thread makes the mask while the network sees the next image. `model` is what `evaluating` yields,
    and the caller is within, or within `computing`. `smooth` gets the logits of each image in order, and returns those
    to label it by.
    """
    _check_bands(model.dataset, options)

    def read(image: ImageLike) -> Input | ImageError:
        try:
            return _read_and_resize(image, model.dataset, options)
        except ImageError as error:
            return error.with_traceback(None)  # it is kept to the end, and its frames would keep the images

    with (
        closing(prefetch_in_threads(images, read, threads=READERS, ahead=IMAGES_AHEAD)) as inputs,
        closing(label_each(model, inputs, options, smooth)) as results,
    ):
        yield from results


def label_each(
    model: SegmentationModel,
    inputs: Iterable[Input | ImageError],
    options: PredictOptions,
    smooth: Callable[[list[ViewLogits]], list[ViewLogits]] = lambda views: views,
) -> Generator[SegmentationResult | ImageError, None, None]:
    """Yield the result of each image as `predict_each` does, from the sizes at which the network shall see it."""
    groups = options.groups(model.dataset)

    def seen() -> Generator[Seen | ImageError, None, None]:
        for each in inputs:
            yield each if isinstance(each, ImageError) else (*each[:2], smooth(_views(model, each[2], options)))

    @torch.inference_mode()
    def result(each: Seen) -> SegmentationResult:
        return _result(model, *each, options, groups)

    # On CUDA the other thread would need the caller's stream.
    with closing(seen()) as views, closing(_one_behind(result, views, model.device.type == "cpu")) as results:
        yield from results


def _one_behind(
    result: Callable[[Seen], SegmentationResult], views: Iterable[Seen | ImageError], in_thread: bool
) -> Generator[SegmentationResult | ImageError, None, None]:
    """Yield the result of each image seen, made while the next one is; what was seen before an error comes first."""
    waiting: list[Future[SegmentationResult]] = []
    with ThreadPoolExecutor(1, "hrnet-zoo") as pool:
        try:
            for each in views:
                if isinstance(each, ImageError) or not in_thread:
                    yield from (waiting.pop().result() for _ in range(len(waiting)))
                    yield each if isinstance(each, ImageError) else result(each)
                    continue
                waiting.append(pool.submit(result, each))
                if len(waiting) > 1:
                    yield waiting.pop(0).result()
        except (Exception, KeyboardInterrupt):  # of the network
            yield from (each.result() for each in waiting)
            raise
        yield from (each.result() for each in waiting)


def _read_and_resize(image: ImageLike, dataset: Dataset, options: PredictOptions) -> Input:
    path = Path(image) if isinstance(image, str | os.PathLike) else None
    if dataset.own_bands:
        values = read_bands(image, dataset.bands)
        rgb = view_bands(values, dataset.bands, dataset.mean, dataset.std)
        return rgb, path, resized(values, dataset.resize_to, options.ms_flip)
    with _pil if isinstance(image, Image.Image) else nullcontext():
        rgb = read_image(image, options.color)
    return rgb, path, resized(rgb, dataset.resize_to, options.ms_flip)


def _views(model: SegmentationModel, sizes: list[Pixels], options: PredictOptions) -> list[ViewLogits]:
    slide = model.dataset.sliding_window if options.mode is None else options.mode == "slide"
    return view_logits(model, sizes, slide=slide, flip=options.ms_flip)


def _result(
    model: SegmentationModel,
    image: RGB,
    path: Path | None,
    views: list[ViewLogits],
    options: PredictOptions,
    groups: ClassGroups | None,
) -> SegmentationResult:
    height, width = image.shape[:2]
    dataset = model.dataset
    if not (groups or options.probabilities or options.confidence or options.min_confidence):
        mask = make_mask(views, height, width, options.max_memory)
        return SegmentationResult(image, mask, dataset.classes, dataset.palette, path=path)
    classes, palette = groups[:2] if groups else (dataset.classes, dataset.palette)
    mask = np.empty((height, width), np.uint8)
    confidence = np.empty((height, width), np.float16) if options.confidence else None
    probabilities = np.empty((len(classes), height, width), np.float32) if options.probabilities else None
    mask_from_probabilities(
        views,
        mask,
        options.max_memory,
        members=groups and groups.members,
        min_confidence=options.min_confidence,
        confidence=confidence,
        probabilities=probabilities,
    )
    return SegmentationResult(image, mask, classes, palette, probabilities, confidence, path)


def resized(image: Pixels, resize_to: tuple[int, int], ms_flip: bool) -> list[Pixels]:
    """Return an image (H, W, 3) uint8 RGB, or (H, W, bands) float32, at the network's input size, or at six.

    The size fits into `resize_to`, (long, short) side in pixels, with the aspect ratio kept; the six sizes of `ms_flip`
    scale it.
    """
    height, width = image.shape[:2]
    limits = [(int(resize_to[0] * ratio), int(resize_to[1] * ratio)) for ratio in (MS_RATIOS if ms_flip else (1.0,))]
    return [resize(image, *keep_ratio_size(height, width, limit)) for limit in limits]


def view_logits(model: SegmentationModel, images: Sequence[Pixels], *, slide: bool, flip: bool) -> list[ViewLogits]:
    """Return the stride-4 logits of an image at one or more sizes, in the weights' dtype and on the model's device.

    Args:
        model: what `evaluating` yields.
        images: the image at each size, (h, w, 3) uint8 RGB, or (h, w, bands) float32.
        slide: slide the dataset's window over each, instead of the whole image at once.
        flip: add each size flipped.

    Raises:
        ConfigError: the number of classes is not that of the logits.
        LogitsError: the logits are infinite or not a number.

    """
    # The largest first: the memory that it frees is large enough for all others.
    largest_first = sorted(range(len(images)), key=lambda number: -images[number].size)
    views = {number: _views_at_size(model, images[number], slide=slide, flip=flip) for number in largest_first}
    found = [view for number in range(len(images)) for view in views[number]]
    ends = [end for view in found for window in view.windows for end in window.logits.aminmax()]
    if not torch.stack(ends).isfinite().all():
        raise LogitsError(
            asked=f"predict in {str(model.dtype).removeprefix('torch.')} on {model.device}",
            found="logits that are infinite or not a number",
            done="nothing was labeled",
            advice="if this is float16, use dtype=torch.float32, which has a larger range; otherwise the weights are "
            "damaged: load or train them again",
        )
    return found


def _views_at_size(model: SegmentationModel, image: Pixels, *, slide: bool, flip: bool) -> list[ViewLogits]:
    height, width = image.shape[:2]
    statistics = model.dataset.mean, model.dataset.std
    x = normalize_on(image, model.device, *statistics).to(model.dtype, memory_format=torch.channels_last)
    side, stride = model.dataset.window if slide else (max(height, width), 1)
    places = list(product(windows(height, side, stride), windows(width, side, stride)))
    inputs = [view[0, :, rows, columns] for view in (x, x.flip(3))[: 1 + flip] for rows, columns in places]
    batch = batch_size(model.device, min(height, side) * min(width, side))
    logits: list[Tensor] = []
    for start in range(0, len(inputs), batch):
        some = inputs[start : start + batch]
        stacked = torch.stack(some) if len(some) > 1 else some[0][None]  # which copies nothing
        logits += model.logits_stride4(stacked.contiguous(memory_format=torch.channels_last))
    if logits[0].shape[-1] != len(model.classes):
        raise ConfigError(
            asked=f"predict {len(model.classes)} classes: {', '.join(model.classes[:3])}, ...",
            found=f"the network's head gives {logits[0].shape[-1]} logits per pixel: was it replaced?",
            done="nothing was labeled",
            advice="create_model(..., classes=[names]) makes a head for your classes, and names the results by them",
        )
    found = [Window(*place, each) for place, each in zip(places * (1 + flip), logits, strict=True)]
    views = [ViewLogits(tuple(found[: len(places)]), height, width)]
    return [*views, ViewLogits(tuple(found[len(places) :]), height, width, flipped=True)] if flip else views


def batch_size(device: torch.device, area: int) -> int:
    """Return how many inputs of `area` pixels go through the network together; on a CPU one at a time is as fast."""
    return max(1, CUDA_BATCH_PIXELS // area) if device.type == "cuda" else 1


def windows(length: int, side: int, stride: int) -> list[slice]:
    """Cover `length` pixels: 1000 by 480 every 320 gives 0-480, 320-800, 520-1000."""
    number = -(-max(length - side, 0) // stride) + 1
    starts = (max(min(i * stride, length - side), 0) for i in range(number))
    return [slice(start, min(start + side, length)) for start in starts]


@contextmanager
def evaluating(model: P) -> Iterator[P]:
    """Yield the model in eval mode, without gradients, autocast and TF32; the model itself is not changed.

    ConfigError if this process was forked from one that has computed with threads: it would hang.
    """
    refuse_after_fork(model.device)
    with computing(model):
        yield model.ready()


@contextmanager
def computing(model: SegmentationModel) -> Iterator[None]:
    """Compute as `evaluating` does, with a model that it has yielded."""
    with torch.inference_mode(), without_autocast(model.device), ExitStack() as stack:
        if model.device.type == "cuda" and model.dtype == torch.float32:
            stack.enter_context(full_precision())
        yield


@contextmanager
def without_autocast(device: torch.device) -> Iterator[None]:
    """Compute in the dtypes of the tensors, even inside the caller's `torch.autocast`."""
    with ExitStack() as stack:
        for kind in {"cpu", device.type}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


_precision = threading.Lock()
_precisions_before: list[str] = []  # cuDNN's setting as each prediction under way found it


@contextmanager
def full_precision() -> Iterator[None]:
    """Make cuDNN's convolutions compute in float32 instead of TF32.

    torch has this setting only for the whole process, so convolutions of other threads are slower meanwhile. The last
    of several users restores it. The older setting `allow_tf32` cannot be read once the newer one has been used.
    """
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # torch replaces the module by an object
    with _precision:
        _precisions_before.append(convolutions.fp32_precision)
        convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        with _precision:
            before = _precisions_before.pop()
            if convolutions.fp32_precision == "ieee":  # else somebody else has set it
                convolutions.fp32_precision = before
