"""Bands and blocks: what is made of the same scores, and of no others."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from hrnet_zoo.inference.blocks import UNKNOWN, axis_of, pieces_of, same, sure_labels
from hrnet_zoo.inference.logits import axis_taps

# Scores, network input, image.
LENGTHS = [
    *((16, 64, 64), (16, 61, 61), (16, 64, 75), (16, 64, 250), (16, 64, 20), (16, 64, 3)),
    *((1, 1, 1), (1, 3, 3), (1, 2, 9), (2, 7, 1), (2, 5, 50), (3, 9, 9)),
]


def made_of(old: int, inner: int, outer: int) -> list[tuple[int, ...]]:
    """Return the places that each new position is made of, by the definition, in order."""
    taps = axis_taps(old, inner)
    sides = [range(outer)] if inner == outer else axis_taps(inner, outer)[:2]
    return [tuple(int(each[side[new]]) for side in sides for each in (taps.first, taps.second)) for new in range(outer)]


@pytest.mark.parametrize(("old", "inner", "outer"), LENGTHS)
def test_a_band_is_made_of_the_same_places(old: int, inner: int, outer: int) -> None:
    axis = axis_of(old, inner, outer)
    expected = made_of(old, inner, outer)
    assert axis.bands[0] == 0
    assert axis.bands[-1] == outer
    assert (axis.lengths > 0).all()
    for band, (start, stop) in enumerate(pairwise(axis.bands)):
        assert len(set(expected[start:stop])) == 1
        kind = axis.apart if axis.split[band] else axis.alike
        for places in (kind, axis.places):
            assert {int(place[band]) for place in places.distinct} >= set(expected[start])
            numbered = [int(places.distinct[number][band]) for pair in places.number for number in pair]
            assert tuple(numbered) == expected[start]
        assert {int(place[band]) for place in kind.distinct} == set(expected[start])


def test_bands_of_four_pixels_and_two_scores() -> None:
    """The first would be of six, up to the first score and from there to the second; the last is all at the edge."""
    axis = axis_of(16, 64, 64)
    assert axis.lengths.tolist() == [4, 2, *[4] * 14, 2]
    assert not axis.split.any()
    assert len(axis.alike.distinct) == 2
    assert axis.positions(np.array([1, 3])).tolist() == [[4, 10], [5, 11], [5, 12], [5, 13]]


def test_split_bands_are_between_others_and_made_of_three() -> None:
    axis = axis_of(16, 64, 80)
    assert axis.split.sum() == 15
    assert not (axis.split[1:] & axis.split[:-1]).any()
    assert len(axis.alike.distinct) == 2
    assert len(axis.apart.distinct) == 3


@pytest.mark.parametrize("max_memory", [1, 5000, 1 << 30])
def test_pieces_cover_the_image(max_memory: int) -> None:
    scores = torch.arange(16 * 24 * 3).reshape(16, 24, 3).to(torch.bfloat16)
    pieces = list(pieces_of(scores, (64, 96), (75, 113), max_memory))
    assert [piece.rows.start for piece in pieces] == [0, *(piece.rows.stop for piece in pieces[:-1])]
    assert pieces[-1].rows.stop == 75
    for piece in pieces:
        found = piece.scores()
        assert found.shape == (3, piece.part.shape[0] * 24)
        assert len(piece.part) <= 4 or found.nbytes <= max_memory
        here = scores[piece.top : piece.top + len(piece.part)].float()
        assert np.array_equal(found, here.permute(2, 0, 1).reshape(3, -1).numpy())


def test_labels_are_told_of_blocks_and_their_pixels() -> None:
    """Two classes, left and right of a border in the middle between the second and the third of four scores."""
    scores = torch.zeros(2, 4, 2)
    scores[:, 2:, 1] = 1
    scores[:, :2, 0] = 1
    (piece,) = pieces_of(scores, (8, 16), (8, 16), 1 << 20)
    labels = sure_labels(piece.scores(), np.float32(0.5))
    assert labels.tolist() == [0, 0, 1, 1] * 2
    told = piece.spread(piece.combined(labels, same))
    assert told.tolist() == [[0] * 6 + [UNKNOWN] * 4 + [1] * 6] * 8


def test_a_close_second_makes_a_label_unknown() -> None:
    scores = np.array([[1, 1, 1], [0, 0.5, 1], [0.5, 0.75, 3]], np.float32)
    assert sure_labels(scores, np.float32(0.25)).tolist() == [0, UNKNOWN, 2]
    assert sure_labels(np.zeros((256, 1), np.float32), np.float32(0)).tolist() == [UNKNOWN]
