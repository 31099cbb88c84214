"""Training batches: the order of the images, their reading, augmentation and collation.

The order is a pure function of seed and position; a position counts samples from the start of the training. So a run
that is resumed at any step, with any number of workers and processes, goes on with the same batches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from multiprocessing.reduction import ForkingPickler
from pickle import PicklingError

import numpy as np
import torch
from torch import Tensor

from hrnet_zoo.datasets.label_rules import LabelRule
from hrnet_zoo.datasets.layouts import LabeledFolder
from hrnet_zoo.datasets.pairing import Sample
from hrnet_zoo.evaluation.evaluate import read_pair
from hrnet_zoo.evaluation.ranks import Ranks
from hrnet_zoo.images.prefetch import START_METHOD, prefetch_in_processes
from hrnet_zoo.training.augmentation import Pair, augment, collate
from hrnet_zoo.training.config import TrainingConfig, config_error

TRIED = 3  # samples, before a training with an augmentation of the user's

logger = logging.getLogger("hrnet_zoo")

_ORDER, _AUGMENTATION = 0, 1  # keep the seeds of an epoch's order and of a position's augmentation apart


@dataclass(frozen=True)
class PlacedSample(Sample):
    """A sample and the position at which training sees it."""

    position: int


def batches(
    folder: LabeledFolder,
    config: TrainingConfig,
    ranks: Ranks,
    *,
    workers: int = 0,
    start: int = 0,
    augment: Callable[..., Pair] = augment,
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Yield this process's share of the batches from step `start` on, without end.

    Images are (n, C, height, width) float32, normalized, 0 where padded, and labels (n, height, width) int64, 255
    ignored; n is batch / ranks. Batches run over the borders of epochs, so each is full. Close the generator to end
    the worker processes. Errors are those of `read_pair` and `prefetch_in_processes`.
    """
    share = config.batch // ranks.size
    load = _loader(folder, config, augment)
    # A whole batch ahead of the one being collated, or workers would idle while the network computes.
    ahead = max(workers + 1, 2 * share)
    with closing(prefetch_in_processes(places(folder, config, ranks, start), load, workers, ahead)) as pairs:
        while True:
            yield collate(list(islice(pairs, share)), config.crop, config.mean, config.std)


def try_augmentation(folder: LabeledFolder, config: TrainingConfig, augment: Callable[..., Pair], workers: int) -> None:
    """Augment the first samples twice: raise what is wrong with the user's function, or warn if chance rules in it."""
    if workers and START_METHOD != "fork":
        try:
            ForkingPickler.dumps(augment)
        except (PicklingError, AttributeError, TypeError) as error:
            advice = "define it at the top level of a module, or use workers=0"
            raise config_error(f"with augment={config.augment}", f"it cannot be pickled: {error}", advice) from error
    first = list(islice(places(folder, config, Ranks(0, 1, torch.device("cpu")), 0), TRIED))
    # In a worker, as later: threads that it starts in this process would be missing in forks.
    with closing(prefetch_in_processes([*first, *first], _loader(folder, config, augment), min(workers, 1))) as drawn:
        once, again = (list(islice(drawn, TRIED)) for _ in range(2))
    for pairs in zip(once, again, strict=True):
        if not all(np.array_equal(*each) for each in zip(*pairs, strict=True)):
            logger.warning(
                "augment=%s draws from elsewhere than its generator: no run with it can be repeated", config.augment
            )
            return


def _loader(
    folder: LabeledFolder, config: TrainingConfig, augment: Callable[..., Pair]
) -> Callable[[PlacedSample], Pair]:
    sizes = {"resize_to": config.resize_to, "crop": config.crop}
    own = partial(augment, **sizes)
    return partial(load_sample, rule=folder.rule, bands=folder.bands, seed=config.seed, augment=own)


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
    place: PlacedSample, *, rule: LabelRule, seed: int, augment: Callable[..., Pair], bands: Sequence[str] = ()
) -> Pair:
    """Read the files of a sample and augment them with the random numbers of its position."""
    return augment(*read_pair(place, rule, bands), rng=np.random.default_rng([seed, _AUGMENTATION, place.position]))
