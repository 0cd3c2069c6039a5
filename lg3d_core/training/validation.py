"""Validation of a run between epochs: scores on the validation scenes, which the processes share, and their log."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lg3d_core.evaluation.confusion import ConfusionMatrix
from lg3d_core.evaluation.evaluate import Counts, Evaluation, count_scenes, score_counts
from lg3d_core.evaluation.instances import SceneMatches
from lg3d_core.evaluation.objects import Grouping
from lg3d_core.evaluation.packed_matches import NO_MATCHES, pack_matches, unpack_matches
from lg3d_core.evaluation.predictor import Predictor
from lg3d_core.evaluation.table import INSTANCE_METRICS
from lg3d_core.progress import Progress
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.training.distributed import World
from lg3d_core.training.stop import Dropped, Stop


@dataclass(frozen=True, eq=False)
class Validation:
    """Scores of a network on all validation scenes; the same in all processes."""

    evaluation: Evaluation

    @property
    def score(self) -> float:
        """The score by which the best checkpoint is chosen: AP50 if it is defined, else mean IoU."""
        ap50 = self.precisions.get("ap50", math.nan)
        return self.evaluation.vertex.miou_present if math.isnan(ap50) else ap50

    @property
    def precisions(self) -> dict[str, float]:
        """AP, AP50 and AP25 over the classes with objects, by name; empty if no objects are predicted."""
        instances = self.evaluation.instances
        return {} if instances is None else {metric: instances.mean(metric) for metric in INSTANCE_METRICS}

    @property
    def group_scores(self) -> dict[str, float]:
        """Mean IoU at vertices over the classes present in each group, and over all."""
        return {group: means.iou for group, means in self.evaluation.vertex.means_present.items()}

    @property
    def logged(self) -> dict[str, float]:
        """Scores for metrics and events, by name; undefined scores are left out, because JSON has no nan."""
        vertex, voxel = self.evaluation.vertex, self.evaluation.voxel
        scores = {
            vertex.miou_name: vertex.miou_200,
            "miou_present": vertex.miou_present,
            "voxel_miou_present": voxel.miou_present,
        }
        groups = {f"miou_present_{group}": score for group, score in self.group_scores.items() if group != "all"}
        return {name: score for name, score in (scores | groups | self.precisions).items() if math.isfinite(score)}

    def describe(self, *, epoch: int, epochs: int) -> str:
        """Return the scores after an epoch in one line."""
        return f"epoch {epoch}/{epochs}: validation {self.describe_scores()}"

    def describe_scores(self) -> str:
        """Return the scores on one line."""
        scores = self.evaluation.vertex
        whole = f"{scores.miou_name} {scores.miou_200:.4f}"
        precisions = "".join(f", {INSTANCE_METRICS[metric]} {score:.4f}" for metric, score in self.precisions.items())
        return f"miou_present {scores.miou_present:.4f}, {whole}{precisions}"


class Validator:
    """Scores a network on validation scenes, divided among the processes.

    If the network has an offset head, its objects are scored, too.

    Args:
        predictor: Network with its class scores, device and precision.
        store: Store of the scenes.
        scene_ids: Ids of the validation scenes; the same in all processes.
        world: The processes that share the scenes.
        progress: Receives notes and warnings.
    """

    def __init__(
        self, predictor: Predictor, store: SceneStore, scene_ids: list[str], *, world: World, progress: Progress
    ) -> None:
        self.predictor = predictor
        has_offsets = predictor.network.offset_head is not None
        self.grouping = Grouping.for_voxels(predictor.voxel_size) if has_offsets else None
        self.store = store
        self.scene_ids = scene_ids
        self.world = world
        self.progress = _Remarks(progress)

    def validate(self, stop: Stop, show: Callable[[int], None]) -> Validation:
        """Return the scores on all scenes; `show` receives the number of finished scenes.

        Every process predicts and counts each `world.size`-th scene. What scenes contribute is then combined over the
        processes, so it must be a sum, or have one row per scene.

        Raises:
            Dropped: A stop was requested in one of several processes.
        """
        start = time.perf_counter()
        own = self._count_own(stop, show)
        *_, stopping = self.world.gather([stop.asked]).sum(axis=0)
        if stopping:
            raise Dropped
        counts = _add_up(own, self.world)
        seconds = time.perf_counter() - start
        return Validation(
            score_counts(counts, self.store.vocabulary, self.scene_ids, seconds=seconds, progress=self.progress)
        )

    def _count_own(self, stop: Stop, show: Callable[[int], None]) -> Counts:
        """Count on the scenes of this process; `in_scenes` and `matches` are zero and empty for those of the others."""
        classes = len(self.store.vocabulary)
        at_vertices, at_voxels = ConfusionMatrix(classes), ConfusionMatrix(classes)
        in_scenes = np.zeros((len(self.scene_ids), 3, classes), dtype=np.int64)
        matches = [NO_MATCHES] * len(self.scene_ids)
        num_labelled = 0
        for row in range(self.world.rank, len(self.scene_ids), self.world.size):
            if stop.asked:
                break
            self.world.doing(f"validating {self.scene_ids[row]}")
            counts = count_scenes(
                self.predictor,
                self.store,
                self.scene_ids[row : row + 1],
                grouping=self.grouping,
                progress=self.progress,
            )
            at_vertices.merge(counts.at_vertices)
            at_voxels.merge(counts.at_voxels)
            in_scenes[row] = counts.in_scenes[0]
            if counts.matches is not None:
                (matches[row],) = counts.matches
            num_labelled += counts.num_labelled
            show(row + 1)
        found = None if self.grouping is None else tuple(matches)
        return Counts(at_vertices, at_voxels, in_scenes, num_labelled, found)


def _add_up(own: Counts, world: World) -> Counts:
    """Return the counts of all processes, given those of this one."""
    for matrix in (own.at_vertices, own.at_voxels):
        matrix.counts = world.add_up(matrix.counts)
    matches = None if own.matches is None else gather_matches(own.matches, world)
    return Counts(own.at_vertices, own.at_voxels, world.add_up(own.in_scenes), world.total(own.num_labelled), matches)


def gather_matches(own: tuple[SceneMatches, ...], world: World) -> tuple[SceneMatches, ...]:
    """Return the matches of every scene in all processes, each of which has those of its own scenes.

    Args:
        own: Matches of every scene; empty for scenes of other processes.
        world: The processes.
    """
    if world.size == 1:
        return own
    packed = pack_matches(own)
    lengths = world.gather([len(packed)])[:, 0].astype(np.int64)
    padded = np.zeros(int(lengths.max()))
    padded[: len(packed)] = packed
    by_process = [unpack_matches(row, len(own)) for row in world.gather(padded.tolist())]
    return tuple(by_process[row % world.size][row] for row in range(len(own)))


class _Remarks(Progress):
    """Progress that passes on notes and warnings but no tasks, for work within a task."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def note(self, message: str) -> None:
        self._progress.note(message)

    def warn(self, message: str) -> None:
        self._progress.warn(message)
