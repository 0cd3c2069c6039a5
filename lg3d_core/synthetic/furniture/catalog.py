"""All builders by name. A variant has its own name and the label of its family."""

from collections.abc import Callable

from lg3d_core.synthetic.furniture.bathroom import BATHROOM, vessel_sink
from lg3d_core.synthetic.furniture.belongings import BELONGINGS, books, hanging_clothes, object_
from lg3d_core.synthetic.furniture.electronics import ELECTRONICS, floor_lamp
from lg3d_core.synthetic.furniture.fixtures import FIXTURES, wall_shelf, wall_tv
from lg3d_core.synthetic.furniture.kitchen import KITCHEN, kitchen_sink, sink_counter
from lg3d_core.synthetic.furniture.seating import SEATING
from lg3d_core.synthetic.furniture.sleeping import SLEEPING
from lg3d_core.synthetic.furniture.storage import STORAGE, wall_cabinet
from lg3d_core.synthetic.furniture.tables import TABLES
from lg3d_core.synthetic.modelling import Kit, Model

Builder = Callable[[Model, Kit], None]

BUILDERS: dict[str, Builder] = {
    **SEATING,
    **TABLES,
    **STORAGE,
    **SLEEPING,
    **BATHROOM,
    **KITCHEN,
    **ELECTRONICS,
    **BELONGINGS,
    **FIXTURES,
}

UNANNOTATED = ""

# name -> (label, builder): further shapes of classes that have a builder, and unannotated things.
VARIANTS: dict[str, tuple[str, Builder]] = {
    "clutter": (UNANNOTATED, object_),
    "row of books": ("book", books),
    "hanging clothes": ("clothes", hanging_clothes),
    "floor lamp": ("lamp", floor_lamp),
    "wall shelf": ("shelf", wall_shelf),
    "wall tv": ("tv", wall_tv),
    "wall cabinet": ("kitchen cabinet", wall_cabinet),
    "kitchen sink": ("sink", kitchen_sink),
    "sink counter": ("kitchen counter", sink_counter),
    "vessel sink": ("sink", vessel_sink),
}


def label_of(name: str) -> str:
    """Return the class of a builder's name."""
    return VARIANTS[name][0] if name in VARIANTS else name


def build(name: str, kit: Kit) -> Model:
    """Build a thing by name with the room's materials."""
    model = Model(label_of(name))
    builder = VARIANTS[name][1] if name in VARIANTS else BUILDERS[name]
    builder(model, kit)
    model.lift()
    return model
