"""Images in and out of arrays: any file or array -> RGB, keep-ratio resize, normalize.

Color order is RGB and channels come last, 0-255, everywhere but in the tensor that the network receives.
"""

import io
import logging
import os
import re
import stat
import struct
import zlib
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps

from hrnet_zoo.errors import (
    ConfigError,
    ImageError,
    ImageTooLargeError,
    printable,
)
from hrnet_zoo.images.headers import FORMATS, MAX_PIXELS, ImageHeader, open_header
from hrnet_zoo.images.tiff import NotReadError, to_eight_bits

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any] | torch.Tensor
RGB: TypeAlias = npt.NDArray[np.uint8]

DARK = 16  # a sixteenth of the range, where values of 12 bits in 16 end
BACKGROUND = (255, 255, 255)  # what shows through transparent pixels: white, as on a page or in most viewers

# Of ImageNet, on 0-255 RGB; facts of the published checkpoints' training.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

_ALPHA_MODES = ("LA", "PA", "RGBA")
EIGHT_BIT_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", *_ALPHA_MODES)
# What Pillow's readers raise on damaged files; its warnings too are exceptions under `python -W error`.
_PYTHON_FAULTS = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
_OTHER_FAULTS = (AssertionError, EOFError, RuntimeError, MemoryError, struct.error, zlib.error)
DECODER_FAULTS = (*_PYTHON_FAULTS, *_OTHER_FAULTS, Image.DecompressionBombError, Warning)
_PIXELS_AT_ONCE = 1 << 20  # converted together
_ROWS_AT_ONCE = 64  # rows resized together: their intermediate values stay in the processor's cache
_logger = logging.getLogger("hrnet_zoo")


def read_image(image: ImageLike, color: Literal["rgb", "bgr"] = "rgb") -> RGB:
    """Return any image as a new (height, width, 3) uint8 RGB array, C-contiguous, oriented as displayed.

    Files (a path, or the file's content as bytes):
        JPEG, MPO, PNG, WebP, BMP, TIFF, GIF, PPM, AVIF. The content decides, not the name's ending. EXIF orientation
        is applied. Of animations and multi-page files the first image is taken, and a warning logged; reduced
        copies in a TIFF (overviews) are passed over. The size is checked from the header, before pixels are decoded.
        An ICC profile is ignored. Limits beside `MAX_PIXELS` stand in `hrnet_zoo.images.headers`; no encoder reaches
        them.
    Modes (of files and of PIL images):
        1, L, P: gray or palette to RGB. YCbCr, CMYK: Pillow's conversion, Adobe's inversion undone.
        RGBA, LA, PA and whatever has a transparent color: composited on white, rounded to the nearest level.
        I;16 (16-bit gray): v / 257, rounded. 16 bits a channel in color or with alpha, but in TIFF: Pillow keeps the
        high byte, which is at most one level off. If none is above a sixteenth of the range, a warning says so.
        All others (I, F, LAB, HSV, ...) have no one way to 0-255: refused.
    TIFF:
        Of files in RGB, the first three bands; others count as alpha only where ExtraSamples says so (1 or 2), and
        are ignored else, such as near infrared. Three or four bands that are called gray: the first three, with a
        warning. More bands, floating point, signed or 32-bit values: refused, with words on how to convert them.
        9 to 16 bits: round(255 v / white), where white is MaxSampleValue or SMaxSampleValue if the file states one,
        else the largest value of BitsPerSample.
    Arrays:
        uint8, (height, width, 3) RGB, (height, width) gray or (height, width, 4) RGBA. The order BGR, as OpenCV
        reads files, cannot be told from RGB: say `color="bgr"`.
    Tensors:
        uint8 (3, height, width) RGB on any device: one image, not a batch.

    Args:
        image: one of these.
        color: the order of an array's or tensor's channels, "rgb" (RGBA) or "bgr" (BGRA). Files and PIL images
            state theirs.

    Raises:
        ImageError: missing, not a regular file, damaged, of a format, mode, dtype or shape that is not listed above,
            without pixels, or more work than any honest file.
        ImageTooLargeError: more than `MAX_PIXELS` in a file or PIL image (arrays have no limit).
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
        return _read(image, bgr=color == "bgr")
    except ImageError as error:
        # An error may be kept for long, as with on_error="skip": without what it refers to, which holds pixels.
        error.__cause__ = error.__context__ = None
        raise error.with_traceback(None) from None


def _read(image: ImageLike, *, bgr: bool) -> RGB:
    if isinstance(image, np.ndarray):
        return _from_array(image, bgr)
    if isinstance(image, torch.Tensor):
        return _from_tensor(image, bgr)
    if isinstance(image, Image.Image):
        return _from_pil(image)
    if isinstance(image, bytes):
        return _from_stream(io.BytesIO(image), f"{len(image)} bytes")
    if isinstance(image, str | os.PathLike):
        return _from_path(os.fsdecode(image))
    kind = f"{type(image).__module__}.{type(image).__qualname__}"
    raise _unreadable(
        f"an object of type {kind}",
        f"an object of type {kind}",
        "pass a path, the file's bytes, a PIL image, a uint8 array (height, width, 3) or a uint8 tensor (3, h, w)",
    )


def keep_ratio_size(height: int, width: int, box: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) that fits into `box` (long side, short side) with the ratio kept, at least 1.

    The rounding is the reference's: int(side * scale + 0.5).
    """
    long, short = max(box), min(box)
    scale = min(long / max(height, width), short / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(image: RGB, height: int, width: int) -> RGB:
    """Return an (h, w, channels) uint8 image resized to (height, width, channels), bit for bit as `cv2.resize` does.

    Bilinear (INTER_LINEAR) with half-pixel centers, no antialiasing, in OpenCV's fixed point: the published numbers
    were made with it, and a float resize moves the scores by 1 %. The rule: source positions in float32; weights of
    11 bits; beyond the outermost centers the border pixel is repeated; 4 bits dropped after the horizontal pass, 16
    from each vertical product, 2 (rounded) at the end. Compared with OpenCV 4.14 and 5.0 on x86, 1000 pairs of
    sizes: no value differs. The image itself is returned if it has that size already.
    """
    rows, columns, channels = image.shape
    if (rows, columns) == (height, width):
        return image
    left, right_weight = _source_positions(columns, width)
    x0 = _elements(np.clip(left, 0, columns - 1), channels)
    x1 = _elements(np.clip(left + 1, 0, columns - 1), channels)
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


def normalize(image: RGB) -> torch.Tensor:
    """Return a (height, width, 3) uint8 RGB image as (1, 3, height, width) float32, (RGB - mean) / std.

    The memory order is channels last, which is the network's, and costs nothing here.
    """
    height, width, _ = image.shape
    # Whole rows at once: broadcasting over a last axis of 3 is ten times slower.
    mean, std = (np.tile(np.asarray(constant, np.float32), width) for constant in (MEAN, STD))
    values = np.subtract(image.reshape(height, width * 3), mean, dtype=np.float32)
    values = np.divide(values, std, out=values)
    return torch.from_numpy(values).view(1, height, width, 3).permute(0, 3, 1, 2)


def normalize_on(image: RGB, device: torch.device) -> torch.Tensor:
    """Return what `normalize` does, on a device: the same bits.

    CUDA receives the bytes, a quarter of the floats, from pinned memory, and the copy is not waited for.
    """
    if device.type != "cuda":
        return normalize(image).to(device)
    return _standardise(torch.from_numpy(image).pin_memory().to(device, non_blocking=True))


def _standardise(pixels: torch.Tensor) -> torch.Tensor:
    """Normalize (height, width, 3) uint8 as `normalize` does, where they lie."""
    height, width, _ = pixels.shape
    # Tensors, whole rows: by a number CUDA would not divide but multiply by its reciprocal, and round otherwise.
    mean, std = (torch.tensor(each, dtype=torch.float32, device=pixels.device).repeat(width) for each in (MEAN, STD))
    values = pixels.reshape(height, width * 3).to(torch.float32).sub_(mean).div_(std)
    return values.view(1, height, width, 3).permute(0, 3, 1, 2)


# --- reading -------------------------------------------------------------------------------------------------------


def _from_path(name: str) -> RGB:
    source = name.encode(errors="backslashreplace").decode()  # names that are not UTF-8 must not break the message
    source = source if len(source) <= 300 else f"{source[:300]}... ({len(source)} characters)"
    # Of two letters at least: C:// is a drive of Windows.
    if re.match(r"[a-z][a-z0-9+.-]+:(//|.*;base64,)", name, re.IGNORECASE):
        raise _unreadable(source, "an address, not a path", "download the file first and pass its path or its bytes")
    try:
        kind = stat.S_IFMT(Path(name).stat().st_mode)
        if kind != stat.S_IFREG:  # before opening: a pipe would block for ever
            found = "a folder" if kind == stat.S_IFDIR else "not a regular file (a pipe, socket or device)"
            raise _unreadable(source, found, "pass the path of one image file")
        with Path(name).open("rb") as stream:
            return _from_stream(stream, source)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise _unreadable(source, reason, "check the path; a relative one starts at the working folder") from error


def _from_stream(stream: IO[bytes], source: str) -> RGB:
    header = None
    try:
        header = open_header(stream)
        if header is None:
            stream.seek(0)
            start = stream.read(16)
            found = f"none of the formats {', '.join(FORMATS)}; it begins with {start!r}" if start else "an empty file"
            raise _unreadable(source, found, "convert the image to PNG or JPEG, or fetch it anew if it should be one")
        if header.fault:
            raise header.fault
        _check(source, header.size, header.mode)
        rgb = _rgb(_turned(header, source), header.maximum, header.opaque)
    except NotReadError as error:
        raise _unreadable(source, error.found, error.advice) from error
    except DECODER_FAULTS as error:
        raise _damaged(source, error) from error
    finally:
        if header and header.image:
            header.image.close()  # its pixels would live as long as an error whose traceback refers to it
    if header.several:
        _logger.warning("%s holds several images; the first one was taken", printable(source))
    if header.page and header.page.unnamed:
        _logger.warning(
            "%s does not say which band is which color; the first three were taken for RGB", printable(source)
        )
    if header.bits == 16 and rgb.max() <= DARK:
        _logger.warning(
            "%s has 16-bit values of which none is above a sixteenth of their range, and is nearly black; if its white "
            "is lower (4095 of 12 bits), pass (x * (255 / 4095)).round().clip(0, 255).astype('uint8') as an array",
            printable(source),
        )
    return rgb


def _turned(header: ImageHeader, source: str) -> Image.Image:
    """Decode a file's pixels and turn them as EXIF says, in place: two copies of 64 megapixels are half a gigabyte."""
    image = header.load()
    if header.orientation is None:  # the pixels are whole: cameras and editors do write broken EXIF
        _logger.warning("%s has broken EXIF data and was taken as it is stored", printable(source))
    elif header.orientation > 1:
        image.getexif()[ExifTags.Base.Orientation] = header.orientation
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _from_pil(image: Image.Image) -> RGB:
    source = "a PIL image"
    _check(source, image.size, image.mode)
    try:
        image.load()
        return _rgb(_upright(image, source))
    except DECODER_FAULTS as error:
        raise _damaged(source, error) from error


def _check(source: str, size: tuple[int, int], mode: str) -> None:
    """Refuse too many pixels, none, and a mode from which there is no way to RGB."""
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageTooLargeError(
            asked=f"read an image: {source}",
            found=f"{width} x {height} = {width * height:,} pixels; the limit is {MAX_PIXELS:,}",
            done="nothing was decoded",
            advice="make it smaller, or cut it, if you trust it; decoded arrays are taken at any size",
            source=source,
            width=width,
            height=height,
            limit=MAX_PIXELS,
        )
    if width * height == 0:
        raise _unreadable(source, f"no pixels ({width} x {height})", "pass an image of at least 1 x 1 pixel")
    if not (mode in EIGHT_BIT_MODES or mode.startswith("I;16")):
        raise _unreadable(
            source,
            f"mode {mode!r}, from which there is no single exact way to 0-255 RGB",
            "convert it to 8-bit RGB yourself, with the range of its values in mind, and pass that",
        )


def _upright(image: Image.Image, source: str) -> Image.Image:
    """Return a caller's image, or a copy of it that is turned as EXIF says."""
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) not in range(2, 9):
            return image  # of which exif_transpose would make a copy
        return ImageOps.exif_transpose(image)
    except DECODER_FAULTS as error:
        _logger.warning("%s has broken EXIF data (%s) and was taken as it is stored", source, printable(error))
        return image


def _rgb(image: Image.Image, maximum: int = 65535, opaque: bool = False) -> RGB:
    width, height = image.size
    transparent = image.has_transparency_data and not opaque
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, _PIXELS_AT_ONCE // width)
    for top in range(0, height, rows):  # Pillow's conversions make copies of four bytes a pixel
        bottom = min(top + rows, height)
        part = image if rows >= height else image.crop((0, top, width, bottom))
        if image.mode.startswith("I;16"):
            values = np.asarray(part)
            gray = to_eight_bits(values, maximum)
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


def _from_array(array: npt.NDArray[Any], bgr: bool = False) -> RGB:
    given = f"an array of dtype {array.dtype} and shape {array.shape}"
    if array.dtype != np.uint8:
        raise _unreadable(given, f"dtype {array.dtype} and shape {array.shape}", _to_uint8(str(array.dtype)))
    if array.size == 0:
        raise _unreadable(given, f"no pixels (shape {array.shape})", "pass an image of at least 1 x 1 pixel")
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim == 3 and array.shape[2] == 3:
        order = array[:, :, ::-1] if bgr else array
        return np.array(order, order="C")  # a copy: the caller may fill the next video frame into the array
    if array.ndim == 3 and array.shape[2] == 4:
        array = array[:, :, (2, 1, 0, 3)] if bgr else array
        return _rgb(Image.fromarray(np.ascontiguousarray(array)))
    advice = "pass (height, width, 3) RGB, (height, width) gray or (height, width, 4) RGBA"
    if array.ndim == 3 and array.shape[0] in (3, 4):
        advice += "; channels come last in arrays: np.moveaxis(array, 0, -1)"
    elif array.ndim == 3 and array.shape[2] == 1:
        advice += ": array[:, :, 0]"
    elif array.ndim == 4:
        advice += "; for several images pass a list: list(array)"
    raise _unreadable(given, f"dtype {array.dtype} and shape {array.shape}", advice)


def _from_tensor(tensor: torch.Tensor, bgr: bool) -> RGB:
    dtype, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
    given = f"a tensor of dtype {dtype} and shape {shape}"
    if tensor.dtype != torch.uint8:
        raise _unreadable(given, f"dtype {dtype} and shape {shape}", _to_uint8(dtype, tensor=True))
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise _unreadable(given, f"layout {tensor.layout} on device {tensor.device}", "pass a dense tensor with data")
    if tensor.ndim == 3 and tensor.shape[0] == 3:
        return _from_array(tensor.permute(1, 2, 0).cpu().numpy(), bgr)
    advice = "pass (3, height, width) RGB"
    if tensor.ndim == 3 and tensor.shape[2] == 3:
        advice += "; channels come first in tensors: tensor.permute(2, 0, 1)"
    elif tensor.ndim == 2 or (tensor.ndim == 3 and tensor.shape[0] == 1):
        advice += "; a gray image: tensor.expand(3, -1, -1)"
    elif tensor.ndim == 4:
        advice += ", one image at a time: list(tensor)"
    raise _unreadable(given, f"dtype {dtype} and shape {shape}", advice)


def _to_uint8(dtype: str, *, tensor: bool = False) -> str:
    cast = "to(torch.uint8)" if tensor else "astype('uint8')"
    if "float" in dtype:
        return f"values 0..1: (x * 255).round().clip(0, 255).{cast}; values 0..255: x.round().clip(0, 255).{cast}"
    if dtype == "uint16":
        return f"full 16-bit range: (x / 257).round().{cast}; values 0..255 already: x.{cast}"
    if dtype == "bool":
        return f"x.{cast} * 255"
    return f"values 0..255 already: x.{cast}; else scale them to 0..255 first"


# --- resizing ------------------------------------------------------------------------------------------------------


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


def _elements(pixels: npt.NDArray[np.intp], channels: int) -> npt.NDArray[np.intp]:
    """Return the positions of the pixels' channels in a row of interleaved values."""
    return (pixels[:, None] * channels + np.arange(channels)).ravel()


# --- refusing ------------------------------------------------------------------------------------------------------


def _unreadable(source: str, found: str, advice: str) -> ImageError:
    return ImageError(
        asked=f"read an image: {source}", found=found, done="no pixels were taken", advice=advice, source=source
    )


def _damaged(source: str, error: Exception) -> ImageError:
    reason = f"damaged or incomplete data, or of a kind that is not read ({type(error).__name__}: {error})"
    return _unreadable(source, reason, "fetch or export the image anew; parts of a damaged file are never used")
