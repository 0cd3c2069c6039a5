"""Layout of the convolution kernel: tiles of outputs that lack the same offsets.

    order = rows sorted by occupancy mask, the rarest offset in the highest bit
    tile t = rows order[t * BLOCK : (t + 1) * BLOCK], with a list of the offsets that any of its rows has

Rows with the same neighbours are grouped, so that a tile skips the offsets that none of its rows needs. Rows with equal
masks keep the order of the voxels, and so their closeness in memory. All sizes are known without a synchronisation:
each tile's list has space for all offsets, and `counts` is the number in use.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lg3d_core.sparse.kernel_maps import KernelMap
from lg3d_core.sparse.triton.launch import ceil_div, device_of

MASK_BITS = 63  # of an int64, without the sign
BLOCK = 256


class TileTable(NamedTuple):
    """Neighbours by tile, without the offsets that a tile does not need."""

    rows: Tensor
    """Output row per position, -1 after the last, shape `(tiles, block)`, int32."""
    counts: Tensor
    """Number of offsets in use, shape `(tiles,)`, int32."""
    offsets: Tensor
    """Indices of those offsets, ascending, shape `(tiles, offsets)`, int32; undefined from the tile's count on."""
    neighbours: Tensor
    """Input row per position, -1 for none, shape `(tiles, offsets, block)`, int32; undefined as `offsets`."""


@triton.jit(do_not_specialize=["num_outputs"])
def _mask_rows(
    neighbours,  # (offsets, outputs) int32
    bits,  # (offsets,) int64: a power of two, or 0 for an offset that has no bit
    masks,  # (outputs,) int64
    num_outputs,
    NUM_OFFSETS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = row < num_outputs
    mask = tl.zeros([BLOCK], dtype=tl.int64)
    for offset in range(NUM_OFFSETS):
        bit = tl.load(bits + offset)
        start = neighbours + tl.cast(offset, tl.int64) * num_outputs
        neighbour = tl.load(start + row, mask=exists, other=-1)  # (BLOCK,)
        mask += tl.where(neighbour >= 0, bit, 0)
    tl.store(masks + row, mask, mask=exists)


@triton.jit(do_not_specialize=["num_outputs"])
def _compact_tiles(
    neighbours,  # (offsets, outputs) int32
    order,  # (outputs,) int64
    tile_rows,  # (tiles, BLOCK) int32
    tile_counts,  # (tiles,) int32
    tile_offsets,  # (tiles, offsets) int32
    tile_neighbours,  # (tiles, offsets, BLOCK) int32
    num_outputs,
    NUM_OFFSETS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    tile = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    place = tile * BLOCK + lane
    exists = place < num_outputs
    row = tl.load(order + place, mask=exists, other=-1)  # (BLOCK,)
    tl.store(tile_rows + place, row.to(tl.int32))
    count = tl.zeros([], dtype=tl.int32)
    for offset in range(NUM_OFFSETS):
        start = neighbours + tl.cast(offset, tl.int64) * num_outputs
        neighbour = tl.load(start + row, mask=exists, other=-1)  # (BLOCK,)
        needed = tl.max(neighbour, axis=0) >= 0
        entry = tile * NUM_OFFSETS + count
        tl.store(tile_neighbours + entry * BLOCK + lane, neighbour, mask=(lane >= 0) & needed)
        tl.store(tile_offsets + entry, offset, mask=needed)
        count += needed.to(tl.int32)
    tl.store(tile_counts + tile, count)


def tile_table(kernel_map: KernelMap, block: int) -> TileTable:
    """Return a map's tiles of a size, which are made once per map, without a synchronisation.

    Args:
        kernel_map: Kernel map with at least one output.
        block: Outputs per tile, a power of two.
    """
    wanted = ("triton tiles", kernel_map.is_reversed, block)
    if wanted not in kernel_map.plans:
        kernel_map.plans[wanted] = _build_tiles(kernel_map, _order(kernel_map), block)
    table: TileTable = kernel_map.plans[wanted]
    return table


def _build_tiles(kernel_map: KernelMap, order: Tensor, block: int) -> TileTable:
    neighbours, num_offsets = kernel_map.neighbours, kernel_map.num_offsets
    num_tiles = ceil_div(kernel_map.num_outputs, block)
    table = TileTable(
        rows=neighbours.new_empty(num_tiles, block),
        counts=neighbours.new_empty(num_tiles),
        offsets=neighbours.new_empty(num_tiles, num_offsets),
        neighbours=neighbours.new_empty(num_tiles, num_offsets, block),
    )
    with device_of(neighbours):
        _compact_tiles[(num_tiles,)](
            neighbours, order, *table, kernel_map.num_outputs, NUM_OFFSETS=num_offsets, BLOCK=block
        )
    return table


def _order(kernel_map: KernelMap) -> Tensor:
    wanted = ("triton order", kernel_map.is_reversed)
    if wanted not in kernel_map.plans:
        kernel_map.plans[wanted] = order_by_mask(kernel_map.neighbours)
    order: Tensor = kernel_map.plans[wanted]
    return order


def order_by_mask(neighbours: Tensor) -> Tensor:
    """Sort outputs by the offsets that they have, shape `(outputs,)`, int64.

    Kernels with more offsets than bits are sorted by their rarest offsets.
    """
    num_offsets, num_outputs = neighbours.shape
    counts = (neighbours >= 0).sum(dim=1)
    rarity = torch.argsort(torch.argsort(counts, stable=True))  # 0 for the rarest
    highest = torch.ones_like(rarity) << (MASK_BITS - 1)
    bits = torch.where(rarity < MASK_BITS, highest >> rarity.clamp(max=MASK_BITS - 1), 0)
    masks = torch.empty(num_outputs, dtype=torch.int64, device=neighbours.device)
    with device_of(neighbours):
        _mask_rows[(ceil_div(num_outputs, BLOCK),)](
            neighbours,
            bits,
            masks,
            num_outputs,
            NUM_OFFSETS=num_offsets,
            BLOCK=BLOCK,
        )
    return torch.sort(masks, stable=True).indices
