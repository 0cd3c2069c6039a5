"""Compiles shipped blocks for a GPU of compute capability 9.0, without one, and prints what became of them as JSON.

Run as a program of its own, with TRITON_INTERPRET=0: Triton decides on loading whether it compiles or interprets.
"""

import json
import re
import subprocess
import sys
import tempfile
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lg3d_core.sparse.coordinates import X_STEP, Y_STEP
from lg3d_core.sparse.triton import convolution, neighbours, normalization, pairs, tiles, weight_gradient
from lg3d_core.sparse.triton.configs import Layer, default_convolution, default_weight_gradient

TARGET = GPUTarget("cuda", 90, 32)
POINTERS = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
INDICES = ("tile_rows", "tile_counts", "tile_offsets", "tile_neighbours", "pair_inputs", "pair_outputs", "pair_counts")

HALF = torch.bfloat16
LAYERS = {
    "34D decoder": Layer(800_000, 27, 512, 512, HALF),
    "34D decoder, joined": Layer(800_000, 27, 544, 512, HALF),
    "34C decoder": Layer(800_000, 27, 96, 96, HALF),
    "lowest level of one room": Layer(340, 27, 256, 256, HALF),
    "down": Layer(200_000, 8, 32, 32, torch.float16),
}


def compile_convolution(layer: Layer, *, backwards: bool, fused: bool = False) -> dict[str, Any]:
    """Compile the forward kernel, or its use for the gradient of the input."""
    config = default_convolution(layer)
    types = dict.fromkeys(("features", "weight", "residual"), POINTERS[layer.dtype])
    types["output"] = POINTERS[layer.dtype] if config.split == 1 else "*fp32"
    strides = {"weight_stride_in": 1} if backwards else {"weight_stride_out": 1}
    constants = {
        "IN": layer.channels_in,
        "OUT": layer.channels_out,
        "NUM_OFFSETS": layer.num_offsets,
        "MIRRORED": backwards,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_REST": config.block_rest,
        "BLOCK_K": config.block_k,
        "IS_SPLIT": config.split > 1,
        "HAS_SCALE": fused,
        "HAS_RESIDUAL": fused,
        "RELU": fused,
        "PRECISION": "ieee",
        "WIDEN": False,
        **strides,
    }
    return _compile(convolution._convolve_tiles, types, constants, config.num_warps, config.num_stages)


def compile_weight_gradient(layer: Layer) -> dict[str, Any]:
    """Compile the kernel for the gradient of the weight."""
    config = default_weight_gradient(layer)
    types = dict.fromkeys(("features", "gradient"), POINTERS[layer.dtype])
    constants = {
        "IN": layer.channels_in,
        "OUT": layer.channels_out,
        "NUM_OFFSETS": layer.num_offsets,
        "BLOCK_IN": config.block_in,
        "BLOCK_OUT": config.block_out,
        "BLOCK_PAIRS": config.block_pairs,
        "PRECISION": "ieee",
        "WIDEN": False,
    }
    return _compile(weight_gradient._multiply_pairs, types, constants, config.num_warps, config.num_stages)


def compile_the_rest() -> list[str]:
    """Compile the kernels that build maps and tiles, and that add partial sums; give their names."""
    steps = {"X_STEP": X_STEP, "Y_STEP": Y_STEP}
    fused = {"HAS_SCALE": True, "HAS_RESIDUAL": True, "RELU": True}
    jobs: list[tuple[Any, dict[str, str], dict[str, Any]]] = [
        (neighbours._find_neighbours, {"keys": "*i64"}, {**steps, "SIZE": 3, "BLOCK": neighbours.BLOCK}),
        (
            tiles._mask_rows,
            {"bits": "*i64", "masks": "*i64"},
            {"NUM_OFFSETS": 27, "BLOCK": tiles.BLOCK},
        ),
        (tiles._compact_tiles, {"order": "*i64"}, {"NUM_OFFSETS": 27, "BLOCK": 128}),
        (pairs._count_pairs, {}, {"BLOCK": pairs.BLOCK}),
        (pairs._fill_pairs, {}, {"BLOCK": pairs.BLOCK}),
        (
            convolution._add_parts,
            {"partials": "*fp32", "output": "*bf16", "scale": "*fp32", "shift": "*fp32", "residual": "*bf16"},
            {"OUT": 96, "BLOCK_M": 32, "BLOCK_N": 128, **fused},
        ),
    ]
    numbers = (
        "num_voxels",
        "num_halvings",
        "stride",
        "num_outputs",
        "num_blocks",
        "capacity",
        "num_places",
        "num_parts",
    )
    for kernel, types, constants in jobs:
        names = kernel.arg_names
        signature = {name: types.get(name, "i32" if name in numbers else "*i32") for name in names}
        signature |= dict.fromkeys(constants, "constexpr")
        places = {(names.index(name),): value for name, value in constants.items()}
        triton.compile(ASTSource(kernel, signature, places, {}), target=TARGET)
    return [kernel.fn.__name__ for kernel, _, _ in jobs]


def compile_normalization(channels: int) -> dict[str, dict[str, Any]]:
    """Compile the kernels of batch normalisation in bfloat16, with residual and ReLU."""
    rows = dict.fromkeys(("features", "residual", "output", "gradient", "grad_features", "grad_residual"), "*bf16")
    wide = dict.fromkeys(("moments", "sums"), "*fp64") | {"momentum": "fp32", "eps": "fp32"}
    floats = ("partials", "statistics", "weight", "bias", "running_mean", "running_variance")
    types = rows | wide | dict.fromkeys(floats, "*fp32")
    block = min(normalization.MAX_CHANNELS, triton.next_power_of_2(channels))
    sizes = {"BLOCK_C": block, "BLOCK_R": normalization.BLOCK_VALUES // block}
    sizes |= {"RELU": True, "HAS_RESIDUAL": True}
    added = {"BLOCK_P": normalization.ADDED_PARTS, "BLOCK_C": normalization.ADDED_COLUMNS}
    facts = {}
    for kernel in (
        normalization._measure_parts,
        normalization._add_moments,
        normalization._finish_statistics,
        normalization._normalize_rows,
        normalization._sum_parts,
        normalization._add_sums,
        normalization._combine_rows,
    ):
        blocks = added if "BLOCK_P" in kernel.arg_names else sizes
        constants = {name: value for name, value in blocks.items() if name in kernel.arg_names}
        facts[kernel.fn.__name__] = _compile(kernel, types, constants, 4, 3)
    return facts


def _compile(kernel: Any, types: dict[str, str], constants: dict[str, Any], warps: int, stages: int) -> dict[str, Any]:
    names = kernel.arg_names
    signature, aligned = {}, {}
    for place, name in enumerate(names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in types or name in INDICES or name in ("scale", "shift", "partials"):
            signature[name] = types.get(name, "*i32" if name in INDICES else "*fp32")
            if not signature[name].startswith("*"):
                continue
            aligned[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "i32"
            if "stride" in name or name in ("C", "width"):  # a multiple of 16 channels, which Triton sees at the launch
                aligned[(place,)] = [["tt.divisibility", 16]]
    places = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, places, aligned)
    compiled = triton.compile(source, target=TARGET, options={"num_warps": warps, "num_stages": stages})
    ptx = compiled.asm["ptx"]
    report = _assemble(ptx)
    return {
        "wgmma": ptx.count("wgmma.mma_async"),
        "mma": ptx.count("mma.sync"),
        "cp.async": ptx.count("cp.async.c"),
        "vectors": ptx.count("ld.global.v4") + ptx.count(".v4.b32"),
        "shared": compiled.metadata.shared,
        "spilled": sum(int(size) for size in re.findall(r"(\d+) bytes spill", report)),
        "registers": int(re.findall(r"Used (\d+) registers", report)[0]),
        "buffers": re.findall(r"local_alloc.*?: \(\) -> !ttg\.memdesc<(\w+),", compiled.asm["ttgir"]),
    }


def _assemble(ptx: str) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [triton.knobs.nvidia.ptxas.path, "-v", "--gpu-name=sm_90a", file.name, "-o", "/dev/null"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stderr


def main() -> None:
    results = {}
    for name, layer in LAYERS.items():
        swapped = layer._replace(channels_in=layer.channels_out, channels_out=layer.channels_in)
        results[f"{name}: forward"] = compile_convolution(layer, backwards=False)
        results[f"{name}: gradient of the input"] = compile_convolution(swapped, backwards=True)
        results[f"{name}: gradient of the weight"] = compile_weight_gradient(layer)
    results["34C decoder: inference"] = compile_convolution(LAYERS["34C decoder"], backwards=False, fused=True)
    norms = {channels: compile_normalization(channels) for channels in (32, 512)}
    json.dump({"layers": results, "rest": compile_the_rest(), "norms": norms}, sys.stdout)


if __name__ == "__main__":
    main()
