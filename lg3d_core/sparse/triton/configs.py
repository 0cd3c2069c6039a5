"""How the kernels cut a layer into blocks: what lg3d ships, by the shape of the layer.

`lg3d_core.sparse.triton.tuning` takes what was measured on a device in its place, where there is such a measurement.
"""

from typing import NamedTuple

import torch

from lg3d_core.sparse.triton.launch import ceil_div

NUM_PROCESSORS = 132  # of an H100 or H200; how finely small levels are cut, whatever the device, so that sums agree
MAX_PARTIAL_BYTES = 256 << 20


class ConvolutionConfig(NamedTuple):
    """Blocks of the convolution kernel."""

    block_m: int
    """Outputs per program."""
    block_n: int
    """Output channels per program."""
    block_k: int
    """Input channels per step."""
    split: int
    """Programs that share the steps of a tile."""
    num_warps: int
    num_stages: int
    """Loads in flight; two of them wait for indices, so that three to four real buffers take five or six."""


class WeightGradientConfig(NamedTuple):
    """Blocks of the kernel for the gradient of the weight."""

    block_in: int
    block_out: int
    block_pairs: int
    """Pairs per step."""
    split: int
    """Runs that the pairs of an offset are cut into."""
    num_warps: int
    num_stages: int


class Layer(NamedTuple):
    """What decides about the blocks of a layer."""

    num_outputs: int
    num_offsets: int
    channels_in: int
    channels_out: int
    dtype: torch.dtype
    tf32: bool = False
    """float32 is multiplied as TF32."""
    backwards: bool = False
    """The weight is transposed: the gradient of the input."""


def default_convolution(layer: Layer) -> ConvolutionConfig:
    """The shipped blocks of a layer: by arithmetic and by what the compiler made of them, not by time on a device."""
    half = layer.dtype != torch.float32
    on_tensor_cores = half or layer.tf32
    block_n = _power_of_two(layer.channels_out, 16, 256 if half else 128 if layer.tf32 else 64)
    if block_n == 128 and layer.channels_out <= 96:
        block_n = 32  # three exact blocks rather than one with a quarter of padding
    block_k = _power_of_two(layer.channels_in, 16, 64 if half else 32)
    if layer.channels_in % block_k:
        block_k = min(block_k, 32)
    block_m = 128 if on_tensor_cores and layer.num_outputs > 128 * NUM_PROCESSORS else 64
    if block_m == 64:
        block_n = min(block_n, 128)
    is_large = block_m * block_n > 128 * 128
    programs = ceil_div(layer.num_outputs, block_m) * ceil_div(layer.channels_out, block_n)
    split = min(8, max(1, layer.num_offsets // 3), max(1, NUM_PROCESSORS // max(1, programs)))
    num_stages = (4 if is_large else 5) if half else 3
    return ConvolutionConfig(block_m, block_n, block_k, split, 8 if is_large else 4, num_stages)


def default_weight_gradient(layer: Layer) -> WeightGradientConfig:
    """The shipped blocks of a layer's weight gradient, chosen as `default_convolution`."""
    half = layer.dtype != torch.float32
    widest = 128 if half else 64
    block_in = _power_of_two(layer.channels_in, 16, widest)
    block_out = _power_of_two(layer.channels_out, 16, widest)
    tiles = ceil_div(layer.channels_in, block_in) * ceil_div(layer.channels_out, block_out)
    programs = tiles * layer.num_offsets
    bytes_per_part = 4 * layer.num_offsets * layer.channels_in * layer.channels_out
    split = min(
        ceil_div(8 * NUM_PROCESSORS, programs),
        max(1, layer.num_outputs // 512),
        max(1, MAX_PARTIAL_BYTES // bytes_per_part),
    )
    num_warps = 8 if block_in * block_out >= 128 * 128 else 4
    return WeightGradientConfig(block_in, block_out, 64 if half else 32, split, num_warps, 4 if half else 3)


def _power_of_two(channels: int, lowest: int, highest: int) -> int:
    return max(lowest, min(highest, 1 << max(0, channels - 1).bit_length()))
