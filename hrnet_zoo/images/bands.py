"""Images of other bands than 8-bit RGB, in their own values: TIFF and .npy files, and arrays."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from hrnet_zoo.images import tiff
from hrnet_zoo.images.formats import check_size, image_errors, open_file, source_name
from hrnet_zoo.images.tiff import refusal

Bands: TypeAlias = npt.NDArray[np.float32]
Pixels: TypeAlias = npt.NDArray[Any]  # (height, width, 3) uint8 RGB, or (height, width, bands) float32 in other values

NPY = np.lib.format.MAGIC_PREFIX  # the first bytes of a .npy file
SUFFIXES = (".tif", ".tiff", ".npy")
SHOWN = 2  # standard deviations from the mean that are black and white in a view

_logger = logging.getLogger("hrnet_zoo")
_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class BandsHeader(NamedTuple):
    """What is known of a file before its values are decoded, as of `hrnet_zoo.images.formats.ImageHeader`."""

    displayed: tuple[int, int]  # width and height; the orientation that a TIFF states is not applied
    decode: Callable[[], Bands]
    several: bool = False  # there are further images, which are not read


def read_bands(image: object, bands: Sequence[str]) -> Bands:
    """Return the values of an image as a new (height, width, bands) float32 array.

    Args:
        image: path of a TIFF or .npy file, told apart by their content, or an array: (height, width, bands), for one
            band also (height, width), of integers or floating point.
        bands: the names of the bands, whose number must be that of the image; for messages.

    Raises:
        ImageError: missing, damaged, neither TIFF nor .npy, of another number of bands, with values that are no numbers
            or not finite.
        ImageTooLargeError: a file of more than `MAX_PIXELS`.

    """
    if isinstance(image, np.ndarray):
        with image_errors(f"an array of dtype {image.dtype} and shape {image.shape}"):
            _check(image.shape, image.dtype, bands)
            if np.ma.is_masked(image):
                raise refusal("masked values", "fill them (values.filled), and label such pixels with 255")
            return _finite(image, bands)
    if not isinstance(image, str | os.PathLike):
        given = f"an object of type {type(image).__qualname__}"
        with image_errors(given):
            raise refusal(given, f"pass a path, or an array (height, width, {len(bands)}): {', '.join(bands)}")
    path = os.fsdecode(image)
    with open_bands(path, bands) as header:
        if header.several:
            _logger.warning("%s holds several images; the first one was taken", source_name(path))
        return header.decode()


@contextmanager
def open_bands(path: str | Path, bands: Sequence[str]) -> Iterator[BandsHeader]:
    """Open a file as `read_bands` does, its values not decoded yet."""
    with image_errors(source_name(path)), open_file(Path(path)) as stream:
        start = stream.read(6)
        stream.seek(0)
        if start == NPY:
            yield _open_npy(stream, bands)
        elif start[:4] in tiff.STARTS:
            page, count, several = tiff.bands_page(stream)
            _check((*page.size[::-1], count), np.dtype(np.uint8), bands)
            check_size(page.size)
            yield BandsHeader(page.size, lambda: _finite(tiff.read_values(stream, page), bands, copy=False), several)
        else:
            advice = f"save it by numpy.save, as an array (height, width, {len(bands)}): {', '.join(bands)}"
            raise refusal(f"neither a TIFF nor a .npy file; it begins with {start!r}", advice)


def _open_npy(stream: IO[bytes], bands: Sequence[str]) -> BandsHeader:
    try:
        shape, fortran, dtype = _NPY_HEADERS[np.lib.format.read_magic(stream)](stream)
    except TokenError as error:  # of NumPy's second try
        raise EOFError(f"a header that is no Python literal: {error}") from error
    _check(shape, dtype, bands)
    check_size((shape[1], shape[0]))
    place, number = stream.tell(), math.prod(shape)
    if stream.seek(0, os.SEEK_END) - place != number * dtype.itemsize:  # before memory is taken for it
        raise EOFError(f"not as many bytes as {' x '.join(map(str, shape))} values have")

    def decode() -> Bands:
        stream.seek(place)
        values = np.frombuffer(stream.read(number * dtype.itemsize), dtype)
        return _finite(values.reshape(shape, order="F" if fortran else "C"), bands)

    return BandsHeader((shape[1], shape[0]), decode)


def _check(shape: tuple[int, ...], dtype: np.dtype[Any], bands: Sequence[str]) -> None:
    """Refuse another number of bands, and values that are no real numbers."""
    count, wanted = len(bands), f"{len(bands)} band{'s' * (len(bands) > 1)} ({', '.join(bands)})"
    if (len(shape), *shape[2:]) not in ((3, count), (2,) if count == 1 else ()):
        found = f"the shape {' x '.join(map(str, shape))} where height, width and {wanted} are expected"
        raise refusal(found, "name its bands in order; np.moveaxis(array, 0, -1) puts bands last")
    if min(shape) < 1:
        raise refusal(f"no pixels ({' x '.join(map(str, shape))})", "pass an image of at least 1 x 1 pixel")
    if dtype.kind not in "uif":
        raise refusal(f"values of dtype {dtype}", "convert them to integers or floating point")


def _finite(values: npt.NDArray[Any], bands: Sequence[str], *, copy: bool = True) -> Bands:
    """Return values as a new array (height, width, bands), unless one is infinite or not a number.

    A large array of float32 that is new already needs no copy.
    """
    with np.errstate(over="ignore"):  # float64 may be infinite as float32
        found = np.array(values.reshape(*values.shape[:2], len(bands)), np.float32, order="C", copy=copy)
    if not np.isfinite(found).all():
        wrong = [name for index, name in enumerate(bands) if not np.isfinite(found[..., index]).all()]
        advice = (
            "write the band's mean in their place (np.nan_to_num(values, nan=mean)), and label such pixels with 255"
        )
        raise refusal(f"values that are infinite or not a number: {', '.join(wrong)}", advice)
    return found


def resize_bands(values: Bands, height: int, width: int) -> Bands:
    """Return an image resized to (height, width, bands): bilinear, half-pixel centers, no antialiasing, in float32."""
    for axis, new in enumerate((height, width)):
        old = values.shape[axis]
        if old != new:
            places = (np.arange(new) + 0.5) * (old / new) - 0.5
            first = np.floor(places).astype(np.intp)
            weight = np.float32(places - first).reshape(new, *(1,) * (2 - axis))
            one, other = (values.take((first + step).clip(0, old - 1), axis) for step in (0, 1))
            other -= one
            other *= weight
            one += other
            values = one
    return values


def view_bands(
    values: Bands, bands: Sequence[str], mean: Sequence[float], std: Sequence[float]
) -> npt.NDArray[np.uint8]:
    """Return an image to look at, (height, width, 3) uint8: mean - 2 std becomes 0, mean + 2 std 255.

    It shows the bands red, green and blue if all are there, else the first three; of one or two the first, in gray.
    """
    names = [name.casefold() for name in bands]
    colors = [names.index(color) for color in ("red", "green", "blue") if color in names]
    shown = colors if len(colors) == 3 else [0, 1, 2] if len(bands) > 2 else [0, 0, 0]
    middle, scale = (np.asarray(each, np.float32)[shown] for each in (mean, std))
    scaled = values[..., shown]
    scaled -= middle
    scaled *= np.float32(127.5 / SHOWN) / scale
    scaled += np.float32(127.5)
    return np.rint(scaled, out=scaled).clip(0, 255, out=scaled).astype(np.uint8)


def measure_bands(images: Iterable[str | Path], bands: Sequence[str]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each band over all pixels of some files, to six digits."""
    number, total, squares = 0, np.zeros(len(bands)), np.zeros(len(bands))
    for path in images:
        values = read_bands(path, bands).reshape(-1, len(bands)).astype(np.float64)
        number += len(values)
        total += values.sum(axis=0)
        squares += (values**2).sum(axis=0)
    mean = total / number
    std = np.sqrt(np.maximum(squares / number - mean**2, 0))
    rounded = [[float(f"{each:.6g}") for each in some] for some in (mean, std)]
    return rounded[0], rounded[1]
