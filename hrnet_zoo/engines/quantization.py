"""A network in 8 bits: what NNCF makes of an OpenVINO model after it has seen images (`hrnet-zoo[int8]`)."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hrnet_zoo.datasets.pairing import find_images
from hrnet_zoo.engines.openvino import unreported
from hrnet_zoo.errors import ConfigError, install
from hrnet_zoo.images.read import normalize, read_image
from hrnet_zoo.inference.predict import resized

if TYPE_CHECKING:
    from hrnet_zoo.images.read import ImageLike

MOST = 64  # images that are looked at, drawn evenly: values' ranges hardly change with more
MOST_OTHERS = 16  # images that tell what it cost: each goes through the exact network too

_QUANTIZING = threading.Lock()  # NNCF's log level is the process's


class Quantization:
    """Makes an OpenVINO model compute in 8 bits, in ranges of values that images of the user's show.

    The first convolution and the classifier stay in floating point, which is a small part of the work: of the pixels
    of street scenes 192 wide the demo network then labels 2.4 % otherwise, and 3.1 % with everything in 8 bits.

    Args:
        images: to find the ranges by, in the sizes in which the network gets them. NNCF draws progress bars on the
            standard output.
        box: of the network's dataset, into which images are resized.

    """

    def __init__(self, images: Sequence[ImageLike], resize_to: tuple[int, int]) -> None:
        _nncf()
        self._images = images
        self._resize_to = resize_to

    def __call__(self, model: Any) -> Any:  # noqa: ANN401 - OpenVINO's
        """Return the model in 8 bits; takes from half a minute to minutes."""
        nncf = _nncf()
        names = [each.get_friendly_name() for each in model.get_ordered_ops() if each.get_type_name() == "Convolution"]
        with _QUANTIZING:
            before = logging.getLogger("nncf").level
            nncf.set_log_level(logging.WARNING)
            try:
                return nncf.quantize(
                    model,
                    nncf.Dataset(self._images, self._seen),
                    preset=nncf.QuantizationPreset.MIXED,
                    subset_size=len(self._images),
                    ignored_scope=nncf.IgnoredScope(names=[names[0], names[-1]]),
                )
            finally:
                nncf.set_log_level(before)

    def _seen(self, image: ImageLike) -> Any:  # noqa: ANN401 - NumPy's, for NNCF
        (view,) = resized(read_image(image), self._resize_to, ms_flip=False)
        return normalize(view).contiguous().numpy()


def calibration_images(given: Sequence[ImageLike] | str | os.PathLike[str]) -> Sequence[ImageLike]:
    """Return the images to calibrate with: those given, or all in a folder, searched to any depth.

    Raises:
        ConfigError: there are none.

    """
    images: Sequence[ImageLike] = []
    if isinstance(given, str | os.PathLike):
        found = f"{given} is a folder without images" if Path(given).is_dir() else f"{given} is no folder"
        images, _ = find_images(Path(given), Path(given))
    elif isinstance(given, list | tuple) or (isinstance(given, Tensor) and given.ndim == 4):
        found = "it is empty"
        images = given
    else:
        found = f"it is a {type(given).__name__}"
    if not len(images):
        raise ConfigError(
            asked="optimize with calibration",
            found=f"{found}; it takes a list of images, or a folder that holds some",
            done="the network was left as it is",
            advice="give it some dozens of images like those that are to be labeled",
        )
    return images


def drawn(images: Sequence[ImageLike]) -> tuple[list[ImageLike], list[ImageLike]]:
    """Draw images evenly: at most 64 to calibrate with, and of the others at most 16, a quarter of few, to judge by.

    Of fewer than four none can be spared: the same ones are to judge by.
    """
    others = _evenly(range(len(images)), min(MOST_OTHERS, len(images) // 4))
    rest = _evenly([each for each in range(len(images)) if each not in others], MOST)
    return [images[each] for each in rest], [images[each] for each in others or rest]


def _evenly(places: Sequence[int], most: int) -> list[int]:
    most = min(most, len(places))
    return [places[len(places) * (2 * each + 1) // (2 * most)] for each in range(most)]


def _nncf() -> Any:  # noqa: ANN401 - a module that may not be there
    try:
        with unreported("nncf"):
            import nncf
    except ImportError as error:
        raise ConfigError(
            asked="optimize with calibration, for 8 bits",
            found=f"NNCF cannot be imported ({error})",
            done="the network was left as it is",
            advice=f"{install('int8')}, or leave calibration out",
        ) from error
    return nncf
