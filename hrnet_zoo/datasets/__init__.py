"""The data sets of the published checkpoints: class names and colours, and how pictures reach the network.

Names and colours belong here and to nothing else: what a checkpoint's own metadata says of them is not used. (The two
published Pascal Context files very probably carry names in another order than their labels were numbered in.)
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Dataset:
    """What the network of a row has to know of the data it was trained on.

    Attributes:
        key: short name, as in model names.
        title: name as in the published table.
        crop: training crop (height, width) in pixels.
        pictures_per_gpu: training batch of each of the four GPUs.
        box: keep-ratio resize at test time fits a picture into (long side, short side) pixels.
        slides: test-time inference slides a window; else the whole picture at once.
        terms: terms of use of the data set itself.
        labels: names and RGB colours by index; empty: those of `<key>.csv` beside this file.
        val_pictures: how many pictures the published figures are of; 0: none are published.

    """

    key: str
    title: str
    crop: tuple[int, int]
    pictures_per_gpu: int
    box: tuple[int, int]
    slides: bool
    terms: str
    labels: tuple[tuple[str, Colour], ...] = ()
    val_pictures: int = 0

    @cached_property
    def _labels(self) -> tuple[tuple[str, Colour], ...]:
        if self.labels:
            return self.labels
        with (Path(__file__).parent / f"{self.key}.csv").open(encoding="utf-8", newline="") as file:
            return tuple(
                (row["name"], (int(row["red"]), int(row["green"]), int(row["blue"]))) for row in csv.DictReader(file)
            )

    @property
    def window(self) -> tuple[int, int]:
        """Side and stride in pixels of the sliding window: the training crop's short side and two thirds of it."""
        side = min(self.crop)
        return side, side * 2 // 3

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index."""
        return tuple(name for name, _ in self._labels)

    @property
    def palette(self) -> tuple[Colour, ...]:
        """Colours (RGB, 0 to 255) by index."""
        return tuple(colour for _, colour in self._labels)

    def with_classes(self, names: Sequence[str]) -> Dataset:
        """Return the same way of bringing pictures to the network, for other classes.

        Names known here keep their colour; the others get one of the Pascal VOC colour map that is not taken. No
        figures are published for them.
        """
        known = dict(self._labels)
        taken = {known[name] for name in names if name in known}
        free = (colour for colour in map(voc_colour, range(1, 4097)) if colour not in taken)
        return replace(self, labels=tuple((name, known.get(name) or next(free)) for name in names), val_pictures=0)


def voc_colour(index: int) -> Colour:
    """Colour of the Pascal VOC colour map: the index's bits, dealt in turn to red, green and blue, highest first."""
    red = green = blue = 0
    for bit in range(8):
        red |= (index >> (3 * bit) & 1) << (7 - bit)
        green |= (index >> (3 * bit + 1) & 1) << (7 - bit)
        blue |= (index >> (3 * bit + 2) & 1) << (7 - bit)
    return red, green, blue


# Crops, batches, boxes and windows: configs/_base_/datasets and configs/hrnet of mmsegmentation 0.x. Numbers of
# pictures: the official validation lists; of Pascal Context that of 59 classes, 4998 to train and 5105 to validate.
CITYSCAPES = Dataset(
    key="cityscapes",
    title="Cityscapes",
    crop=(512, 1024),
    pictures_per_gpu=2,
    box=(2048, 1024),
    slides=False,
    terms="Cityscapes: non-commercial use only, see https://www.cityscapes-dataset.com/license/",
    val_pictures=500,
)
ADE20K = Dataset(
    key="ade20k",
    title="ADE20K",
    crop=(512, 512),
    pictures_per_gpu=4,
    box=(2048, 512),
    slides=False,
    terms="ADE20K: non-commercial research and education only, see https://ade20k.csail.mit.edu/terms/",
    val_pictures=2000,
)
VOC12AUG = Dataset(
    key="voc12aug",
    title="Pascal VOC 2012 + Aug",
    crop=(512, 512),
    pictures_per_gpu=4,
    box=(2048, 512),
    slides=False,
    terms="Pascal VOC 2012: pictures from Flickr under Flickr's terms, see http://host.robots.ox.ac.uk/pascal/VOC/",
    val_pictures=1449,
)
PASCAL_CONTEXT = Dataset(
    key="pascal_context",
    title="Pascal Context",
    crop=(480, 480),
    pictures_per_gpu=4,
    box=(520, 520),
    slides=True,
    terms="Pascal Context: pictures of Pascal VOC 2010 from Flickr under Flickr's terms, "
    "see https://cs.stanford.edu/~roozbeh/pascal-context/",
    val_pictures=5105,
)
DATASETS = {dataset.key: dataset for dataset in (CITYSCAPES, ADE20K, VOC12AUG, PASCAL_CONTEXT)}

# The generated street scenes of `hrnet_zoo.demo`, with the classes of Cityscapes.
SCENES = replace(
    CITYSCAPES,
    title="generated street scenes",
    crop=(256, 256),
    pictures_per_gpu=8,
    box=(768, 384),  # the size that scenes are drawn at
    terms="generated by hrnet_zoo.demo.scenes, Apache-2.0",
    val_pictures=50,
)
