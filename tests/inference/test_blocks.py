"""Bands and blocks: what is made of the same logits, and of no others."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from hrnet_zoo.inference.blocks import UNDECIDED, agreed, block_rows, confident_labels, distinct, make_axis
from hrnet_zoo.inference.logits import lerp

# Scores, network input, image.
LENGTHS = [
    *((16, 64, 64), (16, 61, 61), (16, 64, 75), (16, 64, 250), (16, 64, 20), (16, 64, 3)),
    *((1, 1, 1), (1, 3, 3), (1, 2, 9), (2, 7, 1), (2, 5, 50), (3, 9, 9)),
]


def made_of(old: int, inner: int, outer: int) -> list[tuple[int, ...]]:
    """Return the places that each new position is made of, by the definition, in order."""
    axis = lerp(old, inner)
    sides = [range(outer)] if inner == outer else lerp(inner, outer)[:2]
    return [tuple(int(each[side[new]]) for side in sides for each in (axis.first, axis.second)) for new in range(outer)]


@pytest.mark.parametrize(("old", "inner", "outer"), LENGTHS)
def test_a_band_is_made_of_the_same_places(old: int, inner: int, outer: int) -> None:
    axis = make_axis(old, inner, outer)
    expected = made_of(old, inner, outer)
    assert axis.bounds[0] == 0
    assert axis.bounds[-1] == outer
    for band, (start, stop) in enumerate(pairwise(axis.bounds)):
        assert stop > start
        assert set(expected[start:stop]) == {tuple(axis.sources[:, band].tolist())}
    for kind in (axis.split, ~axis.split, np.ones_like(axis.split)):
        rows, pairs = distinct(axis.sources[:, kind])
        assert np.array_equal([rows[number] for pair in pairs for number in pair], axis.sources[:, kind])
        assert len({tuple(row.tolist()) for row in rows}) == len(rows)


def test_bands_of_four_pixels_and_two_scores() -> None:
    """The first and the last are at the edge, beyond the first and the last logit."""
    axis = make_axis(16, 64, 64)
    assert np.diff(axis.bounds).tolist() == [2, *[4] * 15, 2]
    assert not axis.split.any()
    assert len(distinct(axis.sources)[0]) == 2
    assert axis.positions(np.array([0, 3])).tolist() == [[0, 10], [1, 11], [1, 12], [1, 13]]


def test_split_bands_are_between_others_and_made_of_three() -> None:
    axis = make_axis(16, 64, 80)
    assert axis.split.sum() == 15
    assert not (axis.split[1:] & axis.split[:-1]).any()
    assert len(distinct(axis.sources[:, ~axis.split])[0]) == 2
    assert len(distinct(axis.sources[:, axis.split])[0]) == 3


@pytest.mark.parametrize("max_memory", [1, 5000, 1 << 30])
def test_pieces_cover_the_image(max_memory: int) -> None:
    logits = torch.arange(16 * 24 * 3).reshape(16, 24, 3).to(torch.bfloat16)
    chunks = list(block_rows(logits, (64, 96), (75, 113), max_memory))
    assert [chunk.rows.start for chunk in chunks] == [0, *(chunk.rows.stop for chunk in chunks[:-1])]
    assert chunks[-1].rows.stop == 75
    for chunk in chunks:
        rows = len(chunk.logits) // 24
        assert rows <= 4 or chunk.logits.nbytes <= max_memory
        assert np.array_equal(chunk.logits, logits[chunk.top : chunk.top + rows].float().reshape(-1, 3).numpy())


def test_labels_are_told_of_blocks_and_their_pixels() -> None:
    """Two classes, left and right of a border in the middle between the second and the third of four logits."""
    logits = torch.zeros(2, 4, 2)
    logits[:, 2:, 1] = 1
    logits[:, :2, 0] = 1
    (chunk,) = block_rows(logits, (8, 16), (8, 16), 1 << 20)
    labels = confident_labels(chunk.logits, np.float32(0.5))
    assert labels.tolist() == [0, 0, 1, 1] * 2
    told = chunk.spread(chunk.reduce(labels, agreed))
    assert told.tolist() == [[0] * 6 + [UNDECIDED] * 4 + [1] * 6] * 8


def test_a_close_second_makes_a_label_unknown() -> None:
    logits = np.array([[1, 0, 0.5], [1, 0.5, 0.75], [1, 1, 3]], np.float32)
    for order in ("C", "F"):
        assert confident_labels(np.asarray(logits, order=order), np.float32(0.25)).tolist() == [0, UNDECIDED, 2]
    assert confident_labels(np.zeros((1, 256), np.float32), np.float32(0)).tolist() == [UNDECIDED]
