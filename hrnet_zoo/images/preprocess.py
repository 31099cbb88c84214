"""Image -> network input: resize with the aspect ratio kept, normalize by ImageNet's mean and std."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from hrnet_zoo.images.bands import Pixels, resize_bands

# Of ImageNet, on 0-255 RGB; facts of the published checkpoints' training.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

_ROWS_AT_ONCE = 64  # rows resized together: their intermediate values stay in the processor's cache


def keep_ratio_size(height: int, width: int, box: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) that fits into `box` (long side, short side) with the ratio kept, at least 1."""
    long, short = max(box), min(box)
    scale = min(long / max(height, width), short / min(height, width))
    # Rounded as the reference does.
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Return an (h, w, channels) uint8 image resized to (height, width, channels), bit for bit as `cv2.resize` does.

    Bilinear (INTER_LINEAR), half-pixel centers, no antialiasing, OpenCV's fixed point: the published numbers were made
    with it, and a float resize moves the logits by 1 %. Source positions are float32, weights have 11 bits, 4 bits are
    dropped after the horizontal pass, 16 from each vertical product, 2 (rounded) at the end. Compared with OpenCV 4.14
    and 5.0 on x86, 1000 pairs of sizes: no value differs. An image that has the size already is returned itself. One of
    float32 is resized by `resize_bands`.
    """
    rows, columns, channels = image.shape
    if (rows, columns) == (height, width):
        return image
    if image.dtype == np.float32:
        return resize_bands(image, height, width)
    left, right_weight = _source_positions(columns, width)
    pixels = (np.clip(left + step, 0, columns - 1)[:, None] for step in (0, 1))
    x0, x1 = ((pixel * channels + np.arange(channels)).ravel() for pixel in pixels)  # places in a row of values
    w0, w1 = (np.repeat(weights, channels) for weights in _fixed_point(right_weight))
    top, bottom_weight = _source_positions(rows, height)
    y0, y1 = np.clip(top, 0, rows - 1), np.clip(top + 1, 0, rows - 1)
    v0, v1 = (weights[:, None] for weights in _fixed_point(bottom_weight))

    flat = image.reshape(rows, columns * channels)
    resized = np.empty((height, width * channels), np.uint8)
    for start in range(0, height, _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        needed, places = np.unique(np.concatenate((y0[part], y1[part])), return_inverse=True)
        above, below = np.split(places, 2)
        source = flat[needed]
        horizontal = source.take(x0, axis=1) * w0  # uint8 * int32 -> int32
        horizontal += source.take(x1, axis=1) * w1
        horizontal >>= 4
        total = horizontal[above] * v0[part]
        total >>= 16
        other = horizontal[below] * v1[part]
        other >>= 16
        total += other
        total += 2
        total >>= 2
        resized[part] = total
    return resized.reshape(height, width, channels)


def normalize(image: Pixels, mean: Sequence[float] = (), std: Sequence[float] = ()) -> torch.Tensor:
    """Return an image (height, width, C) as (1, C, height, width) float32, (image - mean) / std.

    Without `mean` and `std` it is uint8 RGB, and they are ImageNet's. The memory order is channels last, which is the
    network's, and costs nothing here.
    """
    height, width, channels = image.shape
    # Whole rows at once: broadcasting over a last axis of 3 is ten times slower.
    means, stds = (np.tile(np.asarray(constant, np.float32), width) for constant in (mean or MEAN, std or STD))
    values = np.subtract(image.reshape(height, width * channels), means, dtype=np.float32)
    values = np.divide(values, stds, out=values)
    return torch.from_numpy(values).view(1, height, width, channels).permute(0, 3, 1, 2)


def normalize_on(
    image: Pixels, device: torch.device, mean: Sequence[float] = (), std: Sequence[float] = ()
) -> torch.Tensor:
    """Normalize on a device, with the same bits as `normalize`.

    CUDA receives the bytes of RGB, a quarter of the floats, from pinned memory, and the copy is not waited for.
    """
    if device.type != "cuda" or mean:
        return normalize(image, mean, std).to(device)
    return _normalize_there(torch.from_numpy(image).pin_memory().to(device, non_blocking=True))


def _normalize_there(pixels: torch.Tensor) -> torch.Tensor:
    """Normalize (height, width, 3) uint8 as `normalize` does, where they are."""
    height, width, _ = pixels.shape
    # Tensors, whole rows: by a number CUDA would not divide but multiply by its reciprocal, and round otherwise.
    mean, std = (torch.tensor(each, dtype=torch.float32, device=pixels.device).repeat(width) for each in (MEAN, STD))
    values = pixels.reshape(height, width * 3).to(torch.float32).sub_(mean).div_(std)
    return values.view(1, height, width, 3).permute(0, 3, 1, 2)


def _source_positions(old: int, new: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Return for each of `new` pixels the index of its first source pixel (-1 to old - 1) and the second's share."""
    scale = 1.0 / (new / old)  # and not old / new, whose last bit may differ
    centers = ((np.arange(new) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(centers)
    return first.astype(np.intp), centers - first


def _fixed_point(share: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return the weights (first, second) in 1/2048, each rounded half to even."""
    scale = np.float32(2048)
    return np.rint((1 - share) * scale).astype(np.int32), np.rint(share * scale).astype(np.int32)
