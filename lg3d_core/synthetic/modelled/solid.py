"""Collision boxes of a mesh, and tops on which things can stand."""

import numpy as np
import numpy.typing as npt

from lg3d_core.synthetic.shapes import Array

COLUMNS = 14
"""Approximate number of columns along the longer side of a footprint."""
FINEST = 0.03
"""Minimum edge of a column in metres."""
GAP = 0.09
"""Empty heights below this value within a column are filled, in metres."""
LEVEL = 0.015
"""Maximum difference in metres between the ends of columns that are joined into one box."""
TOP_CELL = 0.04
"""Minimum edge in metres of the cells in which tops are searched."""
TOP_STEP = 0.025
"""Maximum height difference within a top in metres."""
TOP_AREA = 0.008
"""Minimum area of a top in square metres."""
MOST_TOPS = 8
NO_ROOF = 1.0


def fill_boxes(xyz: Array, *, spacing: float = 0.0) -> tuple[Array, Array]:
    """Return boxes that enclose a surface tightly in height, by columns of its footprint of at least the `spacing`.

    Returns:
        Low and high corners, shape `(boxes, 3)` each.
    """
    low, high = xyz.min(axis=0), xyz.max(axis=0)
    side = (high - low)[:2]
    cells = np.maximum(1, np.minimum(COLUMNS, np.floor(side / max(FINEST, 1.3 * spacing)))).astype(np.int64)
    edge = np.maximum(side / cells, 1e-6)
    column = np.minimum(((xyz[:, :2] - low[:2]) / edge).astype(np.int64), cells - 1)
    key = column[:, 0] * cells[1] + column[:, 1]
    order = np.lexsort((xyz[:, 2], key))
    key, z = key[order], xyz[order, 2]
    starts = np.flatnonzero(np.concatenate([[True], (np.diff(key) > 0) | (np.diff(z) > max(GAP, 2 * spacing))]))
    ends = np.append(starts[1:], len(z)) - 1
    runs = [
        (int(k // cells[1]), int(k % cells[1]), float(a), float(b))
        for k, a, b in zip(key[starts], z[starts], z[ends], strict=True)
    ]
    boxes: list[tuple[int, int, int, int, float, float]] = []
    for across, along, bottom, top in _join(runs):
        boxes.append((*across, *along, bottom, top))
    table = np.array(boxes)
    return (
        np.stack([low[0] + table[:, 0] * edge[0], low[1] + table[:, 2] * edge[1], table[:, 4]], axis=1),
        np.stack([low[0] + table[:, 1] * edge[0], low[1] + table[:, 3] * edge[1], table[:, 5]], axis=1),
    )


def _join(
    runs: list[tuple[int, int, float, float]],
) -> list[tuple[tuple[int, int], tuple[int, int], float, float]]:
    """Join columns of equal height along y, then strips of equal height and width along x."""
    strips: list[list[float]] = []
    x: float
    for x, y, bottom, top in sorted(
        runs, key=lambda run: (run[0], round(run[2] / LEVEL), round(run[3] / LEVEL), run[1])
    ):
        last = strips[-1] if strips else None
        if last and last[0] == x and last[2] == y and abs(last[3] - bottom) < LEVEL and abs(last[4] - top) < LEVEL:
            last[2], last[3], last[4] = y + 1, min(last[3], bottom), max(last[4], top)
        else:
            strips.append([x, y, y + 1, bottom, top])
    boxes: list[list[float]] = []
    for x, y0, y1, bottom, top in sorted(
        strips, key=lambda s: (s[1], s[2], round(s[3] / LEVEL), round(s[4] / LEVEL), s[0])
    ):
        last = boxes[-1] if boxes else None
        if (
            last
            and last[1] == x
            and (last[2], last[3]) == (y0, y1)
            and abs(last[4] - bottom) < LEVEL
            and abs(last[5] - top) < LEVEL
        ):
            last[1], last[4], last[5] = x + 1, min(last[4], bottom), max(last[5], top)
        else:
            boxes.append([x, x + 1, y0, y1, bottom, top])
    return [((int(a), int(b)), (int(c), int(d)), e, f) for a, b, c, d, e, f in boxes]


def find_tops(xyz: Array, normal: Array, *, spacing: float = 0.0) -> Array:
    """Return level rectangles of upward surfaces with vertices about `spacing` apart, largest first.

    Returns:
        Low x, low y, high x, high y, z and the free height above, shape `(tops, 6)`, metres.
    """
    edge = max(TOP_CELL, 1.5 * spacing)
    low = xyz[:, :2].min(axis=0)
    cells = np.floor((xyz[:, :2].max(axis=0) - low) / edge).astype(np.int64) + 1
    if cells.min() < 2 or cells.max() > 200:
        return np.zeros((0, 6))
    column = np.floor((xyz[:, :2] - low) / edge).astype(np.int64)
    up = np.flatnonzero(normal[:, 2] > 0.85)
    if not len(up):
        return np.zeros((0, 6))
    heights = xyz[up, 2]
    levels, counts = np.unique(np.round(heights / TOP_STEP).astype(np.int64), return_counts=True)
    found: list[tuple[float, ...]] = []
    taken: list[float] = []
    for level in levels[np.argsort(-counts, kind="stable")][: 3 * MOST_TOPS]:
        middle = level * TOP_STEP
        if any(abs(middle - z) < 2 * TOP_STEP for z in taken):
            continue
        rows = up[np.abs(heights - middle) < TOP_STEP]
        ground = np.zeros(tuple(cells), dtype=bool)
        ground[tuple(column[rows].T)] = True
        x0, x1, y0, y1 = _largest_rectangle(ground)
        if x1 - x0 < 2 or y1 - y0 < 2 or (x1 - x0) * (y1 - y0) * edge**2 < TOP_AREA:
            continue
        within = ((column >= (x0, y0)) & (column < (x1, y1))).all(axis=1)
        on_it = rows[within[rows]]
        z = float(xyz[on_it, 2].max())
        above = xyz[within & (xyz[:, 2] > z + TOP_STEP), 2]
        free = float(above.min() - z) if len(above) else NO_ROOF
        taken.append(middle)
        if free > 0.06:
            corner, opposite = low + np.array([x0, y0]) * edge, low + np.array([x1, y1]) * edge
            found.append((*corner, *opposite, z, free))
    found.sort(key=lambda top: -(top[2] - top[0]) * (top[3] - top[1]))
    return np.array(found[:MOST_TOPS]).reshape(-1, 6)


def _largest_rectangle(ground: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return rows and columns (low and high each) of the largest rectangle of true cells."""
    best, result = 0, (0, 0, 0, 0)
    height = np.zeros(ground.shape[1], dtype=np.int64)
    for row, line in enumerate(ground):
        height = np.where(line, height + 1, 0)
        stack: list[int] = []
        bars = [*height.tolist(), 0]
        for k, bar in enumerate(bars):
            while stack and bars[stack[-1]] >= bar:
                tall = bars[stack.pop()]
                left = stack[-1] + 1 if stack else 0
                if tall * (k - left) > best:
                    best, result = tall * (k - left), (row + 1 - tall, row + 1, left, k)
            stack.append(k)
    return result
