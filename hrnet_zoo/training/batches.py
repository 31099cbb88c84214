"""Training batches: the order of the images, their reading, augmentation and collation.

The order is a pure function of seed and position; a position counts samples from the start of the training. So a run
that is resumed at any step, with any number of workers and processes, goes on with the same batches.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import count, islice

import numpy as np
from torch import Tensor

from hrnet_zoo.datasets.label_rules import LabelRule
from hrnet_zoo.datasets.layouts import LabeledFolder
from hrnet_zoo.datasets.pairing import Sample
from hrnet_zoo.evaluation.evaluate import read_pair
from hrnet_zoo.evaluation.ranks import Ranks
from hrnet_zoo.images.prefetch import prefetch_in_processes
from hrnet_zoo.training.augmentation import Pair, augment, collate
from hrnet_zoo.training.config import TrainingConfig

_ORDER, _AUGMENTATION = 0, 1  # keep the seeds of an epoch's order and of a position's augmentation apart


@dataclass(frozen=True)
class PlacedSample(Sample):
    """A sample and the position at which training sees it."""

    position: int


def batches(
    folder: LabeledFolder, config: TrainingConfig, ranks: Ranks, *, workers: int = 0, start: int = 0
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Yield this process's share of the batches from step `start` on, without end.

    Images are (n, 3, height, width) float32, normalized RGB, 0 where padded, and labels (n, height, width) int64, 255
    ignored; n is batch / ranks. Batches run over the borders of epochs, so each is full. Close the generator to end
    the worker processes. Errors are those of `read_pair` and `prefetch_in_processes`.
    """
    share = config.batch // ranks.size
    load = partial(load_sample, rule=folder.rule, resize_to=config.resize_to, crop=config.crop, seed=config.seed)
    # A whole batch ahead of the one being collated, or workers would idle while the network computes.
    ahead = max(workers + 1, 2 * share)
    with closing(prefetch_in_processes(places(folder, config, ranks, start), load, workers, ahead)) as pairs:
        while True:
            yield collate(list(islice(pairs, share)), config.crop)


def places(folder: LabeledFolder, config: TrainingConfig, ranks: Ranks, start: int) -> Iterator[PlacedSample]:
    """Yield this process's samples from step `start` on, without end."""
    order, epoch_of_order = np.empty(0, np.intp), -1
    for position in count(start * config.batch + ranks.rank, ranks.size):
        epoch, index = divmod(position, len(folder.samples))
        if epoch != epoch_of_order:
            order = np.random.default_rng([config.seed, _ORDER, epoch]).permutation(len(folder.samples))
            epoch_of_order = epoch
        sample = folder.samples[order[index]]
        yield PlacedSample(sample.name, sample.image, sample.labels, position)


def load_sample(
    place: PlacedSample, *, rule: LabelRule, resize_to: tuple[int, int], crop: tuple[int, int], seed: int
) -> Pair:
    """Read the files of a sample and augment them with the random numbers of its position."""
    rng = np.random.default_rng([seed, _AUGMENTATION, place.position])
    return augment(*read_pair(place, rule), resize_to=resize_to, crop=crop, rng=rng)
