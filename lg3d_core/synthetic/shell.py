"""Walls with windows and doors, floor and ceiling."""

import numpy as np

from lg3d_core.synthetic.layout import WALL_YAW, WALLS, Room, Thing
from lg3d_core.synthetic.modelling import Kit, Model
from lg3d_core.synthetic.shapes import Array, Paint, Part, Rectangle, pitch_matrix, yaw_matrix

Point = tuple[float, float, float]

WALL_COLORS = ((222, 216, 200), (206, 212, 214), (226, 224, 220), (196, 204, 186), (214, 196, 176), (180, 192, 206))
FLOORS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "planks": ((158, 112, 70), (122, 82, 52), (190, 150, 104)),
    "carpet": ((132, 122, 108), (96, 100, 108), (150, 136, 120), (110, 92, 80)),
    "tiles": ((196, 190, 180), (170, 172, 170), (206, 196, 176)),
    "granite": ((176, 172, 164), (150, 150, 146)),
}


def build_shell(room: Room, kit: Kit, *, floor: str, doors: int, windows: int, ceiling: bool, tiled: bool) -> None:
    """Add the room's shell: openings first, then walls around them, floor, and sometimes the ceiling.

    The space in front of doors and windows is reserved, so that no tall furniture blocks it.
    """
    openings: dict[str, list[Rectangle]] = {wall: [] for wall in WALLS}
    for n in range(doors + windows):
        for _ in range(12):
            wall = WALLS[int(room.rng.integers(4))]
            if _open(room, kit, wall, openings[wall], door=n < doors):
                break
    width, depth, height = room.size
    paint = kit.paint(kit.choose(WALL_COLORS), "tiles" if tiled else "plaster", spread=10)
    for wall in WALLS:
        length = room.wall_length(wall)
        add_sheet(room, "wall", wall_part(length, height, tuple(openings[wall]), paint), wall, length)
    ground = kit.paint(kit.choose(FLOORS[floor]), floor, spread=12)
    flat = np.array([width / 2, depth / 2, 0.0])
    add_surface(room, "floor", Part("panel", flat, flat, np.eye(3), ground))
    if ceiling:
        top = np.array([width / 2, depth / 2, height])
        white = kit.paint((238, 238, 234), "plaster", spread=4)
        add_surface(room, "ceiling", Part("panel", top, flat, np.diag([1.0, -1.0, -1.0]), white))


def add_surface(room: Room, label: str, part: Part, yaw: float = 0.0) -> None:
    """Add one part to the room as a thing that occupies no space."""
    model = Model(label)
    model.parts.append(part)
    room.things.append(Thing(model, np.zeros(3), yaw))


def wall_part(length: float, height: float, openings: tuple[Rectangle, ...], paint: Paint) -> Part:
    """Return a wall's panel with openings, whose coordinates start at its centre."""
    # The panel's x runs along the wall from left to right as seen from inside; its z points into the room (-y).
    turn = pitch_matrix(-np.pi / 2)
    half = np.array([length / 2, height / 2, 0.0])
    return Part("panel", np.array([0.0, 0.0, height / 2]), half, turn, paint, openings=openings)


def wall_frame(room: Room, wall: str, along: float) -> tuple[Array, float]:
    """Return a point on the wall's plane, `along` metres from its start, and the yaw of things at the wall."""
    width, depth, _ = room.size
    origin = {
        "south": (along, 0.0, 0.0),
        "north": (along, depth, 0.0),
        "west": (0.0, along, 0.0),
        "east": (width, along, 0.0),
    }[wall]
    return np.array(origin), WALL_YAW[wall]


def add_sheet(room: Room, label: str, part: Part, wall: str, length: float) -> None:
    """Add a wall's panel to the room."""
    model = Model(label)
    model.parts.append(part)
    origin, yaw = wall_frame(room, wall, length / 2)
    room.things.append(Thing(model, origin, yaw, wall))


def _open(room: Room, kit: Kit, wall: str, openings: list[Rectangle], *, door: bool) -> bool:
    """Cut a door or a window into a wall and furnish it; return False if there is not enough space."""
    length, height = room.wall_length(wall), room.size[2]
    w = kit.u(0.8, 0.95) if door else kit.u(0.9, 1.5)
    if length < w + 0.6:
        return False
    along = kit.u(w / 2 + 0.25, length - w / 2 - 0.25)
    sill, top = (0.0, 2.02) if door else (kit.u(0.85, 1.0), min(kit.u(1.95, 2.15), height - 0.2))
    # The panel's x runs against "along" on the walls whose start is on the right as seen from inside.
    x = along - length / 2 if wall in ("north", "west") else length / 2 - along
    mine = (x - w / 2, sill - height / 2, x + w / 2, top - height / 2)
    if any(mine[0] < other[2] + 0.2 and mine[2] > other[0] - 0.2 for other in openings):
        return False
    openings.append(mine)
    origin, yaw = wall_frame(room, wall, along)
    add = _add_door if door else _add_window
    add(room, kit, origin, yaw, wall, w, sill, top)
    return True


def add_fixture(room: Room, model: Model, origin: Array, yaw: float, wall: str) -> None:
    """Add a door, a window or a part of one, and reserve its space."""
    thing = Thing(model, origin, yaw, wall)
    room.things.append(thing)
    room.reserve(*thing.boxes())


def _add_door(room: Room, kit: Kit, origin: Array, yaw: float, wall: str, w: float, sill: float, top: float) -> None:
    wood = kit.wood() if kit.chance(0.5) else kit.white()
    frame = Model("doorframe")
    trim = kit.white() if kit.chance(0.6) else kit.wood()
    for x in (-w / 2 - 0.07, w / 2):
        frame.box((x, x + 0.07), (-0.03, 0.06), (sill, top + 0.07), trim)
    frame.box((-w / 2, w / 2), (-0.03, 0.06), (top, top + 0.07), trim)
    leaf = Model("door")
    leaf.box((-w / 2, w / 2), (0.02, 0.06), (sill + 0.01, top), wood)
    for low, high in ((0.2, 0.85), (1.05, 1.85)):
        leaf.box((-w / 2 + 0.14, w / 2 - 0.14), (0.008, 0.02), (low, high), wood)
    side = 1 if kit.chance(0.5) else -1
    leaf.box((side * (w / 2 - 0.08) - 0.05, side * (w / 2 - 0.08) + 0.05), (-0.03, 0.02), (0.98, 1.02), kit.metal())
    add_fixture(room, frame, origin, yaw, wall)
    add_fixture(room, leaf, origin, yaw, wall)
    keep_free(room, origin, yaw, (-w / 2, -0.85, 0.03), (w / 2, 0.0, top))


def _add_window(room: Room, kit: Kit, origin: Array, yaw: float, wall: str, w: float, sill: float, top: float) -> None:
    white = kit.white()
    window = Model("window")
    window.box((-w / 2, w / 2), (0.06, 0.07), (sill, top), kit.paint((196, 214, 232), "screen", spread=8))
    middle = (-0.025, 0.025)
    for x in ((-w / 2, -w / 2 + 0.05), middle, (w / 2 - 0.05, w / 2)):
        window.box(x, (0.02, 0.06), (sill, top), white)
    for z in ((sill, sill + 0.05), (top - 0.05, top)):
        window.box((-w / 2 + 0.05, w / 2 - 0.05), (0.02, 0.06), z, white)
    add_fixture(room, window, origin, yaw, wall)
    board = Model("windowsill")
    board.box((-w / 2 - 0.06, w / 2 + 0.06), (-0.14, 0.06), (sill - 0.035, sill), kit.white("granite"))
    board.top((-w / 2, w / 2), (-0.13, 0.02), sill, headroom=0.4)
    if kit.chance(0.55):
        add_fixture(room, board, origin, yaw, wall)
    kit.blind_width = w + 0.06
    keep_free(room, origin, yaw, (-w / 2, -0.02, sill + 0.45), (w / 2, 0.0, top - 0.2))


def keep_free(room: Room, origin: Array, yaw: float, low: Point, high: Point) -> None:
    """Reserve a box in the frame of a wall."""
    turn = yaw_matrix(yaw)
    corners = np.stack([turn @ np.array(low), turn @ np.array(high)]) + origin
    room.reserve(corners.min(axis=0)[None], corners.max(axis=0)[None])
