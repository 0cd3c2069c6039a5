"""The ceiling of grouping voxels into objects, and its speed, as JSON.

    python benchmarks/grouping.py STORE --voxel-size 0.02 0.05 0.1
    python benchmarks/grouping.py STORE --checkpoint RUN

The ceiling is the average precision of the objects of all scenes when every voxel has its true class, with true offsets
to the centres of the objects and without offsets. The time is that of grouping synthetic voxels of 5 cm with noisy
offsets and two classes each: CPU seconds on one core, the best of five repetitions.

With a checkpoint that has an offset head, the average precision of its objects on the validation scenes is measured
instead: with its offsets (also as dual set), and as connected components, each with all probable classes of a voxel and
with the most probable one alone.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lg3d_core.evaluation.instances import SceneMatches, match_scene, score_instances, scored_classes
from lg3d_core.evaluation.interpolation import Candidates
from lg3d_core.evaluation.objects import MIN_PROBABILITY, Grouping, find_objects
from lg3d_core.evaluation.predictor import PredictedVoxels, Predictor, VoxelLabels, voxel_centres
from lg3d_core.objectives.offsets import number_objects, true_offsets
from lg3d_core.sampling.voxels import voxelize
from lg3d_core.store.scene_file import Scene
from lg3d_core.store.scene_store import SceneStore

REPETITIONS = 5
EDGE = 0.05


def label_truly(scene: Scene, voxel_size: float, *, unlabelled: int) -> PredictedVoxels:
    """Return the voxels of a scene with their true classes and offsets, and confidence 1.

    Args:
        scene: Annotated scene.
        voxel_size: Edge of a voxel in metres.
        unlabelled: Class of voxels without a label.
    """
    voxels = voxelize(scene.xyz, voxel_size)
    labels, instances = scene.label[voxels.point], scene.instance[voxels.point].astype(np.int64)
    centres = voxel_centres(voxels.cells, voxel_size)
    counted = torch.from_numpy((labels >= 0) & (instances > 0))
    objects = number_objects(torch.from_numpy(instances), torch.zeros(len(labels)), counted)
    offsets = true_offsets(torch.from_numpy(centres), objects).numpy().astype(np.float32)
    label = np.where(labels >= 0, labels, unlabelled).astype(np.int16)
    found = VoxelLabels(label, np.ones(len(labels), dtype=np.float32), offsets)
    return PredictedVoxels(found, centres, voxels.point_to_voxel)


def find_ceiling(store: SceneStore, voxel_size: float, *, with_offsets: bool) -> dict[str, float]:
    """Return AP, AP50 and AP25 over all scenes of a store when every voxel has its true class."""
    scored = scored_classes(store.vocabulary)
    without = np.flatnonzero(~scored).tolist()
    matches = []
    for scene_id in store.scene_ids():
        scene = store.read(scene_id)
        found, centres, point_to_voxel = label_truly(scene, voxel_size, unlabelled=without[0])
        if not with_offsets:
            found = found._replace(offsets=None)
        grouping = Grouping.for_voxels(voxel_size)
        objects = find_objects(found, centres, point_to_voxel, without_instances=without, grouping=grouping)
        matches.append(match_scene(scene.label, scene.instance, objects, scored=scored))
    scores = score_instances(matches, store.vocabulary)
    return {"objects": int(scores.num_objects.sum()), **{name: scores.mean(name) for name in ("ap", "ap50", "ap25")}}


def score_offsets(store: SceneStore, checkpoint: Path) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return AP, AP50 and AP25 of a checkpoint's objects on the validation scenes, by rules of grouping and group."""
    predictor, info = Predictor.load(checkpoint)
    rules = {}
    for classes, minimum in (("probable classes", MIN_PROBABILITY), ("most probable class", None)):
        usual = replace(Grouping.for_voxels(info.voxel_size), min_probability=minimum)
        rules[f"offsets, {classes}"] = (usual, True)
        rules[f"offsets, dual set, {classes}"] = (replace(usual, dual_set=True), True)
        rules[f"connected components, {classes}"] = (usual, False)
    scored = scored_classes(store.vocabulary)
    without = np.flatnonzero(~scored).tolist()
    matches: dict[str, list[SceneMatches]] = {name: [] for name in rules}
    for scene_id in store.scene_ids("val"):
        scene = store.read(scene_id)
        found, centres, point_to_voxel = predictor.predict(scene).voxels
        for name, (grouping, with_offsets) in rules.items():
            voxels = found if with_offsets else found._replace(offsets=None)
            objects = find_objects(voxels, centres, point_to_voxel, without_instances=without, grouping=grouping)
            matches[name].append(match_scene(scene.label, scene.instance, objects, scored=scored))
    scores = {name: score_instances(own, store.vocabulary) for name, own in matches.items()}
    means: dict[str, dict[str, dict[str, float | None]]] = {
        name: own.to_dict()["means"] for name, own in scores.items()
    }
    return means


def draw_voxels(number: int) -> PredictedVoxels:
    """Draw a room of boxes, each a shell of voxels with two classes; offsets miss the centres by 5 cm on average."""
    rng = np.random.default_rng(0)
    shell = np.argwhere(np.pad(np.zeros((6, 6, 6), dtype=bool), 1, constant_values=True))
    count = -(-number // len(shell))
    corners = np.argwhere(np.ones((20, 20, 20), dtype=bool))[rng.permutation(8000)[:count]] * 9
    cells = (corners[:, None] + shell).reshape(-1, 3)[:number]
    middles = (corners[:, None] + np.full_like(shell, 3.5, dtype=np.float64)).reshape(-1, 3)[:number]
    offsets = (middles - cells) * EDGE + rng.normal(scale=0.03, size=cells.shape)
    label = rng.integers(2, 40, size=count).repeat(len(shell))[:number]
    mistaken = rng.random(number) < 0.1
    label[mistaken] = rng.integers(2, 40, size=int(mistaken.sum()))
    other = rng.integers(40, 80, size=count).repeat(len(shell))[:number]
    confidence = rng.uniform(0.5, 0.9, size=number)
    candidates = Candidates(
        np.stack([label, other], axis=1).astype(np.int16),
        np.stack([confidence, 1 - confidence], axis=1).astype(np.float32),
        num_classes=80,
    )
    found = VoxelLabels(
        candidates.classes[:, 0], candidates.probabilities[:, 0], offsets.astype(np.float32), candidates
    )
    return PredictedVoxels(found, voxel_centres(cells, EDGE), np.arange(number))


def time_grouping(number: int) -> dict[str, float]:
    """Return the CPU seconds of grouping so many voxels, and the number of objects."""
    found, centres, point_to_voxel = draw_voxels(number)
    seconds, objects = [], 0
    for _ in range(REPETITIONS):
        start = time.process_time()
        objects = len(
            find_objects(found, centres, point_to_voxel, without_instances=[0, 1], grouping=Grouping.for_voxels(EDGE))
        )
        seconds.append(time.process_time() - start)
    return {"voxels": number, "objects": objects, "cpu_seconds": min(seconds), "median": float(np.median(seconds))}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--voxel-size", type=float, nargs="+", default=[0.02, 0.05, 0.1])
    parser.add_argument("--voxels", type=int, default=100_000)
    parser.add_argument("--checkpoint", type=Path)
    options = parser.parse_args()
    store = SceneStore(options.store)
    if options.checkpoint is not None:
        print(json.dumps(score_offsets(store, options.checkpoint), indent=2))
        return
    report: dict[str, Any] = {"ceiling": {}, "speed": time_grouping(options.voxels)}
    for voxel_size in options.voxel_size:
        report["ceiling"][f"{voxel_size:g}"] = {
            "true offsets": find_ceiling(store, voxel_size, with_offsets=True),
            "no offsets": find_ceiling(store, voxel_size, with_offsets=False),
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
