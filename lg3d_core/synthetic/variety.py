"""Random materials per room, so that colours and textures reveal little about a thing."""

import colorsys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lg3d_core.synthetic.modelling import Color, Kit, Model, Top
from lg3d_core.synthetic.shapes import Paint

FIXED = ("screen", "leaves", "keys", "piano", "text", "scribble", "spines", "as it is")
"""Textures that are specific to their thing."""
CLOTHS = ("fabric", "fabric", "fabric", "weave", "plain", "plain", "stripes", "checks", "floral", "print")
PANELS = ("wood", "wood", "wood", "plain", "plain", "marble", "granite")


class VariedKit(Kit):
    """Kit with a random palette: woods of any tone, cloth of any colour and pattern, painted furniture."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.odd = float(rng.uniform(0.02, 0.2))
        super().__init__(rng)
        self._woods = [self.random_wood() for _ in range(3)]
        self._cloths = [self.random_cloth() for _ in range(3)]
        self.kitchen = self.choose((self.wood, self.white, self.white, self.grey, self.any_plain))()
        self.worktop = self.paint(
            self.choose(((92, 86, 84), (206, 200, 190), (60, 60, 64), (170, 160, 150), self.random_wood())),
            self.choose(("granite", "marble", "plain", "wood")),
            spread=20,
        )

    def random_color(self, *, saturation: float = 0.6, value: tuple[float, float] = (0.15, 0.95)) -> Color:
        """Return a random colour of any hue, mostly dull."""
        r, g, b = colorsys.hsv_to_rgb(self.u(0, 1), saturation * self.u(0, 1) ** 1.5, self.u(*value))
        return (255 * r, 255 * g, 255 * b)

    def random_wood(self) -> Color:
        """Return a brown, yellow, red or grey tone."""
        r, g, b = colorsys.hsv_to_rgb(self.u(0.03, 0.12), self.u(0.1, 0.75), self.u(0.18, 0.92))
        return (255 * r, 255 * g, 255 * b)

    def random_cloth(self) -> Color:
        """Return a colour of upholstery: greys and beiges more often than others."""
        if self.chance(0.45):
            grey, warm = self.u(25, 225), self.u(-5, 25)
            return (grey + warm, grey + 0.5 * warm, grey)
        return self.random_color(saturation=0.8)

    def paint(self, rgb: Color, texture: str = "plain", *, spread: float = 8.0) -> Paint:
        """Return a paint near a colour, or sometimes of another colour."""
        if texture == "print":
            texture = self.choose(("painting", "painting", "painting", "floral", "text", "print"))
            rgb = self.random_color(saturation=0.7)
        if texture not in FIXED and self.chance(self.odd):
            return super().paint(self.random_color(), texture, spread=spread)
        return super().paint(rgb, texture, spread=1.6 * spread)

    def any_plain(self, texture: str = "plain") -> Paint:
        """Return lacquer of any colour."""
        return super().paint(self.random_color(), texture, spread=4)

    def wood(self) -> Paint:
        """Return one of the room's woods, or lacquer."""
        if self.chance(0.12):
            return self.any_plain()
        rgb = self.choose(self._woods) if hasattr(self, "_woods") and self.chance(0.8) else self.random_wood()
        return super().paint(rgb, self.choose(PANELS), spread=7)

    def metal(self) -> Paint:
        """Return chrome, black, white, brass or lacquer."""
        tone = self.choose(((168, 170, 172), (120, 122, 126), (50, 50, 54), (215, 215, 212), (180, 150, 90)))
        return super().paint(tone, "plain", spread=12) if self.chance(0.9) else self.any_plain()

    def fabric(self) -> Paint:
        """Return one of the room's cloths, or another."""
        known = hasattr(self, "_cloths") and self.chance(0.55)
        return super().paint(self.choose(self._cloths) if known else self.random_cloth(), self.choose(CLOTHS), spread=8)

    def bright(self, texture: str = "plain") -> Paint:
        """Return a more saturated colour."""
        return super().paint(self.random_color(saturation=1.0, value=(0.25, 1.0)), texture, spread=8)

    def white(self, texture: str = "plain") -> Paint:
        """Return white or cream, sometimes grey or any colour."""
        if self.chance(0.12):
            return self.any_plain(texture)
        value = self.u(190, 245)
        return super().paint((value, value - self.u(0, 6), value - self.u(0, 28)), texture, spread=3)

    def dark(self, texture: str = "plain") -> Paint:
        """Return black, sometimes grey or any colour."""
        return self.any_plain(texture) if self.chance(0.15) else super().paint((46, 46, 50), texture, spread=14)

    def grey(self, texture: str = "plain") -> Paint:
        """Return grey or beige of any lightness."""
        value = self.u(70, 220)
        return super().paint((value + self.u(-4, 14), value, value + self.u(-12, 6)), texture, spread=5)


def resize(model: Model, factor: float) -> None:
    """Scale a thing about its origin."""
    model.parts = [
        replace(
            part,
            center=part.center * factor,
            half=part.half * factor,
            openings=tuple((a * factor, b * factor, c * factor, d * factor) for a, b, c, d in part.openings),
        )
        for part in model.parts
    ]
    model.tops = [Top(tuple(float(value) * factor for value in top)) for top in model.tops]
    model.forget_bounds()


def pick(options: Sequence[tuple[float, str]], rng: np.random.Generator) -> str:
    """Return one of several weighted names."""
    weights = np.array([weight for weight, _ in options])
    return options[int(rng.choice(len(options), p=weights / weights.sum()))][1]
