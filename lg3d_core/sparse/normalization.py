"""Batch normalisation of rows, fused with addition and ReLU; on the CPU in parallel over pieces of rows.

    output = max(0, (x - mean) / sqrt(variance + eps) * weight + bias + residual)

mean, variance: over all rows, per channel. Reference: `torch.nn.functional.batch_norm`, addition and ReLU separately.
A piece is small enough to stay in a core's cache during its operations. Pieces depend only on the shape, and their sums
are combined in float64 in a fixed order, so that results are bit-equal for any number of workers. bfloat16 rows use the
compiled kernels of the current backend, if it has any.
Distributed processes can normalise over the rows of all processes, on any device: forward and backward each add sums in
one `all_reduce` in float64, whatever the dtype of the rows, and no number is read from the device.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

from lg3d_core.sparse import parallel
from lg3d_core.sparse.backends import RowKernels, current_backend
from lg3d_core.sparse.parallel import run_pieces

PIECE_VALUES = 1 << 16
MAX_SUMS = 1 << 14  # sums of all pieces together; so few are added by a single PyTorch thread, in a fixed order


class Statistics(NamedTuple):
    """Mean and (biased) variance per channel, in the dtype of the weights."""

    mean: Tensor
    variance: Tensor


class Together(NamedTuple):
    """Statistics over the rows of several processes.

    Attributes:
        statistics: Statistics, equal in all processes.
        num_rows: Number of rows of all processes, float64, on the device.
        group: Process group.
    """

    statistics: Statistics
    num_rows: Tensor
    group: distributed.ProcessGroup


def measure(features: Tensor) -> Statistics:
    """Return the statistics of rows of shape `(rows, channels)`, at least one row; float32 for narrower dtypes."""
    mean, variance = _measure(features)
    return Statistics(mean.to(_wide(features.dtype)), variance.to(_wide(features.dtype)))


def measure_together(features: Tensor, group: distributed.ProcessGroup) -> Together:
    """Return the statistics over the rows of all processes, each of which calls this; some may have no rows."""
    num_rows, channels = features.shape
    sums = torch.zeros(1 + 2 * channels, dtype=torch.float64, device=features.device)
    if num_rows:
        mean, variance = _measure(features)
        sums[0] = num_rows
        sums[1:] = num_rows * torch.cat([mean, variance + mean.square()])
    distributed.all_reduce(sums, group=group)
    total = sums[0]
    mean, square = torch.split(sums[1:] / total.clamp_min(1), channels)
    wide = _wide(features.dtype)
    # The square of the mean is subtracted in float64, which is accurate even if the mean is 10^4 standard deviations.
    return Together(Statistics(mean.to(wide), (square - mean.square()).clamp_min(0).to(wide)), total, group)


def _measure(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, float64."""
    bounds = _cut_rows(features)
    wide = _wide(features.dtype)
    means = features.new_empty(len(bounds) - 1, features.shape[1], dtype=wide)
    variances = torch.empty_like(means)
    kernels = _row_kernels(features)
    if kernels is not None:
        features = features.contiguous()

    def measure_piece(piece: int) -> None:
        rows = features[bounds[piece] : bounds[piece + 1]]
        if kernels is not None:
            kernels.measure(rows, means[piece], variances[piece])
            return
        rows = rows.to(wide)
        means[piece], variances[piece] = torch.batch_norm_update_stats(rows, None, None, 0.0)

    run_pieces(measure_piece, len(bounds) - 1)
    if len(means) == 1:
        return means[0].double(), variances[0].double()
    share = torch.tensor([last - first for first, last in pairwise(bounds)], dtype=torch.float64) / len(features)
    mean = (share[:, None] * means).sum(dim=0)
    variance = (share[:, None] * (variances + (means - mean).square())).sum(dim=0)
    return mean, variance


def normalize(
    features: Tensor,
    statistics: Statistics,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float,
    statistics_are_own: bool,
    together: Together | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Normalise, scale and shift rows, then optionally add the residual and apply a ReLU, in one pass.

    Args:
        features: Rows, shape `(rows, channels)`.
        statistics: Mean and variance, without gradients.
        weight: Scale, shape `(channels,)`, float32, or float64 for float64 features.
        bias: Shift, as `weight`.
        eps: Value added to the variance.
        statistics_are_own: Whether they were measured on `features`, so that the gradient flows through them as well.
        together: Statistics over the features of all processes of a group; the backward pass then also sums over the
            group, and every process has to run it. With fewer than two rows in all processes, `statistics` are
            treated as constants.
        residual: Residual, shape and dtype of `features`.
        relu: Whether to apply a ReLU.
    """
    output: Tensor = _Normalize.apply(  # type: ignore[no-untyped-call]
        features, weight, bias, residual, statistics, eps, statistics_are_own, together, relu
    )
    return output


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        statistics: Statistics,
        eps: float,
        statistics_are_own: bool,
        together: Together | None,
        relu: bool,
    ) -> Tensor:
        kernels = _row_kernels(features)
        if kernels is not None:
            features = features.contiguous()
            residual = None if residual is None else residual.contiguous()
        bounds = _cut_rows(features)
        wide = _wide(features.dtype)
        scale = (statistics.variance + eps).rsqrt() * weight
        shift = bias - statistics.mean * scale
        output = torch.empty_like(features, memory_format=torch.contiguous_format)

        def normalize_piece(piece: int) -> None:
            rows = slice(bounds[piece], bounds[piece + 1])
            if kernels is not None:
                kernels.normalize(
                    features[rows], None if residual is None else residual[rows], output[rows], scale, shift, relu=relu
                )
                return
            target = output[rows] if output.dtype == wide else None
            values = torch.addcmul(shift, features[rows].to(wide), scale, out=target)
            if residual is not None:
                values.add_(residual[rows])
            if relu:
                values.relu_()
            if target is None:
                output[rows] = values

        run_pieces(normalize_piece, len(bounds) - 1)
        ctx.save_for_backward(features, weight, *statistics, *([output] if relu else []))
        ctx.kernels = kernels
        ctx.eps, ctx.statistics_are_own, ctx.has_residual = eps, statistics_are_own, residual is not None
        ctx.num_rows, ctx.group = len(features), None
        if together is not None:
            # Statistics of fewer than two rows were not measured on them, and get no gradient.
            ctx.num_rows = torch.where(together.num_rows > 1, together.num_rows, torch.inf)
            ctx.group = together.group
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, mean, variance, *outputs = ctx.saved_tensors
        bounds = _cut_rows(features)
        wide = _wide(features.dtype)
        inverse_deviation = (variance + ctx.eps).rsqrt()
        kernels: RowKernels | None = ctx.kernels
        gradient = gradients[0] if kernels is None else gradients[0].contiguous()
        output = outputs[0] if outputs else None
        wants_residual = ctx.has_residual and ctx.needs_input_grad[3]
        # Where the ReLU clipped, the gradient is zero; the rest is the gradient of the sum, and so of the residual.
        # The compiled kernels clip again rather than store the result, unless the residual needs it.
        stores_clipped = output is not None and (kernels is None or wants_residual)
        clipped = torch.empty_like(gradient, memory_format=torch.contiguous_format) if stores_clipped else gradient
        sums = features.new_empty(2, len(bounds) - 1, features.shape[1], dtype=wide)

        def sum_piece(piece: int) -> None:
            rows = slice(bounds[piece], bounds[piece + 1])
            if kernels is not None:
                kernels.sum_gradients(
                    gradient[rows],
                    None if output is None else output[rows],
                    features[rows],
                    clipped[rows] if stores_clipped else None,
                    mean=mean,
                    inverse_deviation=inverse_deviation,
                    plain=sums[0, piece],
                    by_features=sums[1, piece],
                )
                return
            if output is not None:
                torch.ops.aten.threshold_backward.grad_input(gradient[rows], output[rows], 0, grad_input=clipped[rows])
            # With given statistics, the gradients of bias and weight are the sums over the rows of the gradient, and of
            # the gradient times the normalised features, which this operator computes in one pass.
            _, by_features, plain = torch.ops.aten.native_batch_norm_backward(
                clipped[rows].to(wide),
                features[rows].to(wide),
                weight,
                mean,
                variance,
                mean,  # these two are for CUDA, which does not compute them from mean and variance
                inverse_deviation,
                False,
                ctx.eps,
                [False, True, True],
            )
            sums[0, piece], sums[1, piece] = plain, by_features

        run_pieces(sum_piece, len(bounds) - 1)
        own_sums = sums.sum(dim=1, dtype=torch.float64)
        grad_bias, grad_weight = own_sums
        sum_bias, sum_weight = own_sums
        if ctx.group is not None:
            all_sums = own_sums.clone()
            distributed.all_reduce(all_sums, group=ctx.group)
            sum_bias, sum_weight = all_sums
        grad_features = None
        if ctx.needs_input_grad[0]:
            is_spare = stores_clipped and not wants_residual  # the gradient may then be overwritten
            grad_features = clipped if is_spare else torch.empty_like(gradient)
            slope = weight * inverse_deviation
            if ctx.statistics_are_own:
                by_features = -slope * inverse_deviation * sum_weight / ctx.num_rows
                constant = -slope * sum_bias / ctx.num_rows - by_features * mean
            else:
                by_features = constant = torch.zeros_like(slope)
            terms = _Terms(slope, by_features.to(wide), constant.to(wide))
            if kernels is None:
                _combine(grad_features, clipped, features, terms, bounds)
            else:
                still_to_clip = None if stores_clipped else output
                _combine_by_kernels(kernels, grad_features, clipped, still_to_clip, features, terms, bounds)
        return (
            grad_features,
            grad_weight.to(weight.dtype),
            grad_bias.to(weight.dtype),
            clipped if ctx.has_residual else None,
            *[None] * 5,
        )


class _Terms(NamedTuple):
    """Gradient of the features, per channel: `gradient * slope + features * by_features + constant`."""

    slope: Tensor
    by_features: Tensor
    constant: Tensor


def _combine(output: Tensor, gradient: Tensor, features: Tensor, terms: _Terms, bounds: list[int]) -> None:
    """Write the gradient of the features; `output` may be `gradient` itself."""
    wide = terms.slope.dtype

    def combine_piece(piece: int) -> None:
        rows = slice(bounds[piece], bounds[piece + 1])
        values = torch.addcmul(terms.constant, features[rows].to(wide), terms.by_features)
        if output.dtype == wide:
            torch.addcmul(values, gradient[rows], terms.slope, out=output[rows])
        else:
            output[rows] = values.addcmul_(gradient[rows].to(wide), terms.slope)

    run_pieces(combine_piece, len(bounds) - 1)


def _combine_by_kernels(
    kernels: RowKernels,
    output: Tensor,
    gradient: Tensor,
    clipping: Tensor | None,
    features: Tensor,
    terms: _Terms,
    bounds: list[int],
) -> None:
    """Write the gradient of the features; `clipping` is the output of a ReLU that is not applied to it yet."""

    def combine_piece(piece: int) -> None:
        rows = slice(bounds[piece], bounds[piece + 1])
        kernels.combine(
            gradient[rows],
            None if clipping is None else clipping[rows],
            features[rows],
            output[rows],
            **terms._asdict(),
        )

    run_pieces(combine_piece, len(bounds) - 1)


def _row_kernels(features: Tensor) -> RowKernels | None:
    """Return the compiled kernels of the current backend for these rows, or None."""
    if not features.is_cpu:
        return None
    # Not `isinstance`: with a protocol it takes as long as a small layer.
    kernels: RowKernels | None = getattr(current_backend(features.device), "row_kernels", None)
    return kernels if kernels is not None and kernels.dtype == features.dtype else None


def _cut_rows(features: Tensor) -> list[int]:
    num_rows, channels = features.shape
    if not parallel.runs_on_workers(features):
        return [0, num_rows] if num_rows else [0]
    num_pieces = min(-(-features.numel() // PIECE_VALUES), max(1, MAX_SUMS // max(1, channels)))
    return [num_rows * piece // num_pieces for piece in range(num_pieces + 1)] if num_pieces else [0]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
