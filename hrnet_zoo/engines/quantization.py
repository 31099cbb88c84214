"""Plan -> OpenVINO engine in 8 bits: calibrated by images or generated scenes, compared with the network, remembered.

Calibration runs the plan in float32 and takes the least and the greatest value of each map, averaged over the images.
The ranges are all that the cache keeps: a few kilobytes.

The first convolution reads the image in floating point: it costs as much accuracy as all branches, and little time. Of
the demo network's pixels, on 12 generated scenes and 5 photographs (which it does not know), these change their class:

    all in 8 bits                                0.28 % and 1.9 %
    all but the first convolution                0.23 % and 1.5 %: what is done here
    in floating point, too: second convolution   0.21 % and 1.3 %
                            bottlenecks          0.21 % and 1.4 %
                            finest branch        0.22 % and 1.3 %
                            one other branch     0.22 to 0.23 % and 1.4 %
                            up- or downsampling, transitions, the head's two convolutions: hardly fewer

The mIoU on the scenes is 79.9 % in all these forms, as in float32.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from hrnet_zoo import __version__
from hrnet_zoo.datasets.pairing import find_images
from hrnet_zoo.demo.scenes import TRAINING_SEEDS_START, scene
from hrnet_zoo.engines import openvino
from hrnet_zoo.engines.folding import Plan
from hrnet_zoo.engines.openvino import OpenVINOEngine, Range
from hrnet_zoo.errors import CacheError, ConfigError, LogitsError
from hrnet_zoo.images.preprocess import normalize
from hrnet_zoo.images.read import RGB, ImageLike, read_image
from hrnet_zoo.inference.logits import ViewLogits
from hrnet_zoo.inference.masks import make_mask
from hrnet_zoo.inference.predict import evaluating, resized
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.fork_safety import refuse_after_fork
from hrnet_zoo.weights import cache

Calibration: TypeAlias = Sequence[ImageLike] | str | os.PathLike[str]

VERSION = 1  # of the ranges: part of cache keys
MAX_IMAGES = 80  # every fifth of them is held out: 64 calibrate, and 16 show the agreement
LEAST_TO_HOLD_OUT = 8
SCENES = range(TRAINING_SEEDS_START, TRAINING_SEEDS_START + 20)  # with 4, 8 or 32 scenes as many pixels agree
CROP = (512, 1024)  # rows and columns of an image that calibrate at most: at the network's scale, in bounded time
LOW_AGREEMENT = 0.98

logger = logging.getLogger("hrnet_zoo")


@dataclass(frozen=True)
class Quantization:
    """Ranges of a plan's steps, and the share (0 to 1) of `images`' pixels that keep their class with them."""

    ranges: dict[str, Range]
    agreement: float
    images: int
    held_out: bool  # the images did not calibrate
    seconds: float  # that all this took

    def __str__(self) -> str:
        kind = "other images" if self.held_out else "images that calibrated it (none is held out)"
        return f"{self.agreement:.2%} of the pixels keep their class, on {self.images} {kind}"


class Quantizer:
    """Builds the engine of a network's plan in 8 bits; see `optimize`.

    Raises:
        ConfigError: OpenVINO is not installed, or there are no images.

    """

    def __init__(self, model: FCNHRNet, calibration: Calibration | None) -> None:
        openvino.openvino()  # says what to install
        self._network = weakref.ref(model)
        self._images = None if calibration is None else drawn_images(calibration)

    def __call__(self, plan: Plan) -> OpenVINOEngine:
        """Return the engine; the network exists meanwhile.

        Raises:
            ImageError: an image cannot be read.
            LogitsError: the network computes what is infinite or not a number.

        """
        start = time.perf_counter()
        model = self._network()
        assert model is not None  # noqa: S101 - whoever builds has made the plan of it
        device, dtype = torch.device("cpu"), float_dtype()
        key, steps = self._key(plan, model.dataset.resize_to, dtype), set(openvino.quantized_steps(plan))
        if found := _remembered(key, steps):
            engine = OpenVINOEngine(plan, device, dtype, found.ranges)
            seconds = time.perf_counter() - start
            logger.info("%s in 8 bits, as remembered: %s; %.1f s", model.name, found, seconds)
            return engine
        refuse_after_fork(device)
        views = calibration_views(self._images, model.dataset.resize_to)
        held_out = views[2::5] if len(views) >= LEAST_TO_HOLD_OUT else []
        calibrating = [view for place, view in enumerate(views) if place % 5 != 2] if held_out else views
        ranges = calibrate(plan, calibrating)
        engine = OpenVINOEngine(plan, device, dtype, ranges)
        compared = held_out or views[:16]
        agreement = _agreement(model, engine, compared)
        found = Quantization(ranges, agreement, len(compared), bool(held_out), time.perf_counter() - start)
        _remember(key, steps, found)
        source = "generated street scenes" if self._images is None else f"{len(calibrating)} images"
        advice = "" if agreement >= LOW_AGREEMENT else "; calibrate with some dozens of images like those to be labeled"
        level = logging.WARNING if advice else logging.INFO
        text = "%s in 8 bits, calibrated with %s: %s; %.1f s%s"
        logger.log(level, text, model.name, source, found, found.seconds, advice)
        return engine

    def _key(self, plan: Plan, resize_to: tuple[int, int], dtype: torch.dtype) -> str:
        """Return the cache key: the digest of all that ranges and agreement depend on."""
        facts = [VERSION, __version__, metadata.version("openvino"), resize_to, str(dtype), list(SCENES)]
        digest = hashlib.sha256(json.dumps([*facts, _capabilities()]).encode())
        for name, tensor in plan.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy())
        for image in self._images or ():
            digest.update(_digest(image))
        return digest.hexdigest()


def calibrate(plan: Plan, images: Sequence[RGB]) -> dict[str, Range]:
    """Return the range of each of the plan's steps that 8 bits hold: least and greatest value, averaged over images.

    The greatest of all images' values in place of the average leaves fewer levels for the others: 0.04 % more of the
    scenes' pixels, and 0.3 % of photographs', are then labeled otherwise.
    """
    steps = openvino.quantized_steps(plan)
    seen: dict[str, list[Range]] = {name: [] for name in steps}

    def observe(name: str, maps: Sequence[Tensor]) -> None:
        ends = [float(end) for each in maps for end in each.aminmax()]
        seen[name].append((min(ends), max(ends)))

    hooks = [
        step.register_forward_pre_hook(lambda _, maps, name=name: observe(name, maps))
        if step is plan.head
        else step.register_forward_hook(lambda _, __, result, name=name: observe(name, [result]))
        for name, step in steps.items()
    ]
    try:
        with torch.inference_mode():
            for image in images:
                plan(normalize(image))
    finally:
        for hook in hooks:
            hook.remove()
    ranges = {name: tuple(np.mean(each, axis=0).tolist()) for name, each in seen.items()}
    if not np.isfinite(list(ranges.values())).all():
        raise LogitsError(
            asked="optimize with 8 bits",
            found="maps that are infinite or not a number",
            done="the network is unchanged",
            advice="the weights are damaged: load or train them again",
        )
    # Zero is a level of each range, and no range is empty.
    return {name: (min(least, 0.0), max(greatest, 1e-6)) for name, (least, greatest) in ranges.items()}


def float_dtype() -> torch.dtype:
    """Return the dtype of the layers that stay in floating point: bfloat16 with AMX, else float32.

    bfloat16 by AVX512 alone is slower than float32 on some processors.
    """
    fast = torch.cpu.get_capabilities().get("amx_bf16") is True and torch.bfloat16 in openvino.dtypes()
    return torch.bfloat16 if fast else torch.float32


def _capabilities() -> list[str]:
    """Return what OpenVINO multiplies in: without VNNI, sums of 8 bits may saturate."""
    vnni = [name for name, able in torch.cpu.get_capabilities().items() if able is True and "vnni" in name]
    return [*openvino.openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"), *sorted(vnni)]


def drawn_images(given: Calibration) -> list[ImageLike]:
    """Return at most MAX_IMAGES of the images, drawn evenly."""
    images = find_images(Path(given), Path(given))[0] if isinstance(given, str | os.PathLike) else given
    if not isinstance(images, list | tuple | Tensor) or not len(images):
        raise ConfigError(
            asked=f"optimize with calibration={str(given)!r}",
            found="there are no images: calibration is a list of images, or a folder with images",
            done="the network is unchanged",
            advice="give some dozens of images like those to be labeled",
        )
    places = np.linspace(0, len(images) - 1, min(len(images), MAX_IMAGES)).astype(int)
    return [images[place] for place in places]


def calibration_views(images: Sequence[ImageLike] | None, resize_to: tuple[int, int]) -> list[RGB]:
    """Return drawn images, or generated scenes if there are none, at the network's input size, cropped to `CROP`."""
    if images is None:
        return [scene(seed).image for seed in SCENES]
    return [_crop(image, resize_to, place) for place, image in enumerate(images)]


def _crop(image: ImageLike, resize_to: tuple[int, int], place: int) -> RGB:
    """Return an image at the network's input size, and of larger ones a corner: another for each of four images."""
    (view,) = resized(read_image(image), resize_to, ms_flip=False)
    height, width, _ = view.shape
    rows, columns = CROP
    top = max(0, height - rows) * (place & 1)
    left = max(0, width - columns) * (place >> 1 & 1)
    return np.ascontiguousarray(view[top : top + rows, left : left + columns])


def _digest(image: ImageLike) -> bytes:
    if isinstance(image, str | os.PathLike):
        with suppress(OSError, ValueError):  # said by read_image
            if Path(image).is_file():
                return hashlib.sha256(Path(image).read_bytes()).digest()
    pixels = read_image(image)
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest()


def _agreement(model: FCNHRNet, engine: OpenVINOEngine, images: Sequence[RGB]) -> float:
    """Return the share of pixels that the engine labels as the network does."""
    same = total = 0
    with evaluating(model) as network:
        for image in images:
            x = normalize(image)
            height, width, _ = image.shape
            masks = []
            for run, dtype in ((network.logits_stride4, network.dtype), (engine, engine.dtype)):
                logits = run(x.to(dtype, memory_format=torch.channels_last))[0]
                masks.append(make_mask([ViewLogits.of_whole(logits, height, width)], height, width))
            same += int((masks[0] == masks[1]).sum())
            total += masks[0].size
    return same / total


# --- the cache -------------------------------------------------------------------------------------------------------


def _remembered(key: str, steps: set[str]) -> Quantization | None:
    """Return what the cache has; a damaged file is removed."""
    try:
        if not cache.is_cached(key, "range"):
            return None
        path = cache.path_of(key, "range")
        try:
            return _read(path, steps)
        except ValueError as error:
            logger.warning("%s is damaged (%s); calibrating again", path, error)
            cache.discard(path)
    except CacheError as error:
        logger.info("calibrating again: %s", error)
    return None


def _remember(key: str, steps: set[str], found: Quantization) -> None:
    try:
        cache.publish(key, json.dumps(asdict(found), indent=1).encode(), lambda path: _read(path, steps), "range")
    except CacheError as error:
        logger.warning("the next process will calibrate again: %s", error)


def _read(path: Path, steps: set[str]) -> Quantization:
    """Read a file of the cache; ValueError if it is damaged, CacheError if it cannot be read."""
    with cache.disk_errors(path, f"read {path}"):
        text = path.read_bytes()
    try:
        content = json.loads(text)
        content["ranges"] = {name: (float(least), float(great)) for name, (least, great) in content["ranges"].items()}
        found = Quantization(**content)
        str(found)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if found.ranges.keys() != steps or not all(
        -math.inf < least <= 0 < great < math.inf for least, great in found.ranges.values()
    ):
        raise ValueError("the ranges are not those of this network")
    return found
