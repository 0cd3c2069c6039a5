"""Furniture from independent random choices, so that no two pieces of a class are the same."""

import numpy as np

from lg3d_core.synthetic.furniture.catalog import Builder
from lg3d_core.synthetic.modelling import Kit, Model
from lg3d_core.synthetic.shapes import Interval, Paint


def _support(m: Model, k: Kit, w: float, d: float, z: Interval, paint: Paint, *, seat: bool = False) -> None:
    """Add what carries a plate or a seat of `w` x `d`: legs, splayed legs, panels, a sled, a pedestal or a trestle."""
    low, high = z
    thick = k.u(0.02, 0.05) if seat else k.u(0.035, 0.09)
    style = k.choose(("legs", "legs", "splayed", "panels", "sled", "pedestal", "trestle", "block"))
    if seat and style in ("panels", "trestle"):
        style = "legs"
    if style == "block" and (not seat or k.chance(0.7)):
        style = "legs"
    if style == "legs":
        m.legs(w, d, z, thick, paint, inset=k.u(0.0, 0.05))
        if k.chance(0.4):
            rail = k.u(0.04, 0.1)
            for y in (-d / 2 + 0.04, d / 2 - 0.04):
                m.box((-w / 2 + 0.05, w / 2 - 0.05), (y - 0.012, y + 0.012), (high - rail, high), paint)
            for x in (-w / 2 + 0.04, w / 2 - 0.04):
                m.box((x - 0.012, x + 0.012), (-d / 2 + 0.05, d / 2 - 0.05), (high - rail, high), paint)
    elif style == "splayed":
        spread = k.u(0.75, 1.05)
        for sx in (-1, 1):
            for sy in (-1, 1):
                foot, head = 0.5 * spread - 0.02, 0.5 * spread - 0.1
                m.rod((sx * w * foot, sy * d * foot, low), (sx * w * head, sy * d * head, high), thick / 2, paint)
    elif style == "panels":
        for x in (-w / 2 + 0.02, w / 2 - 0.02):
            m.box((x - 0.015, x + 0.015), (-d / 2 + 0.02, d / 2 - 0.02), z, paint)
        m.box((-w / 2 + 0.03, w / 2 - 0.03), (d / 2 - 0.06, d / 2 - 0.04), (low + 0.35 * (high - low), high), paint)
    elif style == "sled":
        for x in (-w / 2 + 0.03, w / 2 - 0.03):
            m.box((x - 0.014, x + 0.014), (-d / 2 + 0.02, d / 2 - 0.02), (low, low + 0.03), paint)
            for y in (-d / 2 + 0.035, d / 2 - 0.035):
                m.box((x - 0.014, x + 0.014), (y - 0.014, y + 0.014), (low, high), paint)
    elif style == "pedestal":
        m.lathe(0, 0, (low + 0.02, high), k.u(0.03, 0.09), paint)
        r = 0.5 * min(w, d) * k.u(0.55, 0.85)
        if k.chance(0.5):
            m.lathe(0, 0, (low, low + 0.05), r, paint, ((0, -1), (1, -1), (0.9, 0), (0.2, 1), (0, 1)))
        else:
            for a in np.arange(4) * np.pi / 2 + k.u(0, 1):
                m.rod((0, 0, low + 0.07), (r * float(np.cos(a)), r * float(np.sin(a)), low + 0.03), 0.02, paint)
    elif style == "trestle":
        for x in (-w / 2 + 0.18 * w, w / 2 - 0.18 * w):
            m.box((x - 0.03, x + 0.03), (-0.05, 0.05), (low + 0.05, high), paint)
            m.box((x - 0.035, x + 0.035), (-d / 2 + 0.05, d / 2 - 0.05), (low, low + 0.06), paint)
        m.box((-w * 0.32, w * 0.32), (-0.02, 0.02), (low + 0.2, low + 0.28), paint)
    else:
        m.box((-w / 2 + 0.03, w / 2 - 0.03), (-d / 2 + 0.03, d / 2 - 0.03), z, paint)


def _plate(m: Model, k: Kit, w: float, d: float, high: float, paint: Paint) -> None:
    thick = k.u(0.02, 0.06)
    shape = k.choose(("box", "box", "box", "rounded", "round"))
    if shape == "round":
        m.lathe(0, 0, (high - thick, high), (w / 2, d / 2), paint)
        m.top((-w * 0.34, w * 0.34), (-d * 0.34, d * 0.34), high)
        return
    if shape == "rounded":
        m.blob((-w / 2, w / 2), (-d / 2, d / 2), (high - thick, high), paint, power=14)
    else:
        m.box((-w / 2, w / 2), (-d / 2, d / 2), (high - thick, high), paint)
    m.top((-w / 2 + 0.02, w / 2 - 0.02), (-d / 2 + 0.02, d / 2 - 0.02), high)


def _any_material(k: Kit) -> Paint:
    return k.choose((k.wood, k.wood, k.wood, k.white, k.grey, k.dark, k.metal))()


def _table(m: Model, k: Kit, w: float, d: float, high: float) -> None:
    plate = _any_material(k)
    leg = plate if k.chance(0.5) else _any_material(k)
    _support(m, k, w * 0.92, d * 0.9, (0, high - 0.05), leg)
    _plate(m, k, w, d, high, plate)
    if k.chance(0.15):
        m.box((-w / 2 + 0.1, w / 2 - 0.1), (-d / 2 + 0.1, d / 2 - 0.1), (high * 0.3, high * 0.3 + 0.02), leg)


def table(m: Model, k: Kit) -> None:
    """Build a table of any shape."""
    w = k.u(0.7, 2.0)
    _table(m, k, w, min(w, k.u(0.6, 1.1)), k.u(0.68, 0.79))


def dining_table(m: Model, k: Kit) -> None:
    """Build a table for two to eight."""
    w = k.u(0.85, 2.1)
    _table(m, k, w, min(w, k.u(0.75, 1.05)), k.u(0.71, 0.79))


def coffee_table(m: Model, k: Kit) -> None:
    """Build a coffee table: low, of any shape."""
    w = k.u(0.6, 1.35)
    _table(m, k, w, min(w, k.u(0.45, 0.8)), k.u(0.3, 0.5))


def end_table(m: Model, k: Kit) -> None:
    """Build an end table: small, of any shape."""
    w = k.u(0.35, 0.62)
    _table(m, k, w, w * k.u(0.85, 1.1), k.u(0.42, 0.66))


def _drawers(m: Model, k: Kit, x: Interval, y: float, z: Interval, columns: int, rows: int, paint: Paint) -> None:
    """Add fronts before the plane `y`: drawers or doors with handles of one style, or only gaps."""
    handle = k.choose(("bar", "bar", "knob", "none", "long"))
    metal = k.metal() if k.chance(0.7) else k.dark()
    wide, tall = (x[1] - x[0]) / columns, (z[1] - z[0]) / rows
    gap, proud = k.u(0.004, 0.012), k.u(0.012, 0.025)
    for c in range(columns):
        for r in range(rows):
            x0, z0 = x[0] + c * wide, z[0] + r * tall
            m.box((x0 + gap, x0 + wide - gap), (y - proud, y), (z0 + gap, z0 + tall - gap), paint)
            upright = tall > wide * 0.9
            cx, cz = x0 + wide / 2, z0 + tall * 0.6
            if upright:
                cx, cz = (x0 + wide - 0.05 if c % 2 == 0 else x0 + 0.05), z0 + tall * k.u(0.45, 0.6)
            a, b = {"bar": (0.06, 0.01), "knob": (0.016, 0.016), "long": (0.4 * wide, 0.012), "none": (0, 0)}[handle]
            if upright:
                a, b = b, min(a, 0.4 * tall)
            if a > 0:
                m.box((cx - a, cx + a), (y - proud - 0.025, y - proud), (cz - b, cz + b), metal)


def _chest(m: Model, k: Kit, w: float, d: float, high: float, columns: int, rows: int, paint: Paint) -> None:
    """Build a carcass with fronts on a plinth or feet, sometimes with a plate of another colour."""
    foot = k.u(0.0, 0.16)
    if foot > 0.07:
        m.legs(w, d, (0, foot), k.u(0.03, 0.06), paint, inset=0.02)
    elif foot > 0.02:
        m.box((-w / 2 + 0.02, w / 2 - 0.02), (-d / 2 + 0.04, d / 2), (0, foot), paint)
    else:
        foot = 0.0
    plate = k.u(0.02, 0.045)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (foot, high - plate), paint)
    over = k.u(0.0, 0.03)
    top = paint if k.chance(0.65) else _any_material(k)
    m.box((-w / 2 - over, w / 2 + over), (-d / 2 - over, d / 2), (high - plate, high), top)
    front = paint if k.chance(0.75) else _any_material(k)
    _drawers(m, k, (-w / 2, w / 2), -d / 2, (foot, high - plate), columns, rows, front)
    m.top((-w / 2, w / 2), (-d / 2, d / 2), high)


def cabinet(m: Model, k: Kit) -> None:
    """Build a cabinet: doors, drawers or both, from low and wide to tall."""
    high = k.u(0.65, 1.1) if k.chance(0.6) else k.u(1.2, 2.1)
    w = k.u(0.5, 1.6) if high < 1.2 else k.u(0.5, 1.1)
    columns = max(1, round(w / k.u(0.35, 0.55)))
    _chest(m, k, w, k.u(0.33, 0.6), high, columns, k.choose((1, 1, 2)), _any_material(k))


def dresser(m: Model, k: Kit) -> None:
    """Build a dresser: drawers in one to three columns."""
    columns = k.count(1, 3)
    high = k.u(0.72, 1.0) if columns > 1 else k.u(0.85, 1.25)
    w = columns * k.u(0.42, 0.6) + (0.2 if columns == 1 else 0)
    _chest(m, k, w, k.u(0.4, 0.52), high, columns, k.count(3, 5), k.wood() if k.chance(0.7) else _any_material(k))


def nightstand(m: Model, k: Kit) -> None:
    """Build a small chest, or a small table with a drawer."""
    w, d, high = k.u(0.36, 0.6), k.u(0.33, 0.46), k.u(0.45, 0.7)
    paint = k.wood() if k.chance(0.7) else _any_material(k)
    if k.chance(0.6):
        _chest(m, k, w, d, high, 1, k.count(1, 3), paint)
        return
    m.legs(w, d, (0, high - 0.16), 0.04, paint)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (high - 0.16, high), paint)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0.12, 0.14), paint)
    m.top((-w / 2, w / 2), (-d / 2, d / 2), high)
    m.top((-w / 2 + 0.04, w / 2 - 0.04), (-d / 2 + 0.04, d / 2 - 0.04), 0.14, headroom=high - 0.32)


def tv_stand(m: Model, k: Kit) -> None:
    """Build a TV stand: low and wide, with doors, drawers or open boards."""
    w, d, high = k.u(1.0, 2.0), k.u(0.36, 0.5), k.u(0.38, 0.68)
    if k.chance(0.5):
        _chest(m, k, w, d, high, k.count(2, 4), k.count(1, 2), _any_material(k))
        return
    _boards(m, k, w, d, high, 3, _any_material(k), back=True, columns=k.count(1, 3))


def wardrobe(m: Model, k: Kit) -> None:
    """Build a wardrobe: as high as a door or higher."""
    doors = k.count(2, 4)
    paint = k.wood() if k.chance(0.6) else _any_material(k)
    _chest(m, k, doors * k.u(0.4, 0.55), k.u(0.5, 0.66), k.u(1.75, 2.25), doors, 1, paint)


def _boards(
    m: Model, k: Kit, w: float, d: float, high: float, boards: int, paint: Paint, *, back: bool, columns: int = 1
) -> None:
    thick = k.u(0.016, 0.032)
    for x in np.linspace(-w / 2, w / 2 - thick, columns + 1):
        m.box((float(x), float(x) + thick), (-d / 2, d / 2), (0, high), paint)
    step = (high - thick) / max(1, boards - 1)
    wide = (w - thick) / columns
    for n in range(boards):
        z = n * step
        for c in range(columns):
            x0 = -w / 2 + thick + c * wide
            m.box((x0, x0 + wide - thick), (-d / 2, d / 2), (z, z + thick), paint)
            if n == boards - 1:
                continue
            m.top(
                (x0 + 0.01, x0 + wide - thick - 0.01), (-d / 2 + 0.01, d / 2 - 0.02), z + thick, headroom=step - thick
            )
    m.top((-w / 2, w / 2), (-d / 2, d / 2), high)
    if back:
        m.box((-w / 2, w / 2), (d / 2, d / 2 + 0.008), (0, high), paint)


def _fill(m: Model, k: Kit, share: float) -> None:
    """Put rows of books and boxes that belong to a shelf between its boards."""
    for x0, y0, x1, y1, z, headroom in list(m.tops):
        if headroom > 0.8 or not k.chance(share):
            continue
        x = x0
        kept = x1 - (x1 - x0) * (0.0 if k.chance(0.5) else k.u(0.1, 0.6))
        while x < kept - 0.05:
            w = min(k.u(0.02, 0.06) if k.chance(0.8) else k.u(0.1, 0.3), kept - x)
            high = headroom * k.u(0.55, 0.95)
            y = y0 + (y1 - y0) * k.u(0.0, 0.35)
            m.box((x, x + w), (y, y1), (z, z + high), k.bright() if k.chance(0.6) else _any_material(k))
            x += w + (0.002 if k.chance(0.9) else k.u(0.02, 0.1))


def bookshelf(m: Model, k: Kit) -> None:
    """Build a bookshelf: closed or open at the back, one to three columns, half or full height; often full of books."""
    boards = k.count(3, 7)
    columns = k.choose((1, 1, 2, 3))
    high = (boards - 1) * k.u(0.28, 0.4)
    paint = k.wood() if k.chance(0.65) else _any_material(k)
    _boards(m, k, columns * k.u(0.55, 0.95), k.u(0.24, 0.38), high, boards, paint, back=k.chance(0.8), columns=columns)
    if k.chance(0.5):
        _fill(m, k, k.u(0.4, 1.0))


def shelf(m: Model, k: Kit) -> None:
    """Build a shelf: open boards, at times on metal posts, at times with boxes that belong to it."""
    boards = k.count(2, 5)
    high = (boards - 1) * k.u(0.35, 0.5)
    _boards(m, k, k.u(0.6, 1.6), k.u(0.26, 0.5), high, boards, _any_material(k), back=k.chance(0.3))
    if k.chance(0.25):
        _fill(m, k, k.u(0.2, 0.8))


def desk(m: Model, k: Kit) -> None:
    """Build a plate with drawers at one side, both or neither, a back panel, an L shape or a hutch at times."""
    w, d, high = k.u(0.95, 1.9), k.u(0.5, 0.85), k.u(0.70, 0.78)
    plate = _any_material(k)
    leg = plate if k.chance(0.6) else _any_material(k)
    drawers = k.choose((0, 0, 1, 1, 2))
    thick = k.u(0.02, 0.045)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (high - thick, high), plate)
    m.top((-w / 2, w / 2), (-d / 2, d / 2), high)
    side = k.choose((-1, 1))
    box = k.u(0.33, 0.45)
    if drawers:
        for s in (side, -side)[:drawers]:
            x = s * (w / 2 - box / 2 - 0.01)
            m.box((x - box / 2, x + box / 2), (-d / 2 + 0.04, d / 2 - 0.02), (0.04, high - thick), leg)
            _drawers(m, k, (x - box / 2, x + box / 2), -d / 2 + 0.04, (0.06, high - thick), 1, k.count(2, 4), leg)
        if drawers == 1:
            x = -side * (w / 2 - 0.03)
            if k.chance(0.5):
                m.box((x - 0.02, x + 0.02), (-d / 2 + 0.02, d / 2 - 0.02), (0, high - thick), leg)
            else:
                for y in (-d / 2 + 0.05, d / 2 - 0.05):
                    m.box((x - 0.025, x + 0.025), (y - 0.025, y + 0.025), (0, high - thick), leg)
    else:
        _support(m, k, w * 0.95, d * 0.95, (0, high - thick), leg)
    if k.chance(0.4):
        m.box((-w / 2 + 0.04, w / 2 - 0.04), (d / 2 - 0.04, d / 2 - 0.02), (high * k.u(0.3, 0.7), high - thick), leg)
    if k.chance(0.22):  # the other arm of an L
        x0, deep = -side * w / 2, k.u(0.45, 0.6)
        arm = sorted((x0, x0 + side * deep))
        m.box((arm[0], arm[1]), (-d / 2 - k.u(0.5, 0.9), -d / 2), (high - thick, high), plate)
        end = m.parts[-1].center[1] - m.parts[-1].half[1]
        m.box((arm[0] + 0.02, arm[1] - 0.02), (end + 0.02, end + 0.05), (0, high - thick), leg)
    if k.chance(0.25):
        shelf_high = k.u(0.3, 0.8)
        for x in (-w / 2 + 0.01, w / 2 - 0.01):
            m.box((x - 0.01, x + 0.01), (d / 2 - 0.28, d / 2), (high, high + shelf_high), leg)
        m.box((-w / 2 + 0.02, w / 2 - 0.02), (d / 2 - 0.28, d / 2), (high + shelf_high - 0.02, high + shelf_high), leg)
        m.tops = []
        m.top((-w / 2, w / 2), (-d / 2, d / 2 - 0.02), high, headroom=shelf_high - 0.03)
        m.top((-w / 2, w / 2), (d / 2 - 0.28, d / 2), high + shelf_high)


def chair(m: Model, k: Kit) -> None:
    """Build a chair: any seat, support and back."""
    w, d, seat, high = k.u(0.37, 0.52), k.u(0.37, 0.5), k.u(0.4, 0.5), k.u(0.74, 1.08)
    frame = k.choose((k.wood, k.wood, k.metal, k.metal, k.dark, k.white))()
    cover = frame if k.chance(0.3) else k.choose((k.fabric, k.fabric, k.bright, k.dark, k.wood, k.white))()
    _support(m, k, w * 0.95, d * 0.95, (0, seat - 0.03), frame, seat=True)
    soft = k.u(0.02, 0.09)
    if k.chance(0.5):
        m.blob((-w / 2, w / 2), (-d / 2, d / 2), (seat - soft, seat + 0.01), cover, power=k.u(3.5, 10))
    else:
        m.box((-w / 2, w / 2), (-d / 2, d / 2), (seat - min(soft, 0.04), seat), cover)
    m.top((-w / 2 + 0.03, w / 2 - 0.03), (-d / 2 + 0.03, d / 2 - 0.08), seat + 0.01)
    lean, y = k.u(0.03, 0.22), d / 2 - 0.01
    style = k.choose(("slats", "spindles", "board", "board", "shell", "ladder", "frame"))
    posts = style not in ("shell",) and k.chance(0.85)
    if posts:
        for x in (-w / 2 + 0.02, w / 2 - 0.02):
            m.rod((x, y - 0.01, seat - 0.02), (x, y + lean * (high - seat), high), k.u(0.012, 0.022), frame)
    middle = y + lean * (high - seat) / 2
    if style == "shell":
        m.blob((-w / 2, w / 2), (middle - 0.04, middle + 0.04), (seat - 0.02, high), cover, power=k.u(3, 6), lean=lean)
    elif style in ("board", "frame"):
        low = seat + k.u(0.06, 0.25) * (high - seat)
        thick = k.u(0.012, 0.04)
        m.box((-w / 2 + 0.02, w / 2 - 0.02), (middle - thick, middle + thick), (low, high), cover, lean=lean)
    elif style == "spindles":
        for x in np.linspace(-w / 2 + 0.06, w / 2 - 0.06, k.count(3, 6)):
            m.rod((float(x), y, seat), (float(x), y + lean * (high - seat - 0.04), high - 0.04), 0.009, frame)
        m.box(
            (-w / 2, w / 2),
            (y + lean * (high - seat) - 0.02, y + lean * (high - seat) + 0.02),
            (high - 0.08, high),
            frame,
        )
    else:
        for z in np.linspace(seat + 0.14, high - 0.05, k.count(2, 5)):
            at = y + lean * (float(z) - seat)
            half = 0.035 if style == "slats" else 0.018
            m.box((-w / 2 + 0.03, w / 2 - 0.03), (at - 0.012, at + 0.012), (float(z) - half, float(z) + half), frame)
    if k.chance(0.22):
        for side in (-1, 1):
            x = side * (w / 2 + 0.015)
            m.box((x - 0.02, x + 0.02), (-d / 2 + 0.06, d / 2), (seat + 0.19, seat + 0.22), frame)
            m.box((x - 0.014, x + 0.014), (-d / 2 + 0.08, -d / 2 + 0.11), (seat - 0.03, seat + 0.19), frame)


def _sofa(m: Model, k: Kit, w: float, seats: int) -> None:
    d, seat, high = k.u(0.72, 1.02), k.u(0.36, 0.48), k.u(0.66, 1.0)
    cloth = k.fabric() if k.chance(0.8) else k.bright("fabric")
    cushions = cloth if k.chance(0.75) else k.fabric()
    foot = k.u(0.03, 0.16)
    if foot > 0.06:
        m.legs(w, d, (0, foot), k.u(0.03, 0.06), k.wood() if k.chance(0.7) else k.metal(), inset=0.04)
    else:
        foot = 0.0
    back, arm = k.u(0.12, 0.26), k.u(0.08, 0.28)
    arm_high = k.u(0.48, 0.72) if k.chance(0.88) else 0.0
    power = k.u(4, 14)
    if not arm_high:
        arm = 0.02
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (foot, seat - 0.12), cloth)
    m.blob((-w / 2, w / 2), (d / 2 - back, d / 2), (foot, high), cloth, power=power, lean=k.u(0, 0.1))
    for side in (-1, 1):
        if not arm_high:
            break
        x = side * (w / 2 - arm / 2)
        if k.chance(0.25):
            m.lathe(x, 0, (foot, arm_high - arm * 0.4), (arm / 2, d / 2 - 0.02), cloth)
        m.blob((x - arm / 2, x + arm / 2), (-d / 2, d / 2 - 0.04), (foot, arm_high), cloth, power=power)
    inner = w - 2 * arm
    loose = 1 if k.chance(0.2) else seats
    for n in range(loose):
        low = -inner / 2 + n * inner / loose
        place = (low + 0.004, low + inner / loose - 0.004)
        m.blob(place, (-d / 2 - k.u(0, 0.03), d / 2 - back), (seat - 0.14, seat + 0.02), cushions, power=k.u(4, 9))
        if k.chance(0.85):
            m.blob(
                place,
                (d / 2 - back - k.u(0.09, 0.17), d / 2 - back + 0.04),
                (seat, high - k.u(-0.05, 0.12)),
                cushions,
                power=k.u(3, 6),
                lean=k.u(0.05, 0.25),
            )
    m.top((-inner / 2, inner / 2), (-d / 2 + 0.03, d / 2 - back - 0.13), seat + 0.02)
    if seats > 1 and k.chance(0.25):  # a chaise longue
        side = k.choose((-1, 1))
        ends = sorted((side * (w / 2 - 0.02), side * (w / 2 - k.u(0.7, 0.9))))
        front = -d / 2 - k.u(0.45, 0.8)
        m.blob((ends[0], ends[1]), (front, -d / 2 + 0.02), (0.02, seat + 0.02), cushions, power=9)
        m.top((ends[0] + 0.05, ends[1] - 0.05), (front + 0.06, -d / 2), seat + 0.02)


def couch(m: Model, k: Kit) -> None:
    """Build two to four seats, with any arms, back and cushions, or a chaise longue."""
    seats = k.count(2, 4)
    _sofa(m, k, seats * k.u(0.52, 0.74) + k.u(0.15, 0.5), seats)


def sofa_chair(m: Model, k: Kit) -> None:
    """Build one seat of any couch."""
    _sofa(m, k, k.u(0.7, 1.1), 1)


def armchair(m: Model, k: Kit) -> None:
    """Build an upholstered chair with arms: a small sofa or a wooden frame with pads."""
    if k.chance(0.5):
        _sofa(m, k, k.u(0.62, 0.85), 1)
        return
    w, d, seat, high = k.u(0.55, 0.72), k.u(0.55, 0.74), k.u(0.37, 0.47), k.u(0.78, 1.1)
    frame, cloth = (k.wood() if k.chance(0.7) else k.metal()), k.fabric()
    _support(m, k, w, d, (0, seat - 0.06), frame, seat=True)
    m.blob((-w / 2 + 0.04, w / 2 - 0.04), (-d / 2, d / 2 - 0.04), (seat - 0.1, seat + 0.03), cloth, power=6)
    lean = k.u(0.05, 0.3)
    m.blob((-w / 2 + 0.04, w / 2 - 0.04), (d / 2 - 0.17, d / 2 - 0.04), (seat, high), cloth, power=6, lean=lean)
    for side in (-1, 1):
        x = side * (w / 2 - 0.02)
        m.box((x - 0.03, x + 0.03), (-d / 2, d / 2 - 0.05), (seat + 0.17, seat + 0.2), frame)
        m.box((x - 0.018, x + 0.018), (-d / 2 + 0.02, -d / 2 + 0.06), (seat - 0.06, seat + 0.17), frame)
    m.top((-w / 2 + 0.08, w / 2 - 0.08), (-d / 2 + 0.03, d / 2 - 0.2), seat + 0.03)


def bed(m: Model, k: Kit) -> None:
    """Build a bed: any frame and head; made, half made or rumpled; a bunk bed at times."""
    w, d = k.choose((0.92, 0.98, 1.2, 1.4, 1.55, 1.65, 1.85)) + k.u(-0.03, 0.03), k.u(1.9, 2.12)
    frame = k.wood() if k.chance(0.6) else _any_material(k)
    base = k.choose(("legs", "box", "drawers", "metal"))
    high = k.u(0.42, 0.72)
    thick = k.u(0.18, 0.3)
    _bed_base(m, k, w, d, high - thick, base, frame)
    head = k.choose(("none", "board", "board", "padded", "bars"))
    head_high = k.u(high + 0.15, 1.35)
    if head == "board":
        m.box((-w / 2 - 0.03, w / 2 + 0.03), (d / 2, d / 2 + k.u(0.03, 0.09)), (0, head_high), frame)
    elif head == "padded":
        m.blob((-w / 2 - 0.04, w / 2 + 0.04), (d / 2, d / 2 + 0.12), (0.1, head_high), k.fabric(), power=8)
    elif head == "bars":
        for x in np.linspace(-w / 2, w / 2, k.count(5, 9)):
            m.rod((float(x), d / 2 + 0.02, 0.2), (float(x), d / 2 + 0.02, head_high), 0.014, frame)
        m.box((-w / 2, w / 2), (d / 2, d / 2 + 0.04), (head_high - 0.05, head_high), frame)
    if k.chance(0.35):
        m.box((-w / 2 - 0.02, w / 2 + 0.02), (-d / 2 - 0.05, -d / 2), (0, k.u(high - 0.1, high + 0.25)), frame)
    _bedding(m, k, w, d, high, thick)
    if w < 1.1 and k.chance(0.18):  # a bunk bed
        up = k.u(1.35, 1.6)
        for sx in (-1, 1):
            for y in (-d / 2 + 0.03, d / 2 - 0.03):
                x = sx * (w / 2 + 0.02)
                m.box((x - 0.03, x + 0.03), (y - 0.03, y + 0.03), (0, up + 0.3), frame)
        m.box((-w / 2, w / 2), (-d / 2, d / 2), (up - 0.25, up - 0.17), frame)
        m.blob((-w / 2, w / 2), (-d / 2, d / 2), (up - 0.18, up), k.white("fabric"), power=14)
        for x in (-w / 2 - 0.01, w / 2 + 0.01):
            m.box((x - 0.01, x + 0.01), (-d / 2, d / 2), (up + 0.1, up + 0.2), frame)


def _bed_base(m: Model, k: Kit, w: float, d: float, high: float, base: str, frame: Paint) -> None:
    if base in ("legs", "metal"):
        paint = frame if base == "legs" else k.metal()
        low = max(0.05, high - k.u(0.06, 0.18))
        m.legs(w, d, (0, low), k.u(0.04, 0.09), paint)
        m.box((-w / 2, w / 2), (-d / 2, d / 2), (low, high), paint)
        return
    paint = frame if base == "drawers" or k.chance(0.5) else k.fabric()
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0, high), paint)
    if base == "drawers" and high > 0.2:
        m.box((-w / 2 - 0.015, w / 2 + 0.015), (-d / 2 + 0.1, -0.02), (0.04, high - 0.03), paint)
        m.box((-w / 2 - 0.015, w / 2 + 0.015), (0.02, d / 2 - 0.1), (0.04, high - 0.03), paint)


def _bedding(m: Model, k: Kit, w: float, d: float, high: float, thick: float) -> None:
    sheet = k.white("fabric") if k.chance(0.7) else k.fabric()
    m.blob((-w / 2, w / 2), (-d / 2, d / 2), (high - thick - 0.01, high), sheet, power=14)
    cover = (
        k.fabric()
        if k.chance(0.6)
        else k.choose((k.bright, k.white))(k.choose(("fabric", "weave", "print", "stripes")))
    )
    state = k.choose(("made", "made", "half", "rumpled", "bare"))
    top = high
    end = d * k.u(0.1, 0.32)
    hang = k.u(0.0, 0.28) if k.chance(0.6) else 0.02
    if state in ("made", "half"):
        if state == "half":
            end = d * k.u(-0.3, 0.1)
        top = high + k.u(0.015, 0.07)
        out = 0.03
        m.blob((-w / 2 - out, w / 2 + out), (-d / 2 - out, end), (high - thick * 0.6 - hang, top), cover, power=16)
        if state == "half":
            m.blob((-w / 2, w / 2), (end - 0.12, end + 0.12), (high, top + 0.08), cover, power=4)
    elif state == "rumpled":
        for _ in range(k.count(5, 11)):
            x, y = k.u(-w * 0.4, w * 0.4), k.u(-d * 0.45, d * 0.25)
            a, b = k.u(0.18, 0.5), k.u(0.18, 0.55)
            x0, x1 = max(x - a, -w / 2 - 0.05), min(x + a, w / 2 + 0.05)
            m.blob(
                (x0, x1),
                (y - b, y + b),
                (high - 0.08, high + k.u(0.04, 0.17)),
                cover,
                power=k.u(2, 3.5),
                yaw=k.u(-0.5, 0.5),
            )
        top = high + 0.1
    m.top((-w / 2 + 0.05, w / 2 - 0.05), (max(end, d * 0.16) + 0.04, d / 2 - 0.02), high)
    m.top((-w / 2 + 0.08, w / 2 - 0.08), (-d / 2 + 0.08, min(end, d * 0.14)), top)


def clothes(m: Model, k: Kit) -> None:
    """Build a heap of soft lumps."""
    size = k.u(0.2, 0.45)
    paint = k.fabric()
    for _ in range(k.count(2, 6)):
        x, y = k.u(-size, size) * 0.5, k.u(-size, size) * 0.4
        a, b = k.u(0.4, 1.0) * size * 0.6, k.u(0.4, 1.0) * size * 0.5
        cloth = paint if k.chance(0.6) else k.fabric()
        m.blob((x - a, x + a), (y - b, y + b), (0, k.u(0.03, 0.16)), cloth, power=k.u(1.8, 4), yaw=k.u(-1, 1))


def bag(m: Model, k: Kit) -> None:
    """Build a soft bag with a strap."""
    w, d, high = k.u(0.2, 0.5), k.u(0.1, 0.26), k.u(0.18, 0.42)
    cloth = k.fabric() if k.chance(0.5) else k.bright()
    m.blob((-w / 2, w / 2), (-d / 2, d / 2), (0, high), cloth, power=k.u(2.5, 6))
    if k.chance(0.7):
        arch = high + k.u(0.05, 0.2)
        m.rod((-w * 0.25, 0, high * 0.9), (-w * 0.12, 0, arch), 0.012, cloth)
        m.rod((w * 0.25, 0, high * 0.9), (w * 0.12, 0, arch), 0.012, cloth)
        m.rod((-w * 0.12, 0, arch), (w * 0.12, 0, arch), 0.012, cloth)


def box(m: Model, k: Kit) -> None:
    """Build a carton or a case, closed or with open flaps."""
    w, d, high = k.u(0.15, 0.6), k.u(0.15, 0.45), k.u(0.08, 0.5)
    card = k.paint((176, 138, 92), "plain", spread=16) if k.chance(0.6) else _any_material(k)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0, high), card)
    if k.chance(0.3):
        for side in (-1, 1):
            x = side * (w / 2 + 0.04)
            m.box((x - 0.06, x + 0.06), (-d / 2, d / 2), (high - 0.03, high - 0.02), card)
    else:
        m.top((-w / 2, w / 2), (-d / 2, d / 2), high)


def ottoman(m: Model, k: Kit) -> None:
    """Build an ottoman: round or square, padded."""
    w, d, high = k.u(0.38, 0.9), k.u(0.38, 0.7), k.u(0.33, 0.48)
    cloth = k.fabric()
    if k.chance(0.3):
        m.lathe(0, 0, (0, high), w / 2, cloth)
    else:
        m.blob((-w / 2, w / 2), (-d / 2, d / 2), (0, high), cloth, power=k.u(4, 12))
    m.top((-w * 0.3, w * 0.3), (-d * 0.3, d * 0.3), high)


def lamp(m: Model, k: Kit) -> None:
    """Build a foot, a stem and a shade of any profile."""
    high, r = k.u(0.28, 0.65), k.u(0.08, 0.2)
    body = k.choose((k.metal, k.wood, k.white, k.bright, k.dark))()
    m.lathe(0, 0, (0, 0.03), r * k.u(0.4, 0.8), body)
    if k.chance(0.4):
        m.blob((-r * 0.5, r * 0.5), (-r * 0.5, r * 0.5), (0.02, high * 0.6), body, power=2.2)
    m.lathe(0, 0, (0.02, high * 0.75), 0.014, body)
    shade = k.white() if k.chance(0.7) else k.fabric()
    m.lathe(0, 0, (high * k.u(0.5, 0.65), high), r, shade, ((0.4, -1), (1, -1), (k.u(0.4, 1.0), 1), (0.2, 1)))


def kitchen_base(m: Model, k: Kit, width: float) -> None:
    """Build a base cabinet of a width: a drawer above a door, drawers alone, or doors alone."""
    w, d, high = width, 0.58, 0.86
    m.box((-w / 2, w / 2), (-d / 2 + 0.06, d / 2), (0, 0.1), k.dark())
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0.1, high), k.kitchen)
    columns = 2 if w > 0.65 else 1
    style = k.choose(("both", "both", "doors", "drawers"))
    if style == "both":
        _drawers(m, k, (-w / 2, w / 2), -d / 2, (0.69, high - 0.01), columns, 1, k.kitchen)
        _drawers(m, k, (-w / 2, w / 2), -d / 2, (0.1, 0.68), columns, 1, k.kitchen)
    else:
        _drawers(m, k, (-w / 2, w / 2), -d / 2, (0.1, high - 0.01), columns, 3 if style == "drawers" else 1, k.kitchen)


def kitchen_wall_unit(m: Model, k: Kit, width: float, high: float) -> None:
    """Build a wall cabinet of a width; its origin is its bottom."""
    w, d = width, 0.34
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0, high), k.kitchen)
    _drawers(m, k, (-w / 2, w / 2), -d / 2, (0, high), max(1, round(w / 0.42)), 1, k.kitchen)
    m.top((-w / 2, w / 2), (-d / 2, d / 2), high)


PARAMETRIC: dict[str, Builder] = {
    "table": table,
    "dining table": dining_table,
    "coffee table": coffee_table,
    "end table": end_table,
    "cabinet": cabinet,
    "dresser": dresser,
    "nightstand": nightstand,
    "tv stand": tv_stand,
    "wardrobe": wardrobe,
    "bookshelf": bookshelf,
    "shelf": shelf,
    "desk": desk,
    "chair": chair,
    "couch": couch,
    "sofa chair": sofa_chair,
    "armchair": armchair,
    "bed": bed,
    "clothes": clothes,
    "bag": bag,
    "box": box,
    "ottoman": ottoman,
    "lamp": lamp,
}
"""Builder by class; the other classes are built as in plain rooms."""
