"""The command `score`: scores of predictions in the benchmark's format, and paired differences between them."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lg3d_core.comparing.instance_statistics import resampled_precisions
from lg3d_core.comparing.statistics import (
    Difference,
    FloatArray,
    Interval,
    Samples,
    differences_of,
    interval_of,
    resampled_means,
    scene_weights,
)
from lg3d_core.errors import DataError
from lg3d_core.evaluation.confusion import ConfusionMatrix, SceneCounts
from lg3d_core.evaluation.instances import InstanceScores, score_instances
from lg3d_core.evaluation.score_scenes import SceneJob, SceneResult, SceneResults, SceneScorer
from lg3d_core.evaluation.scores import Scores, none_if_undefined, score_confusion
from lg3d_core.evaluation.submissions import Submission, Task
from lg3d_core.processes import run_in_processes
from lg3d_core.progress import Progress
from lg3d_core.settings import ScoreSettings
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.vocabulary import SPLITS, Vocabulary

Intervals = dict[str, dict[str, dict[str, Interval]]]
SamplesByClasses = dict[str, Samples]
"""Values of the bootstrap samples by the classes of the means, "all" or "present"."""


@dataclass(frozen=True, eq=False)
class ScoredPredictions:
    """Scores of one submission.

    Attributes:
        name: Name in the tables.
        path: Zip file or folder.
        scores: Scores at mesh vertices, of the task.
        intervals: Intervals over scenes by the classes of the means ("all" or "present"), metric and group.
        num_unknown: Number of predictions, or of vertices with ground truth, with a class id outside the vocabulary.
        differences: Differences from the first submission by metric and group; empty for the first one.
    """

    name: str
    path: Path
    scores: Scores | InstanceScores
    intervals: Intervals
    num_unknown: int
    differences: dict[str, dict[str, Difference]]

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as plain values for JSON; undefined values are None."""
        return {
            "name": self.name,
            "path": str(self.path),
            "instances" if isinstance(self.scores, InstanceScores) else "vertex": self.scores.to_dict(),
            "intervals": {
                classes: {
                    metric: {group: _plain_interval(*own) for group, own in groups.items()}
                    for metric, groups in metrics.items()
                }
                for classes, metrics in self.intervals.items()
            },
            "unknown": self.num_unknown,
            "differences": {
                metric: {
                    group: {
                        "value": none_if_undefined(own.value),
                        "interval": _plain_interval(*own.over_scenes),
                        "relative": none_if_undefined(own.relative),
                    }
                    for group, own in groups.items()
                }
                for metric, groups in self.differences.items()
            },
        }


@dataclass(frozen=True, eq=False)
class ScoreReport:
    """Scores of submissions on the same scenes.

    Attributes:
        task: Kind of the predictions.
        split: Split that was scored.
        vocabulary: The classes.
        num_scenes: Number of scenes.
        num_labelled_scenes: Number of these scenes with ground truth.
        classes: Classes of the mean IoU in the differences, "present" or "all".
        resamples: Number of bootstrap samples per interval.
        predictions: Submissions in the order of the command line.
    """

    task: Task
    split: str
    vocabulary: Vocabulary
    num_scenes: int
    num_labelled_scenes: int
    classes: str
    resamples: int
    predictions: tuple[ScoredPredictions, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON, scores in 0..1; undefined values are None."""
        return {
            "task": self.task,
            "split": self.split,
            "vocabulary": self.vocabulary.name,
            "num_scenes": self.num_scenes,
            "num_labelled_scenes": self.num_labelled_scenes,
            "classes": self.classes,
            "resamples": self.resamples,
            "predictions": [own.to_dict() for own in self.predictions],
        }


def score(settings: ScoreSettings, progress: Progress) -> ScoreReport:
    """Score submissions on a split of a store. Every process holds one scene in memory.

    Raises:
        DataError: A submission or scene cannot be read or lacks a scene, the submissions are of different tasks, or
            the split has no scenes or no ground truth for the task.
    """
    store = SceneStore(settings.store, settings.vocabulary)
    scene_ids = store.scene_ids(settings.split)
    if not scene_ids:
        raise DataError(f"no scenes to score in {store.path}: pass another --split than {settings.split}")
    task = common_task(settings.predictions, settings.task, store, settings.split)
    results: dict[str, SceneResults] = {}
    jobs = [SceneJob(scene_id, store.entry(scene_id).num_points) for scene_id in scene_ids]
    with (
        SceneScorer(store, settings.predictions, task) as scorer,
        progress.task("score", total=len(jobs), unit="scene") as shown,
    ):
        for job, result in run_in_processes(scorer, jobs, num_processes=settings.jobs):
            results[job.scene_id] = result
            shown.advance(status=job.scene_id)
    _require_truth(results, task, settings, store)
    weights = scene_weights(len(scene_ids), resamples=settings.resamples)
    with progress.task("intervals", total=len(settings.predictions), unit="submission") as shown:
        scored: list[ScoredPredictions] = []
        first: SamplesByClasses = {}
        for number, (name, path) in enumerate(zip(name_all(settings.predictions), settings.predictions, strict=True)):
            own = [results[scene_id].results[number] for scene_id in scene_ids]
            unknown = sum(result.num_unknown for result in own)
            if unknown:
                what = "predictions are skipped" if task == "instance" else "vertices count as missed"
                progress.warn(f"{name}: {unknown} {what}, because their class ids are not in {store.vocabulary.name}")
            scores, samples = _score(own, scene_ids, store.vocabulary, weights)
            first = first or samples
            compared = settings.classes if task == "semantic" else "present"
            differences = _differ(samples[compared], first[compared]) if number else {}
            scored.append(ScoredPredictions(name, path, scores, _intervals(samples), unknown, differences))
            shown.advance(status=name)
    return ScoreReport(
        task=task,
        split=settings.split,
        vocabulary=store.vocabulary,
        num_scenes=len(scene_ids),
        num_labelled_scenes=sum(result.is_labelled for result in results.values()),
        classes=settings.classes if task == "semantic" else "present",
        resamples=settings.resamples,
        predictions=tuple(scored),
    )


def common_task(paths: Sequence[Path], task: str, store: SceneStore, split: str) -> Task:
    """Return the task of submissions and check that each of them has all scenes of a split.

    Raises:
        DataError: A submission cannot be read or lacks a scene, or the submissions are of different tasks.
    """
    tasks: dict[str, Task] = {}
    with ExitStack() as stack:
        for path in paths:
            submission = stack.enter_context(Submission(path))
            _require_scenes(submission, store, split)
            tasks[str(path)] = submission.task
    wrong = {path: own for path, own in tasks.items() if task not in ("auto", own)}
    if wrong:
        name, own = next(iter(wrong.items()))
        raise DataError(f"{name} has predictions of the {own} task, expected {task}: pass --task {own}")
    if len(set(tasks.values())) > 1:
        listed = ", ".join(f"{path} {own}" for path, own in tasks.items())
        raise DataError(f"the predictions are of different tasks ({listed}): score them separately")
    return next(iter(tasks.values()))


def name_all(paths: Sequence[Path]) -> list[str]:
    """Return short names of submissions: file names if they differ, or else paths."""
    names = [path.stem if path.suffix.lower() == ".zip" else path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _require_scenes(submission: Submission, store: SceneStore, split: str) -> None:
    found, scene_ids = set(submission.scene_ids), store.scene_ids(split)
    missing = [scene_id for scene_id in scene_ids if scene_id not in found]
    if not missing:
        return
    others = [other for other in SPLITS if other != split and found & set(store.scene_ids(other))]
    inside = {PurePosixPath(name).stem for name in submission.names if "/" in name} & set(missing)
    if len(missing) == len(scene_ids) and others:
        hint = f"it has scenes of the split {others[0]}: pass --split {others[0]}"
    elif inside:
        hint = "its files are in a folder: put them at the root"
    else:
        hint = f"expected {missing[0]}.txt at the root, and one file for every scene of the split {split}"
    raise DataError(f"{submission.path} lacks {len(missing)} of {len(scene_ids)} scenes, such as {missing[0]}: {hint}")


def _require_truth(results: dict[str, SceneResults], task: Task, settings: ScoreSettings, store: SceneStore) -> None:
    if not any(result.is_labelled for result in results.values()):
        raise DataError(
            f"none of the {len(results)} scenes of the split {settings.split} in {store.path} has ground truth: pass "
            "another --split, or --check to validate the files"
        )
    if task == "instance" and not any(result.has_objects for result in results.values()):
        raise DataError(
            f"no scene of the split {settings.split} in {store.path} has annotated objects, which the instance task "
            "needs: prepare the store from scans with .aggregation.json files"
        )


def _score(
    results: Sequence[SceneResult], scene_ids: Sequence[str], vocabulary: Vocabulary, weights: FloatArray
) -> tuple[Scores | InstanceScores, SamplesByClasses]:
    """Return the scores over all scenes, and the values of the bootstrap samples."""
    matches = [result.matches for result in results if result.matches is not None]
    if matches:
        return score_instances(matches, vocabulary), {"present": resampled_precisions(matches, vocabulary, weights)}
    total = ConfusionMatrix(len(vocabulary))
    in_scenes = []
    for result in results:
        assert result.confusion is not None
        total.merge(result.confusion)
        in_scenes.append(result.confusion.class_counts())
    counts = SceneCounts(tuple(scene_ids), *np.stack(in_scenes, axis=1))
    samples = {
        classes: resampled_means(counts, vocabulary, weights, present=classes == "present")
        for classes in ("all", "present")
    }
    return score_confusion(total, vocabulary), samples


def _intervals(samples: SamplesByClasses) -> Intervals:
    return {
        classes: {
            metric: {group: interval_of(values[1:]) for group, values in groups.items()}
            for metric, groups in metrics.items()
        }
        for classes, metrics in samples.items()
    }


def _differ(mine: Samples, theirs: Samples) -> dict[str, dict[str, Difference]]:
    compared = {metric: groups for metric, groups in mine.items() if metric not in ("precision", "recall")}
    return differences_of([compared], [theirs])


def _plain_interval(low: float, high: float) -> list[float | None]:
    return [none_if_undefined(low), none_if_undefined(high)]
