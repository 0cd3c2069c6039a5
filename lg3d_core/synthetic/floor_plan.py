"""Floor plans of several zones: adjacent rectangles, the walls around them, and visible parts of adjacent rooms."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from lg3d_core.synthetic.layout import WALLS, Room, Thing
from lg3d_core.synthetic.modelling import Model
from lg3d_core.synthetic.shapes import Array, Paint, Part, Rectangle, yaw_matrix
from lg3d_core.synthetic.shell import (
    FLOORS,
    add_fixture,
    add_sheet,
    add_surface,
    keep_free,
    wall_frame,
    wall_part,
)
from lg3d_core.synthetic.variety import VariedKit

THICKNESS = 0.12
"""Thickness of the walls between zones in metres."""
PASSAGE = 0.55
"""Depth in metres of the free strip in front of an opening to another zone."""


@dataclass
class Zone:
    """Rectangle of the floor with one use.

    Attributes:
        kind: Name of the kind of room.
        low: Low corner in metres.
        size: Width and depth in metres.
        openings: Intervals along each wall, from its start, that are open to other zones.
        bridges: Wall, start and end of the openings whose floor, ceiling and jambs this zone builds.
    """

    kind: str
    low: tuple[float, float]
    size: tuple[float, float]
    openings: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {wall: [] for wall in WALLS})
    bridges: list[tuple[str, float, float]] = field(default_factory=list)

    @property
    def rectangle(self) -> Rectangle:
        """Low x, low y, high x and high y."""
        return (*self.low, self.low[0] + self.size[0], self.low[1] + self.size[1])


def arrange(sizes: list[tuple[str, float, float]], rng: np.random.Generator) -> list[Zone]:
    """Place rectangles one wall thickness apart, and open their shared sides.

    Args:
        sizes: Kind, width and depth of every zone.
        rng: Random number generator.

    Returns:
        Zones whose common low corner is (0, 0).
    """
    zones: list[Zone] = []
    for kind, width, depth in sizes:
        for _ in range(30):
            low = (0.0, 0.0)
            if zones:
                host = zones[int(rng.integers(len(zones)))]
                x0, y0, x1, y1 = host.rectangle
                side = WALLS[int(rng.integers(4))]
                mine, theirs = (width, x1 - x0) if side in ("south", "north") else (depth, y1 - y0)
                shift = float(
                    rng.choice([0.0, theirs - mine, rng.uniform(min(0, theirs - mine), max(0, theirs - mine))])
                )
                low = {
                    "south": (x0 + shift, y0 - depth - THICKNESS),
                    "north": (x0 + shift, y1 + THICKNESS),
                    "west": (x0 - width - THICKNESS, y0 + shift),
                    "east": (x1 + THICKNESS, y0 + shift),
                }[side]
            zone = Zone(kind, low, (width, depth))
            if not any(_overlap(zone.rectangle, other.rectangle) for other in zones):
                zones.append(zone)
                break
    corner = np.min([zone.low for zone in zones], axis=0)
    for zone in zones:
        zone.low = (float(zone.low[0] - corner[0]), float(zone.low[1] - corner[1]))
    for n, zone in enumerate(zones):
        for other in zones[n + 1 :]:
            _open_between(zone, other, rng)
    return zones


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] - 0.01 and a[2] > b[0] + 0.01 and a[1] < b[3] - 0.01 and a[3] > b[1] + 0.01


def _open_between(zone: Zone, other: Zone, rng: np.random.Generator) -> None:
    a, b = zone.rectangle, other.rectangle
    for mine, theirs, axis, touch in (
        ("east", "west", 1, b[0] - a[2]),
        ("west", "east", 1, a[0] - b[2]),
        ("north", "south", 0, b[1] - a[3]),
        ("south", "north", 0, a[1] - b[3]),
    ):
        start, end = max(a[axis], b[axis]), min(a[axis + 2], b[axis + 2])
        if abs(touch - THICKNESS) > 0.01 or end - start < 0.6:
            continue
        if rng.random() < 0.35 and end - start > 1.4:  # parts of a wall remain
            width = float(rng.uniform(0.9, end - start))
            start = float(rng.uniform(start, end - width))
            end = start + width
        zone.openings[mine].append((start - zone.low[axis], end - zone.low[axis]))
        zone.bridges.append((mine, *zone.openings[mine][-1]))
        other.openings[theirs].append((start - other.low[axis], end - other.low[axis]))


@dataclass(frozen=True, kw_only=True)
class Finish:
    """Surfaces of a zone: paints of the walls, the accent wall, the floor and the ceiling."""

    walls: Paint
    accent: Paint
    floor: Paint
    ceiling: Paint


def draw_finish(kit: VariedKit, *, floors: tuple[str, ...], tiled: bool) -> Finish:
    """Return random surfaces; wet rooms are tiled more often."""

    def wall() -> Paint:
        light = kit.u(165, 245)
        rgb = (light, light - kit.u(-4, 14), light - kit.u(-6, 34))
        if kit.chance(0.3):
            rgb = kit.random_color(saturation=0.7, value=(0.3, 0.98))
        texture = kit.choose(("plaster",) * 12 + ("stripes", "floral", "brick", "wood", "plain"))
        if tiled and kit.chance(0.6):
            texture = "tiles"
        return Paint(rgb, texture, int(kit.rng.integers(1 << 30)))

    walls = wall()
    texture = kit.choose(floors) if kit.chance(0.75) else kit.choose(tuple(FLOORS))
    tone = kit.choose(FLOORS[texture]) if kit.chance(0.4) else kit.random_wood()
    if texture in ("carpet", "tiles", "granite") and kit.chance(0.6):
        tone = kit.random_color(saturation=0.45, value=(0.2, 0.9))
    if texture == "tiles" and kit.chance(0.3):
        texture = kit.choose(("marble", "checks", "granite", "plain"))
    return Finish(
        walls=walls,
        accent=wall() if kit.chance(0.2) else walls,
        floor=Paint(tone, texture, int(kit.rng.integers(1 << 30))),
        ceiling=Paint((kit.u(200, 245),) * 3, "plaster", int(kit.rng.integers(1 << 30))),
    )


def build_zone_shell(
    room: Room,
    kit: VariedKit,
    zone: Zone,
    zones: list[Zone],
    finish: Finish,
    *,
    lintel: float,
    doors: int,
    windows: int,
) -> None:
    """Add walls, floor, ceiling, doors, windows and neighbouring rooms of one zone to its room.

    Openings to other zones are `lintel` metres high.
    """
    height = room.size[2]
    openings: dict[str, list[Rectangle]] = {wall: [] for wall in WALLS}
    for wall in WALLS:
        length = room.wall_length(wall)
        for start, end in zone.openings[wall]:
            a, b = sorted((_across(wall, start, length), _across(wall, end, length)))
            openings[wall].append((a, -height / 2, b, lintel - height / 2))
            origin, yaw = wall_frame(room, wall, (start + end) / 2)
            half = (end - start) / 2
            keep_free(room, origin, yaw, (-half, -PASSAGE, 0.02), (half, 0.3, height))
    for wall, start, end in zone.bridges:
        _add_bridge(room, wall, start, end, lintel, finish)
    for n in range(doors + windows):
        for _ in range(12):
            wall = WALLS[int(room.rng.integers(4))]
            if _add_opening(room, kit, zone, zones, wall, openings[wall], finish, door=n < doors):
                break
    for n, wall in enumerate(WALLS):
        length = room.wall_length(wall)
        paint = finish.accent if n == 0 else finish.walls
        part = wall_part(length, height, tuple(openings[wall]), paint)
        solid = length - sum(end - start for start, end in zone.openings[wall])
        if solid > 0.02 or lintel < height:
            add_sheet(room, "wall", part, wall, length)
    width, depth, _ = room.size
    flat = np.array([width / 2, depth / 2, 0.0])
    add_surface(room, "floor", Part("panel", flat, flat, np.eye(3), finish.floor))
    top = np.array([width / 2, depth / 2, height])
    add_surface(room, "ceiling", Part("panel", top, flat, np.diag([1.0, -1.0, -1.0]), finish.ceiling))


def _add_bridge(room: Room, wall: str, start: float, end: float, lintel: float, finish: Finish) -> None:
    origin, yaw = wall_frame(room, wall, (start + end) / 2)
    half = (end - start) / 2
    jambs, floor = Model("wall"), Model("floor")
    for x0, x1 in ((-half - 0.02, -half), (half, half + 0.02)):
        jambs.box((x0, x1), (0.0, THICKNESS), (0, lintel), finish.walls)
    jambs.box((-half, half), (0.0, THICKNESS), (lintel, lintel + 0.02), finish.walls)
    floor.box((-half, half), (0.0, THICKNESS), (-0.02, 0.0), finish.floor)
    room.things += [Thing(jambs, origin, yaw), Thing(floor, origin, yaw)]


def bridge_areas(zones: list[Zone]) -> tuple[Rectangle, ...]:
    """Return the floor between zones, as rectangles."""
    areas: list[Rectangle] = []
    for zone in zones:
        x0, y0, x1, y1 = zone.rectangle
        for wall, start, end in zone.bridges:
            areas.append(
                {
                    "south": (x0 + start, y0 - THICKNESS, x0 + end, y0),
                    "north": (x0 + start, y1, x0 + end, y1 + THICKNESS),
                    "west": (x0 - THICKNESS, y0 + start, x0, y0 + end),
                    "east": (x1, y0 + start, x1 + THICKNESS, y0 + end),
                }[wall]
            )
    return tuple(areas)


def _across(wall: str, along: float, length: float) -> float:
    """Return the coordinate of a position `along` a wall in the wall's panel."""
    return along - length / 2 if wall in ("north", "west") else length / 2 - along


def _add_opening(
    room: Room,
    kit: VariedKit,
    zone: Zone,
    zones: list[Zone],
    wall: str,
    openings: list[Rectangle],
    finish: Finish,
    *,
    door: bool,
) -> bool:
    length, height = room.wall_length(wall), room.size[2]
    w = (kit.u(0.72, 1.0) if kit.chance(0.85) else kit.u(1.2, 1.8)) if door else kit.u(0.5, 2.4)
    w = min(w, length - 0.5)
    if w < 0.45:
        return False
    along = kit.u(w / 2 + 0.12, length - w / 2 - 0.12)
    sill, top = (0.0, kit.u(1.96, 2.12)) if door else (kit.u(0.3, 1.15), min(kit.u(1.8, 2.3), height - 0.12))
    x = _across(wall, along, length)
    mine = (x - w / 2, sill - height / 2, x + w / 2, top - height / 2)
    if any(mine[0] < other[2] + 0.12 and mine[2] > other[0] - 0.12 for other in openings):
        return False
    origin, yaw = wall_frame(room, wall, along)
    outside = _outside(zone, origin, yaw, w)
    if any(_overlap(outside, other.rectangle) for other in zones):
        if not door:
            return False
        outside = (0.0, 0.0, 0.0, 0.0)
    openings.append(mine)
    if not door:
        _add_window(room, kit, origin, yaw, wall, w, sill, top)
        return True
    state = kit.choose(("closed", "closed", "open", "empty")) if outside[2] > outside[0] else "closed"
    if state != "closed":
        _add_neighbour(room, kit, origin, yaw, w, top, finish)
    _add_doorway(room, kit, origin, yaw, wall, w, top, state)
    return True


def _outside(zone: Zone, origin: Array, yaw: float, width: float) -> Rectangle:
    """Return the ground of the adjacent room behind an opening, in the plan's coordinates."""
    turn = yaw_matrix(yaw)
    corners = np.stack([turn @ np.array(c) for c in ((-width / 2 - 0.9, 0.02, 0), (width / 2 + 0.9, 2.4, 0))]) + origin
    shift = np.array([*zone.low, 0.0])
    low, high = corners.min(axis=0) + shift, corners.max(axis=0) + shift
    return (float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def _add_neighbour(room: Room, kit: VariedKit, origin: Array, yaw: float, w: float, top: float, finish: Finish) -> None:
    """Add the part of an adjacent room that an open door shows: jambs, floor, walls and perhaps one thing."""
    thick, deep = kit.u(0.08, 0.2), kit.u(0.9, 2.3)
    left, right = -w / 2 - kit.u(0.0, 0.9), w / 2 + kit.u(0.0, 0.9)
    height = room.size[2]
    paint = finish.walls if kit.chance(0.6) else kit.white("plaster")
    walls = Model("wall")
    for x0, x1 in ((-w / 2 - 0.02, -w / 2), (w / 2, w / 2 + 0.02)):
        walls.box((x0, x1), (0.0, thick), (0, top), paint)
    walls.box((-w / 2, w / 2), (0.0, thick), (top, top + 0.02), paint)
    for x in (left - 0.01, right + 0.01):
        walls.box((x - 0.01, x + 0.01), (thick, deep), (0, height), paint)
    walls.box((left, right), (deep, deep + 0.02), (0, height), paint)
    for x0, x1 in ((left, -w / 2), (w / 2, right)):
        if x1 - x0 > 0.05:
            walls.box((x0, x1), (thick - 0.02, thick), (0, height), paint)
    room.things.append(Thing(walls, origin, yaw))
    floor = Model("floor")
    tone = finish.floor if kit.chance(0.6) else kit.wood()
    floor.box((left, right), (0.0, deep), (-0.02, 0.0), tone)
    room.things.append(Thing(floor, origin, yaw))


def _add_doorway(
    room: Room, kit: VariedKit, origin: Array, yaw: float, wall: str, w: float, top: float, state: str
) -> None:
    trim = kit.white() if kit.chance(0.6) else kit.wood()
    if kit.chance(0.85):
        frame = Model("doorframe")
        wide, proud = kit.u(0.03, 0.11), kit.u(0.01, 0.05)
        for x in (-w / 2 - wide, w / 2):
            frame.box((x, x + wide), (-proud, 0.06), (0, top + wide), trim)
        frame.box((-w / 2, w / 2), (-proud, 0.06), (top, top + wide), trim)
        add_fixture(room, frame, origin, yaw, wall)
    if state == "empty":
        keep_free(room, origin, yaw, (-w / 2, -0.85, 0.03), (w / 2, 0.0, top))
        return
    leaf = _door_leaf(kit, w - 0.01, top)
    if state == "closed":
        add_fixture(room, leaf, origin + yaw_matrix(yaw) @ np.array([0, kit.u(-0.01, 0.04), 0]), yaw, wall)
        keep_free(room, origin, yaw, (-w / 2, -0.85, 0.03), (w / 2, 0.0, top))
        return
    side = kit.choose((-1, 1))
    angle = side * kit.u(0.3, 1.9)  # the hinge is at `side`; a positive angle turns the leaf into the room there
    hinge = np.array([side * w / 2, -0.02, 0.0])
    turned = yaw_matrix(angle)
    origin_leaf = hinge - turned @ np.array([side * (w / 2 - 0.005), 0.0, 0.0])
    leaf_origin = origin + yaw_matrix(yaw) @ origin_leaf
    thing = Thing(leaf, leaf_origin, yaw + angle, wall)
    room.things.append(thing)
    low, high = thing.boxes()
    room.reserve(low.min(axis=0)[None], high.max(axis=0)[None])
    keep_free(room, origin, yaw, (-w / 2, -0.85, 0.03), (w / 2, 0.0, top))


def _door_leaf(kit: VariedKit, w: float, top: float) -> Model:
    paint = kit.choose((kit.wood, kit.wood, kit.white, kit.any_plain))()
    leaf = Model("door")
    style = kit.choose(("flat", "flat", "panels", "panels", "glass"))
    if style == "glass":
        edge = kit.u(0.08, 0.16)
        for x0, x1 in ((-w / 2, -w / 2 + edge), (w / 2 - edge, w / 2)):
            leaf.box((x0, x1), (0.0, 0.04), (0.01, top), paint)
        low = kit.u(0.1, 1.0)
        for z0, z1 in ((0.01, low), (top - edge, top)):
            leaf.box((-w / 2 + edge, w / 2 - edge), (0.0, 0.04), (z0, z1), paint)
        leaf.box((-w / 2 + edge, w / 2 - edge), (0.015, 0.025), (low, top - edge), kit.paint((180, 200, 210), "screen"))
    else:
        leaf.box((-w / 2, w / 2), (0.0, 0.04), (0.01, top), paint)
    if style == "panels":
        rows = kit.count(1, 4)
        edges = np.linspace(0.12, top - 0.08, rows + 1)
        columns = kit.count(1, 2)
        wide = (w - 0.24) / columns
        for c in range(columns):
            x0 = -w / 2 + 0.12 + c * wide
            for low, high in pairwise(edges):
                leaf.box((x0 + 0.02, x0 + wide - 0.02), (-0.014, 0.0), (float(low) + 0.03, float(high) - 0.03), paint)
    side = kit.choose((-1, 1))
    x = side * (w / 2 - 0.07)
    leaf.box((x - 0.05, x + 0.05), (-0.05, 0.0), (0.98, 1.02), kit.metal())
    return leaf


def _add_window(
    room: Room, kit: VariedKit, origin: Array, yaw: float, wall: str, w: float, sill: float, top: float
) -> None:
    frame = kit.white() if kit.chance(0.75) else kit.wood()
    deep = kit.u(0.03, 0.16)
    window = Model("window")
    glass = kit.choose(((205, 222, 240), (235, 240, 245), (120, 140, 150), (40, 48, 60)))
    window.box((-w / 2, w / 2), (deep, deep + 0.01), (sill, top), kit.paint(glass, "screen", spread=12))
    bar = kit.u(0.03, 0.07)
    columns = max(1, round(w / kit.u(0.5, 1.1)))
    edges = np.linspace(-w / 2, w / 2, columns + 1)
    for n, x in enumerate(edges):
        low = float(x) - (0 if n == 0 else bar if n == columns else bar / 2)
        window.box((low, low + bar), (deep - 0.04, deep), (sill, top), frame)
    rows = [sill, top - bar] + ([kit.u(sill + 0.3, top - 0.3)] if kit.chance(0.35) and top - sill > 0.8 else [])
    for z in rows:
        window.box((-w / 2 + bar, w / 2 - bar), (deep - 0.04, deep), (z, z + bar), frame)
    if kit.chance(0.5):  # casing on the wall
        wide = kit.u(0.04, 0.1)
        for x in (-w / 2 - wide, w / 2):
            window.box((x, x + wide), (-0.02, 0.0), (sill - wide, top + wide), frame)
        for z in (sill - wide, top):
            window.box((-w / 2, w / 2), (-0.02, 0.0), (z, z + wide), frame)
    reveal = Model("wall")
    for x0, x1 in ((-w / 2 - 0.01, -w / 2), (w / 2, w / 2 + 0.01)):
        reveal.box((x0, x1), (0.0, deep), (sill, top), kit.white())
    for z0, z1 in ((sill - 0.01, sill), (top, top + 0.01)):
        reveal.box((-w / 2, w / 2), (0.0, deep), (z0, z1), kit.white())
    room.things.append(Thing(reveal, origin, yaw))
    add_fixture(room, window, origin, yaw, wall)
    if kit.chance(0.4):
        board = Model("windowsill")
        out = kit.u(0.06, 0.22)
        board.box((-w / 2 - 0.05, w / 2 + 0.05), (-out, deep - 0.04), (sill - 0.03, sill), kit.white("granite"))
        board.top((-w / 2, w / 2), (-out + 0.01, deep - 0.05), sill, headroom=0.5)
        add_fixture(room, board, origin, yaw, wall)
    kit.blind_width = w + 0.06
    keep_free(room, origin, yaw, (-w / 2, -0.02, sill + 0.35), (w / 2, 0.0, top - 0.2))
