"""Scores of a network on scenes of a store."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.evaluation.confusion import ConfusionMatrix, SceneCounts
from lg3d_core.evaluation.instances import (
    MIN_VERTICES,
    InstanceScores,
    PredictedInstances,
    SceneMatches,
    match_scene,
    score_instances,
    scored_classes,
)
from lg3d_core.evaluation.objects import Grouping, find_objects
from lg3d_core.evaluation.predictor import Prediction, Predictor
from lg3d_core.evaluation.scores import Scores, score_confusion
from lg3d_core.evaluation.submissions import label_text
from lg3d_core.files import write_text
from lg3d_core.progress import Progress
from lg3d_core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from lg3d_core.store.scene_file import Scene
    from lg3d_core.store.scene_store import SceneStore


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of a network and the scenes that they were computed on.

    Attributes:
        vertex: Scores at all mesh vertices, as in the benchmark.
        voxel: Scores at voxels, each with the label of the vertex that it keeps, as in the paper.
        scenes: Counts of each scene at mesh vertices, for statistics over scenes.
        num_scenes: Number of evaluated scenes.
        num_labelled_scenes: Number of these scenes with ground truth.
        seconds: Time for reading, predicting, counting and writing.
        export: Folder of the written predictions, or None.
        instances: Average precision of the objects at mesh vertices; None if voxels were not grouped.
        matches: Matched objects of each scene, for statistics over scenes; None if voxels were not grouped.
    """

    vertex: Scores
    voxel: Scores
    scenes: SceneCounts
    num_scenes: int
    num_labelled_scenes: int
    seconds: float
    export: Path | None
    instances: InstanceScores | None = None
    matches: tuple[SceneMatches, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as plain values for JSON; undefined scores are None."""
        return {
            "vocabulary": self.vertex.vocabulary.name,
            "num_scenes": self.num_scenes,
            "num_labelled_scenes": self.num_labelled_scenes,
            "seconds": round(self.seconds, 3),
            "export": None if self.export is None else str(self.export),
            "vertex": self.vertex.to_dict(),
            "voxel": self.voxel.to_dict(),
            **({} if self.instances is None else {"instances": self.instances.to_dict()}),
        }


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts on scenes, from which their scores are computed.

    Attributes:
        at_vertices: Confusion matrix at mesh vertices.
        at_voxels: Confusion matrix at voxels.
        in_scenes: Correct points, points by truth and points by prediction of each scene at mesh vertices, shape
            `(scenes, 3, classes)`, int64.
        num_labelled: Number of scenes with ground truth.
        matches: Matched objects of each scene; None if voxels were not grouped.
    """

    at_vertices: ConfusionMatrix
    at_voxels: ConfusionMatrix
    in_scenes: npt.NDArray[np.int64]
    num_labelled: int
    matches: tuple[SceneMatches, ...] | None = None


def evaluate_scenes(
    predictor: Predictor,
    store: "SceneStore",
    scene_ids: Sequence[str],
    *,
    grouping: Grouping | None = None,
    export: Path | None = None,
    observe: "Callable[[Scene, Prediction], None] | None" = None,
    keep_features: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Predict scenes one by one and score them together.

    Args:
        predictor: Network with its device, precision and backend.
        store: Store of the scenes and their vocabulary.
        scene_ids: Ids of the scenes. Those without ground truth are predicted and exported but not scored.
        grouping: Rules by which voxels are grouped into objects; None scores classes only.
        export: Folder for one file `<scene>.txt` per scene, with one raw id per vertex in mesh order.
        observe: Called with every scene and its prediction, which has objects if `grouping` is set.
        keep_features: Whether predictions include the voxel features.
        progress: Progress display.

    Raises:
        DataError: There are no scenes, a scene cannot be read, or a prediction cannot be written.
        CheckpointError: The number of classes of the network and the store's vocabulary differ.
    """
    progress = progress or Progress()
    if not scene_ids:
        raise DataError(
            f"no scenes to evaluate in {store.path}: choose another --split, or prepare a raw folder whose split files "
            "list scenes of this split"
        )
    start = time.perf_counter()
    counts = count_scenes(
        predictor,
        store,
        scene_ids,
        grouping=grouping,
        export=export,
        observe=observe,
        keep_features=keep_features,
        progress=progress,
    )
    seconds = time.perf_counter() - start
    return score_counts(counts, store.vocabulary, scene_ids, seconds=seconds, export=export, progress=progress)


def count_scenes(
    predictor: Predictor,
    store: "SceneStore",
    scene_ids: Sequence[str],
    *,
    grouping: Grouping | None = None,
    export: Path | None = None,
    observe: "Callable[[Scene, Prediction], None] | None" = None,
    keep_features: bool = False,
    progress: Progress,
) -> Counts:
    """Predict scenes one by one and count. The arguments are those of `evaluate_scenes`; `scene_ids` may be empty.

    Raises:
        DataError: A scene cannot be read, or a prediction cannot be written.
        CheckpointError: The number of classes of the network and the store's vocabulary differ.
    """
    vocabulary = store.vocabulary
    predictor.require_classes(len(vocabulary), vocabulary.name)
    at_vertices, at_voxels = ConfusionMatrix(len(vocabulary)), ConfusionMatrix(len(vocabulary))
    in_scenes: list[npt.NDArray[np.int64]] = []
    matches: list[SceneMatches] = []
    num_labelled = 0
    with progress.task("evaluate", total=len(scene_ids), unit="scene") as task:
        for scene_id in scene_ids:
            scene = store.read(scene_id)
            prediction = predictor.predict(scene, keep_features=keep_features, progress=progress)
            in_scene = ConfusionMatrix(len(vocabulary))
            in_scene.update(scene.label, prediction.label)
            at_vertices.merge(in_scene)
            in_scenes.append(in_scene.class_counts())
            at_voxels.update(prediction.voxel_truth, prediction.voxel_label)
            num_labelled += bool((scene.label >= 0).any())
            if grouping is not None:
                objects = group_objects(prediction, vocabulary, grouping)
                prediction = prediction._replace(objects=objects)
                matches.append(match_scene(scene.label, scene.instance, objects, scored=scored_classes(vocabulary)))
            if export is not None:
                write_text(export / f"{scene_id}.txt", label_text(prediction.label, vocabulary))
            if observe is not None:
                observe(scene, prediction)
            task.advance(status=scene_id)
    stacked = np.stack(in_scenes) if in_scenes else np.zeros((0, 3, len(vocabulary)), dtype=np.int64)
    return Counts(at_vertices, at_voxels, stacked, num_labelled, None if grouping is None else tuple(matches))


def group_objects(prediction: Prediction, vocabulary: Vocabulary, grouping: Grouping) -> PredictedInstances:
    """Group the voxels of a prediction into objects at mesh vertices."""
    if prediction.voxels is None:
        return PredictedInstances.from_rows([], [], [])
    found, centres, point_to_voxel = prediction.voxels
    without = np.flatnonzero(~scored_classes(vocabulary)).tolist()
    return find_objects(found, centres, point_to_voxel, without_instances=without, grouping=grouping)


def score_counts(
    counts: Counts,
    vocabulary: Vocabulary,
    scene_ids: Sequence[str],
    *,
    seconds: float,
    export: Path | None = None,
    progress: Progress,
) -> Evaluation:
    """Compute the scores of the counts on these scenes."""
    if counts.num_labelled == 0:
        progress.warn(f"none of the {len(scene_ids)} scenes has ground truth: the scores are undefined")
    elif counts.matches is not None and not any(len(scene.object_class) for scene in counts.matches):
        progress.warn(
            f"none of the {len(scene_ids)} scenes has an annotated object of at least {MIN_VERTICES} vertices: AP is "
            "undefined"
        )
    return Evaluation(
        vertex=score_confusion(counts.at_vertices, vocabulary),
        voxel=score_confusion(counts.at_voxels, vocabulary),
        scenes=SceneCounts(tuple(scene_ids), *counts.in_scenes.transpose(1, 0, 2)),
        num_scenes=len(scene_ids),
        num_labelled_scenes=counts.num_labelled,
        seconds=seconds,
        export=export,
        instances=None if counts.matches is None else score_instances(counts.matches, vocabulary),
        matches=counts.matches,
    )
