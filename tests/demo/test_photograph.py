"""From the canvas to the photograph."""

import numpy as np

from hrnet_zoo.demo.canvas import Canvas
from hrnet_zoo.demo.labels import BUILDING, ROAD, SKY, UNLABELED
from hrnet_zoo.demo.photograph import postprocess


def canvas(seed: int) -> Canvas:
    """Give a canvas with a house above a road."""
    c = Canvas(np.random.default_rng(seed), 64, 96)
    c.labels.rectangle((0, 40, 192, 79), BUILDING)
    c.labels.rectangle((0, 80, 192, 128), ROAD)
    return c


def test_labels_are_every_second_pixel_of_the_canvas() -> None:
    """They are halved without new values; only the hood, on about a third of the scenes, lies over them."""
    hoods = 0
    for seed in range(60):
        c = canvas(seed)
        before = np.asarray(c.mask)[::2, ::2].copy()
        image, mask = postprocess(c)
        assert image.shape == (64, 96, 3)
        assert image.dtype == mask.dtype == np.uint8
        hood = mask == UNLABELED
        assert np.array_equal(mask[~hood], before[~hood])
        assert not hood[:50].any()
        hoods += bool(hood.any())
    assert 10 <= hoods <= 35


def test_shadows_darken_the_ground_alone() -> None:
    """What stands upright and the sky stay as they are, to the bit."""
    (bright, mask), (dark, _) = postprocess(canvas(4)), postprocess(shaded(canvas(4)))
    assert dark[mask == ROAD].mean() < 0.97 * bright[mask == ROAD].mean()
    for label in (SKY, BUILDING):
        assert np.array_equal(dark[mask == label], bright[mask == label])


def shaded(c: Canvas) -> Canvas:
    """Put everything in the shadow."""
    c.shadow.paste(255, (0, 0, c.width, c.height))
    return c
