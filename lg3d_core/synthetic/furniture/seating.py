"""Seating: similar shapes for the different words."""

import numpy as np

from lg3d_core.synthetic.modelling import Kit, Model
from lg3d_core.synthetic.shapes import Paint


def chair(m: Model, k: Kit) -> None:
    """Build four legs, a seat and an upright back of slats or a board."""
    w, d, seat, high = k.u(0.40, 0.47), k.u(0.40, 0.46), k.u(0.43, 0.47), k.u(0.80, 0.95)
    frame = k.wood() if k.chance(0.7) else k.metal()
    cushion = k.fabric() if k.chance(0.35) else frame
    m.legs(w, d, (0, seat - 0.04), 0.04, frame)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (seat - 0.04, seat), cushion)
    for x in (-w / 2 + 0.02, w / 2 - 0.02):
        m.rod((x, d / 2 - 0.02, seat), (x, d / 2 + 0.03, high), 0.018, frame)
    if k.chance(0.5):
        for z in np.linspace(seat + 0.16, high - 0.05, 3):
            m.box(
                (-w / 2 + 0.04, w / 2 - 0.04), (d / 2 - 0.02, d / 2 + 0.02), (float(z) - 0.035, float(z) + 0.035), frame
            )
    else:
        m.box((-w / 2 + 0.04, w / 2 - 0.04), (d / 2 - 0.015, d / 2 + 0.025), (seat + 0.14, high), cushion, lean=0.08)


def office_chair(m: Model, k: Kit) -> None:
    """Build a five-armed base on castors, a column, an upholstered seat, back and perhaps arm rests."""
    w, seat, high = k.u(0.46, 0.52), k.u(0.44, 0.52), k.u(0.90, 1.10)
    dark = k.dark()
    cloth = k.paint((52, 54, 62), "fabric", spread=14) if k.chance(0.75) else k.fabric()
    turn = k.u(0, 2)
    for arm in range(5):
        a = turn + arm * 2 * np.pi / 5
        tip = (0.27 * float(np.cos(a)), 0.27 * float(np.sin(a)))
        m.rod((0, 0, 0.10), (*tip, 0.07), 0.022, dark)
        m.blob((tip[0] - 0.03, tip[0] + 0.03), (tip[1] - 0.03, tip[1] + 0.03), (0, 0.06), dark, power=2)
    m.lathe(0, 0, (0.08, seat - 0.08), 0.03, k.metal())
    m.blob((-w / 2, w / 2), (-w / 2, w / 2), (seat - 0.09, seat + 0.01), cloth, power=5)
    m.blob((-w / 2 + 0.03, w / 2 - 0.03), (w / 2 - 0.07, w / 2 + 0.02), (seat + 0.10, high), cloth, power=5, lean=0.1)
    m.box((-0.03, 0.03), (w / 2 - 0.04, w / 2 - 0.01), (seat - 0.05, seat + 0.2), dark)
    if k.chance(0.7):
        for side in (-1, 1):
            x = side * (w / 2 + 0.02)
            m.box((x - 0.02, x + 0.02), (-0.02, 0.03), (seat - 0.06, seat + 0.18), dark)
            m.box((x - 0.035, x + 0.035), (-0.14, 0.12), (seat + 0.18, seat + 0.21), dark)


def folded_chair(m: Model, k: Kit) -> None:
    """Build a folded metal chair that leans against a wall: two tubes, a flat seat and a flat back in one plane."""
    w, high = k.u(0.44, 0.48), k.u(0.95, 1.05)
    frame = k.paint((112, 112, 116), spread=8)
    plate = k.paint((164, 150, 124), spread=14) if k.chance(0.5) else frame
    for x in (-w / 2, w / 2):
        m.rod((x, -0.12, 0.0), (x, 0.07, high), 0.015, frame)
        m.rod((x * 0.9, -0.03, 0.02), (x * 0.9, 0.05, high * 0.75), 0.013, frame)
    m.box((-w / 2, w / 2), (-0.045, -0.015), (0.28, 0.68), plate, lean=0.18)
    m.box((-w / 2, w / 2), (0.02, 0.04), (high - 0.24, high - 0.02), plate, lean=0.18)


def _upholstered(m: Model, k: Kit, w: float, *, cloth: Paint, seats: int, arm: float, high: float) -> None:
    d, seat = k.u(0.78, 0.92), k.u(0.40, 0.45)
    back = k.u(0.16, 0.22)
    m.legs(w, d, (0, 0.06), 0.05, k.wood(), inset=0.03)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0.06, seat - 0.13), cloth)
    m.blob((-w / 2 + arm / 2, w / 2 - arm / 2), (d / 2 - back, d / 2), (seat - 0.15, high), cloth, power=8)
    for side in (-1, 1):
        x = side * (w / 2 - arm / 2)
        m.blob((x - arm / 2, x + arm / 2), (-d / 2, d / 2 - 0.03), (seat - 0.2, seat + 0.19), cloth, power=8)
    inner = w - 2 * arm
    for n in range(seats):
        low = -inner / 2 + n * inner / seats
        place = (low + 0.005, low + inner / seats - 0.005)
        m.blob(place, (-d / 2 - 0.01, d / 2 - back), (seat - 0.14, seat + 0.02), cloth, power=7)
        m.blob(place, (d / 2 - back - 0.13, d / 2 - back + 0.04), (seat, high - 0.05), cloth, power=5, lean=0.15)
    m.top((-inner / 2, inner / 2), (-d / 2 + 0.05, d / 2 - back - 0.12), seat + 0.02)


def couch(m: Model, k: Kit) -> None:
    """Build two or three seats between arms."""
    seats = k.count(2, 3)
    _upholstered(
        m, k, 0.68 * seats + k.u(0.2, 0.4), cloth=k.fabric(), seats=seats, arm=k.u(0.14, 0.22), high=k.u(0.76, 0.9)
    )


def sofa_chair(m: Model, k: Kit) -> None:
    """Build one seat of a couch, low and wide."""
    _upholstered(m, k, k.u(0.92, 1.08), cloth=k.fabric(), seats=1, arm=k.u(0.16, 0.22), high=k.u(0.74, 0.86))


def armchair(m: Model, k: Kit) -> None:
    """Build a chair with open wooden arms and a padded, high back."""
    w, d, seat, high = k.u(0.60, 0.70), k.u(0.62, 0.72), k.u(0.41, 0.46), k.u(0.92, 1.06)
    frame, cloth = k.wood(), k.fabric()
    m.legs(w, d, (0, seat + 0.18), 0.045, frame)
    for side in (-1, 1):
        x = side * (w / 2 - 0.025)
        m.box((x - 0.035, x + 0.035), (-d / 2, d / 2), (seat + 0.18, seat + 0.21), frame)
        m.box((x - 0.015, x + 0.015), (-d / 2, d / 2), (seat - 0.12, seat - 0.04), frame)
    m.blob((-w / 2 + 0.06, w / 2 - 0.06), (-d / 2, d / 2 - 0.05), (seat - 0.1, seat + 0.03), cloth, power=6)
    m.blob((-w / 2 + 0.06, w / 2 - 0.06), (d / 2 - 0.17, d / 2 - 0.04), (seat, high), cloth, power=6, lean=0.14)


def stool(m: Model, k: Kit) -> None:
    """Build a round seat on three or four legs, at times as high as a bar."""
    high, r = (k.u(0.62, 0.76) if k.chance(0.4) else k.u(0.42, 0.5)), k.u(0.16, 0.2)
    frame = k.wood() if k.chance(0.6) else k.metal()
    legs = k.count(3, 4)
    for n in range(legs):
        a = 2 * np.pi * (n + 0.5) / legs
        c, s = float(np.cos(a)), float(np.sin(a))
        m.rod((r * c, r * s, 0), (0.75 * r * c, 0.75 * r * s, high - 0.04), 0.017, frame)
    m.lathe(0, 0, (high - 0.045, high), r, k.bright("fabric") if k.chance(0.4) else frame)


def bench(m: Model, k: Kit) -> None:
    """Build a long seat without a back."""
    w, d, high = k.u(1.0, 1.6), k.u(0.34, 0.44), k.u(0.42, 0.48)
    wood = k.wood()
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (high - 0.05, high), wood)
    for side in (-1, 1):
        x = side * (w / 2 - 0.12)
        m.box((x - 0.03, x + 0.03), (-d / 2 + 0.03, d / 2 - 0.03), (0, high - 0.05), wood)
    m.box((-w / 2 + 0.15, w / 2 - 0.15), (-0.02, 0.02), (0.14, 0.2), wood)
    m.top((-w / 2, w / 2), (-d / 2, d / 2), high)


def ottoman(m: Model, k: Kit) -> None:
    """Build a padded block to put one's feet on."""
    w, d, high = k.u(0.5, 0.75), k.u(0.45, 0.6), k.u(0.38, 0.45)
    cloth = k.fabric()
    m.legs(w, d, (0, 0.06), 0.05, k.wood(), inset=0.04)
    m.blob((-w / 2, w / 2), (-d / 2, d / 2), (0.05, high), cloth, power=9)
    m.top((-w / 2 + 0.06, w / 2 - 0.06), (-d / 2 + 0.06, d / 2 - 0.06), high)


def seat(m: Model, k: Kit) -> None:
    """Build joined moulded shells on a beam, as in waiting rooms."""
    shells = k.count(3, 4)
    color = k.bright()
    metal = k.metal()
    step = 0.54
    w = step * shells
    m.box((-w / 2 + 0.1, w / 2 - 0.1), (-0.03, 0.03), (0.32, 0.37), metal)
    for x in (-w / 2 + 0.3, w / 2 - 0.3):
        m.box((x - 0.025, x + 0.025), (-0.02, 0.02), (0.03, 0.33), metal)
        m.box((x - 0.03, x + 0.03), (-0.24, 0.24), (0, 0.03), metal)
    for n in range(shells):
        x = -w / 2 + step * (n + 0.5)
        m.blob((x - 0.23, x + 0.23), (-0.24, 0.22), (0.37, 0.44), color, power=5)
        m.blob((x - 0.22, x + 0.22), (0.2, 0.27), (0.42, 0.82), color, power=5, lean=0.16)


def cushion(m: Model, k: Kit) -> None:
    """Build a square throw cushion that lies on a seat."""
    w = k.u(0.34, 0.44)
    m.blob((-w / 2, w / 2), (-w / 2, w / 2), (0, 0.13), k.bright("weave"), power=2.8)


SEATING = {
    "chair": chair,
    "office chair": office_chair,
    "folded chair": folded_chair,
    "couch": couch,
    "sofa chair": sofa_chair,
    "armchair": armchair,
    "stool": stool,
    "bench": bench,
    "ottoman": ottoman,
    "seat": seat,
    "cushion": cushion,
}
