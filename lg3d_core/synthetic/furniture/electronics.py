"""Screens, computers, machines and lights."""

from lg3d_core.synthetic.modelling import Kit, Model


def monitor(m: Model, k: Kit) -> None:
    """Build a screen on a foot."""
    w, high = k.u(0.48, 0.62), k.u(0.3, 0.37)
    dark = k.dark()
    m.lathe(0, 0, (0, 0.02), (0.13, 0.1), dark)
    m.box((-0.03, 0.03), (0.0, 0.03), (0.02, 0.14), dark)
    m.box((-w / 2, w / 2), (-0.025, 0.015), (0.12, 0.12 + high), dark)
    m.box((-w / 2 + 0.015, w / 2 - 0.015), (-0.03, -0.025), (0.135, 0.105 + high), k.paint((34, 44, 66), "screen"))


def tv(m: Model, k: Kit) -> None:
    """Build a TV: larger than a monitor, on a low wide foot."""
    w = k.u(0.95, 1.3)
    high, dark = w * 0.58, k.paint((24, 24, 28), spread=5)
    m.box((-w * 0.2, w * 0.2), (-0.11, 0.11), (0, 0.02), dark)
    m.box((-0.05, 0.05), (-0.02, 0.02), (0.02, 0.09), dark)
    m.box((-w / 2, w / 2), (-0.035, 0.025), (0.07, 0.07 + high), dark)
    m.box(
        (-w / 2 + 0.02, w / 2 - 0.02), (-0.04, -0.035), (0.09, 0.05 + high), k.paint((18, 20, 26), "screen", spread=4)
    )


def laptop(m: Model, k: Kit) -> None:
    """Build a keyboard half and a screen half, opened."""
    w, d = k.u(0.31, 0.37), k.u(0.22, 0.26)
    body = k.choose((k.grey(), k.dark()))
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0, 0.02), body)
    m.box((-w / 2 + 0.02, w / 2 - 0.02), (-d * 0.1, d / 2 - 0.02), (0.02, 0.024), k.dark("keys"))
    m.box((-w / 2, w / 2), (d / 2 + 0.01, d / 2 + 0.025), (0.015, 0.015 + d), body, lean=0.3)
    m.box(
        (-w / 2 + 0.012, w / 2 - 0.012),
        (d / 2 + 0.003, d / 2 + 0.01),
        (0.03, d),
        k.paint((70, 100, 150), "screen"),
        lean=0.3,
    )


def keyboard(m: Model, k: Kit) -> None:
    """Build a flat board of keys."""
    m.box((-0.22, 0.22), (-0.075, 0.075), (0, 0.022), k.choose((k.dark("keys"), k.grey("keys"), k.white("keys"))))


def mouse(m: Model, k: Kit) -> None:
    """Build a small rounded thing beside a keyboard."""
    m.blob((-0.034, 0.034), (-0.058, 0.058), (0, 0.042), k.choose((k.dark(), k.white())), power=2.5)


def computer_tower(m: Model, k: Kit) -> None:
    """Build an upright dark case with drive bays."""
    w, d, high = k.u(0.18, 0.22), k.u(0.42, 0.5), k.u(0.4, 0.48)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0.01, high), k.dark())
    m.legs(w, d, (0, 0.01), 0.03, k.dark())
    for n in range(2):
        z = high - 0.08 - n * 0.05
        m.box((-w / 2 + 0.02, w / 2 - 0.02), (-d / 2 - 0.008, -d / 2), (z, z + 0.04), k.grey())


def printer(m: Model, k: Kit) -> None:
    """Build a pale box with a paper tray before and one behind."""
    w, d, high = k.u(0.42, 0.5), k.u(0.34, 0.4), k.u(0.22, 0.3)
    body = k.choose((k.white(), k.grey()))
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0, high), body)
    m.box((-w / 2 + 0.06, w / 2 - 0.06), (-d / 2 - 0.12, -d / 2), (0.05, 0.065), k.dark())
    m.box((-w / 2 + 0.08, w / 2 - 0.08), (-d / 2 - 0.1, -d / 2), (0.065, 0.072), k.white())
    m.box((-w / 2 + 0.06, w / 2 - 0.06), (d / 2 - 0.06, d / 2 - 0.04), (high, high + 0.13), k.dark(), lean=0.3)
    m.box((w / 2 - 0.16, w / 2 - 0.02), (-d / 2 + 0.03, -d / 2 + 0.1), (high, high + 0.008), k.dark("keys"))


def copier(m: Model, k: Kit) -> None:
    """Build a copier: waist-high, with paper drawers, a slot in the middle and a lid."""
    w, d = k.u(0.62, 0.75), k.u(0.58, 0.66)
    body, dark = k.paint((206, 206, 200), spread=8), k.dark()
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0.05, 0.68), body)
    m.box((-w / 2 + 0.04, w / 2 - 0.04), (-d / 2 + 0.05, d / 2), (0, 0.05), dark)
    for n in range(3):
        z = 0.08 + n * 0.19
        m.box((-w / 2 + 0.02, w / 2 - 0.02), (-d / 2 - 0.015, -d / 2), (z, z + 0.17), body)
        m.box((-0.09, 0.09), (-d / 2 - 0.025, -d / 2 - 0.015), (z + 0.1, z + 0.13), dark)
    m.box((-w / 2, w * 0.1), (-d / 2 + 0.1, d / 2), (0.68, 0.8), dark)
    m.box((w * 0.1, w / 2), (-d / 2, d / 2), (0.68, 0.8), body)
    m.box((-w / 2, w / 2), (-d / 2 + 0.04, d / 2), (0.8, 0.9), body)
    m.box((-w / 2 + 0.02, w / 2 - 0.02), (-d / 2 + 0.06, d / 2 - 0.02), (0.9, 0.97), k.dark())
    m.box((-0.05, w / 2 - 0.04), (-d / 2 - 0.1, -d / 2 + 0.04), (0.84, 0.88), k.grey("keys"), lean=-0.3)


def telephone(m: Model, k: Kit) -> None:
    """Build a desk set with a receiver across it."""
    dark = k.dark()
    m.box((-0.1, 0.1), (-0.1, 0.1), (0, 0.05), dark)
    m.box((-0.03, 0.09), (-0.08, 0.04), (0.05, 0.056), k.grey("keys"))
    m.box((-0.1, -0.05), (-0.1, 0.1), (0.05, 0.09), dark)


def speaker(m: Model, k: Kit) -> None:
    """Build an upright dark box with two round cones."""
    w, d, high = k.u(0.16, 0.22), k.u(0.18, 0.24), k.u(0.3, 0.42)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0, high), k.paint((50, 40, 36), "wood", spread=10))
    m.disc((0, -d / 2 - 0.006, high * 0.32), (0, -1, 0), w * 0.38, 0.012, k.grey())
    m.disc((0, -d / 2 - 0.006, high * 0.75), (0, -1, 0), w * 0.22, 0.012, k.grey())


def headphones(m: Model, k: Kit) -> None:
    """Build two cups and a bow, lying."""
    color = k.choose((k.dark(), k.bright()))
    for x in (-0.08, 0.08):
        m.lathe(x, 0, (0, 0.045), 0.045, color)
    m.rod((-0.08, 0.03, 0.025), (-0.04, 0.13, 0.025), 0.012, color)
    m.rod((-0.04, 0.13, 0.025), (0.04, 0.13, 0.025), 0.012, color)
    m.rod((0.04, 0.13, 0.025), (0.08, 0.03, 0.025), 0.012, color)


def power_strip(m: Model, k: Kit) -> None:
    """Build a long flat bar of sockets."""
    m.box((-0.19, 0.19), (-0.028, 0.028), (0, 0.035), k.white())
    for n in range(5):
        m.box((-0.165 + n * 0.07, -0.115 + n * 0.07), (-0.018, 0.018), (0.035, 0.039), k.dark())


def paper_cutter(m: Model, k: Kit) -> None:
    """Build a ruled board with a long arm at one side."""
    m.box((-0.22, 0.22), (-0.17, 0.17), (0, 0.03), k.paint((96, 120, 96), "tiles", spread=10))
    m.rod((0.225, 0.16, 0.04), (0.225, -0.22, 0.1), 0.014, k.dark())


def projector(m: Model, k: Kit) -> None:
    """Build a white box with a lens, on a pole from the ceiling; its origin is its bottom and its pole 0.45 m long."""
    white = k.white()
    m.box((-0.18, 0.18), (-0.14, 0.14), (0, 0.12), white)
    m.disc((0.08, -0.155, 0.06), (0, -1, 0), 0.045, 0.04, k.dark())
    m.box((-0.02, 0.02), (-0.02, 0.02), (0.12, 0.45), k.metal())


def fan(m: Model, k: Kit) -> None:
    """Build a round cage on a pole with a foot."""
    body = k.choose((k.white(), k.dark()))
    high = k.u(1.0, 1.2)
    m.lathe(0, 0, (0, 0.04), 0.19, body)
    m.box((-0.016, 0.016), (-0.016, 0.016), (0.04, high - 0.05), body)
    m.disc((0, -0.06, high), (0, -1, 0), 0.2, 0.07, k.paint((186, 188, 192), "weave"))
    m.disc((0, 0.03, high), (0, -1, 0), 0.06, 0.12, body)


def lamp(m: Model, k: Kit) -> None:
    """Build a table lamp: foot, stem and a lit shade."""
    high, r = k.u(0.4, 0.55), k.u(0.13, 0.18)
    foot = k.choose((k.metal(), k.bright("glaze"), k.wood()))
    m.lathe(
        0, 0, (0, high * 0.5), 0.08, foot, ((0, -1), (1, -1), (0.9, -0.85), (0.25, -0.6), (0.5, 0.2), (0.15, 1), (0, 1))
    )
    m.box((-0.01, 0.01), (-0.01, 0.01), (high * 0.5, high * 0.6), k.metal())
    m.lathe(0, 0, (high * 0.55, high), r, k.paint((240, 226, 190), spread=6), ((1, -1), (0.65, 1), (0, 1)))


def floor_lamp(m: Model, k: Kit) -> None:
    """Build a lamp as high as a person."""
    high = k.u(1.45, 1.7)
    metal = k.metal()
    m.lathe(0, 0, (0, 0.03), 0.15, metal)
    m.box((-0.014, 0.014), (-0.014, 0.014), (0.03, high - 0.2), metal)
    m.lathe(0, 0, (high - 0.28, high), 0.2, k.paint((240, 226, 190), spread=6), ((1, -1), (0.6, 1), (0, 1)))


def alarm_clock(m: Model, k: Kit) -> None:
    """Build a small dark box with a lit face."""
    m.box((-0.09, 0.09), (-0.04, 0.04), (0, 0.08), k.dark())
    m.box((-0.075, 0.075), (-0.046, -0.04), (0.015, 0.065), k.paint((150, 40, 40), "screen"))


def washing_machine(m: Model, k: Kit) -> None:
    """Build a white cube with a dark round door."""
    white = k.white()
    m.box((-0.3, 0.3), (-0.28, 0.28), (0.02, 0.85), white)
    m.box((-0.28, 0.28), (-0.26, 0.26), (0, 0.02), k.dark())
    m.disc((0, -0.3, 0.44), (0, -1, 0), 0.2, 0.04, k.metal())
    m.disc((0, -0.325, 0.44), (0, -1, 0), 0.15, 0.02, k.paint((50, 60, 76)))
    m.box((-0.28, 0.28), (-0.29, -0.28), (0.73, 0.84), k.grey("keys"))
    m.top((-0.3, 0.3), (-0.28, 0.28), 0.85)


def clothes_dryer(m: Model, k: Kit) -> None:
    """Build a white cube with a square door and a raised panel at the back."""
    white = k.white()
    m.box((-0.33, 0.33), (-0.3, 0.3), (0, 0.92), white)
    m.box((-0.22, 0.22), (-0.325, -0.3), (0.3, 0.75), white)
    m.box((-0.03, 0.03), (-0.345, -0.325), (0.66, 0.7), k.grey())
    m.box((-0.33, 0.33), (0.2, 0.3), (0.92, 1.1), white)
    m.disc((0.18, 0.185, 1.01), (0, -1, 0), 0.045, 0.03, k.dark())
    m.top((-0.33, 0.33), (-0.3, 0.18), 0.92)


def machine(m: Model, k: Kit) -> None:
    """Build a vending machine: a bright front with a window of goods."""
    w, d, high = k.u(0.85, 1.0), k.u(0.7, 0.8), k.u(1.75, 1.85)
    body = k.bright()
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0, high), body)
    m.box((-w / 2 + 0.06, w * 0.22), (-d / 2 - 0.015, -d / 2), (0.6, high - 0.12), k.paint((70, 70, 80), "print"))
    m.box((w * 0.28, w / 2 - 0.05), (-d / 2 - 0.02, -d / 2), (0.9, 1.4), k.dark("keys"))
    m.box((-w / 2 + 0.06, w * 0.22), (-d / 2 - 0.015, -d / 2), (0.2, 0.42), k.dark())


ELECTRONICS = {
    "monitor": monitor,
    "tv": tv,
    "laptop": laptop,
    "keyboard": keyboard,
    "mouse": mouse,
    "computer tower": computer_tower,
    "printer": printer,
    "copier": copier,
    "telephone": telephone,
    "speaker": speaker,
    "headphones": headphones,
    "power strip": power_strip,
    "paper cutter": paper_cutter,
    "projector": projector,
    "fan": fan,
    "lamp": lamp,
    "alarm clock": alarm_clock,
    "washing machine": washing_machine,
    "clothes dryer": clothes_dryer,
    "machine": machine,
}
