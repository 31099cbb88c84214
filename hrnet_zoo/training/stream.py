"""The order in which training sees its images: a pure function of seed and position.

Positions count samples from the start of the training, through all epochs. There is no other state, so a run that is
resumed at any step, with any number of workers and processes, goes on with the same batches.
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
from hrnet_zoo.evaluation.evaluate import read_pair
from hrnet_zoo.images.prefetch import prefetch_in_processes
from hrnet_zoo.training.augmentation import Pair, augment, collate

_ORDER, _AUGMENTATION = 0, 1  # keep the seeds of an epoch's order and of a position's augmentation apart


@dataclass(frozen=True)
class PlacedSample(Sample):
    """A sample and the position at which training sees it."""

    position: int


@dataclass(frozen=True, kw_only=True)
class TrainingStream:
    """One process's share of every batch.

    The batch of step k holds the positions k * batch to (k + 1) * batch - 1, of which the process `rank` takes every
    `ranks`-th. Batches cross the borders of epochs: each is full.

    Attributes:
        samples: images with labels, in an order that does not change.
        rule: what the values of the label files mean.
        resize_to: (long side, short side) in pixels that an image is resized to fit, before the random ratio.
        crop: (height, width) in pixels.
        seed: at least 0; decides orders and crops.
        batch: images a step, over all processes; a multiple of `ranks`.
        workers: processes that prefetch; 0: none, everything happens in this one when it is asked for.
        rank: the number of this process.
        ranks: how many processes there are.

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

    def batches(self, start: int = 0) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Yield this process's share of the batches from step `start` on, without an end.

        Close the iterator (`contextlib.closing`) to end the workers.

        Yields:
            Images (n, 3, height, width) float32, normalized RGB, 0 where padded, and labels (n, height, width) int64,
            255 ignored; n is batch / ranks.

        Raises:
            ImageError: an image cannot be read.
            DatasetError: a label map cannot be used, or does not belong to its image.
            ProcessError: a worker process died.

        """
        share = self.batch // self.ranks
        load = partial(load_sample, rule=self.rule, resize_to=self.resize_to, crop=self.crop, seed=self.seed)
        # One whole batch ahead of the one that is put together, or workers would idle while the network computes.
        pairs = prefetch_in_processes(self.places(start), load, self.workers, ahead=max(self.workers + 1, 2 * share))
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
    """Read the files of a sample and augment them with the random numbers that belong to its position."""
    rng = np.random.default_rng([seed, _AUGMENTATION, place.position])
    return augment(*read_pair(place, rule), resize_to=resize_to, crop=crop, rng=rng)
