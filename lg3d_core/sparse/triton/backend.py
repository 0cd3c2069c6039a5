"""Backend `triton`: kernel launches with hand-written gradients."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lg3d_core.errors import MissingDependencyError, SettingsError, ShapeError
from lg3d_core.sparse.kernel_maps import KernelMap
from lg3d_core.sparse.triton import levels, neighbours, normalization
from lg3d_core.sparse.triton.configs import Layer
from lg3d_core.sparse.triton.convolution import Epilogue, convolve
from lg3d_core.sparse.triton.launch import INTERPRETED
from lg3d_core.sparse.triton.tuning import choose_convolution, choose_weight_gradient
from lg3d_core.sparse.triton.weight_gradient import weight_gradient

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class TritonBackend:
    """Sparse convolution on CUDA, or on any device in Triton's interpreter, for tests.

    bfloat16 and float16 are accumulated in float32. float32 is multiplied as float32, or as TF32 if
    `torch.set_float32_matmul_precision("high")` allows it. Weights may be float32 with narrower features: they are
    rounded here, and their gradients are not.

    Raises:
        MissingDependencyError: Neither CUDA nor the interpreter is available.
    """

    name = "triton"
    rounds_weights = True

    def __init__(self) -> None:
        if not INTERPRETED and not torch.cuda.is_available():
            raise MissingDependencyError(
                "--backend triton: expected a CUDA device, but PyTorch finds none; use --backend auto."
            )

    def convolve(self, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        _check(features)
        output: Tensor = _Convolve.apply(features, weight, kernel_map)  # type: ignore[no-untyped-call]
        return output

    def convolve_fused(
        self,
        features: Tensor,
        weight: Tensor,
        kernel_map: KernelMap,
        *,
        scale: Tensor,
        shift: Tensor,
        residual: Tensor | None = None,
        relu: bool = False,
    ) -> Tensor:
        """See `lg3d_core.sparse.backends.FusingBackend`."""
        _check(features)
        epilogue = Epilogue(
            scale.float().contiguous(),
            shift.float().contiguous(),
            None if residual is None else residual.to(features.dtype).contiguous(),
            relu,
        )
        return _convolve(features, weight.to(features.dtype), kernel_map, epilogue=epilogue)

    def normalize_rows(self, features: Tensor, bn: nn.BatchNorm1d, **choices: Any) -> Tensor | None:
        """See `lg3d_core.sparse.backends.NormalizingBackend`."""
        if bn.momentum is None or features.dtype not in DTYPES:
            return None
        assert bn.running_mean is not None
        assert bn.running_var is not None
        assert bn.num_batches_tracked is not None
        running = normalization.Running(bn.running_mean, bn.running_var, bn.num_batches_tracked, bn.momentum)
        return normalization.normalize(features, bn.weight, bn.bias, running, eps=bn.eps, **choices)

    def build_submanifold_map(self, keys: Tensor, kernel_size: int, stride: int) -> KernelMap:
        """See `lg3d_core.sparse.backends.MappingBackend`."""
        return neighbours.build_submanifold_map(keys, kernel_size, stride)

    def build_levels(self, keys: Tensor, stride: int, num_levels: int) -> list[tuple[Tensor, Tensor]]:
        """See `lg3d_core.sparse.backends.LevelingBackend`."""
        return levels.build_levels(keys, stride, num_levels)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        rounded = weight.to(features.dtype)
        ctx.save_for_backward(features, rounded)
        ctx.kernel_map, ctx.weight_dtype = kernel_map, weight.dtype
        return _convolve(features, rounded, kernel_map)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        gradient, kernel_map = gradients[0].contiguous(), ctx.kernel_map
        grad_features = grad_weight = None
        if ctx.needs_input_grad[0]:
            reverse = kernel_map if kernel_map.is_submanifold else kernel_map.reversed()
            grad_features = _convolve(gradient, weight, reverse, backwards=True)
        if ctx.needs_input_grad[1]:
            config = choose_weight_gradient(_layer(features, weight, kernel_map), features.device)
            grad_weight = weight_gradient(
                features.contiguous(), gradient, kernel_map, config, precision=_precision(features)
            ).to(ctx.weight_dtype)
        return grad_features, grad_weight, None


def _convolve(
    features: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    *,
    backwards: bool = False,
    epilogue: Epilogue | None = None,
) -> Tensor:
    weight = weight.transpose(1, 2) if backwards else weight
    return convolve(
        features.contiguous(),
        weight,
        kernel_map,
        choose_convolution(_layer(features, weight, kernel_map, backwards=backwards), features.device),
        mirrored=backwards and kernel_map.is_submanifold,
        epilogue=epilogue,
        precision=_precision(features),
    )


def _layer(features: Tensor, weight: Tensor, kernel_map: KernelMap, *, backwards: bool = False) -> Layer:
    num_offsets, channels_in, channels_out = weight.shape
    tf32 = _precision(features) == "tf32"
    return Layer(kernel_map.num_outputs, num_offsets, channels_in, channels_out, features.dtype, tf32, backwards)


def _precision(features: Tensor) -> str:
    narrow = features.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return "tf32" if narrow else "ieee"


def _check(features: Tensor) -> None:
    if not features.is_cuda and not INTERPRETED:
        raise SettingsError(
            f"--backend triton: expected CUDA tensors, got tensors on {features.device}; use --backend auto."
        )
    if features.dtype not in DTYPES:
        raise ShapeError(
            f"Expected float32, bfloat16 or float16 for the backend triton, got {features.dtype}: use --backend torch."
        )
