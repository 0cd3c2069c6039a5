"""Default block sizes of the kernels, by the shape of the layer.

`lg3d_core.sparse.triton.tuning` replaces them by sizes that were measured on a device, if there are any.
"""

from typing import NamedTuple

import torch

from lg3d_core.sparse.triton.launch import ceil_div

NUM_PROCESSORS = 132  # of an H100 or H200; determines the split of small levels on all devices, so that sums agree
MAX_PARTIAL_BYTES = 256 << 20
MAX_WIDTH = 272  # maximum number of output channels for which a program of 128 rows can hold the sums
MAX_WIDTH_SMALL = 256  # the same with the 99 KB of shared memory of consumer GPUs, for which 272 channels need 101 KB
GATHER_COST = 64  # estimated cost of gathering a row, in output channels


class ConvolutionConfig(NamedTuple):
    """Block sizes of the convolution kernel."""

    block_m: int
    """Outputs per program."""
    block_n: int
    """Output channels per program."""
    block_rest: int
    """Additional output channels per program, 0 for none: for widths that are not multiples of a power of two."""
    block_k: int
    """Input channels per step."""
    split: int
    """Programs that share the steps of a tile."""
    num_warps: int
    num_stages: int
    """Loads in flight; two of them wait for indices, so that three to four real buffers need five or six."""


class WeightGradientConfig(NamedTuple):
    """Block sizes of the kernel for the gradient of the weight."""

    block_in: int
    block_out: int
    block_pairs: int
    """Pairs per step."""
    split: int
    """Number of runs that the pairs of an offset are divided into."""
    num_warps: int
    num_stages: int


class Layer(NamedTuple):
    """Properties of a layer that determine its block sizes."""

    num_outputs: int
    num_offsets: int
    channels_in: int
    channels_out: int
    dtype: torch.dtype
    tf32: bool = False
    """Whether float32 is multiplied as TF32."""
    backwards: bool = False
    """Whether the weight is transposed, as for the gradient of the input."""


def default_convolution(layer: Layer, *, max_width: int = MAX_WIDTH) -> ConvolutionConfig:
    """Return the default block sizes of a layer, derived from arithmetic and compiler output, not from timings.

    Args:
        layer: Layer.
        max_width: Maximum number of output channels per program.
    """
    half = layer.dtype != torch.float32
    on_tensor_cores = half or layer.tf32
    block_m = 128 if on_tensor_cores and layer.num_outputs > 128 * NUM_PROCESSORS else 64
    widest = (256 if half and block_m == 128 else 128) if on_tensor_cores else 64
    block_n, block_rest = _cover(layer.channels_out, widest, max_width)
    block_k = _power_of_two(layer.channels_in, 16, 64 if half else 32)
    if ceil_div(layer.channels_in, block_k) * block_k > 1.125 * layer.channels_in:
        block_k = min(block_k, 32)
    is_large = block_m * (block_n + block_rest) > 128 * 128
    programs = ceil_div(layer.num_outputs, block_m) * ceil_div(layer.channels_out, block_n + block_rest)
    split = _lower_power_of_two(min(8, layer.num_offsets // 3, NUM_PROCESSORS // max(1, programs)))
    num_stages = 5 if half else 3
    return ConvolutionConfig(block_m, block_n, block_rest, block_k, split, 8 if is_large else 4, num_stages)


def default_weight_gradient(layer: Layer) -> WeightGradientConfig:
    """Return the default block sizes of a layer's weight gradient, chosen as in `default_convolution`."""
    half = layer.dtype != torch.float32
    widest = 128 if half else 64
    block_in = _power_of_two(layer.channels_in, 16, widest)
    # Each gathered row of the input then meets 256 output channels: 85 products per byte instead of 64.
    is_wide = half and layer.channels_in >= 256 and layer.channels_out % 256 == 0
    block_out = 256 if is_wide else _power_of_two(layer.channels_out, 16, widest)
    tiles = ceil_div(layer.channels_in, block_in) * ceil_div(layer.channels_out, block_out)
    programs = tiles * layer.num_offsets
    bytes_per_part = 4 * layer.num_offsets * layer.channels_in * layer.channels_out
    parts = (ceil_div(8 * NUM_PROCESSORS, programs), layer.num_outputs // 512, MAX_PARTIAL_BYTES // bytes_per_part)
    split = _lower_power_of_two(min(parts))
    num_warps = 8 if block_in * block_out >= 128 * 128 else 4
    return WeightGradientConfig(block_in, block_out, 64 if half else 32, split, num_warps, 5 if half else 3)


def _cover(channels: int, widest: int, max_width: int) -> tuple[int, int]:
    """Choose one or two blocks of output channels per program, with little padding and few repeated gathers."""
    covers = []
    for block in (16, 32, 64, 128, 256):
        for rest in (0, 16, 32, 64):
            width = block + rest
            if block <= widest and rest <= block // 2 and width <= max_width:
                padded = ceil_div(channels, width) * width
                covers.append((padded * (1 + GATHER_COST / width), block, rest))
    _, block, rest = min(covers)
    return block, rest


def _lower_power_of_two(amount: int) -> int:
    """Return the largest power of two up to an amount, at least 1."""
    return 1 << max(0, amount.bit_length() - 1)


def _power_of_two(channels: int, lowest: int, highest: int) -> int:
    return max(lowest, min(highest, 1 << max(0, channels - 1).bit_length()))
