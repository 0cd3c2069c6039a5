"""Neighbour search on the GPU for kernel maps of odd kernels.

    neighbours[k, v] = row of (voxel v + offset k) among the sorted keys, -1 if it is not occupied

k: kernel offsets, first axis fastest; v: voxels. Reference: `lg3d_core.sparse.kernel_maps.build_submanifold_map`.
The voxels of one (x, y) column of the kernel are adjacent in the sorted keys: one binary search serves a run along z.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lg3d_core.sparse.coordinates import X_STEP, Y_STEP
from lg3d_core.sparse.kernel_maps import KernelMap
from lg3d_core.sparse.triton.launch import ceil_div, device_of

BLOCK = 128


@triton.jit(do_not_specialize=["num_voxels", "num_halvings"])
def _find_neighbours(
    keys,  # (voxels,) int64, sorted
    neighbours,  # (offsets, voxels) int32
    num_voxels,
    num_halvings,
    stride,
    X_STEP: tl.constexpr,
    Y_STEP: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # 1. Voxels of this program, and its column of the kernel: programs along axis 1 iterate over (dx, dy).
    voxel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = voxel < num_voxels
    column = tl.program_id(1)
    dx = column % SIZE - SIZE // 2
    dy = column // SIZE - SIZE // 2
    own = tl.load(keys + voxel, mask=exists, other=0)  # (BLOCK,)
    step = dx.to(tl.int64) * X_STEP + dy.to(tl.int64) * Y_STEP - SIZE // 2
    wanted = own + step * stride
    # 2. First row whose key is not below the column's lowest: each step halves `low <= row < high`.
    low = tl.zeros([BLOCK], dtype=tl.int32)
    high = low + num_voxels
    for _ in range(num_halvings):
        middle = (low + high) // 2
        key = tl.load(keys + middle, mask=(low < high) & exists, other=0)
        below = (key < wanted) & (low < high)
        low = tl.where(below, middle + 1, low)
        high = tl.where(below, high, middle)
    # 3. The run along z: the row advances after each match.
    for dz in tl.static_range(SIZE):
        key = tl.load(keys + low, mask=(low < num_voxels) & exists, other=-1)
        found = key == wanted
        offset = dz * SIZE * SIZE + column
        target = neighbours + offset.to(tl.int64) * num_voxels + voxel
        tl.store(target, tl.where(found, low, -1), mask=exists)
        low += found.to(tl.int32)
        wanted += stride


def build_submanifold_map(keys: Tensor, kernel_size: int, stride: int) -> KernelMap:
    """Find the neighbours of every voxel within an odd, centred kernel, without a synchronisation.

    Args:
        keys: Sorted, distinct keys of one level, shape `(voxels,)`, int64.
        kernel_size: Edge length of the kernel, odd.
        stride: Tensor stride of the level.
    """
    num_voxels = len(keys)
    table = torch.empty(kernel_size**3, num_voxels, dtype=torch.int32, device=keys.device)
    if num_voxels:
        with device_of(keys):
            _find_neighbours[(ceil_div(num_voxels, BLOCK), kernel_size**2)](
                keys,
                table,
                num_voxels,
                num_voxels.bit_length(),
                stride,
                X_STEP=X_STEP,
                Y_STEP=Y_STEP,
                SIZE=kernel_size,
                BLOCK=BLOCK,
            )
    return KernelMap(table, num_voxels, None)
