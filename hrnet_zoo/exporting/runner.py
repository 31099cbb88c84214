"""Label photos with a file that hrnet-zoo exported: needs numpy, pillow, and onnxruntime (openvino for .xml) alone.

    python runner.py model.onnx photo.jpg --out segmented

    from runner import Segmenter
    segmenter = Segmenter("model.onnx")
    labels = segmenter("photo.jpg")  # (height, width) uint8: indices of segmenter.classes

Photos are read and resized to the bit as hrnet-zoo's `model.predict` does; the network itself may round differently.
"""

import argparse
import importlib
import itertools
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

Array = np.ndarray[Any, Any]

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 64_000_000  # of a photo, unless told otherwise
TILE = 64  # pixels a side that are labeled together: full-resolution logits of a whole photo may be gigabytes

_PILLOW = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError)
_DAMAGED = (*_PILLOW, RuntimeError, EOFError, MemoryError, Image.DecompressionBombError, Warning)  # what Pillow raises
_TURNS = dict(enumerate(map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), 2))  # by EXIF orientation


class SegmenterError(Exception):
    """A file cannot be read, used or written, or memory is short: the message says which, and why."""


@contextmanager
def _refuse(faults: tuple[type[BaseException], ...], words: str) -> Iterator[None]:
    try:
        yield
    except faults as error:
        reason = "it holds no image" if isinstance(error, UnidentifiedImageError) else f"{error!r:.300}"
        raise SegmenterError(f"{words}: {reason}") from error


class Segmenter:
    """Labels photos with an exported file; `metadata` is what that says of itself. Threads may share it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if Path(path).suffix not in (".onnx", ".xml") or not Path(path).is_file():
            raise SegmenterError(f"{path} is no .onnx or .xml file, which are what runs here")
        text, self._run, self._faults = _open(Path(path))
        if text is None:
            raise SegmenterError(f"{path} is no file that hrnet-zoo exported: it lacks the metadata 'hrnet_zoo'")
        self.metadata: dict[str, Any] = json.loads(text)
        if self.metadata["format"] != 1:
            raise SegmenterError(f"{path} needs the runner.py that was written beside it")
        self.classes, self.palette = self.metadata["classes"], self.metadata["palette"]

    def __call__(self, image: str | os.PathLike[str] | IO[bytes] | Array) -> Array:
        """Return the class of each pixel, (height, width) uint8, of a path, an open file or an RGB array (uint8)."""
        rgb = image if isinstance(image, np.ndarray) else read_photo(image)
        if rgb.dtype != np.uint8 or rgb.shape[2:] != (3,) or not rgb.size:
            raise SegmenterError(f"an array is RGB, uint8 of (height, width, 3), not {rgb.dtype} of {rgb.shape}")
        (height, width, _), least = rgb.shape, self.metadata["least_size"]
        scale = min(f(self.metadata["resize_to"]) / f(height, width) for f in (min, max))
        size = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        if min(size) < least:
            raise SegmenterError(f"resized, the photo has {size[1]} x {size[0]} pixels; {least} a side are the least")
        with _refuse((MemoryError,), "memory is short for this photo: make it smaller"):
            pixels = rgb if size == (height, width) else resize(rgb, *size)
            window = self.metadata["sliding_window"] or {"size": max(size), "stride": 1}
            places = itertools.product(*(windows(length, **window) for length in size))
            parts = [(down, across, self._logits(pixels[down, across])) for down, across in places]
            labels = np.empty((height, width), np.uint8)
            for top, left in itertools.product(range(0, height, TILE), range(0, width, TILE)):
                tile = labels[top : top + TILE, left : left + TILE]
                rows, down = interpolation(size[0], height, top + np.arange(tile.shape[0]))
                columns, across = interpolation(size[1], width, left + np.arange(tile.shape[1]))
                classes, logits = _at_network_size(parts, rows, columns)
                tile[:] = classes[interpolate(logits, down, across).argmax(axis=0)]
            return labels

    def _logits(self, pixels: Array) -> Array:
        """Return the logits (classes, ceil(h/4), ceil(w/4)) of an image (h, w, 3)."""
        inputs = {"image": pixels[None], "size": np.zeros(2, np.int64)}  # without labels, which would take more memory
        if self.metadata["outputs"] == "logits":
            mean, std = (np.float32(self.metadata[key]) for key in ("mean", "std"))
            inputs = {"image": ((pixels - mean) / std).transpose(2, 0, 1)[None]}
        with _refuse(self._faults, "the network cannot be run on this photo, perhaps for lack of memory"):
            logits: Array = self._run({name: np.ascontiguousarray(value) for name, value in inputs.items()})[0]
        if not np.isfinite(logits).all():
            raise SegmenterError("the network's logits are infinite or not a number, so nothing was labeled")
        return logits

    def shares(self, labels: Array) -> dict[str, float]:
        """Return the share (0 to 1) of the pixels of each class present, by name, largest first."""
        counts = np.bincount(labels.ravel(), minlength=len(self.classes))
        return {self.classes[index]: counts[index] / labels.size for index in np.argsort(-counts) if counts[index]}

    def palette_image(self, labels: Array) -> Image.Image:
        """Return labels as a palette image: a viewer shows colors, the values are class indices."""
        image = Image.fromarray(labels)
        image.putpalette([level for color in self.palette for level in color])
        return image

    def overlay(self, rgb: Array, labels: Array) -> Image.Image:
        """Return a photo with the classes' colors over it, and a legend at the right."""
        photo, shares, size = Image.fromarray(rgb), self.shares(labels), max(12, round(labels.size**0.5 / 45))
        canvas = Image.new("RGB", (photo.width + 24 * size, max(photo.height, size + 2 * size * len(shares))), "white")
        canvas.paste(Image.blend(photo, self.palette_image(labels).convert("RGB"), 0.5))
        draw, x = ImageDraw.Draw(canvas), photo.width + size
        for row, (name, share) in enumerate(shares.items()):
            y = 2 * size * row + size
            draw.rectangle((x, y, x + size, y + size), tuple(self.palette[self.classes.index(name)]), "gray")
            draw.text((x + 2 * size, y), f"{name[:32]}  {share:.1%}", "black", ImageFont.load_default(size))
        return canvas


def read_photo(file: str | os.PathLike[str] | IO[bytes], max_pixels: int = MAX_PIXELS) -> Array:
    """Return a photo as displayed, RGB (height, width, 3) uint8: turned as EXIF says, transparent pixels on white."""
    name = os.fspath(file) if isinstance(file, str | os.PathLike) else "the photo"
    with _refuse(_DAMAGED, f"{name} cannot be read as a JPEG, PNG or WebP"), Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > max_pixels:
            raise SegmenterError(f"{name} has {image.width} x {image.height} pixels; the limit is {max_pixels:,}")
        image.load()
        exif = Image.Exif()
        turned: Image.Image = image
        with suppress(*_DAMAGED):  # no or broken EXIF data: the photo is taken as stored
            exif.load(image.info["exif"][: 1 << 16])
            turned = image.transpose(_TURNS[exif[0x0112]])
        if turned.mode.startswith("I"):  # 16 bits
            values = np.asarray(turned)
            gray = (values.astype(np.uint32) * 510 + 65535) // 131070  # v / 257, rounded
            gray[values == image.info.get("transparency", -1)] = 255
            return np.repeat(gray.astype(np.uint8)[:, :, None], 3, axis=2)
        if turned.has_transparency_data:
            rgba, turned = turned.convert("RGBA"), Image.new("RGB", turned.size, "white")
            turned.paste(rgba, mask=rgba)
        return np.array(turned.convert("RGB"))


def resize(image: Array, height: int, width: int) -> Array:
    """Return an image (uint8) resized bilinearly to the bit as OpenCV does: fixed point, weights of 11 bits."""
    axes: list[Any] = []  # for each row and column its two old neighbors, and their weights in 1/2048
    for old, new in zip(image.shape, (height, width), strict=False):
        centers = ((np.arange(new) + 0.5) * (1 / (new / old)) - 0.5).astype(np.float32)
        first = np.floor(centers)
        weights = [np.rint(each[:, None] * 2048).astype(np.int32) for each in (1 - (centers - first), centers - first)]
        axes.append([(np.clip(first.astype(np.intp) + step, 0, old - 1), weights[step]) for step in (0, 1)])
    rows, ((left, w0), (right, w1)) = axes
    total = np.full((height, width, 3), 2, np.int32)
    for places, weight in rows:
        across = image.take(places, 0).take(left, 1) * w0 + image.take(places, 0).take(right, 1) * w1
        total += (across >> 4) * weight[:, None] >> 16
    return (total >> 2).astype(np.uint8)


def windows(length: int, size: int, stride: int) -> list[slice]:
    """Cover `length` pixels with windows of a size every `stride`; the last one ends at the end."""
    last = max(length - size, 0)
    return [slice(min(start, last), min(start, last) + min(size, length)) for start in range(0, last + stride, stride)]


def _at_network_size(parts: list[tuple[slice, slice, Array]], rows: Array, columns: Array) -> tuple[Array, Array]:
    """Return which classes may be the best in a tile, and their logits: the mean where windows overlap."""
    found = []
    for down, across, logits in parts:
        y = slice(*np.searchsorted(rows, (down.start, down.stop)))
        x = slice(*np.searchsorted(columns, (across.start, across.stop)))
        if y.start < y.stop and x.start < x.stop:
            i, vertical = interpolation(logits.shape[1], down.stop - down.start, rows[y] - down.start)
            j, horizontal = interpolation(logits.shape[2], across.stop - across.start, columns[x] - across.start)
            found.append((y, x, logits.take(i, 1).take(j, 2), vertical, horizontal))
    # Interpolated and mean logits lie between the lowest and the highest ones, but for rounding.
    lowest, highest = (f([f(each[2], axis=(1, 2)) for each in found], axis=0) for f in (np.min, np.max))
    classes = np.flatnonzero(highest >= lowest.max() - 1e-5 * np.abs((lowest, highest)).max())
    total, count = np.zeros((2, len(classes), len(rows), len(columns)), np.float32)
    for y, x, logits, vertical, horizontal in found:
        total[:, y, x] += interpolate(logits[classes], vertical, horizontal)
        count[:, y, x] += 1
    return classes, total / count


def interpolation(old: int, new: int, positions: Array) -> tuple[Array, tuple[Array, ...]]:
    """Return the old positions that new ones need, and two of these for each, and the second's weight, as in torch."""
    centers = np.float32(old) / np.float32(new) * (positions.astype(np.float32) + np.float32(0.5)) - np.float32(0.5)
    first = np.maximum(centers, 0, out=centers).astype(np.intp)
    needed, places = np.unique((first, np.minimum(first + 1, old - 1)), return_inverse=True)
    return needed, (*places.reshape(2, -1), centers - first.astype(np.float32))


def interpolate(logits: Array, down: tuple[Array, ...], across: tuple[Array, ...]) -> Array:
    """Return logits (classes, rows, columns) resized bilinearly: first rows, then columns, each step in float32."""
    (above, below, v), (left, right, w) = down, across
    logits = logits.take(above, 1) * (1 - v[:, None]) + logits.take(below, 1) * v[:, None]
    return np.asarray(logits.take(left, 2) * (1 - w) + logits.take(right, 2) * w)


def _open(path: Path) -> tuple[Any, Any, Any]:
    """Return a file's metadata (JSON), a function from its inputs to logits, and the exceptions of its runtime."""
    package = "onnxruntime" if path.suffix == ".onnx" else "openvino"
    with _refuse((ImportError,), f"pip install {package}"):
        runtime = importlib.import_module(package)
    faults: tuple[type[BaseException], ...] = (RuntimeError,)
    if package == "onnxruntime":  # whose exceptions have no base class
        kinds = vars(runtime.capi.onnxruntime_pybind11_state).values()
        faults = tuple(each for each in kinds if isinstance(each, type) and issubclass(each, Exception))
    with _refuse(faults, f"{package} cannot load {path}"):
        if package == "onnxruntime":
            session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
            text = session.get_modelmeta().custom_metadata_map.get("hrnet_zoo")
            return text, lambda inputs: session.run(["logits"], inputs)[0], faults
        model = runtime.Core().read_model(path)
        compiled = runtime.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        text = model.get_rt_info("hrnet_zoo").value if model.has_rt_info("hrnet_zoo") else None
        return text, lambda inputs: compiled.create_infer_request().infer(inputs)["logits"], faults


def main() -> None:
    """Label the photos that the command line names; the exit code is 1 if one of them fails."""
    parser = argparse.ArgumentParser(description="Write NAME_labels.png, a palette image, and NAME_overlay.png.")
    parser.add_argument("model", help="an exported .onnx or .xml")
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("segmented"), help="folder of the results; default: segmented")
    args = parser.parse_args()
    if len({photo.stem for photo in args.photos}) < len(args.photos):
        parser.error("results are named after the photos: two have the same name")
    try:
        segmenter = Segmenter(args.model)
        args.out.mkdir(parents=True, exist_ok=True)
        for photo in args.photos:
            rgb = read_photo(photo)
            labels = segmenter(rgb)
            for kind, image in ("labels", segmenter.palette_image(labels)), ("overlay", segmenter.overlay(rgb, labels)):
                part = args.out / f".{photo.stem}_{kind}.part"
                image.save(part, "PNG")
                part.replace(args.out / f"{photo.stem}_{kind}.png")  # which is never half a file
            print(f"{photo}:", ", ".join(f"{name} {share:.1%}" for name, share in segmenter.shares(labels).items()))
    except (SegmenterError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
