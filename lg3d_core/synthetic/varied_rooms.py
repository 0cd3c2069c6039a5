"""Rooms for simulated scans: several zones, varied furniture and clutter, and compositions reserved for validation."""

from typing import NamedTuple

import numpy as np

from lg3d_core.synthetic.floor_plan import arrange, bridge_areas, build_zone_shell, draw_finish
from lg3d_core.synthetic.furniture.parametric import PARAMETRIC, kitchen_base, kitchen_wall_unit
from lg3d_core.synthetic.kinds import (
    BATHROOM,
    BEDROOM,
    BOARDS,
    CLASSROOM,
    COPY_ROOM,
    EVERYWHERE,
    KITCHEN,
    LAUNDRY,
    LIVING_ROOM,
    OFFICE,
    SURFACES,
    WASHROOM,
    Furnisher,
    Kind,
    NothingToPlaceError,
    put_unit,
)
from lg3d_core.synthetic.layout import Room, Thing
from lg3d_core.synthetic.modelled.catalog import Furniture
from lg3d_core.synthetic.modelled.wishes import MODELLED_WISHES
from lg3d_core.synthetic.modelling import Model
from lg3d_core.synthetic.variety import VariedKit, pick, resize
from lg3d_core.synthetic.wishes import Wish

MODELLED_SHARE = 0.45
"""Share of models among the things for which models exist."""
PARAMETRIC_SHARE = 0.8
"""Share of parametric furniture among the other things, where possible."""
SEATS = ("bed", "chair", "couch", "armchair", "sofa chair", "office chair", "ottoman", "bench")
COUNTERS = ("kitchen counter", "kitchen cabinet")


class VariedFurnisher(Furnisher):
    """Furnisher that draws wishes at random and mixes modelled, parametric and built-in furniture."""

    kit: VariedKit
    density = 1.0

    def wants(self, name: str, chance: float, place: str = "") -> bool:
        """Return whether this zone contains a thing."""
        del place
        if name == "rug":
            chance *= 0.35  # outside of the vocabulary
        return chance >= 1.0 or self.kit.chance(min(0.95, chance * self.density))

    def model(self, name: str, *, raised: bool = False) -> Model:
        """Build a thing of any style and size.

        Raises:
            NothingToPlaceError: The thing has neither a builder nor a valid model.
        """
        if self.furniture and self.furniture.has(name) and self.kit.chance(MODELLED_SHARE):
            found = self.furniture.build(name, self.kit, raised=raised)
            if found is not None:
                return found
        if name in PARAMETRIC and self.kit.chance(PARAMETRIC_SHARE):
            model = Model(name)
            PARAMETRIC[name](model, self.kit)
            model.lift()
        else:
            furniture, self.furniture = self.furniture, None
            try:
                model = super().model(name, raised=raised)
            except NothingToPlaceError:
                found = furniture.build(name, self.kit, raised=raised) if furniture else None
                if found is None:
                    raise
                return found
            finally:
                self.furniture = furniture
        if not raised:
            resize(model, self.kit.u(0.87, 1.13))
        return model


def _kitchen(furnisher: Furnisher) -> None:
    """Place base and wall units along one wall or around a corner, with appliances between them."""
    assert isinstance(furnisher, VariedFurnisher)
    room, kit = furnisher.room, furnisher.kit
    walls = [("north", "east"), ("east", "south"), ("south", "west"), ("west", "north")][kit.count(0, 3)]
    pending = ["sink", "stove", "refrigerator"]
    if kit.chance(0.5):
        pending.append("dishwasher")
    if kit.chance(0.2):
        pending.append("oven")
    order = kit.rng.permutation(len(pending))
    pending = [pending[int(n)] for n in order]
    high, bottom = kit.u(0.5, 0.95), kit.u(1.32, 1.5)
    for n, wall in enumerate(walls[: 2 if kit.chance(0.6) else 1]):
        # The corner is at the end of the first wall, or at its start.
        length = room.wall_length(wall)
        along = kit.u(0.0, 0.4) if n == 0 else 0.02
        end = length - 0.02 if kit.chance(0.6) else length * kit.u(0.6, 1.0)
        run: list[float] = []
        while along < end - 0.3:
            left = (end - along) / 0.9
            if pending and (left < len(pending) or kit.chance(0.4)):
                along = _appliance(furnisher, wall, pending, along, end, run)
                continue
            width = min(kit.choose((0.3, 0.4, 0.45, 0.5, 0.6, 0.6, 0.8, 0.9)), end - along)
            model = Model("kitchen cabinet")
            kitchen_base(model, kit, width)
            if width >= 0.25 and room.at_wall(wall, model, along + width / 2, gap=0.01):
                run += [along, along + width]
                along += width + 0.002
            else:
                _counter(furnisher, wall, run)
                along += 0.12
        _counter(furnisher, wall, run)
        if not kit.chance(0.85):
            continue
        along = 0.02
        while along < end - 0.3:
            width = min(kit.choose((0.3, 0.4, 0.6, 0.6, 0.8, 0.9)), end - along)
            model = Model("kitchen cabinet")
            kitchen_wall_unit(model, kit, width, high)
            below = [t for t in room.named("stove") if t.wall == wall and abs(_along(t) - along - width / 2) < 0.4]
            if not below and room.at_wall(wall, model, along + width / 2, z=bottom, gap=0.005):
                along += width + 0.002
            else:
                along += 0.1
    for stove in room.named("stove")[:1]:
        name = kit.choose(("range hood", "range hood", "microwave"))
        room.hang_by(stove, furnisher.model(name), 1.45, 1.6)
    if kit.chance(0.25):
        island = Model("kitchen cabinet")
        width = kit.u(1.0, 1.8)
        kitchen_base(island, kit, width)
        placed = room.on_floor(island, middle=True)
        if placed:
            top = Model("kitchen counter")
            top.box((-width / 2 - 0.05, width / 2 + 0.05), (-0.4, 0.34), (0, 0.04), kit.worktop)
            top.top((-width / 2, width / 2), (-0.35, 0.3), 0.04)
            room.put(top, placed.origin + np.array([0.0, 0.0, 0.86]), placed.yaw)


def _along(thing: Thing) -> float:
    return float(thing.origin[0 if thing.wall in ("south", "north") else 1])


def _appliance(
    furnisher: VariedFurnisher, wall: str, pending: list[str], along: float, end: float, run: list[float]
) -> float:
    room = furnisher.room
    name = pending[0]
    if name == "sink":
        if along + 0.6 > end:
            pending.pop(0)
            return along
        _counter(furnisher, wall, run)
        if put_unit(furnisher, wall, "sink", Model("kitchen cabinet"), along + 0.3):
            pending.pop(0)
            return along + 0.602
        return along + 0.12
    model = furnisher.model(name)
    low, high = model.extent()
    width = float(high[0] - low[0])
    if along + width > end:
        pending.pop(0)
        return along
    if name != "dishwasher" or float(high[2]) > 0.86:
        _counter(furnisher, wall, run)
    if not room.at_wall(wall, model, along + width / 2, gap=0.01):
        return along + 0.12
    pending.pop(0)
    if name == "dishwasher" and float(high[2]) <= 0.86:
        run += [along, along + width]
    return along + width + 0.004


def _counter(furnisher: VariedFurnisher, wall: str, run: list[float]) -> None:
    """Place one worktop on a row of base units, and empty the row."""
    if len(run) < 2:
        return
    start, end = run[0], run[-1]
    half = (end - start) / 2
    top = Model("kitchen counter")
    top.box((-half, half), (-0.31, 0.3), (0, 0.04), furnisher.kit.worktop)
    if furnisher.kit.chance(0.5):
        top.box((-half, half), (0.28, 0.3), (0.04, furnisher.kit.u(0.08, 0.5)), furnisher.kit.worktop)
    top.top((-half + 0.02, half - 0.02), (-0.28, 0.26), 0.04)
    furnisher.room.at_wall(wall, top, start + half, z=0.86, gap=0.003)
    run.clear()


def _toppings(furnisher: Furnisher) -> None:
    """Add columns and ledges of old buildings."""
    room, kit = furnisher.room, furnisher.kit
    if kit.chance(0.1):
        column = Model("column")
        w = kit.u(0.25, 0.5)
        column.box((-w / 2, w / 2), (-w / 2, w / 2), (0, room.size[2]), kit.white("plaster"))
        room.along_wall(column, corner=kit.chance(0.5), gap=0.0)


EXTRAS = (
    Wish("picture", "hang", 0.5, (1, 4), z=(1.2, 1.7)),
    Wish("poster", "hang", 0.2, (1, 2), z=(1.0, 1.4)),
    Wish("mirror", "hang", 0.15, z=(1.1, 1.4)),
    Wish("clock", "hang", 0.15, z=(1.7, 2.0)),
    Wish("curtain", "window", 0.45, (1, 2), by=("window",)),
    Wish("blinds", "window", 0.2, by=("window",)),
    Wish("radiator", "wall", 0.3),
    Wish("trash can", "wall", 0.4),
    Wish("clothes", "on", 0.35, (1, 2), by=SEATS),
    Wish("clothes", "floor", 0.18, (1, 2)),
    Wish("jacket", "hang", 0.15, (1, 2), z=(0.95, 1.3)),
    Wish("bag", "on", 0.25, (1, 2), by=(*SEATS, *SURFACES)),
    Wish("bag", "floor", 0.3, (1, 2)),
    Wish("backpack", "floor", 0.25, (1, 2)),
    Wish("backpack", "on", 0.15, by=SEATS),
    Wish("shoe", "floor", 0.25, (1, 4)),
    Wish("box", "wall", 0.3, (1, 3)),
    Wish("box", "floor", 0.2, (1, 2)),
    Wish("box", "on", 0.3, (1, 3), by=(*SURFACES, *BOARDS, "wardrobe", "refrigerator", "bed")),
    Wish("object", "on", 0.9, (2, 7), by=(*SURFACES, *BOARDS, *COUNTERS)),
    Wish("object", "floor", 0.25, (1, 2)),
    Wish("book", "on", 0.5, (1, 5), by=(*SURFACES, *BOARDS, "bed", "couch")),
    Wish("row of books", "on", 0.8, (1, 8), by=("bookshelf", "shelf")),
    Wish("paper", "on", 0.35, (1, 4), by=SURFACES),
    Wish("cup", "on", 0.4, (1, 3), by=(*SURFACES, *COUNTERS)),
    Wish("bottle", "on", 0.4, (1, 3), by=(*SURFACES, *COUNTERS)),
    Wish("container", "on", 0.3, (1, 3), by=(*SURFACES, *BOARDS, *COUNTERS)),
    Wish("decoration", "on", 0.35, (1, 3), by=(*SURFACES, *BOARDS)),
    Wish("plant", "corner", 0.25),
    Wish("potted plant", "on", 0.3, (1, 2), by=(*SURFACES, *BOARDS)),
    Wish("lamp", "on", 0.3, by=SURFACES),
    Wish("floor lamp", "corner", 0.15),
    Wish("rug", "middle", 0.2),
    Wish("ladder", "wall", 0.05),
    Wish("fan", "floor", 0.1),
    Wish("suitcase", "wall", 0.15),
    Wish("laptop", "on", 0.25, by=SURFACES),
    Wish("telephone", "on", 0.12, by=SURFACES),
    Wish("tissue box", "on", 0.2, by=SURFACES),
    Wish("toilet paper", "on", 0.05, by=SURFACES),
    Wish("person", "floor", 0.04),
    Wish("cart", "wall", 0.06),
    Wish("storage bin", "wall", 0.12, (1, 2)),
    Wish("stool", "floor", 0.12),
    Wish("wall shelf", "hang", 0.2, (1, 2), z=(1.2, 1.6)),
    Wish("object", "on", 0.6, (1, 4), by=("shelf", "bookshelf", "windowsill")),
)

FURNITURE = (
    Wish("table", "floor", 0.45),
    Wish("chair", "around", 0.9, (1, 6), by=("table", "dining table")),
    Wish("desk", "wall", 0.4, (1, 2)),
    Wish("chair", "before", 0.6, by=("desk",)),
    Wish("office chair", "before", 0.5, by=("desk",)),
    Wish("monitor", "back of", 0.6, (1, 2), by=("desk",)),
    Wish("keyboard", "on", 0.5, by=("desk",)),
    Wish("couch", "wall", 0.3),
    Wish("armchair", "wall", 0.25, (1, 2)),
    Wish("cabinet", "wall", 0.45, (1, 2)),
    Wish("bookshelf", "wall", 0.35, (1, 2)),
    Wish("shelf", "wall", 0.3),
    Wish("dresser", "wall", 0.12),
    Wish("end table", "wall", 0.15),
    Wish("coffee table", "floor", 0.12),
    Wish("chair", "wall", 0.4, (1, 2)),
    Wish("chair", "floor", 0.55, (1, 4)),
)
"""Wishes of most dry rooms."""

DINING = Kind(
    "Dining Room",
    (2.8, 4.2),
    (2.6, 3.8),
    ("planks", "tiles", "carpet"),
    (
        Wish("dining table", "middle", 0.7),
        Wish("table", "middle", 0.5),
        Wish("chair", "around", 1.0, (3, 8), by=("dining table", "table")),
        Wish("cabinet", "wall", 0.6, (1, 2)),
        Wish("chair", "wall", 0.3, (1, 2)),
        Wish("plate", "on", 0.5, (1, 4), by=("dining table", "table")),
        Wish("cup", "on", 0.6, (1, 4), by=("dining table", "table")),
        Wish("bowl", "on", 0.4, (1, 2), by=("dining table", "table", "cabinet")),
        Wish("candle", "on", 0.3, (1, 2), by=("dining table", "table", "cabinet")),
        Wish("light", "ceiling", 0.6),
        Wish("curtain", "window", 0.5, by=("window",)),
    ),
)
LOUNGE = Kind(
    "Lobby",
    (3.6, 6.0),
    (3.2, 5.0),
    ("carpet", "tiles", "granite"),
    (
        Wish("couch", "wall", 0.9, (1, 3)),
        Wish("couch", "floor", 0.4, (1, 2)),
        Wish("coffee table", "facing", 0.8, by=("couch",)),
        Wish("sofa chair", "floor", 0.7, (1, 4)),
        Wish("armchair", "wall", 0.6, (1, 4)),
        Wish("table", "floor", 0.5, (1, 2)),
        Wish("chair", "around", 1.0, (2, 8), by=("table",)),
        Wish("end table", "beside", 0.5, by=("couch", "sofa chair")),
        Wish("seat", "wall", 0.3),
        Wish("ottoman", "floor", 0.4, (1, 2)),
        Wish("cushion", "on", 0.6, (1, 3), by=("couch", "sofa chair")),
        Wish("bulletin board", "hang", 0.3, z=(1.0, 1.3)),
        Wish("tv", "back of", 0.3, by=("cabinet",)),
        Wish("wall tv", "hang", 0.3, z=(1.1, 1.4)),
        Wish("bookshelf", "wall", 0.3),
        Wish("water cooler", "wall", 0.2),
        Wish("plant", "corner", 0.6, (1, 2)),
        Wish("light", "ceiling", 0.5, (1, 3)),
    ),
)
STORAGE = Kind(
    "Storage/Basement/Garage",
    (2.4, 4.2),
    (2.2, 3.8),
    ("granite", "tiles"),
    (
        Wish("shelf", "wall", 0.9, (1, 3)),
        Wish("rack", "wall", 0.6, (1, 2)),
        Wish("cabinet", "wall", 0.5, (1, 2)),
        Wish("table", "wall", 0.4),
        Wish("box", "on", 1.0, (3, 10), by=("shelf", "rack", "table", "cabinet")),
        Wish("box", "wall", 1.0, (2, 6)),
        Wish("box", "on", 0.7, (1, 3), by=("box",)),
        Wish("storage bin", "on", 0.7, (1, 4), by=("shelf", "rack")),
        Wish("container", "on", 0.7, (1, 4), by=("shelf", "rack")),
        Wish("bicycle", "wall", 0.35),
        Wish("ladder", "wall", 0.4),
        Wish("broom", "wall", 0.4),
        Wish("bucket", "floor", 0.4),
        Wish("vacuum cleaner", "wall", 0.3),
        Wish("suitcase", "wall", 0.4, (1, 2)),
        Wish("chair", "floor", 0.4),
        Wish("folded chair", "wall", 0.3, (1, 2)),
        Wish("mattress", "wall", 0.15),
        Wish("pipe", "corner", 0.4),
        Wish("crate", "floor", 0.4, (1, 2)),
        Wish("cart", "wall", 0.3),
    ),
    windows=(0, 1),
)
CORRIDOR = Kind(
    "Hallway",
    (1.3, 2.0),
    (3.2, 6.0),
    ("tiles", "carpet", "planks"),
    (
        Wish("cabinet", "wall", 0.4),
        Wish("bench", "wall", 0.3),
        Wish("coat rack", "corner", 0.3),
        Wish("jacket", "hang", 0.5, (1, 3), z=(1.0, 1.3)),
        Wish("shoe", "wall", 0.6, (1, 5)),
        Wish("mirror", "hang", 0.3, z=(1.1, 1.4)),
        Wish("fire extinguisher", "hang", 0.3, z=(0.8, 1.0)),
        Wish("sign", "hang", 0.3, z=(1.4, 1.8)),
        Wish("bulletin board", "hang", 0.3, z=(1.0, 1.3)),
    ),
    windows=(0, 0),
)
NOOK = Kind(
    "Misc.",
    (1.0, 2.2),
    (0.8, 2.0),
    ("planks", "carpet"),
    (
        Wish("cabinet", "wall", 0.25),
        Wish("shelf", "wall", 0.25),
        Wish("wardrobe", "wall", 0.2),
        Wish("desk", "wall", 0.25),
        Wish("chair", "before", 0.8, by=("desk",)),
        Wish("box", "wall", 0.3, (1, 3)),
    ),
    windows=(0, 1),
)
LIVING_EXTRA = (
    Wish("couch", "wall", 0.4),
    Wish("couch", "floor", 0.2),
    Wish("cushion", "on", 0.8, (1, 5), by=("couch", "sofa chair")),
    Wish("pillow", "on", 0.4, (1, 3), by=("couch",)),
    Wish("shelf", "wall", 0.3),
    Wish("table", "floor", 0.25),
    Wish("chair", "floor", 0.3, (1, 2)),
    Wish("cabinet", "wall", 0.3),
    Wish("desk", "wall", 0.2),
    Wish("office chair", "before", 0.7, by=("desk",)),
)
BED_EXTRA = (
    Wish("bed", "wall", 0.25),
    Wish("pillow", "at head", 0.8, (1, 3), by=("bed",)),
    Wish("cushion", "on", 0.3, (1, 3), by=("bed",)),
    Wish("blanket", "on", 0.4, (1, 2), by=("bed",)),
    Wish("clothes", "on", 0.5, (1, 3), by=("bed", "chair")),
    Wish("bookshelf", "wall", 0.25),
    Wish("shelf", "wall", 0.25),
    Wish("cabinet", "wall", 0.3),
    Wish("desk", "wall", 0.3),
    Wish("office chair", "before", 0.6, by=("desk",)),
    Wish("monitor", "back of", 0.5, by=("desk",)),
    Wish("keyboard", "on", 0.4, by=("desk",)),
    Wish("couch", "wall", 0.1),
    Wish("mini fridge", "wall", 0.15),
)
OFFICE_EXTRA = (
    Wish("desk", "wall", 0.6, (1, 3)),
    Wish("desk", "floor", 0.3, (1, 2)),
    Wish("office chair", "before", 0.9, (1, 3), by=("desk",)),
    Wish("chair", "floor", 0.5, (1, 3)),
    Wish("monitor", "back of", 0.8, (1, 3), by=("desk",)),
    Wish("cabinet", "wall", 0.4),
    Wish("bookshelf", "wall", 0.4),
    Wish("whiteboard", "hang", 0.3, z=(0.85, 1.0)),
    Wish("couch", "wall", 0.12),
)
WET_EXTRA = (
    Wish("bathroom vanity", "wall", 0.4),
    Wish("towel", "hang", 0.8, (1, 3), z=(0.8, 1.4)),
    Wish("clothes", "floor", 0.3),
    Wish("bottle", "on", 0.6, (1, 4), by=("bathroom vanity", "bathtub", "windowsill")),
    Wish("cabinet", "wall", 0.25),
    Wish("shelf", "wall", 0.15),
    Wish("laundry basket", "wall", 0.25),
)
COOKING_EXTRA = (
    Wish("object", "on", 1.0, (2, 8), by=COUNTERS),
    Wish("bottle", "on", 0.9, (2, 6), by=COUNTERS),
    Wish("microwave", "on", 0.4, by=COUNTERS),
    Wish("cabinet", "wall", 0.25),
    Wish("shelf", "wall", 0.15),
)


class ZoneKind(NamedTuple):
    """Kind of room, its additional wishes, and its initial step."""

    kind: Kind
    extra: tuple[Wish, ...] = ()


ZONES: dict[str, ZoneKind] = {
    "bedroom": ZoneKind(BEDROOM, BED_EXTRA),
    "living room": ZoneKind(LIVING_ROOM, LIVING_EXTRA),
    "office": ZoneKind(OFFICE, OFFICE_EXTRA),
    "kitchen": ZoneKind(KITCHEN, COOKING_EXTRA),
    "bathroom": ZoneKind(BATHROOM, WET_EXTRA),
    "washroom": ZoneKind(WASHROOM),
    "classroom": ZoneKind(CLASSROOM),
    "laundry": ZoneKind(LAUNDRY),
    "copy room": ZoneKind(COPY_ROOM),
    "dining": ZoneKind(DINING),
    "lounge": ZoneKind(LOUNGE),
    "storage": ZoneKind(STORAGE),
    "corridor": ZoneKind(CORRIDOR),
    "nook": ZoneKind(NOOK),
}
DRY = ("bedroom", "living room", "office", "dining", "lounge", "kitchen")
COMPOSITIONS: tuple[tuple[float, str], ...] = (
    (17, "bedroom"),
    (14, "living room"),
    (12, "office"),
    (8, "kitchen"),
    (10, "bathroom"),
    (2, "washroom"),
    (3, "classroom"),
    (3, "laundry"),
    (3, "dining"),
    (4, "lounge"),
    (4, "storage"),
    (2, "corridor"),
    (5, "kitchen + dining"),
    (5, "kitchen + dining + living room"),
    (4, "living room + dining"),
    (4, "bedroom + office"),
    (3, "bedroom + living room"),
    (3, "bedroom + corridor"),
    (3, "kitchen + living room"),
    (2, "living room + corridor"),
)
HELD_OUT: tuple[tuple[float, str], ...] = (
    (3, "bedroom + kitchen + living room"),
    (2, "copy room"),
    (2, "office + lounge"),
    (2, "bedroom + bathroom"),
)
"""Compositions that are reserved for validation rooms."""


class FurnishedRoom(NamedTuple):
    """Furnished room, and its scene type in ScanNet's txt."""

    room: Room
    scene_type: str


def furnish_varied(rng: np.random.Generator, *, furniture: Furniture | None, held_out: bool) -> FurnishedRoom:
    """Return a random room of one to three zones.

    Args:
        rng: Random number generator.
        furniture: Models to use beside built furniture.
        held_out: Whether half of the compositions come from those reserved for validation.
    """
    names = pick(HELD_OUT if held_out and rng.random() < 0.5 else COMPOSITIONS, rng).split(" + ")
    shrink = {1: 1.0, 2: 0.9, 3: 0.82}[len(names)]
    sizes = []
    for name in names:
        kind = ZONES[name].kind
        width, depth = (
            float(rng.uniform(*side)) * shrink * float(rng.uniform(0.9, 1.15)) for side in (kind.width, kind.depth)
        )
        sizes.append((name, width, depth) if rng.random() < 0.5 else (name, depth, width))
    if len(names) < 3 and rng.random() < 0.33:
        sizes.append(("nook", float(rng.uniform(*NOOK.width)), float(rng.uniform(*NOOK.depth))))
    zones = arrange(sizes, rng)
    height = float(rng.uniform(2.3, 2.95))
    kit = VariedKit(rng)
    far = np.max([zone.rectangle[2:] for zone in zones], axis=0)
    whole = Room(
        (float(far[0]), float(far[1]), height), rng, areas=tuple(zone.rectangle for zone in zones) + bridge_areas(zones)
    )
    shared = draw_finish(kit, floors=ZONES[names[0]].kind.floors, tiled=ZONES[names[0]].kind.tiled)
    lintel = float(rng.uniform(2.05, 2.25)) if rng.random() < 0.35 and height > 2.35 else height
    density = float(rng.uniform(0.7, 1.5))
    for n, zone in enumerate(zones):
        kind, extra = ZONES[zone.kind]
        room = Room((*zone.size, height), rng)
        own = n > 0 and rng.random() < 0.35
        finish = draw_finish(kit, floors=kind.floors, tiled=kind.tiled) if own else shared
        doors = kit.count(1, 2) if n == 0 else int(kit.chance(0.3))
        windows = kit.count(*kind.windows) if n == 0 or kit.chance(0.6) else 0
        build_zone_shell(room, kit, zone, zones, finish, lintel=lintel, doors=doors, windows=windows)
        furnisher = VariedFurnisher(kind, room, kit, turn=0, allowed=None, furniture=furniture)
        furnisher.density = density
        _fulfil_all(furnisher, zone.kind, kind, extra)
        shift = np.array([*zone.low, 0.0])
        whole.things += [Thing(thing.model, thing.origin + shift, thing.yaw, thing.wall) for thing in room.things]
    return FurnishedRoom(whole, "Apartment" if len(names) > 1 else ZONES[names[0]].kind.scene_type)


def _fulfil_all(furnisher: VariedFurnisher, name: str, kind: Kind, extra: tuple[Wish, ...]) -> None:
    _toppings(furnisher)
    if name == "kitchen":
        _kitchen(furnisher)
    elif kind.prelude:
        kind.prelude(furnisher)
    wishes = [*kind.wishes, *extra]
    if name in DRY:
        wishes += FURNITURE
    if furnisher.furniture:
        wishes += [wish for wish in MODELLED_WISHES.get(name, ()) if furnisher.furniture.has(wish.name)]
    wishes += [*EVERYWHERE, *EXTRAS]
    # Things on the floor come first, since others refer to them.
    for wish in sorted(wishes, key=lambda wish: wish.place in ("on", "at head", "back of")):
        furnisher.fulfil(wish)
