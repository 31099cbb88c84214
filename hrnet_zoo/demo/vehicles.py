"""Vehicles: cars, trucks, buses and trams."""

import math

import numpy as np

from hrnet_zoo.demo.bodies import Body, Outline, hull, lamps, underneath, wheels
from hrnet_zoo.demo.canvas import Canvas
from hrnet_zoo.demo.labels import BUS, CAR, TRAIN, TRUCK
from hrnet_zoo.demo.random_draws import scaled


def car(c: Canvas, x: float, z: float, turn: float) -> None:
    """Paint a hatchback, sedan, off-roader, van or small car."""
    outline, glass, (rear, front, belt, top), length = c.pick(_CARS)
    body, color = Body(x, z, turn, c.between(1.72, 1.9), 0.95), c.lacquer()
    underneath(c, body, length, CAR)
    for t in hull(c, body, outline, color, CAR, glass):
        light, side = body.sees(c, 0, 1, t, (0, 0, t)), body.side(t)
        mid = (rear + front) / 2 - 0.1
        for a, b in ((rear, mid - 0.05), (mid + 0.05, front)):
            lean = 0.35 if b == front else 0.0
            c.polygon(
                [side(a, belt), side(b, belt), side(b - lean, top), side(a + 0.1, top)], (42, 50, 60), None, light
            )
        c.patch(side, (mid - 0.02, 0.45, mid, belt), scaled(color, 0.6), None, light)
    wheels(c, body, (-length * 0.31, length * 0.31), 0.33, CAR)
    lamps(c, body, length, 0.74, CAR)


_CARS: tuple[tuple[Outline, tuple[int, ...], tuple[float, float, float, float], float], ...] = (
    # outline from the rear bumper counter-clockwise; glass edges; side window (rear, front, belt, top); length
    (
        ((-2.0, 0.3), (2.0, 0.3), (2.1, 0.72), (1.2, 0.95), (0.5, 1.45), (-1.4, 1.5), (-2.0, 0.98)),
        (3, 5),
        (-1.5, 0.9, 0.97, 1.38),
        4.1,
    ),
    (
        ((-2.25, 0.32), (2.2, 0.3), (2.25, 0.7), (1.15, 0.92), (0.45, 1.4), (-0.9, 1.42), (-1.55, 1.0), (-2.25, 0.92)),
        (3, 5),
        (-1.2, 0.85, 0.95, 1.33),
        4.5,
    ),
    (
        ((-2.2, 0.4), (2.2, 0.4), (2.3, 0.9), (1.25, 1.1), (0.7, 1.7), (-1.8, 1.74), (-2.2, 1.12)),
        (3, 5),
        (-1.8, 1.0, 1.12, 1.6),
        4.5,
    ),
    (
        ((-2.3, 0.35), (2.2, 0.35), (2.3, 0.85), (1.7, 1.08), (0.95, 1.85), (-2.2, 1.92), (-2.3, 1.1)),
        (3, 5),
        (-2.0, 1.2, 1.12, 1.72),
        4.6,
    ),
    (
        ((-1.7, 0.3), (1.7, 0.3), (1.8, 0.75), (1.2, 0.98), (0.65, 1.5), (-1.2, 1.5), (-1.7, 1.0)),
        (3, 5),
        (-1.3, 0.95, 1.0, 1.42),
        3.5,
    ),
)


def truck(c: Canvas, x: float, z: float, turn: float) -> None:
    """Paint a truck: a cab, and a box, a container, a tipper or a tank on a chassis."""
    load, tall = c.between(4.8, 7.5), c.between(2.9, 3.8)
    length, tipper = load + 2.2, c.chance(0.25)
    body, cab, cargo = Body(x, z, turn, 2.45, 9), c.lacquer(), c.lacquer()
    if tipper:
        tall = c.between(1.9, 2.4)
    rear, middle, nose = -length / 2, -length / 2 + load, length / 2
    underneath(c, body, length, TRUCK)
    box = ((rear, 0.95), (middle, 0.95), (middle, tall), (rear, tall))
    front = ((middle + 0.15, 0.45), (nose, 0.45), (nose, 1.6), (nose - 0.25, 2.75), (middle + 0.15, 2.8))

    def paint_cab() -> None:
        for t in hull(c, body, front, cab, TRUCK, (2,)):
            light, side = body.sees(c, 0, 1, t, (0, 0, t)), body.side(t)
            c.patch(side, (middle + 0.7, 1.6, nose - 0.35, 2.4), (40, 48, 58), None, light)
        if body.sees(c, nose, 1, 0, (1, 0, 0)):
            c.patch(body.end(nose * 1.005), (-0.7, 0.95, 0.7, 1.4), (45, 46, 48), None, c.mood.ambient)

    def paint_cargo() -> None:
        for t in (-0.9, 0.9):
            beam = [body.at(a, y, t) for a, y in ((rear, 0.55), (middle, 0.55), (middle, 0.98), (rear, 0.98))]
            c.polygon(beam, (40, 40, 42), TRUCK, 0.8)
        rib = scaled(cargo, 0.72)
        ribs = c.pick((0.45, 0.9, 2.4))
        for t in hull(c, body, box, cargo, TRUCK):
            light, side = body.sees(c, 0, 1, t, (0, 0, t)), body.side(t)
            for a in np.arange(rear + ribs, middle, ribs):
                c.patch(side, (float(a), 1.0, float(a) + 0.06, tall), rib, None, light)
            if ribs > 2:
                c.patch(
                    side, (rear + 0.8, tall * 0.5, middle - 0.8, tall * 0.72), c.hue((0.5, 1), (0.3, 0.95)), None, light
                )
        if body.sees(c, rear, 1, 0, (-1, 0, 0)):
            end = body.end(rear * 1.003)
            c.patch(end, (-0.9, 0.5, 0.9, 0.95), (42, 42, 44), TRUCK, 0.8)
            for t in (-0.97, -0.5, -0.02, 0.46, 0.93):
                c.patch(end, (t, 1.0, t + 0.04, tall), rib, None, c.mood.ambient)
            for i in range(8):
                c.patch(
                    end,
                    (-0.8 + i * 0.2, 0.62, -0.6 + i * 0.2, 0.78),
                    ((210, 40, 35), (240, 235, 220))[i % 2],
                    None,
                    c.mood.ambient,
                )

    ahead = body.at(nose, 0, 0)[2] > body.at(rear, 0, 0)[2]
    for paint in (paint_cab, paint_cargo) if ahead else (paint_cargo, paint_cab):
        paint()
    wheels(c, body, (rear + 0.9, rear + 2.0, nose - 1.1), 0.5, TRUCK)
    lamps(c, body, length, 0.75, TRUCK, 0.1)


def bus(c: Canvas, x: float, z: float, turn: float) -> None:
    """Paint a bus: a band of windows all round, doors, wheels, an amber destination display."""
    length, tall, color = c.between(9, 12), c.between(3.0, 3.3), c.hue((0.4, 0.95), (0.35, 0.95))
    body, second = Body(x, z, turn, 2.55, 2.2), c.pick((color, (235, 235, 232), c.lacquer()))
    nose = length / 2
    outline = (
        (-nose, 0.35),
        (nose, 0.35),
        (nose, tall - 0.3),
        (nose - 0.25, tall),
        (-nose + 0.2, tall),
        (-nose, tall - 0.25),
    )
    underneath(c, body, length, BUS)
    for t in hull(c, body, outline, color, BUS):
        light, side = body.sees(c, 0, 1, t, (0, 0, t)), body.side(t)
        c.patch(side, (-nose, 0.35, nose, 0.85), second, None, light)
        c.patch(side, (-nose + 0.3, 1.25, nose - 0.1, 2.45), (36, 42, 50), None, light)
        for i, a in enumerate(np.arange(-nose + 0.5, nose - 0.8, 1.45)):
            lit = c.mood.lamps
            c.patch(
                side,
                (float(a), 1.35, float(a) + 1.25, 2.35),
                (230, 215, 160) if lit else (78, 92, 108),
                None,
                light,
                lit,
            )
            if i in (2, 5) and t > 0:
                c.patch(side, (float(a), 0.45, float(a) + 1.2, 2.4), (60, 70, 82), None, light)
                c.patch(side, (float(a) + 0.57, 0.45, float(a) + 0.63, 2.4), (200, 200, 200), None, light)
    for a, top in ((nose, 2.45), (-nose, 2.3)):
        if light := body.sees(c, a, 1, 0, (math.copysign(1, a), 0, 0)):
            end, front = body.end(a * 1.003), a > 0
            c.patch(end, (-0.88, 1.0 if front else 1.5, 0.88, top), (44, 54, 66), None, light)
            c.patch(end, (-0.6, 2.55, 0.6, 2.85), (25, 25, 25), None, light)
            c.patch(end, (-0.45, 2.62, 0.4, 2.78), (255, 170, 40), None, 1.0, True)
            c.patch(end, (-0.95, 0.35, 0.95, 0.55), second, None, light)
            if not front:
                for y in (0.85, 1.0, 1.15):
                    c.patch(end, (-0.5, y, 0.5, y + 0.07), (40, 40, 42), None, light)
    wheels(c, body, (-nose + 2.6, nose - 2.4), 0.48, BUS)
    lamps(c, body, length, 0.8, BUS, 0.14)


def tram(c: Canvas, x: float, z: float, turn: float) -> None:
    """Paint a tram (class train): jointed cars on rails, skirts to the ground, sloped ends, a pantograph."""
    joined, piece, tall = c.pick((2, 3)), c.between(6.5, 8.5), c.between(3.4, 3.7)
    color, second = (
        c.hue((0.35, 0.9), (0.3, 0.95)),
        c.pick(((238, 236, 228), (60, 62, 66), (225, 205, 90))),
    )
    body, nose = Body(x, z, turn, 2.5, 2.4), joined * piece / 2
    outline = (
        (-nose + 0.1, 0.15),
        (nose - 0.1, 0.15),
        (nose, 1.1),
        (nose - 0.7, tall - 0.25),
        (nose - 1.1, tall),
        (-nose + 1.1, tall),
        (-nose + 0.7, tall - 0.25),
        (-nose, 1.1),
    )
    c.cast((body.at(-nose, 0, 0), body.at(nose, 0, 0)), tall)
    for t in hull(c, body, outline, second, TRAIN, (2, 6)):
        light, side = body.sees(c, 0, 1, t, (0, 0, t)), body.side(t)
        c.patch(side, (-nose + 0.15, 0.15, nose - 0.15, 0.4), (48, 48, 50), None, light)
        c.patch(side, (-nose + 0.05, 0.4, nose - 0.05, 1.35), color, None, light)
        c.patch(side, (-nose + 0.8, tall - 0.4, nose - 0.8, tall - 0.2), color, None, light)
        for part in range(joined):
            start = -nose + part * piece
            for i, a in enumerate(np.arange(start + 1.0, start + piece - 1.6, 1.3)):
                lit = c.mood.lamps
                base = 0.45 if i == 2 else 1.55
                c.patch(
                    side,
                    (float(a), base, float(a) + 1.1, 2.75),
                    (235, 220, 170) if lit else (50, 58, 68),
                    None,
                    light,
                    lit,
                )
            if part:
                for fold in range(4):
                    a = start - 0.4 + fold * 0.2
                    c.patch(side, (a, 0.2, a + 0.14, tall), (40, 40, 42), None, light)
    for a, lamp in ((nose, (255, 250, 230)), (-nose, (220, 30, 30))):
        if light := body.sees(c, a, 0.8, 0, (math.copysign(1, a), 0, 0)):
            end = body.end(a)
            c.patch(end, (-0.93, 0.5, 0.93, 1.1), color, None, light)
            for t in (-0.6, 0.0, 0.6):
                c.ball(end(t, 0.85), (0.13, 0.13), lamp, TRAIN, 1.0, True)
            c.patch(body.end(a * 0.93), (-0.4, tall - 0.42, 0.4, tall - 0.15), (255, 175, 50), TRAIN, 1.0, True)
    gray = (70, 72, 76)
    arm = ((-1.2, tall), (0.2, tall + 0.9), (-0.6, tall + 1.7))
    c.stroke([body.at(a, y, 0) for a, y in arm], 0.1, gray, TRAIN)
    c.stroke((body.at(-0.6, tall + 1.7, -0.6), body.at(-0.6, tall + 1.7, 0.6)), 0.1, gray, TRAIN)
    c.polygon(
        [body.at(a, y, 0) for a, y in ((-2.6, tall), (1.0, tall), (1.0, tall + 0.35), (-2.6, tall + 0.35))], gray, TRAIN
    )
