"""Wishes: the vocabulary that describes the content of kinds of rooms."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wish:
    """Thing that a kind of room may contain.

    Attributes:
        name: Builder's name.
        place: "wall", "corner", "floor", "middle", "hang", "ceiling", or a relation to an earlier thing: "on",
            "at head", "back of", "under", "beside", "before", "facing", "around", "above", "near", "window".
        chance: Share of the rooms of this kind that contain the thing.
        count: Minimum and maximum number.
        by: Labels of the things that a relation may refer to.
        z: Range of the height of a hung thing's origin in metres.
    """

    name: str
    place: str
    chance: float = 1.0
    count: tuple[int, int] = (1, 1)
    by: tuple[str, ...] = ()
    z: tuple[float, float] = (0.0, 0.0)
