"""Nearest classes of each class in a set of anchors, for manual inspection."""

from typing import NamedTuple

import numpy as np

from lg3d_core.language.anchors_file import Anchors


class Neighbour(NamedTuple):
    """Class near another class.

    Attributes:
        name: Name of the class.
        cosine: Cosine of the two anchors.
    """

    name: str
    cosine: float


def nearest_names(anchors: Anchors, *, count: int = 5) -> dict[str, list[Neighbour]]:
    """Return the nearest other classes of each class by cosine, nearest first; ties in the vocabulary's order.

    Args:
        anchors: One vector per class.
        count: Maximum number of neighbours.
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
