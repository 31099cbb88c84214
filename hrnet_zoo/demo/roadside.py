"""What stands beside the road: houses, walls, fences, trees, and the furniture of the sidewalk."""

import math

import numpy as np

from hrnet_zoo.demo.canvas import Canvas, Point, upright
from hrnet_zoo.demo.labels import BUILDING, FENCE, LIGHT, PLANT, POLE, SIGN, WALL
from hrnet_zoo.demo.random_draws import Color, scaled


def house(c: Canvas, side: int, x: float, near: float, far: float) -> None:
    """Paint a house: the front along the street, the gable end, roof edge, windows, doors and shops."""
    floors, storey = int(c.between(2, 7)), c.between(2.9, 3.6)
    height, color = floors * storey + 0.6, c.stone()
    depth = c.between(7, 14)
    end, front = upright(x, near, side, 0), upright(x, near, 0, 1)
    end_light, front_light = c.facing(0, 0, -1), c.facing(-side, 0, 0)
    c.cast(((x, 0, near), (x, 0, far)), height)
    c.patch(end, (0, 0, depth, height), color, BUILDING, end_light)
    c.patch(front, (0, 0, far - near, height), color, BUILDING, front_light)
    roof = (color[0] * c.between(0.4, 0.7), color[1] * 0.45, color[2] * 0.45)
    if c.chance(0.5):
        ridge = height + c.between(1.5, 3.5)
        c.polygon(
            [end(-0.3, height), end(depth, height), (x + side * depth / 2, ridge, near)], color, BUILDING, end_light
        )
        slope = [
            (x - side * 0.3, height, near),
            (x - side * 0.3, height, far),
            (x + side * depth / 2, ridge, far),
            (x + side * depth / 2, ridge, near),
        ]
        c.polygon(slope, roof, BUILDING, c.facing(-side * 0.6, 0.8, 0))
    else:
        c.patch(front, (0, height - 0.5, far - near, height + 0.2), roof, BUILDING, front_light)
        c.patch(end, (0, height - 0.5, depth, height + 0.2), roof, BUILDING, end_light)
    frame = c.pick(((235, 232, 225), (60, 50, 45), (150, 110, 80)))
    glass: Color = c.pick(((70, 85, 105), (40, 48, 60), (120, 145, 170), (95, 100, 100)))
    pitch, wide, tall = c.between(2.0, 3.4), c.between(0.9, 1.7), c.between(1.2, 1.9)
    shops = c.chance(0.4)
    for surface, length, light in ((front, far - near, front_light), (end, depth, end_light)):
        columns = int((length - 0.6) // pitch)
        margin = (length - columns * pitch) / 2
        for row in range(1 if shops else 0, floors):
            base = row * storey + 0.9
            if surface(0, 0)[2] > 5 and c.project(surface(length / 2, base))[1] < -40:
                continue
            for column in range(columns):
                a = margin + column * pitch + (pitch - wide) / 2
                lit = c.mood.lamps and c.chance(0.4)
                tone = c.between(0.7, 1.3)
                shade: Color = (250, 205, 120) if lit else scaled(glass, tone)
                if surface(a, 0)[2] < 45:
                    c.patch(surface, (a - 0.12, base - 0.12, a + wide + 0.12, base + tall + 0.12), frame, None, light)
                c.patch(surface, (a, base, a + wide, base + tall), shade, None, light, lit)
        if shops and length > 4:
            c.patch(surface, (0, storey - 0.5, length, storey + 0.1), c.hue((0.3, 0.9), (0.3, 0.9)), None, light)
            for a in np.arange(0.4, length - 2.4, 3.2):
                lit = c.mood.lamps or c.chance(0.2)
                shade = (235, 215, 165) if lit else glass
                c.patch(surface, (float(a), 0.4, float(a) + 2.6, storey - 0.7), shade, None, light, lit)
        else:
            a = c.between(0.3, max(0.4, length - 1.5))
            c.patch(surface, (a, 0, a + 1.1, 2.2), c.hue((0.2, 0.8), (0.2, 0.5)), None, light)
    for row in range(1, floors):
        if c.chance(0.3):
            c.patch(front, (0, row * storey - 0.1, far - near, row * storey + 0.06), frame, None, front_light * 0.9)


def free_wall(c: Canvas, x: float, near: float, far: float, side: int) -> None:
    """Paint a free-standing wall: coping on top, courses of stone or brick or concrete panels, sometimes graffiti."""
    height, color = c.between(1.3, 2.8), c.stone()
    surface, light, length = upright(x, near, 0, 1), c.facing(-side, 0, 0), far - near
    end = upright(x, near, side, 0)
    c.cast(((x, 0, near), (x, 0, far)), height)
    c.patch(end, (0, 0, 0.4, height), color, WALL, c.facing(0, 0, -1))
    c.patch(surface, (0, 0, length, height), color, WALL, light)
    joint = scaled(color, 0.68)
    course = c.pick((0.25, 0.4, 0.4, height))
    for row, y in enumerate(np.arange(0, height, course)):
        c.patch(surface, (0, float(y), length, float(y) + 0.035), joint, None, light)
        block = course * 2.2 if course < 1 else 2.4
        for a in np.arange((row % 2) * block / 2, min(length, 30), block):
            if near + a < 26:
                c.patch(
                    surface, (float(a), float(y), float(a) + 0.05, min(float(y) + course, height)), joint, None, light
                )
    if c.chance(0.35):
        for _ in range(3):
            a, y, paint = c.between(0, length * 0.6), c.between(0.3, height * 0.6), c.hue((0.5, 1), (0.4, 0.95))
            scribble = [surface(a + i * 0.35, y + c.between(0, height * 0.35)) for i in range(6)]
            c.stroke(scribble, 0.09, paint, None, light)
    coping = scaled(color, 1.2)
    c.patch(surface, (0, height - 0.08, length, height + 0.1), coping, WALL, light)


def fence(c: Canvas, x: float, near: float, far: float, side: int) -> None:
    """Paint a fence of bars, boards or mesh; as in Cityscapes, what is seen through it carries its label too."""
    height, length = c.between(1.1, 2.2), far - near
    surface, light = upright(x, near, 0, 1), c.facing(-side, 0, 0)
    color = c.pick((c.stone(), (35, 38, 40), (60, 90, 65), (232, 230, 224), (125, 85, 55), (150, 155, 160)))
    c.patch(surface, (0, 0, length, height), None, FENCE)
    style = c.rng.random()
    spacing, bar = (0.16, 0.04) if style < 0.45 else (0.24, 0.15) if style < 0.75 else (0.32, 0.035)
    for a in np.arange(0, length, spacing):
        step = spacing * max(1, round((near + a) / 22))
        if round(a / spacing) % round(step / spacing):
            continue
        if style < 0.75:
            c.patch(surface, (float(a), 0.08, float(a) + bar, height), color, None, light)
        else:
            for lean in (-0.8, 0.8):
                c.stroke((surface(float(a), 0.05), surface(float(a) + lean, height)), 0.035, color, None, light)
    for y in (0.2, height - 0.18):
        c.patch(surface, (0, y, length, y + 0.09), color, None, light)
    for a in np.arange(0, length, 2.6):
        c.patch(surface, (float(a), 0, float(a) + 0.12, height + 0.08), color, FENCE, light * 0.9)


def tree(c: Canvas, x: float, z: float) -> None:
    """Paint a tree; its trunk is vegetation too."""
    height, crown = c.between(4.5, 10), c.between(1.5, 3.2)
    bark = (c.between(60, 110), c.between(50, 85), c.between(40, 70))
    c.stroke(
        ((x, 0, z), (x + c.between(-0.2, 0.2), height - crown, z)), c.between(0.25, 0.45), bark, PLANT, c.mood.ambient
    )
    c.cast(((x - crown * 0.8, 0, z), (x + crown * 0.8, 0, z)), height)
    _leaves(c, (x, height - crown * 0.8, z), (crown, crown * c.between(0.8, 1.5)), c.leaf(), 34 if z < 40 else 14)


def street_tree(c: Canvas, x: float, z: float, side: int) -> None:
    """Paint a tree at the far side of the sidewalk."""
    tree(c, x + side * 0.3, z)


def hedge(c: Canvas, x: float, near: float, far: float, color: Color) -> None:
    """Paint a hedge along the street."""
    for z in np.arange(far, near, -1.0):
        _leaves(c, (x, 0.6, float(z)), (0.8, 0.7), c.leaf() if c.chance(0.02) else color, 5)


def bush(c: Canvas, x: float, z: float) -> None:
    """Paint a bush."""
    size = c.between(0.7, 1.5)
    _leaves(c, (x, size * 0.7, z), (size, size * 0.8), c.leaf(), 14)


def _leaves(c: Canvas, center: Point, size: tuple[float, float], color: Color, count: int) -> None:
    """Paint foliage: clusters that are darker below and lighter towards the sky."""
    x, y, z = center
    c.ball(center, (size[0] * 0.8, size[1] * 0.8), scaled(color, 0.6), PLANT, 0.9)
    for i in range(count):
        turn, out = c.between(0, 2 * math.pi), c.between(0.35, 0.85)
        dx, dy = math.cos(turn) * out * size[0], math.sin(turn) * out * size[1]
        shade = 0.62 + 0.42 * i / count + 0.22 * dy / size[1]
        blob = c.between(0.2, 0.42)
        tone = scaled(color, shade)
        c.ball((x + dx, y + dy, z), (blob * size[0], blob * size[1]), tone, PLANT, c.facing(0, 0.7, -0.7))


def furniture(c: Canvas, x: float, z: float, side: int) -> None:
    """Paint a street lamp, a traffic light or a sign at the curb."""
    kind, gray = c.rng.random(), c.pick(((90, 95, 100), (150, 152, 150), (45, 55, 50), (120, 110, 95)))
    light = c.facing(-0.7 * side, 0, -0.7)
    c.cast(((x - 0.1, 0, z), (x + 0.1, 0, z)), 6)
    if kind < 0.28:
        top = c.between(5.5, 8.5)
        c.stroke(((x, 0, z), (x, top, z)), c.between(0.24, 0.36), gray, POLE, light)
        reach = x - side * c.between(1.0, 2.2)
        c.stroke(((x, top, z), (reach, top + 0.2, z)), 0.2, gray, POLE, light)
        c.ball(
            (reach, top + 0.1, z), (0.42, 0.16), (255, 235, 180) if c.mood.lamps else gray, POLE, light, c.mood.lamps
        )
        if c.mood.lamps:
            c.shine((reach, top + 0.1, z), 1.6, (150, 120, 70))
    elif kind < 0.66:
        top = c.between(2.9, 3.6)
        c.stroke(((x, 0, z), (x, top, z)), c.between(0.22, 0.32), gray, POLE, light)
        _signal(c, x, top, z)
        if c.chance(0.55):
            arm = x - side * c.between(2.2, 3.6)
            c.stroke(((x, top - 0.2, z), (x, 5.9, z), (arm, 5.9, z)), 0.22, gray, POLE, light)
            _signal(c, arm, 5.2, z)
    else:
        top = c.between(2.2, 3.0)
        c.stroke(((x, 0, z), (x, top + 0.3, z)), c.between(0.16, 0.26), gray, POLE, light)
        _sign(c, x, top, z, c.facing(0, 0, -1))


def _signal(c: Canvas, x: float, y: float, z: float) -> None:
    """Paint a traffic light's housing with three lamps, one of them lit."""
    size = c.between(0.9, 1.25)
    surface, phase = upright(x, z, size, 0), c.pick((0, 0, 1, 2, 2))
    case = c.pick(((28, 30, 30), (45, 52, 48), (70, 62, 30)))
    c.patch(surface, (-0.26, y - 0.1, 0.26, y + 1.2 * size), case, LIGHT, c.mood.ambient)
    if c.chance(0.3):
        for a, b in ((-0.26, -0.21), (0.21, 0.26)):
            c.patch(surface, (a, y - 0.1, b, y + 1.2 * size), (225, 225, 220), None)
    for i, color in enumerate(((60, 235, 130), (255, 190, 40), (255, 50, 40))):
        on = i == phase
        center = surface(0, y + (0.12 + 0.38 * i) * size)
        c.ball(center, (0.17, 0.17), color if on else (60, 52, 50), LIGHT, 0.8, on)
        if on:
            c.shine(center, 0.5, (color[0] // 4, color[1] // 4, color[2] // 4))


def _sign(c: Canvas, x: float, y: float, z: float, light: float) -> None:
    """Paint one or two traffic signs: discs, triangles, diamonds, octagons, squares or direction boards."""
    red, blue, white, black = (205, 30, 35), (25, 80, 175), (240, 240, 238), (25, 25, 28)
    for level in range(c.pick((1, 1, 2))):
        radius = c.between(0.42, 0.58)
        cy = y - level * 1.05
        corners = c.pick((3, 4, 4, 8, 16, 16))
        turn = {3: math.pi / 2, 4: c.pick((0.0, math.pi / 4)), 8: math.pi / 8, 16: 0.0}[corners]
        wide = c.between(1.4, 2.2) if corners == 4 and turn > 0 and c.chance(0.4) else 1.0
        rim, face = c.pick(
            ((red, white), (red, white), (blue, blue), (white, blue), (black, (240, 200, 40)), (white, red))
        )
        if wide > 1:
            rim, face = white, c.pick((blue, (20, 110, 70), (240, 200, 40)))
        for scale, color in ((1.0, rim), (0.76, face)):
            outline = [
                (
                    x + wide * scale * radius * math.cos(turn + 2 * math.pi * i / corners),
                    cy + scale * radius * math.sin(turn + 2 * math.pi * i / corners),
                    z,
                )
                for i in range(corners)
            ]
            c.polygon(outline, color, SIGN, light)
        mark = white if sum(face) < 450 else black
        for dy in (-0.12, 0.1)[: c.pick((1, 2))]:
            span = radius * wide * c.between(0.2, 0.4)
            c.stroke(((x - span, cy + dy * radius, z), (x + span, cy + dy * radius, z)), 0.09, mark, None, light)
