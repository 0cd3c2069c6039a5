"""Scores of voxels and of superpoints, as predicted by `lg3d predict` and `lg3d predict --superpoints`.

    python benchmarks/superpoints.py STORE CHECKPOINT

Prints JSON: miou_present, AP, AP50 and AP25 at the vertices of the validation scenes, for voxels and for superpoints,
and the CPU time of superpoints per 100,000 points.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from lg3d_core.evaluation.instances import PredictedInstances, match_scene, score_instances, scored_classes
from lg3d_core.evaluation.predictor import Predictor
from lg3d_core.inference.input import input_of_scene
from lg3d_core.inference.predict import LabelledScan, label_scan
from lg3d_core.networks.checkpoint import resolve_checkpoint
from lg3d_core.progress import Progress
from lg3d_core.scans.superpoints import segment_points
from lg3d_core.store import SceneStore

MIN_POINTS = 100


def instances_of(labelled: LabelledScan) -> PredictedInstances:
    """Return the objects of a scan as the benchmark scores them."""
    owner, found = labelled.at_vertices().instance, labelled.found
    assert owner is not None
    assert found is not None
    rows = [np.flatnonzero(owner == one.id) for one in found.objects]
    return PredictedInstances.from_rows(
        rows, [one.category for one in found.objects], [one.confidence for one in found.objects]
    )


def main(folder: Path, checkpoint: Path) -> None:
    """Predict every validation scene twice, and print the scores."""
    store = SceneStore(folder)
    vocabulary = store.vocabulary
    size = len(vocabulary)
    predictor, _ = Predictor.load(resolve_checkpoint(checkpoint), device="cpu")
    confusion: dict[str, np.ndarray] = {}
    matches: dict[str, list] = {}
    seconds, points = 0.0, 0
    for scene_id in store.scene_ids("val"):
        scene = store.read(scene_id)
        started = time.process_time()
        segment_points(scene.xyz, scene.rgb, scene.normal)
        seconds, points = seconds + time.process_time() - started, points + len(scene.xyz)
        for name, votes in (("voxels", False), ("superpoints", True)):
            labelled = label_scan(
                predictor,
                vocabulary,
                input_of_scene(scene, vocabulary),
                objects=True,
                min_points=MIN_POINTS,
                superpoints=votes,
                progress=Progress(),
            )
            label = labelled.at_vertices().label
            known = scene.label >= 0
            pairs = scene.label[known].astype(np.int64) * size + label[known]
            confusion[name] = confusion.get(name, 0) + np.bincount(pairs, minlength=size * size).reshape(size, size)
            matches.setdefault(name, []).append(
                match_scene(scene.label, scene.instance, instances_of(labelled), scored=scored_classes(vocabulary))
            )
    result: dict[str, object] = {
        "scenes": len(store.scene_ids("val")),
        "seconds_per_100000_points": seconds / points * 1e5,
    }
    for name, counts in confusion.items():
        right, truth = np.diag(counts), counts.sum(axis=1)
        union = truth + counts.sum(axis=0) - right
        scores = score_instances(matches[name], vocabulary)
        result[name] = {
            "miou_present": float((right / np.maximum(union, 1))[truth > 0].mean()),
            **{metric: scores.mean(metric) for metric in ("ap", "ap50", "ap25")},
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
