"""Pictures in and out of arrays: any file or array -> RGB, keep-ratio resize, normalise.

Colour order is RGB and channels come last, 0-255, everywhere but in the tensor that the network receives.
"""

import io
import logging
import os
import re
import stat
import struct
import zlib
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageFile, ImageOps, PngImagePlugin

from hrnet_zoo.errors import ImageError, ImageTooLargeError, UnreadableImageError, UnsupportedImageError

Picture: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any] | torch.Tensor
RGB: TypeAlias = npt.NDArray[np.uint8]

# Formats that decode inside Pillow: none of them starts another program, as EPS would. JPEG includes MPO.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")
MAX_PIXELS = 64_000_000  # 192 MB of RGB; a file of 22 KB can claim thousands of times its size
BACKGROUND = (255, 255, 255)  # what shows through transparent pixels: white, as on a page or in most viewers

# Of ImageNet, on 0-255 RGB; facts of the published checkpoints' training.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

_ALPHA_MODES = ("LA", "PA", "RGBA")
EIGHT_BIT_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", *_ALPHA_MODES)
# round(v / 257) for v in 0..65535: 65535 -> 255, where Pillow's own conversion clips everything above 255.
_SIXTEEN_TO_EIGHT_BITS = ((np.arange(65536) + 128) // 257).astype(np.uint8)
# What Pillow's readers raise on damaged files; its warnings too are exceptions under `python -W error`.
_PYTHON_FAULTS = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
_OTHER_FAULTS = (AssertionError, EOFError, RuntimeError, MemoryError, struct.error, zlib.error)
DECODER_FAULTS = (*_PYTHON_FAULTS, *_OTHER_FAULTS, Image.DecompressionBombError, Warning)
_PIXELS_AT_ONCE = 1 << 20  # converted together
_ROWS_AT_ONCE = 64  # rows resized together: their intermediate values stay in the processor's cache
_logger = logging.getLogger("hrnet_zoo")


def read_image(picture: Picture) -> RGB:
    """Return any picture as a new (height, width, 3) uint8 RGB array, C-contiguous, oriented as displayed.

    Files (a path, or the file's content as bytes):
        JPEG, MPO, PNG, WebP, BMP, TIFF, GIF, PPM, AVIF. The content decides, not the name's ending. EXIF orientation
        is applied. Of animations and multi-page files the first picture is taken, and a warning logged. The size is
        checked from the header, before pixels are decoded. An ICC profile is ignored.
    Modes (of files and of PIL pictures):
        1, L, P: grey or palette to RGB. YCbCr, CMYK: Pillow's conversion, Adobe's inversion undone.
        RGBA, LA, PA and whatever has a transparent colour: composited on white, rounded to the nearest level.
        I;16 (16-bit grey): v / 257, rounded. 16 bits a channel in colour or with alpha: Pillow keeps the high
        byte, which is at most one level off. All others (I, F, LAB, HSV, ...) have no one way to 0-255: refused.
    Arrays:
        uint8, (height, width, 3) RGB, (height, width) grey or (height, width, 4) RGBA. The order BGR, as OpenCV
        reads files, cannot be told from RGB: reverse it yourself with `array[..., ::-1]`.
    Tensors:
        uint8 (3, height, width) RGB on any device: one picture, not a batch.

    Raises:
        UnreadableImageError: missing, not a regular file, damaged, or of another format.
        ImageTooLargeError: more than `MAX_PIXELS` in a file or PIL picture (arrays have no limit).
        UnsupportedImageError: a mode, dtype, shape or type that is not listed above, or no pixels.

    """
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    if isinstance(picture, torch.Tensor):
        return _from_tensor(picture)
    if isinstance(picture, Image.Image):
        return _from_pil(picture, "a PIL picture", ours=False)
    if isinstance(picture, bytes):
        return _from_stream(io.BytesIO(picture), f"{len(picture)} bytes")
    if isinstance(picture, str | os.PathLike):
        return _from_path(os.fsdecode(picture))
    kind = f"{type(picture).__module__}.{type(picture).__qualname__}"
    raise _unsupported(
        f"an object of type {kind}",
        f"an object of type {kind}",
        "pass a path, the file's bytes, a PIL picture, a uint8 array (height, width, 3) or a uint8 tensor (3, h, w)",
    )


def keep_ratio_size(height: int, width: int, box: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) that fits into `box` (long side, short side) with the ratio kept, at least 1.

    The rounding is the reference's: int(side * scale + 0.5).
    """
    long, short = max(box), min(box)
    scale = min(long / max(height, width), short / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(image: RGB, height: int, width: int) -> RGB:
    """Return an (h, w, channels) uint8 picture resized to (height, width, channels), bit for bit as `cv2.resize` does.

    Bilinear (INTER_LINEAR) with half-pixel centres, no antialiasing, in OpenCV's fixed point: the published numbers
    were made with it, and a float resize moves the scores by 1 %. The rule: source positions in float32; weights of
    11 bits; beyond the outermost centres the border pixel is repeated; 4 bits dropped after the horizontal pass, 16
    from each vertical product, 2 (rounded) at the end. Compared with OpenCV 4.14 and 5.0 on x86, 1000 pairs of
    sizes: no value differs. The picture itself is returned if it has that size already.
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


def normalise(image: RGB) -> torch.Tensor:
    """Return a (height, width, 3) uint8 RGB picture as (1, 3, height, width) float32, (RGB - mean) / std.

    The memory order is channels last, which is the network's, and costs nothing here.
    """
    height, width, _ = image.shape
    # Whole rows at once: broadcasting over a last axis of 3 is ten times slower.
    mean, std = (np.tile(np.asarray(constant, np.float32), width) for constant in (MEAN, STD))
    values = np.subtract(image.reshape(height, width * 3), mean, dtype=np.float32)
    values = np.divide(values, std, out=values)
    return torch.from_numpy(values).view(1, height, width, 3).permute(0, 3, 1, 2)


def normalise_on(image: RGB, device: torch.device) -> torch.Tensor:
    """Return what `normalise` does, on a device: the same bits.

    CUDA receives the bytes, a quarter of the floats, from pinned memory, and the copy is not waited for.
    """
    if device.type != "cuda":
        return normalise(image).to(device)
    return _standardise(torch.from_numpy(image).pin_memory().to(device, non_blocking=True))


def _standardise(pixels: torch.Tensor) -> torch.Tensor:
    """Normalise (height, width, 3) uint8 as `normalise` does, where they lie."""
    height, width, _ = pixels.shape
    # Tensors, whole rows: by a number CUDA would not divide but multiply by its reciprocal, and round otherwise.
    mean, std = (torch.tensor(each, dtype=torch.float32, device=pixels.device).repeat(width) for each in (MEAN, STD))
    values = pixels.reshape(height, width * 3).to(torch.float32).sub_(mean).div_(std)
    return values.view(1, height, width, 3).permute(0, 3, 1, 2)


# --- reading -------------------------------------------------------------------------------------------------------


def _from_path(name: str) -> RGB:
    source = name.encode(errors="backslashreplace").decode()  # names that are not UTF-8 must not break the message
    source = source if len(source) <= 300 else f"{source[:300]}... ({len(source)} characters)"
    if re.match(r"[a-z][a-z0-9+.-]*:(//|.*;base64,)", name, re.IGNORECASE):
        raise _unreadable(source, "an address, not a path", "download the file first and pass its path or its bytes")
    try:
        kind = stat.S_IFMT(Path(name).stat().st_mode)
        if kind != stat.S_IFREG:  # before opening: a pipe would block for ever
            found = "a folder" if kind == stat.S_IFDIR else "not a regular file (a pipe, socket or device)"
            raise _unreadable(source, found, "pass the path of one picture file")
        with Path(name).open("rb") as stream:
            return _from_stream(stream, source)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise _unreadable(source, reason, "check the path; a relative one starts at the working folder") from error


def _from_stream(stream: IO[bytes], source: str) -> RGB:
    try:
        image = identify(stream)
        if isinstance(image, PngImagePlugin.PngImageFile):
            image.verify()  # the checksums, of which decoding skips those of the pixels
            image = identify(stream)
        # An MPO is one photo with a preview or a gain map behind it, as phones store them: nothing to warn of.
        several = image is not None and image.format != "MPO" and getattr(image, "is_animated", False)
    except DECODER_FAULTS as error:
        raise _damaged(source, error) from error
    if image is None:
        stream.seek(0)
        start = stream.read(16)
        found = f"none of the formats {', '.join(FORMATS)}; it begins with {start!r}" if start else "an empty file"
        raise _unreadable(source, found, "convert the picture to PNG or JPEG, or fetch it anew if it should be one")
    rgb = _from_pil(image, source, ours=True)
    if several:
        _logger.warning("%s holds several pictures; the first one was taken", source)
    return rgb


def identify(stream: IO[bytes]) -> ImageFile.ImageFile | None:
    """Open with the first format that knows the leading bytes, as `Image.open(formats=FORMATS)` does.

    Image.open itself is of no use here: beyond its own limits it warns, or raises without telling the size.
    """
    Image.init()
    stream.seek(0)
    prefix = stream.read(16)
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        if accept is not None and accept(prefix) is True:  # a text instead of True: this Pillow lacks the codec
            stream.seek(0)
            return factory(stream, "")
    return None


def _from_pil(image: Image.Image, source: str, *, ours: bool) -> RGB:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageTooLargeError(
            asked=f"read a picture: {source}",
            found=f"{width} x {height} = {width * height:,} pixels; the limit is {MAX_PIXELS:,}",
            done="nothing was decoded",
            advice="make it smaller, or cut it, if you trust it; decoded arrays are taken at any size",
            source=source,
            width=width,
            height=height,
            limit=MAX_PIXELS,
        )
    if width * height == 0:
        raise _unsupported(source, f"no pixels ({width} x {height})", "pass a picture of at least 1 x 1 pixel")
    if not (image.mode in EIGHT_BIT_MODES or image.mode.startswith("I;16")):
        raise _unsupported(
            source,
            f"mode {image.mode!r}, from which there is no single exact way to 0-255 RGB",
            "convert it to 8-bit RGB yourself, with the range of its values in mind, and pass that",
        )
    try:
        image.load()
        return _rgb(_upright(image, source, ours))
    except DECODER_FAULTS as error:
        raise _damaged(source, error) from error


def _upright(image: Image.Image, source: str, ours: bool) -> Image.Image:
    """Turn a picture as EXIF says: in place if it is `ours`, for two copies of 64 megapixels are half a gigabyte."""
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) not in range(2, 9):
            return image  # of which exif_transpose would make a copy
        if not ours:
            return ImageOps.exif_transpose(image)
        ImageOps.exif_transpose(image, in_place=True)
        return image
    except DECODER_FAULTS as error:  # the pixels are whole: cameras and editors do write broken EXIF
        _logger.warning("%s has broken EXIF data (%s) and was taken as it is stored", source, error)
        return image


def _rgb(image: Image.Image) -> RGB:
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        grey = _SIXTEEN_TO_EIGHT_BITS[values]
        if "transparency" in image.info:
            grey[values == image.info["transparency"]] = BACKGROUND[0]
        return np.repeat(grey[:, :, None], 3, axis=2)
    width, height = image.size
    transparent = image.has_transparency_data
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, _PIXELS_AT_ONCE // width)
    for top in range(0, height, rows):  # Pillow's conversions make copies of four bytes a pixel
        bottom = min(top + rows, height)
        part = image if rows >= height else image.crop((0, top, width, bottom))
        if transparent:
            rgba = part.convert("RGBA")
            part = Image.new("RGB", rgba.size, BACKGROUND)
            part.paste(rgba, mask=rgba)
        rgb[top:bottom] = np.asarray(part.convert("RGB"))
    return rgb


def _from_array(array: npt.NDArray[Any]) -> RGB:
    given = f"an array of dtype {array.dtype} and shape {array.shape}"
    if array.dtype != np.uint8:
        raise _unsupported(given, f"dtype {array.dtype} and shape {array.shape}", _to_uint8(str(array.dtype)))
    if array.size == 0:
        raise _unsupported(given, f"no pixels (shape {array.shape})", "pass a picture of at least 1 x 1 pixel")
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim == 3 and array.shape[2] == 3:
        return np.array(array, order="C")  # a copy: the caller may fill the next video frame into the array
    if array.ndim == 3 and array.shape[2] == 4:
        return _rgb(Image.fromarray(np.ascontiguousarray(array)))
    advice = "pass (height, width, 3) RGB, (height, width) grey or (height, width, 4) RGBA"
    if array.ndim == 3 and array.shape[0] in (3, 4):
        advice += "; channels come last in arrays: np.moveaxis(array, 0, -1)"
    elif array.ndim == 3 and array.shape[2] == 1:
        advice += ": array[:, :, 0]"
    elif array.ndim == 4:
        advice += "; for several pictures pass a list: list(array)"
    raise _unsupported(given, f"dtype {array.dtype} and shape {array.shape}", advice)


def _from_tensor(tensor: torch.Tensor) -> RGB:
    dtype, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
    given = f"a tensor of dtype {dtype} and shape {shape}"
    if tensor.dtype != torch.uint8:
        raise _unsupported(given, f"dtype {dtype} and shape {shape}", _to_uint8(dtype, tensor=True))
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise _unsupported(given, f"layout {tensor.layout} on device {tensor.device}", "pass a dense tensor with data")
    if tensor.ndim == 3 and tensor.shape[0] == 3:
        return _from_array(tensor.permute(1, 2, 0).cpu().numpy())
    advice = "pass (3, height, width) RGB"
    if tensor.ndim == 3 and tensor.shape[2] == 3:
        advice += "; channels come first in tensors: tensor.permute(2, 0, 1)"
    elif tensor.ndim == 2 or (tensor.ndim == 3 and tensor.shape[0] == 1):
        advice += "; a grey picture: tensor.expand(3, -1, -1)"
    elif tensor.ndim == 4:
        advice += ", one picture at a time: list(tensor)"
    raise _unsupported(given, f"dtype {dtype} and shape {shape}", advice)


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
    centres = ((np.arange(new) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(centres)
    return first.astype(np.intp), centres - first


def _fixed_point(share: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return the weights (first, second) in 1/2048, each rounded half to even."""
    scale = np.float32(2048)
    return np.rint((1 - share) * scale).astype(np.int32), np.rint(share * scale).astype(np.int32)


def _elements(pixels: npt.NDArray[np.intp], channels: int) -> npt.NDArray[np.intp]:
    """Return the positions of the pixels' channels in a row of interleaved values."""
    return (pixels[:, None] * channels + np.arange(channels)).ravel()


# --- refusing ------------------------------------------------------------------------------------------------------


def _unreadable(source: str, found: str, advice: str) -> ImageError:
    return UnreadableImageError(
        asked=f"read a picture: {source}", found=found, done="no pixels were taken", advice=advice, source=source
    )


def _damaged(source: str, error: Exception) -> ImageError:
    reason = f"damaged or incomplete data ({type(error).__name__}: {error})"
    return _unreadable(source, reason, "fetch or export the picture anew; parts of a damaged file are never used")


def _unsupported(source: str, found: str, advice: str) -> ImageError:
    return UnsupportedImageError(
        asked=f"read a picture: {source}", found=found, done="nothing was converted", advice=advice, source=source
    )
