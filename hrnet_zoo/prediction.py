"""Picture to mask, as the published figures were made."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from hrnet_zoo.errors import ConfigError
from hrnet_zoo.images import RGB, Picture, keep_ratio_size, normalise, read_image, resize
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.hrnet import fit
from hrnet_zoo.results import SegmentationResult

# mmsegmentation's test-time augmentation (`img_ratios`); of the data set's box, not of the picture.
MS_RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def predict(
    model: FCNHRNet,
    image: Picture | list[Picture] | tuple[Picture, ...],
    mode: str | None = None,
    ms_flip: bool = False,
    probabilities: bool = False,
    progress: bool = True,
) -> SegmentationResult | list[SegmentationResult]:
    """Label every pixel of a picture, or of several.

    The picture is resized into the data set's box with its ratio kept, the scores are brought back to its own size.
    Scores are resized in float32 whatever the weights' dtype.

    Args:
        model: the network.
        image: path, bytes of a file, PIL picture, uint8 RGB array (H, W, 3), uint8 RGB tensor (3, H, W); or a list of
            them, of any sizes; or a uint8 tensor (N, 3, H, W). `hrnet_zoo.images.read_image` states the rules.
        mode: "whole" or "slide" (overlapping windows, scores averaged); None: what the model's data set asks for.
        ms_flip: mean of the probabilities at six scales, each also mirrored: better and about 17 times slower.
        probabilities: keep the probabilities of all classes in the result (4 bytes per class and pixel).
        progress: show a bar over several pictures on a terminal.

    Returns:
        A result for one picture; a list in the same order for several.

    Raises:
        ImageError: a picture cannot be read.
        ConfigError: there is no such mode.

    """
    if mode not in (None, "whole", "slide"):
        raise ConfigError(
            asked=f"predict with mode={mode!r}",
            found="mode is 'whole', 'slide', or None for what the model's data set asks for",
            done="nothing was computed",
            advice="use one of these, or leave mode out",
        )
    slide = model.dataset.slides if mode is None else mode == "slide"
    with _evaluating(model):
        if isinstance(image, list | tuple) or (isinstance(image, Tensor) and image.ndim == 4):
            bar = tqdm(image, desc="predict", unit="picture", disable=None if progress else True)
            return [_predict_one(model, picture, slide, ms_flip, probabilities) for picture in bar]
        return _predict_one(model, image, slide, ms_flip, probabilities)


def _predict_one(
    model: FCNHRNet, picture: Picture, slide: bool, ms_flip: bool, probabilities: bool
) -> SegmentationResult:
    image = read_image(picture)
    if ms_flip:
        scores = _mean_of_views(model, image, slide)
    else:
        scores = score(model, image, model.dataset.box, slide)
        scores = F.softmax(scores, dim=1) if probabilities else scores
    return SegmentationResult(
        image=image,
        mask=scores.argmax(dim=1)[0].to("cpu", torch.uint8).numpy(),
        classes=model.classes,
        palette=model.palette,
        probabilities=scores[0].cpu().numpy() if probabilities else None,
    )


def _mean_of_views(model: FCNHRNet, image: RGB, slide: bool) -> Tensor:
    """Average the probabilities (1, classes, H, W) of all scales, each plain and mirrored."""
    long, short = model.dataset.box
    views = (
        F.softmax(score(model, image, (int(long * ratio), int(short * ratio)), slide, flip), dim=1)
        for ratio, flip in product(MS_RATIOS, (False, True))
    )
    return functools.reduce(torch.add, views) / (2 * len(MS_RATIOS))


def score(model: FCNHRNet, image: RGB, box: tuple[int, int], slide: bool, flip: bool = False) -> Tensor:
    """Score a picture at its own size.

    Args:
        model: the network, in eval mode.
        image: (H, W, 3) uint8 RGB.
        box: keep-ratio resize fits the picture into (long side, short side) pixels.
        slide: slide the data set's window, instead of the whole picture at once.
        flip: let the network see the mirrored picture; the scores are mirrored back.

    Returns:
        (1, classes, H, W) float32 on the model's device.

    """
    height, width = image.shape[:2]
    weight = model.decode_head.conv_seg.weight
    x = normalise(resize(image, *keep_ratio_size(height, width, box)))
    x = (x.flip(3) if flip else x).to(weight.device, weight.dtype, memory_format=torch.channels_last)
    scores = slide_scores(model, x, *model.dataset.window) if slide else whole_scores(model, x)
    # A second resize, from the network's input to the picture, as in the reference.
    scores = fit(scores, (height, width))
    return scores.flip(3) if flip else scores


def whole_scores(model: FCNHRNet, x: Tensor) -> Tensor:
    """Score normalised pictures (N, 3, H, W) at once: (N, classes, H, W) float32."""
    return fit(model.decode_head(model.backbone(x)).float(), x.shape[-2:])


def slide_scores(model: FCNHRNet, x: Tensor, side: int, stride: int) -> Tensor:
    """Score normalised pictures window by window, and average where windows overlap.

    The last window of a row or column is shifted back inside; a side shorter than the window is used whole.

    Args:
        model: the network, in eval mode.
        x: (N, 3, H, W).
        side: of the window, in pixels.
        stride: between windows, in pixels.

    Returns:
        (N, classes, H, W) float32.

    """
    height, width = x.shape[-2:]
    total = x.new_zeros((x.shape[0], len(model.classes), height, width), dtype=torch.float32)
    count = x.new_zeros((1, 1, height, width), dtype=torch.float32)
    for rows, columns in product(_windows(height, side, stride), _windows(width, side, stride)):
        total[..., rows, columns] += whole_scores(model, x[..., rows, columns])
        count[..., rows, columns] += 1
    return total / count


def _windows(length: int, side: int, stride: int) -> list[slice]:
    """Cover `length` pixels: 1000 by 480 every 320 gives 0-480, 320-800, 520-1000."""
    number = -(-max(length - side, 0) // stride) + 1
    starts = (max(min(i * stride, length - side), 0) for i in range(number))
    return [slice(start, min(start + side, length)) for start in starts]


@contextmanager
def _evaluating(model: FCNHRNet) -> Iterator[None]:
    """Leave gradients and training behaviour out, and the model as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True
