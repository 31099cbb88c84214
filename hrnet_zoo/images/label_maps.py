"""Label files in: images whose values are classes, read as they are stored and never converted."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hrnet_zoo.errors import DatasetError, ImageError, ImageTooLargeError
from hrnet_zoo.images import headers as image_files
from hrnet_zoo.images.headers import FORMATS, MAX_PIXELS, ImageHeader
from hrnet_zoo.images.read import DECODER_FAULTS
from hrnet_zoo.images.tiff import NotReadError

EMPTY = "an empty file"  # what errors about a file of zero bytes have as `found`

_LOSSLESS = ("PNG", "BMP", "GIF", "TIFF")  # not PGM, whose values Pillow stretches
_STRETCHED = {"L;2": 85, "L;4": 17}  # so does it with gray of 2 and 4 bits: to 0-255, by these factors


def read_labels(path: Path) -> npt.NDArray[np.uint8]:
    """Return the values of a label file as they are stored, (H, W) uint8: palette indices, or gray values.

    PNG, BMP, GIF and TIFF of up to 8 bits; of 1-bit files the values are 0 and 1. The content decides, not the name's
    ending. A PNG's checksums are verified, also those of the pixels. EXIF orientation of a label file is not applied.

    Raises:
        DatasetError: not a label file: colors, more than 8 bits, lossy, several images.
        ImageError: missing, empty, not a regular file, damaged, or of a format that is not read.
        ImageTooLargeError: more pixels than an image may have.

    """
    with open_header(path, whole=True) as header:
        if fault := label_fault(header):
            kind, advice = fault
            asked, done = f"read labels: {path}", "no value was taken"
            raise DatasetError(asked=asked, found=kind, done=done, advice=advice, path=path)
        factor = _STRETCHED.get(_storage(header), 1)
        values = np.asarray(header.load()).astype(np.uint8)  # True becomes 1
    return values // np.uint8(factor) if factor > 1 else values


def label_fault(header: ImageHeader) -> tuple[str, str] | None:
    """Say from its header why an image cannot hold labels, as (kind, advice); None if it can."""
    if header.format not in _LOSSLESS:
        return f"{header.format} mask", "the format does not keep values exactly: export the labels anew as 8-bit PNG"
    if header.mode == "F":
        return "float mask", "labels are whole numbers of 8 bits: save np.asarray(image).astype('uint8') as PNG"
    if header.mode.startswith("I"):
        return "16-bit mask", "labels have 8 bits: if no value is above 255, save np.asarray(image).astype('uint8')"
    if header.mode not in ("1", "L", "P"):
        advice = "a label file has one channel that holds class numbers: export it so, or map its colors to numbers"
        return f"{header.mode} mask", advice
    if "I" in _storage(header).partition(";")[2]:
        return "inverted mask", "its gray values run backwards (WhiteIsZero): save it anew as 8-bit PNG"
    if header.several:
        return "mask with several images", "save one image to a file"
    return None


@contextlib.contextmanager
def open_header(path: Path, *, whole: bool = False) -> Iterator[ImageHeader]:
    """Open an image or label file, its pixels not decoded yet; what Pillow raises in the block is told of the file.

    Args:
        path: of the file.
        whole: see `hrnet_zoo.images.headers.open_header`.

    Raises:
        ImageError: missing, empty, not a regular file, damaged, or of a kind that is not read.
        ImageTooLargeError: more than `hrnet_zoo.images.read.MAX_PIXELS`.

    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # before opening: a pipe would block for ever
            raise _unreadable(path, "not a regular file")
        with path.open("rb") as stream:
            header = image_files.open_header(stream, whole=whole)
            if header is None:
                stream.seek(0)
                found = "none of the formats " + ", ".join(FORMATS) if stream.read(1) else EMPTY
                raise _unreadable(path, found)
            _check_size(path, header)
            yield header
    except NotReadError as error:
        raise _unreadable(path, error.found, error.advice) from error
    except DECODER_FAULTS as error:
        reason = isinstance(error, OSError) and error.strerror
        raise _unreadable(path, reason or f"damaged or incomplete data ({type(error).__name__}: {error})") from error


def _storage(header: ImageHeader) -> str:
    """Return Pillow's name of how the pixels are packed in the file, such as "L;4"."""
    tile = getattr(header.image, "tile", ())
    arguments = tile[0].args if tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _check_size(path: Path, header: ImageHeader) -> None:
    width, height = header.size
    if width * height > MAX_PIXELS:
        raise ImageTooLargeError(
            asked=f"read {path}",
            found=f"{width} x {height} pixels; the limit is {MAX_PIXELS:,}",
            done="nothing was decoded",
            advice="make it smaller, or cut it",
            source=str(path),
            width=width,
            height=height,
            limit=MAX_PIXELS,
        )


def _unreadable(
    path: Path, found: str, advice: str = "fetch or export the file anew; parts of a damaged file are never used"
) -> ImageError:
    return ImageError(asked=f"read {path}", found=found, done="nothing was taken", advice=advice, source=str(path))
