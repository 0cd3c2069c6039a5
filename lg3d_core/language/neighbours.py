"""Which categories lie by which in a set of anchors, for a person to judge."""

from typing import NamedTuple

import numpy as np

from lg3d_core.language.anchors_file import Anchors


class Neighbour(NamedTuple):
    """A category near another.

    Attributes:
        name: Its name.
        cosine: Of the two anchors.
    """

    name: str
    cosine: float


def nearest_names(anchors: Anchors, *, count: int = 5) -> dict[str, list[Neighbour]]:
    """The nearest other categories of each, by cosine, nearest first; equally near ones in the vocabulary's order.

    Args:
        anchors: One vector per category.
        count: How many; all others where there are fewer.
    """
    unit = anchors.vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, : min(count, len(unit) - 1)]
    return {
        name: [Neighbour(anchors.names[other], float(cosines[row, other])) for other in order[row]]
        for row, name in enumerate(anchors.names)
    }
