"""Additional wishes of rooms for which models are available."""

from lg3d_core.synthetic.wishes import Wish

SEATS = ("bed", "couch", "armchair", "sofa chair")
LOW = (
    "table",
    "desk",
    "coffee table",
    "end table",
    "nightstand",
    "dresser",
    "cabinet",
    "tv stand",
    "bookshelf",
    "shelf",
)

MODELLED_WISHES: dict[str, tuple[Wish, ...]] = {
    "bedroom": (
        Wish("purse", "on", 0.5, by=(*SEATS, "dresser", "nightstand")),
        Wish("hat", "on", 0.45, by=(*SEATS, "dresser", "wardrobe")),
        Wish("alarm clock", "on", 0.6, by=("nightstand", "dresser", "desk")),
        Wish("divider", "wall", 0.35),
        Wish("stuffed animal", "on", 0.5, (1, 2), by=(*SEATS, "dresser")),
        Wish("ball", "floor", 0.35),
        Wish("mattress", "floor", 0.2),
        Wish("fan", "corner", 0.3),
        Wish("keyboard piano", "on", 0.2, by=("desk", "table", "bed")),
    ),
    "living room": (
        Wish("purse", "on", 0.4, by=SEATS),
        Wish("divider", "wall", 0.3),
        Wish("piano", "wall", 0.3),
        Wish("bench", "wall", 0.3),
        Wish("ottoman", "floor", 0.4),
        Wish("potted plant", "on", 0.6, (1, 2), by=LOW),
        Wish("ball", "floor", 0.3),
        Wish("stuffed animal", "on", 0.3, by=SEATS),
        Wish("light", "ceiling", 0.5),
        Wish("tray", "on", 0.4, by=("coffee table", "table")),
    ),
    "office": (
        Wish("divider", "wall", 0.4),
        Wish("seat", "wall", 0.3),
        Wish("tray", "on", 0.5, by=("desk", "table", "cabinet")),
        Wish("fan", "corner", 0.3),
        Wish("water cooler", "wall", 0.3),
        Wish("bag", "floor", 0.3),
    ),
    "kitchen": (
        Wish("base unit", "wall", 0.9, (1, 2)),
        Wish("microwave", "on", 0.6, by=("kitchen cabinet",)),
        Wish("coffee maker", "on", 0.6, by=("kitchen cabinet",)),
        Wish("bottle", "on", 0.7, (1, 3), by=("kitchen cabinet",)),
        Wish("tray", "on", 0.5, by=("kitchen cabinet", "table", "dining table")),
        Wish("plate", "on", 0.6, (1, 2), by=("kitchen cabinet", "table", "dining table")),
        Wish("paper towel roll", "on", 0.5, by=("kitchen cabinet",)),
        Wish("coffee kettle", "on", 0.5, by=("kitchen cabinet",)),
        Wish("toaster oven", "on", 0.35, by=("kitchen cabinet", "table")),
        Wish("scale", "on", 0.3, by=("kitchen cabinet", "table")),
        Wish("basket", "floor", 0.3),
    ),
    "classroom": (Wish("piano", "wall", 0.25), Wish("divider", "wall", 0.3), Wish("ball", "floor", 0.3)),
    "laundry": (Wish("machine", "wall", 0.35), Wish("ladder", "wall", 0.4), Wish("ball", "floor", 0.3)),
}
"""Additional wishes by kind of room."""
