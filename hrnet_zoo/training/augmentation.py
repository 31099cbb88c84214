"""Random resize, crop, flip and photometric distortion of labeled images; collation into batches.

Steps and order are mmsegmentation's: Resize, RandomCrop, RandomFlip, PhotoMetricDistortion, Normalize, Pad.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from hrnet_zoo.datasets.label_rules import IGNORE_INDEX
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.images.bands import Pixels
from hrnet_zoo.images.preprocess import keep_ratio_size, normalize, resize
from hrnet_zoo.images.read import RGB
from hrnet_zoo.training.config import config_error, name_of

Labels = npt.NDArray[np.uint8]
Pair = tuple[Pixels, Labels]
# Of an image (H, W, 3) uint8 RGB or (H, W, bands) float32, its labels (H, W) uint8, and the only source of chance.
Augment = Callable[[Pixels, Labels, np.random.Generator], Pair]

# The values of mmsegmentation's training configs.
RATIOS = (0.5, 2.0)  # factors on `resize_to`
MAX_SHARE_OF_A_CLASS = 0.75  # of a crop's labeled pixels
CROP_TRIES = 10
BRIGHTNESS = 32  # levels of 255, added
CONTRAST = SATURATION = (0.5, 1.5)  # factors
HUE = 18 / 180  # turns


def augment(
    image: Pixels, labels: Labels, *, resize_to: tuple[int, int], crop: tuple[int, int], rng: np.random.Generator
) -> Pair:
    """Draw a training sample from an image (H, W, 3) uint8 RGB and its labels (H, W) uint8, 255 ignored.

    The image is resized to fit into 0.5 to 2 times `resize_to` (long side, short side), and cropped to `crop` (height,
    width): up to ten more tries, until no class has 75 % of the labeled pixels. Then, with a probability of one half
    each, it is flipped, its brightness shifted by up to 32 levels, contrast and saturation scaled by 0.5 to 1.5, and
    its hue rotated by up to a tenth of the circle. Of an image (H, W, bands) float32 the values stay as they are, for
    what they mean is not known. The same state of `rng` gives the same sample, bit for bit.

    Where the resized image is smaller than the crop, so is the sample: `collate` pads.
    """
    ratio = rng.uniform(*RATIOS)
    image, labels = _random_crop(image, labels, (int(resize_to[0] * ratio), int(resize_to[1] * ratio)), crop, rng)
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    image, labels = np.ascontiguousarray(image), np.ascontiguousarray(labels)
    return _distort(image, rng) if image.dtype == np.uint8 else image, labels


@dataclass(frozen=True)
class OwnAugmentation:
    """A function of the user's that augments after ours, or in its place; what it returns is checked."""

    function: Augment
    replaces: bool
    classes: int

    def __call__(
        self,
        image: Pixels,
        labels: Labels,
        *,
        resize_to: tuple[int, int],
        crop: tuple[int, int],
        rng: np.random.Generator,
    ) -> Pair:
        """Do what `augment` does; raise ConfigError if the function fails, or returns what cannot be trained on."""
        if not self.replaces:
            image, labels = augment(image, labels, resize_to=resize_to, crop=crop, rng=rng)
        try:
            made: Any = self.function(np.require(image, requirements="W"), np.require(labels, requirements="W"), rng)
        except Exception as error:
            raise self._error(f"it raised {type(error).__name__}: {error}") from error
        types = [type(each).__name__ for each in made] if isinstance(made, tuple | list) else type(made).__name__
        if types != ["ndarray", "ndarray"]:
            raise self._error(f"it returned {types}, and not two NumPy arrays, image and labels")
        for what, old, new in (("image", image, made[0]), ("labels", labels, made[1])):
            if (new.dtype, new.ndim, new.shape[2:]) != (old.dtype, old.ndim, old.shape[2:]):
                raise self._error(f"the {what} became {_shown(new)}, from {_shown(old)}")
        if made[0].shape[:2] != made[1].shape:
            raise self._error(f"the image became {_shown(made[0])}, and the labels {_shown(made[1])}")
        if not made[1].size or made[1].shape[0] > crop[0] or made[1].shape[1] > crop[1]:
            raise self._error(f"it returned {_shown(made[0])}; the crop is {crop[0]} x {crop[1]}")
        values = np.flatnonzero(np.bincount(made[1].ravel(), minlength=256))
        if (unknown := values[(values >= self.classes) & (values != IGNORE_INDEX)]).size:
            raise self._error(f"the labels have values of no class: {', '.join(map(str, unknown[:20]))}")
        return made[0], made[1]

    def _error(self, found: str) -> ConfigError:
        advice = (
            "return image and labels of the types that came, of one size, at most the crop; never interpolate labels"
        )
        return config_error(f"with augment={name_of(self.function)}", found, advice)


def _shown(array: npt.NDArray[Any]) -> str:
    return f"{' x '.join(map(str, array.shape))} {array.dtype}"


def collate(
    pairs: Sequence[Pair], crop: tuple[int, int], mean: Sequence[float] = (), std: Sequence[float] = ()
) -> tuple[Tensor, Tensor]:
    """Make a batch: normalize images, pad them at the right and bottom with 0, and labels with 255, to `crop`.

    Returns images (N, C, height, width) float32, channels last in memory, and labels (N, height, width) int64.
    """
    images = torch.zeros((len(pairs), *crop, len(mean) or 3), dtype=torch.float32, device="cpu").permute(0, 3, 1, 2)
    truths = torch.full((len(pairs), *crop), IGNORE_INDEX, dtype=torch.int64, device="cpu")
    for index, (image, labels) in enumerate(pairs):
        height, width = labels.shape
        images[index, :, :height, :width] = normalize(image, mean, std)[0]
        truths[index, :height, :width] = torch.from_numpy(labels)
    return images, truths


def _random_crop(
    image: Pixels, labels: Labels, resize_to: tuple[int, int], crop: tuple[int, int], rng: np.random.Generator
) -> Pair:
    """Return a random crop of the resized image; only the source pixels of the crop are resized."""
    old = image.shape[:2]
    new = keep_ratio_size(old[0], old[1], (max(1, resize_to[0]), max(1, resize_to[1])))
    height, width = (min(sides) for sides in zip(new, crop, strict=True))
    rows = min(old[0], max(1, round(height * old[0] / new[0])))
    columns = min(old[1], max(1, round(width * old[1] / new[1])))
    # Nearest source pixel by centers; OpenCV's, which mmsegmentation uses, is up to a pixel further left and up.
    ys = (2 * np.arange(height) + 1) * rows // (2 * height)
    xs = (2 * np.arange(width) + 1) * columns // (2 * width)
    # As in mmsegmentation: up to eleven crops; the last one is taken unconditionally.
    for attempt in range(CROP_TRIES + 1):
        top, left = int(rng.integers(old[0] - rows + 1)), int(rng.integers(old[1] - columns + 1))
        part = labels[top + ys].take(left + xs, axis=1)
        if attempt == CROP_TRIES or _is_varied(part) or (rows, columns) == old:  # every try is the whole image
            break
    return resize(image[top : top + rows, left : left + columns], height, width), part


def _is_varied(labels: Labels) -> bool:
    """Tell whether no class has 75 % or more of the labeled pixels."""
    counts = Image.fromarray(labels).histogram()[:IGNORE_INDEX]  # three times as fast as np.bincount
    return max(counts) < MAX_SHARE_OF_A_CLASS * sum(counts)


def _distort(image: RGB, rng: np.random.Generator) -> RGB:
    """Change brightness, contrast, saturation and hue; contrast comes first or last."""
    pil_image = Image.fromarray(image)
    levels = np.arange(256.0)
    if rng.random() < 0.5:
        pil_image = pil_image.point(_table(levels + rng.uniform(-BRIGHTNESS, BRIGHTNESS)) * 3)
    contrast = _table(levels * rng.uniform(*CONTRAST)) * 3 if rng.random() < 0.5 else None
    contrast_first = rng.random() < 0.5
    saturation = _table(levels * rng.uniform(*SATURATION)) if rng.random() < 0.5 else None
    # Pillow's color circle has 255 steps: 0 and 255 are both red.
    turn = round(255 * rng.uniform(-HUE, HUE)) if rng.random() < 0.5 else 0
    if contrast and contrast_first:
        pil_image = pil_image.point(contrast)
    if saturation or turn:
        hue, same = [(level + turn) % 255 for level in range(256)], list(range(256))
        pil_image = pil_image.convert("HSV").point([*hue, *(saturation or same), *same]).convert("RGB")
    if contrast and not contrast_first:
        pil_image = pil_image.point(contrast)
    return np.asarray(pil_image)


def _table(levels: npt.NDArray[np.float64]) -> list[int]:
    table: list[int] = np.rint(levels.clip(0, 255)).astype(int).tolist()
    return table
