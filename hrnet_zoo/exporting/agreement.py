"""Exported file and network -> how they agree on generated scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from hrnet_zoo.datasets import Dataset
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.exporting.metadata import LEAST_SIZE, Agreement, Outputs, Precision
from hrnet_zoo.images.preprocess import normalize, resize
from hrnet_zoo.images.read import RGB
from hrnet_zoo.inference.logits import ViewLogits
from hrnet_zoo.inference.masks import make_mask
from hrnet_zoo.inference.predict import evaluating, view_logits
from hrnet_zoo.models.fcn import FCNHRNet

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]

# The least share of pixels, of all scenes together, that a file must label as the network does.
LEAST_AGREEMENT: dict[Precision, float] = {"fp32": 0.9999, "fp16": 0.995, "int8": 0.995}

# The dataset's size is halved until it has no more pixels, so that the check takes seconds and little memory.
MOST_PIXELS = 1 << 19


class Check(NamedTuple):
    """Scenes to compare on, at one size."""

    name: str
    batch: int
    input_size: tuple[int, int]
    size: tuple[int, int]


def checks(data: Dataset) -> list[Check]:
    """Return what a file of a network is compared on: five sizes of the network's input and of the labels."""
    least = (LEAST_SIZE, LEAST_SIZE)
    width, height = data.resize_to
    if data.sliding_window:
        width = height = data.window[0]
    while width * height > MOST_PIXELS:
        width, height = (width // 2, height) if width > height else (width, height // 2)
    return [
        Check("the least size", 1, least, least),
        Check("odd sides, enlarged", 1, (97, 131), (203, 275)),
        Check("odd sides, reduced", 1, (195, 131), (101, 67)),
        Check("the sliding window" if data.sliding_window else "the dataset's size", 1, *[(height, width)] * 2),
        Check("a batch of two of these", 2, *[(height, width)] * 2),
    ]


def compare(network: FCNHRNet, run: Callable[[Arrays], Arrays], outputs: Outputs) -> Iterator[Agreement]:
    """Yield how a file, which `run` runs, agrees with its network; its logits are resized by this library.

    Raises:
        LogitsError: the network's own logits are infinite or not a number.

    """
    with evaluating(network) as model:
        for seed, check in enumerate(checks(model.dataset)):
            images = [_scene(seed + number, *check.input_size) for number in range(check.batch)]
            exact = [view_logits(model, [image], slide=False, flip=False) for image in images]
            logits = np.stack([views[0].windows[0].logits.numpy() for views in exact]).transpose(0, 3, 1, 2)
            if outputs == "labels":
                found = run({"image": np.stack(images), "size": np.array(check.size)})
                labels = found["labels"]
            else:
                found = run({"image": torch.cat([normalize(image) for image in images]).contiguous().numpy()})
                pixels = torch.from_numpy(found["logits"]).permute(0, 2, 3, 1)
                views = (ViewLogits.of_whole(each, *check.input_size) for each in pixels)
                labels = np.stack([make_mask([view], *check.size) for view in views])
            same = labels == np.stack([make_mask(views, *check.size) for views in exact])
            error = np.abs(found["logits"] - logits).max()
            yield Agreement(*check, float(same.mean()), float(f"{error:.2g}"), float(f"{np.abs(logits).max():.3g}"))


def pixel_agreement(agreements: Sequence[Agreement]) -> float:
    """Return the share of the pixels of all scenes that are labeled alike."""
    pixels = [each.batch * each.size[0] * each.size[1] for each in agreements]
    return float(np.average([each.pixel_agreement for each in agreements], weights=pixels))


def _scene(seed: int, height: int, width: int) -> RGB:
    """Return a street scene; scenes are not drawn with sides below 64."""
    large = max(height, 64), max(width, 64)
    return resize(scene(seed, *large).image, height, width)
