"""The canvas: a camera that looks along a street in meters, and the strokes and surfaces painted through it."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from hrnet_zoo.demo.labels import SKY
from hrnet_zoo.demo.random_draws import Color, RandomDraws
from hrnet_zoo.demo.weather import paint_sky, pick_mood

Point = tuple[float, float, float]
"""x to the right, y up, z ahead, in meters; the camera stands above the origin."""
Surface = Callable[[float, float], Point]
"""Something upright: (along, height) to the place there."""


class Canvas(RandomDraws):
    """An image and its labels in the making, twice the scene's size, with the chance that guides the brush.

    Light on a surface is a factor on its color; `lit` means that it shines by itself.

    Attributes:
        rng: where all chance comes from.
        mood: time of day and weather.
        height: in pixels, as are the width and the horizon's row.
        width: twice that of the scene.
        horizon: its row where the camera is not rolled.
        eye: height of the camera in meters.
        bend: of the road, in 1/m.
        image: the colors.
        colors: the brush for them.
        mask: the labels.
        labels: the brush for them.
        glow: halos of lamps, at an eighth of the size.
        shadow: 255 where something throws its shadow on the ground.

    """

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        super().__init__(rng)
        self.mood = pick_mood(self)
        self.height, self.width = 2 * height, 2 * width
        self.focal = 4 * height * self.between(0.72, 1.0)
        self.eye = self.between(1.35, 2.3)
        self.center = self.width * self.between(0.38, 0.62)
        self.horizon = self.height * self.between(0.36, 0.5)
        self.bend = self.between(-0.0009, 0.0009)
        roll = self.between(-0.025, 0.025)
        self.cos, self.sin = math.cos(roll), math.sin(roll)
        azimuth, elevation = self.between(0, 2 * math.pi), self.between(0.35, 1.1)
        self.sunlight = (
            math.cos(azimuth) * math.cos(elevation),
            math.sin(elevation),
            math.sin(azimuth) * math.cos(elevation),
        )
        self.image = paint_sky(self, self.mood, self.width, self.height, self.horizon)
        self.mask = Image.new("L", (self.width, self.height), SKY)
        self.glow = Image.new("RGB", (self.width // 8, self.height // 8))
        self.shadow = Image.new("L", (self.width, self.height))
        self.colors = ImageDraw.Draw(self.image)
        self.labels = ImageDraw.Draw(self.mask)
        self._shadows = ImageDraw.Draw(self.shadow)
        self._glows = ImageDraw.Draw(self.glow)
        self._queue: list[tuple[float, Callable[[], None]]] = []

    def project(self, point: Point) -> tuple[float, float]:
        """Give column and row where the place is seen; what is nearer than 0.8 m is taken there."""
        x, y, z = point
        z = z if z > 0.8 else 0.8
        u, v = self.focal * (x / z + self.bend * z), self.focal * (self.eye - y) / z
        return self.center + u * self.cos - v * self.sin, self.horizon + u * self.sin + v * self.cos

    def tone(self, color: Color, distance: float, light: float = 1.0, lit: bool = False) -> tuple[int, int, int]:
        """Color as seen: times the light (unless it shines by itself), then veiled by haze."""
        clear = math.exp(-distance / self.mood.haze)
        veil = 1 - clear
        (r, g, b), (far_r, far_g, far_b) = color, self.mood.horizon
        if not lit:
            gain_r, gain_g, gain_b = self.mood.light
            r, g, b = r * light * gain_r, g * light * gain_g, b * light * gain_b
        return (
            int((r if r < 255 else 255) * clear + far_r * veil),
            int((g if g < 255 else 255) * clear + far_g * veil),
            int((b if b < 255 else 255) * clear + far_b * veil),
        )

    def facing(self, nx: float, ny: float, nz: float) -> float:
        """Light on a surface with this unit normal."""
        sx, sy, sz = self.sunlight
        return self.mood.ambient + 0.1 * ny + self.mood.sun * max(0.0, nx * sx + ny * sy + nz * sz)

    def polygon(
        self, points: Sequence[Point], color: Color | None, label: int | None, light: float = 1.0, lit: bool = False
    ) -> None:
        """Fill an outline; without a color only its label, without a label only its color is painted."""
        flat = [self.project(point) for point in points]
        if color is not None:
            depth = min(point[2] for point in points)
            self.colors.polygon(flat, self.tone(color, depth, light, lit))
        if label is not None:
            self.labels.polygon(flat, label)

    def patch(
        self,
        surface: Surface,
        box: tuple[float, float, float, float],
        color: Color | None,
        label: int | None = None,
        light: float = 1.0,
        lit: bool = False,
    ) -> None:
        """Fill a rectangle (from, bottom, to, top) of an upright surface."""
        a, b, c, d = box
        self.polygon((surface(a, b), surface(c, b), surface(c, d), surface(a, d)), color, label, light, lit)

    def stroke(
        self, points: Sequence[Point], meters: float, color: Color, label: int | None, light: float = 1.0
    ) -> None:
        """Draw a line of that thickness with round ends."""
        depth = max(0.8, points[0][2])
        wide = meters * self.focal / depth
        flat = [self.project(point) for point in points]
        shade = self.tone(color, depth, light)
        self.colors.line(flat, shade, max(1, round(wide)), joint="curve" if len(flat) > 2 else None)
        if label is not None:
            self.labels.line(flat, label, max(1, round(wide)), joint="curve" if len(flat) > 2 else None)
        if wide > 5:
            for u, v in flat:
                box = (u - wide / 2, v - wide / 2, u + wide / 2, v + wide / 2)
                self.colors.ellipse(box, shade)
                if label is not None:
                    self.labels.ellipse(box, label)

    def ball(
        self,
        point: Point,
        meters: tuple[float, float],
        color: Color,
        label: int | None,
        light: float = 1.0,
        lit: bool = False,
    ) -> None:
        """Draw a blob with these half axes, facing the camera."""
        u, v = self.project(point)
        scale = self.focal / max(0.8, point[2])
        box = (u - meters[0] * scale, v - meters[1] * scale, u + meters[0] * scale, v + meters[1] * scale)
        self.colors.ellipse(box, self.tone(color, point[2], light, lit))
        if label is not None:
            self.labels.ellipse(box, label)

    def shine(self, point: Point, meters: float, color: tuple[int, int, int]) -> None:
        """Add a halo to the glow layer."""
        u, v = self.project(point)
        radius = min(max(1.0, meters * self.focal / point[2] / 8), self.height / 60)
        self._glows.ellipse((u / 8 - radius, v / 8 - radius, u / 8 + radius, v / 8 + radius), color)

    def cast(self, base: tuple[Point, Point], height: float) -> None:
        """Let an upright rectangle over `base` throw its shadow on the ground."""
        sx, sy, sz = self.sunlight
        dx, dz = -sx / sy * height, -sz / sy * height
        (ax, _, az), (bx, _, bz) = base
        corners = ((ax, 0.0, az), (bx, 0.0, bz), (bx + dx, 0.0, bz + dz), (ax + dx, 0.0, az + dz))
        self._shadows.polygon([self.project((x, 0.0, max(z, 1.5))) for x, _, z in corners], 255)

    def later(self, depth: float, paint: Callable[[], None]) -> None:
        """Queue something that stands in the street; far things are painted first."""
        self._queue.append((depth, paint))

    def paint_queue(self) -> None:
        """Paint what was queued."""
        for _, paint in sorted(self._queue, key=lambda item: -item[0]):
            paint()


def upright(x: float, z: float, dx: float, dz: float) -> Surface:
    """Give the upright surface that starts at (x, z) and runs along (dx, dz)."""
    return lambda a, y: (x + a * dx, y, z + a * dz)
