"""Fixtures on walls and ceilings. The origin is at the bottom; the back (+y) touches the wall."""

from lg3d_core.synthetic.modelling import FABRICS, Kit, Model


def _framed(m: Model, k: Kit, w: float, high: float, texture: str, rgb: tuple[float, float, float]) -> None:
    frame = k.choose((k.wood(), k.dark(), k.metal()))
    m.box((-w / 2, w / 2), (-0.005, 0.02), (0, high), k.paint(rgb, texture, spread=14))
    for x in (-w / 2 - 0.025, w / 2):
        m.box((x, x + 0.025), (-0.018, 0.02), (-0.025, high + 0.025), frame)
    for z in (-0.025, high):
        m.box((-w / 2, w / 2), (-0.018, 0.02), (z, z + 0.025), frame)


def picture(m: Model, k: Kit) -> None:
    """Build a framed painting of blurred patches."""
    w = k.u(0.35, 0.8)
    _framed(m, k, w, w * k.u(0.65, 1.2), "print", k.choose(((150, 120, 90), (90, 120, 150), (120, 140, 90))))


def poster(m: Model, k: Kit) -> None:
    """Build a sheet without a frame, upright and vivid."""
    w = k.u(0.45, 0.6)
    m.box((-w / 2, w / 2), (-0.006, 0.006), (0, w * 1.4), k.bright("print"))


def mirror(m: Model, k: Kit) -> None:
    """Build a pale bluish pane in a frame."""
    _framed(m, k, k.u(0.5, 0.8), k.u(0.6, 0.9), "screen", (176, 190, 200))


def clock(m: Model, k: Kit) -> None:
    """Build a round white face with a dark rim and hands."""
    r = k.u(0.13, 0.17)
    m.disc((0, 0, r), (0, -1, 0), r, 0.04, k.dark())
    m.disc((0, -0.022, r), (0, -1, 0), r * 0.85, 0.01, k.white())
    m.box((-0.008, 0.008), (-0.032, -0.027), (r, r * 1.7), k.dark())


def calendar(m: Model, k: Kit) -> None:
    """Build a picture above a grid of days."""
    m.box((-0.15, 0.15), (-0.008, 0.008), (0.24, 0.46), k.bright("print"))
    m.box((-0.15, 0.15), (-0.008, 0.008), (0, 0.24), k.white("tiles"))


def whiteboard(m: Model, k: Kit) -> None:
    """Build a whiteboard: white in a metal frame, with scribbles and a ledge."""
    w = k.u(1.3, 2.2)
    m.box((-w / 2, w / 2), (-0.005, 0.02), (0, 1.05), k.paint((240, 242, 244), "scribble", spread=3))
    for z in (-0.025, 1.05):
        m.box((-w / 2, w / 2), (-0.02, 0.02), (z, z + 0.025), k.metal())
    m.box((-w / 2 + 0.1, w / 2 - 0.1), (-0.07, -0.02), (-0.03, -0.012), k.metal())


def blackboard(m: Model, k: Kit) -> None:
    """Build a blackboard: dark green slate in a wooden frame."""
    w = k.u(1.8, 2.6)
    wood = k.wood()
    m.box((-w / 2, w / 2), (-0.005, 0.02), (0, 1.1), k.paint((44, 66, 56), "scribble", spread=6))
    for z in (-0.04, 1.1):
        m.box((-w / 2, w / 2), (-0.025, 0.02), (z, z + 0.04), wood)


def bulletin_board(m: Model, k: Kit) -> None:
    """Build a bulletin board: cork with papers pinned on it."""
    w, high = k.u(0.9, 1.3), k.u(0.6, 0.85)
    _framed(m, k, w, high, "granite", (188, 146, 96))
    for _ in range(k.count(3, 6)):
        x, z = k.u(-w / 2 + 0.12, w / 2 - 0.12), k.u(0.16, high - 0.16)
        m.box((x - 0.1, x + 0.1), (-0.014, -0.006), (z - 0.13, z + 0.13), k.choose((k.white("text"), k.bright("text"))))


def board(m: Model, k: Kit) -> None:
    """Build a plain panel of a pale colour, felt or pegboard."""
    w = k.u(0.8, 1.2)
    m.box((-w / 2, w / 2), (-0.012, 0.012), (0, k.u(0.6, 0.9)), k.paint((172, 160, 150), "weave", spread=20))


def projector_screen(m: Model, k: Kit) -> None:
    """Build a white sheet below a roller case."""
    w = k.u(1.5, 2.0)
    m.box((-w / 2 - 0.05, w / 2 + 0.05), (-0.05, 0.05), (1.2, 1.3), k.dark())
    m.box((-w / 2, w / 2), (-0.006, 0.006), (0, 1.2), k.paint((244, 244, 246), spread=2))
    m.box((-w / 2, w / 2), (-0.012, 0.012), (-0.03, 0), k.dark())


def light_switch(m: Model, k: Kit) -> None:
    """Build a small white plate with a rocker."""
    m.box((-0.045, 0.045), (-0.008, 0.008), (0, 0.125), k.white())
    m.box((-0.018, 0.018), (-0.016, -0.008), (0.035, 0.09), k.white())


def power_outlet(m: Model, k: Kit) -> None:
    """Build a small plate near the floor with two dark sockets."""
    m.box((-0.045, 0.045), (-0.008, 0.008), (0, 0.125), k.white())
    for z in (0.02, 0.075):
        m.box((-0.02, 0.02), (-0.012, -0.008), (z, z + 0.03), k.dark())


def vent(m: Model, k: Kit) -> None:
    """Build a grille of slats."""
    m.box((-0.2, 0.2), (-0.01, 0.01), (0, 0.26), k.paint((186, 186, 182), "weave", spread=8))
    for n in range(4):
        m.box((-0.18, 0.18), (-0.018, -0.01), (0.03 + n * 0.06, 0.05 + n * 0.06), k.grey())


def fire_alarm(m: Model, k: Kit) -> None:
    """Build a small red box with a white bar."""
    m.box((-0.06, 0.06), (-0.03, 0.03), (0, 0.13), k.paint((196, 34, 34), spread=6))
    m.box((-0.04, 0.04), (-0.04, -0.03), (0.05, 0.08), k.white())


def sign(m: Model, k: Kit) -> None:
    """Build a small coloured plate with writing."""
    w = k.u(0.2, 0.34)
    m.box((-w / 2, w / 2), (-0.01, 0.01), (0, w * 0.6), k.bright("text"))


def fire_extinguisher(m: Model, k: Kit) -> None:
    """Build a red cylinder with a black head and hose, on a bracket."""
    m.lathe(0, 0, (0, 0.42), 0.075, k.paint((196, 28, 30), spread=8), ((0, -1), (1, -1), (1, 0.75), (0.4, 1), (0, 1)))
    m.box((-0.03, 0.03), (-0.03, 0.03), (0.42, 0.5), k.dark())
    m.rod((0.03, 0, 0.46), (0.1, -0.02, 0.2), 0.012, k.dark())
    m.box((-0.03, 0.03), (0.07, 0.1), (0.1, 0.35), k.metal())


def radiator(m: Model, k: Kit) -> None:
    """Build a radiator: white ribs between two tubes, on feet."""
    w, high = k.u(0.8, 1.3), k.u(0.55, 0.65)
    white = k.white()
    ribs = round(w / 0.1)
    for n in range(ribs):
        x = -w / 2 + (n + 0.5) * w / ribs
        m.box((x - 0.032, x + 0.032), (-0.05, 0.05), (0.1, high), white)
    for z in (0.14, high - 0.06):
        m.box((-w / 2, w / 2), (-0.02, 0.02), (z - 0.015, z + 0.015), white)
    for x in (-w / 2 + 0.1, w / 2 - 0.1):
        m.box((x - 0.02, x + 0.02), (-0.03, 0.03), (0, 0.1), white)


def fireplace(m: Model, k: Kit) -> None:
    """Build a surround of stone, a mantel and a dark opening."""
    stone = k.paint((166, 100, 80), "brick", spread=14) if k.chance(0.6) else k.paint((206, 202, 194), "granite")
    for x in (-0.55, 0.55):
        m.box((x - 0.15, x + 0.15), (-0.18, 0.18), (0, 1.0), stone)
    m.box((-0.7, 0.7), (-0.18, 0.18), (0.75, 1.05), stone)
    m.box((-0.76, 0.76), (-0.24, 0.18), (1.05, 1.11), k.wood())
    m.box((-0.4, 0.4), (0.13, 0.18), (0, 0.75), k.paint((30, 26, 26), spread=4))
    m.top((-0.7, 0.7), (-0.2, 0.14), 1.11)


def pipe(m: Model, k: Kit) -> None:
    """Build a vertical pipe along a wall."""
    m.lathe(0, 0, (0, 2.15), 0.045, k.paint((196, 190, 178), spread=12), ((1, -1), (1, 1)))


def ceiling_light(m: Model, k: Kit) -> None:
    """Build a round lit dome below the ceiling; its top is its origin plus 0.12."""
    m.blob((-0.19, 0.19), (-0.19, 0.19), (0, 0.22), k.paint((250, 246, 226), spread=2), power=2.4)


def light(m: Model, k: Kit) -> None:
    """Build a long fluorescent fitting below the ceiling."""
    m.box((-0.6, 0.6), (-0.09, 0.09), (0.04, 0.1), k.white())
    for y in (-0.04, 0.04):
        m.box((-0.57, 0.57), (y - 0.016, y + 0.016), (0, 0.04), k.paint((250, 250, 244), spread=2))


def curtain(m: Model, k: Kit) -> None:
    """Build folds from above a window to below it; the origin is the lower hem."""
    w, high = k.u(0.4, 0.7), k.u(1.65, 1.95)
    paint = k.paint(k.choose(FABRICS), "weave", spread=16)
    folds = max(3, round(w / 0.1))
    step = w / folds
    for n in range(folds):
        x, bend = -w / 2 + n * step, -1 if n % 2 else 1
        m.box((x, x + step), (0.015 * bend - 0.012, 0.015 * bend + 0.012), (0, high), paint, yaw=0.4 * bend)


def blinds(m: Model, k: Kit) -> None:
    """Build slats before a window; the origin is the lowest one."""
    w, high = k.blind_width, k.u(0.6, 1.1)
    paint = k.white("slats")
    m.box((-w / 2, w / 2), (-0.02, 0.02), (high, high + 0.05), paint)
    m.box((-w / 2, w / 2), (-0.012, 0.012), (0, high), paint)


def wall_shelf(m: Model, k: Kit) -> None:
    """Build a board on two brackets."""
    w = k.u(0.6, 1.0)
    wood = k.wood()
    m.box((-w / 2, w / 2), (-0.11, 0.11), (0.1, 0.125), wood)
    for x in (-w / 2 + 0.1, w / 2 - 0.1):
        m.box((x - 0.012, x + 0.012), (0.06, 0.11), (0, 0.1), k.metal())
    m.top((-w / 2, w / 2), (-0.1, 0.1), 0.125, headroom=0.5)


def wall_tv(m: Model, k: Kit) -> None:
    """Build a television on a wall bracket."""
    w = k.u(1.0, 1.35)
    m.box((-w / 2, w / 2), (-0.045, 0.0), (0, w * 0.57), k.paint((24, 24, 28), spread=5))
    m.box(
        (-w / 2 + 0.02, w / 2 - 0.02),
        (-0.05, -0.045),
        (0.02, w * 0.57 - 0.02),
        k.paint((18, 20, 26), "screen", spread=4),
    )
    m.box((-0.15, 0.15), (0.0, 0.04), (w * 0.18, w * 0.4), k.metal())


def mailbox(m: Model, k: Kit) -> None:
    """Build a bank of small metal doors."""
    m.box((-0.5, 0.5), (-0.15, 0.15), (0, 0.8), k.paint((170, 160, 130), "tiles", spread=10))


FIXTURES = {
    "picture": picture,
    "poster": poster,
    "mirror": mirror,
    "clock": clock,
    "calendar": calendar,
    "whiteboard": whiteboard,
    "blackboard": blackboard,
    "bulletin board": bulletin_board,
    "board": board,
    "projector screen": projector_screen,
    "light switch": light_switch,
    "power outlet": power_outlet,
    "vent": vent,
    "fire alarm": fire_alarm,
    "sign": sign,
    "fire extinguisher": fire_extinguisher,
    "radiator": radiator,
    "fireplace": fireplace,
    "pipe": pipe,
    "ceiling light": ceiling_light,
    "light": light,
    "curtain": curtain,
    "blinds": blinds,
    "mailbox": mailbox,
}
