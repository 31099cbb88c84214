"""Losses against their definitions, written anew here pixel by pixel; batches without labels; gradients."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from hrnet_zoo.datasets.check import ClassCount, DataReport, check_data
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.training.losses import (
    LEAST_KEPT,
    LOSSES,
    balanced_class_weights,
    cross_entropy,
    dice,
    lovasz,
    make_loss,
    ohem,
)

WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0])
Floats = npt.NDArray[np.float64]


def batch(seed: int = 0, size: tuple[int, int] = (5, 7)) -> tuple[Tensor, Tensor]:
    """Two images, four classes of which the last does not occur, a fifth of the pixels ignored."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(2, 4, *size)) * 2)
    labels = torch.from_numpy(rng.integers(0, 3, (2, *size)))
    labels[torch.from_numpy(rng.random((2, *size)) < 0.2)] = 255
    return logits, labels


def pixels(logits: Tensor, labels: Tensor) -> tuple[Floats, list[int]]:
    """Probabilities (P, K) and true classes of the labeled pixels."""
    flat = logits.double().permute(0, 2, 3, 1).reshape(-1, logits.shape[1]).numpy()
    true = labels.flatten().tolist()
    exponents = np.exp(flat[[value != 255 for value in true]])
    return exponents / exponents.sum(1, keepdims=True), [value for value in true if value != 255]


def test_cross_entropy_is_the_mean_over_labeled_pixels() -> None:
    logits, labels = batch()
    chances, true = pixels(logits, labels)
    terms = [-math.log(row[index]) for row, index in zip(chances, true, strict=True)]
    assert cross_entropy(logits, labels).item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)
    weighted = [WEIGHTS[index].item() * term for index, term in zip(true, terms, strict=True)]
    assert cross_entropy(logits, labels, WEIGHTS).item() == pytest.approx(sum(weighted) / len(terms), rel=1e-12)


def test_parts_of_a_batch_add_up_by_their_labeled_pixels() -> None:
    logits, labels = batch()
    labels[1, :3] = 255
    counts = (labels != 255).sum((1, 2))
    assert counts[0] != counts[1]
    parts = torch.stack([cross_entropy(logits[i : i + 1], labels[i : i + 1], WEIGHTS) for i in range(2)])
    expected = (parts * counts).sum() / counts.sum()
    assert cross_entropy(logits, labels, WEIGHTS).item() == pytest.approx(expected.item(), rel=1e-12)


def test_ohem_keeps_the_uncertain_pixels() -> None:
    logits, labels = batch()
    chances, true = pixels(logits, labels)
    own = np.array([row[index] for row, index in zip(chances, true, strict=True)])
    hard = own < 0.7
    assert 0.3 < hard.mean() < 1
    assert ohem(logits, labels).item() == pytest.approx(-np.log(own[hard]).mean(), rel=1e-12)
    weighted = -np.log(own) * WEIGHTS.numpy()[true]
    assert ohem(logits, labels, WEIGHTS).item() == pytest.approx(weighted[hard].mean(), rel=1e-12)


def test_ohem_keeps_a_share_of_pixels_that_are_all_certain() -> None:
    labels = torch.zeros(1, 20, 50, dtype=torch.int64)
    logits = torch.zeros(1, 2, 20, 50, dtype=torch.float64)
    logits[0, 0] = torch.linspace(3, 5, 1000, dtype=torch.float64).reshape(20, 50)
    kept = round(1000 * 100_000 / (512 * 1024))
    assert kept == 191
    assert pytest.approx(0.19073486328125) == LEAST_KEPT
    expected = functional.softplus(-torch.linspace(3, 5, 1000, dtype=torch.float64)[:kept]).mean()
    assert ohem(logits, labels).item() == pytest.approx(expected.item(), rel=1e-12)


def test_dice_over_the_classes_that_occur() -> None:
    logits, labels = batch()
    chances, true = pixels(logits, labels)
    terms = []
    for index in range(3):  # the fourth is in no label
        hits = np.array([value == index for value in true], float)
        terms.append(1 - 2 * (chances[:, index] * hits).sum() / ((chances[:, index] ** 2).sum() + hits.sum()))
    assert dice(logits, labels).item() == pytest.approx(np.mean(terms), rel=1e-12)
    expected = np.average(terms, weights=WEIGHTS[:3].numpy())
    assert dice(logits, labels, WEIGHTS).item() == pytest.approx(expected, rel=1e-12)


def jaccard_loss(wrong: set[int], true: set[int]) -> float:
    """1 - IoU of a class, if these pixels are wrong: set by set, as the paper has it."""
    return len(wrong) / len(true | wrong)


def lovasz_by_definition(errors: Floats, true: set[int]) -> float:
    order = np.argsort(-errors)
    total, wrong = 0.0, set[int]()
    for pixel in order.tolist():
        before = jaccard_loss(wrong, true)
        wrong.add(pixel)
        total += errors[pixel] * (jaccard_loss(wrong, true) - before)
    return total


def test_lovasz_is_the_extension_of_the_jaccard_loss() -> None:
    logits, labels = batch()
    chances, true = pixels(logits, labels)
    terms = []
    for index in range(3):
        where = {place for place, value in enumerate(true) if value == index}
        errors = np.array([1 - row[index] if place in where else row[index] for place, row in enumerate(chances)])
        terms.append(lovasz_by_definition(errors, where))
    assert lovasz(logits, labels).item() == pytest.approx(np.mean(terms), rel=1e-12)
    expected = np.average(terms, weights=WEIGHTS[:3].numpy())
    assert lovasz(logits, labels, WEIGHTS).item() == pytest.approx(expected, rel=1e-12)


def test_lovasz_of_hard_masks_is_one_minus_the_iou() -> None:
    labels = torch.tensor([[[0, 0, 1, 1, 1, 0, 255]]])
    said = torch.tensor([[[0, 1, 1, 1, 0, 0, 1]]])
    logits = functional.one_hot(said, 2).permute(0, 3, 1, 2) * 100.0
    assert lovasz(logits, labels).item() == pytest.approx(1 - (2 / 4 + 2 / 4) / 2, abs=1e-6)
    assert dice(logits, labels).item() == pytest.approx(1 - 2 * 2 / (3 + 3), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cross_entropy", -(math.log(0.8) + math.log(0.4)) / 2),
        ("ohem", -math.log(0.4)),
        ("dice", 1 - 2 * (0.8 + 0.4) / (0.8**2 + 0.4**2 + 2)),
        ("lovasz", 0.6 / 2 + 0.2 / 2),
    ],
)
def test_two_pixels_by_hand(name: str, expected: float) -> None:
    logits = torch.tensor([[0.8, 0.4], [0.2, 0.6]]).log().reshape(1, 2, 1, 2)
    assert LOSSES[name](logits, torch.zeros(1, 1, 2, dtype=torch.int64), None).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_gradients(name: str, weights: Tensor | None) -> None:
    """All are smooth but where pixels change places or cross a threshold, which these do not within 1e-6."""
    logits, labels = batch(1, (2, 3))
    loss = make_loss(name, weights)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits.requires_grad_(), eps=1e-7, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_without_labels_the_loss_is_0_and_moves_nothing(name: str, weights: Tensor | None, dtype: torch.dtype) -> None:
    logits = batch()[0].to(dtype).requires_grad_()
    value = make_loss(name, weights)(logits, torch.full((2, 5, 7), 255))
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.dtype == dtype
    assert not gradient.any()  # nan would be some


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_logits_are_summed_in_float32(name: str, dtype: torch.dtype) -> None:
    logits, labels = batch(2, (200, 300))
    logits = logits.to(dtype).requires_grad_()
    value = LOSSES[name](logits, labels, None)
    assert value.dtype == torch.float32
    exact = LOSSES[name](logits.detach().double(), labels, None)
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    value.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_are_as_if_they_were_not_there(name: str) -> None:
    logits, labels = batch()
    other = logits.clone()
    other.permute(0, 2, 3, 1)[labels == 255] += 50
    assert LOSSES[name](other, labels, None).item() == LOSSES[name](logits, labels, None).item()
    assert LOSSES[name](logits.contiguous(memory_format=torch.channels_last), labels, None).item() == pytest.approx(
        LOSSES[name](logits, labels, None).item(), rel=1e-12
    )


@pytest.mark.parametrize("name", LOSSES)
def test_each_one_can_be_learnt_from(name: str) -> None:
    logits, labels = batch()
    logits = torch.zeros_like(logits, requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=20.0)
    values = []
    for _ in range(60):
        value = LOSSES[name](logits, labels, None)
        values.append(value.item())
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert values[-1] < 0.25 * values[0]
    right = logits.argmax(1) == labels
    assert right[labels != 255].float().mean() > 0.95


@pytest.mark.parametrize("name", LOSSES)
def test_a_class_without_weight_teaches_nothing(name: str) -> None:
    logits, labels = batch()
    labels[labels != 255] = 1
    logits.requires_grad_()
    value = make_loss(name, torch.tensor([1.0, 0.0, 1.0, 1.0]))(logits, labels)
    assert value.item() == 0
    assert not torch.autograd.grad(value, logits)[0].any()


def test_a_function_of_one_s_own() -> None:
    logits, labels = batch()
    loss = make_loss(lambda logits, labels: logits.square().mean() + (labels == 255).sum())
    assert loss(logits, labels).item() == pytest.approx(logits.square().mean().item() + (labels == 255).sum().item())


@pytest.mark.parametrize(
    ("loss", "weights", "words"),
    [
        ("focal", None, "cross_entropy, ohem, dice, lovasz"),
        (3, None, "or a function"),
        (cross_entropy, torch.ones(4), "logits and labels alone"),
    ],
)
def test_what_cannot_be_used(loss: Any, weights: Tensor | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_loss(loss, weights)


@pytest.mark.parametrize("value", [0.5, torch.ones(3), torch.tensor(3), torch.tensor(0.5)])
def test_a_function_that_returns_no_scalar_of_the_logits(value: Any) -> None:
    logits, labels = batch()
    with pytest.raises(ConfigError, match="not a scalar tensor that depends on the logits"):
        make_loss(lambda logits, labels: value)(logits.requires_grad_(), labels)


def report(*counts: tuple[int, int], pixels: int = 1000, pairs: int = 10) -> DataReport:
    classes = tuple(
        ClassCount(str(index), count, count / pixels, images) for index, (count, images) in enumerate(counts)
    )
    return DataReport("", Path(), "", "", pairs, pixels, 0.0, classes, ())


def test_by_hand() -> None:
    """Shares of the images with the class: 0.6, 0.3, 0.2; the median is 0.3."""
    found = balanced_class_weights(report((600, 10), (300, 10), (100, 5)))
    raw = np.array([0.5, 1.0, 1.5])
    mean = (600 * 0.5 + 300 * 1.0 + 100 * 1.5) / 1000
    assert found == pytest.approx(raw / mean)


def test_the_mean_over_the_pixels_is_1() -> None:
    counts = ((600, 10), (300, 8), (0, 0), (5, 1))
    found = balanced_class_weights(report(*counts))
    pixels = [count for count, _ in counts]
    assert np.average(found, weights=pixels) == pytest.approx(1)
    assert found[3] > found[1] > found[0]


def test_absent_classes_and_limits() -> None:
    found = balanced_class_weights(report((900_000, 10), (90_000, 10), (10, 10), (0, 0), pixels=1_000_000))
    assert found[2] / found[3] == pytest.approx(10)
    assert found[0] / found[3] == pytest.approx(0.1)
    assert found[1] / found[3] == pytest.approx(1)


def test_nothing_labeled() -> None:
    assert balanced_class_weights(report((0, 0), (0, 0))) == (1.0, 1.0)


def test_from_a_folder(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for name, split in (("a", 2), ("b", 8)):
        labels = np.zeros((10, 10), np.uint8)
        labels[split:] = 1
        Image.fromarray(labels).save(tmp_path / f"masks/{name}.png")
        Image.new("RGB", (10, 10)).save(tmp_path / f"images/{name}.png")
    labels[:5] = 2
    Image.fromarray(labels).save(tmp_path / "masks/b.png")
    found = balanced_class_weights(check_data(tmp_path, classes=["x", "y", "z"], progress=False))
    # Pixels 50, 100, 50 in 2, 2, 1 images: frequencies 0.25, 0.5, 0.5.
    assert found == pytest.approx(np.array([2.0, 1.0, 1.0]) / 1.25)
