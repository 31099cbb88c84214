"""Any image as an RGB array: files, their bytes, PIL images, arrays and tensors.

Color order is RGB and channels come last, 0-255, everywhere but in the tensor that the network receives.
"""

import logging
import os
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps

from hrnet_zoo.errors import ConfigError, ImageError, printable
from hrnet_zoo.images.formats import (
    DECODER_FAULTS,
    ImageHeader,
    check_size,
    image_errors,
    open_image,
    source_name,
)
from hrnet_zoo.images.tiff import refusal, scale_to_uint8

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any] | torch.Tensor
RGB: TypeAlias = npt.NDArray[np.uint8]

DARK = 16  # a sixteenth of the range, where values of 12 bits in 16 end
BACKGROUND = (255, 255, 255)  # what shows through transparent pixels: white, as on a page or in most viewers

_PIXELS_AT_ONCE = 1 << 20  # converted together
_ARRAYS = "a uint8 array of shape (height, width, 3) RGB, (height, width) gray or (height, width, 4) RGBA"
_TENSORS = "a uint8 tensor of shape (3, height, width) RGB"
_logger = logging.getLogger("hrnet_zoo")


def read_image(image: ImageLike, color: Literal["rgb", "bgr"] = "rgb") -> RGB:
    """Return any image as a new (height, width, 3) uint8 RGB array, C-contiguous, oriented as displayed.

    Files are JPEG, MPO, PNG, WebP, BMP, TIFF, GIF, PPM or AVIF, whatever their names. EXIF orientation is applied, an
    ICC profile is not. Of animations and pages the first image is taken, with a warning; reduced copies in a TIFF
    (overviews) are passed over. Limits beside `MAX_PIXELS` are in `hrnet_zoo.images.formats`; no encoder reaches them.

    Modes of files and PIL images:
        1, L, P: gray or palette to RGB. YCbCr, CMYK: Pillow's conversion, Adobe's inversion undone.
        RGBA, LA, PA and whatever has a transparent color: composited on white, rounded to the nearest level.
        I;16 (16-bit gray): v / 257, rounded. 16 bits a channel in color or with alpha, but in TIFF: Pillow keeps the
        high byte, which is at most one level off. If none is above a sixteenth of the range, a warning says so.
        All others (I, F, LAB, HSV, ...): refused.
    TIFF:
        Bands beyond RGB are alpha only where ExtraSamples says so (1 or 2), and ignored else, such as near infrared.
        Three or four bands that are called gray: the first three, with a warning. 16 bits: round(255 v / white), where
        white is MaxSampleValue or SMaxSampleValue if the file states one. More gray bands, floating point, signed or
        32-bit values: refused.

    Args:
        image: a path, a file's bytes, a PIL image, a uint8 array (height, width, 3) RGB, (height, width) gray or
            (height, width, 4) RGBA, or a uint8 tensor (3, height, width) RGB on any device.
        color: the order of an array's or tensor's channels, "rgb" (RGBA) or "bgr" (BGRA), as OpenCV reads files.

    Raises:
        ImageError: missing, not a regular file, damaged, of a format, mode, dtype or shape that is not listed above,
            without pixels, or more work than any honest file.
        ImageTooLargeError: more than `MAX_PIXELS` in a file or PIL image.
        ConfigError: `color` is neither.

    """
    if color not in ("rgb", "bgr"):
        raise ConfigError(
            asked=f"read an image with color={color!r}",
            found="color is 'rgb' or 'bgr'",
            done="nothing was read",
            advice="use one of these, or leave color out",
        )
    try:
        if isinstance(image, np.ndarray):
            return _from_array(image, bgr=color == "bgr")
        if isinstance(image, torch.Tensor):
            return _from_tensor(image, bgr=color == "bgr")
        if isinstance(image, Image.Image):
            return _from_pil(image)
        if isinstance(image, bytes):
            return _from_file(image)
        if isinstance(image, str | os.PathLike):
            return _from_file(os.fsdecode(image))
        given = f"an object of type {type(image).__module__}.{type(image).__qualname__}"
        with image_errors(given):
            raise refusal(given, f"pass a path, the file's bytes, a PIL image, {_ARRAYS}, or {_TENSORS}")
    except ImageError as error:
        # An error may be kept for long, as with on_error="skip": without what it refers to, which holds pixels.
        error.__cause__ = error.__context__ = None
        raise error.with_traceback(None) from None


def _from_file(image: str | bytes) -> RGB:
    source = printable(source_name(image))
    with open_image(image) as header:
        rgb = _to_rgb(_turned(header, source))
    if header.several:
        _logger.warning("%s holds several images; the first one was taken", source)
    if header.colors_unknown:
        _logger.warning("%s does not say which band is which color; the first three were taken for RGB", source)
    if header.bits == 16 and rgb.max() <= DARK:
        _logger.warning(
            "%s has 16-bit values of which none is above a sixteenth of their range, and is nearly black; if its white "
            "is lower (4095 of 12 bits), pass (x * (255 / 4095)).round().clip(0, 255).astype('uint8') as an array",
            source,
        )
    return rgb


def _turned(header: ImageHeader, source: str) -> Image.Image:
    """Decode a file's pixels and turn them as EXIF says, in place: two copies of 64 megapixels are half a gigabyte."""
    image = header.decode()
    if header.orientation is None:  # the pixels are whole: cameras and editors do write broken EXIF
        _logger.warning("%s has broken EXIF data and was taken as it is stored", source)
    elif header.orientation > 1:
        image.getexif()[ExifTags.Base.Orientation] = header.orientation
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _from_pil(image: Image.Image) -> RGB:
    with image_errors("a PIL image"):
        check_size(image.size, image.mode)
        image.load()
        try:
            if image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9):
                image = ImageOps.exif_transpose(image)
        except DECODER_FAULTS as error:
            _logger.warning("a PIL image has broken EXIF data (%s) and was taken as it is stored", printable(error))
        return _to_rgb(image)


def _to_rgb(image: Image.Image) -> RGB:
    width, height = image.size
    transparent = image.has_transparency_data
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, _PIXELS_AT_ONCE // width)
    for top in range(0, height, rows):  # Pillow's conversions make copies of four bytes a pixel
        bottom = min(top + rows, height)
        part = image if rows >= height else image.crop((0, top, width, bottom))
        if image.mode.startswith("I;16"):
            values = np.asarray(part)
            gray = scale_to_uint8(values, 65535)
            if "transparency" in image.info:
                gray[values == image.info["transparency"]] = BACKGROUND[0]
            rgb[top:bottom] = gray[:, :, None]
            continue
        if transparent:
            rgba = part.convert("RGBA")
            part = Image.new("RGB", rgba.size, BACKGROUND)
            part.paste(rgba, mask=rgba)
        rgb[top:bottom] = np.asarray(part.convert("RGB"))
    return rgb


def _from_array(array: npt.NDArray[Any], bgr: bool) -> RGB:
    kind = f"dtype {array.dtype} and shape {array.shape}"
    with image_errors(f"an array of {kind}"):
        _check_values(str(array.dtype), kind, array.size)
        if array.ndim == 2:
            return np.repeat(array[:, :, None], 3, axis=2)
        if array.ndim == 3 and array.shape[2] == 3:
            order = array[:, :, ::-1] if bgr else array
            return np.array(order, order="C")  # a copy: the caller may fill the next video frame into the array
        if array.ndim == 3 and array.shape[2] == 4:
            array = array[:, :, (2, 1, 0, 3)] if bgr else array
            return _to_rgb(Image.fromarray(np.ascontiguousarray(array)))
        raise refusal(kind, f"pass {_ARRAYS}; np.moveaxis(array, 0, -1) puts channels last; of several, a list")


def _from_tensor(tensor: torch.Tensor, bgr: bool) -> RGB:
    dtype = str(tensor.dtype).removeprefix("torch.")
    kind = f"dtype {dtype} and shape {tuple(tensor.shape)}"
    with image_errors(f"a tensor of {kind}"):
        _check_values(dtype, kind, tensor.numel())
        if tensor.layout is not torch.strided or tensor.is_meta:
            raise refusal(f"layout {tensor.layout} on device {tensor.device}", "pass a dense tensor with data")
        if tensor.ndim == 3 and tensor.shape[0] == 3:
            return _from_array(tensor.permute(1, 2, 0).cpu().numpy(), bgr)
        raise refusal(kind, f"pass {_TENSORS}; tensor.permute(2, 0, 1) puts channels first; of several, a list")


def _check_values(dtype: str, kind: str, size: int) -> None:
    if dtype != "uint8":
        advice = "scale its values to 0..255, as (x * 255).round().clip(0, 255) does those of 0..1 (x / 257 those of "
        raise refusal(kind, f"{advice}16 bits), and convert it to uint8")
    if size == 0:
        raise refusal(f"no pixels ({kind})", "pass an image of at least 1 x 1 pixel")
