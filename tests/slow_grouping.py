"""Slow reference of grouping."""

import numpy as np
import numpy.typing as npt


def connect_slowly(xyz: npt.NDArray[np.float64], classes: npt.NDArray[np.int64], radius: float) -> list[int]:
    """Breadth-first search, one point after the other."""
    groups = np.full(len(xyz), -1)
    for start in range(len(xyz)):
        if groups[start] >= 0 or classes[start] < 0:
            continue
        groups[start] = number = groups.max() + 1
        queue = [start]
        while queue:
            point = queue.pop()
            near = ((xyz - xyz[point]) ** 2).sum(axis=1) <= radius * radius
            near = np.flatnonzero(near & (classes == classes[point]) & (groups < 0))
            groups[near] = number
            queue.extend(near.tolist())
    return groups.tolist()
