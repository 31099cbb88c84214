"""The order in which training sees its images: a pure function of seed and position, whoever asks and whenever.

Positions count samples from the start of the training on, through all epochs. Nothing else is remembered, so a run that
is resumed at a step, with any number of workers and of processes, goes on with the same batches.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import count, islice

import numpy as np
from torch import Tensor

from hrnet_zoo.datasets.label_rules import LabelRule
from hrnet_zoo.datasets.pairing import Sample
from hrnet_zoo.errors import ConfigError, DatasetError
from hrnet_zoo.images.label_maps import read_labels
from hrnet_zoo.images.prefetch import read_ahead
from hrnet_zoo.images.read import RGB, read_image
from hrnet_zoo.training.augmentation import Labels, Pair, augment, collate

_ORDER, _CHANCE = 0, 1  # keep the seeds of an epoch's order and of a position's augmentation apart


@dataclass(frozen=True)
class PlacedSample(Sample):
    """A sample and the position at which training sees it."""

    position: int


@dataclass(frozen=True, kw_only=True)
class TrainingStream:
    """One process's share of every batch.

    The whole batch of step k is made of the positions k * batch to (k + 1) * batch - 1, of which the process `rank`
    takes every `ranks`-th. Batches run over the borders of epochs: each is full.

    Attributes:
        samples: images with labels, in an order that does not change.
        rule: what the values of the label files mean.
        resize_to: keep-ratio resize fits an image into (long side, short side) pixels, before the random ratio.
        crop: (height, width) in pixels.
        seed: at least 0; every other seed is another order and other crops.
        batch: images a step, over all processes.
        workers: processes that read ahead; 0: everything happens when it is asked for, in this one.
        rank: the number of this process.
        ranks: how many processes there are.

    Raises:
        ConfigError: the numbers do not fit together.

    """

    samples: Sequence[Sample]
    rule: LabelRule
    resize_to: tuple[int, int]
    crop: tuple[int, int]
    seed: int
    batch: int
    workers: int = 0
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        faults = {
            f"batch={self.batch}": (self.batch < 1, "a batch has at least one image"),
            f"workers={self.workers}": (self.workers < 0, "workers is at least 0"),
            f"seed={self.seed}": (self.seed < 0, "a seed is at least 0"),
            f"rank={self.rank} of {self.ranks}": (not 0 <= self.rank < self.ranks, "ranks count from 0"),
            "no images": (not self.samples, "there is nothing to train on"),
            f"crop={self.crop}": (min(self.crop) < 1, "a crop has at least one pixel"),
            f"batch={self.batch} in {self.ranks} processes": (
                self.batch % max(1, self.ranks) != 0,
                "each process takes equally many images",
            ),
        }
        for asked, (wrong, found) in faults.items():
            if wrong:
                advice = "correct it; the batch counts the images of all processes together"
                raise ConfigError(asked=f"train with {asked}", found=found, done="nothing was read", advice=advice)

    @property
    def steps_per_epoch(self) -> float:
        """How many steps show every image once; seldom a whole number."""
        return len(self.samples) / self.batch

    def batches(self, start: int = 0) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Yield this process's share of the batches of step `start` and all after it, without an end.

        Close the iterator (`contextlib.closing`) to end the workers.

        Yields:
            Images (n, 3, height, width) float32, normalized RGB, 0 where padded, and labels (n, height, width) int64,
            255 ignored; n is batch / ranks.

        Raises:
            ImageError: an image cannot be read.
            DatasetError: labels that are none, or not of their image.
            WorkerError: a worker process died.

        """
        share = self.batch // self.ranks
        load = partial(load_sample, rule=self.rule, resize_to=self.resize_to, crop=self.crop, seed=self.seed)
        # A whole batch ahead beside the one that is being put together, or workers idle while the network works.
        pairs = read_ahead(self.places(start), load, self.workers, ahead=max(self.workers + 1, 2 * share))
        with closing(pairs):
            while True:
                yield collate(list(islice(pairs, share)), self.crop)

    def places(self, start: int = 0) -> Iterator[PlacedSample]:
        """Yield this process's samples from step `start` on, without an end."""
        order, epoch_of_order = np.empty(0, np.intp), -1
        for position in count(start * self.batch + self.rank, self.ranks):
            epoch, index = divmod(position, len(self.samples))
            if epoch != epoch_of_order:
                order = np.random.default_rng([self.seed, _ORDER, epoch]).permutation(len(self.samples))
                epoch_of_order = epoch
            sample = self.samples[order[index]]
            yield PlacedSample(sample.name, sample.image, sample.labels, position)


def load_sample(
    place: PlacedSample, *, rule: LabelRule, resize_to: tuple[int, int], crop: tuple[int, int], seed: int
) -> Pair:
    """Read the files of a sample and augment them with the chance that belongs to its position."""
    image, labels = read_pair(place, rule)
    return augment(
        image, labels, resize_to=resize_to, crop=crop, rng=np.random.default_rng([seed, _CHANCE, place.position])
    )


def read_pair(sample: Sample, rule: LabelRule) -> tuple[RGB, Labels]:
    """Read an image (H, W, 3) uint8 RGB and its labels (H, W) uint8: class indices, 255 ignored.

    Raises:
        ImageError: a file cannot be read.
        DatasetError: labels that are none, of another size than the image, or with values of no class.

    """
    image, values = read_image(sample.image), read_labels(sample.labels)
    if image.shape[:2] != values.shape:
        found = "the image has {1} x {0} pixels, the labels have {3} x {2}".format(*image.shape[:2], *values.shape)
        raise _unusable(sample, found, "images and labels are of the same size, as displayed")
    if unknown := rule.unknown(np.flatnonzero(np.bincount(values.ravel(), minlength=256))):
        found = f"the values {', '.join(map(str, unknown[:20]))} are no class; the rule here: {rule.title}"
        raise _unusable(sample, found, "`hrnet-zoo check-data` tells how many there are, and what they look like")
    return image, rule.indices(values)


def _unusable(sample: Sample, found: str, advice: str) -> DatasetError:
    return DatasetError(
        asked=f"train on {sample.image} with the labels {sample.labels}",
        found=found,
        done="the run was stopped",
        advice=advice,
        path=sample.labels,
        problems=(found,),
    )
