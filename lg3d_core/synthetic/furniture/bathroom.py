"""Bathroom furniture. Wall-mounted things have their origin at their bottom."""

from lg3d_core.synthetic.modelling import Kit, Model
from lg3d_core.synthetic.shapes import Paint


def toilet(m: Model, k: Kit) -> None:
    """Build a foot, an oval bowl with a seat, and a cistern at the back."""
    white = k.white("glaze")
    m.lathe(0, -0.05, (0, 0.2), (0.13, 0.19), white, ((0, -1), (1, -1), (0.8, 1)))
    m.lathe(
        0, -0.08, (0.18, 0.4), (0.19, 0.25), white, ((0.55, -1), (0.95, 0.5), (1, 1), (0.72, 1), (0.5, -0.4), (0, -0.6))
    )
    m.box((-0.2, 0.2), (0.17, 0.35), (0.36, 0.74), white)
    m.box((-0.21, 0.21), (0.16, 0.355), (0.74, 0.77), white)
    m.box((-0.11, 0.11), (0.1, 0.34), (0, 0.36), white)
    if k.chance(0.4):
        m.lathe(0, -0.06, (0.4, 0.43), (0.2, 0.25), k.white("glaze"))
    m.top((-0.2, 0.2), (0.18, 0.35), 0.77)


def sink(m: Model, k: Kit) -> None:
    """Build a basin on a column against the wall."""
    white = k.white("glaze")
    w, d, high = k.u(0.5, 0.6), k.u(0.42, 0.48), k.u(0.8, 0.86)
    m.lathe(0, d * 0.2, (0, high - 0.15), 0.09, white)
    basin(m, k, w, d, high)


def basin(m: Model, k: Kit, w: float, d: float, high: float) -> None:
    """Build the bowl and tap of a sink with its rim at `high`: four boards around a sunken oval."""
    white = k.white("glaze")
    m.lathe(
        0,
        0,
        (high - 0.17, high),
        (w / 2, d / 2),
        white,
        ((0, -1), (0.6, -1), (1, 1), (0.86, 1), (0.5, -0.7), (0, -0.7)),
    )
    metal = k.paint((178, 180, 184), spread=6)
    m.box((-0.02, 0.02), (d / 2 - 0.05, d / 2 - 0.01), (high, high + 0.14), metal)
    m.box((-0.015, 0.015), (d / 2 - 0.18, d / 2 - 0.02), (high + 0.11, high + 0.14), metal)


def bathroom_vanity(m: Model, k: Kit) -> None:
    """Build a cabinet with doors below a stone plate; the basin is a separate thing."""
    w, d, high = k.u(0.8, 1.2), k.u(0.5, 0.56), k.u(0.78, 0.84)
    paint = k.wood() if k.chance(0.6) else k.white()
    m.box((-w / 2, w / 2), (-d / 2 + 0.05, d / 2), (0, 0.08), paint)
    m.box((-w / 2, w / 2), (-d / 2 + 0.02, d / 2), (0.08, high - 0.03), paint)
    for side in (-1, 1):
        x0, x1 = sorted((side * 0.01, side * (w / 2 - 0.02)))
        m.box((x0, x1), (-d / 2, -d / 2 + 0.02), (0.1, high - 0.06), paint)
        m.box(
            (side * 0.05 - 0.01, side * 0.05 + 0.01),
            (-d / 2 - 0.025, -d / 2),
            (high * 0.5, high * 0.5 + 0.12),
            k.metal(),
        )
    m.box(
        (-w / 2 - 0.01, w / 2 + 0.01), (-d / 2 - 0.01, d / 2), (high - 0.03, high), k.paint((206, 200, 190), "granite")
    )
    m.top((-w / 2, w / 2), (-d / 2, d / 2), high)


def vessel_sink(m: Model, k: Kit) -> None:
    """Build a bowl that stands on a vanity."""
    basin(m, k, k.u(0.4, 0.46), k.u(0.34, 0.4), 0.17)


def bathtub(m: Model, k: Kit) -> None:
    """Build a tub with a rim, hollow."""
    w, d, high = k.u(1.5, 1.7), k.u(0.7, 0.78), k.u(0.46, 0.54)
    white = k.white("glaze")
    rim = 0.07
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0, 0.1), white)
    for side in (-1, 1):
        y, x = sorted((side * d / 2, side * (d / 2 - rim))), sorted((side * w / 2, side * (w / 2 - rim)))
        m.box((-w / 2, w / 2), (y[0], y[1]), (0.1, high), white)
        m.box((x[0], x[1]), (-d / 2 + rim, d / 2 - rim), (0.1, high), white)
    m.box((w / 2 - rim - 0.1, w / 2 - rim), (-0.03, 0.03), (high - 0.02, high + 0.03), k.metal())


def shower_curtain(m: Model, k: Kit) -> None:
    """Build folds that hang from the rod almost to the floor."""
    _folds(m, k.u(0.7, 1.2), 1.62, k.bright("weave") if k.chance(0.4) else k.white("weave"))


def _folds(m: Model, w: float, high: float, paint: Paint) -> None:
    folds = max(3, round(w / 0.11))
    step = w / folds
    for n in range(folds):
        x, y = -w / 2 + n * step, 0.02 * (-1 if n % 2 else 1)
        m.box((x, x + step), (y - 0.012, y + 0.012), (0, high), paint, yaw=0.35 * (-1 if n % 2 else 1))


def shower_curtain_rod(m: Model, k: Kit) -> None:
    """Build a straight tube between two walls."""
    w = k.u(1.42, 1.5)
    m.box((-w / 2, w / 2), (-0.014, 0.014), (0, 0.028), k.paint((196, 198, 202), spread=5))


def shower(m: Model, k: Kit) -> None:
    """Build a corner cabin: tray, two glazed sides with metal edges, and a mixer on the wall."""
    w, high = k.u(0.85, 0.95), k.u(1.9, 2.0)
    metal, glass = k.metal(), k.paint((188, 206, 208), spread=5)
    m.box((-w / 2, w / 2), (-w / 2, w / 2), (0, 0.12), k.white("glaze"))
    for x in (-w / 2 + 0.015, w / 2 - 0.015):
        m.box((x - 0.015, x + 0.015), (-w / 2, -w / 2 + 0.03), (0.12, high), metal)
    m.box((-w / 2, w / 2), (-w / 2, -w / 2 + 0.03), (high, high + 0.03), metal)
    m.box((-w / 2, -w / 2 + 0.012), (-w / 2 + 0.03, w / 2), (0.12, high), glass)
    m.box((-0.015, 0.015), (w / 2 - 0.03, w / 2), (0.9, 1.9), metal)


def shower_door(m: Model, k: Kit) -> None:
    """Build a glass leaf in a metal frame, at the front of a shower."""
    w, high = 0.82, 1.75
    metal = k.metal()
    m.box((-w / 2, w / 2), (-0.006, 0.006), (0.03, high - 0.03), k.paint((176, 202, 206), spread=5))
    for x in (-w / 2, w / 2 - 0.025):
        m.box((x, x + 0.025), (-0.013, 0.013), (0, high), metal)
    for z in (0.0, high - 0.03):
        m.box((-w / 2, w / 2), (-0.013, 0.013), (z, z + 0.03), metal)
    m.box((w / 2 - 0.1, w / 2 - 0.08), (-0.05, 0.0), (0.75, 1.05), metal)


def shower_wall(m: Model, k: Kit) -> None:
    """Build a shower wall: tiles from the tub's rim upwards."""
    m.box((-0.78, 0.78), (-0.008, 0.008), (0, 1.4), k.paint((188, 204, 210), "tiles", spread=10))


def shower_head(m: Model, k: Kit) -> None:
    """Build an arm from the wall and a tilted rose."""
    metal = k.paint((190, 192, 196), spread=5)
    m.rod((0, 0.12, 0.12), (0, -0.06, 0.07), 0.014, metal)
    m.disc((0, -0.09, 0.05), (0, -0.5, -1), 0.075, 0.04, metal)


def towel(m: Model, k: Kit) -> None:
    """Build a towel over a bar: two hanging layers."""
    w, high = k.u(0.4, 0.6), k.u(0.5, 0.75)
    paint = k.paint(k.choose(((214, 200, 176), (96, 140, 170), (190, 90, 96), (226, 226, 222))), "fabric", spread=14)
    m.box((-w / 2, w / 2), (-0.04, -0.02), (0, high), paint)
    m.box((-w / 2, w / 2), (0.0, 0.02), (high * 0.25, high), paint)
    m.box((-w / 2 - 0.05, w / 2 + 0.05), (-0.02, 0.0), (high - 0.02, high), k.metal())
    m.box((-0.02, 0.02), (0.0, 0.05), (high - 0.03, high), k.metal())


def toilet_paper(m: Model, k: Kit) -> None:
    """Build a white roll standing on end."""
    m.lathe(0, 0, (0, 0.1), 0.055, k.white("fabric"))


def toilet_paper_holder(m: Model, k: Kit) -> None:
    """Build a bracket on the wall with a roll's bar."""
    metal = k.metal()
    m.box((-0.08, 0.08), (0.04, 0.06), (0, 0.08), metal)
    m.box((-0.08, -0.06), (-0.05, 0.04), (0.02, 0.05), metal)
    m.box((0.06, 0.08), (-0.05, 0.04), (0.02, 0.05), metal)
    m.disc((0, -0.035, 0.03), (1, 0, 0), 0.05, 0.11, k.white("fabric"))


def toilet_paper_dispenser(m: Model, k: Kit) -> None:
    """Build a large dark drum on the wall."""
    m.disc((0, 0, 0.15), (0, 1, 0), 0.15, 0.12, k.paint((70, 74, 80), spread=10))
    m.box((-0.1, 0.1), (-0.06, 0.06), (-0.02, 0.08), k.paint((70, 74, 80), spread=6))


def toilet_seat_cover_dispenser(m: Model, k: Kit) -> None:
    """Build a flat white box of paper on the wall."""
    m.box((-0.21, 0.21), (-0.03, 0.03), (0, 0.28), k.white())
    m.box((-0.12, 0.12), (-0.035, -0.03), (0.02, 0.12), k.white("fabric"))


def paper_towel_dispenser(m: Model, k: Kit) -> None:
    """Build a tall grey box with a slot, on the wall."""
    m.box((-0.14, 0.14), (-0.1, 0.1), (0.06, 0.42), k.paint((126, 130, 136), spread=12))
    m.box((-0.14, 0.14), (-0.06, 0.1), (0, 0.06), k.dark())
    m.box((-0.08, 0.08), (-0.085, -0.075), (-0.06, 0.06), k.white())


def soap_dispenser(m: Model, k: Kit) -> None:
    """Build a small bottle with a pump."""
    color = k.choose((k.white(), k.bright()))
    m.lathe(0, 0, (0, 0.12), 0.035, color)
    m.box((-0.008, 0.008), (-0.008, 0.008), (0.12, 0.17), k.metal())
    m.box((-0.01, 0.01), (-0.05, 0.01), (0.16, 0.175), k.metal())


def soap_dish(m: Model, k: Kit) -> None:
    """Build a shallow dish with a piece of soap."""
    m.lathe(
        0,
        0,
        (0, 0.03),
        (0.075, 0.05),
        k.white("glaze"),
        ((0, -1), (0.7, -1), (1, 1), (0.85, 1), (0.6, -0.4), (0, -0.4)),
    )
    m.blob((-0.04, 0.04), (-0.025, 0.025), (0.01, 0.045), k.paint((222, 190, 150), spread=16), power=3)


def plunger(m: Model, k: Kit) -> None:
    """Build a rubber cup on a stick."""
    m.lathe(0, 0, (0, 0.1), 0.075, k.paint((150, 50, 40), spread=10), ((1, -1), (0.95, 0.2), (0.4, 1), (0, 1)))
    m.box((-0.012, 0.012), (-0.012, 0.012), (0.1, 0.52), k.paint((206, 176, 120), "wood"))


def scale(m: Model, k: Kit) -> None:
    """Build a flat square on the floor with a dial."""
    m.box((-0.15, 0.15), (-0.15, 0.15), (0.01, 0.045), k.choose((k.dark(), k.white())))
    m.box((-0.05, 0.05), (0.06, 0.12), (0.045, 0.05), k.grey())
    m.legs(0.28, 0.28, (0, 0.01), 0.04, k.dark())


def mat(m: Model, k: Kit) -> None:
    """Build a thick small rug."""
    w, d = k.u(0.6, 0.9), k.u(0.42, 0.6)
    m.blob(
        (-w / 2, w / 2),
        (-d / 2, d / 2),
        (0, 0.03),
        k.paint(k.choose(((70, 92, 128), (150, 60, 64), (92, 120, 92), (196, 190, 178))), "fabric", spread=18),
        power=12,
    )


def hair_dryer(m: Model, k: Kit) -> None:
    """Build a barrel and a handle, lying."""
    color = k.choose((k.dark(), k.bright()))
    m.disc((0, 0, 0.045), (1, 0, 0), 0.042, 0.2, color)
    m.box((0.0, 0.045), (-0.17, -0.02), (0.02, 0.06), color)


def handicap_bar(m: Model, k: Kit) -> None:
    """Build a grab rail, some centimetres in front of the wall."""
    metal = k.paint((198, 200, 204), spread=5)
    w = k.u(0.7, 0.95)
    m.box((-w / 2, w / 2), (-0.045, -0.012), (0, 0.034), metal)
    for x in (-w / 2 + 0.02, w / 2 - 0.02):
        m.box((x - 0.02, x + 0.02), (-0.012, 0.045), (0, 0.034), metal)


def bathroom_stall(m: Model, k: Kit) -> None:
    """Build two side panels and a front post around a toilet's place, raised from the floor."""
    w, d = k.u(1.0, 1.15), k.u(1.35, 1.5)
    paint, metal = k.paint(k.choose(((120, 140, 150), (176, 160, 130), (110, 112, 116))), spread=8), k.metal()
    for x in (-w / 2, w / 2):
        m.box((x - 0.015, x + 0.015), (-d / 2, d / 2), (0.25, 1.9), paint)
        m.box((x - 0.03, x + 0.03), (-d / 2, -d / 2 + 0.05), (0, 2.0), metal)
    m.box((-w / 2, -w / 2 + 0.18), (-d / 2, -d / 2 + 0.03), (0.25, 1.9), paint)


def bathroom_stall_door(m: Model, k: Kit) -> None:
    """Build a raised leaf with a latch; its origin is the floor."""
    m.box((-0.33, 0.33), (-0.014, 0.014), (0.25, 1.88), k.paint(k.choose(((96, 118, 128), (150, 132, 104))), spread=8))
    m.box((-0.28, -0.2), (-0.03, -0.014), (1.0, 1.06), k.metal())
    m.box((0.31, 0.35), (-0.016, 0.016), (0, 1.9), k.metal())


BATHROOM = {
    "toilet": toilet,
    "sink": sink,
    "bathroom vanity": bathroom_vanity,
    "bathtub": bathtub,
    "shower": shower,
    "shower door": shower_door,
    "shower wall": shower_wall,
    "shower curtain": shower_curtain,
    "shower curtain rod": shower_curtain_rod,
    "shower head": shower_head,
    "towel": towel,
    "toilet paper": toilet_paper,
    "toilet paper holder": toilet_paper_holder,
    "toilet paper dispenser": toilet_paper_dispenser,
    "toilet seat cover dispenser": toilet_seat_cover_dispenser,
    "paper towel dispenser": paper_towel_dispenser,
    "soap dispenser": soap_dispenser,
    "soap dish": soap_dish,
    "plunger": plunger,
    "scale": scale,
    "mat": mat,
    "hair dryer": hair_dryer,
    "handicap bar": handicap_bar,
    "bathroom stall": bathroom_stall,
    "bathroom stall door": bathroom_stall_door,
}
