"""Sparse convolution as a matrix product with gathered rows: values, and the gradient of the input.

    output[v, o] = sum over k, c of input[neighbours[k, v], c] * weight[k, c, o]
    fused:  output[v, o] = max(0, (that sum) * scale[o] + shift[o] + residual[v, o])

v: output voxels, k: kernel offsets, c: input channels, o: output channels. Reference: `lg3d_core.sparse.reference`.
One program computes a tile of outputs, BLOCK_M rows by BLOCK_N (+ BLOCK_REST) channels, in float32. The offsets that
the tile needs and the blocks of input channels form one flat loop, because Triton only overlaps loads with products
inside a single loop. A tile is computed by one program in a fixed order: repeated runs are bit-equal. For small levels
the loop is divided into parts with separate programs and float32 sums, which a second kernel adds in order. The number
of parts follows the number of voxels, so it is the size of the grid: as a constant it would compile a kernel per value.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lg3d_core.sparse.kernel_maps import KernelMap
from lg3d_core.sparse.triton.configs import ConvolutionConfig
from lg3d_core.sparse.triton.launch import INTERPRETED, ceil_div, device_of
from lg3d_core.sparse.triton.tiles import tile_table


class Epilogue(NamedTuple):
    """Operations on the sums before they are stored: batch norm with known statistics, residual, ReLU."""

    scale: Tensor
    """Scale per output channel, float32."""
    shift: Tensor
    """Shift per output channel, float32."""
    residual: Tensor | None
    """Residual with shape and dtype of the output, contiguous; added after scale and shift."""
    relu: bool
    """Whether to apply a ReLU last."""


@triton.jit
def _store_rows(
    sums,  # (BLOCK_M, BLOCK_N) float32
    row,  # (BLOCK_M,) int64, -1 for none
    channel,  # (BLOCK_N,)
    output,
    scale,
    shift,
    residual,
    OUT: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
):
    stored = (row >= 0)[:, None] & (channel < OUT)[None, :]
    place = row[:, None] * OUT + channel[None, :]
    if HAS_SCALE:
        slope = tl.load(scale + channel, mask=channel < OUT, other=0)  # (BLOCK_N,)
        constant = tl.load(shift + channel, mask=channel < OUT, other=0)
        sums = sums * slope[None, :] + constant[None, :]
    if HAS_RESIDUAL:
        sums += tl.load(residual + place, mask=stored, other=0).to(tl.float32)
    if RELU:
        sums = tl.maximum(sums, 0, propagate_nan=tl.PropagateNan.ALL)  # divergence must remain visible
    tl.store(output + place, sums.to(output.dtype.element_ty), mask=stored)


@triton.jit
def _load_kernel(
    weight,  # of one offset: (IN, OUT)
    channel_in,  # (BLOCK_K,)
    channel,  # (BLOCK_N,)
    stride_in,
    stride_out,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    there = (channel < OUT)[None, :]
    if IN % BLOCK_K != 0:
        there = there & (channel_in < IN)[:, None]
    return tl.load(weight + channel_in[:, None] * stride_in + channel[None, :] * stride_out, mask=there, other=0)


@triton.jit(do_not_specialize=["num_places"])
def _convolve_tiles(
    features,  # (inputs, IN)
    weight,  # (offsets, IN, OUT), any strides
    output,  # (outputs, OUT), or with IS_SPLIT partial sums (parts, num_places, OUT) float32
    tile_rows,  # (tiles, BLOCK_M) int32
    tile_counts,  # (tiles,) int32
    tile_offsets,  # (tiles, NUM_OFFSETS) int32
    tile_neighbours,  # (tiles, NUM_OFFSETS, BLOCK_M) int32
    scale,  # (OUT,) float32
    shift,  # (OUT,) float32
    residual,  # (outputs, OUT)
    num_places,
    weight_stride_offset,
    weight_stride_in,
    weight_stride_out,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    NUM_OFFSETS: tl.constexpr,
    MIRRORED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_REST: tl.constexpr,
    BLOCK_K: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    # 1. Programs that share a tile's gathered rows are adjacent in the grid. A program may have two blocks of output
    #    channels, because block sizes are powers of two, and the widths of many layers are not: 96 = 64 + 32.
    WIDTH: tl.constexpr = BLOCK_N + BLOCK_REST
    COLUMNS: tl.constexpr = (OUT + WIDTH - 1) // WIDTH
    CHANNEL_BLOCKS: tl.constexpr = (IN + BLOCK_K - 1) // BLOCK_K
    tile = (tl.program_id(0) // COLUMNS).to(tl.int64)
    part = tl.program_id(1)
    lane = tl.arange(0, BLOCK_M)
    channel = tl.program_id(0) % COLUMNS * WIDTH + tl.arange(0, BLOCK_N)
    # 2. One loop over (offset of the tile, block of input channels).
    steps = tl.load(tile_counts + tile) * CHANNEL_BLOCKS
    first = 0
    last = steps
    if IS_SPLIT:
        first = steps * part // tl.num_programs(1)
        last = steps * (part + 1) // tl.num_programs(1)
    entries = tile * NUM_OFFSETS
    sums = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    if BLOCK_REST > 0:
        channel_rest = tl.program_id(0) % COLUMNS * WIDTH + BLOCK_N + tl.arange(0, BLOCK_REST)
        sums_rest = tl.zeros([BLOCK_M, BLOCK_REST], dtype=tl.float32)
    for step in range(first, last):
        entry = entries + step // CHANNEL_BLOCKS
        channel_in = step % CHANNEL_BLOCKS * BLOCK_K + tl.arange(0, BLOCK_K)
        neighbour = tl.load(tile_neighbours + entry * BLOCK_M + lane).to(tl.int64)  # (BLOCK_M,)
        offset = tl.load(tile_offsets + entry).to(tl.int64)
        if MIRRORED:
            offset = NUM_OFFSETS - 1 - offset
        rows_there = (neighbour >= 0)[:, None]
        if IN % BLOCK_K != 0:
            rows_there = rows_there & (channel_in < IN)[None, :]
        rows = tl.load(  # (BLOCK_M, BLOCK_K)
            features + neighbour[:, None] * IN + channel_in[None, :], mask=rows_there, other=0
        )
        start = weight + offset * weight_stride_offset
        kernel = _load_kernel(  # (BLOCK_K, BLOCK_N)
            start, channel_in, channel, weight_stride_in, weight_stride_out, IN, OUT, BLOCK_K
        )
        if WIDEN:
            rows, kernel = rows.to(tl.float32), kernel.to(tl.float32)
        sums = tl.dot(rows, kernel, sums, input_precision=PRECISION)
        if BLOCK_REST > 0:
            kernel_rest = _load_kernel(  # (BLOCK_K, BLOCK_REST)
                start, channel_in, channel_rest, weight_stride_in, weight_stride_out, IN, OUT, BLOCK_K
            )
            if WIDEN:
                kernel_rest = kernel_rest.to(tl.float32)
            sums_rest = tl.dot(rows, kernel_rest, sums_rest, input_precision=PRECISION)
    # 3. Outputs are stored in the order of the voxels; partial sums stay in the order of the tiles.
    if not IS_SPLIT:
        row = tl.load(tile_rows + tile * BLOCK_M + lane).to(tl.int64)
        _store_rows(sums, row, channel, output, scale, shift, residual, OUT, HAS_SCALE, HAS_RESIDUAL, RELU)
        if BLOCK_REST > 0:
            _store_rows(
                sums_rest, row, channel_rest, output, scale, shift, residual, OUT, HAS_SCALE, HAS_RESIDUAL, RELU
            )
    else:
        place = (part.to(tl.int64) * num_places + tile * BLOCK_M + lane)[:, None] * OUT
        tl.store(output + place + channel[None, :], sums, mask=(channel < OUT)[None, :])
        if BLOCK_REST > 0:
            tl.store(output + place + channel_rest[None, :], sums_rest, mask=(channel_rest < OUT)[None, :])


@triton.jit(do_not_specialize=["num_places", "num_parts"])
def _add_parts(
    partials,  # (num_parts, num_places, OUT) float32
    output,  # (outputs, OUT)
    tile_rows,  # (num_places,) int32
    scale,  # (OUT,) float32
    shift,  # (OUT,) float32
    residual,  # (outputs, OUT)
    num_places,
    num_parts,
    OUT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    loaded = (place < num_places)[:, None] & (channel < OUT)[None, :]
    sums = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for part in range(num_parts):
        start = partials + tl.cast(part, tl.int64) * num_places * OUT
        sums += tl.load(start + place[:, None] * OUT + channel[None, :], mask=loaded, other=0)
    row = tl.load(tile_rows + place, mask=place < num_places, other=-1).to(tl.int64)
    _store_rows(sums, row, channel, output, scale, shift, residual, OUT, HAS_SCALE, HAS_RESIDUAL, RELU)


def convolve(
    features: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    config: ConvolutionConfig,
    *,
    mirrored: bool = False,
    epilogue: Epilogue | None = None,
    precision: str = "ieee",
) -> Tensor:
    """Launch the kernel over a map and return the output, shape `(outputs, out)`.

    Args:
        features: Input features, shape `(inputs, in)`, contiguous.
        weight: Shape `(offsets, in, out)`, same dtype, any strides: transposed for the gradient of the input.
        kernel_map: Neighbours of every output voxel.
        config: Block sizes.
        mirrored: Whether the weight has its offsets in reverse order: a map onto its own voxels in the backward pass.
        epilogue: Operations after the convolution, at inference.
        precision: Multiplication of float32, `ieee` or `tf32`.
    """
    num_outputs, num_offsets, channels = kernel_map.num_outputs, kernel_map.num_offsets, weight.shape[2]
    output = features.new_empty(num_outputs, channels)
    if output.numel() == 0:
        return output
    tiles = tile_table(kernel_map, config.block_m)
    num_tiles, num_places = len(tiles.counts), tiles.rows.numel()
    scale, shift, residual, relu = epilogue or Epilogue(output, output, None, False)  # unread without an epilogue
    fused = {"HAS_SCALE": epilogue is not None, "HAS_RESIDUAL": residual is not None, "RELU": relu}
    target = output
    if config.split > 1:
        target = features.new_empty(config.split, num_places, channels, dtype=torch.float32)
    with device_of(features):
        _convolve_tiles[(num_tiles * ceil_div(channels, config.block_n + config.block_rest), config.split)](
            features,
            weight,
            target,
            *tiles,
            scale,
            shift,
            output if residual is None else residual,
            num_places,
            *weight.stride(),
            IN=weight.shape[1],
            OUT=channels,
            NUM_OFFSETS=num_offsets,
            MIRRORED=mirrored,
            BLOCK_M=config.block_m,
            BLOCK_N=config.block_n,
            BLOCK_REST=config.block_rest,
            BLOCK_K=config.block_k,
            IS_SPLIT=config.split > 1,
            **(fused if config.split == 1 else dict.fromkeys(fused, False)),
            PRECISION=precision,
            WIDEN=INTERPRETED,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
        if config.split > 1:
            block_m, block_n = 32, min(128, triton.next_power_of_2(channels))
            _add_parts[(ceil_div(num_places, block_m), ceil_div(channels, block_n))](
                target,
                output,
                tiles.rows,
                scale,
                shift,
                output if residual is None else residual,
                num_places,
                config.split,
                OUT=channels,
                BLOCK_M=block_m,
                BLOCK_N=block_n,
                **fused,
            )
    return output
