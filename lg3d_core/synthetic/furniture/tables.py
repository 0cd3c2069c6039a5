"""Tables, from end tables to counters."""

from lg3d_core.synthetic.modelling import Kit, Model
from lg3d_core.synthetic.shapes import Paint


def _plate_on_legs(m: Model, k: Kit, w: float, d: float, high: float, paint: Paint, *, leg: float = 0.05) -> None:
    thick = k.u(0.025, 0.045)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (high - thick, high), paint)
    m.legs(w, d, (0, high - thick), leg, paint, inset=0.03)
    m.top((-w / 2, w / 2), (-d / 2, d / 2), high)


def table(m: Model, k: Kit) -> None:
    """Build a plain table: a light plate on metal legs, as in offices and classrooms."""
    w, d, high = k.u(1.0, 1.5), k.u(0.6, 0.8), k.u(0.70, 0.76)
    plate, leg = k.paint((208, 196, 172), "wood", spread=14), k.metal()
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (high - 0.03, high), plate)
    m.legs(w, d, (0, high - 0.03), 0.045, leg, inset=0.04)
    for x in (-w / 2 + 0.06, w / 2 - 0.06):
        m.box((x - 0.015, x + 0.015), (-d / 2 + 0.08, d / 2 - 0.08), (high - 0.09, high - 0.03), leg)
    m.top((-w / 2, w / 2), (-d / 2, d / 2), high)


def dining_table(m: Model, k: Kit) -> None:
    """Build a wooden table with an apron and strong legs, or a round one on a foot."""
    wood = k.wood()
    high = k.u(0.72, 0.77)
    if k.chance(0.3):
        r = k.u(0.5, 0.62)
        m.lathe(0, 0, (high - 0.04, high), r, wood)
        m.lathe(0, 0, (0.04, high - 0.04), 0.07, wood)
        m.lathe(0, 0, (0, 0.05), r * 0.55, wood, ((0, -1), (1, -1), (0.9, 0), (0.2, 1), (0, 1)))
        m.top((-r * 0.7, r * 0.7), (-r * 0.7, r * 0.7), high)
        return
    w, d = k.u(1.4, 1.9), k.u(0.8, 0.95)
    _plate_on_legs(m, k, w, d, high, wood, leg=0.08)
    m.box((-w / 2 + 0.1, w / 2 - 0.1), (-d / 2 + 0.06, -d / 2 + 0.08), (high - 0.13, high - 0.04), wood)
    m.box((-w / 2 + 0.1, w / 2 - 0.1), (d / 2 - 0.08, d / 2 - 0.06), (high - 0.13, high - 0.04), wood)


def coffee_table(m: Model, k: Kit) -> None:
    """Build a coffee table: low and long, with a shelf below the plate."""
    w, d, high = k.u(0.9, 1.2), k.u(0.5, 0.65), k.u(0.38, 0.46)
    wood = k.wood()
    _plate_on_legs(m, k, w, d, high, wood, leg=0.055)
    m.box((-w / 2 + 0.06, w / 2 - 0.06), (-d / 2 + 0.06, d / 2 - 0.06), (0.12, 0.14), wood)


def end_table(m: Model, k: Kit) -> None:
    """Build an end table: small, as high as the arm of a couch."""
    if k.chance(0.4):
        r, high = k.u(0.22, 0.28), k.u(0.5, 0.6)
        wood = k.wood()
        m.lathe(0, 0, (high - 0.03, high), r, wood)
        m.lathe(0, 0, (0.02, high - 0.03), 0.03, wood)
        m.lathe(0, 0, (0, 0.025), r * 0.7, wood)
        m.top((-r * 0.65, r * 0.65), (-r * 0.65, r * 0.65), high)
        return
    w, high = k.u(0.42, 0.55), k.u(0.5, 0.6)
    wood = k.wood()
    _plate_on_legs(m, k, w, w, high, wood, leg=0.04)
    m.box((-w / 2 + 0.04, w / 2 - 0.04), (-w / 2 + 0.04, w / 2 - 0.04), (0.15, 0.17), wood)


def desk(m: Model, k: Kit) -> None:
    """Build a plate with a drawer block at one side, legs or a board at the other, and a modesty panel."""
    w, d, high = k.u(1.2, 1.6), k.u(0.62, 0.78), k.u(0.72, 0.76)
    wood, metal = k.wood(), k.metal()
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (high - 0.035, high), wood)
    side = 1 if k.chance(0.5) else -1
    x0, x1 = sorted((side * (w / 2 - 0.02), side * (w / 2 - 0.42)))
    m.box((x0, x1), (-d / 2 + 0.05, d / 2 - 0.03), (0.03, high - 0.035), wood)
    for n in range(3):
        z = 0.06 + n * (high - 0.12) / 3
        m.box((x0 + 0.015, x1 - 0.015), (-d / 2 + 0.03, -d / 2 + 0.05), (z, z + (high - 0.15) / 3), wood)
        m.box(((x0 + x1) / 2 - 0.06, (x0 + x1) / 2 + 0.06), (-d / 2 + 0.01, -d / 2 + 0.03), (z + 0.1, z + 0.12), metal)
    x = -side * (w / 2 - 0.03)
    m.box((x - 0.018, x + 0.018), (-d / 2 + 0.05, d / 2 - 0.03), (0, high - 0.035), wood)
    m.box((-w / 2 + 0.05, w / 2 - 0.05), (d / 2 - 0.07, d / 2 - 0.05), (0.3, high - 0.035), wood)
    m.top((-w / 2, w / 2), (-d / 2, d / 2), high)


def nightstand(m: Model, k: Kit) -> None:
    """Build a small chest beside a bed, with one or two drawers."""
    w, d, high = k.u(0.42, 0.52), k.u(0.36, 0.44), k.u(0.48, 0.6)
    wood, knob = k.wood(), k.metal()
    drawers = k.count(1, 2)
    m.legs(w, d, (0, 0.1), 0.04, wood)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0.1, high - 0.025), wood)
    m.box((-w / 2 - 0.01, w / 2 + 0.01), (-d / 2 - 0.02, d / 2), (high - 0.025, high), wood)
    for n in range(drawers):
        z = 0.13 + n * (high - 0.18) / drawers
        m.box((-w / 2 + 0.02, w / 2 - 0.02), (-d / 2 - 0.015, -d / 2), (z, z + (high - 0.22) / drawers), wood)
        m.box((-0.025, 0.025), (-d / 2 - 0.035, -d / 2 - 0.015), (z + 0.07, z + 0.1), knob)
    m.top((-w / 2, w / 2), (-d / 2, d / 2), high)


def tv_stand(m: Model, k: Kit) -> None:
    """Build a TV stand: low and wide, open in the middle."""
    w, d, high = k.u(1.2, 1.6), k.u(0.38, 0.46), k.u(0.45, 0.56)
    wood = k.paint((58, 46, 42), "wood", spread=10) if k.chance(0.5) else k.wood()
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (high - 0.03, high), wood)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0, 0.06), wood)
    third = w / 6
    for x0, x1 in ((-w / 2, -third), (third, w / 2)):
        m.box((x0, x1), (-d / 2 + 0.01, d / 2), (0.06, high - 0.03), wood)
        m.box((x0 + 0.02, x1 - 0.02), (-d / 2 - 0.01, -d / 2 + 0.01), (0.08, high - 0.05), wood)
    m.box((-third, third), (d / 2 - 0.02, d / 2), (0.06, high - 0.03), wood)
    m.box((-third, third), (-d / 2 + 0.03, d / 2 - 0.02), (high * 0.5, high * 0.5 + 0.02), wood)
    m.top((-w / 2, w / 2), (-d / 2, d / 2), high)
    m.top((-third, third), (-d / 2, d / 2 - 0.03), high * 0.5 + 0.02, headroom=high * 0.4)


def stand(m: Model, k: Kit) -> None:
    """Build a slim open frame of metal with two boards, on castors."""
    w, d, high = k.u(0.5, 0.65), k.u(0.4, 0.5), k.u(0.65, 0.85)
    metal, board = k.metal(), k.grey()
    m.legs(w, d, (0, high - 0.02), 0.03, metal)
    for z in (0.2, high - 0.02):
        m.box((-w / 2, w / 2), (-d / 2, d / 2), (z, z + 0.02), board)
    m.top((-w / 2, w / 2), (-d / 2, d / 2), high)
    m.top((-w / 2 + 0.05, w / 2 - 0.05), (-d / 2 + 0.05, d / 2 - 0.05), 0.22, headroom=high - 0.3)


def counter(m: Model, k: Kit) -> None:
    """Build a tall closed block with a plate that juts out, for standing at."""
    w, d, high = k.u(1.2, 1.8), k.u(0.5, 0.65), k.u(0.95, 1.08)
    body, plate = k.white() if k.chance(0.4) else k.wood(), k.paint((96, 90, 88), "granite", spread=14)
    m.box((-w / 2, w / 2), (-d / 2 + 0.08, d / 2), (0, high - 0.04), body)
    m.box((-w / 2 - 0.02, w / 2 + 0.02), (-d / 2, d / 2), (high - 0.04, high), plate)
    m.top((-w / 2, w / 2), (-d / 2, d / 2), high)


def bar(m: Model, k: Kit) -> None:
    """Build a high narrow counter with a foot rail."""
    w, d, high = k.u(1.2, 1.7), k.u(0.4, 0.5), k.u(1.05, 1.15)
    wood = k.paint((92, 52, 34), "wood", spread=8)
    m.box((-w / 2, w / 2), (-d / 2 + 0.12, d / 2), (0, high - 0.05), wood)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (high - 0.05, high), wood)
    m.box((-w / 2, w / 2), (-d / 2 + 0.02, -d / 2 + 0.05), (0.18, 0.21), k.metal())
    for x in (-w / 2 + 0.05, w / 2 - 0.05):
        m.box((x - 0.015, x + 0.015), (-d / 2 + 0.02, -d / 2 + 0.12), (0.18, 0.21), k.metal())
    m.top((-w / 2, w / 2), (-d / 2, d / 2), high)


TABLES = {
    "table": table,
    "dining table": dining_table,
    "coffee table": coffee_table,
    "end table": end_table,
    "desk": desk,
    "nightstand": nightstand,
    "tv stand": tv_stand,
    "stand": stand,
    "counter": counter,
    "bar": bar,
}
