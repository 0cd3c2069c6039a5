"""What Triton's compiler makes of the shipped blocks for an H100 or H200, found without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

ROOT = Path(__file__).parents[1]
MAX_SHARED = 227 << 10  # bytes that one program may have


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_compiled("tests.triton_compilation", cache=tmp_path_factory.mktemp("triton"))


def run_compiled(module: str, *arguments: str, cache: Path) -> dict[str, Any]:
    """Run a module with Triton's compiler instead of its interpreter, and return the JSON that it prints."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout)
    return results


def test_training_on_rooms_of_varying_size_compiles_few_kernels(tmp_path: Path):
    kernels = run_compiled("benchmarks.gpu.launches", "--network", "34C", "--steps", "400", cache=tmp_path)
    # Measured: 74 of the products, and 8 others. When block sizes followed the number of voxels closely, it was 301.
    assert kernels.pop("_convolve_tiles") + kernels.pop("_multiply_pairs") <= 80
    assert sum(kernels.values()) <= 10


@pytest.fixture
def compiled(everything: dict[str, Any]) -> dict[str, dict[str, Any]]:
    layers: dict[str, dict[str, Any]] = everything["layers"]
    return layers


@pytest.mark.slow
def test_kernels_of_maps_and_tiles_compile(everything: dict[str, Any]):
    assert len(everything["rest"]) == 6


@pytest.mark.slow
def test_shipped_blocks_overlap_loads_with_products_and_spill_nothing(compiled: dict[str, dict[str, Any]]):
    for name, facts in compiled.items():
        assert facts["wgmma"] + facts["mma"] > 0, f"{name}: no matrix instructions in {facts}"
        assert facts["cp.async"] > 0, f"{name}: no loads ahead of their use in {facts}"
        assert facts["spilled"] == 0, f"{name}: registers spill, {facts}"
        assert facts["shared"] <= MAX_SHARED, f"{name}: too much shared memory, {facts}"


@pytest.mark.slow
def test_normalisation_moves_whole_vectors_and_spills_nothing(everything: dict[str, Any]):
    for kernels in everything["norms"].values():
        assert len(kernels) == 7
        for name, facts in kernels.items():
            assert facts["spilled"] == 0, f"{name}: registers spill, {facts}"
            assert facts["shared"] <= MAX_SHARED, f"{name}: too much shared memory, {facts}"
            if name.endswith("_rows"):
                assert facts["vectors"] > 0, f"{name}: loads of single values, {facts}"


@pytest.mark.slow
def test_wide_layers_use_the_matrix_instructions_of_a_warp_group(compiled: dict[str, dict[str, Any]]):
    for name, facts in compiled.items():
        if not name.startswith("down"):  # 32 x 32 weight gradients are too small for them
            assert facts["wgmma"] > 0, f"{name}: {facts}"
