"""Kinds of rooms: size, shell, and the frequency and place of the things in them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from lg3d_core.synthetic.furniture.catalog import BUILDERS, UNANNOTATED, VARIANTS, build
from lg3d_core.synthetic.layout import Room, Thing
from lg3d_core.synthetic.modelled.catalog import Furniture
from lg3d_core.synthetic.modelled.naming import category_of
from lg3d_core.synthetic.modelled.wishes import MODELLED_WISHES
from lg3d_core.synthetic.modelling import Kit, Model
from lg3d_core.synthetic.shell import build_shell
from lg3d_core.synthetic.wishes import Wish

GOLDEN = 0.6180339887498949
MODELLED_SPACE = 1.15
"""Factor of rooms that are furnished with models, which are larger than the built-in things."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Kind of room; `scene_type` is the value in ScanNet's txt."""

    scene_type: str
    width: tuple[float, float]
    depth: tuple[float, float]
    floors: tuple[str, ...]
    wishes: tuple[Wish, ...]
    windows: tuple[int, int] = (1, 2)
    tiled: bool = False
    prelude: Callable[["Furnisher"], None] | None = None


class NothingToPlaceError(Exception):
    """Raised if a thing has neither a builder nor a valid model."""


class Furnisher:
    """Furnisher of one room, with modelled furniture where available and built-in things elsewhere."""

    def __init__(
        self,
        kind: Kind,
        room: Room,
        kit: Kit,
        *,
        turn: int,
        allowed: frozenset[str] | None,
        furniture: Furniture | None,
    ) -> None:
        self.kind = kind
        self.room = room
        self.kit = kit
        self.turn = turn
        self.allowed = allowed
        self.furniture = furniture

    def wants(self, name: str, chance: float, place: str = "") -> bool:
        """Return whether the `turn`-th room of a kind contains a thing; such rooms are spread evenly."""
        if self.allowed is not None and category_of(name) not in (UNANNOTATED, *self.allowed):
            return False
        if chance >= 1.0:
            return True
        phase = sum(ord(letter) * (n + 1) for n, letter in enumerate(self.kind.scene_type + name + place)) * 0.137
        return (self.turn * GOLDEN + phase) % 1.0 < chance

    def model(self, name: str, *, raised: bool = False) -> Model:
        """Build a thing; with `raised`, a model keeps its original height above the floor.

        Raises:
            NothingToPlaceError: The thing has neither a builder nor a valid model.
        """
        found = self.furniture.build(name, self.kit, raised=raised) if self.furniture else None
        if found is not None:
            return found
        if name not in BUILDERS and name not in VARIANTS:
            raise NothingToPlaceError(name)
        return build(name, self.kit)

    def fulfil(self, wish: Wish) -> None:
        """Place as many things of a wish as fit."""
        if not self.wants(wish.name, wish.chance, wish.place):
            return
        try:
            self._place(wish)
        except NothingToPlaceError:
            return

    def _place(self, wish: Wish) -> None:
        count = self.kit.count(*wish.count)
        if wish.place == "around":
            for host in self.hosts(wish, 3):
                self.room.around(host, self.model(wish.name), count)
            return
        for _ in range(count):
            PLACES[wish.place](self, wish)

    def hosts(self, wish: Wish, most: int) -> list[Thing]:
        """Return the things that the wish may refer to, in random order."""
        found = self.room.named(*wish.by)
        order = self.room.rng.permutation(len(found))
        return [found[int(n)] for n in order[:most]]


def _related(relation: Callable[[Room, Thing, Model, Wish], Thing | None], furnisher: Furnisher, wish: Wish) -> None:
    model = furnisher.model(wish.name)
    for host in furnisher.hosts(wish, 4):
        if relation(furnisher.room, host, model, wish):
            return


def _hang(furnisher: Furnisher, wish: Wish) -> None:
    furnisher.room.hang(furnisher.model(wish.name), *wish.z)


def _from_ceiling(furnisher: Furnisher, wish: Wish) -> None:
    """Hang a thing from the ceiling, if the ceiling was scanned."""
    if furnisher.room.named("ceiling"):
        furnisher.room.from_ceiling(furnisher.model(wish.name))


def _at_window(furnisher: Furnisher, wish: Wish) -> None:
    """Place curtains at both sides of a window, or blinds in front of its pane."""
    room = furnisher.room
    for window in furnisher.hosts(wish, 1):
        low, high = window.model.extent()
        axis = 0 if window.wall in ("south", "north") else 1
        along = float(window.origin[axis])
        if wish.name == "blinds":
            furnisher.kit.blind_width = float(high[0] - low[0]) - 0.02
            model = furnisher.model(wish.name)
            top = float(model.extent()[1][2])
            origin = window.origin * (1, 1, 0) + np.array([0, 0, float(high[2]) - top])
            room.things.append(Thing(model, origin, window.yaw, window.wall))
            room.reserve(*room.things[-1].boxes())
            continue
        model = furnisher.model(wish.name)
        for side in (-1, 1):
            reach = side * float(high[0] - low[0]) / 2
            bottom = max(0.06, float(high[2]) + 0.12 - float(model.extent()[1][2]))
            room.at_wall(window.wall, model, along + reach, z=bottom, gap=0.15)


PLACES: dict[str, Callable[[Furnisher, Wish], object]] = {
    "wall": lambda f, w: f.room.along_wall(f.model(w.name, raised=True)),
    "corner": lambda f, w: f.room.along_wall(f.model(w.name, raised=True), corner=True),
    "floor": lambda f, w: f.room.on_floor(f.model(w.name)),
    "middle": lambda f, w: f.room.on_floor(f.model(w.name), middle=True),
    "hang": _hang,
    "ceiling": _from_ceiling,
    "window": _at_window,
    "on": partial(_related, lambda room, host, model, _: room.on_top(host, model)),
    "at head": partial(_related, lambda room, host, model, _: room.on_top(host, model, only=0)),
    "back of": partial(_related, lambda room, host, model, _: room.on_top(host, model, facing=True)),
    "under": partial(_related, lambda room, host, model, _: room.under(host, model)),
    "beside": partial(_related, lambda room, host, model, _: room.beside(host, model)),
    "before": partial(_related, lambda room, host, model, _: room.before(host, model)),
    "facing": partial(_related, lambda room, host, model, _: room.before(host, model, reach=-0.6)),
    "above": partial(_related, lambda room, host, model, wish: room.hang_by(host, model, *wish.z)),
    "near": partial(_related, lambda room, host, model, wish: room.hang_by(host, model, *wish.z, aside=True)),
}


def furnish(
    kind: Kind,
    *,
    rng: np.random.Generator,
    turn: int,
    allowed: frozenset[str] | None = None,
    furniture: Furniture | None = None,
) -> Room:
    """Build the `turn`-th room of a kind, optionally only with things of the `allowed` classes, and with models."""
    space = MODELLED_SPACE if furniture else 1.0
    width, depth = float(rng.uniform(*kind.width)) * space, float(rng.uniform(*kind.depth)) * space
    room = Room((width, depth, float(rng.uniform(2.4, 2.6))), rng)
    kit = Kit(rng)
    furnisher = Furnisher(kind, room, kit, turn=turn, allowed=allowed, furniture=furniture)
    has_ceiling = furnisher.wants("ceiling", 0.4)
    if not has_ceiling:
        # A camera that never points at the ceiling does not see the top of the walls either.
        room.size = (width, depth, float(rng.uniform(2.18, 2.35)))
    windows = kit.count(*kind.windows)
    build_shell(
        room,
        kit,
        floor=kit.choose(kind.floors),
        doors=1 if kit.chance(0.8) else 2,
        windows=windows,
        ceiling=has_ceiling,
        tiled=kind.tiled,
    )
    if allowed is not None:
        room.things = [thing for thing in room.things if thing.label in allowed]
    if kind.prelude:
        kind.prelude(furnisher)
    for wish in (*kind.wishes, *EVERYWHERE):
        furnisher.fulfil(wish)
    name = next((name for name, own in KINDS.items() if own is kind), "")
    for wish in MODELLED_WISHES.get(name, ()) if furniture else ():
        if furniture and furniture.has(wish.name):
            furnisher.fulfil(wish)
    return room


def _kitchen_run(furnisher: Furnisher) -> None:
    """Place base units along the longest wall, with worktops, a sink, a stove and wall cabinets."""
    room = furnisher.room
    units = ["refrigerator", "unit", "sink", "unit", "stove", "unit"]
    if furnisher.wants("dishwasher", 0.6):
        units[3] = "dishwasher"
    if furnisher.wants("oven", 0.35):
        units.insert(1, "oven")
    best: list[str] = ["north", "south"] if room.size[0] >= room.size[1] else ["east", "west"]
    for wall in (*best, "north", "south", "east", "west"):
        placed = _run_along(furnisher, wall, units)
        if placed >= 4:
            break
    for stove in room.named("stove")[:1]:
        if furnisher.wants("range hood", 0.7):
            room.hang_by(stove, furnisher.model("range hood"), 1.62, 1.66)
    hosts = room.named("kitchen cabinet")
    for host in hosts:
        if not furnisher.kit.chance(0.85):
            continue
        model = furnisher.model("wall cabinet")
        axis = 0 if host.wall in ("south", "north") else 1
        room.at_wall(host.wall, model, float(host.origin[axis]), z=1.5)


def _run_along(furnisher: Furnisher, wall: str, units: list[str]) -> int:
    room = furnisher.room
    along, placed = 0.1, 0
    length = room.wall_length(wall)
    for unit in units:
        name = "kitchen cabinet" if unit in ("unit", "sink") else unit
        if not furnisher.wants(name, 1.0):
            continue
        model = furnisher.model(name)
        low, high = model.extent()
        half = float(high[0] - low[0]) / 2
        while along + half < length:
            if put_unit(furnisher, wall, unit, model, along + half):
                placed += 1
                along += 2 * half + 0.004
                break
            along += 0.15
    return placed


def put_unit(furnisher: Furnisher, wall: str, unit: str, model: Model, along: float) -> bool:
    room = furnisher.room
    if unit == "sink":
        # Only the lower part of the carcass remains: the basin occupies the upper part.
        base = Model("kitchen cabinet")
        paint = furnisher.kit.kitchen
        base.box((-0.3, 0.3), (-0.29, 0.29), (0, 0.68), paint)
        for x in (-0.285, 0.285):
            base.box((x - 0.014, x + 0.014), (-0.29, 0.29), (0.68, 0.86), paint)
        base.box((-0.271, 0.271), (-0.29, -0.23), (0.68, 0.86), paint)
        for x in (-0.15, 0.15):
            base.box((x - 0.13, x + 0.13), (-0.31, -0.29), (0.12, 0.66), paint)
        model = base
    if not room.at_wall(wall, model, along, gap=0.02):
        return False
    if unit in ("unit", "dishwasher"):
        room.at_wall(wall, furnisher.model("kitchen counter"), along, z=0.86, gap=0.005)
    if unit == "sink":
        room.at_wall(wall, furnisher.model("sink counter"), along, z=0.86, gap=0.005)
        if furnisher.wants("kitchen sink", 1.0):
            room.at_wall(wall, furnisher.model("kitchen sink"), along, z=0.73, gap=0.075)
    return True


def bath_corner(furnisher: Furnisher) -> None:
    """Place a bathtub in a corner with a rod, a curtain and a shower head, or a shower cabin."""
    room = furnisher.room
    if not furnisher.wants("bathtub", 0.62):
        cabin = (
            room.along_wall(furnisher.model("shower"), corner=True, gap=0.0) if furnisher.wants("shower", 1) else None
        )
        if cabin and furnisher.wants("shower head", 0.8):
            room.hang_by(cabin, furnisher.model("shower head"), 1.9, 2.0)
        return
    model = furnisher.model("bathtub")
    for _ in range(6):
        tub = room.along_wall(model, corner=True, gap=0.0)
        if tub:
            break
    else:
        return
    axis = 0 if tub.wall in ("south", "north") else 1
    along = float(tub.origin[axis])
    low, high = tub.model.extent()
    depth = float(high[1] - low[1])
    if furnisher.wants("shower wall", 0.6):
        room.at_wall(tub.wall, furnisher.model("shower wall"), along, z=0.56)
    if furnisher.wants("shower head", 0.8):
        shift = 0.5 * float(high[0] - low[0]) * (0.6 if along < room.wall_length(tub.wall) / 2 else -0.6)
        room.at_wall(tub.wall, furnisher.model("shower head"), along - shift, z=1.97, gap=0.0)
    if furnisher.wants("shower curtain", 0.85):
        if furnisher.wants("shower curtain rod", 0.8):
            room.at_wall(tub.wall, furnisher.model("shower curtain rod"), along, z=2.0, gap=depth + 0.03)
        room.at_wall(tub.wall, furnisher.model("shower curtain"), along + 0.15, z=0.37, gap=depth + 0.005)


def stalls(furnisher: Furnisher) -> None:
    """Place a row of toilets between panels, each with a door."""
    room = furnisher.room
    wall = "north" if room.size[0] >= room.size[1] else "east"
    along = 0.75
    while along < room.wall_length(wall) - 0.7:
        stall = None
        if furnisher.wants("bathroom stall", 1.0):
            stall = room.at_wall(wall, furnisher.model("bathroom stall"), along, gap=0.01)
        if furnisher.wants("toilet", 1.0):
            room.at_wall(wall, furnisher.model("toilet"), along, gap=0.015)
        if stall and furnisher.wants("bathroom stall door", 1.0):
            depth = float(stall.model.extent()[1][1] - stall.model.extent()[0][1])
            room.at_wall(wall, furnisher.model("bathroom stall door"), along + 0.1, gap=depth - 0.03)
        along += 1.25


def closet_corner(furnisher: Furnisher) -> None:
    """Place an open closet with a rail and clothes."""
    room = furnisher.room
    if not furnisher.wants("closet", 0.45):
        return
    closet = room.along_wall(furnisher.model("closet"), gap=0.0)
    if not closet:
        return
    axis = 0 if closet.wall in ("south", "north") else 1
    along = float(closet.origin[axis])
    if furnisher.wants("closet rod", 1.0):
        room.at_wall(closet.wall, furnisher.model("closet rod"), along, z=1.68, gap=0.27)
    if furnisher.wants("hanging clothes", 1.0):
        room.at_wall(closet.wall, furnisher.model("hanging clothes"), along, z=0.62, gap=0.07)


def class_rows(furnisher: Furnisher) -> None:
    """Place rows of equal tables that face one wall, each with two chairs."""
    room = furnisher.room
    table = furnisher.model("table")
    chair = furnisher.model("chair" if furnisher.turn % 3 else "seat")
    if not furnisher.wants(chair.label, 1.0):
        chair = furnisher.model("chair")
    low, high = table.extent()
    step_x, step_y = float(high[0] - low[0]) + 0.45, float(high[1] - low[1]) + 0.85
    width, depth, _ = room.size
    for row in range(int((depth - 1.3) / step_y)):
        for column in range(max(1, int((width - 0.5) / step_x))):
            x = 0.35 + step_x * (column + 0.5)
            y = 1.1 + step_y * row
            jitter = room.rng.normal(0, 0.03, size=2)
            host = room.put(table, np.array([x + jitter[0], y + jitter[1], 0.0]), float(room.rng.normal(0, 0.02)))
            if not host:
                continue
            seats = (-0.3, 0.3) if chair.label == "chair" else (0.0,)
            for shift in seats:
                if furnisher.kit.chance(0.9):
                    room.before(host, chair, side=2, shift=shift, reach=float(room.rng.uniform(-0.1, 0.5)))


TABLE_LIKE = ("table", "desk", "dining table", "coffee table", "end table", "nightstand", "dresser", "counter", "bar")
SURFACES = (*TABLE_LIKE, "cabinet", "file cabinet", "shelf", "stand", "tv stand", "bench", "windowsill", "ottoman")
BOARDS = ("bookshelf", "shelf", "rack", "cart")

EVERYWHERE = (
    Wish("light switch", "near", 0.7, by=("doorframe",), z=(1.05, 1.2)),
    Wish("power outlet", "hang", 0.55, (1, 2), z=(0.25, 0.4)),
    Wish("vent", "hang", 0.3, z=(2.0, 2.1)),
    Wish("fire alarm", "hang", 0.25, z=(1.5, 2.0)),
    Wish("object", "on", 0.7, (1, 3), by=(*SURFACES, *BOARDS, "kitchen counter")),
    Wish("object", "wall", 0.35),
    Wish("box", "wall", 0.3, (1, 2)),
    Wish("box", "on", 0.3, by=("box", "wardrobe", "refrigerator", "file cabinet", "rack", "closet")),
    Wish("ceiling light", "ceiling", 0.75),
    Wish("clutter", "wall", 0.6, (1, 3)),
    Wish("clutter", "on", 0.6, (1, 3), by=(*SURFACES, *BOARDS, "bed", "couch")),
)

BEDROOM = Kind(
    "Bedroom / Hotel",
    (3.0, 3.9),
    (2.9, 3.7),
    ("planks", "carpet", "carpet"),
    (
        Wish("rug", "middle", 0.4),
        Wish("bed", "wall"),
        Wish("nightstand", "beside", 0.9, (1, 2), by=("bed",)),
        Wish("pillow", "at head", 1.0, (2, 3), by=("bed",)),
        Wish("blanket", "on", 0.5, by=("bed",)),
        Wish("stuffed animal", "on", 0.4, (1, 2), by=("bed",)),
        Wish("wardrobe", "wall", 0.5),
        Wish("dresser", "wall", 0.65),
        Wish("desk", "wall", 0.35),
        Wish("chair", "before", 0.6, by=("desk",)),
        Wish("armchair", "corner", 0.3),
        Wish("mattress", "wall", 0.12),
        Wish("lamp", "on", 0.9, (1, 2), by=("nightstand", "dresser", "desk")),
        Wish("alarm clock", "on", 0.35, by=("nightstand",)),
        Wish("tv", "back of", 0.35, by=("dresser",)),
        Wish("mirror", "above", 0.5, by=("dresser",), z=(1.1, 1.2)),
        Wish("laptop", "on", 0.35, by=("desk", "bed")),
        Wish("book", "on", 0.7, (1, 3), by=("nightstand", "desk", "dresser")),
        Wish("curtain", "window", 0.8, by=("window",)),
        Wish("picture", "hang", 0.8, (1, 3), z=(1.3, 1.6)),
        Wish("poster", "hang", 0.25, z=(1.1, 1.4)),
        Wish("clock", "hang", 0.2, z=(1.7, 1.9)),
        Wish("backpack", "wall", 0.5),
        Wish("suitcase", "wall", 0.4),
        Wish("laundry hamper", "corner", 0.35),
        Wish("laundry basket", "wall", 0.25),
        Wish("clothes", "on", 0.5, (1, 2), by=("bed", "chair", "armchair")),
        Wish("shoe", "wall", 0.6, (1, 3)),
        Wish("jacket", "hang", 0.35, z=(0.95, 1.1)),
        Wish("hat", "on", 0.35, by=("dresser", "wardrobe", "bed", "desk")),
        Wish("guitar", "wall", 0.25),
        Wish("dumbbell", "wall", 0.25, (1, 2)),
        Wish("ball", "wall", 0.3),
        Wish("fan", "corner", 0.3),
        Wish("plant", "corner", 0.3),
        Wish("trash can", "wall", 0.3),
        Wish("bag", "wall", 0.35),
    ),
    prelude=closet_corner,
)

LIVING_ROOM = Kind(
    "Living room / Lounge",
    (3.5, 4.5),
    (3.1, 4.0),
    ("planks", "planks", "carpet"),
    (
        Wish("rug", "middle", 0.5),
        Wish("couch", "wall"),
        Wish("tv stand", "wall", 0.85),
        Wish("coffee table", "facing", 0.85, by=("couch",)),
        Wish("fireplace", "wall", 0.25),
        Wish("piano", "wall", 0.25),
        Wish("sofa chair", "corner", 0.5),
        Wish("armchair", "corner", 0.5, (1, 2)),
        Wish("end table", "beside", 0.7, (1, 2), by=("couch", "sofa chair")),
        Wish("bookshelf", "wall", 0.5),
        Wish("cabinet", "wall", 0.35),
        Wish("ottoman", "floor", 0.35),
        Wish("keyboard piano", "wall", 0.2),
        Wish("dining table", "floor", 0.2),
        Wish("chair", "around", 1.0, (2, 4), by=("dining table",)),
        Wish("tv", "back of", 0.8, by=("tv stand",)),
        Wish("wall tv", "hang", 0.2, z=(1.1, 1.3)),
        Wish("speaker", "on", 0.4, (1, 2), by=("tv stand",)),
        Wish("lamp", "on", 0.6, by=("end table", "cabinet")),
        Wish("floor lamp", "corner", 0.4),
        Wish("cushion", "on", 0.7, (1, 3), by=("couch", "sofa chair")),
        Wish("pillow", "on", 0.4, (1, 2), by=("couch",)),
        Wish("blanket", "on", 0.3, by=("couch",)),
        Wish("row of books", "on", 0.9, (3, 7), by=("bookshelf",)),
        Wish("book", "on", 0.7, (1, 2), by=("coffee table", "end table", "bookshelf")),
        Wish("decoration", "on", 0.7, (1, 3), by=("bookshelf", "tv stand", "fireplace", "cabinet", "coffee table")),
        Wish("candle", "on", 0.3, (1, 2), by=("coffee table", "fireplace")),
        Wish("globe", "on", 0.3, by=("bookshelf", "cabinet", "tv stand", "fireplace")),
        Wish("cup", "on", 0.6, (1, 3), by=("coffee table", "end table")),
        Wish("bowl", "on", 0.35, by=("coffee table", "dining table")),
        Wish("picture", "hang", 0.9, (1, 4), z=(1.3, 1.6)),
        Wish("mirror", "hang", 0.2, z=(1.2, 1.4)),
        Wish("wall shelf", "hang", 0.35, z=(1.3, 1.6)),
        Wish("clock", "hang", 0.3, z=(1.7, 1.9)),
        Wish("curtain", "window", 0.7, (1, 2), by=("window",)),
        Wish("radiator", "wall", 0.4),
        Wish("plant", "corner", 0.6, (1, 2)),
        Wish("potted plant", "on", 0.5, (1, 2), by=("windowsill", "shelf", "coffee table")),
        Wish("basket", "wall", 0.4),
        Wish("guitar", "wall", 0.3),
        Wish("person", "floor", 0.15),
        Wish("vacuum cleaner", "wall", 0.2),
        Wish("shoe", "wall", 0.3),
        Wish("telephone", "on", 0.25, by=("end table", "cabinet")),
    ),
)

OFFICE = Kind(
    "Office",
    (3.1, 4.3),
    (2.9, 3.9),
    ("carpet", "carpet", "granite"),
    (
        Wish("desk", "wall", 1.0, (2, 3)),
        Wish("office chair", "before", 1.0, (2, 3), by=("desk",)),
        Wish("table", "middle", 0.3),
        Wish("office chair", "around", 1.0, (2, 3), by=("table",)),
        Wish("file cabinet", "wall", 0.85, (1, 2)),
        Wish("bookshelf", "wall", 0.65, (1, 2)),
        Wish("cabinet", "wall", 0.4),
        Wish("shelf", "wall", 0.3),
        Wish("folded chair", "wall", 0.3, (1, 2)),
        Wish("computer tower", "under", 0.9, (1, 2), by=("desk",)),
        Wish("trash can", "under", 0.7, (1, 2), by=("desk",)),
        Wish("recycling bin", "wall", 0.5),
        Wish("monitor", "back of", 1.0, (2, 4), by=("desk",)),
        Wish("keyboard", "on", 0.9, (1, 3), by=("desk",)),
        Wish("mouse", "on", 0.8, (1, 2), by=("desk",)),
        Wish("laptop", "on", 0.5, by=("desk", "table")),
        Wish("telephone", "on", 0.65, (1, 2), by=("desk",)),
        Wish("lamp", "on", 0.3, by=("desk",)),
        Wish("printer", "on", 0.5, by=("file cabinet", "cabinet", "desk", "table")),
        Wish("paper", "on", 0.9, (1, 4), by=("desk", "table")),
        Wish("book", "on", 0.8, (1, 3), by=("desk", "table", "bookshelf")),
        Wish("row of books", "on", 1.0, (3, 8), by=("bookshelf", "shelf")),
        Wish("cup", "on", 0.7, (1, 2), by=("desk", "table")),
        Wish("water bottle", "on", 0.4, (1, 2), by=("desk", "table")),
        Wish("headphones", "on", 0.3, by=("desk",)),
        Wish("tissue box", "on", 0.35, by=("desk", "file cabinet")),
        Wish("speaker", "on", 0.25, (1, 2), by=("desk",)),
        Wish("power strip", "under", 0.3, by=("desk",)),
        Wish("container", "on", 0.35, by=("shelf", "bookshelf", "desk")),
        Wish("potted plant", "on", 0.4, by=("desk", "windowsill", "file cabinet")),
        Wish("plant", "corner", 0.35),
        Wish("whiteboard", "hang", 0.7, z=(0.9, 1.0)),
        Wish("bulletin board", "hang", 0.4, z=(1.1, 1.3)),
        Wish("picture", "hang", 0.4, (1, 2), z=(1.3, 1.6)),
        Wish("poster", "hang", 0.3, z=(1.1, 1.4)),
        Wish("calendar", "hang", 0.3, z=(1.2, 1.5)),
        Wish("clock", "hang", 0.35, z=(1.8, 2.0)),
        Wish("blinds", "window", 0.6, (1, 2), by=("window",)),
        Wish("radiator", "wall", 0.3),
        Wish("backpack", "wall", 0.5),
        Wish("coat rack", "corner", 0.25),
        Wish("jacket", "hang", 0.25, z=(0.95, 1.1)),
        Wish("box", "wall", 0.4, (1, 2)),
        Wish("fan", "corner", 0.2),
        Wish("bicycle", "wall", 0.15),
        Wish("mini fridge", "wall", 0.2),
        Wish("person", "floor", 0.15),
    ),
)

KITCHEN = Kind(
    "Kitchen",
    (3.5, 4.4),
    (2.8, 3.6),
    ("tiles", "tiles", "planks"),
    (
        Wish("dining table", "floor", 0.55),
        Wish("table", "floor", 0.3),
        Wish("chair", "around", 1.0, (3, 5), by=("dining table", "table")),
        Wish("bar", "floor", 0.2),
        Wish("stool", "around", 1.0, (1, 3), by=("bar",)),
        Wish("stool", "floor", 0.3, (1, 2)),
        Wish("microwave", "on", 0.9, by=("kitchen counter",)),
        Wish("coffee maker", "on", 0.7, by=("kitchen counter",)),
        Wish("toaster", "on", 0.55, by=("kitchen counter",)),
        Wish("toaster oven", "on", 0.25, by=("kitchen counter",)),
        Wish("coffee kettle", "on", 0.4, by=("kitchen counter", "dining table")),
        Wish("dish rack", "on", 0.5, by=("kitchen counter",)),
        Wish("paper towel roll", "on", 0.5, by=("kitchen counter",)),
        Wish("soap dispenser", "on", 0.5, by=("kitchen counter",)),
        Wish("bottle", "on", 0.8, (1, 4), by=("kitchen counter", "dining table", "table")),
        Wish("water pitcher", "on", 0.3, by=("dining table", "table", "kitchen counter")),
        Wish("water bottle", "on", 0.3, by=("kitchen counter", "table")),
        Wish("bowl", "on", 0.6, (1, 2), by=("kitchen counter", "dining table", "table")),
        Wish("plate", "on", 0.6, (1, 3), by=("dining table", "table")),
        Wish("cup", "on", 0.7, (1, 3), by=("dining table", "table", "kitchen counter")),
        Wish("tray", "on", 0.35, by=("dining table", "table")),
        Wish("container", "on", 0.3, by=("kitchen counter", "refrigerator")),
        Wish("trash bin", "wall", 0.5),
        Wish("bin", "wall", 0.3),
        Wish("trash can", "wall", 0.4),
        Wish("recycling bin", "wall", 0.3),
        Wish("case of water bottles", "wall", 0.3),
        Wish("water cooler", "wall", 0.25),
        Wish("crate", "wall", 0.3),
        Wish("paper bag", "wall", 0.35),
        Wish("broom", "wall", 0.3),
        Wish("mat", "floor", 0.35),
        Wish("towel", "hang", 0.4, z=(0.9, 1.1)),
        Wish("clock", "hang", 0.4, z=(1.8, 2.0)),
        Wish("calendar", "hang", 0.3, z=(1.2, 1.5)),
        Wish("picture", "hang", 0.3, z=(1.3, 1.6)),
        Wish("blinds", "window", 0.4, by=("window",)),
        Wish("potted plant", "on", 0.4, by=("windowsill", "table")),
        Wish("fire extinguisher", "hang", 0.2, z=(0.8, 1.0)),
    ),
    prelude=_kitchen_run,
)

BATHROOM = Kind(
    "Bathroom",
    (2.5, 3.2),
    (2.1, 2.8),
    ("tiles", "tiles", "granite"),
    (
        Wish("toilet", "wall"),
        Wish("bathroom vanity", "wall", 0.65),
        Wish("vessel sink", "back of", 1.0, by=("bathroom vanity",)),
        Wish("sink", "wall", 0.45),
        Wish("mirror", "above", 0.9, by=("bathroom vanity", "sink"), z=(1.2, 1.3)),
        Wish("bathroom cabinet", "near", 0.4, by=("bathroom vanity", "toilet", "sink"), z=(1.3, 1.4)),
        Wish("toilet paper holder", "near", 0.7, by=("toilet",), z=(0.6, 0.75)),
        Wish("toilet paper", "on", 0.5, by=("toilet", "bathroom vanity")),
        Wish("soap dispenser", "on", 0.6, by=("bathroom vanity",)),
        Wish("soap dish", "on", 0.5, by=("bathroom vanity",)),
        Wish("cup", "on", 0.3, by=("bathroom vanity",)),
        Wish("hair dryer", "on", 0.5, by=("bathroom vanity", "dresser")),
        Wish("tissue box", "on", 0.3, by=("toilet", "bathroom vanity")),
        Wish("towel", "hang", 0.95, (1, 3), z=(0.9, 1.3)),
        Wish("mat", "floor", 0.75),
        Wish("scale", "wall", 0.4),
        Wish("plunger", "wall", 0.5),
        Wish("trash can", "wall", 0.65),
        Wish("laundry hamper", "wall", 0.3),
        Wish("radiator", "wall", 0.25),
        Wish("shower door", "wall", 0.15),
        Wish("bucket", "wall", 0.2),
        Wish("picture", "hang", 0.3, z=(1.4, 1.6)),
        Wish("stool", "wall", 0.15),
    ),
    windows=(0, 1),
    tiled=True,
    prelude=bath_corner,
)

CLASSROOM = Kind(
    "Classroom",
    (4.3, 5.1),
    (4.45, 5.0),
    ("granite", "carpet", "planks"),
    (
        Wish("desk", "wall", 0.5),
        Wish("office chair", "before", 0.6, by=("desk",)),
        Wish("blackboard", "hang", 0.55, z=(0.9, 1.0)),
        Wish("whiteboard", "hang", 0.65, (1, 2), z=(0.9, 1.0)),
        Wish("projector screen", "hang", 0.45, z=(1.0, 1.05)),
        Wish("projector", "ceiling", 0.9),
        Wish("light", "ceiling", 0.8, (1, 3)),
        Wish("bulletin board", "hang", 0.5, (1, 2), z=(1.1, 1.3)),
        Wish("board", "hang", 0.3, z=(1.1, 1.3)),
        Wish("cabinet", "wall", 0.5),
        Wish("bookshelf", "wall", 0.35),
        Wish("row of books", "on", 0.8, (2, 5), by=("bookshelf",)),
        Wish("piano", "wall", 0.15),
        Wish("laptop", "on", 0.6, (1, 4), by=("table", "desk")),
        Wish("book", "on", 0.8, (2, 5), by=("table", "desk")),
        Wish("paper", "on", 0.9, (2, 6), by=("table", "desk")),
        Wish("water bottle", "on", 0.4, (1, 2), by=("table",)),
        Wish("globe", "on", 0.5, by=("cabinet", "desk", "table")),
        Wish("easel", "corner", 0.3),
        Wish("backpack", "wall", 0.7, (1, 3)),
        Wish("jacket", "hang", 0.4, (1, 2), z=(0.95, 1.1)),
        Wish("trash can", "wall", 0.6),
        Wish("recycling bin", "wall", 0.4),
        Wish("stand", "wall", 0.35),
        Wish("speaker", "on", 0.25, by=("stand", "cabinet")),
        Wish("clock", "hang", 0.6, z=(1.9, 2.05)),
        Wish("poster", "hang", 0.5, (1, 3), z=(1.1, 1.4)),
        Wish("sign", "hang", 0.35, z=(1.4, 1.8)),
        Wish("fire extinguisher", "hang", 0.35, z=(0.8, 1.0)),
        Wish("folded chair", "wall", 0.35, (1, 3)),
        Wish("blinds", "window", 0.5, (1, 2), by=("window",)),
        Wish("radiator", "wall", 0.4),
        Wish("pipe", "corner", 0.25),
        Wish("person", "floor", 0.2),
    ),
    windows=(1, 3),
    prelude=class_rows,
)

LAUNDRY = Kind(
    "Laundry Room",
    (2.8, 3.8),
    (2.6, 3.4),
    ("granite", "tiles"),
    (
        Wish("washing machine", "wall", 1.0, (1, 2)),
        Wish("clothes dryer", "beside", 0.8, by=("washing machine",)),
        Wish("sink", "wall", 0.45),
        Wish("rack", "wall", 0.8),
        Wish("shelf", "wall", 0.5),
        Wish("table", "wall", 0.35),
        Wish("ironing board", "wall", 0.55),
        Wish("cart", "wall", 0.4),
        Wish("laundry basket", "wall", 0.6),
        Wish("laundry basket", "on", 0.4, by=("washing machine", "clothes dryer", "table")),
        Wish("laundry hamper", "wall", 0.4),
        Wish("laundry detergent", "on", 0.8, (1, 3), by=("washing machine", "clothes dryer", "rack", "shelf")),
        Wish("clothes", "on", 0.6, (1, 2), by=("clothes dryer", "table", "washing machine")),
        Wish("vacuum cleaner", "wall", 0.5),
        Wish("broom", "wall", 0.6),
        Wish("dustpan", "floor", 0.4),
        Wish("bucket", "floor", 0.5),
        Wish("ladder", "wall", 0.4),
        Wish("storage bin", "wall", 0.5, (1, 3)),
        Wish("storage bin", "on", 0.4, (1, 2), by=("rack", "shelf", "storage bin")),
        Wish("crate", "wall", 0.4, (1, 2)),
        Wish("container", "on", 0.6, (1, 3), by=("rack", "shelf")),
        Wish("basket", "on", 0.3, by=("rack", "shelf")),
        Wish("bicycle", "wall", 0.25),
        Wish("suitcase", "wall", 0.35),
        Wish("trash can", "wall", 0.4),
        Wish("pipe", "corner", 0.6),
        Wish("towel", "hang", 0.4, z=(0.9, 1.3)),
        Wish("fan", "corner", 0.2),
        Wish("jacket", "hang", 0.3, z=(0.95, 1.1)),
    ),
    windows=(0, 1),
)

COPY_ROOM = Kind(
    "Copy/Mail Room",
    (3.0, 4.2),
    (2.8, 3.6),
    ("carpet", "granite"),
    (
        Wish("copier", "wall"),
        Wish("machine", "wall", 0.3),
        Wish("counter", "wall", 0.7),
        Wish("table", "wall", 0.7),
        Wish("cabinet", "wall", 0.5),
        Wish("file cabinet", "wall", 0.7, (1, 3)),
        Wish("shelf", "wall", 0.5),
        Wish("water cooler", "wall", 0.5),
        Wish("bench", "wall", 0.35),
        Wish("stand", "wall", 0.3),
        Wish("printer", "on", 0.9, (1, 2), by=("table", "counter", "stand", "cabinet")),
        Wish("paper cutter", "on", 0.6, by=("table", "counter")),
        Wish("paper", "on", 1.0, (2, 5), by=("table", "counter", "shelf", "file cabinet")),
        Wish("telephone", "on", 0.4, by=("table", "counter")),
        Wish("tray", "on", 0.3, by=("table", "counter")),
        Wish("container", "on", 0.4, by=("shelf", "counter")),
        Wish("mailbox", "hang", 0.5, z=(0.9, 1.1)),
        Wish("bulletin board", "hang", 0.6, z=(1.1, 1.3)),
        Wish("sign", "hang", 0.5, (1, 2), z=(1.4, 1.8)),
        Wish("calendar", "hang", 0.35, z=(1.2, 1.5)),
        Wish("clock", "hang", 0.4, z=(1.8, 2.0)),
        Wish("fire extinguisher", "hang", 0.5, z=(0.8, 1.0)),
        Wish("recycling bin", "wall", 0.9, (1, 2)),
        Wish("trash bin", "wall", 0.4),
        Wish("bin", "wall", 0.4),
        Wish("box", "wall", 0.9, (1, 4)),
        Wish("cart", "wall", 0.35),
        Wish("coat rack", "corner", 0.25),
        Wish("person", "floor", 0.2),
        Wish("light", "ceiling", 0.7, (1, 2)),
    ),
    windows=(0, 1),
)

WASHROOM = Kind(
    "Bathroom",
    (3.0, 4.0),
    (3.0, 3.6),
    ("tiles", "granite"),
    (
        Wish("sink", "wall", 1.0, (1, 3)),
        Wish("mirror", "above", 0.9, (1, 2), by=("sink",), z=(1.2, 1.3)),
        Wish("paper towel dispenser", "near", 0.9, by=("sink",), z=(1.1, 1.3)),
        Wish("soap dispenser", "on", 0.4, by=("windowsill",)),
        Wish("toilet paper dispenser", "hang", 0.7, z=(0.7, 0.9)),
        Wish("toilet seat cover dispenser", "hang", 0.6, z=(1.1, 1.3)),
        Wish("handicap bar", "hang", 0.7, (1, 2), z=(0.8, 0.9)),
        Wish("trash bin", "wall", 0.7),
        Wish("trash can", "wall", 0.5),
        Wish("bench", "wall", 0.25),
        Wish("sign", "hang", 0.4, z=(1.4, 1.8)),
        Wish("radiator", "wall", 0.3),
        Wish("pipe", "corner", 0.4),
        Wish("bucket", "floor", 0.3),
        Wish("person", "floor", 0.15),
    ),
    windows=(0, 1),
    tiled=True,
    prelude=stalls,
)

KINDS: dict[str, Kind] = {
    "bedroom": BEDROOM,
    "living room": LIVING_ROOM,
    "office": OFFICE,
    "kitchen": KITCHEN,
    "bathroom": BATHROOM,
    "classroom": CLASSROOM,
    "laundry": LAUNDRY,
    "copy room": COPY_ROOM,
    "washroom": WASHROOM,
}
