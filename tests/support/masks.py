"""Random masks with what is hard for polygons: holes, one pixel, touching corners, the whole image."""

import numpy as np
import numpy.typing as npt


def random_mask(seed: int, longest: int) -> npt.NDArray[np.uint8]:
    """Return class indices 0 to 4 of an image whose sides are 1 to `longest` pixels."""
    generator = np.random.default_rng(seed)
    height, width = generator.integers(1, longest + 1, 2)
    mask = np.zeros((height, width), np.uint8)
    kind = seed % 5
    if kind == 1:  # noise: single pixels, corners
        mask = generator.integers(0, generator.integers(2, 6), mask.shape, np.uint8)
    elif kind == 2:  # rings in rings
        y, x = np.indices(mask.shape)
        mask = (np.hypot(y - height / 2, x - width / 2) / generator.uniform(1, 4)).astype(int).astype(np.uint8) % 5
    elif kind:
        for _ in range(generator.integers(1, 40)):  # boxes; diagonals of single pixels
            top, left = generator.integers(0, height), generator.integers(0, width)
            rows, columns = generator.integers(1, height - top + 1), generator.integers(1, width - left + 1)
            if kind == 3:
                mask[top : top + rows, left : left + columns] = generator.integers(0, 5)
            else:
                steps = np.arange(min(rows, columns))
                mask[top + steps, left + steps] = generator.integers(0, 5)
    return mask
