"""Shapes become the pixels whose centers they hold; run lengths are those of pycocotools, where it is installed."""

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from hrnet_zoo.datasets.shapes import Patch, Size, brush, coco_runs, ellipse, paint, polygon, rectangle, runs, union

Mask = npt.NDArray[np.bool_]


def whole(patch: Patch, size: Size) -> Mask:
    mask = np.zeros(size, bool)
    mask[patch.top : patch.top + patch.inside.shape[0], patch.left : patch.left + patch.inside.shape[1]] = patch.inside
    return mask


def by_hand(points: list[tuple[float, float]], size: Size) -> Mask:
    """Count the edges at the left of each pixel's center, in fractions."""
    mask = np.zeros(size, bool)
    exact = [(Fraction(x), Fraction(y)) for x, y in points]
    for row, column in np.ndindex(*size):
        x, y = column + Fraction(1, 2), row + Fraction(1, 2)
        for (x0, y0), (x1, y1) in zip(exact, exact[1:] + exact[:1], strict=True):
            if (y0 <= y) != (y1 <= y):
                mask[row, column] ^= x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x
    return mask


@pytest.mark.parametrize("seed", range(30))
def test_polygons_by_the_centers_of_pixels(seed: int) -> None:
    """Whole and half coordinates, whose edges meet centers; any others; inside and outside of the image."""
    random = np.random.default_rng(seed)
    size = (int(random.integers(1, 14)), int(random.integers(1, 14)))
    points = random.uniform(-5, 18, (int(random.integers(3, 9)), 2))
    points = [points, points.round(), (points * 2).round() / 2][seed % 3]
    corners = [(float(x), float(y)) for x, y in points]
    np.testing.assert_array_equal(whole(polygon(points, size), size), by_hand(corners, size))


def test_neighbors_share_no_pixel() -> None:
    """Edges through centers, slanted ones too: each pixel of the image is in one of the three polygons."""
    corners = [(0, 0), (9, 0), (9, 9), (0, 9)]
    middle = (4.5, 3.5)
    parts = [[corners[0], corners[1], middle], [corners[1], corners[2], middle], [*corners[2:], corners[0], middle]]
    covers = np.sum([whole(polygon(part, (9, 9)), (9, 9)) for part in parts], axis=0)
    assert (covers == 1).all()


def test_boxes_and_ellipses() -> None:
    size = (40, 60)
    y, x = np.indices(size) + 0.5
    expected = (x > 3.2) & (x < 20) & (y > 5) & (y < 9.8)
    np.testing.assert_array_equal(whole(rectangle([3.2, 5, 20, 9.8], 0, None, size), size), expected)
    np.testing.assert_array_equal(
        whole(rectangle([10, 10, 30, 14], 90, None, size), size), (x > 18) & (x < 22) & (y > 2) & (y < 22)
    )
    turned = whole(
        rectangle([20, 10, 30, 14], 90, [20, 10], size), size
    )  # clockwise: it falls to the left of the pivot
    np.testing.assert_array_equal(turned, (x > 16) & (x < 20) & (y > 10) & (y < 20))
    for degrees in (0, 30, 90):
        angle = math.radians(degrees)
        along = (x - 31.1) * math.cos(angle) + (y - 19.7) * math.sin(angle)
        across = (y - 19.7) * math.cos(angle) - (x - 31.1) * math.sin(angle)
        inside = (along / 15.3) ** 2 + (across / 6.6) ** 2 < 1
        np.testing.assert_array_equal(whole(ellipse([31.1, 19.7], [15.3, 6.6], degrees, size), size), inside)


def test_run_lengths() -> None:
    assert runs([1, 2, 3], (2, 3)).astype(int).tolist() == [[0, 1, 1], [0, 0, 0]]
    patch = coco_runs({"size": [2, 3], "counts": [1, 2, 3]}, (2, 3))
    assert whole(patch, (2, 3)).astype(int).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert coco_runs({"size": [2, 3], "counts": [6]}, (2, 3)).inside.size == 0


@pytest.mark.parametrize("seed", range(5))
def test_compressed_run_lengths_of_pycocotools(seed: int) -> None:
    tool = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(seed)
    mask = random.random((200, 300)) < (0, 0.001, 0.1, 0.5, 1)[seed]
    mask[50:150, 20:250] |= seed % 2 == 0
    coded = tool.encode(np.asfortranarray(mask, np.uint8))
    found = coco_runs({"size": coded["size"], "counts": coded["counts"].decode()}, (200, 300))
    np.testing.assert_array_equal(whole(found, (200, 300)), mask)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # within pycocotools
def test_polygons_beside_those_of_pycocotools() -> None:
    """It places some pixels of the borders elsewhere: the guide says how many."""
    tool = pytest.importorskip("pycocotools.mask")
    random, size = np.random.default_rng(0), (480, 640)
    counts = np.zeros(3)
    for _ in range(100):
        count, center, radius = random.integers(3, 40), random.uniform((50, 50), (590, 430)), random.uniform(4, 120)
        angles = np.sort(random.uniform(0, 2 * np.pi, count))
        rim = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        points = center + radius * random.uniform(0.5, 1, (count, 1)) * rim
        ours = whole(polygon(points, size), size)
        theirs = tool.decode(tool.merge(tool.frPyObjects([points.ravel().tolist()], *size))).astype(bool)
        counts += [np.count_nonzero(each) for each in (ours, theirs & ~ours, ours & ~theirs)]
    assert (counts[1:] < 0.002 * counts[0]).all()


def bits(*fields: tuple[int, int]) -> list[int]:
    """Pack (value, number of bits) into bytes."""
    text = "".join(f"{value:0{count}b}" for value, count in fields)
    text += "0" * (-len(text) % 8)
    return [int(text[at : at + 8], 2) for at in range(0, len(text), 8)]


HEADER = ((24, 32), (7, 5), (2, 4), (3, 4), (7, 4), (15, 4))  # 24 values of 8 bits; lengths of 3, 4, 8 and 16 bits


def test_brushes() -> None:
    """A pixel written out, three that repeat, two more written out: half of alpha counts as none."""
    pixels = [(1, 2, 3, 255), *[(9, 9, 9, 9)] * 3, (0, 0, 0, 128), (5, 5, 5, 127)]
    values = [value for pixel in pixels for value in pixel]
    written = [(value, 8) for value in values]
    packed = bits(
        *HEADER,
        *((0, 1), (0, 2), (3, 3), *written[:4]),
        *((1, 1), (1, 2), (11, 4), (9, 8)),
        *((0, 1), (3, 2), (7, 16), *written[16:]),
    )
    assert whole(brush(packed, (2, 3)), (2, 3)).astype(int).tolist() == [[1, 0, 0], [0, 1, 0]]
    with pytest.raises(ValueError, match="break off"):
        brush(packed[:-1], (2, 3))
    with pytest.raises(ValueError, match="break off"):
        brush(packed[:12], (2, 3))
    with pytest.raises(ValueError, match="24 values of 8 bits, not of 4 x 3 pixels"):
        brush(packed, (3, 4))
    with pytest.raises(ValueError, match="more pixels than the image"):
        brush(bits(*HEADER, (1, 1), (3, 2), (24, 16), (9, 8)), (2, 3))


def test_faults_in_words() -> None:
    square = [(0, 0), (1, 0), (1, 1)]
    for points, found in (
        ([(0, 0), (1, 1)], "a polygon with 2 points"),
        ([1, 2, 3], "a polygon with 0 points"),
        ([*square, (float("nan"), 0)], "a coordinate that is no number"),
        ([*square, (1e300, 0)], "far outside the image"),
        ([(0, 0), (1, 1e6)] * 4000, "8,000 edges cross"),
    ):
        with pytest.raises(ValueError, match=found):
            polygon(points, (4000, 10))
    for counts in (
        [1, 2, 4],
        [1, -1, 6],
        [],
        [1.5, 4.5],
        [[1, 5]],
        [1 << 62, 1 << 62, 1 << 63],
        "",
        "1",
        "~",
        "\x7f",
        "o" * 9,
    ):
        with pytest.raises(ValueError, match=r"add up|damaged|ascii"):
            coco_runs({"size": [2, 3], "counts": counts}, (2, 3))
    with pytest.raises(ValueError, match=r"for the size \[3, 2\] in an image of \[2, 3\]"):
        coco_runs({"size": [3, 2], "counts": [6]}, (2, 3))


def test_overlaps() -> None:
    size = (4, 6)
    small, large = (polygon(np.array([(0, 0), (right, 0), (right, 4), (0, 4)]), size) for right in (2, 4))
    labels, contested, areas = paint([(0, small), (1, large)], size, smallest_on_top=False)
    assert (labels[0].tolist(), contested, areas) == ([1, 1, 1, 1, -1, -1], 8, [8, 16])
    labels, contested, areas = paint([(0, small), (1, large)], size, smallest_on_top=True)
    assert (labels[0].tolist(), contested, areas) == ([0, 0, 1, 1, -1, -1], 8, [8, 16])
    assert paint([(1, small), (1, large)], size, smallest_on_top=False)[1] == 0
    both = union([small, Patch(3, 5, np.ones((1, 1), bool))], size)
    assert np.count_nonzero(whole(both, size)) == 9
