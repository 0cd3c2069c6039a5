"""Layout of a room: walls, and placement of things without overlap."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lg3d_core.synthetic.modelling import Model, part_boxes
from lg3d_core.synthetic.shapes import Array, Rectangle, yaw_matrix

# Yaw that turns a thing's back (+y) to each wall.
WALL_YAW = {"south": np.pi, "north": 0.0, "east": -np.pi / 2, "west": np.pi / 2}
WALLS = tuple(WALL_YAW)

TOUCH = 0.006
"""Maximum overlap of the boxes of two parts in metres."""
TRIES = 14


@dataclass(frozen=True, slots=True)
class Thing:
    """Placed model: `origin` in room coordinates, `yaw` in radians, and the wall at its back ("" for none)."""

    model: Model
    origin: Array
    yaw: float
    wall: str = ""

    @property
    def label(self) -> str:
        """Class name in the vocabulary."""
        return self.model.label

    def boxes(self) -> tuple[Array, Array]:
        """Return the axis-aligned corners of all parts in room coordinates, shape `(parts, 3)` each."""
        low, high = part_boxes(self.model, self.yaw)
        return low + self.origin, high + self.origin


@dataclass
class Room:
    """Rectangular room from (0, 0, 0) to `size`, with its things and reserved spaces."""

    size: tuple[float, float, float]
    rng: np.random.Generator
    things: list[Thing] = field(default_factory=list)
    areas: tuple[Rectangle, ...] = ()
    """Rectangles of the floor; if empty, the floor is the whole rectangle."""
    _low: Array = field(default_factory=lambda: np.zeros((0, 3)))
    _high: Array = field(default_factory=lambda: np.zeros((0, 3)))

    @property
    def middle(self) -> Array:
        """Centre of the floor."""
        return np.array(self.size[:2]) / 2

    @property
    def floor_area(self) -> float:
        """Area of the floor in square metres."""
        return sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in self._areas())

    def contains(self, xy: Array) -> npt.NDArray[np.bool_]:
        """Return whether points, shape `(points, 2)`, are above the room's floor."""
        inside = np.zeros(len(xy), dtype=bool)
        for x0, y0, x1, y1 in self._areas():
            inside |= ((xy > (x0, y0)) & (xy < (x1, y1))).all(axis=1)
        return inside

    def _areas(self) -> tuple[Rectangle, ...]:
        return self.areas or ((0.0, 0.0, self.size[0], self.size[1]),)

    def reserved(self) -> tuple[Array, Array]:
        """Return the low and high corners of all occupied or reserved boxes, shape `(boxes, 3)` each."""
        return self._low, self._high

    def reserve(self, low: Array, high: Array) -> None:
        """Reserve boxes in front of doors and windows, shape `(boxes, 3)`."""
        self._low, self._high = np.concatenate([self._low, low]), np.concatenate([self._high, high])

    def fits(self, model: Model, origin: Array, yaw: float) -> bool:
        """Return whether a model would be within the walls without overlap."""
        low, high = part_boxes(model, yaw)
        low, high = low + origin, high + origin
        if (low.min(axis=0) < -0.002).any() or (high.max(axis=0) > np.array(self.size) + 0.002).any():
            return False
        near = ((self._low < high.max(axis=0)) & (self._high > low.min(axis=0))).all(axis=1)
        if not near.any():
            return True
        old_low, old_high = self._low[near] + TOUCH, self._high[near] - TOUCH
        return not ((low[:, None] < old_high) & (high[:, None] > old_low)).all(axis=2).any()

    def put(self, model: Model, origin: Array, yaw: float, wall: str = "") -> Thing | None:
        """Place a model at a position if it fits."""
        if not self.fits(model, origin, yaw):
            return None
        thing = Thing(model, origin, yaw, wall)
        self.things.append(thing)
        self.reserve(*thing.boxes())
        return thing

    def at_wall(self, wall: str, model: Model, along: float, *, z: float = 0.0, gap: float = 0.0) -> Thing | None:
        """Place a model with its back to a wall, its centre `along` metres from the wall's start (west or south)."""
        yaw = WALL_YAW[wall]
        low, high = model.extent(yaw)
        width, depth, _ = self.size
        origin = {
            "south": (along, gap - low[1], z),
            "north": (along, depth - gap - high[1], z),
            "west": (gap - low[0], along, z),
            "east": (width - gap - high[0], along, z),
        }[wall]
        return self.put(model, np.array(origin), yaw, wall)

    def wall_length(self, wall: str) -> float:
        """Length of a wall in metres."""
        return self.size[0] if wall in ("south", "north") else self.size[1]

    def along_wall(
        self, model: Model, *, corner: bool = False, z: float = 0.0, gap: float | None = None
    ) -> Thing | None:
        """Place a model somewhere along any wall, or near the end of one."""
        low, high = model.extent()
        half = float(high[0] - low[0]) / 2
        for _ in range(TRIES):
            wall = WALLS[int(self.rng.integers(4))]
            length = self.wall_length(wall)
            if length < 2 * half + 0.02:
                continue
            if corner:
                end = half + float(self.rng.uniform(0.01, 0.06))
                along = end if self.rng.random() < 0.5 else length - end
            else:
                along = float(self.rng.uniform(half + 0.01, length - half - 0.01))
            distance = float(self.rng.uniform(0.005, 0.04)) if gap is None else gap
            thing = self.at_wall(wall, model, along, z=z, gap=distance)
            if thing:
                return thing
        return None

    def on_floor(self, model: Model, *, middle: bool = False) -> Thing | None:
        """Place a model freely on the floor; `middle` prefers the room's centre and right angles."""
        width, depth, _ = self.size
        for attempt in range(TRIES):
            if middle:
                yaw = float(self.rng.choice([0.0, np.pi / 2])) + float(self.rng.normal(0, 0.04))
                spread = 0.06 + 0.02 * attempt
                place = (0.5 + self.rng.normal(0, spread, size=2)) * (width, depth)
            else:
                yaw = float(self.rng.uniform(-np.pi, np.pi))
                place = self.rng.uniform(0.3, 1.0, size=2) * (width - 0.3, depth - 0.3)
            thing = self.put(model, np.array([*place, 0.0]), yaw)
            if thing:
                return thing
        return None

    def on_top(self, host: Thing, model: Model, *, facing: bool = False, only: int | None = None) -> Thing | None:
        """Place a model on one of the host's tops, or on `only`; `facing` models face the host's direction."""
        if not host.model.tops:
            return None
        for _ in range(TRIES):
            x0, y0, x1, y1, z, headroom = host.model.tops[
                int(self.rng.integers(len(host.model.tops))) if only is None else only
            ]
            turn = float(self.rng.normal(0, 0.08)) if facing else float(self.rng.uniform(-0.5, 0.5))
            low, high = model.extent(turn)
            room = np.array([x1 - x0, y1 - y0]) - (high[:2] - low[:2])
            if (room < -0.02).any() or high[2] > headroom:
                continue
            room = np.maximum(room, 0)
            share = self.rng.uniform(0, 1, size=2)
            if facing:
                share[1] = 0.75 + 0.25 * share[1]
            local = np.array([*(np.array([x0, y0]) - low[:2] + share * room), z])
            thing = self.put(model, host.origin + yaw_matrix(host.yaw) @ local, host.yaw + turn)
            if thing:
                return thing
        return None

    def beside(self, host: Thing, model: Model, *, gap: float = 0.05) -> Thing | None:
        """Place a model to the left or right of the host, with aligned backs."""
        low, high = host.model.extent()
        mine_low, mine_high = model.extent()
        for side in self.rng.permutation([-1, 1]):
            distance = gap * float(self.rng.uniform(0.5, 1.5))
            x = high[0] + distance - mine_low[0] if side > 0 else low[0] - distance - mine_high[0]
            local = np.array([x, high[1] - mine_high[1], -host.origin[2]])
            thing = self.put(model, host.origin + yaw_matrix(host.yaw) @ local, host.yaw, host.wall)
            if thing:
                return thing
        return None

    def before(
        self, host: Thing, model: Model, *, side: int = 0, shift: float = 0.0, reach: float = 0.5
    ) -> Thing | None:
        """Place a model in front of a side of the host (0 front, 1 right, 2 back, 3 left), facing it.

        The model's front may reach below the host by up to `reach` of its depth.
        """
        turn = side * np.pi / 2
        low, _ = host.model.extent(-turn)
        mine_low, mine_high = model.extent(np.pi)
        depth = float(mine_high[1] - mine_low[1])
        for share in (reach, reach * 0.6, reach * 0.3, 0.0, -0.15):
            jitter = float(self.rng.normal(0, 0.12))
            local = np.array([shift, low[1] + share * depth - mine_high[1] - 0.01, 0.0])
            yaw = host.yaw + turn
            origin = host.origin * (1, 1, 0) + yaw_matrix(yaw) @ local
            thing = self.put(model, origin, yaw + np.pi + jitter)
            if thing:
                return thing
        return None

    def around(self, host: Thing, model: Model, count: int, *, pitch: float = 0.62) -> list[Thing]:
        """Place copies of a chair around a table, evenly spaced, long sides first."""
        low, high = host.model.extent()
        size = high - low
        placed: list[Thing] = []
        order = (0, 2, 1, 3) if size[0] >= size[1] else (1, 3, 0, 2)
        for side in order:
            length = float(size[0] if side % 2 == 0 else size[1])
            seats = max(1, int(length / pitch))
            for n in range(seats):
                if len(placed) >= count:
                    return placed
                shift = ((n + 0.5) / seats - 0.5) * length
                thing = self.before(host, model, side=side, shift=shift, reach=float(self.rng.uniform(0.2, 0.6)))
                if thing:
                    placed.append(thing)
        return placed

    def under(self, host: Thing, model: Model) -> Thing | None:
        """Place a model on the floor below the host, e.g. a computer below a desk."""
        low, high = host.model.extent()
        mine_low, mine_high = model.extent()
        room = np.maximum((high - low - (mine_high - mine_low))[:2], 0)
        for _ in range(TRIES):
            local = np.array([*((low - mine_low)[:2] + self.rng.uniform(0, 1, size=2) * room), 0.0])
            thing = self.put(model, host.origin * (1, 1, 0) + yaw_matrix(host.yaw) @ local, host.yaw)
            if thing:
                return thing
        return None

    def hang(self, model: Model, low: float, high: float) -> Thing | None:
        """Hang a model on any wall, with its origin between two heights."""
        for _ in range(4):
            thing = self.along_wall(model, z=float(self.rng.uniform(low, high)), gap=0.0)
            if thing:
                return thing
        return None

    def hang_by(self, host: Thing, model: Model, low: float, high: float, *, aside: bool = False) -> Thing | None:
        """Hang a model on the host's wall: above it, or `aside` next to its ends."""
        if not host.wall:
            return None
        mine_low, mine_high = model.extent()
        host_low, host_high = host.model.extent()
        half, reach = float(mine_high[0] - mine_low[0]) / 2, float(host_high[0] - host_low[0]) / 2
        axis = 0 if host.wall in ("south", "north") else 1
        for _ in range(TRIES):
            if aside:
                offset = (reach + half + float(self.rng.uniform(0.03, 0.4))) * float(self.rng.choice([-1, 1]))
            else:
                offset = float(self.rng.normal(0, 0.12)) * reach
            z = float(self.rng.uniform(low, high))
            thing = self.at_wall(host.wall, model, float(host.origin[axis]) + offset, z=z)
            if thing:
                return thing
        return None

    def from_ceiling(self, model: Model) -> Thing | None:
        """Hang a model below the ceiling, away from the walls."""
        width, depth, height = self.size
        _, high = model.extent()
        for _ in range(TRIES):
            place = self.rng.uniform(0.25, 0.75, size=2) * (width, depth)
            yaw = float(self.rng.choice([0.0, np.pi / 2]))
            thing = self.put(model, np.array([*place, height - high[2]]), yaw)
            if thing:
                return thing
        return None

    def named(self, *labels: str) -> list[Thing]:
        """Return the things of some classes, in the order of placement."""
        return [thing for thing in self.things if thing.label in labels]
