"""Memory of a training step and of a prediction against voxels: bytes a voxel, and how many voxels fit.

    python benchmarks/memory.py [--networks 14A,34C] [--voxels 15000,30000,60000] [--out FILE]
        [--device cpu|cuda] [--precision fp32|bf16] [--memory GIB ...]

Every figure comes from a fresh process, which first runs the same step on 2,000 voxels: libraries are loaded, and
gradients and the optimiser's state are there. `fixed` is what it holds then; what the step on all voxels holds on top,
at most, is measured by PyTorch's allocator on CUDA and by the process's resident size on Linux. The voxels are those of
a procedural room at 2 cm: a slab of its first so many. A step is forward, cross entropy over 200 categories, backward
and SGD; a prediction is forward, in evaluation mode, with the classifier in pieces, as `lg3d eval` does it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lg3d_core.devices import autocast
from lg3d_core.evaluation.predictor import CHUNK
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.objectives.classification import cross_entropy_loss
from lg3d_core.progress import Progress
from lg3d_core.sparse import SparseTensor, owned_threads
from lg3d_core.sparse_benchmark.machine import PeakMemory, describe_machine
from lg3d_core.sparse_benchmark.workload import gather_clouds, make_workload

VOXEL_SIZE = 0.02
NUM_CLASSES = 200
WARM_UP = 2000
ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="14A,34C")
    parser.add_argument("--voxels", default="15000,30000,60000", help="rising numbers")
    parser.add_argument("--what", default="train,predict")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--memory", type=float, nargs="*", default=[16, 24, 80], help="GiB to fill")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what, network, number, batch = arguments.one
        one = measure(what, network, int(number), Path(batch), arguments.device, arguments.precision)
        print(json.dumps(one))
        return
    numbers = [int(number) for number in arguments.voxels.split(",")]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        batch = Path(folder) / "batch.pt"
        write_batch(batch, numbers[-1])
        for network in arguments.networks.split(","):
            for what in arguments.what.split(","):
                options = ["--device", arguments.device, "--precision", arguments.precision]
                rows = [run_one([what, network, str(number), str(batch)], options) for number in numbers]
                results.append(summarise(network, what, numbers, rows, arguments.memory))
                print_row(results[-1])
    if arguments.out:
        record = {
            "benchmark": "memory",
            "command": ["benchmarks/memory.py", *sys.argv[1:]],
            "machine": describe_machine(torch.device(arguments.device)),
            "precision": arguments.precision,
            "voxel_size": VOXEL_SIZE,
            "results": results,
        }
        arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def write_batch(path: Path, voxels: int) -> None:
    """Coordinates and colours of as many rooms as hold so many voxels."""
    rooms = 1
    while True:
        clouds = gather_clouds([], Path(), num_rooms=rooms, voxel_size=VOXEL_SIZE, seed=0, progress=Progress())
        workload = make_workload(clouds, voxel_size=VOXEL_SIZE, batch_size=rooms)
        if workload.num_voxels >= voxels:
            torch.save({"coordinates": workload.coordinates, "colours": workload.colours}, path)
            return
        rooms *= 2


def run_one(words: Sequence[str], options: Sequence[str]) -> dict[str, int]:
    command = [sys.executable, __file__, "--one", *words, *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def measure(what: str, plan: str, number: int, path: Path, device_name: str, precision: str) -> dict[str, int]:
    """Bytes that are held before a pass, and at most during it."""
    device = torch.device(device_name)
    batch = torch.load(path, weights_only=True)
    torch.manual_seed(0)
    network = MinkUNet(plan, num_classes=NUM_CLASSES).to(device)
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    labels = torch.randint(NUM_CLASSES, (number,))

    def step(count: int) -> None:
        x = SparseTensor(batch["colours"][:count].to(device), batch["coordinates"][:count].to(device))
        if what == "predict":
            predict(network.eval(), x, device, precision)
            return
        network.train()
        optimiser.zero_grad(set_to_none=True)
        with autocast(device, precision):
            loss = cross_entropy_loss(network.classify(network(x)), labels[:count].to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    with owned_threads():
        step(min(WARM_UP, number))
        with PeakMemory(device) as memory:
            fixed = held_bytes(device)
            step(number)
    assert memory.bytes is not None, "this system does not tell what a process holds"
    return {"fixed": fixed, "bytes": memory.bytes}


def held_bytes(device: torch.device) -> int:
    """What PyTorch holds of the GPU, or the process of the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))


def predict(network: MinkUNet, x: SparseTensor, device: torch.device, precision: str) -> Tensor:
    with torch.inference_mode():
        with autocast(device, precision):
            features = network(x)
        return torch.cat([network.classify(part.float()).argmax(dim=1) for part in features.split(CHUNK)])


def summarise(
    network: str, what: str, numbers: list[int], rows: list[dict[str, int]], memories: list[float]
) -> dict[str, Any]:
    """Bytes a voxel of the largest pass, and how many voxels fill nine tenths of some memories."""
    per_voxel = rows[-1]["bytes"] / numbers[-1]
    fixed = max(row["fixed"] for row in rows)
    return {
        "network": network,
        "what": what,
        "voxels": numbers,
        "bytes": [row["bytes"] for row in rows],
        "fixed": fixed,
        "bytes_per_voxel": per_voxel,
        "fits": {f"{memory:g} GiB": round((0.9 * memory * 2**30 - fixed) / per_voxel) for memory in memories},
    }


def print_row(result: dict[str, Any]) -> None:
    pairs = zip(result["voxels"], result["bytes"], strict=True)
    print(
        f"{result['network']:4} {result['what']:8} {result['fixed'] / 2**20:6.0f} MiB fixed, "
        f"{result['bytes_per_voxel'] / 1000:6.2f} kB a voxel; "
        + ", ".join(f"{number}: {held / 2**20:.0f} MiB" for number, held in pairs)
        + "; in 90 % of "
        + ", ".join(f"{memory}: {voxels}" for memory, voxels in result["fits"].items()),
        flush=True,
    )


if __name__ == "__main__":
    main()
