"""Pairs of a kernel map in the layout of the compiled kernels."""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from lg3d_core.sparse.kernel_maps import KernelMap
from lg3d_core.sparse.parallel import run_pieces

MAX_CHUNK_ROWS = 2048  # inputs and outputs of a chunk stay in a core's cache
MIN_CHUNK_ROWS = 256
WANTED_CHUNKS = 16


class PairPlan(NamedTuple):
    """Pairs of input and output voxels, sorted by chunk of outputs, then by offset, then by output."""

    source: Tensor
    """Input row per pair, int32."""
    target: Tensor
    """Output row per pair, int32."""
    bounds: Tensor
    """Start of the pairs of each chunk's offsets, shape `(chunks * offsets + 1,)`, int64."""
    rows: Tensor
    """Start of the output rows of each chunk, shape `(chunks + 1,)`, int64."""

    @property
    def num_chunks(self) -> int:
        return len(self.rows) - 1

    @property
    def num_pairs(self) -> int:
        return len(self.source)


def pair_plan(kernel_map: KernelMap, kernels: ctypes.CDLL) -> PairPlan:
    """Return the plan of a map, which is made on first use and cached with the map."""
    wanted = ("native", kernel_map.is_reversed)
    plan = kernel_map.plans.get(wanted)
    if plan is None:
        plan = kernel_map.plans[wanted] = _list_pairs(kernel_map, kernels)
    assert isinstance(plan, PairPlan)
    return plan


def _list_pairs(kernel_map: KernelMap, kernels: ctypes.CDLL) -> PairPlan:
    table = kernel_map.neighbours.contiguous()
    num_outputs, num_offsets = kernel_map.num_outputs, kernel_map.num_offsets
    chunk_rows = min(MAX_CHUNK_ROWS, max(MIN_CHUNK_ROWS, num_outputs // WANTED_CHUNKS))
    num_chunks = min(num_outputs, max(1, round(num_outputs / chunk_rows)))
    rows = torch.tensor([num_outputs * chunk // max(1, num_chunks) for chunk in range(num_chunks + 1)])
    counts = torch.zeros(num_chunks, num_offsets, dtype=torch.int64)

    def place(chunk: int) -> tuple[ctypes.c_void_p | ctypes.c_int64, ...]:
        first, last = rows[chunk : chunk + 2].tolist()
        sizes = (num_outputs, num_offsets, first, last)
        return ctypes.c_void_p(table.data_ptr()), *(ctypes.c_int64(size) for size in sizes)

    def count_pairs(chunk: int) -> None:
        kernels.lg3d_count_pairs(*place(chunk), ctypes.c_void_p(counts[chunk].data_ptr()))

    run_pieces(count_pairs, num_chunks)
    bounds = torch.zeros(num_chunks * num_offsets + 1, dtype=torch.int64)
    torch.cumsum(counts.flatten(), dim=0, out=bounds[1:])
    source = torch.empty(int(bounds[-1]), dtype=torch.int32)
    target = torch.empty_like(source)

    def list_pairs(chunk: int) -> None:
        pointers = (bounds[chunk * num_offsets :], source, target)
        kernels.lg3d_list_pairs(*place(chunk), *(ctypes.c_void_p(tensor.data_ptr()) for tensor in pointers))

    run_pieces(list_pairs, num_chunks)
    return PairPlan(source, target, bounds, rows)
