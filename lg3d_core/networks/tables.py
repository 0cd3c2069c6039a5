"""Neighbour tables of an exported network, with numpy alone.

This file imports nothing else and may be copied: `build_tables` gives a model of `lg3d export` all inputs besides the
colours. A model convolves by gathering rows and multiplying matrices, so that it needs no custom operator.

    cells = np.unique(np.floor(xyz / voxel_size).astype(np.int64), axis=0)    # metres, +z up
    inputs = build_tables(cells) | {"colors": rgb_of_the_cells / 255 - 0.5}   # float32
    scores = onnxruntime.InferenceSession("model.onnx").run(["scores"], inputs)
"""

import numpy as np
import numpy.typing as npt

STRIDES = (1, 2, 4, 8, 16)
"""Edge length of the cells of each level, in voxels."""
BITS = 21
MAX_CELL = (1 << BITS - 1) - 8
"""Largest index of a cell, in either direction."""

Table = npt.NDArray[np.int32]


def build_tables(cells: npt.NDArray[np.integer], *, stem_size: int = 3) -> dict[str, Table]:
    """Return the neighbour tables of all levels of a network, for the voxels of one scan.

    Args:
        cells: Distinct cells `x, y, z`, shape `(voxels, 3)`, integers, in any order. Row k of every table of stride 1,
            and of the outputs of the network, belongs to row k of `cells`.
        stem_size: Edge length of the network's first kernel: 3, or 5.

    Returns:
        Tables of int32. A level of stride s consists of the cells of s x s x s voxels that contain a voxel.
        `neighbours<s>`, for strides 1 to 16: rows of the 27 cells around each cell of the level, -1 for an empty one,
        shape `(cells, 27)`; column `9 * (dz + 1) + 3 * (dy + 1) + (dx + 1)` is at offset `dx, dy, dz`.
        `children<s>`, for strides 2 to 16: rows of the 8 cells of the next finer level in each cell, -1 for an empty
        one, shape `(cells, 8)`; column `4 * dz + 2 * dy + dx`.
        `parents<s>`, for strides 1 to 8: `8 * row + column` of each cell in `children<2s>`, shape `(cells,)`.
        `stem`, with a stem of size 5: as `neighbours1`, for the 125 cells around each voxel.

    Raises:
        ValueError: Cells are not distinct integers of shape `(voxels, 3)`, or are too far from the origin.
    """
    cells = np.asarray(cells)
    if cells.ndim != 2 or cells.shape[1] != 3 or not np.issubdtype(cells.dtype, np.integer):
        raise ValueError(f"expected integer cells of shape (voxels, 3), got {cells.shape} {cells.dtype}")
    if stem_size not in (3, 5):
        raise ValueError(f"expected a stem of size 3 or 5, got {stem_size}")
    if cells.size and max(-int(cells.min()), int(cells.max())) > MAX_CELL:
        raise ValueError(f"expected cells within +-{MAX_CELL}, got {cells.min()}..{cells.max()}")
    level = cells.astype(np.int64)
    num_distinct = len(np.unique(_pack(level)))
    if num_distinct != len(level):
        raise ValueError(f"expected distinct cells, got {len(level) - num_distinct} duplicates of {len(level)}")
    tables = {"stem": find_neighbours(level, 5)} if stem_size == 5 else {}
    for stride in STRIDES:
        tables[f"neighbours{stride}"] = find_neighbours(level, 3)
        if stride != STRIDES[-1]:
            coarse, tables[f"children{2 * stride}"], tables[f"parents{stride}"] = coarsen(level)
            level = coarse
    return tables


def find_neighbours(cells: npt.NDArray[np.int64], size: int) -> Table:
    """Return the rows of the cells in an odd, centred kernel, -1 for none, shape `(cells, size ** 3)`, x fastest."""
    count, radius = size**3, size // 2
    keys = _pack(cells)
    order = np.argsort(keys)
    keys = keys[order]
    table = np.full((count, len(cells)), -1, dtype=np.int32)
    table[count // 2] = np.arange(len(cells))
    for column in range(count // 2 + 1, count):  # the first half mirrors the second
        dz, dy, dx = column // size**2 - radius, column // size % size - radius, column % size - radius
        wanted = keys + ((dx << 2 * BITS) + (dy << BITS) + dz)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found = keys[at] == wanted
        here, there = order[found], order[at[found]]
        table[column, here] = there
        table[count - 1 - column, there] = here
    return np.ascontiguousarray(table.T)


def coarsen(cells: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Table, Table]:
    """Return the cells of twice the edge length, their `children`, and the `parents` of the given ones."""
    keys, rows = np.unique(_pack(cells >> 1), return_inverse=True)
    rows = rows.reshape(-1)
    columns = (cells[:, 0] & 1) + 2 * (cells[:, 1] & 1) + 4 * (cells[:, 2] & 1)
    children = np.full((len(keys), 8), -1, dtype=np.int32)
    children[rows, columns] = np.arange(len(cells))
    return _unpack(keys), children, (8 * rows + columns).astype(np.int32)


def _pack(cells: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    shifted = cells + (1 << BITS - 1)
    return (shifted[:, 0] << 2 * BITS) + (shifted[:, 1] << BITS) + shifted[:, 2]


def _unpack(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    field = (1 << BITS) - 1
    return np.stack([keys >> 2 * BITS, keys >> BITS & field, keys & field], axis=1) - (1 << BITS - 1)
