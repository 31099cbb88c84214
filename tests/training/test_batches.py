"""The order of samples: a pure function of seed and position, for any start, workers and processes."""

import dataclasses
import os
import signal
import time
from collections.abc import Generator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hrnet_zoo.datasets.label_rules import CITYSCAPES_IDS, IGNORE_INDEX
from hrnet_zoo.datasets.layouts import LabeledFolder
from hrnet_zoo.datasets.pairing import Sample
from hrnet_zoo.demo.dataset import write_dataset
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.errors import ConfigError, DatasetError, ImageError, ProcessError
from hrnet_zoo.evaluation.ranks import Ranks
from hrnet_zoo.training import batches as batches_module
from hrnet_zoo.training.augmentation import OwnAugmentation, augment, collate
from hrnet_zoo.training.batches import batches, load_sample, places, try_augmentation
from hrnet_zoo.training.config import TrainingConfig
from tests.training.test_config import CONFIG

Batch = tuple[Tensor, Tensor]
COUNT = 5


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, ...]:
    home = tmp_path_factory.mktemp("scenes")
    write_dataset(home, seeds=range(COUNT), progress=False)
    names = [f"demo/demo_{seed:06d}_000019" for seed in range(COUNT)]
    return tuple(
        Sample(n, home / f"leftImg8bit/val/{n}_leftImg8bit.png", home / f"gtFine/val/{n}_gtFine_labelIds.png")
        for n in names
    )


def make(
    samples: tuple[Sample, ...], *, start: int = 0, workers: int = 0, rank: int = 0, ranks: int = 1, **changes: Any
) -> Generator[Batch, None, None]:
    return batches(*arguments(samples, rank, ranks, **changes), workers=workers, start=start)


def arguments(
    samples: tuple[Sample, ...], rank: int = 0, ranks: int = 1, **changes: Any
) -> tuple[LabeledFolder, TrainingConfig, Ranks]:
    folder = LabeledFolder("", "", Path(), "", (), CITYSCAPES_IDS, None, {}, samples, ())
    config = dataclasses.replace(CONFIG, **{"crop": (64, 96), "seed": 7, "batch": 4, **changes})
    return folder, config, Ranks(rank, ranks, torch.device("cpu"))


def first(made: Generator[Batch, None, None], number: int) -> list[Batch]:
    with closing(made):
        return list(islice(made, number))


def equal(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for pair in zip(one, other, strict=True) for a, b in zip(*pair, strict=True)
    )


def test_shapes(samples: tuple[Sample, ...]) -> None:
    ((images, labels),) = first(make(samples), 1)
    assert (images.shape, images.dtype) == ((4, 3, 64, 96), torch.float32)
    assert (labels.shape, labels.dtype) == ((4, 64, 96), torch.int64)
    assert set(labels.flatten().tolist()) <= {*range(19), IGNORE_INDEX}


def test_a_batch_is_made_of_its_positions(samples: tuple[Sample, ...]) -> None:
    """Written out once more: orders from [seed, 0, epoch], chances from [seed, 1, position]."""
    orders = [np.random.default_rng([7, 0, epoch]).permutation(COUNT) for epoch in range(2)]
    pairs = []
    for position in range(4, 8):  # of step 1, over the border of an epoch
        drawn = scene(int(orders[position // COUNT][position % COUNT]))
        rng = np.random.default_rng([7, 1, position])
        pairs.append(augment(drawn.image, drawn.mask, resize_to=(192, 96), crop=(64, 96), rng=rng))
    assert equal(first(make(samples, start=1), 1), [collate(pairs, (64, 96))])


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("start", [0, 3])
def test_the_same_batches_from_any_start_with_any_workers(
    samples: tuple[Sample, ...], workers: int, start: int
) -> None:
    whole = first(make(samples), 6)
    assert equal(first(make(samples, workers=workers, start=start), 6 - start), whole[start:])
    assert not equal(whole[:1], whole[1:2])


@pytest.mark.parametrize("ranks", [2, 4])
def test_processes_share_each_batch(samples: tuple[Sample, ...], ranks: int) -> None:
    shares = [first(make(samples, rank=rank, ranks=ranks, start=2), 3) for rank in range(ranks)]
    whole = first(make(samples, start=2), 3)
    for step, (images, labels) in enumerate(whole):
        for rank, share in enumerate(shares):
            assert torch.equal(share[step][0], images[rank::ranks])
            assert torch.equal(share[step][1], labels[rank::ranks])


def test_every_epoch_shows_each_image_once_in_an_order_of_its_own(samples: tuple[Sample, ...]) -> None:
    seen = list(islice(places(*arguments(samples, batch=3), 0), 40 * COUNT))
    assert [place.position for place in seen] == list(range(40 * COUNT))
    epochs = [[place.name for place in seen[i : i + COUNT]] for i in range(0, len(seen), COUNT)]
    assert all(sorted(epoch) == sorted(sample.name for sample in samples) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 25
    other = [place.name for place in islice(places(*arguments(samples, batch=3, seed=8), 0), 40 * COUNT)]
    assert other != [place.name for place in seen]


def test_an_image_is_another_sample_each_time(samples: tuple[Sample, ...]) -> None:
    found = first(make(samples[:1], batch=2), 3)
    seen = {labels[i].numpy().tobytes() for _, labels in found for i in range(2)}
    assert len(seen) == 6


def with_fault(samples: tuple[Sample, ...], tmp_path: Path, kind: str) -> Sample:
    image, labels = tmp_path / "image.png", tmp_path / "labels.png"
    image.write_bytes(samples[0].image.read_bytes())
    labels.write_bytes(samples[0].labels.read_bytes())
    if kind == "image":
        image.write_bytes(image.read_bytes()[:-2000])
    if kind == "size":
        Image.new("L", (700, 384)).save(labels)
    if kind == "value":
        Image.new("L", (768, 384), 77).save(labels)
    if kind == "mask":
        Image.new("RGB", (768, 384)).save(labels)
    return Sample("x", image, labels)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("image", ImageError, r"image\.png"),
        ("size", DatasetError, r"(?s)image\.png.*labels\.png.*700 x 384"),
        ("value", DatasetError, r"(?s)labels\.png.*values 77"),
        ("mask", DatasetError, r"(?s)labels\.png.*RGB mask"),
    ],
)
def test_a_file_that_fails_is_named(
    samples: tuple[Sample, ...], tmp_path: Path, workers: int, kind: str, error: type[Exception], words: str
) -> None:
    made = make((*samples[:1], with_fault(samples, tmp_path, kind)), workers=workers, batch=2)
    with closing(made), pytest.raises(error, match=words):
        next(made)


def test_who_stops_leaves_no_process(samples: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "load_sample", load_and_tell)
    made = make(samples, workers=2)
    workers = {int(value) for value in next(made)[1][:, 0, 0]}
    assert os.getpid() not in workers
    made.close()
    for process in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def load_and_tell(place: Any, **options: Any) -> Any:
    image, labels = load_sample(place, **options)
    return image, np.full(labels.shape, os.getpid(), np.int32)


def load_and_die(place: Any, **options: Any) -> Any:
    if place.position == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return load_sample(place, **options)


def test_workers_take_any_function_and_have_one_thread_of_torch(samples: tuple[Sample, ...]) -> None:
    def augment(image: Any, labels: Any, **_: Any) -> Any:
        return image[:64, :96], np.full((64, 96), torch.get_num_threads(), np.uint8)

    folder, config, ranks = arguments(samples)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    ((_, labels),) = first(batches(folder, config, ranks, workers=1, augment=augment), 1)
    assert set(labels.flatten().tolist()) == {1}
    torch.set_num_threads(threads)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_augmentation_of_the_users_is_tried_first(
    samples: tuple[Sample, ...], workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder, config, _ = arguments(samples, augment="mine")

    def tried(function: Any) -> None:
        try_augmentation(folder, config, OwnAugmentation(function, False, 19), workers)

    tried(lambda image, labels, rng: (np.roll(image, rng.integers(9), 0), labels))
    assert not caplog.text
    tried(lambda image, labels, rng: (np.full_like(image, time.perf_counter_ns() % 255), labels))
    assert caplog.text.count("augment=mine draws from elsewhere than its generator") == 1
    with pytest.raises(ConfigError, match="the labels became 64 x 96 float64"):
        tried(lambda image, labels, rng: (image, labels / 2))


def test_where_workers_are_not_forked_an_augmentation_must_be_picklable(
    samples: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "START_METHOD", None)
    folder, config, _ = arguments(samples, augment="mine")
    with pytest.raises(ConfigError, match=r"cannot be pickled[\s\S]*workers=0"):
        try_augmentation(folder, config, OwnAugmentation(lambda image, labels, rng: (image, labels), False, 19), 1)


def test_a_worker_that_dies(samples: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "load_sample", load_and_die)
    with closing(make(samples, workers=1, batch=2)) as made, pytest.raises(ProcessError, match="workers=0"):
        list(islice(made, 10))
