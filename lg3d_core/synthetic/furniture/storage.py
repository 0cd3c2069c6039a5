"""Storage: carcasses with doors or drawers, open shelves, and portable boxes."""

from lg3d_core.synthetic.modelling import Kit, Model
from lg3d_core.synthetic.shapes import Paint


def _carcass(m: Model, w: float, d: float, high: float, paint: Paint, *, plinth: float = 0.06) -> None:
    m.box((-w / 2 + 0.02, w / 2 - 0.02), (-d / 2 + 0.05, d / 2), (0, plinth), paint)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (plinth, high), paint)
    m.top((-w / 2, w / 2), (-d / 2, d / 2), high)


def _fronts(
    m: Model,
    x: tuple[float, float],
    y: float,
    z: tuple[float, float],
    columns: int,
    rows: int,
    paint: Paint,
    handle: Paint,
    *,
    upright: bool,
) -> None:
    """Add doors or drawers in front of the plane `y`: protruding boards, each with a handle."""
    wide, tall = (x[1] - x[0]) / columns, (z[1] - z[0]) / rows
    for c in range(columns):
        for r in range(rows):
            x0, z0 = x[0] + c * wide, z[0] + r * tall
            m.box((x0 + 0.008, x0 + wide - 0.008), (y - 0.02, y), (z0 + 0.008, z0 + tall - 0.008), paint)
            if upright:
                hx = x0 + (wide - 0.05 if c % 2 == 0 else 0.05)
                hz = z0 + tall * 0.5
                m.box((hx - 0.011, hx + 0.011), (y - 0.045, y - 0.02), (hz - 0.07, hz + 0.07), handle)
            else:
                hx, hz = x0 + wide / 2, z0 + tall * 0.6
                m.box((hx - 0.07, hx + 0.07), (y - 0.045, y - 0.02), (hz - 0.011, hz + 0.011), handle)


def cabinet(m: Model, k: Kit) -> None:
    """Build a cabinet: half as high as a person, two doors."""
    w, d, high = k.u(0.7, 1.1), k.u(0.38, 0.5), k.u(0.8, 1.25)
    paint = k.wood() if k.chance(0.6) else k.grey()
    _carcass(m, w, d, high, paint)
    _fronts(m, (-w / 2, w / 2), -d / 2, (0.06, high), 2, 1, paint, k.metal(), upright=True)


def kitchen_cabinet(m: Model, k: Kit) -> None:
    """Build a base unit below a worktop: a drawer above a door."""
    w, d = 0.6, 0.58
    paint = k.kitchen
    m.box((-w / 2, w / 2), (-d / 2 + 0.06, d / 2), (0, 0.09), k.dark())
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0.09, 0.86), paint)
    _fronts(m, (-w / 2, w / 2), -d / 2, (0.68, 0.85), 1, 1, paint, k.metal(), upright=False)
    _fronts(m, (-w / 2, w / 2), -d / 2, (0.1, 0.67), 1, 1, paint, k.metal(), upright=True)


def wall_cabinet(m: Model, k: Kit) -> None:
    """Build a kitchen cabinet that hangs on the wall; its origin is its bottom."""
    w, d, high = 0.6, 0.34, 0.68
    paint = k.kitchen
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0, high), paint)
    _fronts(m, (-w / 2, w / 2), -d / 2, (0, high), max(1, round(w / 0.4)), 1, paint, k.metal(), upright=True)


def bathroom_cabinet(m: Model, k: Kit) -> None:
    """Build a small white cabinet on the bathroom's wall; its origin is its bottom."""
    w, d, high = k.u(0.4, 0.6), k.u(0.14, 0.2), k.u(0.5, 0.7)
    paint = k.white()
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0, high), paint)
    _fronts(m, (-w / 2, w / 2), -d / 2, (0, high), 1, 1, paint, k.metal(), upright=True)


def file_cabinet(m: Model, k: Kit) -> None:
    """Build a file cabinet: sheet metal, narrow and deep, two to four drawers with label holders."""
    drawers = k.count(2, 4)
    w, d, high = k.u(0.38, 0.46), k.u(0.5, 0.64), 0.04 + 0.31 * drawers
    paint = k.paint(k.choose(((150, 152, 150), (92, 94, 98), (190, 182, 160))), spread=8)
    _carcass(m, w, d, high, paint, plinth=0.04)
    for n in range(drawers):
        z = 0.05 + n * 0.31
        m.box((-w / 2 + 0.015, w / 2 - 0.015), (-d / 2 - 0.018, -d / 2), (z, z + 0.29), paint)
        m.box((-0.07, 0.07), (-d / 2 - 0.04, -d / 2 - 0.018), (z + 0.2, z + 0.23), k.metal())
        m.box((-0.04, 0.04), (-d / 2 - 0.024, -d / 2 - 0.018), (z + 0.1, z + 0.15), k.white())


def dresser(m: Model, k: Kit) -> None:
    """Build a wide chest of drawers in two columns."""
    w, d, high = k.u(1.1, 1.5), k.u(0.44, 0.52), k.u(0.78, 0.95)
    paint = k.wood() if k.chance(0.8) else k.white()
    _carcass(m, w, d, high, paint)
    _fronts(m, (-w / 2, w / 2), -d / 2, (0.07, high - 0.03), 2, 3, paint, k.metal(), upright=False)


def wardrobe(m: Model, k: Kit) -> None:
    """Build a wardrobe: as high as a door, two or three doors."""
    doors = k.count(2, 3)
    w, d, high = 0.48 * doors + k.u(0, 0.1), k.u(0.54, 0.62), k.u(1.85, 2.1)
    paint = k.wood() if k.chance(0.7) else k.white()
    _carcass(m, w, d, high, paint)
    m.box((-w / 2 - 0.02, w / 2 + 0.02), (-d / 2 - 0.03, d / 2), (high, high + 0.04), paint)
    _fronts(m, (-w / 2, w / 2), -d / 2, (0.08, high), doors, 1, paint, k.metal(), upright=True)


def closet(m: Model, k: Kit) -> None:
    """Build an open built-in closet: side walls, a board and a rail with clothes."""
    w, d, high = k.u(1.3, 1.7), k.u(0.58, 0.64), k.u(2.05, 2.2)
    paint = k.white()
    for x in (-w / 2 + 0.015, w / 2 - 0.015):
        m.box((x - 0.015, x + 0.015), (-d / 2, d / 2), (0, high), paint)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (high, high + 0.03), paint)
    m.box((-w / 2 + 0.03, w / 2 - 0.03), (-d / 2 + 0.1, d / 2), (1.78, 1.8), paint)
    m.box((-w / 2 + 0.03, w / 2 - 0.03), (-d / 2, d / 2), (0, 0.05), paint)
    m.top((-w / 2 + 0.05, w / 2 - 0.05), (-d / 2 + 0.12, d / 2 - 0.05), 1.8, headroom=0.25)
    m.top((-w / 2 + 0.05, w / 2 - 0.05), (-d / 2 + 0.05, d / 2 - 0.05), 0.05, headroom=0.6)


def closet_rod(m: Model, k: Kit) -> None:
    """Build the rail of a closet; its origin is at its own height."""
    w = k.u(1.1, 1.2)
    m.box((-w / 2, w / 2), (-0.014, 0.014), (0, 0.028), k.metal())


def _open_boards(m: Model, w: float, d: float, high: float, boards: int, paint: Paint, back: bool) -> None:
    thick = 0.025
    for x in (-w / 2 + thick / 2, w / 2 - thick / 2):
        m.box((x - thick / 2, x + thick / 2), (-d / 2, d / 2), (0, high), paint)
    if back:
        m.box((-w / 2, w / 2), (d / 2 - 0.012, d / 2), (0.03, high), paint)
    step = (high - thick - 0.04) / (boards - 1)
    for n in range(boards):
        z = 0.04 + n * step
        m.box((-w / 2 + thick, w / 2 - thick), (-d / 2, d / 2), (z, z + thick), paint)
        room = step - thick - 0.01 if n < boards - 1 else 1.0
        m.top((-w / 2 + thick, w / 2 - thick), (-d / 2, d / 2 - 0.014), z + thick, headroom=room)


def bookshelf(m: Model, k: Kit) -> None:
    """Build a bookshelf: tall, wooden, closed at the back."""
    boards = k.count(5, 6)
    _open_boards(m, k.u(0.75, 1.1), k.u(0.27, 0.33), 0.36 * (boards - 1) + 0.05, boards, k.wood(), back=True)


def shelf(m: Model, k: Kit) -> None:
    """Build a shelf: open boards without a back, lower or wider than a bookshelf, often painted."""
    paint = k.white() if k.chance(0.5) else k.grey()
    boards = k.count(3, 4)
    _open_boards(m, k.u(0.9, 1.3), k.u(0.34, 0.44), 0.42 * (boards - 1) + 0.05, boards, paint, back=False)


def rack(m: Model, k: Kit) -> None:
    """Build a rack: wire boards on four metal posts."""
    w, d, high = k.u(0.7, 1.0), k.u(0.36, 0.45), k.u(1.3, 1.7)
    metal = k.paint((92, 94, 98), spread=8)
    m.legs(w, d, (0, high), 0.028, metal)
    for n in range(4):
        z = 0.12 + n * (high - 0.2) / 3
        m.box((-w / 2, w / 2), (-d / 2, d / 2), (z, z + 0.018), k.paint((124, 126, 130), "weave", spread=8))
        room = (high - 0.2) / 3 - 0.05 if n < 3 else 1.0
        m.top((-w / 2 + 0.03, w / 2 - 0.03), (-d / 2 + 0.03, d / 2 - 0.03), z + 0.018, headroom=room)


def coat_rack(m: Model, k: Kit) -> None:
    """Build a pole with hooks and crossed feet."""
    wood, high = k.wood(), k.u(1.65, 1.8)
    m.box((-0.02, 0.02), (-0.02, 0.02), (0.03, high), wood)
    for dx, dy in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        m.rod((0, 0, 0.06), (0.26 * dx, 0.26 * dy, 0.015), 0.015, wood)
        m.rod((0, 0, high - 0.12), (0.14 * dx, 0.14 * dy, high), 0.013, wood)


def cart(m: Model, k: Kit) -> None:
    """Build three trays on wheels with a push bar."""
    w, d, high = k.u(0.6, 0.8), k.u(0.4, 0.5), k.u(0.8, 0.92)
    metal, tray = k.metal(), k.bright() if k.chance(0.5) else k.grey()
    m.legs(w, d, (0.08, high), 0.028, metal)
    for x in (-w / 2 + 0.04, w / 2 - 0.04):
        for y in (-d / 2 + 0.04, d / 2 - 0.04):
            m.blob((x - 0.035, x + 0.035), (y - 0.035, y + 0.035), (0, 0.08), k.dark(), power=2)
    for n in range(3):
        z = 0.12 + n * (high - 0.2) / 2
        m.box((-w / 2, w / 2), (-d / 2, d / 2), (z, z + 0.03), tray)
        m.top((-w / 2 + 0.04, w / 2 - 0.04), (-d / 2 + 0.04, d / 2 - 0.04), z + 0.03, headroom=high / 2 - 0.15)
    m.box((w / 2, w / 2 + 0.03), (-d / 2, d / 2), (high, high + 0.03), metal)


def _open_box(m: Model, w: float, d: float, high: float, paint: Paint, *, wall: float = 0.02) -> None:
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0, 0.02), paint)
    for side in (-1, 1):
        x, y = sorted((side * w / 2, side * (w / 2 - wall))), sorted((side * d / 2, side * (d / 2 - wall)))
        m.box((x[0], x[1]), (-d / 2, d / 2), (0.02, high), paint)
        m.box((-w / 2 + wall, w / 2 - wall), (y[0], y[1]), (0.02, high), paint)


def box(m: Model, k: Kit) -> None:
    """Build a cardboard box, closed, with tape."""
    w, d, high = k.u(0.28, 0.5), k.u(0.24, 0.4), k.u(0.2, 0.38)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0, high), k.paint((176, 138, 92), "plain", spread=8))
    m.box((-0.025, 0.025), (-d / 2 - 0.002, d / 2 + 0.002), (high * 0.6, high + 0.003), k.paint((206, 182, 136)))
    m.top((-w / 2, w / 2), (-d / 2, d / 2), high)


def crate(m: Model, k: Kit) -> None:
    """Build a slatted open crate."""
    w, d, high = k.u(0.42, 0.52), k.u(0.32, 0.38), k.u(0.26, 0.32)
    paint = k.wood() if k.chance(0.5) else k.bright()
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0, 0.02), paint)
    for n in range(3):
        z = 0.02 + n * high / 3
        for side in (-1, 1):
            y, x = side * (d / 2 - 0.01), side * (w / 2 - 0.01)
            m.box((-w / 2, w / 2), (y - 0.01, y + 0.01), (z, z + high / 4), paint)
            m.box((x - 0.01, x + 0.01), (-d / 2 + 0.02, d / 2 - 0.02), (z, z + high / 4), paint)


def storage_bin(m: Model, k: Kit) -> None:
    """Build a translucent plastic tub with a coloured lid."""
    w, d, high = k.u(0.4, 0.58), k.u(0.3, 0.4), k.u(0.26, 0.36)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0, high - 0.03), k.paint((178, 186, 192), spread=8))
    m.box((-w / 2 - 0.015, w / 2 + 0.015), (-d / 2 - 0.015, d / 2 + 0.015), (high - 0.03, high), k.bright())
    m.top((-w / 2, w / 2), (-d / 2, d / 2), high)


def container(m: Model, k: Kit) -> None:
    """Build a small closed box of plastic, for a table or a shelf."""
    w, d, high = k.u(0.16, 0.26), k.u(0.12, 0.18), k.u(0.1, 0.18)
    color = k.bright()
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0, high - 0.02), color)
    m.box((-w / 2 - 0.008, w / 2 + 0.008), (-d / 2 - 0.008, d / 2 + 0.008), (high - 0.02, high), k.white())


def basket(m: Model, k: Kit) -> None:
    """Build a round wicker basket."""
    r, high = k.u(0.15, 0.21), k.u(0.2, 0.3)
    wicker = k.paint((166, 124, 76), "weave", spread=10)
    m.lathe(0, 0, (0, high), r, wicker, ((0, -1), (0.8, -1), (1, 1), (0.9, 1), (0.72, -0.85), (0, -0.85)))


def laundry_basket(m: Model, k: Kit) -> None:
    """Build a wide plastic basket with holes, heaped with clothes."""
    w, d, high = k.u(0.52, 0.62), k.u(0.36, 0.44), k.u(0.26, 0.34)
    _open_box(m, w, d, high, k.paint((226, 228, 232), "weave", spread=8))
    m.blob((-w / 2 + 0.03, w / 2 - 0.03), (-d / 2 + 0.03, d / 2 - 0.03), (0.02, high + 0.1), k.bright("weave"), power=3)


def laundry_hamper(m: Model, k: Kit) -> None:
    """Build a tall closed hamper of cloth or wicker with a lid."""
    w, d, high = k.u(0.38, 0.46), k.u(0.32, 0.38), k.u(0.56, 0.66)
    m.blob((-w / 2, w / 2), (-d / 2, d / 2), (0, high), k.paint((196, 172, 132), "weave", spread=12), power=9)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (high - 0.005, high + 0.03), k.wood())


def _bin(m: Model, r: float, high: float, paint: Paint, lining: Paint) -> None:
    m.lathe(0, 0, (0, high), r, paint, ((0, -1), (0.8, -1), (1, 1), (0.92, 1)))
    m.lathe(0, 0, (0.02, high), r * 0.92, lining, ((1, 1), (0.84, -0.6), (0, -0.6)))


def trash_can(m: Model, k: Kit) -> None:
    """Build a trash can: round, dark, with the rim of a liner."""
    r, high = k.u(0.14, 0.19), k.u(0.3, 0.42)
    paint = k.dark() if k.chance(0.6) else k.grey()
    _bin(m, r, high, paint, k.white() if k.chance(0.5) else k.dark())


def trash_bin(m: Model, k: Kit) -> None:
    """Build a trash bin: tall and square with a swing lid."""
    w, d, high = k.u(0.34, 0.42), k.u(0.3, 0.38), k.u(0.66, 0.82)
    paint = k.paint((84, 88, 92), spread=12)
    m.blob((-w / 2, w / 2), (-d / 2, d / 2), (0, high * 0.8), paint, power=12)
    m.blob((-w / 2, w / 2), (-d / 2, d / 2), (high * 0.72, high), k.dark(), power=4)


def bin_(m: Model, k: Kit) -> None:
    """Build a square open bin of light plastic."""
    w, high = k.u(0.26, 0.32), k.u(0.34, 0.42)
    _open_box(m, w, w * 0.8, high, k.paint((196, 190, 174), spread=10))


def recycling_bin(m: Model, k: Kit) -> None:
    """Build a recycling bin: blue, square, with a white mark."""
    w, d, high = k.u(0.36, 0.42), k.u(0.28, 0.34), k.u(0.42, 0.56)
    _open_box(m, w, d, high, k.paint((34, 84, 168), spread=10), wall=0.025)
    m.box((-0.08, 0.08), (-d / 2 - 0.004, -d / 2), (high * 0.4, high * 0.4 + 0.16), k.white())


def bucket(m: Model, k: Kit) -> None:
    """Build a bucket: small, round, flared and bright, with a bail."""
    r, high = k.u(0.13, 0.16), k.u(0.24, 0.29)
    color = k.bright()
    _bin(m, r, high, color, color)
    m.rod((-r, 0, high - 0.02), (0, -0.02, high + 0.08), 0.008, k.metal())
    m.rod((0, -0.02, high + 0.08), (r, 0, high - 0.02), 0.008, k.metal())


STORAGE = {
    "cabinet": cabinet,
    "kitchen cabinet": kitchen_cabinet,
    "bathroom cabinet": bathroom_cabinet,
    "file cabinet": file_cabinet,
    "dresser": dresser,
    "wardrobe": wardrobe,
    "closet": closet,
    "closet rod": closet_rod,
    "bookshelf": bookshelf,
    "shelf": shelf,
    "rack": rack,
    "coat rack": coat_rack,
    "cart": cart,
    "box": box,
    "crate": crate,
    "storage bin": storage_bin,
    "container": container,
    "basket": basket,
    "laundry basket": laundry_basket,
    "laundry hamper": laundry_hamper,
    "trash can": trash_can,
    "trash bin": trash_bin,
    "bin": bin_,
    "recycling bin": recycling_bin,
    "bucket": bucket,
}
