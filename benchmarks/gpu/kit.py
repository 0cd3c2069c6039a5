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
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

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
CACHE = "/tmp/lg3d-triton"  # the cache holds absolute paths: one path on both machines, and the default in run.sh
VOXEL_SIZE = 0.02
PLAN = """\
Copy the checkout with .whl and .gpu ({size:.0f} MiB) to the GPU machine. There, with OUT=FOLDER for the results, run

1. OUT=FOLDER bash benchmarks/gpu/run.sh right
   Is it right? fold must print 0. Differences of the kernels must be at most about those of plain PyTorch.
   tests.log must end without failures, memcheck.log without errors.
2. OUT=FOLDER bash benchmarks/gpu/run.sh fast
   How fast? Times, memory and kernels of training steps of 34D, 34C and 18A.
3. OUT=FOLDER bash benchmarks/gpu/run.sh train
   Does it train? The last val_miou_present of finetune.jsonl must be that of eval.json; data_wait should be a few
   percent of seconds.
4. OUT=FOLDER bash benchmarks/gpu/run.sh layers
   How fast are the kernels of wide layers? Under 300 useful TFLOP/s at 512->512: counters before anything else.
5. OUT=FOLDER bash benchmarks/gpu/run.sh peer
   How fast beside other engines?
6. OUT=FOLDER bash benchmarks/gpu/run.sh counters
   What limits the kernels of layers? Needs ncu.
7. OUT=FOLDER bash benchmarks/gpu/run.sh tune
   Measures block sizes of 34D. Later runs take them from ~/.cache/lg3d/triton; OUT has a copy.

Each part takes at most ten minutes, writes results while it runs, lists failed steps at the end, and exits with 1 if
there are any. VOXELS=400000 in front of a command reduces the sizes of 1, 2, 4 and 6.
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
        name, _, version = requirement.partition("==")
        found = find_wheels(name)
        for other in [wheel for wheel in found if parse_wheel_filename(wheel.name)[1] != Version(version)]:
            other.unlink()  # with two versions of a package, pip installs none
            found.remove(other)
        if found:
            continue
        command = [python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(WHEELS), requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            missing.append(f"{requirement}: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}")
    return missing


def check_wheels(python: str) -> None:
    """Raise SystemExit if another Python's pip rejects the wheels, e.g. those of an earlier kit for a third Python."""
    choices = ["--dry-run", "--quiet", "--no-index", "--no-deps", "--ignore-installed", "--disable-pip-version-check"]
    wheels = [str(path) for path in sorted(WHEELS.glob("*.whl"))]
    command = [python, "-m", "pip", "install", *choices, *wheels]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1]
        raise SystemExit(f"{python} cannot install the wheels in {WHEELS}: {reason}; delete that folder and rerun")


def find_wheels(name: str) -> list[Path]:
    """Return the wheels of a package, of any version."""
    return [path for path in WHEELS.glob("*.whl") if parse_wheel_filename(path.name)[0] == canonicalize_name(name)]


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
        choices = ["--network", network, "--voxels", str(voxels), "--compile"]
        command = [python, "-m", "benchmarks.gpu.launches", *choices]
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
    check_wheels(choices.python)
    print(f".whl: {len(list(WHEELS.glob('*.whl')))} wheels", file=sys.stderr)
    print(f".gpu/rooms.npz: {write_rooms(2, choices.voxel_size):,} voxels of two rooms", file=sys.stderr)
    print(compile_kernels(choices.python, choices.networks.split(","), choices.voxels), file=sys.stderr)
    size = sum(path.stat().st_size for folder in (WHEELS, KIT) for path in folder.iterdir())
    print(PLAN.format(size=size / 2**20), end="")


if __name__ == "__main__":
    main()
