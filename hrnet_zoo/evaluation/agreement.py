"""Two models, engines or exported files -> how far their label maps agree."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hrnet_zoo.engines.optimize import OptimizedModel, optimize
from hrnet_zoo.errors import ConfigError, ImageError, raise_on_oom
from hrnet_zoo.exporting.metadata import KEY
from hrnet_zoo.exporting.runner import Segmenter, SegmenterError
from hrnet_zoo.images.read import RGB, ImageLike, read_image
from hrnet_zoo.inference.agreement import LabelAgreement, Labeler, Labels, label_agreement
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.zoo.create import create_model

EXPORTED = (".onnx", ".xml", ".pt2")
_ENGINES, _DTYPES = "fast|onednn|pytorch|openvino|cuda", "float32|bfloat16|float16"
_SIDE = re.compile(rf"(?P<name>.+)@(?:(?P<engine>{_ENGINES})(?:-(?P<dtype>{_DTYPES}|int8))?|(?P<exact>{_DTYPES}))")


def load_labeler(text: str, *, device: str | None = None, trust_pt2: bool = False) -> Labeler:
    """Load what a text names: an exported file, or a model and how it is computed.

    NAME or a folder is the exact network; NAME@float16 that in another dtype; NAME@fast what `optimize` takes, and
    NAME@openvino-int8 an engine, with or without a dtype. The one string says all of a side, so that two sides need
    no options each.

    Args:
        text: the name of a model, as in `create_model`, or the path of an .onnx, .xml or .pt2.
        device: as in `create_model`; exported files run on the CPU.
        trust_pt2: load a `.pt2`, which may run any code when it is loaded.

    Raises:
        ConfigError: not a file that hrnet-zoo exported, or a `.pt2` that is not trusted; or as `create_model` and
            `optimize`.

    """
    path = Path(text)
    if path.suffix in EXPORTED:
        asked = f"load {text}"
        if path.suffix == ".pt2" and not trust_pt2:
            found = "loading a .pt2 may run any code that is in it"
            raise _refusal(asked, found, "if it is from someone you trust, add --trust-pt2; or compare an .onnx")
        try:
            segmenter = _TorchSegmenter(path) if path.suffix == ".pt2" else Segmenter(path)
        except SegmenterError as error:
            raise _refusal(asked, str(error), "name a file that `hrnet-zoo export` has written") from error
        palette = tuple((red, green, blue) for red, green, blue in segmenter.palette)
        return Labeler(text, tuple(segmenter.classes), palette, lambda image: _labels_of_file(segmenter, text, image))
    match = _SIDE.fullmatch(text)
    model: FCNHRNet | OptimizedModel
    model = create_model(match["name"] if match else text, device=device, dtype=match["exact"] if match else None)
    model.dataset.require_rgb(f"compare {text}")
    if match and match["engine"]:
        engine = None if match["engine"] == "fast" else match["engine"]
        model = optimize(model, engine=engine, dtype=getattr(torch, match["dtype"]) if match["dtype"] else None)
    return Labeler(text, model.classes, model.palette, lambda image: model.predict(image).mask)


class _TorchSegmenter(Segmenter):
    """Runs a `.pt2`, on the CPU."""

    def __init__(self, path: Path) -> None:
        extra_files = {KEY: ""}
        if not zipfile.is_zipfile(path):  # of which torch would log a traceback
            raise SegmenterError("there is no such file, or it is no archive of torch.export")
        try:
            module = torch.export.load(path, extra_files=extra_files).module()
        except (OSError, RuntimeError, ValueError, LookupError, AssertionError) as error:
            raise SegmenterError(f"torch.export cannot load it: {str(error).splitlines()[0][:200]}") from error
        if not extra_files[KEY]:
            raise SegmenterError(f"it lacks the metadata {KEY!r}")
        self.metadata = json.loads(extra_files[KEY])
        self.classes, self.palette = self.metadata["classes"], self.metadata["palette"]
        self._faults = (RuntimeError,)

        def run(inputs: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
            with torch.inference_mode():
                found = module(*map(torch.from_numpy, inputs.values()))
            logits = found[1] if self.metadata["outputs"] == "labels" else found
            return np.asarray(logits)

        self._run = run


def _labels_of_file(segmenter: Segmenter, name: str, image: RGB) -> Labels:
    try:
        return segmenter(image)
    except SegmenterError as error:
        raise ImageError(
            asked=f"label an image with {name}",
            found=str(error),
            done="the comparison ends here",
            advice="leave this image out",
            source=name,
        ) from error


def pixel_agreement(
    model: FCNHRNet | OptimizedModel, other: FCNHRNet | OptimizedModel, images: Sequence[ImageLike]
) -> float:
    """Return the share (0 to 1) of the images' pixels that both models label alike."""
    each = (
        label_agreement(model.classes, *(np.asarray(one.predict(image)) for one in (model, other))) for image in images
    )
    first, *others = each
    return sum(others, start=first).pixels


def compare_image(path: Path, sides: tuple[Labeler, Labeler]) -> tuple[LabelAgreement, RGB, tuple[Labels, Labels]]:
    """Label an image with both sides; return how far they agree, the image, and both label maps.

    Raises:
        ImageError: the image cannot be read, or is too small for an exported file.
        ConfigError: the memory does not suffice.

    """
    image = read_image(path)
    with raise_on_oom(
        f"label {path}", done="the comparison ends here", advice="leave this image out, or make it smaller"
    ):
        labels = sides[0].label(image), sides[1].label(image)
    return label_agreement(sides[0].classes, *labels), image, labels


def _refusal(asked: str, found: str, advice: str) -> ConfigError:
    return ConfigError(asked=asked, found=found, done="nothing was compared", advice=advice)
