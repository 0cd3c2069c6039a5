"""Beds and bedding."""

from lg3d_core.synthetic.modelling import FABRICS, Kit, Model


def bed(m: Model, k: Kit) -> None:
    """Build a frame with head and foot board, a mattress and a bedspread; its head is at the back."""
    w, d = k.choose((0.95, 1.25, 1.45, 1.6)) + k.u(-0.03, 0.03), k.u(1.98, 2.1)
    wood = k.wood()
    high = k.u(0.48, 0.58)
    m.legs(w, d, (0, 0.18), 0.07, wood)
    m.box((-w / 2, w / 2), (-d / 2, d / 2), (0.18, 0.3), wood)
    m.box((-w / 2 - 0.02, w / 2 + 0.02), (d / 2, d / 2 + 0.05), (0, k.u(0.85, 1.1)), wood)
    m.box((-w / 2 - 0.02, w / 2 + 0.02), (-d / 2 - 0.04, -d / 2), (0, high - 0.05), wood)
    m.blob((-w / 2, w / 2), (-d / 2, d / 2), (0.28, high), k.white("fabric"), power=14)
    spread = k.paint(k.choose(FABRICS), k.choose(("fabric", "weave")), spread=16)
    m.blob((-w / 2 - 0.03, w / 2 + 0.03), (-d / 2, d * 0.18), (0.26, high + 0.035), spread, power=16)
    m.top((-w / 2 + 0.05, w / 2 - 0.05), (d * 0.2, d / 2 - 0.02), high)
    m.top((-w / 2 + 0.1, w / 2 - 0.1), (-d / 2 + 0.1, d * 0.14), high + 0.035)


def pillow(m: Model, k: Kit) -> None:
    """Build a pillow: white or pale, wide, lying flat."""
    w, d = k.u(0.55, 0.68), k.u(0.36, 0.42)
    paint = k.white("fabric") if k.chance(0.7) else k.paint((196, 200, 214), "fabric", spread=14)
    m.blob((-w / 2, w / 2), (-d / 2, d / 2), (0, k.u(0.12, 0.16)), paint, power=2.8)


def blanket(m: Model, k: Kit) -> None:
    """Build a folded blanket: two soft layers."""
    w, d = k.u(0.5, 0.8), k.u(0.38, 0.5)
    paint = k.bright("weave")
    m.blob((-w / 2, w / 2), (-d / 2, d / 2), (0, 0.05), paint, power=9)
    m.blob((-w / 2 + 0.02, w / 2 - 0.02), (-d / 2 + 0.01, d / 2 - 0.02), (0.045, 0.09), paint, power=9)


def mattress(m: Model, k: Kit) -> None:
    """Build a bare mattress on the floor."""
    w, d = k.u(0.9, 1.2), k.u(1.9, 2.0)
    m.blob(
        (-w / 2, w / 2), (-d / 2, d / 2), (0, k.u(0.18, 0.24)), k.paint((212, 208, 200), "weave", spread=8), power=14
    )
    m.top((-w / 2 + 0.08, w / 2 - 0.08), (-d / 2 + 0.1, d / 2 - 0.1), 0.18)


def stuffed_animal(m: Model, k: Kit) -> None:
    """Build a sitting bear: body, head, ears, limbs."""
    s = k.u(0.9, 1.3)
    fur = k.paint((164, 116, 70), "fabric", spread=20)
    m.blob((-0.09 * s, 0.09 * s), (-0.07 * s, 0.07 * s), (0, 0.2 * s), fur, power=2.2)
    m.blob((-0.075 * s, 0.075 * s), (-0.08 * s, 0.06 * s), (0.18 * s, 0.32 * s), fur, power=2.2)
    for side in (-1, 1):
        x = side * 0.06 * s
        m.blob((x - 0.03 * s, x + 0.03 * s), (-0.02 * s, 0.02 * s), (0.29 * s, 0.36 * s), fur, power=2)
        m.blob((x - 0.035 * s, x + 0.035 * s), (-0.18 * s, -0.02 * s), (0, 0.07 * s), fur, power=2.2)
        x = side * 0.1 * s
        m.blob((x - 0.03 * s, x + 0.03 * s), (-0.1 * s, 0.02 * s), (0.09 * s, 0.17 * s), fur, power=2.2)


SLEEPING = {"bed": bed, "pillow": pillow, "blanket": blanket, "mattress": mattress, "stuffed animal": stuffed_animal}
