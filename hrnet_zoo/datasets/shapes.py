"""Shapes as labeling tools store them -> the pixels inside: polygons, ellipses, three kinds of run lengths.

Coordinates are in pixels, x to the right and y down; integers lie between pixels. A pixel is inside if its center is. A
center on an edge belongs to what lies at the right of it, or below, so that polygons that share an edge share no pixel.
What is inside a polygon that crosses itself is decided by the even-odd rule. Sizes are (height, width).

What is wrong with a shape is raised as a ValueError in words, for the converter to say where it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Size = tuple[int, int]

_FARTHEST = 1e7  # a coordinate, in pixels: far outside any image, and exact in arithmetic
_MOST_CROSSINGS = 1 << 23  # of rows by the edges of a polygon, more than any honest one has


class Patch(NamedTuple):
    """The pixels inside a shape: (rows, columns) booleans, and the place of the first one in the image."""

    top: int
    left: int
    inside: npt.NDArray[np.bool_]


def numbers(values: object, count: int | None = None) -> npt.NDArray[np.float64]:
    """Return finite coordinates, `count` of them if given; raise ValueError for others."""
    found = np.asarray(values, np.float64)
    if not (np.abs(found) <= _FARTHEST).all():
        raise ValueError("a coordinate that is no number, or far outside the image")
    if count is not None and found.shape != (count,):
        raise ValueError(f"{found.size} numbers where {count} are expected")
    return found


def polygon(points: object, size: Size) -> Patch:
    """Return the pixels inside a polygon of (n, 2) points (x, y)."""
    corners = numbers(points)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise ValueError(f"a polygon with {len(corners) if corners.ndim == 2 else 0} points")
    start, end = corners.copy(), np.roll(corners, -1, axis=0)
    falls = start[:, 1] > end[:, 1]
    start[falls], end[falls] = end[falls], start[falls]  # both neighbors of an edge see the same numbers
    first, last = (np.ceil(y - 0.5).clip(0, size[0]).astype(np.int64) for y in (start[:, 1], end[:, 1]))
    crossings = last - first
    if crossings.sum() > _MOST_CROSSINGS:
        raise ValueError(f"a polygon whose {len(start):,} edges cross {crossings.sum():,} rows")
    top, bottom = int(first.min()), int(last.max())
    xs = corners[:, 0]
    left, right = (int(np.clip(edge, 0, size[1])) for edge in (np.floor(xs.min()), np.ceil(xs.max())))
    rows = np.arange(crossings.sum()) + np.repeat(first - (np.cumsum(crossings) - crossings), crossings)
    x, y = np.repeat(start, crossings, axis=0).T
    dx, dy = np.repeat(end - start, crossings, axis=0).T
    # The first center at or right of the edge; exact for coordinates that are whole numbers.
    column = np.ceil(((x - 0.5) * dy + (rows + 0.5 - y) * dx) / dy).clip(left, right).astype(np.int64)
    edges = np.zeros((bottom - top, right - left + 1), np.uint8)
    np.add.at(edges, (rows - top, column - left), 1)
    return Patch(top, left, (np.cumsum(edges, axis=1, dtype=np.uint8)[:, :-1] & 1).astype(bool))


def union(patches: Iterable[Patch], size: Size) -> Patch:
    """Return the pixels that are in one of several patches, of which one is in memory at a time."""
    whole = np.zeros(size, bool)
    for top, left, inside in patches:
        whole[top : top + inside.shape[0], left : left + inside.shape[1]] |= inside
    return _trimmed(whole)


def rectangle(box: object, degrees: float, pivot: object, size: Size) -> Patch:
    """Return the pixels inside (left, top, right, bottom), turned clockwise around `pivot`; None: its center."""
    left, top, right, bottom = numbers(box, 4)
    around = numbers([(left + right) / 2, (top + bottom) / 2] if pivot is None else pivot, 2)
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    return polygon(_turned(corners - around, degrees) + around if degrees else corners, size)


def ellipse(center: object, radii: object, degrees: float, size: Size) -> Patch:
    """Return the pixels inside an ellipse, turned clockwise: a polygon of 1440 corners."""
    angles = np.linspace(0, 2 * np.pi, 1440, endpoint=False)
    rim = np.stack([np.cos(angles), np.sin(angles)], axis=1) * numbers(radii, 2)
    return polygon(_turned(rim, degrees) + numbers(center, 2), size)


def _turned(points: npt.NDArray[np.float64], degrees: float) -> npt.NDArray[np.float64]:
    cos, sin = (float(turn(np.deg2rad(numbers(degrees, None)))) for turn in (np.cos, np.sin))
    turned: npt.NDArray[np.float64] = points @ np.array([(cos, sin), (-sin, cos)])
    return turned


def runs(counts: object, size: Size) -> npt.NDArray[np.bool_]:
    """Return (height, width) pixels from the lengths of runs outside and inside in turn, row by row."""
    lengths, total = np.asarray(counts), size[0] * size[1]
    honest = lengths.ndim == 1 and lengths.dtype.kind == "i" and lengths.size and (lengths >= 0).all()
    if not honest or lengths.max() > total or lengths.sum() != total:
        raise ValueError(f"run lengths that do not add up to {size[1]} x {size[0]} pixels")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(size)


def check_place(left: int, top: int, shape: Size, size: Size) -> None:
    """Raise ValueError unless a mask of a shape, whose first pixel has a place, lies in the image."""
    if not (0 <= left <= size[1] - shape[1] and 0 <= top <= size[0] - shape[0]):
        raise ValueError(f"a mask of {shape[1]} x {shape[0]} pixels at ({left}, {top}), which reaches out of the image")


def coco_runs(segmentation: dict[str, Any], size: Size) -> Patch:
    """Return the pixels of COCO's run lengths, which go column by column, as a list or as compressed text."""
    if list(segmentation["size"]) != list(size):
        raise ValueError(f"run lengths for the size {segmentation['size']!r:.40} in an image of {list(size)}")
    counts = segmentation["counts"]
    return _trimmed(runs(_unpacked(counts) if isinstance(counts, str) else counts, size[::-1]).T)


def _unpacked(text: str) -> npt.NDArray[np.int64]:
    """Return compressed run lengths; `hrnet_zoo.inference.annotations` describes the encoding."""
    digits = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    if not digits.size or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise ValueError("damaged run lengths")
    last = digits & 32 == 0
    start = np.flatnonzero(np.append(True, last[:-1]))
    place = np.arange(len(digits)) - np.repeat(start, np.diff(start, append=len(digits)))
    if place.max() > 6:  # 35 bits
        raise ValueError("damaged run lengths")
    values = np.add.reduceat((digits & 31) << 5 * place, start)
    values -= np.where(digits[last] & 16, 32 << 5 * place[last], 0)
    for first in (1, 2):  # from the fourth on, less the one before the last
        values[first::2] = np.cumsum(values[first::2])
    return values


def brush(packed: Sequence[int], size: Size) -> Patch:
    """Return the pixels of a brush of Label Studio whose alpha is above one half.

    The bytes are a stream of bits, the highest first: number of values (32), bits of a value less 1 (5), bits of four
    kinds of lengths less 1 (4 each); then runs: whether one value repeats (1), kind of length (2), length less 1,
    and the value, or as many values. They are those of RGBA pixels, row by row. (Package rle-pack of @thi.ng/umbrella.)
    """
    data = np.frombuffer(bytes(packed), np.uint8)
    spaced, end, at = data.tobytes() + bytes(8), 8 * len(data), 0

    def read(bits: int) -> int:
        nonlocal at
        if (at := at + bits) > end:
            raise ValueError("a brush whose data break off")
        first = (at - bits) >> 3
        return int.from_bytes(spaced[first : first + 8], "big") >> (64 - (at - 8 * first)) & ((1 << bits) - 1)

    count, bits = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    if (count, bits) != (4 * size[0] * size[1], 8):
        raise ValueError(f"a brush of {count} values of {bits} bits, not of {size[1]} x {size[0]} pixels")
    values, done = np.empty(count, np.uint8), 0
    while done < count:
        repeats, kind = read(1), read(2)
        length = read(lengths[kind]) + 1
        if done + length > count:
            raise ValueError("a brush of more pixels than the image")
        if repeats:
            values[done : done + length] = read(8)
        else:
            first, shift = divmod(at, 8)
            if (at := at + 8 * length) > end:
                raise ValueError("a brush whose data break off")
            pairs = np.frombuffer(spaced, np.uint8, length + 1, first).astype(np.uint16)
            values[done : done + length] = (pairs[:-1] << shift | pairs[1:] >> (8 - shift)) & 255
        done += length
    return _trimmed(values[3::4].reshape(size) > 127)


def _trimmed(inside: npt.NDArray[np.bool_]) -> Patch:
    """Cut a whole image down to the rows and columns that have pixels, which makes painting many of them fast."""
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return Patch(0, 0, inside[:0, :0])
    return Patch(int(rows[0]), int(columns[0]), inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def paint(
    shapes: Iterable[tuple[int, Patch]], size: Size, *, smallest_on_top: bool
) -> tuple[npt.NDArray[np.int16], int, list[int]]:
    """Paint shapes of class indices over one another: the later on top, or the one with fewer pixels.

    Returns:
        (height, width) class indices, -1 where no shape is; the number of pixels in shapes of several classes; the
        number of pixels of each shape.

    """
    labels, contested, counts = np.full(size, -1, np.int16), np.zeros(size, bool), []
    areas = np.full(size if smallest_on_top else (0, 0), size[0] * size[1], np.int32)
    for index, (top, left, inside) in shapes:
        place = (slice(top, top + inside.shape[0]), slice(left, left + inside.shape[1]))
        window = labels[place]
        contested[place] |= inside & (window >= 0) & (window != index)
        counts.append(int(np.count_nonzero(inside)))
        if smallest_on_top:
            inside = inside & (areas[place] >= counts[-1])
            areas[place][inside] = counts[-1]
        window[inside] = index
    return labels, int(np.count_nonzero(contested)), counts
