"""Kitchen appliances and tableware."""

from lg3d_core.synthetic.modelling import Kit, Model
from lg3d_core.synthetic.shapes import Paint


def _appliance(k: Kit) -> Paint:
    return k.white() if k.chance(0.55) else k.paint((160, 162, 166), spread=12)


def kitchen_sink(m: Model, k: Kit) -> None:
    """Build a steel basin with a high tap, for the hole in a worktop; its origin is the basin's floor."""
    steel = k.paint((172, 174, 178), spread=6)
    for side in (-1, 1):
        x = sorted((side * 0.27, side * 0.25))
        y = sorted((side * 0.22, side * 0.2))
        m.box((x[0], x[1]), (-0.22, 0.22), (0, 0.17), steel)
        m.box((-0.25, 0.25), (y[0], y[1]), (0, 0.17), steel)
    m.box((-0.25, 0.25), (-0.2, 0.2), (0, 0.02), steel)
    m.box((-0.02, 0.02), (0.16, 0.2), (0.1, 0.4), steel)
    m.box((-0.015, 0.015), (0.0, 0.18), (0.37, 0.4), steel)


def kitchen_counter(m: Model, k: Kit) -> None:
    """Build one module of worktop, at its own height."""
    m.box((-0.3, 0.3), (-0.31, 0.29), (0, 0.04), k.worktop)
    m.top((-0.3, 0.3), (-0.3, 0.28), 0.04)


def sink_counter(m: Model, k: Kit) -> None:
    """Build a module of worktop with a hole for the basin."""
    for x in ((-0.3, -0.271), (0.271, 0.3)):
        m.box(x, (-0.31, 0.29), (0, 0.04), k.worktop)
    for y in ((-0.31, -0.221), (0.221, 0.29)):
        m.box((-0.271, 0.271), y, (0, 0.04), k.worktop)


def stove(m: Model, k: Kit) -> None:
    """Build a range: oven door with a window, a bar handle, four dark plates and a panel with knobs."""
    body = _appliance(k)
    m.box((-0.3, 0.3), (-0.3, 0.3), (0.05, 0.9), body)
    m.box((-0.28, 0.28), (-0.24, 0.28), (0, 0.05), k.dark())
    m.box((-0.25, 0.25), (-0.32, -0.3), (0.2, 0.7), k.dark())
    m.box((-0.24, 0.24), (-0.35, -0.32), (0.73, 0.76), k.metal())
    for x in (-0.15, 0.15):
        for y in (-0.13, 0.12):
            m.lathe(x, y, (0.9, 0.915), 0.09, k.dark())
    m.box((-0.3, 0.3), (0.24, 0.3), (0.9, 1.06), body)
    for x in (-0.22, -0.1, 0.1, 0.22):
        m.disc((x, 0.225, 0.99), (0, -1, 0), 0.025, 0.03, k.dark())


def oven(m: Model, k: Kit) -> None:
    """Build a built-in oven in a tall cupboard: a black glass front with a bar."""
    body, dark = k.kitchen, k.dark()
    m.box((-0.3, 0.3), (-0.28, 0.3), (0, 1.6), body)
    m.box((-0.28, 0.28), (-0.31, -0.28), (0.75, 1.3), dark)
    m.box((-0.24, 0.24), (-0.35, -0.32), (1.2, 1.23), k.metal())
    m.box((-0.28, 0.28), (-0.315, -0.28), (1.3, 1.4), k.metal())


def refrigerator(m: Model, k: Kit) -> None:
    """Build a refrigerator: tall, two doors one above the other, long handles."""
    w, d, high = k.u(0.62, 0.76), k.u(0.62, 0.7), k.u(1.65, 1.85)
    body = _appliance(k)
    m.box((-w / 2, w / 2), (-d / 2 + 0.05, d / 2), (0.03, high), body)
    split = high * k.u(0.62, 0.7)
    for low, top in ((0.06, split - 0.01), (split + 0.01, high)):
        m.box((-w / 2, w / 2), (-d / 2, -d / 2 + 0.05), (low, top), body)
    for low, top in ((split - 0.5, split - 0.06), (split + 0.06, split + 0.34)):
        m.box((-w / 2 + 0.05, -w / 2 + 0.08), (-d / 2 - 0.045, -d / 2 - 0.0), (low, top), k.metal())
    m.box((-w / 2, w / 2), (-d / 2 + 0.07, d / 2), (0, 0.03), k.dark())
    m.top((-w / 2, w / 2), (-d / 2 + 0.05, d / 2), high)


def mini_fridge(m: Model, k: Kit) -> None:
    """Build a mini fridge: knee-high, one door."""
    w, high = k.u(0.44, 0.5), k.u(0.5, 0.85)
    body = k.choose((k.dark(), k.white()))
    m.box((-w / 2, w / 2), (-w / 2 + 0.04, w / 2), (0, high), body)
    m.box((-w / 2, w / 2), (-w / 2, -w / 2 + 0.035), (0.03, high), body)
    m.box((w / 2 - 0.06, w / 2 - 0.04), (-w / 2 - 0.03, -w / 2), (high * 0.5, high * 0.8), k.metal())
    m.top((-w / 2, w / 2), (-w / 2 + 0.04, w / 2), high)


def dishwasher(m: Model, k: Kit) -> None:
    """Build a worktop-high front with a panel."""
    body = _appliance(k)
    m.box((-0.3, 0.3), (-0.28, 0.28), (0.1, 0.86), body)
    m.box((-0.3, 0.3), (-0.2, 0.28), (0, 0.1), k.dark())
    m.box((-0.29, 0.29), (-0.3, -0.28), (0.12, 0.7), body)
    m.box((-0.29, 0.29), (-0.3, -0.28), (0.72, 0.85), k.dark())
    m.box((-0.22, 0.22), (-0.33, -0.3), (0.66, 0.69), k.metal())


def range_hood(m: Model, k: Kit) -> None:
    """Build a flared hood with a chimney; its origin is its bottom."""
    metal = k.paint((158, 160, 164), spread=8)
    m.box((-0.3, 0.3), (-0.24, 0.24), (0, 0.06), metal)
    m.box((-0.22, 0.22), (-0.12, 0.24), (0.06, 0.16), metal)
    m.box((-0.13, 0.13), (-0.03, 0.24), (0.16, 0.62), metal)


def microwave(m: Model, k: Kit) -> None:
    """Build a box with a dark window at the left and keys at the right."""
    w, d, high = k.u(0.46, 0.54), k.u(0.32, 0.38), k.u(0.26, 0.31)
    body = k.choose((k.white(), k.dark(), k.grey()))
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0.01, high), body)
    m.legs(w, d, (0, 0.01), 0.03, k.dark())
    m.box((-w / 2 + 0.02, w * 0.22), (-d / 2 - 0.012, -d / 2), (0.04, high - 0.03), k.dark())
    m.box((w * 0.26, w / 2 - 0.01), (-d / 2 - 0.008, -d / 2), (0.04, high - 0.03), k.grey("keys"))


def toaster(m: Model, k: Kit) -> None:
    """Build a rounded box with two dark slots and a lever."""
    body = k.choose((k.metal(), k.bright()))
    m.blob((-0.14, 0.14), (-0.09, 0.09), (0, 0.19), body, power=7)
    for y in (-0.035, 0.035):
        m.box((-0.1, 0.1), (y - 0.014, y + 0.014), (0.187, 0.195), k.dark())
    m.box((0.14, 0.165), (-0.02, 0.02), (0.11, 0.13), k.dark())


def toaster_oven(m: Model, k: Kit) -> None:
    """Build a low box with a glass door and knobs in a column."""
    metal = k.metal()
    m.box((-0.21, 0.21), (-0.15, 0.15), (0.02, 0.24), metal)
    m.legs(0.4, 0.28, (0, 0.02), 0.03, k.dark())
    m.box((-0.2, 0.1), (-0.162, -0.15), (0.04, 0.22), k.dark())
    m.box((-0.17, 0.07), (-0.185, -0.165), (0.19, 0.21), metal)
    for z in (0.07, 0.13, 0.19):
        m.disc((0.155, -0.165, z), (0, -1, 0), 0.022, 0.03, k.dark())


def coffee_maker(m: Model, k: Kit) -> None:
    """Build a foot, a column, a head, and a glass jug between."""
    dark = k.dark()
    m.box((-0.1, 0.1), (-0.12, 0.12), (0, 0.03), dark)
    m.box((-0.1, 0.1), (0.03, 0.12), (0.03, 0.33), dark)
    m.box((-0.1, 0.1), (-0.12, 0.03), (0.23, 0.33), dark)
    m.lathe(
        0,
        -0.045,
        (0.035, 0.19),
        0.07,
        k.paint((84, 58, 44), spread=10),
        ((0, -1), (0.9, -1), (1, -0.2), (0.7, 1), (0, 1)),
    )


def coffee_kettle(m: Model, k: Kit) -> None:
    """Build a belly with a spout, a handle and a knob."""
    body = k.choose((k.metal(), k.bright()))
    m.lathe(0, 0, (0, 0.17), 0.09, body, ((0, -1), (1, -1), (1, -0.4), (0.5, 0.9), (0.15, 1), (0, 1)))
    m.rod((0.07, 0, 0.07), (0.15, 0, 0.16), 0.016, body)
    m.rod((-0.06, 0, 0.15), (-0.13, 0, 0.13), 0.011, k.dark())
    m.rod((-0.13, 0, 0.13), (-0.085, 0, 0.04), 0.011, k.dark())


def dish_rack(m: Model, k: Kit) -> None:
    """Build wires with plates standing in them."""
    metal = k.paint((196, 198, 200), spread=6)
    m.legs(0.42, 0.3, (0, 0.12), 0.012, metal)
    m.box((-0.21, 0.21), (-0.15, 0.15), (0.02, 0.03), metal)
    for y in (-0.15, 0.14):
        m.box((-0.21, 0.21), (y, y + 0.01), (0.1, 0.115), metal)
    for n in range(4):
        m.disc((-0.14 + n * 0.06, 0.0, 0.145), (1, 0, 0.15), 0.11, 0.015, k.white("glaze"))


def plate(m: Model, k: Kit) -> None:
    """Build a shallow round dish."""
    m.lathe(
        0,
        0,
        (0, 0.025),
        k.u(0.11, 0.14),
        k.white("glaze"),
        ((0, -1), (0.6, -1), (1, 1), (0.95, 1), (0.6, -0.4), (0, -0.4)),
    )


def bowl(m: Model, k: Kit) -> None:
    """Build a deep round dish."""
    color = k.bright("glaze")
    m.lathe(
        0,
        0,
        (0, k.u(0.07, 0.1)),
        k.u(0.08, 0.13),
        color,
        ((0, -1), (0.5, -1), (0.9, 0), (1, 1), (0.92, 1), (0.45, -0.75), (0, -0.75)),
    )


def cup(m: Model, k: Kit) -> None:
    """Build a mug with a handle."""
    color = k.bright("glaze") if k.chance(0.6) else k.white("glaze")
    m.lathe(0, 0, (0, 0.1), 0.042, color, ((0, -1), (1, -1), (1, 1), (0.88, 1), (0.88, -0.8), (0, -0.8)))
    m.box((0.042, 0.07), (-0.008, 0.008), (0.02, 0.08), color)


def bottle(m: Model, k: Kit) -> None:
    """Build a bottle: dark glass with a neck and a label."""
    glass = k.paint(k.choose(((40, 80, 48), (92, 52, 28), (150, 40, 44))), spread=10)
    high, r = k.u(0.26, 0.32), k.u(0.036, 0.042)
    m.lathe(0, 0, (0, high), r, glass, ((0, -1), (1, -1), (1, 0.2), (0.4, 0.5), (0.36, 1), (0, 1)))
    m.lathe(0, 0, (high * 0.2, high * 0.48), r + 0.003, k.white("print"), ((1, -1), (1, 1)))


def water_bottle(m: Model, k: Kit) -> None:
    """Build a water bottle: clear blue plastic with a cap."""
    m.lathe(
        0,
        0,
        (0, 0.22),
        0.036,
        k.paint((150, 196, 220), spread=10),
        ((0, -1), (1, -1), (0.92, 0), (1, 0.5), (0.45, 1), (0, 1)),
    )
    m.lathe(0, 0, (0.22, 0.24), 0.018, k.choose((k.white(), k.bright())))


def water_pitcher(m: Model, k: Kit) -> None:
    """Build a wide jug with a large handle."""
    color = k.paint((168, 198, 210), spread=12)
    m.lathe(0, 0, (0, 0.25), 0.075, color, ((0, -1), (0.8, -1), (0.9, 0), (1, 1), (0.9, 1), (0.75, -0.9), (0, -0.9)))
    m.box((0.07, 0.13), (-0.012, 0.012), (0.19, 0.215), color)
    m.box((0.11, 0.13), (-0.012, 0.012), (0.06, 0.2), color)


def paper_towel_roll(m: Model, k: Kit) -> None:
    """Build a tall white roll on a peg."""
    m.lathe(0, 0, (0, 0.015), 0.08, k.wood())
    m.lathe(0, 0, (0.015, 0.28), 0.062, k.white("fabric"))
    m.lathe(0, 0, (0.28, 0.32), 0.012, k.wood())


def tray(m: Model, k: Kit) -> None:
    """Build a flat board with a raised rim."""
    paint = k.bright() if k.chance(0.5) else k.wood()
    m.box((-0.21, 0.21), (-0.15, 0.15), (0, 0.012), paint)
    for side in (-1, 1):
        m.box((side * 0.21 - 0.008, side * 0.21 + 0.008), (-0.15, 0.15), (0, 0.035), paint)
        m.box((-0.21, 0.21), (side * 0.15 - 0.008, side * 0.15 + 0.008), (0, 0.035), paint)


def water_cooler(m: Model, k: Kit) -> None:
    """Build a white column with taps and a blue bottle on its head."""
    white = k.white()
    m.box((-0.16, 0.16), (-0.16, 0.16), (0, 0.98), white)
    m.box((-0.1, 0.1), (-0.175, -0.16), (0.68, 0.84), k.dark())
    for x, color in ((-0.05, (40, 90, 190)), (0.05, (200, 50, 44))):
        m.box((x - 0.015, x + 0.015), (-0.2, -0.16), (0.78, 0.81), k.paint(color))
    m.lathe(
        0,
        0,
        (0.98, 1.36),
        0.13,
        k.paint((110, 166, 214), spread=8),
        ((0.35, -1), (1, -0.7), (1, 0.9), (0.8, 1), (0, 1)),
    )


def case_of_water_bottles(m: Model, k: Kit) -> None:
    """Build shrink-wrapped bottles: a low block with a grid of caps."""
    m.box((-0.2, 0.2), (-0.13, 0.13), (0, 0.19), k.paint((164, 200, 222), "weave", spread=8))
    for x in (-0.15, -0.05, 0.05, 0.15):
        for y in (-0.085, 0.0, 0.085):
            m.lathe(x, y, (0.19, 0.22), 0.018, k.white())


KITCHEN = {
    "kitchen counter": kitchen_counter,
    "stove": stove,
    "oven": oven,
    "refrigerator": refrigerator,
    "mini fridge": mini_fridge,
    "dishwasher": dishwasher,
    "range hood": range_hood,
    "microwave": microwave,
    "toaster": toaster,
    "toaster oven": toaster_oven,
    "coffee maker": coffee_maker,
    "coffee kettle": coffee_kettle,
    "dish rack": dish_rack,
    "plate": plate,
    "bowl": bowl,
    "cup": cup,
    "bottle": bottle,
    "water bottle": water_bottle,
    "water pitcher": water_pitcher,
    "paper towel roll": paper_towel_roll,
    "tray": tray,
    "water cooler": water_cooler,
    "case of water bottles": case_of_water_bottles,
}
