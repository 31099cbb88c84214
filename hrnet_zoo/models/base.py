"""Base class of the network and its optimized form: `predict`, class names and colors."""

from __future__ import annotations

import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, TypedDict, TypeVar, overload

from hrnet_zoo.errors import no_such_argument

if TYPE_CHECKING:
    import os

    import torch
    from numpy import ndarray
    from PIL.Image import Image
    from torch import Tensor
    from typing_extensions import Self, Unpack

    from hrnet_zoo.datasets import Dataset
    from hrnet_zoo.errors import ImageError
    from hrnet_zoo.images.read import ImageLike
    from hrnet_zoo.inference.class_groups import ClassChoice
    from hrnet_zoo.inference.result import SegmentationResult

F = TypeVar("F", bound=Callable[..., Any])

_INSTEAD = {
    **dict.fromkeys(("source", "img", "images", "inputs", "x"), "image=: a path, image or array, or a list of them"),
    **dict.fromkeys(
        ("conf", "conf_thres", "threshold"), "min_confidence=0.6, or confidence=True and result.confidence"
    ),
    **dict.fromkeys(("save", "out", "out_dir"), "result.save(path) for the labels, result.overlay().save(path)"),
    **dict.fromkeys(("augment", "tta"), "ms_flip=True"),
    **dict.fromkeys(("device", "dtype", "half"), "create_model(name, device=, dtype=)"),
}

_BY_KEYWORD_ALONE = ("classes", "confidence", "min_confidence")  # the last version did not have them


class PredictArguments(TypedDict, total=False):
    """The keyword arguments of `predict`."""

    mode: str | None
    ms_flip: bool
    probabilities: bool
    progress: bool
    max_memory: int | None
    fast: bool
    on_error: Literal["raise", "skip"]
    color: Literal["rgb", "bgr"]
    classes: ClassChoice | None
    confidence: bool
    min_confidence: float


def _warn_of_positions(predict: F) -> F:
    """Accept arguments after the image by position, as the last version did, and warn."""

    @functools.wraps(predict)
    def by_keyword(self: SegmentationModel, *args: Any, **arguments: Any) -> Any:  # noqa: ANN401 - as `predict`
        image, values = args[:1], args[1:]
        if values:
            names = list(PredictArguments.__annotations__)[: -len(_BY_KEYWORD_ALONE)]
            names = [name for name in names if name != "fast" or self.takes_fast_by_position][: len(values)]
            if len(names) < len(values) or arguments.keys() & set(names):
                raise TypeError(f"predict takes one positional argument, the image; {len(args)} were given")
            message = f"predict(image, ...): pass {', '.join(names)} by keyword; the next version requires it"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            arguments |= zip(names, values, strict=True)
        return predict(self, *image, **arguments)

    return by_keyword  # type: ignore[return-value]


class SegmentationModel(ABC):
    """A network, or another form of it, that labels images."""

    name: str
    dataset: Dataset  # names and colors of the classes, and how images are resized for the network
    takes_fast_by_position: ClassVar = True  # deprecated, as all positions after the image are

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index."""
        return self.dataset.classes

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """Colors (RGB, 0 to 255) by index."""
        return self.dataset.palette

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device that computes."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the arithmetic."""

    @abstractmethod
    def logits_stride4(self, x: Tensor) -> Tensor:
        """Return the logits of normalized RGB images (N, 3, H, W): (N, ceil(H/4), ceil(W/4), classes) in this dtype."""

    @abstractmethod
    def ready(self) -> Self:
        """Return the model to predict with: in eval mode, with the current weights."""

    @abstractmethod
    def _optimized(self) -> SegmentationModel:
        """Return the model that `fast=True` uses."""

    @overload
    def predict(
        self, image: str | os.PathLike[str] | bytes | Image | ndarray[Any, Any], **arguments: Unpack[PredictArguments]
    ) -> SegmentationResult: ...

    # A list may hold an ImageError where on_error="skip", and one image as a tensor gives one result.
    @overload
    def predict(
        self, image: list[Any] | tuple[Any, ...] | Tensor, **arguments: Unpack[PredictArguments]
    ) -> list[SegmentationResult | Any] | Any: ...  # noqa: ANN401

    @_warn_of_positions
    def predict(
        self,
        image: ImageLike | list[ImageLike] | tuple[ImageLike, ...] = "",
        *,
        mode: str | None = None,
        ms_flip: bool = False,
        probabilities: bool = False,
        progress: bool = True,
        max_memory: int | None = None,
        fast: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
        color: Literal["rgb", "bgr"] = "rgb",
        classes: ClassChoice | None = None,
        confidence: bool = False,
        min_confidence: float = 0.0,
        **wrong: NoReturn,
    ) -> SegmentationResult | list[SegmentationResult] | list[SegmentationResult | ImageError]:
        """Label every pixel of an image, or of several.

        Exactly the published protocol: the image is resized to the dataset's `resize_to` with its aspect ratio kept,
        and the logits are resized back to the image's size, in float32 whatever the dtype of the weights. On CUDA a
        float32 network computes without TF32.

        Args:
            image: path, bytes of a file, PIL image, uint8 RGB array (H, W, 3), uint8 RGB tensor (3, H, W); or a list of
                them, of any sizes; or a uint8 tensor (N, 3, H, W). See `hrnet_zoo.images.read.read_image`.
            mode: "whole" or "slide" (overlapping windows whose logits are averaged); None: the dataset's own.
            ms_flip: average the probabilities of six scales, each also flipped: better, and about 17 times slower.
            probabilities: keep the probabilities of all classes in the result (4 bytes per class and pixel).
            progress: show a bar for several images on a terminal, else a line once a minute.
            max_memory: bytes for full-resolution logits, which are made in row chunks of at least one row; the result
                does not depend on it. None: 12 MiB on a CPU, where more is slower; on CUDA at most 512 MiB, and a
                quarter of the free memory.
            fast: use `hrnet_zoo.optimize(model)`, made at the first such call and kept with the model. It differs from
                the network by rounding, so it is not the default.
            on_error: for a list, "skip" returns the error in place of an unreadable image and logs a warning; "raise"
                stops at the first one. A single image always raises.
            color: channel order of arrays and tensors: "bgr" for those of OpenCV's `cv2.imread`. A wrong order is
                not detected; the labels are just worse.
            classes: ask for these classes alone: a list of names, or names by group, as {"green": ["vegetation",
                "terrain"], "road": ["road"]}. The probabilities of a group are added before the best one is taken. The
                result has the groups in this order, in the color of their first class, and at the end "other", the sum
                of all remaining classes.
            confidence: keep the probability of each pixel's class in `result.confidence` (2 bytes per pixel).
            min_confidence: label pixels whose class has a lower probability, from 0 to 1, with 255.
            wrong: arguments of other libraries; the error names ours.

        Returns:
            A result for one image; for several a list in the same order and of the same length.

        Raises:
            ImageError: an image cannot be read.
            ConfigError: an argument has a value that it cannot have; or `classes` names a class that does not exist, or
                one twice; or the number of classes is not that of the network's logits; or this process was forked
                after its parent had computed with threads.
            LogitsError: the logits are infinite or not a number.

        """
        if wrong:
            raise no_such_argument("model.predict", wrong, _INSTEAD)
        from hrnet_zoo.inference.predict import PredictOptions, predict

        options = PredictOptions(mode, ms_flip, probabilities, max_memory, color, classes, confidence, min_confidence)
        options.groups(self.dataset)  # refuses wrong names before the model is optimized
        return predict(self._optimized() if fast else self, image, options, progress=progress, on_error=on_error)
