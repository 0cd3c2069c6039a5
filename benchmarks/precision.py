"""Training and inference on the CPU in float32 and in bfloat16, in turn in one process: prints JSON.

    OMP_NUM_THREADS=1 python benchmarks/precision.py SCENE.ply [--networks 14A 34C] [--voxel-size 0.05] [--repeats 5]

Times are CPU seconds of one thread, the best of the repeats. `train` is forward pass, cross entropy, backward pass and
a step of SGD with momentum; `predict` is the forward pass with logits. Kernel maps are built in every call.
`rooms` compares small rooms in one batch with the same rooms side by side in one large room, in seconds per voxel.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lg3d_core.devices import autocast
from lg3d_core.memory import kept_memory
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.objectives.classification import cross_entropy_loss
from lg3d_core.sampling import voxelize
from lg3d_core.scans import read_ply
from lg3d_core.sparse import SparseTensor, current_backend

CPU = torch.device("cpu")
PRECISIONS = ("fp32", "bf16")
ROOMS = 8
ROOM_VOXEL_SIZE = 0.14  # as in the demo: some thousand voxels a room
CLASSES = 200


def read_coordinates(path: Path, voxel_size: float) -> Tensor:
    """Return the voxels of a scan, rows `batch, x, y, z` from zero."""
    cells = torch.from_numpy(voxelize(read_ply(path).xyz, voxel_size).cells)
    return torch.cat([torch.zeros(len(cells), 1, dtype=torch.int32), cells - cells.amin(dim=0)], dim=1)


def repeat_rooms(room: Tensor, *, batched: bool) -> Tensor:
    """Return several copies of a room, one batch index each or side by side along x."""
    distance = 16 * (int(room[:, 1].max()) // 16 + 2)  # levels halve the resolution four times
    step = [1, 0, 0, 0] if batched else [0, distance, 0, 0]
    return torch.cat([room + copy * torch.tensor(step, dtype=room.dtype) for copy in range(ROOMS)])


def training_step(network: MinkUNet, coordinates: Tensor) -> Callable[[str], None]:
    """Return a function that takes one step at a precision."""
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
    features, labels = torch.rand(len(coordinates), 3), torch.randint(CLASSES, (len(coordinates),))

    def step(precision: str) -> None:
        network.train()
        optimiser.zero_grad(set_to_none=True)
        with kept_memory():
            with autocast(CPU, precision):
                logits = network.classify(network(SparseTensor(features, coordinates)))
                loss = cross_entropy_loss(logits, labels)
            loss.backward()
            optimiser.step()

    return step


def prediction(network: MinkUNet, coordinates: Tensor) -> Callable[[str], None]:
    """Return a function that computes the logits at a precision."""
    features = torch.rand(len(coordinates), 3)

    def predict(precision: str) -> None:
        network.eval()
        with kept_memory(), torch.inference_mode(), autocast(CPU, precision):
            network.classify(network(SparseTensor(features, coordinates)))

    return predict


def measure(tasks: dict[str, Callable[[str], None]], *, repeats: int) -> dict[str, dict[str, float]]:
    """Return the best CPU seconds of each task at each precision, all in turn; the first round is not counted."""
    best: dict[str, dict[str, float]] = {name: dict.fromkeys(PRECISIONS, float("inf")) for name in tasks}
    for count in range(repeats + 1):
        for name, task in tasks.items():
            for precision in PRECISIONS:
                start = time.process_time()
                task(precision)
                seconds = time.process_time() - start
                if count:
                    best[name][precision] = min(best[name][precision], seconds)
    for seconds_of in best.values():
        seconds_of["bf16 / fp32"] = seconds_of["bf16"] / seconds_of["fp32"]
    return {name: {key: round(value, 4) for key, value in values.items()} for name, values in best.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path, help="PLY file")
    parser.add_argument("--networks", nargs="+", default=["14A", "34C"])
    parser.add_argument("--voxel-size", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    coordinates = read_coordinates(arguments.scene, arguments.voxel_size)
    results = {}
    for name in arguments.networks:
        network = MinkUNet(name, num_classes=CLASSES)
        tasks = {"train": training_step(network, coordinates), "predict": prediction(network, coordinates)}
        results[name] = measure(tasks, repeats=arguments.repeats)
    room = read_coordinates(arguments.scene, ROOM_VOXEL_SIZE)
    network = MinkUNet(arguments.networks[0], num_classes=CLASSES)
    layouts = {f"{ROOMS} rooms in one batch": True, "the same rooms as one room": False}
    steps = {name: training_step(network, repeat_rooms(room, batched=batched)) for name, batched in layouts.items()}
    rooms = measure(steps, repeats=arguments.repeats)
    print(
        json.dumps(
            {
                "benchmark": "precision",
                "machine": platform.machine(),
                "processor": processor(),
                "torch": torch.__version__,
                "backend": current_backend(CPU).name,
                "threads": 1,
                "scene": arguments.scene.stem,
                "voxel_size": arguments.voxel_size,
                "voxels": len(coordinates),
                "cpu_seconds": results,
                "rooms": {"network": arguments.networks[0], "voxels": ROOMS * len(room), "cpu_seconds": rooms},
            },
            indent=1,
        )
    )


def processor() -> str:
    """Return the model and which of the extensions for bfloat16 it has."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    found = ", ".join(sorted(flags & {"avx512_bf16", "amx_bf16"})) or "no bfloat16"
    return f"{model} ({found})"


if __name__ == "__main__":
    main()
