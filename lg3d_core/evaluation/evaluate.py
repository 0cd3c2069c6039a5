"""Scores of a network on the scenes of a store."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lg3d_core.errors import DataError
from lg3d_core.evaluation.confusion import ConfusionMatrix, SceneCounts
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
    """Scores of a network, and what they were measured on.

    Attributes:
        vertex: At mesh vertices, full resolution, as the benchmark scores.
        voxel: At voxels, each with the label of the vertex it keeps, as the paper scores.
        scenes: Counts at mesh vertices of each scene, for statistics over scenes.
        num_scenes: Evaluated scenes.
        num_labelled_scenes: Those of them with ground truth.
        seconds: Reading, predicting, counting and writing.
        export: Folder of the written predictions, if any.
    """

    vertex: Scores
    voxel: Scores
    scenes: SceneCounts
    num_scenes: int
    num_labelled_scenes: int
    seconds: float
    export: Path | None

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON, None where undefined."""
        return {
            "vocabulary": self.vertex.vocabulary.name,
            "num_scenes": self.num_scenes,
            "num_labelled_scenes": self.num_labelled_scenes,
            "seconds": round(self.seconds, 3),
            "export": None if self.export is None else str(self.export),
            "vertex": self.vertex.to_dict(),
            "voxel": self.voxel.to_dict(),
        }


@dataclass(frozen=True, eq=False)
class Counts:
    """What was counted on scenes: enough for their scores.

    Attributes:
        at_vertices: At mesh vertices.
        at_voxels: At voxels.
        in_scenes: Right points, points by truth and by prediction of each scene at mesh vertices, shape
            `(scenes, 3, classes)`, int64.
        num_labelled: Scenes with ground truth.
    """

    at_vertices: ConfusionMatrix
    at_voxels: ConfusionMatrix
    in_scenes: npt.NDArray[np.int64]
    num_labelled: int


def evaluate_scenes(
    predictor: Predictor,
    store: "SceneStore",
    scene_ids: Sequence[str],
    *,
    export: Path | None = None,
    observe: "Callable[[Scene, Prediction], None] | None" = None,
    keep_features: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Predict scenes one by one, and score them together.

    Args:
        predictor: The network and how it is run.
        store: Holds the scenes and their vocabulary.
        scene_ids: The scenes; those without ground truth are predicted and exported, and do not count.
        export: Folder for one `<scene>.txt` per scene: a raw id per vertex in the mesh's order.
        observe: Receives every scene with its prediction.
        keep_features: Predictions carry the features of the voxels.
        progress: Receives the scenes.

    Raises:
        DataError: No scene, a scene that cannot be read, or a prediction that cannot be written.
        CheckpointError: The network's classifier has another number of classes than the store's vocabulary.
    """
    progress = progress or Progress()
    if not scene_ids:
        raise DataError(
            f"no scenes to evaluate in {store.path}: choose another --split, or prepare a raw folder whose split files "
            "put scenes into this one"
        )
    start = time.perf_counter()
    counts = count_scenes(
        predictor, store, scene_ids, export=export, observe=observe, keep_features=keep_features, progress=progress
    )
    seconds = time.perf_counter() - start
    return score_counts(counts, store.vocabulary, scene_ids, seconds=seconds, export=export, progress=progress)


def count_scenes(
    predictor: Predictor,
    store: "SceneStore",
    scene_ids: Sequence[str],
    *,
    export: Path | None = None,
    observe: "Callable[[Scene, Prediction], None] | None" = None,
    keep_features: bool = False,
    progress: Progress,
) -> Counts:
    """Predict scenes one by one and count, with the arguments of `evaluate_scenes`; there may be no scene.

    Raises:
        DataError: A scene that cannot be read, or a prediction that cannot be written.
        CheckpointError: The network's classifier has another number of classes than the store's vocabulary.
    """
    vocabulary = store.vocabulary
    predictor.require_classes(len(vocabulary), vocabulary.name)
    at_vertices, at_voxels = ConfusionMatrix(len(vocabulary)), ConfusionMatrix(len(vocabulary))
    in_scenes: list[npt.NDArray[np.int64]] = []
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
            if export is not None:
                write_text(export / f"{scene_id}.txt", label_text(prediction.label, vocabulary))
            if observe is not None:
                observe(scene, prediction)
            task.advance(status=scene_id)
    stacked = np.stack(in_scenes) if in_scenes else np.zeros((0, 3, len(vocabulary)), dtype=np.int64)
    return Counts(at_vertices, at_voxels, stacked, num_labelled)


def score_counts(
    counts: Counts,
    vocabulary: Vocabulary,
    scene_ids: Sequence[str],
    *,
    seconds: float,
    export: Path | None = None,
    progress: Progress,
) -> Evaluation:
    """Scores of what was counted on these scenes."""
    if counts.num_labelled == 0:
        progress.warn(f"none of the {len(scene_ids)} scenes has ground truth: their scores are undefined")
    return Evaluation(
        vertex=score_confusion(counts.at_vertices, vocabulary),
        voxel=score_confusion(counts.at_voxels, vocabulary),
        scenes=SceneCounts(tuple(scene_ids), *counts.in_scenes.transpose(1, 0, 2)),
        num_scenes=len(scene_ids),
        num_labelled_scenes=counts.num_labelled,
        seconds=seconds,
        export=export,
    )
