"""What rooms may hold, and where: the words that kinds of rooms are described in."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wish:
    """Something that a kind of room may hold.

    Attributes:
        name: Builder's name.
        place: "wall", "corner", "floor", "middle", "hang", "ceiling", or a relation to an earlier thing: "on",
            "at head", "back of", "under", "beside", "before", "facing", "around", "above", "near", "window".
        chance: Share of the rooms of this kind that hold it.
        count: Fewest and most.
        by: Labels that a relation may refer to.
        z: Heights between which a hung thing's origin lies.
    """

    name: str
    place: str
    chance: float = 1.0
    count: tuple[int, int] = (1, 1)
    by: tuple[str, ...] = ()
    z: tuple[float, float] = (0.0, 0.0)
