"""Augmentation: geometry that image and labels share, the reference's ranges, the same sample from the same state."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.images.preprocess import MEAN, STD, normalize
from hrnet_zoo.training import augmentation
from hrnet_zoo.training.augmentation import OwnAugmentation, augment, collate

Array = npt.NDArray[np.uint8]


class Chosen:
    """A generator whose draws are set: what `random` gives in turn, and one place in each range."""

    def __init__(self, *, chances: float = 0.9, place: float = 0.5, **_: Any) -> None:
        self.chances, self.place = chances, place
        self.drawn: list[tuple[float, float]] = []

    def random(self) -> float:
        """Return the same chance always."""
        return self.chances

    def uniform(self, low: float, high: float) -> float:
        """Return the same place in every range."""
        self.drawn.append((low, high))
        return low + (high - low) * self.place

    def integers(self, high: int) -> int:
        """Return the same place in every range."""
        return int((high - 1) * self.place)


def draw(image: Array, labels: Array, rng: Any, **sizes: Any) -> tuple[Array, Array]:
    sizes = {"resize_to": (96, 64), "crop": (32, 48)} | sizes
    return augment(image, labels, rng=rng, **sizes)


def colored(labels: Array) -> Array:
    """Return an image whose first channel tells the label."""
    return np.repeat((labels * 10)[:, :, None], 3, axis=2)


def halves(height: int = 64, width: int = 96) -> Array:
    labels = np.zeros((height, width), np.uint8)
    labels[:, width // 2 :] = 9
    return labels


def test_the_same_state_gives_the_same_sample() -> None:
    drawn = scene(3)
    first, again, other = (
        draw(drawn.image, drawn.mask, np.random.default_rng(seed), resize_to=(768, 384), crop=(256, 256))
        for seed in ([1, 2], [1, 2], [1, 3])
    )
    assert first[0].dtype == first[1].dtype == np.uint8
    assert first[0].shape == (256, 256, 3)
    assert first[1].shape == (256, 256)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_what_came_in_is_left_alone() -> None:
    drawn = scene(3)
    image, labels = drawn.image.copy(), drawn.mask.copy()
    for seed in range(5):
        draw(image, labels, np.random.default_rng(seed), resize_to=(768, 384), crop=(128, 128))
    assert np.array_equal(image, drawn.image)
    assert np.array_equal(labels, drawn.mask)


def test_image_and_labels_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colors say the labels; away from edges, where they are mixed, each pixel still has its own."""
    monkeypatch.setattr(augmentation, "_distort", lambda image, rng: image)
    labels = np.zeros((120, 160), np.uint8)
    labels[40:80] = 5
    labels[:, 50:110] += 9
    mirrored = 0
    for seed in range(40):
        image, part = draw(colored(labels), labels, np.random.default_rng(seed), resize_to=(160, 120), crop=(64, 64))
        wrong = np.abs(image[:, :, 0].astype(int) - part * 10) > 0
        edges = np.zeros(part.shape, bool)
        edges[1:] |= part[1:] != part[:-1]
        edges[:, 1:] |= part[:, 1:] != part[:, :-1]
        reach = sum(np.roll(edges, (dy, dx), (0, 1)) for dy in range(-2, 3) for dx in range(-2, 3)) > 0
        assert not (wrong & ~reach).any()
        assert wrong.mean() < 0.15
    gradient = np.repeat(np.arange(160, dtype=np.uint8)[None], 120, axis=0)
    for seed in range(200):
        image, _ = draw(np.repeat(gradient[:, :, None], 3, 2), labels, np.random.default_rng(seed), crop=(32, 32))
        mirrored += bool(image[0, 0, 0] > image[0, -1, 0])
    assert 80 < mirrored < 120  # of 200


@pytest.mark.parametrize(("place", "expected"), [(0.0, (32, 48)), (0.5, (40, 48)), (1.0, (40, 48))])
def test_sizes_run_from_half_to_twice_the_box(place: float, expected: tuple[int, int]) -> None:
    labels = halves()
    rng = Chosen(place=place)
    image, part = draw(colored(labels), labels, rng, crop=(40, 48))
    assert rng.drawn[0] == (0.5, 2.0)
    assert part.shape == expected  # half of (96, 64) is (48, 32): less than the crop
    assert image.shape == (*expected, 3)


def test_a_crop_of_twice_the_size_shows_half_as_much() -> None:
    labels = (np.arange(96, dtype=np.uint8) * np.ones((64, 1), np.uint8)).astype(np.uint8)
    wide, narrow = (draw(np.repeat(labels[:, :, None], 3, 2), labels, Chosen(place=place))[1] for place in (1 / 3, 1.0))
    assert np.ptp(wide) == 47  # at ratio 1, 48 of 96 columns
    assert np.ptp(narrow) == 23


def varied_crops() -> int:
    labels = np.zeros((200, 300), np.uint8)
    labels[:, 270:] = 1
    labels[:40] = 255  # is not counted
    varied = 0
    for seed in range(60):
        _, part = draw(colored(labels), labels, np.random.default_rng(seed), resize_to=(300, 200), crop=(60, 60))
        counts = np.bincount(part.ravel(), minlength=256)[:255]
        varied += bool(counts.max() < 0.75 * counts.sum())
    return varied


def test_no_class_fills_a_crop_if_that_can_be_helped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert varied_crops() > 30  # of 60
    monkeypatch.setattr(augmentation, "CROP_TRIES", 0)
    assert varied_crops() < 12


@pytest.mark.parametrize("value", [255, 4])
def test_images_of_one_class_and_without_labels(value: int) -> None:
    labels = np.full((64, 96), value, np.uint8)
    _, part = draw(np.zeros((64, 96, 3), np.uint8), labels, np.random.default_rng(0))
    assert (part == value).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3), (64, 96)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    labels = np.zeros(size, np.uint8)
    for seed in range(8):
        image, part = draw(colored(labels), labels, np.random.default_rng(seed))
        assert image.shape == (*part.shape, 3)
        assert 1 <= part.shape[0] <= 32
        assert 1 <= part.shape[1] <= 48


def distorted(rng: Any, color: tuple[int, int, int]) -> tuple[int, ...]:
    return tuple(augmentation._distort(np.full((2, 2, 3), color, np.uint8), rng)[0, 0].tolist())


class Some(Chosen):
    """Each of the draws of `random` is set."""

    def __init__(self, chances: list[float], place: float) -> None:
        super().__init__(place=place)
        self.turns = iter(chances)

    def random(self) -> float:
        """Return the chances in turn."""
        return next(self.turns)


# brightness, contrast, contrast first, saturation, hue
@pytest.mark.parametrize(
    ("chances", "place", "color", "expected"),
    [
        ([0.9] * 5, 0.0, (200, 100, 50), (200, 100, 50)),
        ([0.1, 0.9, 0.9, 0.9, 0.9], 0.0, (200, 100, 10), (168, 68, 0)),
        ([0.1, 0.9, 0.9, 0.9, 0.9], 1.0, (240, 100, 10), (255, 132, 42)),
        ([0.9, 0.1, 0.9, 0.9, 0.9], 0.0, (201, 100, 11), (100, 50, 6)),
        ([0.9, 0.1, 0.1, 0.9, 0.9], 1.0, (200, 100, 10), (255, 150, 15)),
        ([0.9, 0.9, 0.9, 0.1, 0.9], 0.0, (200, 100, 100), (200, 150, 150)),  # to gray, as bright as it was
        ([0.9, 0.9, 0.9, 0.1, 0.9], 1.0, (200, 100, 100), (200, 50, 50)),
        ([0.9, 0.9, 0.9, 0.9, 0.1], 0.5, (200, 100, 100), (200, 100, 100)),
        ([0.9, 0.9, 0.9, 0.9, 0.1], 1.0, (200, 100, 100), (200, 161, 100)),  # by 36 degrees of 360, red to yellow
        ([0.9, 0.9, 0.9, 0.9, 0.1], 0.0, (200, 100, 100), (200, 100, 161)),  # and to the other side, to magenta
        ([0.9, 0.9, 0.9, 0.9, 0.1], 1.0, (77, 77, 77), (77, 77, 77)),
    ],
)
def test_light_and_colors(
    chances: list[float], place: float, color: tuple[int, int, int], expected: tuple[int, ...]
) -> None:
    assert distorted(Some(chances, place), color) == pytest.approx(expected, abs=1)


def test_each_distortion_has_a_chance_of_one_half() -> None:
    counted = sum(distorted(np.random.default_rng(seed), (128, 128, 128)) == (128, 128, 128) for seed in range(2000))
    assert 450 < counted < 550  # of gray, brightness and contrast alone change anything: a quarter has neither


def mirror(image: Array, labels: Array, rng: Any) -> tuple[Array, Array]:
    image[0, 0] = rng.integers(256)
    return image[:, ::-1], labels[:, ::-1]


def test_a_function_of_the_users_comes_after_ours_or_in_its_place() -> None:
    labels = halves()
    sizes: dict[str, Any] = {"resize_to": (96, 64), "crop": (64, 96)}
    after, instead = (OwnAugmentation(mirror, replaces, 10) for replaces in (False, True))
    rng = np.random.default_rng(3)
    ours, ours_labels = draw(colored(labels), labels, rng, **sizes)
    expected = mirror(ours.copy(), ours_labels, rng)
    made = after(colored(labels), labels, rng=np.random.default_rng(3), **sizes)
    assert all(map(np.array_equal, made, expected))
    untouched = colored(labels)
    untouched.setflags(write=False)
    made = instead(untouched, labels, rng=np.random.default_rng(3), **sizes)
    assert all(map(np.array_equal, made, mirror(colored(labels), labels, np.random.default_rng(3))))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda image, labels, rng: image, "it returned ndarray, and not two NumPy arrays"),
        (lambda image, labels, rng: (torch.zeros(3), labels), r"it returned \['Tensor', 'ndarray'\]"),
        (
            lambda image, labels, rng: (image / 255, labels),
            r"the image became 64 x 96 x 3 float64, from 64 x 96 x 3 uint8",
        ),
        (lambda image, labels, rng: (image[..., 0], labels), "the image became 64 x 96 uint8"),
        (lambda image, labels, rng: (image[..., :2], labels), "the image became 64 x 96 x 2 uint8"),
        (lambda image, labels, rng: (image, labels.astype(int)), "the labels became 64 x 96 int64, from 64 x 96 uint8"),
        (lambda image, labels, rng: (image[1:], labels), r"the image became 63 x 96 x 3 .*the labels 64 x 96"),
        (lambda image, labels, rng: (image[:0], labels[:0]), "it returned 0 x 96 x 3 uint8"),
        (
            lambda image, labels, rng: (image.repeat(2, 0), labels.repeat(2, 0)),
            "it returned 128 x 96 x 3 .*the crop is 64 x 96",
        ),
        (lambda image, labels, rng: (image, labels + np.uint8(3)), "values of no class: 12"),
        (lambda image, labels, rng: 1 / 0, "it raised ZeroDivisionError"),
    ],
)
def test_what_a_function_of_the_users_gives_back_is_checked(function: Any, words: str) -> None:
    own = OwnAugmentation(function, replaces=True, classes=10)
    with pytest.raises(ConfigError, match=words) as caught:
        own(colored(halves()), halves(), resize_to=(96, 64), crop=(64, 96), rng=np.random.default_rng(0))
    assert caught.value.asked == "fine-tune with augment=<lambda>"


@pytest.mark.parametrize(("library", "replaces"), [("albumentations", True), ("kornia", False)])
@pytest.mark.filterwarnings("default")  # whatever these deprecate
def test_libraries_augment_as_the_guide_says(library: str, replaces: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    pytest.importorskip(library)
    guide = Path(__file__).parents[2] / "examples" / "guide_finetuning.md"
    blocks = re.findall(r"```py\n(.*?)```", guide.read_text(encoding="utf-8"), flags=re.DOTALL)
    (block,) = (each for each in blocks if f"import {library}" in each)
    session: dict[str, Any] = {}
    exec(compile(block, str(guide), "exec"), session)  # noqa: S102 - our own
    own = OwnAugmentation(session["augment"], replaces, 19)
    drawn = scene(3)
    first, again, other = (
        own(drawn.image, drawn.mask, resize_to=(768, 384), crop=(512, 1024), rng=np.random.default_rng(seed))
        for seed in (1, 1, 2)
    )
    assert all(map(np.array_equal, first, again))
    assert not np.array_equal(first[0], other[0])


def test_batches_are_normalized_and_then_padded() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 5, 3), dtype=np.uint8)
    labels = rng.integers(0, 19, (3, 5), dtype=np.uint8)
    images, truths = collate([(image, labels), (image, labels)], (4, 6))
    assert images.shape == (2, 3, 4, 6)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert truths.shape == (2, 4, 6)
    assert truths.dtype == torch.int64
    for index in range(2):
        assert torch.equal(images[index, :, :3, :5], normalize(image)[0])
        assert torch.equal(truths[index, :3, :5], torch.from_numpy(labels).long())
    assert images[0, 1, 2, 3].item() == pytest.approx((int(image[2, 3, 1]) - MEAN[1]) / STD[1], rel=1e-6)
    assert not images[:, :, 3].any()
    assert not images[:, :, :, 5].any()
    assert (truths[:, 3] == 255).all()
    assert (truths[:, :, 5] == 255).all()
