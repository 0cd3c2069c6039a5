"""Block sizes measured on a device and saved in a file, which replace the default ones.

Layers are grouped by channels, kernel, dtype, direction, and number of outputs rounded to a power of two. Each device
has a file, named after it and after Triton's version. Reading the file costs nothing on the device, and only `tune`
measures: no process of a distributed run ever waits for the measurements of another one.
"""

import json
import math
import re
import statistics
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources

from lg3d_core.errors import DataError, SettingsError
from lg3d_core.files import cache_folder, write_text
from lg3d_core.progress import Progress
from lg3d_core.sparse.kernel_maps import KernelMap
from lg3d_core.sparse.triton.configs import (
    MAX_WIDTH,
    MAX_WIDTH_SMALL,
    ConvolutionConfig,
    Layer,
    WeightGradientConfig,
    default_convolution,
    default_weight_gradient,
)
from lg3d_core.sparse.triton.convolution import convolve
from lg3d_core.sparse.triton.weight_gradient import weight_gradient

FORMAT = "lg3d-triton-blocks-1"
NUM_RUNS = 10
SMALL_SHARED = 128 << 10  # bytes of shared memory per program; an A100 has 163 KB, an H100 227 KB, an RTX 4090 99 KB

Measure = Callable[[Callable[[], object]], float]


class LayerCall(NamedTuple):
    """Layer to tune: a kernel map and numbers of channels."""

    kernel_map: KernelMap
    channels_in: int
    channels_out: int
    dtype: torch.dtype
    tf32: bool = False


class TunedBlocks(NamedTuple):
    """Measured block sizes, by group of layers."""

    convolutions: dict[str, ConvolutionConfig]
    weight_gradients: dict[str, WeightGradientConfig]


NOT_TUNED = TunedBlocks({}, {})


def choose_convolution(layer: Layer, device: torch.device) -> ConvolutionConfig:
    """Return the block sizes measured for a layer's group on this device, or else the default ones."""
    tuned = _tuned(device).convolutions.get(layer_class(layer))
    return tuned or default_convolution(layer, max_width=_max_width(device))


def choose_weight_gradient(layer: Layer, device: torch.device) -> WeightGradientConfig:
    """Return the block sizes for the gradient of the weight, as `choose_convolution`."""
    return _tuned(device).weight_gradients.get(layer_class(layer)) or default_weight_gradient(layer)


def layer_class(layer: Layer) -> str:
    """Return the name of the group of a layer: layers of one group share their block sizes."""
    dtype = "tf32" if layer.tf32 else str(layer.dtype).removeprefix("torch.")
    way = "back" if layer.backwards else "forth"
    size = max(0, layer.num_outputs - 1).bit_length()
    return f"{layer.channels_in} to {layer.channels_out}, {layer.num_offsets} offsets, {dtype}, {way}, 2^{size}"


def blocks_path(device: torch.device) -> Path:
    """Return the path of a device's file, in the user's cache folder (`XDG_CACHE_HOME`, by default `~/.cache`).

    Raises:
        DataError: The user has no home folder.
    """
    folder = cache_folder("triton")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return folder / (re.sub(r"[^a-z0-9.]+", "-", f"{name} triton {triton.__version__}".lower()) + ".json")


def read_blocks(path: Path) -> TunedBlocks:
    """Read a device's file; empty if it does not exist, or its folder is not accessible.

    Raises:
        DataError: The file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}, expected {FORMAT!r}")
        return TunedBlocks(
            {name: ConvolutionConfig(*_sizes(sizes)) for name, sizes in content["convolutions"].items()},
            {name: WeightGradientConfig(*_sizes(sizes)) for name, sizes in content["weight gradients"].items()},
        )
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return NOT_TUNED
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"cannot use the measured blocks in {path}: {error}; delete the file to use the defaults"
        ) from None


def _sizes(sizes: Any) -> list[int]:
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise ValueError(f"expected integers, got {sizes}")
    return list(sizes)


@cache
def _max_width(device: torch.device) -> int:
    """Return the maximum width of a program whose buffers fit into the device's shared memory."""
    if device.type != "cuda":
        return MAX_WIDTH
    properties: Any = torch.cuda.get_device_properties(device)  # PyTorch's types lack the field
    return MAX_WIDTH if properties.shared_memory_per_block_optin >= SMALL_SHARED else MAX_WIDTH_SMALL


@cache
def _tuned(device: torch.device) -> TunedBlocks:
    if device.type != "cuda":
        return NOT_TUNED
    try:
        path = blocks_path(device)
    except DataError:  # without a home folder, nothing was measured
        return NOT_TUNED
    return read_blocks(path)


def tune(
    calls: Iterable[LayerCall],
    device: torch.device,
    progress: Progress,
    *,
    measure: Measure | None = None,
    budget: float = math.inf,
    again: bool = False,
) -> Path:
    """Measure block sizes for layers, forward and both gradients, and save the fastest in the device's file.

    Each group is measured once, and the file is written after each group. If the function is interrupted and called
    again, it measures the groups that are missing. Layers with most work come first. Block sizes that fail are skipped.

    Args:
        calls: Layers, with kernel maps on the device.
        device: Device to measure on.
        progress: Reports every group.
        measure: Returns the milliseconds of a call; by default the median of ten runs, by the device's clock.
        budget: Seconds after which no other block sizes are tried.
        again: Whether to measure groups that the file already has.

    Returns:
        Path of the file.
    """
    path, measure = blocks_path(device), measure or time_on_device
    blocks = read_blocks(path)
    found: dict[str, dict[str, Any]] = {
        "convolution": {} if again else dict(blocks.convolutions),
        "weight gradient": {} if again else dict(blocks.weight_gradients),
    }
    deadline, left = time.monotonic() + budget, 0
    path.parent.mkdir(parents=True, exist_ok=True)
    for call in sorted(calls, key=_work, reverse=True):
        for layer, kind, run, default, candidates in _tasks(call, device):
            name = layer_class(layer)
            if name in found[kind]:
                continue
            if time.monotonic() >= deadline:
                left += 1
                continue
            times: dict[object, float] = {}
            for config in candidates:  # the default blocks first
                if times and time.monotonic() >= deadline:
                    break
                times[config] = _time(run, config, measure, lambda why: progress.note(f"skipped: {why}"))
            best = min(times, key=lambda config: times[config])
            if math.isinf(times[best]):
                progress.note(f"{kind}, {name}: no blocks run")
                continue
            progress.note(f"{kind}, {name}: {times[best]:.3f} ms, default blocks {times[default]:.3f} ms")
            found[kind][name] = best
            content = {
                "format": FORMAT,
                "convolutions": blocks.convolutions | found["convolution"],
                "weight gradients": blocks.weight_gradients | found["weight gradient"],
            }
            write_text(path, json.dumps(content, indent=1) + "\n")
            _tuned.cache_clear()
    if left:
        progress.note(
            f"the budget of {budget:g} s is spent: {left} groups are not measured yet; run it again to continue"
        )
    return path


def _work(call: LayerCall) -> int:
    """Return an upper limit of the multiplications of a layer."""
    return call.kernel_map.neighbours.numel() * call.channels_in * call.channels_out


def _tasks(call: LayerCall, device: torch.device) -> Iterable[tuple[Layer, str, Callable[..., object], Any, list[Any]]]:
    kernel_map, channels_in, channels_out, dtype, tf32 = call
    precision = "tf32" if tf32 else "ieee"
    reverse = kernel_map if kernel_map.is_submanifold else kernel_map.reversed()
    offsets = kernel_map.num_offsets
    forth = Layer(kernel_map.num_outputs, offsets, channels_in, channels_out, dtype, tf32)
    back = Layer(reverse.num_outputs, offsets, channels_out, channels_in, dtype, tf32, True)
    features = torch.randn(kernel_map.num_inputs, channels_in, device=device).to(dtype)
    gradient = torch.randn(kernel_map.num_outputs, channels_out, device=device).to(dtype)
    weight = torch.randn(offsets, channels_in, channels_out, device=device).to(dtype)

    def run_forth(config: ConvolutionConfig) -> Tensor:
        return convolve(features, weight, kernel_map, config, precision=precision)

    def run_back(config: ConvolutionConfig) -> Tensor:
        mirrored = kernel_map.is_submanifold
        return convolve(gradient, weight.transpose(1, 2), reverse, config, mirrored=mirrored, precision=precision)

    def run_weight(config: WeightGradientConfig) -> Tensor:
        return weight_gradient(features, gradient, kernel_map, config, precision=precision)

    width = _max_width(device)
    default = default_convolution(forth, max_width=width)
    yield forth, "convolution", run_forth, default, convolution_candidates(default)
    default = default_convolution(back, max_width=width)
    yield back, "convolution", run_back, default, convolution_candidates(default)
    default_weight = default_weight_gradient(forth)
    yield forth, "weight gradient", run_weight, default_weight, weight_gradient_candidates(default_weight)


def convolution_candidates(default: ConvolutionConfig) -> list[ConvolutionConfig]:
    """Return the default blocks, and those that differ in one size, or in rows or columns together with the warps."""
    _, n, _, k, split, warps, stages = default
    others = [
        *(default._replace(block_m=size, num_warps=count) for size in (64, 128, 256) for count in (4, 8)),
        *(default._replace(block_n=size, block_rest=0) for size in (n // 2, n, 2 * n) if 16 <= size <= 256),
        *(default._replace(block_k=size) for size in (k // 2, 2 * k) if 16 <= size <= 128),
        *(default._replace(split=parts) for parts in (1, split // 2, 2 * split) if 1 <= parts <= 8),
        *(default._replace(num_stages=count) for count in (stages - 1, stages + 1, stages + 2)),
        default._replace(num_warps=12 - warps),
    ]
    return list(dict.fromkeys([default, *others]))


def weight_gradient_candidates(default: WeightGradientConfig) -> list[WeightGradientConfig]:
    """Return the candidates for the weight gradient, as `convolution_candidates`."""
    block_in, block_out, pairs, split, warps, stages = default
    others = [
        *(default._replace(block_in=size) for size in (block_in // 2, 2 * block_in) if 16 <= size <= 256),
        *(default._replace(block_out=size) for size in (block_out // 2, 2 * block_out) if 16 <= size <= 256),
        *(default._replace(block_pairs=size) for size in (pairs // 2, 2 * pairs)),
        *(default._replace(split=parts) for parts in (max(1, split // 2), 2 * split)),
        *(default._replace(num_stages=count) for count in (stages - 1, stages + 1)),
        default._replace(num_warps=12 - warps),
    ]
    return list(dict.fromkeys([default, *others]))


def _time(run: Callable[[Any], object], config: Any, measure: Measure, report: Callable[[str], None]) -> float:
    """Return the milliseconds, infinite for blocks that exceed the device's resources, or fail to compile or run."""
    try:
        return measure(lambda: run(config))
    except (OutOfResources, SettingsError):
        return math.inf
    except (RuntimeError, ValueError, AssertionError, triton.CompilationError) as error:
        report(f"{tuple(config)}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
        return math.inf


def time_on_device(call: Callable[[], object]) -> float:
    """Return the median of ten runs in milliseconds, by the device's clock, after two runs that compile and warm up."""
    call()
    call()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(NUM_RUNS)]  # type: ignore[no-untyped-call]
    for begin, end in events:
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(float(begin.elapsed_time(end)) for begin, end in events)
