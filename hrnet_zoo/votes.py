"""Several views of a picture -> where one class has more than half of the mean of their probabilities, without that mean.

The probability of a class at a pixel is at least the smallest that it has where the scores are that the pixel is made
of: its inverse, the sum over all classes c of exp(score of c - score of the class), is convex, and resized scores are
means of old ones. So each view votes for its best class, by blocks, with the smallest probability; and a class with
more than half of all votes is the best of the mean, whatever the other views and classes have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hrnet_zoo.blocks import UNKNOWN, Floats, Labels, Piece, parts, pieces_of, shared, sure_labels
from hrnet_zoo.scores import ScoreMap

# Of scores up to this magnitude what float32 makes is off by less than 0.0004 (`masks.rounding`), so that
# probabilities are off by less than 0.1 %.
LARGEST = 256.0

# Votes are in 1/254, rounded down. More than half: 51 %, so that no rounding matters here nor in softmax and mean.
WHOLE = 254
MAJORITY = 0.51


def undecided(
    maps: Sequence[ScoreMap], leaders: Labels, slack: np.float32, max_memory: int, threads: int
) -> npt.NDArray[np.bool_]:
    """Fill in the leading class (height, width) of each pixel; return where it is not known to be the best."""
    height, width = leaders.shape
    votes = np.zeros((height, width), np.uint16)
    middle = len(maps) // 2
    for view in (maps[middle], *maps[:middle], *maps[middle + 1 :]):
        first = view is maps[middle]
        seen_leaders, seen_votes = (each[:, ::-1] if view.mirrored else each for each in (leaders, votes))

        def vote(piece: Piece) -> None:
            here = piece.rows, piece.columns
            scores = piece.scores()
            labels = sure_labels(scores, slack)
            if first:
                seen_leaders[here] = piece.spread(piece.first(labels))
            share = piece.least(_shares(scores))
            agreed = piece.agreed(labels)
            share *= agreed != UNKNOWN
            found = piece.spread(share)
            found *= piece.spread(agreed) == seen_leaders[here]
            seen_votes[here] += found

        shared(vote, pieces_of(view, height, width, max_memory, threads), threads)
    return votes < MAJORITY * WHOLE * len(maps)


def _shares(scores: Floats) -> Labels:
    """Return the probability of the best class by scores (classes, scores), in 1/254, rounded down."""
    classes, count = scores.shape
    shares = np.empty(count, np.uint8)
    for some in parts(count, classes):
        part = scores[:, some] - scores[:, some].max(axis=0)
        shares[some] = WHOLE / np.exp(part, out=part).sum(axis=0)
    return shares
