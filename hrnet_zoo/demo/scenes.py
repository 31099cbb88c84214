"""Street scenes made by code: an endless, deterministic supply of images with exact Cityscapes labels.

A scene is a small model of a street in meters (x to the right, y up, z ahead), seen by a pinhole camera and painted
from far to near, colors and labels with the same outlines. Light, weather, camera, colors and layout vary by seed;
all 19 classes occur. Colors are drawn at twice the size and averaged down, labels are taken by nearest pixel.

Seeds below `TRAINING_SEEDS_START` are for demonstration and evaluation (`EVALUATION_SEEDS` is the fixed set behind the
figure of the bundled checkpoint); training uses only seeds from there on, so no evaluation scene was ever seen.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hrnet_zoo.demo.canvas import Canvas, upright
from hrnet_zoo.demo.ground import paint_ground
from hrnet_zoo.demo.labels import (
    BICYCLE,
    BUILDING,
    BUS,
    CAR,
    FENCE,
    LIGHT,
    MOTORCYCLE,
    PERSON,
    PLANT,
    POLE,
    RIDER,
    ROAD,
    SIDEWALK,
    SIGN,
    SKY,
    TERRAIN,
    TRAIN,
    TRUCK,
    UNLABELED,
    WALL,
)
from hrnet_zoo.demo.people import parked_cycle, person, ridden_bicycle, ridden_motorcycle
from hrnet_zoo.demo.photograph import postprocess
from hrnet_zoo.demo.roadside import bush, fence, free_wall, furniture, hedge, house, street_tree, tree
from hrnet_zoo.demo.vehicles import bus, car, tram, truck
from hrnet_zoo.errors import ConfigError

__all__ = [
    "BICYCLE",
    "BUILDING",
    "BUS",
    "CAR",
    "EVALUATION_SEEDS",
    "FENCE",
    "LIGHT",
    "MOTORCYCLE",
    "PERSON",
    "PLANT",
    "POLE",
    "RIDER",
    "ROAD",
    "SIDEWALK",
    "SIGN",
    "SKY",
    "TERRAIN",
    "TRAIN",
    "TRAINING_SEEDS_START",
    "TRUCK",
    "UNLABELED",
    "WALL",
    "Scene",
    "scene",
]

TRAINING_SEEDS_START: Final = 1_000_000
EVALUATION_SEEDS: Final = range(50)


@dataclass(frozen=True)
class Scene:
    """An image and its labels.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8 Cityscapes train ids 0..18; 255 on the camera car's hood.

    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]


def scene(seed: int, height: int = 384, width: int = 768) -> Scene:
    """Make the scene of `seed`; the same seed always gives the same scene.

    Args:
        seed: 0 or more, without upper limit.
        height: of the image in pixels, 64 or more.
        width: of the image in pixels, 64 or more.

    Raises:
        ConfigError: the seed is negative or the size too small.

    """
    if seed < 0 or min(height, width) < 64:
        raise ConfigError(
            asked=f"street scene {seed} of {width} x {height} pixels",
            found="a negative seed" if seed < 0 else "a side below 64 pixels",
            done="nothing was drawn",
            advice="use a seed of 0 or more and sides of 64 pixels or more (made for 768 x 384)",
        )
    canvas = Canvas(np.random.Generator(np.random.PCG64(seed)), height, width)
    _compose(canvas)
    canvas.paint_queue()
    return Scene(*postprocess(canvas))


def _compose(c: Canvas) -> None:
    """Lay out lanes, sidewalks, plots and traffic, and queue or paint them."""
    lane = c.between(3.0, 3.6)
    own, oncoming = c.pick((1, 1, 2)), c.pick((1, 1, 2))
    mine = int(c.rng.random() * own)
    lanes = [((i - mine) * lane, 0.0) for i in range(own)] + [
        (-(1 + i + mine) * lane, math.pi) for i in range(oncoming)
    ]
    parking = [2.3 if c.chance(0.45) else 0.0 for _ in range(2)]
    curbs = [-(oncoming + mine + 0.5) * lane - parking[0], (own - mine - 0.5) * lane + parking[1]]
    crossing = c.between(11, 22) if c.chance(0.6) else 1000.0
    wanted = [kind for kind, share in _WANTED if c.chance(share)]
    c.rng.shuffle(wanted)
    track = c.pick(lanes)[0] if tram in wanted else None
    paint_ground(c, curbs, [x for x, _ in lanes], lane, crossing, track)
    _backdrop(c)
    for side, curb in zip((-1, 1), curbs, strict=True):
        _roadside(c, side, curb, crossing)
    _traffic(c, lanes, wanted, track, crossing)
    for side, curb, room in zip((-1, 1), curbs, parking, strict=True):
        if room:
            _parked(c, curb - side * room / 2, crossing)


_Vehicle = Callable[[Canvas, float, float, float], None]
_WANTED: tuple[tuple[_Vehicle, float], ...] = (
    (truck, 0.55),
    (bus, 0.55),
    (tram, 0.6),
    (ridden_motorcycle, 0.75),
    (ridden_bicycle, 0.8),
)
_LENGTHS: dict[_Vehicle, float] = {
    truck: 9.5,
    bus: 11.5,
    tram: 22.0,
    car: 4.5,
    ridden_bicycle: 2.0,
    ridden_motorcycle: 2.2,
}


def _backdrop(c: Canvas) -> None:
    """Paint far houses and woods along the horizon."""
    x = -260.0
    while x < 260:
        wide, z = c.between(8, 40), 230.0
        if c.chance(0.5):
            surface = upright(x, z, 1, 0)
            c.patch(surface, (0, 0, wide, c.between(6, 26)), c.stone(), BUILDING, c.mood.ambient)
        else:
            leaf = c.leaf()
            for step in np.arange(0, wide, 5):
                c.ball((x + step, 3.0, z), (c.between(5, 9), c.between(5, 10)), leaf, PLANT, c.mood.ambient)
        x += wide


def _roadside(c: Canvas, side: int, curb: float, crossing: float) -> None:
    """Fill one side of the street: plots from far to near, then sidewalk furniture and people."""
    edge = curb + side * c.between(2.4, 4.4)
    plots = []
    z = c.between(2.2, 4.0)
    while z < 150:
        end = z + c.between(7, 20) * (1 + z / 60)
        if z < crossing + 9.5 and end > crossing - 0.5:
            if crossing - 0.5 - z > 3:
                plots.append((z, crossing - 0.5))
            end = crossing + 9.5
        else:
            plots.append((z, end))
        z = end + (c.between(0, 3) if c.chance(0.3) else 0)
    for near, far in reversed(plots):
        _plot(c, side, edge, near, far)
    for x, paint, gap, last in (
        (curb + side * 0.9, furniture, (5, 13), 26),
        (curb + side * c.between(1.2, 2.4), person, (3, 9), 17),
        (curb + side * c.between(1.6, 2.6), parked_cycle, (5, 14), 15),
        (curb + side * 1.4, street_tree, (9, 45), 60),
    ):
        z = c.between(5.5, 5.5 + gap[1])
        while z < last:  # beyond, it would be a few pixels wide
            if not crossing - 1 < z < crossing + 9:
                wobble = c.between(-0.6, 0.6) if paint is not furniture else 0.0
                c.later(z, partial(paint, c, x + wobble, z, side))
            z += c.between(*gap) * (1 + z / 40)


def _plot(c: Canvas, side: int, edge: float, near: float, far: float) -> None:
    """Paint one property: a house at the sidewalk, or a yard, park or wood behind a wall, fence or hedge."""
    kind = c.rng.random()
    if kind < 0.42 or near > 40:
        house(c, side, edge, near, far)
        return
    ground = c.leaf() if c.chance(0.8) else (c.between(120, 170), c.between(95, 130), c.between(60, 95))
    c.polygon(
        [(edge, 0, near), (edge, 0, far), (edge + side * 14, 0, far), (edge + side * 14, 0, near)],
        ground,
        TERRAIN,
        c.facing(0, 1, 0),
    )
    if kind < 0.78:
        house(c, side, edge + side * c.between(4, 10), near, far)
    trees = [(c.between(near, far), edge + side * c.between(1.6, 9)) for _ in range(int(c.between(0, 3.5)))]
    for z, x in sorted(trees, reverse=True):
        (tree if c.chance(0.6) else bush)(c, x, z)
    border = c.rng.random()
    if border < 0.40:
        free_wall(c, edge, near, far, side)
    elif border < 0.82:
        fence(c, edge, near, far, side)
    elif border < 0.92:
        hedge(c, edge, near, far, ground)


def _traffic(
    c: Canvas, lanes: Sequence[tuple[float, float]], wanted: list[_Vehicle], track: float | None, crossing: float
) -> None:
    """Queue what drives: the wanted kinds first and near, cars behind them, and some across the street."""
    fronts = {x: c.between(9, 16) if x == 0 else c.between(5.5, 14) for x, _ in lanes}
    if crossing < 1000:
        for _ in range(c.pick((0, 1, 1, 2))):
            kind = wanted.pop() if wanted and wanted[-1] is not tram and c.chance(0.7) else car
            turn = c.pick((-1, 1)) * math.pi / 2
            z = crossing + 2.6 + (2.8 if turn > 0 else 0)
            c.later(z - 1, partial(kind, c, c.between(-0.45, 0.45) * z, z, turn))
        for _ in range(c.pick((0, 1, 2))):
            z = crossing - c.between(1.5, 3.5)
            c.later(z, partial(person, c, c.between(-0.4, 0.4) * z, z, 1))
    for kind in wanted:
        x, turn = next(lane for lane in lanes if lane[0] == track) if kind is tram else c.pick(lanes)
        small = kind in (ridden_bicycle, ridden_motorcycle)
        near = fronts[x] + (0 if small else c.between(0, 8))
        place = x + c.between(-1.1, 1.1) if small else x
        c.later(near, partial(kind, c, place, near + _LENGTHS[kind] / 2, turn))
        fronts[x] = near + _LENGTHS[kind] + c.between(2, 8)
    for x, turn in lanes:
        z = fronts[x]
        while z < 42:
            if c.chance(0.6):
                kind = car if c.chance(0.85) else c.pick((truck, bus, ridden_motorcycle))
                c.later(z, partial(kind, c, x + c.between(-0.3, 0.3), z + _LENGTHS[kind] / 2, turn))
                z += _LENGTHS[kind]
            z += c.between(3, 14)


def _parked(c: Canvas, x: float, crossing: float) -> None:
    """Queue parked cars, and a few trucks among them."""
    z, turn = c.between(5, 12), c.pick((0.0, math.pi))
    while z < 36:
        kind = truck if c.chance(0.06) else car
        if c.chance(0.7) and not crossing - 5 - _LENGTHS[kind] < z < crossing + 9.5:
            c.later(z, partial(kind, c, x, z + _LENGTHS[kind] / 2, turn + c.between(-0.05, 0.05)))
        z += _LENGTHS[kind] + c.between(0.7, 3)
