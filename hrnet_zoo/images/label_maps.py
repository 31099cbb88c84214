"""Label maps: images whose values are classes, read as stored and never converted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from hrnet_zoo.errors import DatasetError
from hrnet_zoo.images.formats import ImageHeader, open_image

_LOSSLESS = ("PNG", "BMP", "GIF", "TIFF")  # not PGM, whose values are scaled


def read_labels(path: Path) -> npt.NDArray[np.uint8]:
    """Return the values of a label map as stored, (H, W) uint8: palette indices or gray values.

    PNG, BMP, GIF and TIFF of up to 8 bits; of 1-bit files the values are 0 and 1. The content decides, not the name's
    ending. All checksums of a PNG are verified. The EXIF orientation of a label map is not applied.

    Raises:
        DatasetError: not a label file: colors, more than 8 bits, lossy, several images.
        ImageError: as `hrnet_zoo.images.formats.open_image`.

    """
    return read_label_image(path)[0]


def read_label_image(path: Path) -> tuple[npt.NDArray[np.uint8], Image.Image]:
    """Return the values as `read_labels` does, and the PIL image for its palette."""
    with open_image(path) as header:
        _check(header, path)
        image = header.decode()
    values = np.asarray(image).astype(np.uint8)  # True becomes 1
    if header.mode == "L" and header.bits < 8:  # which Pillow has stretched to 0-255
        values //= np.uint8(255 // ((1 << header.bits) - 1))
    return values, image


def _check(header: ImageHeader, path: Path) -> None:
    """Refuse an image that cannot hold labels."""
    if header.format not in _LOSSLESS:
        fault, advice = f"{header.format} mask", "lossy or scaled values are no labels: export them anew as 8-bit PNG"
    elif header.mode.startswith("I"):
        fault, advice = "16-bit mask", "if no value is above 255, save np.asarray(image).astype('uint8') as PNG"
    elif header.mode not in ("1", "L", "P"):
        fault = f"{header.mode} mask"
        advice = (
            "a label file has one channel of class numbers: `hrnet-zoo prepare color-masks SRC DST` maps colors to them"
        )
    elif header.inverted and header.mode != "P":
        fault, advice = "inverted mask", "its gray values run backwards (WhiteIsZero): save it anew as 8-bit PNG"
    elif header.several:
        fault, advice = "mask with several images", "save one image to a file"
    else:
        return
    raise DatasetError(asked=f"read labels: {path}", found=fault, done="no value was taken", advice=advice, path=path)
