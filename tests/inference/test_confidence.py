"""Merged classes, confidence and unlabeled pixels: to the bit what is done by hand on all probabilities."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import hrnet_zoo
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.inference.confidence import mask_from_probabilities
from hrnet_zoo.inference.logits import CPU_BYTES
from hrnet_zoo.inference.masks import make_mask
from hrnet_zoo.inference.result import SegmentationResult
from hrnet_zoo.models.base import SegmentationModel
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.zoo.create import create_model
from tests.support.view_logits import any_view, seen, smooth

GROUPS = {"green": ["vegetation", "terrain"], "ways": ["road", "sidewalk"], "car": "car"}
MEMBERS = [[8, 9], [0, 1], [13], [2, 3, 4, 5, 6, 7, 10, 11, 12, 14, 15, 16, 17, 18]]
ALL = 1 << 40


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> FCNHRNet:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HRNET_ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        model = create_model("demo", device="cpu")
    model.dataset = dataclasses.replace(model.dataset, crop=(64, 64), resize_to=(160, 96))
    return model


def by_hand(result: SegmentationResult) -> npt.NDArray[np.float32]:
    """Return the sums of probabilities (groups, height, width) of GROUPS and the rest."""
    assert result.probabilities is not None
    return np.stack([result.probabilities[members].sum(axis=0) for members in MEMBERS])


@pytest.mark.parametrize("options", [{}, {"mode": "slide"}, {"ms_flip": True}, {"fast": True}])
def test_merged_classes_equal_those_merged_by_hand(demo: FCNHRNet, options: dict[str, Any]) -> None:
    image = scene(11, 120, 200).image
    expected = by_hand(demo.predict(image, probabilities=True, **options))
    plain = demo.predict(image, **options)
    merged = demo.predict(image, classes=GROUPS, **options)
    assert merged.classes == ("green", "ways", "car", "other")
    assert merged.palette == (*(demo.palette[index] for index in (8, 0, 13)), (0, 0, 0))
    assert merged.probabilities is None
    assert merged.confidence is None
    assert np.array_equal(merged.mask, expected.argmax(axis=0))
    relabeled = np.array([next(i for i, each in enumerate(MEMBERS) if index in each) for index in range(19)])[
        plain.mask
    ]
    assert (relabeled != merged.mask).any()  # merging afterwards is something else
    everything = demo.predict(
        image, classes=GROUPS, probabilities=True, confidence=True, min_confidence=0.8, max_memory=100_000, **options
    )
    assert everything.probabilities is not None
    assert everything.confidence is not None
    assert np.array_equal(everything.probabilities, expected)
    best = expected.max(axis=0)
    assert np.array_equal(everything.confidence, best.astype(np.float16))
    assert 0 < (best < 0.8).mean() < 0.5
    assert np.array_equal(everything.mask, np.where(best < 0.8, 255, expected.argmax(axis=0)))


@pytest.mark.parametrize("options", [{}, {"mode": "slide"}, {"ms_flip": True}, {"fast": True}])
def test_confidence_is_the_probability_of_the_class(demo: FCNHRNet, options: dict[str, Any]) -> None:
    image = scene(12, 120, 200).image
    known = demo.predict(image, probabilities=True, **options)
    plain = demo.predict(image, **options)
    result = demo.predict(image, confidence=True, min_confidence=0.0, **options)
    assert known.probabilities is not None
    assert result.confidence is not None
    assert result.confidence.dtype == np.float16
    assert np.array_equal(result.mask, plain.mask)
    best = np.take_along_axis(known.probabilities, plain.mask[None].astype(np.intp), axis=0)[0]
    assert np.array_equal(result.confidence, best.astype(np.float16))
    sure = demo.predict(image, min_confidence=0.7, **options)
    assert sure.confidence is None
    assert sure.classes == demo.classes
    assert np.array_equal(sure.mask, np.where(best < np.float32(0.7), 255, plain.mask))
    assert sum(sure.fractions().values()) == pytest.approx((sure.mask != 255).mean())


def test_several_images(demo: FCNHRNet) -> None:
    images = [scene(seed, 64, 96 + 32 * seed).image for seed in range(2)]
    results = demo.predict(images, classes=["car", "sky"], confidence=True)
    for image, result in zip(images, results, strict=True):
        alone = demo.predict(image, classes=["car", "sky"], confidence=True)
        assert result.classes == ("car", "sky", "other")
        assert np.array_equal(result.mask, alone.mask)
        assert result.mean_confidence() == alone.mean_confidence()


def test_an_optimized_model_takes_the_same_options(demo: FCNHRNet) -> None:
    fast: SegmentationModel = hrnet_zoo.optimize(demo, dtype=torch.float32)
    image = scene(13, 64, 96).image
    found = fast.predict(image, classes=GROUPS, min_confidence=0.6)
    assert found.classes == ("green", "ways", "car", "other")
    assert (found.mask == demo.predict(image, classes=GROUPS, min_confidence=0.6).mask).mean() > 0.99


@pytest.mark.parametrize("wrong", [-0.1, 1.01, 60, float("nan"), "0.6", None])
def test_min_confidence_is_a_probability(demo: FCNHRNet, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrnet_zoo.inference.predict.read_image", pytest.fail)
    with pytest.raises(ConfigError, match="a probability, from 0 to 1"):
        demo.predict("absent.png", min_confidence=wrong)
    with pytest.raises(ConfigError, match=r"use min_confidence=0\.6"):
        demo.predict("absent.png", conf=0.5)  # type: ignore[call-overload]


def test_any_views_in_any_memory() -> None:
    """One or several, in windows, flipped, with ties: the same bits for any size of chunks."""
    random = np.random.default_rng(0)
    for number in range(30):
        height, width = random.integers(1, 60, 2).tolist()
        classes = int(random.choice([2, 3, 19]))
        views = [any_view(random, height, width, classes) for _ in range(1 + number % 3)]
        members = [list(range(0, classes, 2)), list(range(1, classes, 2))]
        mask, again, plain = (np.empty((height, width), np.uint8) for _ in range(3))
        confidence, other = (np.empty((height, width), np.float16) for _ in range(2))
        every = np.empty((classes, height, width), np.float32)
        mask_from_probabilities(views, mask, None, members=members, confidence=confidence)
        mask_from_probabilities(views, again, 1, members=members, confidence=other)
        mask_from_probabilities(views, plain, ALL, probabilities=every)
        sums = np.stack([every[each].sum(axis=0) for each in members])
        assert np.array_equal(mask, sums.argmax(axis=0))
        assert np.array_equal(confidence, sums.max(axis=0).astype(np.float16))
        assert np.array_equal(mask, again)
        assert np.array_equal(confidence, other)
        assert np.array_equal(plain, make_mask(views, height, width))


def test_memory_is_bounded() -> None:
    """150 classes of a million pixels: 600 MB of probabilities, were they all kept."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted from here on
    except OSError:
        pytest.skip("the peak of this process's memory cannot be measured here")

    def peak() -> int:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) << 10

    random = torch.Generator().manual_seed(8)
    view = seen(lambda h, w: smooth(random, h, w, 150), 256, 341)
    mask, confidence = np.zeros((1000, 1000), np.uint8), np.zeros((1000, 1000), np.float16)
    before = peak()
    mask_from_probabilities(
        [view], mask, None, members=[range(70), range(70, 150)], min_confidence=0.5, confidence=confidence
    )
    assert peak() - before < 6 * CPU_BYTES
