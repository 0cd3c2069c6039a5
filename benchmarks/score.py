"""Cost of grouping and scoring instances on synthetic scenes: CPU seconds and memory, printed as JSON.

    python benchmarks/score.py [--scenes 312] [--vertices 150000] [--jobs 2] [--keep FOLDER] [--out FILE]

Every scene is a room of boxes at the density of 2 cm voxels, with noisy classes, confidences and offsets as a network
predicts them. Three stages are measured:

- `grouping`: `find_objects` from the predicted voxels, in `--jobs` processes;
- `matching`: `match_scene` with the annotated objects, in the same processes, and the scores over all scenes;
- `command`: `lg3d score --jobs N` on the same predictions as a zip file, from start to end, in processes of its own.

CPU seconds are those of all processes; the making of the scenes is not counted. `wall` is what the CPU seconds take on
`--jobs` idle cores at best; the time of the clock is printed beside it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lg3d_core.evaluation.instances import (
    PredictedInstances,
    SceneMatches,
    match_scene,
    score_instances,
    scored_classes,
)
from lg3d_core.evaluation.objects import Grouping, find_objects
from lg3d_core.evaluation.predictor import VoxelLabels
from lg3d_core.evaluation.submissions import write_submission
from lg3d_core.files import write_text
from lg3d_core.store.scene_file import Scene, SceneHeader, write_scene_file
from lg3d_core.store.scene_store import SCENES_FOLDER, write_index
from lg3d_core.vocabulary import load_vocabulary

VOXEL_SIZE = 0.02
OBJECTS = 45
VOCABULARY = load_vocabulary("scannet200")
SCORED = scored_classes(VOCABULARY)
FloatArray = npt.NDArray[np.float64]


class Room(NamedTuple):
    """A synthetic scene."""

    xyz: FloatArray
    label: npt.NDArray[np.int16]
    instance: npt.NDArray[np.int32]


class SceneCost(NamedTuple):
    """What one scene took, and its results."""

    grouping: float
    matching: float
    matches: SceneMatches
    predicted: PredictedInstances
    header: SceneHeader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=312)
    parser.add_argument("--vertices", type=int, default=150_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="write store and submission here and keep them")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        record = measure(arguments, arguments.keep or Path(temporary))
    text = json.dumps(record, indent=2)
    print(text)
    if arguments.out:
        write_text(arguments.out, text + "\n")


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    store = folder / "data"
    (store / SCENES_FOLDER).mkdir(parents=True, exist_ok=True)
    matches, headers, sizes = [], [], []
    grouping = matching = 0.0
    with write_submission(folder / "mine.zip", VOCABULARY) as writer:
        for cost in run_scenes(arguments, store):
            grouping += cost.grouping
            matching += cost.matching
            matches.append(cost.matches)
            headers.append(cost.header)
            sizes.append(len(cost.predicted))
            writer.add_instances(cost.header.scene, cost.predicted, num_vertices=arguments.vertices)
    write_index(store, [VOCABULARY], headers, {})
    start = time.process_time()
    scores = score_instances(matches, VOCABULARY)
    matching += time.process_time() - start
    command = run_command(store, folder / "mine.zip", arguments.jobs)
    found = json.loads(command.pop("stdout"))["predictions"][0]["instances"]
    assert found == scores.to_dict(), "the command has other scores than the predictions"
    return {
        "scenes": arguments.scenes,
        "vertices": arguments.vertices,
        "jobs": arguments.jobs,
        "predictions_per_scene": float(np.mean(sizes)),
        "objects_per_scene": float(scores.num_objects.sum() / arguments.scenes),
        "ap": scores.mean("ap"),
        "ap50": scores.mean("ap50"),
        "grouping_cpu_seconds": round(grouping, 2),
        "matching_cpu_seconds": round(matching, 2),
        "grouping_and_matching_on_idle_cores": round((grouping + matching) / arguments.jobs, 2),
        "command": command,
        "submission_mebibytes": round((folder / "mine.zip").stat().st_size / 2**20, 1),
        "load": os.getloadavg()[0],
        "cores": len(os.sched_getaffinity(0)),
    }


def run_scenes(arguments: argparse.Namespace, store: Path) -> Iterator[SceneCost]:
    work = partial(run_scene, vertices=arguments.vertices, store=store)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        yield from pool.map(work, range(arguments.scenes))


def run_scene(number: int, *, vertices: int, store: Path) -> SceneCost:
    """Make a scene, group and match its prediction, and write it to the store."""
    rng = np.random.default_rng(number)
    room = make_room(rng, vertices)
    found = predict(rng, room)
    centres = (np.floor(room.xyz / VOXEL_SIZE) + 0.5) * VOXEL_SIZE
    cells, first, point_to_voxel = np.unique(
        np.floor(room.xyz / VOXEL_SIZE).astype(np.int64) @ np.array([1 << 40, 1 << 20, 1]),
        return_index=True,
        return_inverse=True,
    )
    del cells
    assert found.offsets is not None
    voxels = VoxelLabels(found.label[first], found.confidence[first], found.offsets[first])
    start = time.process_time()
    predicted = find_objects(
        voxels,
        centres[first],
        point_to_voxel,
        without_instances=np.flatnonzero(~SCORED).tolist(),
        grouping=Grouping.for_voxels(VOXEL_SIZE),
    )
    grouped = time.process_time()
    matches = match_scene(room.label, room.instance, predicted, scored=SCORED)
    matched = time.process_time()
    header = write_scene(store, f"scene{number:04d}_00", room)
    return SceneCost(grouped - start, matched - grouped, matches, predicted, header)


def make_room(rng: np.random.Generator, vertices: int) -> Room:
    """Return a floor, four walls and boxes, sampled evenly by area on a grid of one vertex per voxel."""
    areas, boxes = [], []
    side = 4.0
    for k in range(4):
        size = np.array([side, 0.0, 2.5]) if k % 2 else np.array([0.0, side, 2.5])
        boxes.append((np.array([side if k == 2 else 0.0, side if k == 3 else 0.0, 0.0]), size, "wall", 0))
    boxes.append((np.zeros(3), np.array([side, side, 0.0]), "floor", 1))
    frequent = np.flatnonzero(SCORED)
    share = 1 / np.arange(1, len(frequent) + 1)
    classes = rng.choice(frequent, OBJECTS, p=share / share.sum())
    for k, class_ in enumerate(classes.tolist(), start=2):
        size = rng.uniform(0.2, 0.8, 3)
        corner = np.append(rng.uniform(0.1, side - 0.9, 2), 0)
        boxes.append((corner, size, VOCABULARY.names[class_], k))
    areas = np.array([surface(size) for _, size, _, _ in boxes])
    counts = np.floor(areas / areas.sum() * vertices).astype(int)
    counts[0] += vertices - counts.sum()
    xyz, label, instance = [], [], []
    for (corner, size, name, k), count in zip(boxes, counts.tolist(), strict=True):
        xyz.append(corner + sample_surface(rng, size, count))
        label.append(np.full(count, VOCABULARY.index_by_name[name], dtype=np.int16))
        instance.append(np.full(count, k, dtype=np.int32))
    return Room(np.concatenate(xyz), np.concatenate(label), np.concatenate(instance))


def surface(size: FloatArray) -> float:
    a, b, c = size
    return float(2 * (a * b + b * c + a * c) if min(a, b, c) > 0 else max(a * b, b * c, a * c))


def sample_surface(rng: np.random.Generator, size: FloatArray, count: int) -> FloatArray:
    """Return points on the six sides of a box, or on a rectangle if a side is 0."""
    areas = np.array([size[1] * size[2], size[0] * size[2], size[0] * size[1]])
    axis = rng.choice(3, count, p=areas / areas.sum())
    points = rng.random((count, 3)) * size
    points[np.arange(count), axis] = np.where(rng.random(count) < 0.5, 0, size[axis])
    return points


def predict(rng: np.random.Generator, room: Room) -> VoxelLabels:
    """Return classes that are wrong in patches, and offsets with an error of 5 cm."""
    label = room.label.copy()
    patch = np.floor(room.xyz / 0.3).astype(np.int64) @ np.array([10_007, 101, 1])
    wrong = rng.random(patch.max() + 1)[patch] < 0.1
    label[wrong] = rng.integers(0, len(VOCABULARY), patch.max() + 1)[patch[wrong]]
    number = int(room.instance.max()) + 1
    sums = np.stack([np.bincount(room.instance, room.xyz[:, k], number) for k in range(3)], axis=1)
    centre = sums / np.maximum(np.bincount(room.instance, minlength=number), 1)[:, None]
    offsets = centre[room.instance] - room.xyz + rng.normal(0, 0.05, room.xyz.shape)
    return VoxelLabels(label, rng.uniform(0.3, 1, len(label)).astype(np.float32), offsets.astype(np.float32))


def write_scene(store: Path, scene_id: str, room: Room) -> SceneHeader:
    """Write a scene to the store and return its header."""
    empty = np.zeros((0, 3), dtype=np.int32)
    number = len(room.label)
    scene = Scene(
        scene_id=scene_id,
        split="val",
        xyz=room.xyz.astype(np.float32),
        rgb=np.zeros((number, 3), dtype=np.uint8),
        normal=np.zeros((number, 3), dtype=np.float32),
        label=room.label,
        instance=room.instance,
        segment=np.full(number, -1, dtype=np.int32),
        faces=empty,
    )
    counts = np.bincount(room.label, minlength=len(VOCABULARY))
    header = SceneHeader(
        scene=scene_id,
        split="val",
        axis_alignment=np.eye(4),
        source_digest=scene_id,
        source_stamp="",
        label_table="",
        vocabulary=VOCABULARY.digest,
        num_points=number,
        num_faces=0,
        class_counts={k: int(n) for k, n in enumerate(counts) if n},
        unmapped={},
    )
    write_scene_file(store / SCENES_FOLDER / f"{scene_id}.h5", scene, header)
    return header


def run_command(store: Path, submission: Path, jobs: int) -> dict[str, Any]:
    """Run `lg3d score` on a submission and return its cost and output."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    words = ["score", str(submission), "--store", str(store), "--jobs", str(jobs), "--json", "--quiet"]
    done = subprocess.run([sys.executable, "-m", "lg3d_cli", *words], check=True, capture_output=True, text=True)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "cpu_seconds": round(cpu, 2),
        "clock_seconds": round(seconds, 2),
        "largest_process_mebibytes": round(after.ru_maxrss / 1024, 1),
        "stdout": done.stdout,
    }


if __name__ == "__main__":
    main()
