"""The ground: road, markings, rails, sidewalks and grass verges."""

from collections.abc import Sequence

import numpy as np

from hrnet_zoo.demo.canvas import Canvas
from hrnet_zoo.demo.labels import ROAD, SIDEWALK, TERRAIN
from hrnet_zoo.demo.random_draws import Color, scaled


def paint_ground(
    c: Canvas, curbs: Sequence[float], lanes: Sequence[float], lane: float, crossing: float, track: float | None
) -> None:
    """Paint road, markings, rails, sidewalks and grass verges."""
    reach = (1.2, 2, 3, 4, 6, 8, 11, 15, 20, 27, 36, 50, 70, 100, 140, 200, 300)

    def strip(a: float, b: float, color: Color, label: int | None, zs: Sequence[float] = reach) -> None:
        outline = [(a, 0.0, z) for z in zs] + [(b, 0.0, z) for z in reversed(zs)]
        flat = [c.project(point) for point in outline]
        c.colors.polygon(flat, c.tone(color, 12.0, light))
        if label is not None:
            c.labels.polygon(flat, label)

    light = c.facing(0, 1, 0)
    for side, curb in zip((-1, 1), curbs, strict=True):
        paving = c.stone() if c.chance(0.5) else (c.between(120, 200),) * 3
        verge = c.leaf()
        if c.chance(0.45):
            strip(curb, side * 200, paving, SIDEWALK)
        else:
            strip(curb, side * 200, verge, TERRAIN)
        wide = c.between(2.2, 4.2)
        strip(curb, curb + side * wide, paving, SIDEWALK)
        if c.chance(0.6):
            start, zs = c.between(0.25, 0.9), [z for z in reach if c.between(0, 3) < z]
            strip(curb + side * wide * start, curb + side * wide * (start + 0.45), verge, TERRAIN, zs)
        dark = scaled(paving, 0.62)
        for joint in np.geomspace(3, 40, 26):
            line = [(curb, 0.0, joint), (curb + side * wide * 0.25, 0.0, joint)]
            c.colors.line([c.project(point) for point in line], c.tone(dark, 12.0, light), 1)
    gray = c.between(62, 128)
    asphalt = (gray + c.between(-6, 8), gray + c.between(-4, 4), gray + c.between(-6, 8))
    if crossing < 1000:
        c.polygon(
            [(x, 0.0, z) for x, z in ((-90, crossing), (90, crossing), (90, crossing + 9), (-90, crossing + 9))],
            asphalt,
            ROAD,
            light,
        )
    strip(curbs[0], curbs[1], asphalt, ROAD)
    for _ in range(int(c.rng.random() * 5)):  # patches of newer or older surface
        x, z, tone = c.between(*curbs), c.between(3, 25), c.between(0.8, 1.12)
        strip(
            x,
            min(x + c.between(0.5, 2.5), curbs[1]),
            (gray * tone, gray * tone, gray * tone),
            None,
            (z, z * 1.2, z * 1.5),
        )
    for side, curb in zip((-1, 1), curbs, strict=True):
        strip(curb, curb + side * 0.16, (gray * 1.5, gray * 1.5, gray * 1.45), None)
    if track is not None:
        for x in (track - 0.72, track + 0.72):
            strip(x - 0.07, x + 0.07, (gray * 0.45, gray * 0.45, gray * 0.5), None)
            strip(x - 0.02, x + 0.03, (205, 210, 215), None)
    white: Color = c.pick(((235, 235, 230), (215, 215, 205), (240, 205, 80)))
    marks = sorted({round(x + lane / 2, 3) for x in lanes} | {round(x - lane / 2, 3) for x in lanes})
    solid = c.chance(0.3)
    for x in marks:
        if x in (marks[0], marks[-1]) or solid:
            strip(x - 0.07, x + 0.07, white, None)
            continue
        z = c.between(2, 7)
        while z < 80:
            strip(x - 0.08, x + 0.08, white, None, (z, z + 3.0))
            z += 7.5
    if crossing < 1000 and c.chance(0.75):
        x = curbs[0] + 0.4
        while x < curbs[1] - 0.5:
            strip(x, x + 0.5, (235, 235, 230), None, (crossing - 4.0, crossing - 1.2))
            x += 1.0
