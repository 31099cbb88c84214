"""Image to mask, as the published figures were made."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from functools import partial
from itertools import product
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hrnet_zoo.errors import ConfigError, ImageError, LogitsError
from hrnet_zoo.images.prefetch import beside
from hrnet_zoo.images.progress import Bar
from hrnet_zoo.images.read import RGB, ImageLike, keep_ratio_size, normalize_on, read_image, resize
from hrnet_zoo.inference.logits import ScoreMap, Window, check_budget, pieces
from hrnet_zoo.inference.masks import best_classes
from hrnet_zoo.inference.result import SegmentationResult
from hrnet_zoo.models.forks import refuse_after_fork
from hrnet_zoo.models.predictor import Predictor

# mmsegmentation's test-time augmentation (`img_ratios`); of the dataset's resize_to, not of the image.
MS_RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)

# On CUDA windows and mirror images go through the network together up to here: it would wait for the next kernel most
# of the time.
CUDA_BATCH_PIXELS = 1 << 21

# Of several images the next ones are read meanwhile: two at a time, and so few that they take little memory.
READERS, IMAGES_AHEAD = 2, 3

# A PIL image reads its file when it is first used, and the same one may be in a list twice.
_pil = threading.Lock()

# An image, and itself at the sizes that the network gets it in.
Prepared = tuple[RGB, list[RGB]]

logger = logging.getLogger("hrnet_zoo")


N = TypeVar("N", bound=Predictor)


def predict(
    model: Predictor,
    image: ImageLike | list[ImageLike] | tuple[ImageLike, ...],
    *,
    mode: str | None = None,
    ms_flip: bool = False,
    probabilities: bool = False,
    progress: bool = True,
    max_memory: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    color: Literal["rgb", "bgr"] = "rgb",
) -> SegmentationResult | list[SegmentationResult] | list[SegmentationResult | ImageError]:
    """Label every pixel of an image, or of several: see `hrnet_zoo.models.predictor.Predictor.predict`."""
    check_budget(max_memory)
    check_mode(mode)
    if on_error not in ("raise", "skip"):
        raise ConfigError(
            asked=f"predict with on_error={on_error!r}",
            found="on_error is 'raise' or 'skip'",
            done="nothing was computed",
            advice="use one of these, or leave on_error out",
        )
    with evaluating(model) as model:
        if isinstance(image, list | tuple) or (isinstance(image, Tensor) and image.ndim == 4):
            results: list[SegmentationResult | ImageError] = []
            with closing(predict_each(model, image, mode, ms_flip, probabilities, max_memory, color)) as each:
                for result in Bar(each, "predict", len(image), unit="image", disable=None if progress else True):
                    if isinstance(result, ImageError) and on_error == "raise":
                        raise result
                    results.append(result)
            if skipped := [each for each in results if isinstance(each, ImageError)]:
                logger.warning("%d of %d images were skipped; the first: %s", len(skipped), len(results), skipped[0])
            return results
        prepared = _prepare(image, model.dataset.resize_to, ms_flip, color)
        return _predict_one(model, prepared, mode, ms_flip, probabilities, max_memory)


def predict_each(
    model: Predictor,
    images: Iterable[ImageLike],
    mode: str | None = None,
    ms_flip: bool = False,
    probabilities: bool = False,
    max_memory: int | None = None,
    color: Literal["rgb", "bgr"] = "rgb",
) -> Generator[SegmentationResult | ImageError, None, None]:
    """Yield the result of each image, or the error why it cannot be read, while threads read the next ones.

    Arguments are those of `predict`, and were checked; `model` is what `evaluating` yields, and the caller is within.
    """
    prepare = partial(_prepared_or_error, resize_to=model.dataset.resize_to, ms_flip=ms_flip, color=color)
    with closing(beside(images, prepare, threads=READERS, ahead=IMAGES_AHEAD)) as ready:
        for each in ready:
            if isinstance(each, ImageError):
                yield each
            else:
                yield _predict_one(model, each, mode, ms_flip, probabilities, max_memory)


def _prepared_or_error(
    image: ImageLike, resize_to: tuple[int, int], ms_flip: bool, color: Literal["rgb", "bgr"]
) -> Prepared | ImageError:
    try:
        return _prepare(image, resize_to, ms_flip, color)
    except ImageError as error:
        return error.with_traceback(None)  # it is kept to the end, and its frames would keep the images


def _prepare(image: ImageLike, resize_to: tuple[int, int], ms_flip: bool, color: Literal["rgb", "bgr"]) -> Prepared:
    with _pil if isinstance(image, Image.Image) else nullcontext():
        rgb = read_image(image, color)
    return rgb, resized(rgb, resize_to, ms_flip)


def check_mode(mode: str | None) -> None:
    """Refuse another mode than those of `predict`.

    Raises:
        ConfigError: there is no such mode.

    """
    if mode not in (None, "whole", "slide"):
        raise ConfigError(
            asked=f"predict with mode={mode!r}",
            found="mode is 'whole', 'slide', or None for what the model's dataset asks for",
            done="nothing was computed",
            advice="use one of these, or leave mode out",
        )


def _predict_one(
    model: Predictor, prepared: Prepared, mode: str | None, ms_flip: bool, probabilities: bool, max_memory: int | None
) -> SegmentationResult:
    image, views = prepared
    height, width = image.shape[:2]
    slide = model.dataset.sliding_window if mode is None else mode == "slide"
    maps = score_maps(model, views, slide=slide, mirror=ms_flip)
    kept = np.empty((len(model.dataset.classes), height, width), np.float32) if probabilities else None
    mask = make_mask(maps, height, width, max_memory, kept)
    return SegmentationResult(image, mask, model.dataset.classes, model.dataset.palette, kept)


def make_mask(
    maps: Sequence[ScoreMap],
    height: int,
    width: int,
    max_memory: int | None = None,
    probabilities: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.uint8]:
    """Return the best class of each pixel of an image, (height, width), by the scores of one or more views of it.

    `probabilities` (classes, height, width) is filled if it is given, from all scores; without it few of them are made,
    and the mask is the same. `max_memory` is that of `predict`.
    """
    if probabilities is None:
        return best_classes(maps, height, width, max_memory)
    mask = np.empty((height, width), np.uint8)
    for rows, scores in pieces(maps, height, width, max_memory):
        mask[rows] = scores.argmax(dim=2).to("cpu", torch.uint8).numpy()
        shares = scores if len(maps) > 1 else F.softmax(scores.contiguous(), dim=2)
        probabilities[:, rows] = shares.permute(2, 0, 1).cpu().numpy()
    return mask


def resized(image: RGB, resize_to: tuple[int, int], ms_flip: bool) -> list[RGB]:
    """Return an image at the size that the network gets it in, or at all six of `ms_flip`.

    Args:
        image: (H, W, 3) uint8 RGB.
        resize_to: keep-ratio resize fits the image into (long side, short side) pixels; the scales are of this box.
        ms_flip: six sizes instead of one.

    """
    height, width = image.shape[:2]
    boxes = [(int(resize_to[0] * ratio), int(resize_to[1] * ratio)) for ratio in (MS_RATIOS if ms_flip else (1.0,))]
    return [resize(image, *keep_ratio_size(height, width, each)) for each in boxes]


def score_maps(model: Predictor, images: Sequence[RGB], *, slide: bool, mirror: bool) -> list[ScoreMap]:
    """Let the network see one image at one or more sizes.

    Args:
        model: the network, as `evaluating` yields it.
        images: the image at the sizes that the network gets it in, (h, w, 3) uint8 RGB each.
        slide: slide the dataset's window, instead of the whole image at once.
        mirror: also see each of them mirrored.

    Returns:
        The scores of every view, at a quarter of its size and in the weights' dtype, on the model's device.

    Raises:
        ConfigError: the network has another number of classes than names.
        LogitsError: a score is infinite or not a number.

    """
    maps: dict[int, list[ScoreMap]] = {}
    # The largest first, so that the memory that it leaves is large enough for all others.
    for number in sorted(range(len(images)), key=lambda number: -images[number].size):
        image = images[number]
        height, width = image.shape[:2]
        x = normalize_on(image, model.device).to(model.dtype, memory_format=torch.channels_last)
        x = torch.cat((x, x.flip(3))) if mirror else x
        side, stride = model.dataset.window if slide else (max(height, width), 1)
        places = list(product(_windows(height, side, stride), _windows(width, side, stride)))
        batch = batch_size(model.device, min(height, side) * min(width, side))
        crops = [(place, view) for view in range(len(x)) for place in places]
        coarse: list[Tensor] = []
        for start in range(0, len(crops), batch):
            some = [x[view, :, rows, columns] for (rows, columns), view in crops[start : start + batch]]
            stacked = torch.stack(some) if len(some) > 1 else some[0][None]  # which copies nothing
            coarse += model.logits_stride4(stacked.contiguous(memory_format=torch.channels_last))
        _require_classes(model, coarse[0])
        maps[number] = []
        for view in range(len(x)):
            scores = coarse[view * len(places) : (view + 1) * len(places)]
            windows = tuple(Window(*place, each) for place, each in zip(places, scores, strict=True))
            maps[number].append(ScoreMap(windows, height, width, mirrored=view == 1))
    views = [each for number in range(len(images)) for each in maps[number]]
    _require_finite(model, [window.scores for view in views for window in view.windows])
    return views


def _require_classes(model: Predictor, scores: Tensor) -> None:
    """Refuse logits (..., classes) of other classes than the network's names."""
    if scores.shape[-1] != len(model.dataset.classes):
        raise ConfigError(
            asked=f"predict {len(model.dataset.classes)} classes: {', '.join(model.dataset.classes[:3])}, ...",
            found=f"the network's head gives {scores.shape[-1]} logits per pixel: was it replaced?",
            done="nothing was labeled",
            advice="create_model(..., classes=[names]) makes a head for your classes, and names the results by them",
        )


def _require_finite(model: Predictor, scores: Sequence[Tensor]) -> None:
    """Refuse logits that rank no classes, whichever view they are of."""
    if not torch.stack([end for each in scores for end in each.aminmax()]).isfinite().all():
        raise LogitsError(
            asked=f"predict in {str(model.dtype).removeprefix('torch.')} on {model.device}",
            found="logits that are infinite or not a number",
            done="nothing was labeled",
            advice="dtype=torch.float32 has the range that float16 lacks; where it was float32, the weights are not "
            "what they should be: load or train them anew",
        )


def batch_size(device: torch.device, area: int) -> int:
    """Return how many views of `area` pixels go through the network together; on a CPU one at a time is as fast."""
    return max(1, CUDA_BATCH_PIXELS // area) if device.type == "cuda" else 1


def _windows(length: int, side: int, stride: int) -> list[slice]:
    """Cover `length` pixels: 1000 by 480 every 320 gives 0-480, 320-800, 520-1000."""
    number = -(-max(length - side, 0) // stride) + 1
    starts = (max(min(i * stride, length - side), 0) for i in range(number))
    return [slice(start, min(start + side, length)) for start in starts]


@contextmanager
def evaluating(model: N) -> Iterator[N]:
    """Yield what to predict with, without gradients, autocast, TF32 and training behavior; the model is left as it is.

    Raises:
        ConfigError: this process was forked from one that has predicted, where it would wait for ever.

    """
    refuse_after_fork(model.device)
    with torch.inference_mode(), without_autocast(model.device), ExitStack() as stack:
        if model.device.type == "cuda" and model.dtype == torch.float32:
            stack.enter_context(full_precision())
        yield model.ready()


@contextmanager
def without_autocast(device: torch.device) -> Iterator[None]:
    """Compute in the dtypes of the tensors, whatever the caller's `torch.autocast` says."""
    with ExitStack() as stack:
        for kind in {"cpu", device.type}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


class _FullPrecision:
    """How many predictions need cuDNN in full precision now, and what the setting was before the first of them."""

    lock = threading.Lock()
    users = 0
    before = ""


@contextmanager
def full_precision() -> Iterator[None]:
    """Let cuDNN's convolutions keep all 24 bits of float32; by default they round to TF32's 11.

    The setting is the whole process's, and torch offers no other way: meanwhile convolutions of other threads keep them
    too, which is slower. The last of several users at once restores it. Of torch's settings this one alone is touched,
    by the newer of two ways: the older (`allow_tf32`) cannot even be read where somebody has used the newer.
    """
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # torch replaces the module by an object
    with _FullPrecision.lock:
        if not _FullPrecision.users:
            _FullPrecision.before = convolutions.fp32_precision
            convolutions.fp32_precision = "ieee"
        _FullPrecision.users += 1
    try:
        yield
    finally:
        with _FullPrecision.lock:
            _FullPrecision.users -= 1
            if not _FullPrecision.users and convolutions.fp32_precision == "ieee":  # else somebody has set it meanwhile
                convolutions.fp32_precision = _FullPrecision.before
