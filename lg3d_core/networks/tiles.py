"""Overlapping tiles of voxels, each small enough for one pass of the network.

A voxel's feature depends on voxels up to the network's reach away. A tile is predicted together with a rim of voxels
around it, whose results are discarded. If the rim is as wide as the reach, the tiled prediction equals the untiled one;
if it is narrower, they may differ within (reach - rim) of a seam, and nowhere else.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import UsageError
from lg3d_core.networks.minkunet import NETWORK_PLANS

NARROWEST = 16
"""Minimum width in voxels of a rim that is chosen automatically."""
WORTHWHILE = 3.0
"""Factor by which a rim may enlarge a tile before it is narrowed."""
MAX_TILES = 100_000


class Tile(NamedTuple):
    """Box of voxels.

    Attributes:
        own: Rows of the voxels that the tile predicts, shape `(own,)`, int64.
        rows: Sorted rows of all voxels that pass through the network, including the rim, shape `(rows,)`, int64.
    """

    own: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]


class Tiling(NamedTuple):
    """Division of a scan into tiles.

    Attributes:
        tiles: Tiles; every voxel is in `own` of exactly one tile.
        rim: Width of the rims in voxels.
    """

    tiles: list[Tile]
    rim: int


def reach_of(network: str, *, stem_size: int = 3) -> int:
    """Return the reach of a network in voxels: the sum of half kernel width times stride over its convolutions.

    Strided convolutions move a voxel to the corner of its cell on the coarsest level, and transposed ones back: at most
    15 voxels in total.
    """
    depths = NETWORK_PLANS[network].depths
    strides = (2, 4, 8, 16, 8, 4, 2, 1)
    blocks = sum(2 * depth * stride for depth, stride in zip(depths, strides, strict=True))
    steps = 1 + 2 + 4 + 8
    return stem_size // 2 + blocks + steps


def tile_voxels(
    cells: npt.NDArray[np.int32], *, max_voxels: int, reach: int, rim: int | None = None, voxel_size: float = 1.0
) -> Tiling:
    """Cut voxels into boxes that contain, including their rims, at most `max_voxels` voxels.

    Args:
        cells: Voxel cells, shape `(voxels, 3)`, int32.
        max_voxels: Maximum number of voxels per tile, including its rim.
        reach: Reach of the network in voxels.
        rim: Width of the rims in voxels; None takes the reach, or less if tiles would be mostly rim.
        voxel_size: Edge length of a voxel in metres, for messages.

    Raises:
        UsageError: Even a small box with its rim does not fit.
    """
    if len(cells) <= max_voxels:
        everything = np.arange(len(cells))
        return Tiling([Tile(everything, everything)], reach if rim is None else rim)
    widths = [rim] if rim is not None else _widths(reach)
    for width in widths:
        tiles: list[Tile] = []
        total = 0
        for tile in _split(cells, width, max_voxels):
            if tile is None:
                break
            tiles.append(tile)
            total += len(tile.rows)
        else:
            if width == widths[-1] or total <= WORTHWHILE * len(cells):
                return Tiling(tiles, width)
    raise UsageError(
        f"--memory is too small: {max_voxels} voxels fit at once, too few for a tile with a rim of "
        f"{widths[-1] * voxel_size:.2f} m; raise --memory, or narrow the rim with --overlap"
    )


def _widths(reach: int) -> list[int]:
    widths = [reach]
    while widths[-1] // 2 >= NARROWEST:
        widths.append(widths[-1] // 2)
    return widths


def _split(cells: npt.NDArray[np.int32], rim: int, max_voxels: int) -> Iterator[Tile | None]:
    """Yield tiles, boxes that are halved along their longest side until they fit; None if they never do."""
    everything = np.arange(len(cells))
    pending = [(everything, everything)]
    count = 0
    while pending:
        rows, around = pending.pop()  # the rim of a half is inside the rim of the whole
        box, near = cells[rows], cells[around]
        low, high = box.min(axis=0), box.max(axis=0)
        with_rim = around[((near >= low - rim) & (near <= high + rim)).all(axis=1)]
        count += 1
        if len(with_rim) <= max_voxels:
            yield Tile(rows, with_rim)
            continue
        axis = int((high - low).argmax())
        if high[axis] - low[axis] < max(2, rim // 8) or count > MAX_TILES:
            yield None
            return
        middle = int(np.median(box[:, axis]))
        if not low[axis] < middle <= high[axis]:
            middle = int(low[axis] + (high[axis] - low[axis] + 1) // 2)
        left = box[:, axis] < middle
        pending += [(rows[~left], with_rim), (rows[left], with_rim)]
