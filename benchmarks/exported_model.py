"""Labels, time and memory of an exported model beside those of its checkpoint, on the scenes of a store.

Usage: python benchmarks/exported_model.py CHECKPOINT STORE [--split val] [--voxel-size METRES] [--repeats 3]

The checkpoint runs with the native engine in fp32, the exported model with onnxruntime, in turns in one process and on
one thread. Seconds are of CPU time, the best of the repeats over all scenes. Memory is the peak of a separate process
that loads one of the two and labels the largest scene: before, after loading, and at the end.
"""

import argparse
import dataclasses
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from lg3d_core.evaluation.predictor import Predictor, VoxelLabels
from lg3d_core.networks.checkpoint import load_network, resolve_checkpoint
from lg3d_core.networks.onnx_file import write_onnx
from lg3d_core.sampling.voxels import voxelize
from lg3d_core.store.scene_store import SceneStore

Voxels = tuple[np.ndarray, np.ndarray]


def read_scenes(store: Path, split: str, voxel_size: float) -> list[Voxels]:
    """Return the cells and colours of every scene of a split."""
    opened = SceneStore(store)
    scenes = []
    for scene_id in opened.scene_ids(split):
        scene = opened.read(scene_id)
        voxels = voxelize(scene.xyz, voxel_size)
        scenes.append((voxels.cells, scene.rgb[voxels.point]))
    return scenes


def load(path: Path, voxel_size: float) -> Predictor:
    predictor, _ = Predictor.load(path, device="cpu", precision="fp32", adapt=0.0)
    return dataclasses.replace(predictor, voxel_size=voxel_size)


def label(predictor: Predictor, scenes: list[Voxels]) -> tuple[list[VoxelLabels], float]:
    """Return the labels of all scenes, and the CPU seconds."""
    start = time.process_time()
    found = [predictor.label_voxels(cells, rgb, name=str(k)) for k, (cells, rgb) in enumerate(scenes)]
    return found, time.process_time() - start


def compare(checkpoint: Path, store: Path, split: str, voxel_size: float | None, repeats: int) -> dict[str, object]:
    network, info = load_network(checkpoint)
    size = info.voxel_size if voxel_size is None else voxel_size
    scenes = read_scenes(store, split, size)
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "model.onnx"
        write_onnx(exported, network, info, None)
        predictors = {"native": load(checkpoint, size), "onnxruntime": load(exported, size)}
        seconds: dict[str, list[float]] = {name: [] for name in predictors}
        for _ in range(repeats):
            labels = {}
            for name, predictor in predictors.items():
                labels[name], taken = label(predictor, scenes)
                seconds[name].append(taken)
        memory = {
            name: measure_memory(path, store, split, size)
            for name, path in {"native": checkpoint, "onnxruntime": exported}.items()
        }
    pairs = list(zip(labels["native"], labels["onnxruntime"], strict=True))
    return {
        "network": info.network,
        "voxel_size": size,
        "scenes": len(scenes),
        "voxels": sum(len(cells) for cells, _ in scenes),
        "largest": max(len(cells) for cells, _ in scenes),
        "different_labels": sum(int((one.label != other.label).sum()) for one, other in pairs),
        "largest_difference_of_confidence": max(
            float(np.abs(one.confidence - other.confidence).max(initial=0)) for one, other in pairs
        ),
        "cpu_seconds": {name: round(min(values), 3) for name, values in seconds.items()},
        "all_cpu_seconds": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
        "megabytes": memory,
    }


def measure_memory(path: Path, store: Path, split: str, voxel_size: float) -> dict[str, float]:
    """Return the memory of a process that loads a model and labels the largest scene, in MB."""
    words = [sys.executable, __file__, str(path), str(store), "--split", split, "--voxel-size", str(voxel_size)]
    done = subprocess.run([*words, "--memory"], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def peak_resident() -> int:
    """Return the peak memory of this process in bytes; `getrusage` would include that of its parent."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def report_memory(path: Path, store: Path, split: str, voxel_size: float) -> dict[str, float]:
    scenes = read_scenes(store, split, voxel_size)
    before = peak_resident()
    predictor = load(path, voxel_size)
    loaded = peak_resident()
    label(predictor, [max(scenes, key=lambda scene: len(scene[0]))])
    return {
        name: round(value / 1e6) for name, value in (("before", before), ("loaded", loaded), ("peak", peak_resident()))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--voxel-size", type=float)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="Print the memory of one model alone.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = resolve_checkpoint(options.checkpoint)
    if options.memory:
        found: object = report_memory(checkpoint, options.store, options.split, options.voxel_size)
    else:
        found = compare(checkpoint, options.store, options.split, options.voxel_size, options.repeats)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
