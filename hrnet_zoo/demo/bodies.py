"""Bodies of vehicles: an extruded outline with its wheels, lamps and the dark beneath."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hrnet_zoo.demo.canvas import Canvas, Point, Surface
from hrnet_zoo.demo.random_draws import Color

Outline = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Body:
    """A shape of constant outline (along, height), standing at (x, z) and heading along `turn` (0: away from us)."""

    x: float
    z: float
    turn: float
    width: float
    belt: float  # height above which the sides lean inwards

    def at(self, a: float, y: float, t: float) -> Point:
        """Give the place `a` ahead of the middle, `y` up and `t` (-1..1) to the right."""
        half = t * (self.width / 2 - 0.14 * max(0.0, y - self.belt))
        sin, cos = math.sin(self.turn), math.cos(self.turn)
        return self.x + a * sin + half * cos, y, self.z + a * cos - half * sin

    def side(self, t: float) -> Surface:
        """Give the surface along the body at `t`."""
        return lambda a, y: self.at(a, y, t)

    def end(self, a: float) -> Surface:
        """Give the surface across the body at `a`; its first coordinate runs from -1 to 1."""
        return lambda t, y: self.at(a, y, t)

    def sees(self, c: Canvas, a: float, y: float, t: float, n: tuple[float, float, float]) -> float:
        """Light on the face at that place with normal `n` (ahead, up, right) or 0 where it looks away from us."""
        sin, cos = math.sin(self.turn), math.cos(self.turn)
        nx, nz = n[0] * sin + n[2] * cos, n[0] * cos - n[2] * sin
        px, py, pz = self.at(a, y, t)
        shift = c.bend * pz * pz  # the bend moves far things sideways
        return c.facing(nx, n[1], nz) if nx * -(px + shift) + n[1] * (c.eye - py) + nz * -pz > 0 else 0.0


def hull(c: Canvas, body: Body, outline: Outline, color: Color, label: int, glass: Sequence[int] = ()) -> list[float]:
    """Paint an extruded outline (counter-clockwise seen from the right); give the sides (-1, 1) that are visible."""
    dark = (38.0, 46.0, 56.0)
    for i, (a, y) in enumerate(outline):
        b, top = outline[(i + 1) % len(outline)]
        length = math.hypot(b - a, top - y)
        light = body.sees(c, (a + b) / 2, (y + top) / 2, 0, ((top - y) / length, (a - b) / length, 0))
        if light:
            face = [body.at(a, y, -1), body.at(b, top, -1), body.at(b, top, 1), body.at(a, y, 1)]
            c.polygon(face, color, label, light)
            if i in glass:
                inner = [
                    (a + (b - a) * f, y + (top - y) * f, t)
                    for f, t in ((0.1, -0.88), (0.9, -0.88), (0.9, 0.88), (0.1, 0.88))
                ]
                c.polygon([body.at(*place) for place in inner], dark, None, light)
    sides = [t for t in (-1.0, 1.0) if body.sees(c, 0, 1, t, (0, 0, t))]
    for t in sides:
        c.polygon([body.at(a, y, t) for a, y in outline], color, label, body.sees(c, 0, 1, t, (0, 0, t)))
    return sides


def wheels(c: Canvas, body: Body, places: Iterable[float], radius: float, label: int) -> None:
    """Paint wheels on the visible sides."""
    for t in (-1.0, 1.0):
        if not body.sees(c, 0, 1, t, (0, 0, t)):
            continue
        side = body.side(t * 1.01)
        for a in places:
            for scale, color in ((1.0, (22, 22, 24)), (0.58, (150, 152, 156)), (0.2, (60, 60, 62))):
                ring = [
                    side(a + scale * radius * math.cos(i * 0.5236), radius + scale * radius * math.sin(i * 0.5236))
                    for i in range(12)
                ]
                c.polygon(ring, color, label if scale == 1.0 else None, c.mood.ambient)


def underneath(c: Canvas, body: Body, length: float, label: int) -> None:
    """Paint the dark ground under the body, which stays the road's, and the tires below the ends that are seen."""
    corners = [
        body.at(a, 0.0, t)
        for a, t in ((-length / 2, -1.05), (length / 2, -1.05), (length / 2, 1.05), (-length / 2, 1.05))
    ]
    c.polygon(corners, (26, 26, 28), None, c.mood.ambient)
    for a in (-length / 2, length / 2):
        if body.sees(c, a, 0.3, 0, (math.copysign(1, a), 0, 0)):
            for t in (-0.8, 0.8):
                tire = body.end(a * 0.94)
                c.patch(tire, (t - 0.16, 0, t + 0.16, 0.45), (20, 20, 22), label, c.mood.ambient)


def lamps(c: Canvas, body: Body, length: float, y: float, label: int, size: float = 0.12) -> None:
    """Paint headlamps ahead, tail lamps and number plates behind, whichever end is seen."""
    for a, color, glow in (
        (length / 2, (255, 250, 228), (150, 140, 110)),
        (-length / 2, (214, 28, 28), (110, 14, 10)),
    ):
        if not body.sees(c, a, y, 0, (math.copysign(1, a), 0, 0)):
            continue
        end = body.end(a * 1.005)
        for t in (-0.78, 0.78):
            lit = c.mood.lamps or (a > 0 and c.chance(0.3)) or (a < 0 and c.chance(0.25))
            c.patch(end, (t - 0.15, y - size, t + 0.15, y + size), color, label, 0.85, lit)
            if c.mood.lamps:
                c.shine(end(t, y), 0.36, glow)
        c.patch(end, (-0.27, y - 0.32, 0.27, y - 0.2), (238, 236, 215), None, c.mood.ambient)
