"""What the values of label files mean: one rule per dataset, from file values to class indices and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

IGNORED = 255  # the index of pixels that are not scored, as in the reference


@dataclass(frozen=True)
class LabelRule:
    """How the 8-bit values of label files stand for classes.

    Attributes:
        title: the rule in words.
        of_class: the file value of each class, by index.
        ignored: the file values that mean "not scored"; the first of them is the one that is written.

    """

    title: str
    of_class: tuple[int, ...]
    ignored: tuple[int, ...]

    def indices(self, values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return class indices for uint8 file values of any shape; 255 where they mean "ignored".

        A value that means nothing becomes 255 too: ask `unknown` whether there are any.
        """
        indices: npt.NDArray[np.uint8] = self._to_index[values]
        return indices

    def values(self, indices: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return file values for uint8 class indices (255: ignored) of any shape, the other way round."""
        values: npt.NDArray[np.uint8] = self._to_value[indices]
        return values

    def unknown(self, present: Iterable[int]) -> list[int]:
        """Return those of these file values that stand for no class and not for "ignored", in ascending order."""
        return sorted({int(value) for value in present} - {*self.of_class, *self.ignored})

    @cached_property
    def _to_index(self) -> npt.NDArray[np.uint8]:
        import numpy as np

        table = np.full(256, IGNORED, np.uint8)
        table[list(self.of_class)] = range(len(self.of_class))
        return table

    @cached_property
    def _to_value(self) -> npt.NDArray[np.uint8]:
        import numpy as np

        table = np.full(256, self.ignored[0], np.uint8)
        table[: len(self.of_class)] = self.of_class
        return table


def identity(count: int) -> LabelRule:
    """Return the rule of files that hold the indices of `count` classes (at most 255), and 255 for "ignored"."""
    return LabelRule("the value is the class, 255 is ignored", tuple(range(count)), (IGNORED,))


# The official id of each train id: the table of cityscapesScripts (helpers/labels.py).
_OFFICIAL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

# Ids run from 0 to 33; the license plate's -1 is 255 in 8 bits. 0 is "unlabeled".
CITYSCAPES_IDS = LabelRule(
    "official ids (labelIds)", _OFFICIAL_IDS, (*(value for value in range(34) if value not in _OFFICIAL_IDS), IGNORED)
)
CITYSCAPES_TRAIN_IDS = LabelRule("train ids (labelTrainIds)", tuple(range(19)), (IGNORED,))
# Ignoring 255 too is the reference's habit.
ADE20K_VALUES = LabelRule("0 is other and ignored, k is class k - 1", tuple(range(1, 151)), (0, IGNORED))
VOC_VALUES = LabelRule("the value is the class, 255 is the border and ignored", tuple(range(21)), (IGNORED,))
PASCAL_CONTEXT_VALUES = LabelRule("the value is the class, 0 is background", tuple(range(60)), (IGNORED,))
