"""What the values of label files mean: for each dataset, file values to class indices and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

IGNORE_INDEX = 255  # the class index of pixels that are not scored, as in mmsegmentation


@dataclass(frozen=True)
class LabelRule:
    """How the 8-bit values of label files encode classes.

    Attributes:
        title: the rule in words.
        of_class: file value of each class, by index.
        ignored: file values of pixels that are not scored; the first one is written.

    """

    title: str
    of_class: tuple[int, ...]
    ignored: tuple[int, ...]

    def indices(self, values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return the class indices of uint8 file values of any shape: 255 for ignored and for unknown values."""
        indices: npt.NDArray[np.uint8] = self._to_index[values]
        return indices

    def values(self, indices: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return the file values of uint8 class indices (255: ignored) of any shape."""
        values: npt.NDArray[np.uint8] = self._to_value[indices]
        return values

    def unknown(self, present: Iterable[int]) -> list[int]:
        """Return, in ascending order, the file values that are neither a class nor ignored."""
        return sorted({int(value) for value in present} - {*self.of_class, *self.ignored})

    @cached_property
    def _to_index(self) -> npt.NDArray[np.uint8]:
        table = np.full(256, IGNORE_INDEX, np.uint8)
        table[list(self.of_class)] = range(len(self.of_class))
        return table

    @cached_property
    def _to_value(self) -> npt.NDArray[np.uint8]:
        table = np.full(256, self.ignored[0], np.uint8)
        table[: len(self.of_class)] = self.of_class
        return table


def identity(count: int) -> LabelRule:
    """Return the rule of label files that hold the indices of `count` classes (at most 255), and 255 for ignored."""
    return LabelRule("the value is the class, 255 is ignored", tuple(range(count)), (IGNORE_INDEX,))


# The official id of each train id, from cityscapesScripts (helpers/labels.py). 0 is "unlabeled"; the license plate's
# -1 is 255 in 8 bits.
_OFFICIAL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_VOID_IDS = tuple(value for value in range(34) if value not in _OFFICIAL_IDS)

CITYSCAPES_IDS = LabelRule("official ids (labelIds)", _OFFICIAL_IDS, (*_VOID_IDS, IGNORE_INDEX))
CITYSCAPES_TRAIN_IDS = LabelRule("train ids (labelTrainIds)", tuple(range(19)), (IGNORE_INDEX,))


def from_one(count: int) -> LabelRule:
    """Return the rule of label files that hold class + 1, and 0 for no class; 255 is ignored too, as in mmsegmentation.

    Its configurations call this `reduce_zero_label`.
    """
    return LabelRule("0 is no class and ignored, k is class k - 1", tuple(range(1, count + 1)), (0, IGNORE_INDEX))


ADE20K_VALUES = from_one(150)
# What the label files of a dataset hold, where that is not the index of the class.
OFFICIAL_LABELS = {
    "cityscapes": CITYSCAPES_IDS,
    "ade20k": ADE20K_VALUES,
    "pascal_context_59": from_one(59),
    "loveda": from_one(7),
    "potsdam": from_one(6),
    "vaihingen": from_one(6),
}
