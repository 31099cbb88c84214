"""OpenVINO model -> the same in 8 bits, calibrated by NNCF with a user's images (extra `int8`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from hrnet_zoo.datasets.pairing import find_images
from hrnet_zoo.engines.openvino import Node, import_extra
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.images.preprocess import normalize
from hrnet_zoo.images.read import ImageLike, read_image
from hrnet_zoo.inference.predict import resized

MAX_IMAGES = 80  # with more, the ranges of values hardly change


def quantizer(
    images: Sequence[ImageLike] | str | os.PathLike[str], resize_to: tuple[int, int]
) -> Callable[[Node], Node]:
    """Return what turns an OpenVINO model into one in 8 bits, by ranges of values found in images; it takes minutes.

    The first convolution and the classifier, a small part of the work, stay in floating point: of the pixels of street
    scenes 192 wide the demo network then labels 2.4 % otherwise, and 3.1 % with everything in 8 bits. NNCF draws
    progress bars on the standard output.

    Args:
        images: a sequence, or a folder that is searched to any depth; at most 80 are drawn evenly.
        resize_to: (long, short) side in pixels, of the network's dataset.

    Raises:
        ConfigError: NNCF is not installed, or there are no images.

    """
    nncf = import_extra("nncf", "int8", "calibration")
    chosen = _calibration_images(images)

    def network_input(image: ImageLike) -> Node:
        (view,) = resized(read_image(image), resize_to, ms_flip=False)
        return normalize(view).contiguous().numpy()

    def quantize(model: Node) -> Node:
        names = [each.get_friendly_name() for each in model.get_ordered_ops() if each.get_type_name() == "Convolution"]
        return nncf.quantize(
            model,
            nncf.Dataset(chosen, network_input),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(chosen),
            ignored_scope=nncf.IgnoredScope(names=[names[0], names[-1]]),
        )

    return quantize


def _calibration_images(given: Sequence[ImageLike] | str | os.PathLike[str]) -> list[ImageLike]:
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
