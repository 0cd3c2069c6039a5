"""Sparse tensor: features on occupied voxels."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lg3d_core.errors import ShapeError
from lg3d_core.sparse.cache import CoordinateCache
from lg3d_core.sparse.coordinates import pack


class SparseTensor:
    """Features on the occupied voxels of a grid, in the order of the sorted voxel keys.

    Tensors that a network derives from one another share a cache, so that coordinates and kernel maps of a level are
    built once per forward pass.

    Attributes:
        features: Features, shape `(voxels, channels)`, floating point, in the level's storage order.
        stride: Distance of adjacent voxels of this level, in input voxels: 1, 2, 4, ...
        cache: Levels and kernel maps that all tensors of the forward pass share.
    """

    __slots__ = ("_order", "_to_input", "cache", "features", "stride")

    features: Tensor
    stride: int
    cache: CoordinateCache

    def __init__(self, features: Tensor, coordinates: Tensor) -> None:
        """Create the finest level from voxels in any order.

        Args:
            features: Features, shape `(voxels, channels)`, floating point, finite.
            coordinates: Rows `batch, x, y, z`, shape `(voxels, 4)`, integers, all distinct, on the same device.

        Raises:
            ShapeError: Shapes, dtypes, lengths or ranges are invalid, a voxel occurs twice, or values are not finite.
        """
        keys = pack(coordinates)
        if features.dim() != 2 or not features.is_floating_point():
            raise ShapeError(
                "Expected floating point features of shape (voxels, channels), got "
                f"{tuple(features.shape)} of {features.dtype}."
            )
        if len(features) != len(coordinates):
            raise ShapeError(
                f"Expected one row of features per voxel, got {len(features)} rows for {len(keys)} voxels."
            )
        if features.device != coordinates.device:
            raise ShapeError(
                f"Expected features and coordinates on one device, got {features.device} and {coordinates.device}."
            )
        keys, order = torch.sort(keys)
        num_infinite = torch.isfinite(features.detach()).logical_not().sum()
        num_infinite, num_duplicates = torch.stack([num_infinite, (keys[1:] == keys[:-1]).sum()]).tolist()
        if num_infinite:
            raise ShapeError("Expected finite features, got NaN or infinity: check the colours of this batch.")
        if num_duplicates:
            raise ShapeError(
                f"Expected distinct voxels, got {num_duplicates} twice among {len(keys)}: voxelize the points first."
            )
        to_input = torch.empty_like(order)
        to_input[order] = torch.arange(len(order), device=order.device)
        self.features = features[order]
        self.stride = 1
        self.cache = CoordinateCache(keys)
        self._to_input, self._order = to_input, order

    @property
    def coordinates(self) -> Tensor:
        """Rows `batch, x, y, z` of this level in the order of `features`, int32, multiples of `stride`."""
        return self.cache.coordinates(self.stride)

    def replace(self, features: Tensor, *, stride: int | None = None) -> "SparseTensor":
        """Return a tensor with other features that shares this one's cache, on this level or on another."""
        other = object.__new__(SparseTensor)
        other.features = features
        other.stride = self.stride if stride is None else stride
        other.cache = self.cache
        other._to_input, other._order = self._to_input, self._order
        return other

    def restore(self, features: Tensor) -> Tensor:
        """Return rows of the finest level in the order of the input voxels.

        Raises:
            ShapeError: `features` does not have one row per voxel of the finest level.
        """
        if len(features) != len(self._to_input):
            raise ShapeError(f"Expected {len(self._to_input)} rows of the finest level, got {len(features)}.")
        restored: Tensor = _Permute.apply(features, self._to_input, self._order)  # type: ignore[no-untyped-call]
        return restored

    def __repr__(self) -> str:
        shape = "x".join(str(size) for size in self.features.shape)
        return f"SparseTensor({shape}, {self.features.dtype}, stride {self.stride}, {self.features.device})"


class _Permute(torch.autograd.Function):
    """Rows in another order. The gradient gathers by the inverse order; PyTorch's own would sort and add rows."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return features.index_select(0, order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].index_select(0, ctx.saved_tensors[0]), None, None
