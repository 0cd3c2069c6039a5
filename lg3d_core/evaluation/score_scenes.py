"""Scores of submissions on the scenes of a store, one scene in memory at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from lg3d_core.evaluation.checks import SceneCheck, check_scene
from lg3d_core.evaluation.confusion import ConfusionMatrix
from lg3d_core.evaluation.instances import SceneMatches, match_masks, scored_classes
from lg3d_core.evaluation.submissions import Submission, Task
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.vocabulary import Vocabulary


class SceneJob(NamedTuple):
    """A scene to score or to check.

    Attributes:
        scene_id: Id of the scene.
        num_vertices: Number of its vertices; None if it is unknown.
    """

    scene_id: str
    num_vertices: int | None


class SceneResult(NamedTuple):
    """Result of one submission on one scene.

    Attributes:
        confusion: Confusion matrix of the vertices; None for the instance task.
        matches: Matched objects; None for the semantic task.
        num_unknown: Number of predictions, or of vertices with ground truth, with a class id outside the vocabulary.
    """

    confusion: ConfusionMatrix | None
    matches: SceneMatches | None
    num_unknown: int


class SceneResults(NamedTuple):
    """Results of all submissions on one scene.

    Attributes:
        results: One result per submission.
        is_labelled: Whether a vertex of the scene has a class.
        has_objects: Whether a vertex of the scene has a class and an object.
    """

    results: list[SceneResult]
    is_labelled: bool
    has_objects: bool


class _Opened:
    """Submissions that a process opens once. Copies for other processes have none open."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._opened: list[Submission] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for submission in self._opened:
            submission.close()
        self._opened = []

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_opened": []}

    @property
    def submissions(self) -> list[Submission]:
        """The submissions, in the order of their paths.

        Raises:
            DataError: One of them cannot be read.
        """
        for path in self.paths[len(self._opened) :]:
            self._opened.append(Submission(path))
        return self._opened


class SceneScorer(_Opened):
    """Function that scores submissions on one scene; it can be copied to other processes."""

    def __init__(self, store: SceneStore, paths: Sequence[Path], task: Task) -> None:
        super().__init__(paths)
        self.store = store
        self.task = task

    def __call__(self, job: SceneJob) -> SceneResults:
        """Score all submissions on a scene.

        Raises:
            DataError: The scene or its predictions cannot be read.
        """
        scene = self.store.read(job.scene_id, for_training=True)
        score = self._score_labels if self.task == "semantic" else self._match
        return SceneResults(
            [score(submission, job.scene_id, scene.label, scene.instance) for submission in self.submissions],
            bool((scene.label >= 0).any()),
            bool(((scene.label >= 0) & (scene.instance > 0)).any()),
        )

    def _score_labels(
        self, submission: Submission, scene_id: str, labels: npt.NDArray[np.int16], instances: npt.NDArray[np.int32]
    ) -> SceneResult:
        del instances
        vocabulary = self.store.vocabulary
        predicted = submission.read_labels(scene_id, vocabulary, num_vertices=len(labels))
        confusion = ConfusionMatrix(len(vocabulary))
        confusion.update(labels, predicted)
        return SceneResult(confusion, None, int(((predicted < 0) & (labels >= 0)).sum()))

    def _match(
        self, submission: Submission, scene_id: str, labels: npt.NDArray[np.int16], instances: npt.NDArray[np.int32]
    ) -> SceneResult:
        vocabulary = self.store.vocabulary
        num_unknown = 0

        def known() -> Iterator[tuple[npt.NDArray[np.int64], int, float]]:
            nonlocal num_unknown
            for prediction in submission.iterate_masks(scene_id, vocabulary, num_vertices=len(labels)):
                if prediction[1] >= 0:
                    yield prediction
                else:
                    num_unknown += 1

        matches = match_masks(labels, instances, known(), scored=scored_classes(vocabulary))
        return SceneResult(None, matches, num_unknown)


class SceneChecker(_Opened):
    """Function that checks a submission on one scene; it can be copied to other processes."""

    def __init__(self, path: Path, vocabulary: Vocabulary, task: Task) -> None:
        super().__init__([path])
        self.vocabulary = vocabulary
        self.task = task

    def __call__(self, job: SceneJob) -> SceneCheck:
        """Check the files of a scene."""
        (submission,) = self.submissions
        return check_scene(submission, job.scene_id, job.num_vertices, self.vocabulary, task=self.task)
