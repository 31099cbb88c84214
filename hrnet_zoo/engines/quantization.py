"""OpenVINO model -> the same in 8 bits, calibrated by NNCF with a user's images (extra `int8`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from hrnet_zoo.datasets.pairing import find_images
from hrnet_zoo.engines.openvino import import_extra
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.images.preprocess import normalize
from hrnet_zoo.images.read import read_image
from hrnet_zoo.inference.predict import resized

if TYPE_CHECKING:
    from hrnet_zoo.images.read import ImageLike

MAX_IMAGES = 80  # with more, the ranges of values hardly change
HELD_OUT = 5  # every fifth image is held out: it tells what 8 bits cost, and goes through the exact network too


def quantize(model: Any, images: Sequence[ImageLike], resize_to: tuple[int, int]) -> Any:  # noqa: ANN401 - OpenVINO's
    """Return an OpenVINO model in 8 bits, with ranges of values found in images; takes half a minute to minutes.

    The first convolution and the classifier, a small part of the work, stay in floating point: of the pixels of street
    scenes 192 wide the demo network then labels 2.4 % otherwise, and 3.1 % with everything in 8 bits.

    Args:
        model: of a plan.
        images: to find the ranges in. NNCF draws progress bars on the standard output.
        resize_to: of the network's dataset: the sizes in which the network gets the images.

    """
    nncf = nncf_package()

    def network_input(image: ImageLike) -> Any:  # noqa: ANN401 - an array, for NNCF
        (view,) = resized(read_image(image), resize_to, ms_flip=False)
        return normalize(view).contiguous().numpy()

    names = [each.get_friendly_name() for each in model.get_ordered_ops() if each.get_type_name() == "Convolution"]
    return nncf.quantize(
        model,
        nncf.Dataset(images, network_input),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(names=[names[0], names[-1]]),
    )


def calibration_images(given: Sequence[ImageLike] | str | os.PathLike[str]) -> Sequence[ImageLike]:
    """Return the images to calibrate with: a sequence as it is, or all images in a folder, searched to any depth.

    Raises:
        ConfigError: there are none.

    """
    images = find_images(Path(given), Path(given))[0] if isinstance(given, str | os.PathLike) else given
    if not isinstance(images, list | tuple | Tensor) or not len(images):
        raise ConfigError(
            asked=f"optimize with calibration={str(given)!r}",
            found="there are no images: calibration is a list of images, or a folder with images",
            done="the network is unchanged",
            advice="give some dozens of images like those to be labeled",
        )
    return images


def split(images: Sequence[ImageLike]) -> tuple[list[ImageLike], list[ImageLike]]:
    """Draw at most 80 images evenly: most to calibrate with, every fifth to judge by; of fewer than 4, all to both."""
    places = np.linspace(0, len(images) - 1, min(len(images), MAX_IMAGES)).astype(int)
    chosen = [images[place] for place in places]
    held_out = chosen[3::HELD_OUT]
    rest = [image for number, image in enumerate(chosen) if number % HELD_OUT != 3]
    return rest, held_out or rest


def nncf_package() -> Any:  # noqa: ANN401 - a module that may be missing
    """Import NNCF; ConfigError if it is not installed."""
    return import_extra("nncf", "int8", "calibration")
