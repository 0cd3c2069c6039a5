"""Prepare a checkout for a GPU machine without a network, and print the commands to run there.

python -m benchmarks.gpu.kit [--python python3.12] [--networks 34D,34C]

The GPU machine needs PyTorch with Triton, SciPy, scikit-learn, TensorBoard and pytest. Writes two folders that git
ignores. `.whl` has the wheels that lg3d needs beyond those. `.gpu` has the voxels of two procedural rooms and, if
`--python` has a PyTorch and a Triton, the compiled kernels of the networks, which are valid if the GPU machine has the
same versions.
"""

import argparse
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lg3d_core.progress import Progress
from lg3d_core.sparse_benchmark.workload import gather_clouds, make_workload

ROOT = Path(__file__).parents[2]
WHEELS, KIT = ROOT / ".whl", ROOT / ".gpu"
LOCK = ROOT / "requirements-base.lock"
PACKAGES = ("fpsample", "h5py", "pillow", "psutil", "safetensors", "typer", "rich")
"""Locked packages that the plan imports and the GPU machine may lack; what they need comes along."""
INSTALLED = ("numpy",)
"""Packages that the GPU machine has with PyTorch, in the versions that fit it."""
OPTIONAL = ("spconv-triton==1.0.0",)
CACHE = "/tmp/lg3d-triton"  # the cache holds absolute paths: one path on both machines
VOXEL_SIZE = 0.02
PLAN = """\
Commands for the GPU machine, each from the root of the checkout. $OUT is a folder for results. Each starts with S:

S: python3 -m pip install -q --no-index --no-deps --upgrade --target /tmp/site .whl/*.whl; \\
   mkdir -p {cache}; [ -f .gpu/triton.tar.gz ] && tar xzf .gpu/triton.tar.gz -C {cache}; \\
   export PYTHONPATH=.:/tmp/site PYTHONUNBUFFERED=1 TRITON_CACHE_DIR={cache} PYTORCH_ALLOC_CONF=expandable_segments:True

1. Is it right? fold must print 0; fp32 differs by less than 1e-4, bf16 about as much as bf16 of plain PyTorch.
   S; nvidia-smi -L; nproc; python3 -m lg3d_cli doctor
   S; timeout 130 python3 -m benchmarks.gpu.step $OUT fold check14A check34C
   S; timeout 400 make test-gpu GPU_PYTHON=python3
2. How fast? Under 300 useful TFLOP/s at 512->512: see 4 before anything else. Out of memory: --voxels 400000.
   S; timeout 300 python3 -m benchmarks.gpu.step $OUT step34D
   S; timeout 200 python3 -m benchmarks.gpu.step $OUT/c step34C step18A
   S; timeout 400 python3 -m benchmarks.gpu.step $OUT/l layers
   S; timeout 590 python3 benchmarks/tune_triton.py --network 34D --budget 500
3. Does it train? The last val_miou_present must be eval's; data_wait should be a few percent of seconds.
   S; L="timeout 200 python3 -m lg3d_cli"; $L rooms /tmp/raw --scenes 20 --vertices 150000 -q; \\
   $L prepare /tmp/raw --store /tmp/data; \\
   $L anchors --anchors /tmp/a.safetensors --encoder bundled --dim 512; \\
   $L pretrain --store /tmp/data --anchors /tmp/a.safetensors --runs /tmp/runs --name p --epochs 12 \\
   --validate-every 12; \\
   $L finetune --store /tmp/data --from /tmp/runs/p --runs /tmp/runs --name f --epochs 8 --validate-every 4; \\
   $L eval --checkpoint /tmp/runs/f --store /tmp/data --json; cp /tmp/runs/*/metrics.jsonl $OUT
4. Beside a peer, and counters.
   S; timeout 400 python3 -m lg3d_cli bench --what layers-train,train --networks 34C --voxel-size 0.02 --batch 2 \\
   --peers all --out $OUT/bench.json
   S; timeout 150 ncu --clock-control none -k regex:'_convolve_tiles|_multiply_pairs' -s 6 -c 6 \\
   --section SpeedOfLight --section MemoryWorkloadAnalysis python3 -m benchmarks.gpu.step $OUT layers
"""


def locked_versions() -> dict[str, str]:
    """Return the version of every package in the lock file."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    found = (re.match(r"([A-Za-z0-9_.-]+)==([^\s;]+)", line) for line in lines)
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def with_needs(names: Sequence[str]) -> list[str]:
    """Return packages and all packages that they need, except those in `INSTALLED`, in order of discovery."""
    found: list[str] = []
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop(0))
        if name in found or name in INSTALLED:
            continue
        found.append(name)
        needs = map(Requirement, metadata.requires(name) or ())
        waiting += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def build_wheels(python: str) -> list[str]:
    """Fetch or build wheels for another Python; return what could not be had."""
    WHEELS.mkdir(exist_ok=True)
    versions = locked_versions()
    wanted = [f"{name}=={versions[name]}" for name in with_needs(PACKAGES)]
    missing = []
    for requirement in (*wanted, *OPTIONAL):
        name = requirement.partition("==")[0].replace("-", "_")
        if list(WHEELS.glob(f"{name}-*.whl")):
            continue
        command = [python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(WHEELS), requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            missing.append(f"{requirement}: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}")
    return missing


def write_rooms(num_rooms: int, voxel_size: float) -> int:
    """Write the voxels of procedural rooms; return their number."""
    clouds = gather_clouds((), Path(), num_rooms=num_rooms, voxel_size=voxel_size, seed=0, progress=Progress())
    workload = make_workload(clouds, voxel_size=voxel_size, batch_size=num_rooms)
    np.savez_compressed(KIT / "rooms.npz", coordinates=workload.coordinates.numpy().astype(np.int16))
    return workload.num_voxels


def compile_kernels(python: str, networks: list[str], voxels: int) -> str:
    """Compile the kernels of networks with another Python's Triton, pack them, and say what came of it."""
    probe = "import torch, triton; print('PyTorch', torch.__version__, 'and Triton', triton.__version__)"
    found = subprocess.run([python, "-c", probe], capture_output=True, text=True, check=False)
    if found.returncode:
        return f"{python} has no PyTorch with Triton: kernels will be compiled on the GPU machine, about a minute each"
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": CACHE, "PYTHONPATH": str(ROOT)}
    for network in networks:
        command = [
            python,
            "-m",
            "benchmarks.gpu.launches",
            "--network",
            network,
            "--voxels",
            str(voxels),
            "--compile",
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
        if done.returncode:
            return f"kernels of {network} do not compile: {done.stderr.strip()[-300:]}"
    with tarfile.open(KIT / "triton.tar.gz", "w:gz") as packed:
        packed.add(CACHE, arcname=".")
    size = (KIT / "triton.tar.gz").stat().st_size / 2**20
    return f"kernels of {', '.join(networks)} are compiled with {found.stdout.strip()}: {size:.1f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="python3.12", help="interpreter with the versions of the GPU machine")
    parser.add_argument("--networks", default="34D,34C", help="whose kernels are compiled")
    parser.add_argument("--voxels", type=int, default=800_000, help="of a step")
    parser.add_argument("--voxel-size", type=float, default=VOXEL_SIZE, help="of the rooms, in metres")
    choices = parser.parse_args()
    KIT.mkdir(exist_ok=True)
    for line in build_wheels(choices.python):
        print(f"no wheel of {line}", file=sys.stderr)
    print(f".whl: {len(list(WHEELS.glob('*.whl')))} wheels", file=sys.stderr)
    print(f".gpu/rooms.npz: {write_rooms(2, choices.voxel_size):,} voxels of two rooms", file=sys.stderr)
    print(compile_kernels(choices.python, choices.networks.split(","), choices.voxels), file=sys.stderr)
    print(PLAN.format(cache=CACHE), end="")


if __name__ == "__main__":
    main()
