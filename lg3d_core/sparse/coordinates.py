"""Voxel coordinates as sorted integers: one int64 key per voxel, ordered by batch, x, y, z."""

import torch
from torch import Tensor

from lg3d_core.errors import ShapeError

AXIS_BITS = 18
AXIS_BIAS = 1 << (AXIS_BITS - 1)
MARGIN = 256  # lets a neighbour search step outside the occupied box without leaving its bit field
MAX_COORDINATE = AXIS_BIAS - MARGIN - 1  # about +-2.6 km at 2 cm
MAX_BATCH = (1 << (63 - 3 * AXIS_BITS)) - 2  # the last batch index is reserved for the end-of-list guard

X_STEP = 1 << (2 * AXIS_BITS)
Y_STEP = 1 << AXIS_BITS
Z_STEP = 1


def pack(coordinates: Tensor) -> Tensor:
    """Pack rows `batch, x, y, z` into int64 keys whose order is the rows' lexicographic order.

    Args:
        coordinates: Integer voxel coordinates, shape `(voxels, 4)`, any integer dtype.

    Returns:
        Keys, shape `(voxels,)`, int64, never negative.

    Raises:
        ShapeError: The coordinates are not `(voxels, 4)`, not integers, or out of the range of a key.
    """
    if coordinates.dim() != 2 or coordinates.shape[1] != 4:
        raise ShapeError(
            f"Expected coordinates of shape (voxels, 4) with rows batch, x, y, z, got {tuple(coordinates.shape)}."
        )
    if coordinates.dtype not in (torch.int8, torch.int16, torch.int32, torch.int64):
        raise ShapeError(f"Expected integer coordinates, got {coordinates.dtype}: voxelize the points first.")
    if len(coordinates) == 0:
        return torch.empty(0, dtype=torch.int64, device=coordinates.device)
    lowest, highest = torch.stack(torch.aminmax(coordinates, dim=0)).tolist()  # one synchronisation instead of two
    if lowest[0] < 0 or highest[0] > MAX_BATCH:
        advice = ": compute fewer scenes at once (in training: --micro-batch)" if highest[0] > MAX_BATCH else ""
        raise ShapeError(f"Expected batch indices in 0..{MAX_BATCH}, got {lowest[0]}..{highest[0]}{advice}.")
    if min(lowest[1:]) < -MAX_COORDINATE or max(highest[1:]) > MAX_COORDINATE:
        raise ShapeError(
            f"Expected voxel coordinates within +-{MAX_COORDINATE}, got {min(lowest[1:])}..{max(highest[1:])}: "
            "centre the scene or use larger voxels."
        )
    batch, x, y, z = coordinates.to(torch.int64).unbind(1)
    return (((batch << AXIS_BITS) + x + AXIS_BIAS << AXIS_BITS) + y + AXIS_BIAS << AXIS_BITS) + z + AXIS_BIAS


def unpack(keys: Tensor) -> Tensor:
    """Return the rows `batch, x, y, z` of packed keys, shape `(voxels, 4)`, int32."""
    field = (1 << AXIS_BITS) - 1
    columns = (
        keys >> (3 * AXIS_BITS),
        (keys >> (2 * AXIS_BITS) & field) - AXIS_BIAS,
        (keys >> AXIS_BITS & field) - AXIS_BIAS,
        (keys & field) - AXIS_BIAS,
    )
    return torch.stack(columns, dim=1).to(torch.int32)


def coarsen(keys: Tensor, stride: int) -> Tensor:
    """Round each coordinate of a key down to a multiple of `stride` (a power of two), towards minus infinity."""
    low_bits = stride - 1  # the bias is a multiple of every stride, so clearing bits rounds down, also below zero
    return keys & ~(low_bits * (X_STEP + Y_STEP + Z_STEP))


def fine_offset(keys: Tensor, stride: int) -> Tensor:
    """Return the index of a fine voxel within its 2x2x2 parent, x fastest: shape `(voxels,)`, int64, 0 to 7.

    Args:
        keys: Keys of the finer level, whose coordinates are multiples of `stride`.
        stride: Tensor stride of the finer level, a power of two.
    """
    bit = stride.bit_length() - 1
    return (keys >> (2 * AXIS_BITS + bit) & 1) | (keys >> (AXIS_BITS + bit) & 1) << 1 | (keys >> bit & 1) << 2
