"""Pairs of an input and an output row, listed per kernel offset, for the gradient of the weight.

    outputs[k] = the rows v with neighbours[k, v] >= 0, ascending;  inputs[k] = their neighbours[k, v]

Lists have space for every output, and `counts` is the number of pairs: no size has to be read from the device.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lg3d_core.sparse.kernel_maps import KernelMap
from lg3d_core.sparse.triton.launch import ceil_div, device_of

BLOCK = 1024
ROWS_PER_VECTOR = 4  # lists start at multiples of 16 bytes: Triton compiles another kernel for pointers that do not


class PairLists(NamedTuple):
    """Pairs of every offset."""

    inputs: Tensor
    """Input rows, `(offsets, capacity)`, int32; undefined from the offset's count on."""
    outputs: Tensor
    """Output rows, as `inputs`."""
    counts: Tensor
    """Pairs per offset, `(offsets,)`, int32."""


@triton.jit(do_not_specialize=["num_outputs", "num_blocks"])
def _count_pairs(
    neighbours,  # (offsets, outputs) int32
    block_counts,  # (offsets, blocks) int32
    num_outputs,
    num_blocks,
    BLOCK: tl.constexpr,
):
    block, offset = tl.program_id(0), tl.program_id(1)
    row = block * BLOCK + tl.arange(0, BLOCK)
    start = neighbours + offset.to(tl.int64) * num_outputs
    neighbour = tl.load(start + row, mask=row < num_outputs, other=-1)  # (BLOCK,)
    tl.store(block_counts + offset * num_blocks + block, tl.sum((neighbour >= 0).to(tl.int32), axis=0))


@triton.jit(do_not_specialize=["num_outputs", "num_blocks", "capacity"])
def _fill_pairs(
    neighbours,  # (offsets, outputs) int32
    block_ends,  # (offsets, blocks) int32: pairs up to and including each block
    inputs,  # (offsets, capacity) int32
    outputs,  # (offsets, capacity) int32
    num_outputs,
    num_blocks,
    capacity,
    BLOCK: tl.constexpr,
):
    block, offset = tl.program_id(0), tl.program_id(1)
    row = block * BLOCK + tl.arange(0, BLOCK)
    start = neighbours + offset.to(tl.int64) * num_outputs
    neighbour = tl.load(start + row, mask=row < num_outputs, other=-1)  # (BLOCK,)
    found = (neighbour >= 0).to(tl.int32)
    end = tl.load(block_ends + offset * num_blocks + block)
    place = end - tl.sum(found, axis=0) + tl.cumsum(found, axis=0) - found
    target = offset.to(tl.int64) * capacity + place
    tl.store(inputs + target, neighbour, mask=found > 0)
    tl.store(outputs + target, row, mask=found > 0)


def pair_lists(kernel_map: KernelMap) -> PairLists:
    """Return a map's pairs, which are made once per map, without a synchronisation."""
    wanted = ("triton pairs", kernel_map.is_reversed)
    if wanted not in kernel_map.plans:
        kernel_map.plans[wanted] = _build_pairs(kernel_map)
    lists: PairLists = kernel_map.plans[wanted]
    return lists


def _build_pairs(kernel_map: KernelMap) -> PairLists:
    neighbours, num_offsets, num_outputs = kernel_map.neighbours, kernel_map.num_offsets, kernel_map.num_outputs
    most = min(num_outputs, kernel_map.num_inputs)  # under one offset, no two outputs share an input
    capacity = ceil_div(most, ROWS_PER_VECTOR) * ROWS_PER_VECTOR
    num_blocks = ceil_div(num_outputs, BLOCK)
    grid = (num_blocks, num_offsets)
    block_counts = neighbours.new_empty(num_offsets, num_blocks)
    inputs, outputs = neighbours.new_empty(2, num_offsets, capacity).unbind(0)
    with device_of(neighbours):
        _count_pairs[grid](neighbours, block_counts, num_outputs, num_blocks, BLOCK=BLOCK)
        block_ends = torch.cumsum(block_counts, dim=1, dtype=torch.int32)
        _fill_pairs[grid](neighbours, block_ends, inputs, outputs, num_outputs, num_blocks, capacity, BLOCK=BLOCK)
    return PairLists(inputs, outputs, block_ends[:, -1].contiguous())
