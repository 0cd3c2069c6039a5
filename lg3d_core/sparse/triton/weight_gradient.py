"""Gradient of a sparse convolution's weight.

    grad_weight[k, c, o] = sum over p in pairs(k) of input[in(p), c] * grad_output[out(p), o]

k: kernel offsets, p: pairs of an input and an output row, c: input channels, o: output channels. Reference: autograd of
`lg3d_core.sparse.reference`. The pairs of an offset are divided into `split` runs, each summed in float32 by separate
programs; the runs are added in order, without atomics, so that repeated runs are bit-equal.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lg3d_core.sparse.kernel_maps import KernelMap
from lg3d_core.sparse.triton.configs import WeightGradientConfig
from lg3d_core.sparse.triton.launch import INTERPRETED, ceil_div, device_of
from lg3d_core.sparse.triton.pairs import pair_lists


@triton.jit(do_not_specialize=["capacity"])
def _multiply_pairs(
    features,  # (inputs, IN)
    gradient,  # (outputs, OUT)
    partials,  # (parts, offsets, IN, OUT) float32
    pair_inputs,  # (offsets, capacity) int32
    pair_outputs,  # (offsets, capacity) int32
    pair_counts,  # (offsets,) int32
    capacity,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    NUM_OFFSETS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    # 1. Programs that read the same pairs are adjacent in the grid.
    COLUMNS: tl.constexpr = (OUT + BLOCK_OUT - 1) // BLOCK_OUT
    channel_in = tl.program_id(0) // COLUMNS * BLOCK_IN + tl.arange(0, BLOCK_IN)
    channel_out = tl.program_id(0) % COLUMNS * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    part, offset = tl.program_id(1), tl.program_id(2).to(tl.int64)
    # 2. Run of the offset's pairs of this part.
    count = tl.load(pair_counts + offset)
    blocks = (count + BLOCK_PAIRS - 1) // BLOCK_PAIRS
    first = blocks * part // tl.num_programs(1)
    last = blocks * (part + 1) // tl.num_programs(1)
    sums = tl.zeros([BLOCK_IN, BLOCK_OUT], dtype=tl.float32)
    for block in range(first, last):
        pair = block * BLOCK_PAIRS + tl.arange(0, BLOCK_PAIRS)
        there = pair < count
        place = offset * capacity + pair
        row_in = tl.load(pair_inputs + place, mask=there, other=0).to(tl.int64)  # (BLOCK_PAIRS,)
        row_out = tl.load(pair_outputs + place, mask=there, other=0).to(tl.int64)
        inputs = tl.load(  # (BLOCK_PAIRS, BLOCK_IN)
            features + row_in[:, None] * IN + channel_in[None, :],
            mask=there[:, None] & (channel_in < IN)[None, :],
            other=0,
        )
        outputs = tl.load(  # (BLOCK_PAIRS, BLOCK_OUT)
            gradient + row_out[:, None] * OUT + channel_out[None, :],
            mask=there[:, None] & (channel_out < OUT)[None, :],
            other=0,
        )
        if WIDEN:
            inputs, outputs = inputs.to(tl.float32), outputs.to(tl.float32)
        sums = tl.dot(tl.trans(inputs), outputs, sums, input_precision=PRECISION)
    # 3. A part without pairs stores zeros.
    row = (part * NUM_OFFSETS + offset) * IN + channel_in
    tl.store(
        partials + row[:, None] * OUT + channel_out[None, :],
        sums,
        mask=(channel_in < IN)[:, None] & (channel_out < OUT)[None, :],
    )


def weight_gradient(
    features: Tensor,
    gradient: Tensor,
    kernel_map: KernelMap,
    config: WeightGradientConfig,
    *,
    precision: str = "ieee",
) -> Tensor:
    """Launch the kernel over a map and return the gradient, shape `(offsets, in, out)`, float32.

    Args:
        features: Input of the forward pass, `(inputs, in)`, contiguous.
        gradient: Gradient of its output, `(outputs, out)`, contiguous, same dtype.
        kernel_map: Kernel map of the forward pass.
        config: Block sizes.
        precision: Multiplication of float32, `ieee` or `tf32`.
    """
    num_offsets, channels_in, channels_out = kernel_map.num_offsets, features.shape[1], gradient.shape[1]
    if kernel_map.num_outputs == 0 or kernel_map.num_inputs == 0:
        return features.new_zeros(num_offsets, channels_in, channels_out, dtype=torch.float32)
    pairs = pair_lists(kernel_map)
    partials = features.new_empty(config.split, num_offsets, channels_in, channels_out, dtype=torch.float32)
    tiles = ceil_div(channels_in, config.block_in) * ceil_div(channels_out, config.block_out)
    with device_of(features):
        _multiply_pairs[(tiles, config.split, num_offsets)](
            features,
            gradient,
            partials,
            *pairs,
            pairs.inputs.shape[1],
            IN=channels_in,
            OUT=channels_out,
            NUM_OFFSETS=num_offsets,
            BLOCK_IN=config.block_in,
            BLOCK_OUT=config.block_out,
            BLOCK_PAIRS=config.block_pairs,
            PRECISION=precision,
            WIDEN=INTERPRETED,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
    return partials[0] if config.split == 1 else partials.sum(dim=0)
