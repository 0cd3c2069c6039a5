"""Batch normalisation of training, with addition and ReLU, forward and backward.

    output = max(0, (features - mean) * inverse + ...)    as: max(0, features * scale + shift + residual)
    mean, variance: over all rows, per channel;  inverse = 1 / sqrt(variance + eps)
    scale = weight * inverse;  shift = bias - mean * scale
    grad_features = scale * (g - (sum g + (features - mean) * inverse * sum g (features - mean) * inverse) / rows)
    g = gradient of the output where the output is positive

Reference: `lg3d_core.sparse.normalization`. Rows are divided into parts, each summed by one program in float32, as mean
and squared deviations, so that a large mean costs no digits. Parts are added in a fixed order in float64, over all
processes in one `all_reduce`. Nothing waits for the host. The number of channels C is not a compile-time constant, so
that layers share kernels.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

from lg3d_core.sparse.triton.launch import ceil_div, device_of

MAX_PARTS = 512  # enough for four programs per processor of an H100 in each block of channels
BLOCK_VALUES = 4096
MAX_CHANNELS = 128  # per program
ADDED_PARTS, ADDED_COLUMNS = 64, 32  # per block: reading 512 parts one by one waits 512 times for memory, 0.2 ms


class Running(NamedTuple):
    """Running statistics, which the forward pass updates in place, float32."""

    mean: Tensor
    variance: Tensor
    batches: Tensor
    """Number of batches, int64."""
    momentum: float
    """Weight of the new batch."""


@triton.jit(do_not_specialize=["num_rows"])
def _measure_parts(
    features,  # (rows, C)
    partials,  # (parts, 2, C) float32: mean, sum of squared deviations
    num_rows,
    C,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    part, parts = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    first = num_rows * part // parts
    last = num_rows * (part + 1) // parts
    mean = tl.zeros([BLOCK_C], dtype=tl.float32)
    squares = tl.zeros([BLOCK_C], dtype=tl.float32)
    seen = 0.0
    for start in range(first, last, BLOCK_R):
        row = start + tl.arange(0, BLOCK_R)
        there = (row < last)[:, None] & (channel < C)[None, :]
        values = tl.load(features + row[:, None] * C + channel[None, :], mask=there, other=0).to(tl.float32)
        count = tl.minimum(last - start, BLOCK_R).to(tl.float32)
        own_mean = tl.sum(values, axis=0) / count
        deviation = tl.where(there, values - own_mean[None, :], 0)
        # The statistics of two sets of rows from those of each.
        together = seen + count
        difference = own_mean - mean
        mean += difference * (count / together)
        squares += tl.sum(deviation * deviation, axis=0) + difference * difference * (seen * count / together)
        seen = together
    tl.store(partials + part * 2 * C + channel, mean, mask=channel < C)
    tl.store(partials + (part * 2 + 1) * C + channel, squares, mask=channel < C)


@triton.jit(do_not_specialize=["num_rows", "num_parts"])
def _add_moments(
    partials,  # (parts, 2, C) float32
    moments,  # (1 + 2 C,) float64: rows, sums, sums of squares
    num_rows,
    num_parts,
    C,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = channel < C
    sums = tl.zeros([BLOCK_C], dtype=tl.float64)
    squares = tl.zeros([BLOCK_C], dtype=tl.float64)
    rows = tl.cast(num_rows, tl.int64)
    for first in range(0, num_parts, BLOCK_P):
        part = first + tl.arange(0, BLOCK_P)
        count = (rows * (part + 1) // num_parts - rows * part // num_parts).to(tl.float64)[:, None]
        place = part[:, None] * 2 * C + channel[None, :]
        exists = (part < num_parts)[:, None] & there[None, :]
        mean = tl.load(partials + place, mask=exists, other=0).to(tl.float64)  # (BLOCK_P, BLOCK_C)
        deviations = tl.load(partials + place + C, mask=exists, other=0).to(tl.float64)
        sums += tl.sum(count * mean, axis=0)
        squares += tl.sum(deviations + count * mean * mean, axis=0)
    tl.store(moments + 1 + channel, sums, mask=there)
    tl.store(moments + 1 + C + channel, squares, mask=there)
    tl.store(moments + tl.arange(0, 1), tl.zeros([1], dtype=tl.float64) + rows.to(tl.float64))


@triton.jit(do_not_specialize=["momentum", "eps"])
def _finish_statistics(
    moments,  # (1 + 2 C,) float64
    weight,  # (C,) float32
    bias,  # (C,) float32
    running_mean,  # (C,) float32, in place
    running_variance,  # (C,) float32, in place
    statistics,  # (4, C) float32: mean, inverse, scale, shift
    momentum,
    eps,
    C,
    BLOCK_C: tl.constexpr,
):
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = channel < C
    rows = tl.load(moments)
    mean = tl.load(moments + 1 + channel, mask=there, other=0) / tl.maximum(rows, 1)
    square = tl.load(moments + 1 + C + channel, mask=there, other=0) / tl.maximum(rows, 1)
    variance = tl.maximum(square - mean * mean, 0)
    # Fewer than two rows have no variance: the running statistics are used, and stay as they are.
    before_mean = tl.load(running_mean + channel, mask=there, other=0)
    before_variance = tl.load(running_variance + channel, mask=there, other=1)
    measures = rows > 1
    own_mean = tl.where(measures, mean.to(tl.float32), before_mean)
    own_variance = tl.where(measures, variance.to(tl.float32), before_variance)
    unbiased = (variance * (rows / tl.maximum(rows - 1, 1))).to(tl.float32)
    share = tl.where(measures, momentum, 0.0)
    tl.store(running_mean + channel, before_mean + share * (own_mean - before_mean), mask=there)
    tl.store(running_variance + channel, before_variance + share * (unbiased - before_variance), mask=there)
    inverse = 1 / tl.sqrt(own_variance + eps)
    scale = tl.load(weight + channel, mask=there, other=0) * inverse
    shift = tl.load(bias + channel, mask=there, other=0) - own_mean * scale
    tl.store(statistics + channel, own_mean, mask=there)
    tl.store(statistics + C + channel, inverse, mask=there)
    tl.store(statistics + 2 * C + channel, scale, mask=there)
    tl.store(statistics + 3 * C + channel, shift, mask=there)


@triton.jit(do_not_specialize=["num_rows"])
def _normalize_rows(
    features,  # (rows, C)
    residual,  # (rows, C)
    output,  # (rows, C)
    statistics,  # (4, C) float32
    num_rows,
    C,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = (row < num_rows)[:, None] & (channel < C)[None, :]
    place = row[:, None] * C + channel[None, :]
    scale = tl.load(statistics + 2 * C + channel, mask=channel < C, other=0)
    shift = tl.load(statistics + 3 * C + channel, mask=channel < C, other=0)
    values = tl.load(features + place, mask=there, other=0).to(tl.float32)
    values = values * scale[None, :] + shift[None, :]
    if HAS_RESIDUAL:
        values += tl.load(residual + place, mask=there, other=0).to(tl.float32)
    if RELU:
        values = tl.maximum(values, 0, propagate_nan=tl.PropagateNan.ALL)  # divergence must remain visible
    tl.store(output + place, values.to(output.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["num_rows"])
def _sum_parts(
    gradient,  # (rows, C)
    output,  # (rows, C)
    features,  # (rows, C)
    statistics,  # (4, C) float32
    partials,  # (parts, 2, C) float32: sums of g, and of g (features - mean) inverse
    num_rows,
    C,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    RELU: tl.constexpr,
):
    part, parts = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mean = tl.load(statistics + channel, mask=channel < C, other=0)
    inverse = tl.load(statistics + C + channel, mask=channel < C, other=0)
    last = num_rows * (part + 1) // parts
    plain = tl.zeros([BLOCK_C], dtype=tl.float32)
    by_features = tl.zeros([BLOCK_C], dtype=tl.float32)
    for start in range(num_rows * part // parts, last, BLOCK_R):
        row = start + tl.arange(0, BLOCK_R)
        there = (row < last)[:, None] & (channel < C)[None, :]
        place = row[:, None] * C + channel[None, :]
        upstream = tl.load(gradient + place, mask=there, other=0).to(tl.float32)
        if RELU:
            upstream = tl.where(tl.load(output + place, mask=there, other=0) > 0, upstream, 0)
        values = tl.load(features + place, mask=there, other=0).to(tl.float32)
        plain += tl.sum(upstream, axis=0)
        by_features += tl.sum(upstream * (values - mean[None, :]) * inverse[None, :], axis=0)
    tl.store(partials + part * 2 * C + channel, plain, mask=channel < C)
    tl.store(partials + (part * 2 + 1) * C + channel, by_features, mask=channel < C)


@triton.jit(do_not_specialize=["num_parts"])
def _add_sums(
    partials,  # (parts, width) float32
    sums,  # (width,) float64
    num_parts,
    width,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    column = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_C], dtype=tl.float64)
    for first in range(0, num_parts, BLOCK_P):
        part = first + tl.arange(0, BLOCK_P)
        exists = (part < num_parts)[:, None] & (column < width)[None, :]
        values = tl.load(partials + part[:, None] * width + column[None, :], mask=exists, other=0)  # (BLOCK_P, BLOCK_C)
        total += tl.sum(values.to(tl.float64), axis=0)
    tl.store(sums + column, total, mask=column < width)


@triton.jit(do_not_specialize=["num_rows"])
def _combine_rows(
    gradient,  # (rows, C)
    output,  # (rows, C)
    features,  # (rows, C)
    statistics,  # (4, C) float32
    moments,  # (1 + 2 C,) float64; the first is the number of rows of all processes
    sums,  # (2, C) float64, of all processes
    grad_features,  # (rows, C)
    grad_residual,  # (rows, C)
    num_rows,
    C,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    RELU: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = (row < num_rows)[:, None] & (channel < C)[None, :]
    place = row[:, None] * C + channel[None, :]
    # 1. Per channel: the gradient is g * scale + features * slope + constant.
    mean = tl.load(statistics + channel, mask=channel < C, other=0)
    inverse = tl.load(statistics + C + channel, mask=channel < C, other=0)
    scale = tl.load(statistics + 2 * C + channel, mask=channel < C, other=0)
    rows = tl.load(moments)
    share = tl.where(rows > 1, 1 / tl.maximum(rows, 1), 0)  # running statistics get no gradient
    mean_plain = (tl.load(sums + channel, mask=channel < C, other=0) * share).to(tl.float32)
    mean_by_features = (tl.load(sums + C + channel, mask=channel < C, other=0) * share).to(tl.float32)
    slope = -scale * inverse * mean_by_features
    constant = -scale * mean_plain - slope * mean
    # 2. Rows.
    upstream = tl.load(gradient + place, mask=there, other=0)
    if RELU:
        upstream = tl.where(tl.load(output + place, mask=there, other=0) > 0, upstream, 0)
    if HAS_RESIDUAL:
        tl.store(grad_residual + place, upstream, mask=there)
    values = tl.load(features + place, mask=there, other=0).to(tl.float32)
    result = upstream.to(tl.float32) * scale[None, :] + values * slope[None, :] + constant[None, :]
    tl.store(grad_features + place, result.to(grad_features.dtype.element_ty), mask=there)


class _Blocks(NamedTuple):
    rows: int
    channels: int
    columns: int
    parts: int


def _blocks(features: Tensor) -> _Blocks:
    num_rows, channels = features.shape
    block = min(MAX_CHANNELS, triton.next_power_of_2(channels))
    rows = BLOCK_VALUES // block
    return _Blocks(rows, block, ceil_div(channels, block), max(1, min(MAX_PARTS, ceil_div(num_rows, 4 * rows))))


def normalize(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    running: Running,
    *,
    eps: float,
    residual: Tensor | None,
    relu: bool,
    group: distributed.ProcessGroup | None,
) -> Tensor:
    """Normalise rows by their own statistics, add the residual, apply a ReLU, and update the running statistics.

    Args:
        features: Shape `(rows, channels)`, float32, bfloat16 or float16.
        weight: Shape `(channels,)`, float32.
        bias: As `weight`.
        running: Running statistics; they are used themselves with fewer than two rows.
        eps: Value added to the variance.
        residual: Shape and dtype of `features`.
        relu: Whether to apply a ReLU.
        group: Processes that normalise together, each with its own rows, possibly none. None needs at least two rows.
    """
    output: Tensor = _Normalize.apply(features, weight, bias, residual, running, eps, relu, group)
    return output


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        running: Running,
        eps: float,
        relu: bool,
        group: distributed.ProcessGroup | None,
    ) -> Tensor:
        features = features.contiguous()
        num_rows, channels = features.shape
        rows, block, columns, parts = _blocks(features)
        added = {"BLOCK_P": ADDED_PARTS, "BLOCK_C": ADDED_COLUMNS}
        partials = features.new_empty(parts, 2, channels, dtype=torch.float32)
        moments = features.new_empty(1 + 2 * channels, dtype=torch.float64)
        statistics = features.new_empty(4, channels, dtype=torch.float32)
        output = torch.empty_like(features)
        sizes = {"C": channels, "BLOCK_C": block}
        with device_of(features):
            _measure_parts[(parts, columns)](features, partials, num_rows, BLOCK_R=rows, **sizes)
            _add_moments[(ceil_div(channels, ADDED_COLUMNS),)](partials, moments, num_rows, parts, C=channels, **added)
            if group is not None:
                distributed.all_reduce(moments, group=group)
            _finish_statistics[(ceil_div(channels, MAX_CHANNELS),)](
                moments,
                weight,
                bias,
                running.mean,
                running.variance,
                statistics,
                running.momentum,
                eps,
                C=channels,
                BLOCK_C=MAX_CHANNELS,
            )
            running.batches.add_(1 if group is None else moments[0] > 1)
            if num_rows:
                _normalize_rows[(ceil_div(num_rows, rows), columns)](
                    features,
                    output if residual is None else residual.contiguous(),
                    output,
                    statistics,
                    num_rows,
                    BLOCK_R=rows,
                    HAS_RESIDUAL=residual is not None,
                    RELU=relu,
                    **sizes,
                )
        ctx.save_for_backward(features, statistics, moments, *([output] if relu else []))
        ctx.has_residual, ctx.group = residual is not None, group
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, statistics, moments, *outputs = ctx.saved_tensors
        gradient, relu = gradients[0].contiguous(), bool(outputs)
        output = outputs[0] if outputs else gradient
        num_rows, channels = features.shape
        rows, block, columns, parts = _blocks(features)
        partials = features.new_empty(parts, 2, channels, dtype=torch.float32)
        sums = features.new_empty(2, channels, dtype=torch.float64)
        grad_features = torch.empty_like(features)
        splits = ctx.has_residual and relu  # otherwise the gradient of the residual is that of the output
        grad_residual = torch.empty_like(gradient) if splits else gradient
        sizes = {"C": channels, "BLOCK_C": block, "BLOCK_R": rows, "RELU": relu}
        with device_of(features):
            _sum_parts[(parts, columns)](gradient, output, features, statistics, partials, num_rows, **sizes)
            _add_sums[(ceil_div(2 * channels, ADDED_COLUMNS),)](
                partials, sums, parts, 2 * channels, BLOCK_P=ADDED_PARTS, BLOCK_C=ADDED_COLUMNS
            )
            grad_bias, grad_weight = sums.float().unbind(0)
            if ctx.group is not None:
                distributed.all_reduce(sums, group=ctx.group)
            if num_rows:
                _combine_rows[(ceil_div(num_rows, rows), columns)](
                    gradient,
                    output,
                    features,
                    statistics,
                    moments,
                    sums,
                    grad_features,
                    grad_residual,
                    num_rows,
                    HAS_RESIDUAL=splits,
                    **sizes,
                )
        return grad_features, grad_weight, grad_bias, grad_residual if ctx.has_residual else None, *[None] * 4
