"""Sparse convolution on the CPU with compiled kernels, without separate gather and scatter steps.

    output[v] = sum over pairs p of v of input[source[p]] @ weight[offset[p]]

v: output voxels. Reference: `lg3d_core.sparse.reference`; the kernels are documented in `kernels.c`. Workers share the
chunks of voxels and the panels of channels; every output is summed in a fixed order, so that results are bit-equal for
any number of workers.
"""

import ctypes
import threading
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from lg3d_core.sparse.kernel_maps import KernelMap
from lg3d_core.sparse.native.build import load_kernels
from lg3d_core.sparse.native.plans import PairPlan, pair_plan
from lg3d_core.sparse.native.rows import RowKernels
from lg3d_core.sparse.parallel import run_pieces
from lg3d_core.sparse.torch_backend import TorchBackend

MAX_SLOTS = 8
MAX_SLOT_BYTES = 32 << 20  # partial weight gradients of one layer, all slots together
WANTED_PIECES = 24
PANEL_WIDTH = 64  # maximum width of a panel of output channels, floats
MIN_SHARED_WORK = 1_000_000  # multiply-adds; below this, waking a thread costs more than it saves


class NativeBackend:
    """Compiled kernels for float32 and, if the processor supports it, bfloat16; other dtypes use `torch`."""

    name = "native"

    def __init__(self, kernels: ctypes.CDLL | None = None) -> None:
        """Create the backend with compiled kernels, by default those of `load_kernels()`.

        Raises:
            MissingDependencyError: The kernels cannot be compiled.
        """
        self._kernels = kernels = load_kernels() if kernels is None else kernels
        self._lanes: int = kernels.lg3d_lanes()
        self._dtypes = {torch.float32, torch.bfloat16} if kernels.lg3d_has_bf16() else {torch.float32}
        self._other = TorchBackend()
        self.row_kernels = RowKernels(kernels)

    rounds_weights = True

    def computes(self, dtype: torch.dtype) -> bool:
        """Return whether the kernels, rather than plain PyTorch, multiply rows of this dtype."""
        return dtype in self._dtypes

    def convolve(self, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        """Convolve validated tensors; see `lg3d_core.sparse.backends.Backend`."""
        if not self._computes(features):
            return self._other.convolve(features, weight.to(features.dtype), kernel_map)
        out_channels = weight.shape[2]
        features, weight = self._pad(features, weight)
        output: Tensor = _Convolve.apply(  # type: ignore[no-untyped-call]
            features, weight, kernel_map, self._kernels
        )
        return output[:, :out_channels] if weight.shape[2] > out_channels else output

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
        """Convolve, scale, shift, add and clip; see `lg3d_core.sparse.backends.FusingBackend`."""
        if not self._computes(features):
            output = self._other.convolve(features, weight.to(features.dtype), kernel_map)
            output = torch.addcmul(shift.to(output.dtype), output, scale.to(output.dtype))
            output = output if residual is None else output + residual
            return output.relu_() if relu else output
        out_channels = weight.shape[2]
        features, weight = self._pad(features, weight)
        padding = (0, weight.shape[2] - out_channels)
        if padding[1]:
            scale, shift = functional.pad(scale, padding), functional.pad(shift, padding)
            residual = None if residual is None else functional.pad(residual, padding)
        after = _After(
            scale.contiguous(), shift.contiguous(), None if residual is None else residual.contiguous(), relu
        )
        plan = pair_plan(kernel_map, self._kernels)
        output = _multiply(
            self._kernels, features.contiguous(), weight.contiguous(), plan, kernel_map.num_outputs, after=after
        )
        return output[:, :out_channels] if padding[1] else output

    def _computes(self, features: Tensor) -> bool:
        return features.dtype in self._dtypes and features.device.type == "cpu"

    def _pad(self, features: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Pad channels with zeros to the widths of the kernels: whole vectors of outputs, pairs of bfloat16 inputs."""
        in_channels, out_channels = weight.shape[1:]
        more_out = -out_channels % self._lanes
        more_in = -in_channels % (self._lanes if features.requires_grad else 2)
        if more_in or more_out:
            features = functional.pad(features, (0, more_in))
            weight = functional.pad(weight, (0, more_out, 0, more_in))
        return features, weight


class _After(NamedTuple):
    """Operations after a convolution at inference: relu(output * scale + shift + residual)."""

    scale: Tensor
    shift: Tensor
    residual: Tensor | None
    relu: bool


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, kernel_map: KernelMap, kernels: ctypes.CDLL) -> Tensor:
        features, weight = features.contiguous(), weight.contiguous()
        ctx.save_for_backward(features, weight)
        ctx.kernel_map, ctx.kernels = kernel_map, kernels
        return _multiply(kernels, features, weight, pair_plan(kernel_map, kernels), kernel_map.num_outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        kernel_map: KernelMap = ctx.kernel_map
        kernels: ctypes.CDLL = ctx.kernels
        grad_features = grad_weight = None
        if ctx.needs_input_grad[0]:
            way_back = kernel_map if kernel_map.is_submanifold else kernel_map.reversed()
            grad_features = _multiply(
                kernels,
                gradient,
                weight,
                pair_plan(way_back, kernels),
                kernel_map.num_inputs,
                transposed=True,
                mirrored=kernel_map.is_submanifold,
            )
        if ctx.needs_input_grad[1]:
            grad_weight = _differentiate_weight(kernels, features, gradient, weight, pair_plan(kernel_map, kernels))
        return grad_features, grad_weight, None, None


class _Convolution(ctypes.Structure):
    """`struct convolution` of kernels.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("input", "weight", "output", "source", "target", "bounds", "rows")),
        *((name, ctypes.c_void_p) for name in ("scale", "shift", "residual")),
        *((name, ctypes.c_int64) for name in ("relu", "offsets", "depth", "width")),
        *((name, ctypes.c_int64) for name in ("transposed", "mirrored", "weight_is_f32")),
    )


class _WeightGradient(ctypes.Structure):
    """`struct weight_gradient` of kernels.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("input", "gradient", "source", "target", "bounds")),
        *((name, ctypes.c_int64) for name in ("offsets", "depth", "width", "is_bf16")),
    )


class _Scratch(threading.local):
    """Buffer of floats, kept per thread: new memory would cause page faults for every piece."""

    def __init__(self) -> None:
        self.buffer = torch.empty(0)

    def pointer(self, size: int) -> ctypes.c_void_p:
        if len(self.buffer) < size:
            with torch.inference_mode(False):
                self.buffer = torch.empty(size)
        return ctypes.c_void_p(self.buffer.data_ptr())


_scratch = _Scratch()


def _multiply(
    kernels: ctypes.CDLL,
    features: Tensor,
    weight: Tensor,
    plan: PairPlan,
    num_outputs: int,
    *,
    transposed: bool = False,
    mirrored: bool = False,
    after: _After | None = None,
) -> Tensor:
    """Return the output rows.

    Args:
        transposed: Whether to multiply by the transposed weights.
        mirrored: Whether the offsets of the weights are in reverse order.
        after: Operations fused into the same pass.
    """
    width = weight.shape[1] if transposed else weight.shape[2]
    output = features.new_empty(num_outputs, width)
    is_bf16 = features.dtype == torch.bfloat16
    call = _Convolution(
        input=features.data_ptr(),
        weight=weight.data_ptr(),
        output=output.data_ptr(),
        **_pairs(plan),
        rows=plan.rows.data_ptr(),
        offsets=len(weight),
        depth=features.shape[1],
        width=width,
        transposed=transposed,
        mirrored=mirrored,
        weight_is_f32=weight.dtype == torch.float32,
    )
    if after is not None:
        call.scale, call.shift, call.relu = after.scale.data_ptr(), after.shift.data_ptr(), after.relu
        call.residual = None if after.residual is None else after.residual.data_ptr()
    num_panels: int = kernels.lg3d_num_panels(ctypes.c_int64(width))
    sums = PANEL_WIDTH * int(plan.rows.diff().max()) if is_bf16 and plan.num_chunks else 0

    def multiply_piece(piece: int) -> None:
        chunk, panel = divmod(piece, num_panels)
        place = (ctypes.byref(call), *(ctypes.c_int64(value) for value in (chunk, panel, panel + 1)))
        if is_bf16:
            kernels.lg3d_convolve_bf16(*place, _scratch.pointer(sums))
        else:
            kernels.lg3d_convolve_f32(*place)

    work = plan.num_pairs * features.shape[1] * width
    run_pieces(multiply_piece, plan.num_chunks * num_panels, shared=work >= MIN_SHARED_WORK)
    return output


def _differentiate_weight(
    kernels: ctypes.CDLL, features: Tensor, gradient: Tensor, weight: Tensor, plan: PairPlan
) -> Tensor:
    """Return the gradient of the weights, `(offsets, in, out)`, in the dtype of the weights."""
    num_offsets, depth, width = weight.shape
    call = _WeightGradient(
        input=features.data_ptr(),
        gradient=gradient.data_ptr(),
        **_pairs(plan),
        offsets=num_offsets,
        depth=depth,
        width=width,
        is_bf16=features.dtype == torch.bfloat16,
    )
    slots = _cut_slots(plan.num_chunks, 4 * weight.numel())
    num_groups = min(num_offsets, -(-WANTED_PIECES // max(1, len(slots))))
    groups = list(pairwise(num_offsets * group // num_groups for group in range(num_groups + 1)))
    # The first slot is the result, in separate memory: the others are freed when this function returns.
    sums = [weight.new_empty(weight.shape, dtype=torch.float32) for _ in range(max(1, len(slots)))]
    size: int = kernels.lg3d_gradient_scratch(ctypes.c_int64(depth), ctypes.c_int64(width))

    def differentiate_piece(piece: int) -> None:
        slot, group = divmod(piece, num_groups)
        place = (ctypes.c_int64(value) for value in (*groups[group], *slots[slot]))
        output = ctypes.c_void_p(sums[slot].data_ptr())
        kernels.lg3d_weight_gradient(ctypes.byref(call), output, *place, _scratch.pointer(size))

    def sum_group(group: int) -> None:
        first, last = groups[group]
        for part in sums[1:]:
            sums[0][first:last] += part[first:last]

    is_shared = plan.num_pairs * depth * width >= MIN_SHARED_WORK
    if slots:
        run_pieces(differentiate_piece, len(slots) * num_groups, shared=is_shared)
    else:
        sums[0].zero_()
    if len(slots) > 1:
        run_pieces(sum_group, num_groups, shared=is_shared)
    return sums[0].to(weight.dtype)


def _cut_slots(num_chunks: int, weight_bytes: int) -> list[tuple[int, int]]:
    """Divide chunks into a few runs, each of which allocates a temporary weight gradient."""
    num_slots = min(num_chunks, MAX_SLOTS, max(1, MAX_SLOT_BYTES // max(1, weight_bytes)))
    return list(pairwise(num_chunks * slot // num_slots for slot in range(num_slots + 1))) if num_slots else []


def _pairs(plan: PairPlan) -> dict[str, int]:
    return {"source": plan.source.data_ptr(), "target": plan.target.data_ptr(), "bounds": plan.bounds.data_ptr()}
