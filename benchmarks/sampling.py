"""What a training sample costs, and whether the loader keeps up with training: prints JSON.

    OMP_NUM_THREADS=1 python benchmarks/sampling.py [--store DIR] [--quick]

In one process: the steps of a sample, lg3d against the plain way (benchmarks/plain_sampling.py, on the same room, in
turn), batches of 8 rooms from two worker processes, and 34C's step on such a batch. Times are CPU seconds of the
processes that do the work, so that other load on the machine counts little; wall times stand beside them where two
things overlap.
Without --store, 8 procedural rooms of 100,000 vertices are made first.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plain_sampling as plain  # beside this file
import torch

from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.objectives.classification import cross_entropy_loss
from lg3d_core.progress import Progress
from lg3d_core.sampling import Augmentation, SceneDataset, sample_scene, voxelize
from lg3d_core.sampling import voxels as voxels_module
from lg3d_core.sampling.augment import distort
from lg3d_core.sampling.dataset import THINNING
from lg3d_core.sampling.height_map import build_height_map, vertex_spacing
from lg3d_core.sampling.placement import InstancePasting, object_boxes, open_pasting, place_instances
from lg3d_core.settings import PrepareSettings, RoomsSettings
from lg3d_core.sparse import SparseTensor
from lg3d_core.store.prepare import prepare as prepare_store
from lg3d_core.store.scene_file import Scene
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.synthetic.rooms import rooms as write_rooms
from lg3d_core.training.batches import SceneBatches, load_batches, plan_batches

BATCH = 8
WORKERS = 2


def make_store(folder: Path, *, rooms: int, vertices: int) -> SceneStore:
    """Procedural training rooms (and the one for validation that the writer wants)."""
    settings = RoomsSettings(out=folder / "raw", scenes=rooms + 1, vertices=vertices, validation=0.5 / rooms, jobs=2)
    write_rooms(settings, Progress())
    prepare_store(PrepareSettings(raw=folder / "raw", store=folder / "data", jobs=2), Progress())
    return SceneStore(folder / "data")


def measure(steps: dict[str, Callable[[], Any]], *, repeats: int) -> dict[str, dict[str, float]]:
    """CPU milliseconds of each step, all steps in turn."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(repeats):
        for name, step in steps.items():
            start = time.process_time()
            step()
            times[name].append(1e3 * (time.process_time() - start))
    return {
        name: {"best": round(min(ms), 2), "median": round(statistics.median(ms), 2), "worst": round(max(ms), 2)}
        for name, ms in times.items()
    }


def voxelize_by(cells_per_point: int, xyz: np.ndarray, voxel_size: float) -> None:
    """Voxelise with the dense grid up to so many cells per point."""
    usual = voxels_module.DENSE_CELLS_PER_POINT
    voxels_module.DENSE_CELLS_PER_POINT = cells_per_point
    try:
        voxelize(xyz, voxel_size)
    finally:
        voxels_module.DENSE_CELLS_PER_POINT = usual


def measure_steps(
    store: SceneStore, scene: Scene, pasting: InstancePasting, size: float, repeats: int
) -> dict[str, Any]:
    """Each step of a sample by itself."""
    rng = np.random.default_rng(0)
    thinned = voxelize(scene.xyz, THINNING * size).point
    xyz = scene.xyz[thinned]
    rows = pasting.bank.draw(pasting.count, rng, scene_id=scene.scene_id)
    objects = pasting.bank.read(rows.tolist())
    augmentation = Augmentation()
    steps: dict[str, Callable[[], Any]] = {
        "read the scene": lambda: store.read(scene.scene_id),
        "read 5 objects": lambda: pasting.bank.read(rows.tolist()),
        "vary 5 objects": lambda: [pasting.vary(one, rng) for one in objects],
        "height map": lambda: build_height_map(scene.xyz, scene.normal, scene.faces, tolerance=size / 2),
        "boxes of objects": lambda: object_boxes(scene, pasting.shell),
        "place 5 objects": lambda: place_instances(scene, objects, rng, voxel_size=size, shell=pasting.shell),
        "draw, read, vary and place 5 objects": lambda: pasting.furnish(scene, rng, voxel_size=size),
        "voxelize, dense grid": lambda: voxelize_by(10**9, scene.xyz, size),
        "voxelize, sort": lambda: voxelize_by(0, scene.xyz, size),
        "voxelize": lambda: voxelize(scene.xyz, size),
        "distort 0.2 m": lambda: distort(xyz, rng, granularity=0.2, magnitude=0.4),
        "distort 0.8 m": lambda: distort(xyz, rng, granularity=0.8, magnitude=1.6),
        "recolor": lambda: augmentation.recolor(scene.rgb, rng),
        "sample as it is": lambda: sample_scene(scene, voxel_size=size),
        "sample, augmented": lambda: sample_scene(scene, voxel_size=size, augmentation=augmentation, rng=rng),
    }
    return {"thinned_points": len(thinned), "objects": len(rows), "milliseconds": measure(steps, repeats=repeats)}


def compare(store: SceneStore, scene: Scene, pasting: InstancePasting, size: float, repeats: int) -> dict[str, Any]:
    """A whole sample but for reading files, lg3d and the plain way in turn, over different seeds.

    The plain way starts from raw ids, as a reader of ScanNet's files would, and its height map is a loop over points;
    what these two loops cost is told apart, since lg3d numbers categories once, in `prepare`, and a height map in numpy
    would be no less plain.
    """
    ids = store.vocabulary.ids
    raw = np.where(scene.label >= 0, ids[scene.label], 0)
    spacing = vertex_spacing(scene.xyz, scene.faces)
    room = plain.PlainRoom(scene.xyz, scene.rgb, scene.normal, raw, scene.instance, spacing)
    fast, slow, numbering, looking = [], [], [], []
    for seed in range(repeats + 1):
        rng = np.random.default_rng(seed)
        objects = pasting.bank.read(pasting.bank.draw(pasting.count, rng, scene_id=scene.scene_id).tolist())
        start = time.process_time()
        varied = [pasting.vary(one, rng) for one in objects]
        furnished = place_instances(scene, varied, rng, voxel_size=size, shell=pasting.shell)
        sample_scene(furnished, voxel_size=size, augmentation=Augmentation(), rng=rng)
        middle = time.process_time()
        things = [plain.PlainObject(one.category, one.xyz, one.rgb) for one in objects]
        plain.make_sample(room, things, ids, np.random.default_rng(seed), voxel_size=size, shell=pasting.shell)
        end = time.process_time()
        plain.number_categories(raw, ids)
        if seed:  # the first is for warming up
            fast.append(middle - start)
            slow.append(end - middle)
            numbering.append(time.process_time() - end)
            end = time.process_time()
            plain.height_map(room)
            looking.append(time.process_time() - end)
    best, usual = min(slow) / min(fast), statistics.median(slow) / statistics.median(fast)
    loops = statistics.median(numbering) + statistics.median(looking)
    without = (statistics.median(slow) - loops) / statistics.median(fast)
    return {
        "lg3d_ms": {"best": round(1e3 * min(fast), 1), "median": round(1e3 * statistics.median(fast), 1)},
        "plain_ms": {"best": round(1e3 * min(slow), 1), "median": round(1e3 * statistics.median(slow), 1)},
        "plain_loop_over_categories_ms": round(1e3 * statistics.median(numbering), 1),
        "plain_loop_over_points_of_the_height_map_ms": round(1e3 * statistics.median(looking), 1),
        "times_faster": {
            "best": round(best, 2),
            "median": round(usual, 2),
            "median_without_these_loops": round(without, 2),
        },
    }


def process_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def process_memory(pid: int) -> float:
    """Resident memory that is a process's own, MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def measure_loader(dataset: SceneDataset, *, batches: int) -> tuple[dict[str, Any], Any]:
    """Batches of 8 rooms by two workers: seconds a batch, and the workers' memory after each."""
    epochs = -(-batches * BATCH // len(dataset))
    plans = list(plan_batches(len(dataset), batch_size=BATCH, micro_batch=BATCH, seed=0, epochs=epochs))[:batches]
    iterator = load_batches(SceneBatches(dataset), plans, jobs=WORKERS, seed=0, shift=True)
    workers = [worker.pid for worker in iterator._workers]  # type: ignore[attr-defined]
    memory: list[list[float]] = []
    stamps, batch = [time.perf_counter()], None
    used = [sum(process_seconds(pid) for pid in workers)]
    for _, loaded in iterator:
        batch = loaded
        stamps.append(time.perf_counter())
        used.append(sum(process_seconds(pid) for pid in workers))
        memory.append([process_memory(pid) for pid in workers])
    del iterator
    warm = len(memory) // 3
    return {
        "workers": WORKERS,
        "rooms_a_batch": BATCH,
        "batches": len(memory),
        "voxels_a_batch": len(batch.coordinates),
        "wall_seconds_a_batch": round((stamps[-1] - stamps[0]) / len(memory), 3),
        "cpu_seconds_a_batch": round((used[-1] - used[0]) / len(memory), 3),
        "worker_memory_mib": {
            "after_each_batch": [[round(value, 1) for value in row] for row in memory],
            "growth_in_last_two_thirds": round(max(memory[-1]) - max(memory[warm]), 1),
        },
    }, batch


def measure_training(batch: Any, network_name: str, *, rooms: int) -> dict[str, Any]:
    """CPU seconds of forward and backward on rooms of a batch, one at a time as on the CPU, scaled to the batch."""
    torch.manual_seed(0)
    network = MinkUNet(network_name, num_classes=200)
    total, voxels, wall = 0.0, 0, 0.0
    for room in range(rooms + 1):
        rows = batch.coordinates[:, 0] == min(room, BATCH - 1)
        coordinates = batch.coordinates[rows].clone()
        coordinates[:, 0] = 0
        start, began = time.process_time(), time.perf_counter()
        features = network(SparseTensor(batch.features[rows], coordinates))
        cross_entropy_loss(network.classify(features), batch.labels[rows]).backward()
        network.zero_grad()
        if room:  # the first is for warming up
            total, wall, voxels = (
                total + time.process_time() - start,
                wall + time.perf_counter() - began,
                voxels + int(rows.sum()),
            )
    share = len(batch.coordinates) / voxels
    return {
        "network": network_name,
        "threads": torch.get_num_threads(),
        "rooms_measured": rooms,
        "cpu_seconds_a_batch": round(total * share, 1),
        "wall_seconds_a_batch": round(wall * share, 1),
    }


def run(store: SceneStore, *, size: float, repeats: int, batches: int, rooms: int, network: str) -> dict[str, Any]:
    """All measurements on a store."""
    pasting = open_pasting(store, budget=None, count=5, progress=Progress())
    if pasting is None:
        raise SystemExit(f"{store.path} has no objects of tail categories")
    ids = store.scene_ids("train")
    if len(ids) < BATCH:
        raise SystemExit(f"{store.path} has {len(ids)} training scenes, a batch has {BATCH}")
    scene = min((store.read(name) for name in ids[:20]), key=lambda one: abs(len(one.xyz) - 100_000))
    whole = ids[: len(ids) // BATCH * BATCH]  # no batch with fewer rooms
    dataset = SceneDataset(store, whole, voxel_size=size, augmentation=Augmentation(), pasting=pasting)
    loader, batch = measure_loader(dataset, batches=batches)
    training = measure_training(batch, network, rooms=rooms)
    return {
        "voxel_size": size,
        "scene": {"id": scene.scene_id, "points": len(scene.xyz), "voxels": len(voxelize(scene.xyz, size).cells)},
        "bank": {"objects": len(pasting.bank), "categories": len(pasting.bank.categories)},
        "steps": measure_steps(store, scene, pasting, size, repeats),
        "against_the_plain_way": compare(store, scene, pasting, size, max(3, repeats // 2)),
        "loader": loader,
        "training": training,
        "training_over_loading": {
            "cpu": round(training["cpu_seconds_a_batch"] / loader["cpu_seconds_a_batch"], 1),
            "wall": round(training["wall_seconds_a_batch"] / loader["wall_seconds_a_batch"], 1),
        },
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="scene store to sample from, instead of procedural rooms")
    parser.add_argument("--points", type=int, default=100_000, help="vertices of a procedural room")
    parser.add_argument("--voxel-size", type=float, nargs="+", default=[0.02])
    parser.add_argument("--network", default="34C")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--batches", type=int, default=30, help="batches that the loader makes")
    parser.add_argument("--training-rooms", type=int, default=2, help="rooms of a batch that training is timed on")
    parser.add_argument("--quick", action="store_true", help="few repeats, to see that it runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    few = {"repeats": 3, "batches": 6, "rooms": 1}
    many = {"repeats": arguments.repeats, "batches": arguments.batches, "rooms": arguments.training_rooms}
    with tempfile.TemporaryDirectory() as folder:
        store = (
            SceneStore(arguments.store)
            if arguments.store
            else make_store(Path(folder), rooms=8, vertices=arguments.points)
        )
        results = [
            run(store, size=size, network=arguments.network, **(few if arguments.quick else many))
            for size in arguments.voxel_size
        ]
    print(
        json.dumps(
            {
                "benchmark": "sampling",
                "machine": platform.machine(),
                "python": platform.python_version(),
                "numpy": np.__version__,
                "torch": torch.__version__,
                "results": results,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
