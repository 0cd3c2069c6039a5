"""Construction of things: `Model` collects parts, `Kit` provides sizes and a room's materials."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from lg3d_core.synthetic.shapes import Array, Interval, Paint, Part, frame_along, pitch_matrix, yaw_matrix

Color = tuple[float, float, float]
Option = TypeVar("Option")

WOODS: tuple[Color, ...] = (
    (176, 128, 80),
    (120, 78, 46),
    (88, 54, 34),
    (205, 165, 112),
    (222, 196, 152),
    (150, 92, 52),
)
FABRICS: tuple[Color, ...] = (
    (60, 72, 110),
    (120, 50, 48),
    (96, 96, 92),
    (150, 130, 104),
    (70, 92, 72),
    (190, 178, 156),
    (52, 52, 58),
    (104, 76, 58),
    (62, 110, 120),
)
BRIGHTS: tuple[Color, ...] = (
    (200, 52, 48),
    (44, 96, 176),
    (232, 186, 48),
    (58, 140, 74),
    (214, 116, 44),
    (128, 66, 140),
    (220, 220, 214),
    (60, 170, 176),
    (212, 110, 140),
)
METALS: tuple[Color, ...] = ((168, 170, 172), (120, 122, 126), (64, 64, 68), (196, 196, 194))
WHITES: tuple[Color, ...] = ((226, 226, 222), (232, 228, 216), (214, 216, 218))


class Top(tuple[float, float, float, float, float, float]):
    """Level area for small things: low x, low y, high x, high y, z and the free height above, in the thing's frame."""

    __slots__ = ()


class Model:
    """Thing under construction in its own frame: origin on the ground below its centre, front towards -y."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.parts: list[Part] = []
        self.tops: list[Top] = []
        self._bounds: tuple[Array, Array, Array] | None = None

    def box(self, x: Interval, y: Interval, z: Interval, paint: Paint, *, lean: float = 0.0, yaw: float = 0.0) -> None:
        """Add a box over three intervals, tilted backwards by `lean` radians about its centre and rotated by `yaw`."""
        self._add("box", x, y, z, paint, lean=lean, yaw=yaw)

    def blob(
        self,
        x: Interval,
        y: Interval,
        z: Interval,
        paint: Paint,
        *,
        power: float = 4.0,
        lean: float = 0.0,
        yaw: float = 0.0,
    ) -> None:
        """Add a rounded box; power 2 is an ellipsoid."""
        self._add("blob", x, y, z, paint, lean=lean, yaw=yaw, power=power)

    def lathe(
        self,
        x: float,
        y: float,
        z: Interval,
        radius: float | tuple[float, float],
        paint: Paint,
        profile: Sequence[tuple[float, float]] = ((0, -1), (1, -1), (1, 1), (0, 1)),
    ) -> None:
        """Add a solid of revolution about the vertical through (x, y), by default a closed cylinder."""
        rx, ry = radius if isinstance(radius, tuple) else (radius, radius)
        self._add("lathe", (x - rx, x + rx), (y - ry, y + ry), z, paint, profile=tuple(profile))

    def rod(self, start: Sequence[float], end: Sequence[float], radius: float, paint: Paint) -> None:
        """Add a square bar between two points."""
        a, b = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
        half = np.array([radius, radius, float(np.linalg.norm(b - a)) / 2])
        self.parts.append(Part("box", (a + b) / 2, half, frame_along(b - a), paint))

    def disc(
        self, center: Sequence[float], direction: Sequence[float], radius: float, depth: float, paint: Paint
    ) -> None:
        """Add a flat cylinder whose axis is `direction`."""
        turn = frame_along(np.asarray(direction, dtype=np.float64))
        half = np.array([radius, radius, depth / 2])
        middle = np.asarray(center, dtype=np.float64)
        self.parts.append(Part("lathe", middle, half, turn, paint, profile=((0, -1), (1, -1), (1, 1), (0, 1))))

    def legs(self, w: float, d: float, z: Interval, thickness: float, paint: Paint, *, inset: float = 0.0) -> None:
        """Add four straight legs under a `w` x `d` plate."""
        for sx in (-1, 1):
            for sy in (-1, 1):
                x, y = sx * (w / 2 - thickness / 2 - inset), sy * (d / 2 - thickness / 2 - inset)
                self.box((x - thickness / 2, x + thickness / 2), (y - thickness / 2, y + thickness / 2), z, paint)

    def top(self, x: Interval, y: Interval, z: float, *, headroom: float = 1.0) -> None:
        """Declare a level area for small things."""
        self.tops.append(Top((x[0], y[0], x[1], y[1], z, headroom)))

    def _add(
        self,
        shape: str,
        x: Interval,
        y: Interval,
        z: Interval,
        paint: Paint,
        *,
        lean: float = 0.0,
        yaw: float = 0.0,
        power: float = 4.0,
        profile: tuple[tuple[float, float], ...] = (),
    ) -> None:
        low, high = np.array([x[0], y[0], z[0]]), np.array([x[1], y[1], z[1]])
        turn = yaw_matrix(yaw) @ pitch_matrix(lean) if lean or yaw else np.eye(3)
        half = np.maximum((high - low) / 2, 1e-4)
        self.parts.append(Part(shape, (low + high) / 2, half, turn, paint, profile=profile, power=power))

    def lift(self) -> None:
        """Raise all parts so that nothing lies below the origin, including corners of slanted bars."""
        low = float(self.extent()[0][2])
        if low < 0:
            self.parts = [replace(part, center=part.center - (0, 0, low)) for part in self.parts]
            self.tops = [Top((*top[:4], top[4] - low, top[5])) for top in self.tops]
            self._bounds = None

    def forget_bounds(self) -> None:
        """Invalidate the cached bounds after a change."""
        self._bounds = None

    def bounds(self) -> tuple[Array, Array, Array]:
        """Return the centres `(parts, 3)`, half sizes `(parts, 3)` and rotations `(parts, 3, 3)` of all parts."""
        if self._bounds is None or len(self._bounds[0]) != len(self.parts):
            self._bounds = (
                np.stack([part.center for part in self.parts]),
                np.stack([part.half for part in self.parts]),
                np.stack([part.turn for part in self.parts]),
            )
        return self._bounds

    def extent(self, yaw: float = 0.0) -> tuple[Array, Array]:
        """Return the low and high corner of all parts, rotated by `yaw`, relative to the origin."""
        low, high = part_boxes(self, yaw)
        return low.min(axis=0), high.max(axis=0)


def part_boxes(model: Model, yaw: float) -> tuple[Array, Array]:
    """Return the axis-aligned low and high corners of a model's parts, rotated by `yaw`, shape `(parts, 3)` each."""
    center, half, turn = model.bounds()
    rotation = yaw_matrix(yaw)
    reach = (np.abs(rotation @ turn) @ half[:, :, None])[:, :, 0]
    middle = center @ rotation.T
    return middle - reach, middle + reach


class Kit:
    """Random numbers and materials of a room, so that its furniture matches."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._wood = self._vary(self.choose(WOODS), 10)
        self._second_wood = self._vary(self.choose(WOODS), 10)
        self._metal = self._vary(self.choose(METALS), 6)
        self._fabric = self._vary(self.choose(FABRICS), 12)
        self.worktop = self.paint(self.choose(((92, 86, 84), (206, 200, 190), (60, 60, 64), *WOODS[:1])), "granite")
        self.blind_width = 1.0
        self.kitchen = self.paint(self.choose((*WOODS, *WHITES)), "wood", spread=6)

    def u(self, low: float, high: float) -> float:
        """Draw a uniform number."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """Return True with a probability."""
        return bool(self.rng.random() < probability)

    def count(self, low: int, high: int) -> int:
        """Draw an integer, both ends included."""
        return int(self.rng.integers(low, high + 1))

    def choose(self, options: Sequence[Option]) -> Option:
        """Choose one of the options."""
        return options[int(self.rng.integers(len(options)))]

    def paint(self, rgb: Color, texture: str = "plain", *, spread: float = 8.0) -> Paint:
        """Return a paint near a colour."""
        return Paint(self._vary(rgb, spread), texture, int(self.rng.integers(1 << 30)))

    def wood(self) -> Paint:
        """Return the room's wood, or its second wood."""
        return self.paint(self._wood if self.chance(0.75) else self._second_wood, "wood", spread=6)

    def metal(self) -> Paint:
        """Return the room's metal."""
        return self.paint(self._metal, "plain", spread=5)

    def fabric(self) -> Paint:
        """Return an upholstery fabric, mostly the room's."""
        return self.paint(self._fabric if self.chance(0.5) else self.choose(FABRICS), "fabric", spread=12)

    def bright(self, texture: str = "plain") -> Paint:
        """Return a saturated colour."""
        return self.paint(self.choose(BRIGHTS), texture, spread=18)

    def white(self, texture: str = "plain") -> Paint:
        """Return white lacquer, enamel or ceramics."""
        return self.paint(self.choose(WHITES), texture, spread=5)

    def dark(self, texture: str = "plain") -> Paint:
        """Return nearly black plastic."""
        return self.paint((44, 44, 48), texture, spread=10)

    def grey(self, texture: str = "plain") -> Paint:
        """Return grey plastic or sheet metal."""
        return self.paint((150, 152, 154), texture, spread=22)

    def _vary(self, rgb: Color, spread: float) -> Color:
        shift = self.rng.normal(0.0, spread, size=3) * 0.5 + self.rng.normal(0.0, spread)
        r, g, b = (float(min(max(c + s, 4.0), 250.0)) for c, s in zip(rgb, shift, strict=True))
        return (r, g, b)
