"""Books, bags, clothes, plants, tools and toys."""

import numpy as np

from lg3d_core.synthetic.modelling import Kit, Model


def book(m: Model, k: Kit) -> None:
    """Build one to three closed books in a pile."""
    z = 0.0
    for _ in range(k.count(1, 3)):
        w, d, high = k.u(0.15, 0.22), k.u(0.21, 0.28), k.u(0.02, 0.045)
        m.box((-w / 2, w / 2), (-d / 2, d / 2), (z, z + high), k.bright(), yaw=k.u(-0.3, 0.3))
        z += high


def books(m: Model, k: Kit) -> None:
    """Build a row of books on a shelf, with different spines."""
    w, d, high = k.u(0.25, 0.5), k.u(0.17, 0.21), k.u(0.22, 0.27)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0, high), k.bright("spines"))


def paper(m: Model, k: Kit) -> None:
    """Build a few white sheets."""
    z = 0.0
    for _ in range(k.count(1, 2)):
        m.box((-0.105, 0.105), (-0.148, 0.148), (z, z + 0.006), k.white("text"), yaw=k.u(-0.5, 0.5))
        z += 0.006


def backpack(m: Model, k: Kit) -> None:
    """Build a soft upright body, a front pocket and straps."""
    color = k.choose((k.bright("fabric"), k.dark("fabric")))
    m.blob((-0.16, 0.16), (-0.09, 0.1), (0, 0.44), color, power=4)
    m.blob((-0.12, 0.12), (-0.15, -0.06), (0.03, 0.24), color, power=4)
    for x in (-0.09, 0.09):
        m.rod((x, 0.1, 0.08), (x, 0.13, 0.36), 0.018, k.dark())
    m.box((-0.03, 0.03), (0.0, 0.03), (0.43, 0.47), k.dark())


def bag(m: Model, k: Kit) -> None:
    """Build a soft bag with two loops."""
    color = k.bright("fabric")
    m.blob((-0.19, 0.19), (-0.09, 0.09), (0, 0.28), color, power=3.5)
    for y in (-0.06, 0.06):
        m.rod((-0.1, y, 0.25), (-0.05, y * 0.4, 0.4), 0.011, color)
        m.rod((-0.05, y * 0.4, 0.4), (0.05, y * 0.4, 0.4), 0.011, color)
        m.rod((0.05, y * 0.4, 0.4), (0.1, y, 0.25), 0.011, color)


def paper_bag(m: Model, k: Kit) -> None:
    """Build an upright open bag of brown paper."""
    paint = k.paint((190, 152, 104), spread=8)
    m.box((-0.15, 0.15), (-0.08, 0.08), (0, 0.01), paint)
    for side in (-1, 1):
        m.box((-0.15, 0.15), (side * 0.08 - 0.005, side * 0.08 + 0.005), (0, 0.36), paint)
        m.box((side * 0.15 - 0.005, side * 0.15 + 0.005), (-0.08, 0.08), (0, 0.36), paint)


def suitcase(m: Model, k: Kit) -> None:
    """Build a ribbed hard shell on wheels with a handle."""
    color = k.choose((k.bright("weave"), k.dark("weave")))
    w, d, high = k.u(0.4, 0.48), k.u(0.22, 0.28), k.u(0.58, 0.72)
    m.blob((-w / 2, w / 2), (-d / 2, d / 2), (0.05, high), color, power=10)
    for x in (-w / 2 + 0.06, w / 2 - 0.06):
        m.box((x - 0.02, x + 0.02), (-d / 2 + 0.03, d / 2 - 0.03), (0, 0.06), k.dark())
        m.box((x * 0.5 - 0.01, x * 0.5 + 0.01), (d / 2 - 0.07, d / 2 - 0.05), (high, high + 0.28), k.metal())
    m.box((-w / 4, w / 4), (d / 2 - 0.075, d / 2 - 0.045), (high + 0.28, high + 0.31), k.dark())


def shoe(m: Model, k: Kit) -> None:
    """Build a pair of shoes, side by side."""
    color = k.choose((k.dark("fabric"), k.bright("fabric"), k.white("fabric")))
    for x in (-0.06, 0.06):
        m.blob((x - 0.048, x + 0.048), (-0.14, 0.14), (0, 0.06), color, power=3)
        m.blob((x - 0.042, x + 0.042), (0.0, 0.14), (0.03, 0.12), color, power=3)


def clothes(m: Model, k: Kit) -> None:
    """Build a crumpled heap of clothes."""
    for _ in range(k.count(2, 4)):
        x, y, r = k.u(-0.15, 0.15), k.u(-0.12, 0.12), k.u(0.1, 0.2)
        m.blob((x - r, x + r), (y - r, y + r), (0, k.u(0.06, 0.16)), k.bright("fabric"), power=2.4, yaw=k.u(0, 3))


def hanging_clothes(m: Model, k: Kit) -> None:
    """Build garments close together on a rail; its origin is their lowest hem."""
    n = k.count(5, 9)
    for i in range(n):
        x, high = -0.07 * n / 2 + 0.07 * i, k.u(0.75, 1.05)
        m.box((x, x + 0.05), (-0.2, 0.2), (1.05 - high, 1.05), k.bright("fabric") if k.chance(0.6) else k.fabric())


def jacket(m: Model, k: Kit) -> None:
    """Build a jacket that hangs on a wall: body and two sleeves."""
    color = k.fabric()
    m.blob((-0.21, 0.21), (-0.06, 0.06), (0, 0.7), color, power=5)
    for side in (-1, 1):
        x = side * 0.25
        m.blob((x - 0.06, x + 0.06), (-0.06, 0.05), (0.1, 0.66), color, power=4)


def hat(m: Model, k: Kit) -> None:
    """Build a crown with a brim."""
    m.lathe(0, 0, (0, 0.12), 0.15, k.fabric(), ((0, -1), (1, -1), (1, -0.8), (0.62, -0.7), (0.55, 1), (0, 1)))


def plant(m: Model, k: Kit) -> None:
    """Build a large plant in a floor pot."""
    _plant(m, k, k.u(0.15, 0.2), k.u(0.28, 0.36), k.u(0.9, 1.4), leaves=14)


def potted_plant(m: Model, k: Kit) -> None:
    """Build a small plant in a pot for a table or a sill."""
    _plant(m, k, k.u(0.06, 0.09), k.u(0.1, 0.14), k.u(0.26, 0.4), leaves=9)


def _plant(m: Model, k: Kit, r: float, pot: float, high: float, *, leaves: int) -> None:
    clay = k.choose((k.paint((170, 94, 62), spread=10), k.white("glaze"), k.bright("glaze")))
    m.lathe(0, 0, (0, pot), r, clay, ((0, -1), (0.7, -1), (1, 1), (0.88, 1), (0.85, 0.7), (0, 0.7)))
    m.box((-r * 0.1, r * 0.1), (-r * 0.1, r * 0.1), (pot * 0.8, pot + (high - pot) * 0.6), k.paint((86, 66, 40)))
    green = k.paint((58, 112, 48), "leaves", spread=16)
    size = (high - pot) * 0.3
    for n in range(leaves):
        a, z = n * 2.4, pot + (high - pot) * k.u(0.3, 0.85)
        x, y = float(np.cos(a)) * size * 0.75, float(np.sin(a)) * size * 0.75
        m.blob(
            (x - size * 0.6, x + size * 0.6),
            (y - size * 0.3, y + size * 0.3),
            (z, z + size * 0.5),
            green,
            power=2,
            lean=k.u(-0.6, 0.6),
            yaw=a,
        )


def guitar(m: Model, k: Kit) -> None:
    """Build a guitar that leans upright: body, waist, neck and head."""
    wood = k.paint((190, 120, 56), "wood", spread=14)
    m.blob((-0.19, 0.19), (-0.05, 0.05), (0, 0.4), wood, power=2.6)
    m.blob((-0.14, 0.14), (-0.05, 0.05), (0.3, 0.54), wood, power=2.6)
    m.disc((0, -0.045, 0.34), (0, -1, 0), 0.05, 0.02, k.dark())
    m.box((-0.028, 0.028), (-0.025, 0.025), (0.5, 0.92), k.paint((70, 44, 30), "wood"))
    m.box((-0.04, 0.04), (-0.02, 0.02), (0.92, 1.04), k.paint((70, 44, 30), "wood"))


def piano(m: Model, k: Kit) -> None:
    """Build an upright piano: tall body, a keyboard shelf with white and dark keys, pedals."""
    dark = k.paint((52, 32, 26), "wood", spread=10)
    m.box((-0.74, 0.74), (-0.02, 0.3), (0, 1.18), dark)
    m.box((-0.74, 0.74), (-0.3, -0.02), (0.58, 0.7), dark)
    m.box((-0.66, 0.66), (-0.28, -0.1), (0.7, 0.72), k.white("piano"))
    for x in (-0.7, 0.7):
        m.box((x - 0.04, x + 0.04), (-0.3, -0.22), (0, 0.58), dark)
    m.box((-0.76, 0.76), (-0.04, 0.32), (1.18, 1.22), dark)
    m.top((-0.7, 0.7), (0.0, 0.28), 1.22)


def keyboard_piano(m: Model, k: Kit) -> None:
    """Build a long flat keyboard on crossed legs."""
    dark = k.dark()
    for y in (-0.1, 0.1):
        m.rod((-0.4, y, 0), (0.4, y, 0.68), 0.015, dark)
        m.rod((0.4, y, 0), (-0.4, y, 0.68), 0.015, dark)
    m.box((-0.62, 0.62), (-0.15, 0.15), (0.68, 0.78), dark)
    m.box((-0.58, 0.58), (-0.14, 0.0), (0.78, 0.79), k.white("piano"))


def ball(m: Model, k: Kit) -> None:
    """Build a ball on the floor."""
    r = k.choose((0.11, 0.12, 0.3))
    m.blob((-r, r), (-r, r), (0, 2 * r), k.bright(), power=2)


def dumbbell(m: Model, k: Kit) -> None:
    """Build two weights and a bar."""
    dark = k.dark()
    for x in (-0.11, 0.11):
        m.disc((x, 0, 0.065), (1, 0, 0), 0.065, 0.07, dark)
    m.box((-0.1, 0.1), (-0.016, 0.016), (0.05, 0.08), k.metal())


def bicycle(m: Model, k: Kit) -> None:
    """Build two wheels, a frame, a saddle and handlebars, along x."""
    frame, dark = k.bright(), k.dark()
    for x in (-0.5, 0.5):
        for n in range(12):
            a, b = n * np.pi / 6, (n + 1) * np.pi / 6
            start = (x + 0.32 * float(np.cos(a)), 0, 0.34 + 0.32 * float(np.sin(a)))
            end = (x + 0.32 * float(np.cos(b)), 0, 0.34 + 0.32 * float(np.sin(b)))
            m.rod(start, end, 0.02, dark)
    for start, end in (
        ((-0.5, 0, 0.34), (-0.05, 0, 0.3)),
        ((-0.05, 0, 0.3), (-0.18, 0, 0.85)),
        ((-0.5, 0, 0.34), (-0.15, 0, 0.74)),
        ((-0.15, 0, 0.74), (0.36, 0, 0.78)),
        ((-0.05, 0, 0.3), (0.36, 0, 0.74)),
        ((0.5, 0, 0.34), (0.34, 0, 0.95)),
    ):
        m.rod(start, end, 0.018, frame)
    m.rod((0.34, -0.26, 0.97), (0.34, 0.26, 0.97), 0.015, dark)
    m.blob((-0.31, -0.08), (-0.07, 0.07), (0.84, 0.92), dark, power=3)


def ironing_board(m: Model, k: Kit) -> None:
    """Build a long padded board on crossed legs."""
    metal = k.metal()
    m.blob((-0.6, 0.6), (-0.16, 0.16), (0.84, 0.88), k.paint((150, 176, 206), "weave", spread=14), power=4)
    for y in (-0.1, 0.1):
        m.rod((-0.42, y, 0), (0.3, y * 0.5, 0.84), 0.013, metal)
        m.rod((0.42, y, 0), (-0.3, y * 0.5, 0.84), 0.013, metal)


def vacuum_cleaner(m: Model, k: Kit) -> None:
    """Build an upright cleaner: a wide head, a body and a handle."""
    color = k.bright()
    m.box((-0.16, 0.16), (-0.22, 0.08), (0, 0.1), k.dark())
    m.blob((-0.11, 0.11), (-0.02, 0.16), (0.08, 0.68), color, power=4, lean=0.12)
    m.rod((0, 0.1, 0.62), (0, 0.22, 1.1), 0.018, k.dark())


def broom(m: Model, k: Kit) -> None:
    """Build a stick with bristles, upright."""
    m.box((-0.015, 0.015), (-0.015, 0.015), (0.2, 1.32), k.paint((206, 176, 120), "wood"))
    m.box((-0.14, 0.14), (-0.03, 0.03), (0, 0.2), k.paint((214, 186, 80), "fabric", spread=14))


def dustpan(m: Model, k: Kit) -> None:
    """Build a shallow pan with a handle on the floor."""
    color = k.bright()
    m.box((-0.13, 0.13), (-0.12, 0.12), (0, 0.015), color)
    m.box((-0.13, 0.13), (0.1, 0.12), (0.015, 0.06), color)
    for x in (-0.125, 0.125):
        m.box((x - 0.006, x + 0.006), (-0.1, 0.12), (0.015, 0.05), color)
    m.box((-0.02, 0.02), (0.12, 0.3), (0.02, 0.05), color)


def ladder(m: Model, k: Kit) -> None:
    """Build a step ladder of metal, folded out."""
    metal, high = k.paint((186, 188, 190), spread=6), k.u(1.2, 1.6)
    for x in (-0.22, 0.22):
        m.rod((x * 1.15, -0.32, 0), (x * 0.85, 0, high), 0.02, metal)
        m.rod((x * 1.1, 0.36, 0), (x * 0.85, 0.02, high), 0.016, metal)
    steps = int(high / 0.27)
    for n in range(1, steps + 1):
        z = n * high / (steps + 1)
        y = -0.32 * (1 - z / high)
        m.box((-0.2, 0.2), (y - 0.04, y + 0.04), (z - 0.012, z + 0.012), metal)
    m.box((-0.22, 0.22), (-0.06, 0.08), (high, high + 0.03), k.bright())


def laundry_detergent(m: Model, k: Kit) -> None:
    """Build a fat bright bottle with a cap and a handle."""
    m.blob((-0.1, 0.1), (-0.06, 0.06), (0, 0.22), k.bright(), power=5)
    m.lathe(-0.03, 0, (0.2, 0.27), 0.035, k.bright())


def tissue_box(m: Model, k: Kit) -> None:
    """Build a patterned box with a tuft of tissue."""
    m.box((-0.12, 0.12), (-0.06, 0.06), (0, 0.09), k.bright("print"))
    m.blob((-0.04, 0.04), (-0.02, 0.02), (0.08, 0.15), k.white(), power=2)


def candle(m: Model, k: Kit) -> None:
    """Build a stout candle."""
    m.lathe(0, 0, (0, k.u(0.1, 0.16)), 0.04, k.paint((236, 222, 190), spread=10))


def person(m: Model, k: Kit) -> None:
    """Build a standing person: legs, trunk, arms and head."""
    skin, shirt, trousers = k.paint((206, 160, 130), spread=22), k.bright("fabric"), k.fabric()
    for x in (-0.09, 0.09):
        m.blob((x - 0.075, x + 0.075), (-0.08, 0.08), (0.06, 0.86), trousers, power=5)
        m.blob((x - 0.05, x + 0.05), (-0.18, 0.08), (0, 0.08), k.dark(), power=4)
    m.blob((-0.2, 0.2), (-0.12, 0.12), (0.82, 1.45), shirt, power=3.5)
    for side in (-1, 1):
        x = side * 0.25
        m.blob((x - 0.05, x + 0.05), (-0.06, 0.06), (0.8, 1.42), shirt, power=4)
    m.blob((-0.09, 0.09), (-0.1, 0.1), (1.43, 1.72), skin, power=2.3)
    m.blob((-0.095, 0.095), (-0.07, 0.11), (1.56, 1.75), k.dark("fabric"), power=2.3)


def object_(m: Model, k: Kit) -> None:
    """Build an unidentifiable object of two irregular pieces."""
    w = k.u(0.1, 0.25)
    m.blob((-w / 2, w / 2), (-w * 0.4, w * 0.4), (0, k.u(0.08, 0.24)), k.bright(), power=k.u(2, 8), yaw=k.u(0, 1))
    m.box((-w * 0.2, w * 0.5), (-w * 0.3, w * 0.2), (0, k.u(0.05, 0.15)), k.grey(), yaw=k.u(0, 1))


def decoration(m: Model, k: Kit) -> None:
    """Build a turned vase or figure with a glaze."""
    high = k.u(0.18, 0.34)
    m.lathe(
        0,
        0,
        (0, high),
        high * 0.3,
        k.bright("glaze"),
        ((0, -1), (0.6, -1), (1, -0.2), (0.4, 0.6), (0.6, 1), (0.4, 1), (0, 0.7)),
    )


def globe(m: Model, k: Kit) -> None:
    """Build a terrestrial globe on a foot; its label lies outside the 200 categories."""
    m.lathe(0, 0, (0, 0.03), 0.09, k.wood())
    m.box((-0.01, 0.01), (-0.01, 0.01), (0.03, 0.08), k.wood())
    m.blob((-0.13, 0.13), (-0.13, 0.13), (0.07, 0.33), k.paint((60, 110, 170), "print", spread=8), power=2)


def rug(m: Model, k: Kit) -> None:
    """Build a large flat rug; its label lies outside the 200 categories."""
    w, d = k.u(1.3, 1.9), k.u(0.9, 1.3)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0, 0.005), k.bright("weave"))


def easel(m: Model, k: Kit) -> None:
    """Build three legs and a canvas; its label lies outside the 200 categories."""
    wood = k.wood()
    for x in (-0.3, 0.3):
        m.rod((x, -0.2, 0), (x * 0.2, 0, 1.6), 0.018, wood)
    m.rod((0, 0.35, 0), (0, 0.0, 1.55), 0.018, wood)
    m.box((-0.35, 0.35), (-0.16, -0.13), (0.75, 1.35), k.white("print"), lean=0.12)


BELONGINGS = {
    "book": book,
    "paper": paper,
    "backpack": backpack,
    "bag": bag,
    "paper bag": paper_bag,
    "suitcase": suitcase,
    "shoe": shoe,
    "clothes": clothes,
    "jacket": jacket,
    "hat": hat,
    "plant": plant,
    "potted plant": potted_plant,
    "guitar": guitar,
    "piano": piano,
    "keyboard piano": keyboard_piano,
    "ball": ball,
    "dumbbell": dumbbell,
    "bicycle": bicycle,
    "ironing board": ironing_board,
    "vacuum cleaner": vacuum_cleaner,
    "broom": broom,
    "dustpan": dustpan,
    "ladder": ladder,
    "laundry detergent": laundry_detergent,
    "tissue box": tissue_box,
    "candle": candle,
    "person": person,
    "object": object_,
    "decoration": decoration,
    "globe": globe,
    "rug": rug,
    "easel": easel,
}
