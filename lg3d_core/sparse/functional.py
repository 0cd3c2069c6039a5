"""Functional interface of sparse convolution: validates the arguments and calls a backend."""

import torch
from torch import Tensor

from lg3d_core.errors import ShapeError
from lg3d_core.sparse.backends import Backend, FusingBackend, current_backend
from lg3d_core.sparse.kernel_maps import KernelMap
from lg3d_core.sparse.pointwise import multiply_rows
from lg3d_core.sparse.tensor import SparseTensor


def sparse_convolution(
    x: SparseTensor,
    weight: Tensor,
    *,
    kernel_size: int,
    stride: int = 1,
    transposed: bool = False,
    bias: Tensor | None = None,
) -> SparseTensor:
    """Convolve a sparse tensor onto its own voxels, to half the resolution, or back to double the resolution.

    Args:
        x: Input tensor.
        weight: Shape `(offsets, in, out)`, or `(in, out)` for kernel size 1. Offsets in MinkowskiEngine 0.5's order.
        kernel_size: Edge length of the kernel: odd with stride 1, or 2 with stride 2.
        stride: 1 keeps the voxels; 2 halves the resolution, or doubles it if transposed.
        transposed: Whether to return to the next finer level, whose voxels are taken from the cache.
        bias: Bias added to every output, shape `(out,)` or `(1, out)`.

    Raises:
        ShapeError: The kernel is not supported, or weight or bias have the wrong shape.
    """
    kernel_map, output_stride = _find_map(x, kernel_size, stride, transposed)
    _check_weight(x, weight, kernel_map)
    if bias is not None and bias.numel() != weight.shape[-1]:
        raise ShapeError(f"Expected a bias of {weight.shape[-1]} values, got {tuple(bias.shape)}.")
    backend = current_backend(x.features.device)
    features, weight = _same_dtype(x.features, weight, keeps_weight=kernel_map is not None and _rounds(backend))
    if kernel_map is None:
        output = multiply_rows(features, weight, None if bias is None else bias.reshape(-1).to(weight.dtype))
    else:
        output = backend.convolve(features, weight, kernel_map)
        if bias is not None:
            output = output + bias.reshape(-1).to(output.dtype)
    return x.replace(output, stride=output_stride)


def fused_convolution(
    x: SparseTensor,
    weight: Tensor,
    *,
    kernel_size: int,
    scale: Tensor,
    shift: Tensor,
    stride: int = 1,
    transposed: bool = False,
    residual: Tensor | None = None,
    relu: bool = False,
) -> SparseTensor | None:
    """Convolve, scale and shift, add a residual and apply a ReLU in one step without gradients, if supported.

    Args:
        x: Input tensor.
        weight: As for `sparse_convolution`.
        kernel_size: As for `sparse_convolution`.
        scale: Scale per output channel, shape `(out,)`, float32.
        shift: Shift per output channel, shape `(out,)`, float32.
        stride: As for `sparse_convolution`.
        transposed: As for `sparse_convolution`.
        residual: Residual on the voxels of the output, shape `(voxels, out)`.
        relu: Whether to apply a ReLU.

    Returns:
        Output tensor; None if the backend in use does not support this, or gradients are required.

    Raises:
        ShapeError: As for `sparse_convolution`, or scale, shift or residual have the wrong shape.
    """
    backend = current_backend(x.features.device)
    if kernel_size == 1 or torch.is_grad_enabled() or not isinstance(backend, FusingBackend):
        return None
    kernel_map, output_stride = _find_map(x, kernel_size, stride, transposed)
    _check_weight(x, weight, kernel_map)
    assert kernel_map is not None
    channels = weight.shape[-1]
    if scale.shape != (channels,) or shift.shape != (channels,):
        raise ShapeError(f"Expected a scale and a shift of {channels} values, got {scale.numel()} and {shift.numel()}.")
    if residual is not None and residual.shape != (kernel_map.num_outputs, channels):
        raise ShapeError(
            f"Expected a residual of shape ({kernel_map.num_outputs}, {channels}), got {tuple(residual.shape)}."
        )
    features, weight = _same_dtype(x.features, weight, keeps_weight=_rounds(backend))
    if residual is not None:
        residual = residual.to(features.dtype)
    output = backend.convolve_fused(
        features, weight, kernel_map, scale=scale, shift=shift, residual=residual, relu=relu
    )
    return x.replace(output, stride=output_stride)


def pointwise_convolution(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply each voxel's features by one matrix: a convolution of kernel size 1, for rows in any order.

    Args:
        features: Features, shape `(voxels, in)`.
        weight: Matrix, shape `(in, out)`.
        bias: Bias added to every output, shape `(out,)` or `(1, out)`. Under autocast it keeps its dtype, which is then
            that of the output.

    Raises:
        ShapeError: Weight or bias have the wrong shape.
    """
    if features.dim() != 2 or weight.dim() != 2 or features.shape[1] != weight.shape[0]:
        raise ShapeError(
            "Expected features of shape (voxels, in) and a weight of shape (in, out), got "
            f"{tuple(features.shape)} and {tuple(weight.shape)}."
        )
    if bias is not None and bias.numel() != weight.shape[1]:
        raise ShapeError(f"Expected a bias of {weight.shape[1]} values, got {tuple(bias.shape)}.")
    features, weight = _same_dtype(features, weight)
    return multiply_rows(features, weight, None if bias is None else bias.reshape(-1))


def _check_weight(x: SparseTensor, weight: Tensor, kernel_map: KernelMap | None) -> None:
    offsets = () if kernel_map is None else (kernel_map.num_offsets,)
    if weight.dim() != len(offsets) + 2 or weight.shape[:-1] != (*offsets, x.features.shape[1]):
        wanted = ", ".join(str(size) for size in (*offsets, x.features.shape[1]))
        raise ShapeError(f"Expected a weight of shape ({wanted}, out), got {tuple(weight.shape)}.")


def _find_map(x: SparseTensor, kernel_size: int, stride: int, transposed: bool) -> tuple[KernelMap | None, int]:
    if (kernel_size, stride, transposed) == (1, 1, False):
        return None, x.stride
    if kernel_size % 2 == 1 and 1 < kernel_size <= 7 and stride == 1 and not transposed:
        return x.cache.submanifold_map(x.stride, kernel_size), x.stride
    if (kernel_size, stride) == (2, 2):
        if transposed:
            return x.cache.upward_map(x.stride), x.stride // 2
        return x.cache.downward_map(x.stride), x.stride * 2
    raise ShapeError(
        "Expected kernel size 1, 3, 5 or 7 with stride 1, or kernel size 2 with stride 2, got kernel size "
        f"{kernel_size} with stride {stride}{', transposed' if transposed else ''}."
    )


def _rounds(backend: Backend) -> bool:
    return bool(getattr(backend, "rounds_weights", False))


def _same_dtype(features: Tensor, weight: Tensor, *, keeps_weight: bool = False) -> tuple[Tensor, Tensor]:
    device = features.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        return features.to(dtype), weight if keeps_weight else weight.to(dtype)
    if features.dtype != weight.dtype:
        raise ShapeError(f"Expected features and weight of one dtype, got {features.dtype} and {weight.dtype}.")
    return features, weight
