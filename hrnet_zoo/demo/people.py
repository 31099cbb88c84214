"""People and cycles: on foot, parked, and ridden."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from hrnet_zoo.demo.canvas import Canvas, Point, Surface, upright
from hrnet_zoo.demo.labels import BICYCLE, MOTORCYCLE, PERSON, RIDER
from hrnet_zoo.demo.random_draws import Color, scaled


def person(c: Canvas, x: float, z: float, side: int) -> None:
    """Paint someone on foot: walking or standing, with trousers or skirt, sometimes a bag or hat."""
    tall = c.between(1.55, 1.95) if c.chance(0.85) else c.between(1.05, 1.4)
    turn = c.between(0, 2 * math.pi)
    body = upright(x, z, math.cos(turn), 0.3 * math.sin(turn))
    coat, trousers, shoes = c.hue((0.05, 0.9), (0.12, 0.9)), c.hue((0.0, 0.5), (0.1, 0.6)), (40, 36, 34)
    skin = c.pick(((235, 195, 165), (205, 150, 115), (140, 95, 70), (90, 62, 48)))
    stride, hip, shoulder = c.between(0.03, 0.24) * tall, 0.5 * tall, 0.8 * tall
    c.cast(((x - 0.25, 0, z), (x + 0.25, 0, z)), tall)
    for foot in (-1, 1):
        knee = (foot * stride * 0.55 + 0.03, 0.27 * tall)
        _limb(c, body, ((0, hip), knee, (foot * stride, 0.04)), 0.105 * tall, trousers, PERSON)
        _limb(c, body, ((foot * stride, 0.04), (foot * stride + 0.12, 0.03)), 0.06 * tall, shoes, PERSON)
    if c.chance(0.25):
        flare = [
            body(-0.08 * tall, hip),
            body(0.08 * tall, hip),
            body(0.15 * tall, 0.26 * tall),
            body(-0.15 * tall, 0.26 * tall),
        ]
        c.polygon(flare, coat, PERSON, c.mood.ambient)
    _limb(c, body, ((0, hip), (0, shoulder - 0.05 * tall)), 0.215 * tall, coat, PERSON)
    sleeve = scaled(coat, 0.82)
    for arm in (-1, 1):
        hand = (arm * (0.1 + stride * 0.5), 0.47 * tall)
        shift = 0.11 * tall * arm
        c.stroke(
            ((x + shift, shoulder - 0.04, z), (x + shift * 1.15 + hand[0] * 0.3, hand[1], z)),
            0.07 * tall,
            sleeve,
            PERSON,
            c.facing(0, 0.3, -0.9),
        )
    if c.chance(0.3):
        c.ball(
            (x + c.pick((-0.24, 0.24)), 0.45 * tall, z),
            (0.14, 0.17),
            c.hue((0.2, 0.9), (0.2, 0.7)),
            PERSON,
            c.mood.ambient,
        )
    _head(c, (x, 0.92 * tall, z), 0.075 * tall, skin, PERSON, helmet=False)


def parked_cycle(c: Canvas, x: float, z: float, side: int) -> None:
    """Paint a bicycle or motorcycle that stands about across the street."""
    paint = _bicycle if c.chance(0.6) else _motorcycle
    paint(c, x, z, c.between(-0.6, 0.6) + (math.pi if c.chance(0.5) else 0), ridden=False)


def ridden_bicycle(c: Canvas, x: float, z: float, turn: float) -> None:
    """Paint a bicycle with its rider, about in the direction of traffic `turn` (0: away from us)."""
    _bicycle(c, x, z, math.pi / 2 - turn + c.between(-0.35, 0.35), ridden=True)


def ridden_motorcycle(c: Canvas, x: float, z: float, turn: float) -> None:
    """Paint a motorcycle with its rider, about in the direction of traffic `turn` (0: away from us)."""
    _motorcycle(c, x, z, math.pi / 2 - turn + c.between(-0.35, 0.35), ridden=True)


def _bicycle(c: Canvas, x: float, z: float, turn: float, ridden: bool) -> None:
    """Paint a bicycle heading along `turn`, alone or with its rider."""
    surface, color = upright(x, z, math.cos(turn), math.sin(turn)), c.hue((0.1, 1.0), (0.2, 0.95))
    c.cast((surface(-0.8, 0), surface(0.8, 0)), 1.5 if ridden else 0.9)
    c.polygon(
        [surface(a, y) for a, y in ((-0.25, 0.85), (0.4, 0.85), (0.5, 0.4), (0.0, 0.25), (-0.5, 0.35))], None, BICYCLE
    )
    for a in (-0.53, 0.53):
        _wheel(c, surface, a, 0.36, 0.06, BICYCLE)
    for path in (
        ((-0.53, 0.36), (0.0, 0.3), (0.4, 0.82), (-0.18, 0.78), (-0.53, 0.36)),
        ((0.0, 0.3), (-0.2, 0.92)),
        ((0.53, 0.36), (0.38, 1.0), (0.5, 1.06)),
    ):
        _limb(c, surface, path, 0.065, color, BICYCLE)
    _limb(c, surface, ((-0.32, 0.95), (-0.1, 0.95)), 0.08, (30, 28, 28), BICYCLE)
    u = 0.22 * abs(math.sin(turn))
    hx, _, hz = surface(0.45, 0)
    c.stroke(((hx - u, 1.06, hz), (hx + u, 1.06, hz)), 0.05, (40, 40, 42), BICYCLE)
    if ridden:
        _rider(c, surface, ((-0.2, 0.98), (0.12, 1.46), (0.45, 1.1), (0.05, 0.25)), 1.0)


def _motorcycle(c: Canvas, x: float, z: float, turn: float, ridden: bool) -> None:
    """Paint a motorcycle or scooter heading along `turn`, alone or with its rider."""
    surface, color, light = upright(x, z, math.cos(turn), math.sin(turn)), c.lacquer(), c.facing(0, 0.3, -0.9)
    c.cast((surface(-1, 0), surface(1, 0)), 1.5 if ridden else 1.0)
    for a in (-0.72, 0.72):
        _wheel(c, surface, a, 0.33, 0.17, MOTORCYCLE)
        c.ball(surface(a, 0.33), (0.1 + 0.08 * abs(math.cos(turn)), 0.18), (130, 132, 135), MOTORCYCLE, light)
    body = (
        (-0.95, 0.85),
        (-0.6, 0.35),
        (0.35, 0.28),
        (0.55, 0.55),
        (0.62, 1.0),
        (0.3, 1.05),
        (-0.05, 0.8),
        (-0.5, 0.82),
    )
    c.polygon([surface(a, y) for a, y in body], color, MOTORCYCLE, light)
    _limb(c, surface, ((-0.5, 0.42), (0.3, 0.42)), 0.3, (55, 56, 60), MOTORCYCLE)
    _limb(c, surface, ((-0.85, 0.62), (-0.2, 0.35)), 0.13, (185, 188, 192), MOTORCYCLE)
    _limb(c, surface, ((-0.75, 0.86), (-0.05, 0.84)), 0.2, (28, 27, 28), MOTORCYCLE)
    _limb(c, surface, ((-0.9, 0.7), (0.1, 0.72), (0.45, 0.92)), 0.3, color, MOTORCYCLE)
    _limb(c, surface, ((0.72, 0.33), (0.5, 1.05)), 0.1, (150, 152, 155), MOTORCYCLE)
    hx, _, hz = surface(0.45, 0)
    u = 0.12 + 0.25 * abs(math.sin(turn))
    c.stroke(((hx - u, 1.1, hz), (hx + u, 1.1, hz)), 0.07, (30, 30, 32), MOTORCYCLE)
    end, lamp = (0.72, (255, 245, 215)) if math.sin(turn) < 0 else (-0.95, (225, 35, 30))
    c.ball(surface(end, 0.85), (0.11, 0.1), lamp, MOTORCYCLE, 1.0, True)
    if ridden:
        _rider(c, surface, ((-0.3, 0.95), (0.02, 1.5), (0.42, 1.1), (0.1, 0.38)), 1.15)


def _rider(c: Canvas, surface: Surface, pose: Sequence[tuple[float, float]], bulk: float) -> None:
    """Paint a rider; `pose` is where hip, shoulder, hand and foot are."""
    hip, shoulder, hand, foot = pose
    coat, trousers = c.hue((0.1, 0.95), (0.12, 0.95)), c.hue((0.0, 0.5), (0.1, 0.6))
    knee = (hip[0] + 0.42, (hip[1] + foot[1]) / 2 + 0.12)
    _limb(c, surface, (hip, knee, foot), 0.17 * bulk, trousers, RIDER)
    _limb(c, surface, (foot, (foot[0] + 0.14, foot[1])), 0.09, (35, 32, 32), RIDER)
    _limb(c, surface, (hip, shoulder), 0.34 * bulk, coat, RIDER)
    sleeve = scaled(coat, 0.82)
    _limb(
        c, surface, (shoulder, ((shoulder[0] + hand[0]) / 2 + 0.03, hand[1] + 0.08), hand), 0.12 * bulk, sleeve, RIDER
    )
    skin = c.pick(((235, 195, 165), (205, 150, 115), (140, 95, 70)))
    _head(
        c, surface(shoulder[0] + 0.1, shoulder[1] + 0.27), 0.135 * bulk, skin, RIDER, helmet=bulk > 1 or c.chance(0.6)
    )


def _wheel(c: Canvas, surface: Surface, a: float, radius: float, thick: float, label: int) -> None:
    """Paint a cycle's wheel; its label covers what is seen between the spokes."""
    ring = [surface(a + radius * math.cos(t), radius + radius * math.sin(t)) for t in np.linspace(0, 2 * math.pi, 17)]
    c.polygon(ring, None, label)
    c.stroke(ring, thick, (24, 24, 26), label, 0.8)
    for t in (0.3, 1.35, 2.4):
        dx, dy = radius * math.cos(t), radius * math.sin(t)
        c.stroke((surface(a - dx, radius - dy), surface(a + dx, radius + dy)), 0.02, (150, 152, 155), None, 0.9)


def _head(c: Canvas, center: Point, radius: float, skin: Color, label: int, helmet: bool) -> None:
    x, y, z = center
    light = c.facing(0, 0.5, -0.8)
    hair = (
        c.hue((0.4, 1.0), (0.3, 1.0))
        if helmet
        else c.pick(((35, 28, 25), (95, 65, 40), (200, 165, 100), (150, 145, 140)))
    )
    c.ball((x, y + radius * 0.25, z), (radius * 1.08, radius * 1.15), hair, label, light)
    c.ball((x, y - radius * 0.2, z), (radius * 0.85, radius), hair if c.chance(0.4) else skin, label, light)


def _limb(
    c: Canvas, surface: Surface, points: Iterable[tuple[float, float]], meters: float, color: Color, label: int
) -> None:
    c.stroke([surface(a, y) for a, y in points], meters, color, label, c.facing(0, 0.3, -0.9))
