"""Kernels that training on rooms of varying size launches, found without a GPU: counted, or compiled into a cache.

python -m benchmarks.gpu.launches --network 34C --steps 400
TRITON_CACHE_DIR=/tmp/tc python -m benchmarks.gpu.launches --network 34D --compile

A stand-in for the driver lets Triton bind the arguments of every launch on CPU tensors that are never written to; what
Triton would compile is what it looks up and does not find. A cache that was compiled with the versions of PyTorch,
Triton and Python of a GPU machine, and with the same TRITON_CACHE_DIR, is valid there.
"""

import argparse
import json
import sys
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.networks.placement import place_convolutions
from lg3d_core.sparse import KernelMap
from lg3d_core.sparse.triton import convolution, pairs, tiles, weight_gradient
from lg3d_core.sparse.triton.configs import Layer, default_convolution, default_weight_gradient

LEVEL_SHARES = (1, 0.271, 0.064, 0.0146, 0.0034)  # voxels per level of a furnished room at 2 cm
MODULES = (convolution, pairs, tiles, weight_gradient)


class Driver:
    """A GPU of compute capability 9.0, as far as a launch asks."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


class Kernel:
    """A compiled kernel that does nothing; the grid must be one that CUDA accepts."""

    function = packed_metadata = None

    def launch_metadata(self, *_: Any) -> None:
        return None

    def run(self, columns: int, rows: int, layers: int, *_: Any) -> None:
        assert 0 < columns < 1 << 31
        assert 0 < rows < 1 << 16
        assert 0 < layers < 1 << 16


def count_kernels(
    network: str, *, voxels: int, spread: float, steps: int, compiles: bool = False
) -> tuple[dict[str, int], list[str]]:
    """Count the kernels of a network's convolutions and their gradients over training steps.

    Args:
        network: Network plan.
        voxels: Median number of voxels of a step.
        spread: Standard deviation of the logarithm of that number.
        steps: Number of steps.
        compiles: Whether to compile the kernels.

    Returns:
        Number of kernels by name, and the errors of those that did not compile.
    """
    counts: dict[str, int] = {}
    failures: list[str] = []
    compile_kernel: Any = JITFunction._do_compile

    def note(kernel: Any, key: str, signature: Any, device: int, *rest: Any, **more: Any) -> Kernel:
        name = kernel.fn.__name__
        counts[name] = counts.get(name, 0) + 1
        if compiles:
            try:
                compile_kernel(kernel, key, signature, device, *rest, **more)
            except Exception as error:  # noqa: BLE001  # one of many: report it, and go on with the others
                failures.append(f"{name}: {type(error).__name__}: {error}"[:300])
        kernel.device_caches[device][0][key] = Kernel()
        return kernel.device_caches[device][0][key]

    JITFunction._do_compile = note
    driver.set_active(Driver())
    for module in MODULES:
        module.device_of = lambda _: nullcontext()
    tiles._order = lambda kernel_map: kernel_map.neighbours.new_empty(kernel_map.num_outputs, dtype=torch.int64)
    Tensor.sum = lambda self, **_: self[0]  # adding memory that was never written would only take time
    draws = np.random.default_rng(0)
    with torch.device("meta"):
        placed = list(place_convolutions(MinkUNet(network, num_classes=200)))
    for _ in range(steps):
        sizes = voxels * np.exp(draws.normal(0, spread)) * np.array(LEVEL_SHARES) * np.exp(draws.normal(0, 0.05, 5))
        maps = make_maps([max(1, int(size)) for size in sizes])
        for _name, convolved, stride in placed:
            size, transposed = convolved.kernel_size, convolved.transposed
            if size == 1:
                continue
            level = stride.bit_length() - 1
            kernel_map = maps[level, "up" if transposed else "same" if convolved.stride == 1 else "down"]
            step(kernel_map, *convolved.kernel.shape, wants_input=convolved.kernel.shape[1] > 3)
    return counts, failures


def make_maps(sizes: list[int]) -> dict[tuple[int, str], KernelMap]:
    """Make the kernel maps of all levels, without neighbours: the tables are never written."""
    maps: dict[tuple[int, str], KernelMap] = {}
    for level, size in enumerate(sizes):
        maps[level, "same"] = KernelMap(table(27, size), size, None)
        if level + 1 < len(sizes):
            maps[level, "down"] = KernelMap(table(8, sizes[level + 1]), size, table(8, size))
            maps[level + 1, "up"] = maps[level, "down"].reversed()
    return maps


def table(offsets: int, outputs: int) -> Tensor:
    return torch.empty(offsets, outputs, dtype=torch.int32)


def step(kernel_map: KernelMap, num_offsets: int, channels_in: int, channels_out: int, *, wants_input: bool) -> None:
    """Launch what a convolution and its gradients launch, in bfloat16."""
    half = torch.bfloat16
    features = torch.empty(kernel_map.num_inputs, channels_in, dtype=half)
    gradient = torch.empty(kernel_map.num_outputs, channels_out, dtype=half)
    weight = torch.empty(num_offsets, channels_in, channels_out, dtype=half)
    forth = Layer(kernel_map.num_outputs, num_offsets, channels_in, channels_out, half)
    convolution.convolve(features, weight, kernel_map, default_convolution(forth))
    if wants_input:
        same = kernel_map.is_submanifold
        reverse = kernel_map if same else kernel_map.reversed()
        back = Layer(reverse.num_outputs, num_offsets, channels_out, channels_in, half, backwards=True)
        convolution.convolve(gradient, weight.transpose(1, 2), reverse, default_convolution(back), mirrored=same)
    weight_gradient.weight_gradient(features, gradient, kernel_map, default_weight_gradient(forth))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="34C")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--voxels", type=int, default=800_000, help="median of a step")
    parser.add_argument("--spread", type=float, default=0.15, help="deviation of their logarithm")
    parser.add_argument("--compile", action="store_true", help="compile the kernels into Triton's cache")
    choices = parser.parse_args()
    counts, failures = count_kernels(
        choices.network, voxels=choices.voxels, spread=choices.spread, steps=choices.steps, compiles=choices.compile
    )
    json.dump(counts, sys.stdout)
    sys.exit("\n".join(failures) or 0)


if __name__ == "__main__":
    main()
