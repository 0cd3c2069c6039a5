"""Figures of a report about predicted objects: only for runs whose network has an offset head."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lg3d_core.errors import MissingDependencyError
from lg3d_core.progress import Progress
from lg3d_core.reporting.frequency import Frequency
from lg3d_core.reporting.objects import ObjectRow, draw_cases, draw_object_rooms, plot_cases, plot_object_rooms
from lg3d_core.reporting.precision import ScoredObjects, plot_precision_over_frequency, plot_precision_recall
from lg3d_core.reporting.subject import ReportedRun
from lg3d_core.store.scene_store import SceneStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OBJECT_CAPTIONS = {
    "precision": "AP50 of every class over its annotated objects in the training scenes. Lines: means of head, common "
    "and tail.",
    "recall": "Mean over the classes of each group that have objects. The precision at a recall is the highest one at "
    "this or a higher recall.",
    "tail": "Annotated objects of tail classes with the highest IoU (left) and the lowest (right), with the prediction "
    "of the same class that fits best, or else of any class, and its confidence.",
    "objects": "Annotated and predicted objects (the paper's Figure 8). A predicted object has the colour of the "
    "annotated one with which it shares most vertices.",
}


class ObjectPictures(NamedTuple):
    """Objects of the runs that predict them, with their pictures.

    Attributes:
        runs: Scored objects of each run.
        rooms: Pictures of rooms with the objects of all runs.
        cases: Run name and pictures of its best and worst objects.
    """

    runs: list[ScoredObjects]
    rooms: list[ObjectRow]
    cases: list[tuple[str, list[ObjectRow]]]

    @property
    def num_figures(self) -> int:
        """Number of figures of `plot_objects`."""
        return 3 + len(self.cases) if self.runs else 0


def draw_objects(
    runs: Sequence[ReportedRun], store: SceneStore, scenes: Sequence[str], progress: Progress
) -> ObjectPictures:
    """Draw the pictures. Without open3d or OpenGL there are none, with a warning.

    Raises:
        DataError: A scene cannot be read.
    """
    scored: list[ScoredObjects] = []
    cases: list[tuple[str, list[ObjectRow]]] = []
    rooms: list[ObjectRow] = []
    own = [(run.name, m, m.evaluation) for run in runs if (m := run.measurement) is not None and m.evaluation]
    for name, _, evaluation in own:
        if evaluation.instances is not None and evaluation.matches is not None:
            scored.append(ScoredObjects(name, evaluation.instances, evaluation.matches))
    if not scored:
        return ObjectPictures([], [], [])
    try:
        for name, measurement, _ in own:
            if measurement.cases:
                cases.append((name, draw_cases(measurement.cases, store, progress)))
        shown = {
            scene: [
                (name, found.objects)
                for name, measurement, _ in own
                if (found := measurement.predictions.get(scene)) is not None and found.objects is not None
            ]
            for scene in scenes
        }
        rooms = draw_object_rooms({scene: found for scene, found in shown.items() if found}, store, progress)
    except MissingDependencyError as error:
        progress.warn(f"cannot draw objects: {error}")
    return ObjectPictures(scored, rooms, cases)


def plot_objects(pictures: ObjectPictures, frequency: Frequency) -> "Iterator[tuple[str, str, Figure | None]]":
    """Yield name, title and figure; none without objects."""
    if not pictures.runs:
        return
    yield "precision", "AP and frequency", plot_precision_over_frequency(pictures.runs, frequency)
    yield "recall", "Precision and recall of objects", plot_precision_recall(pictures.runs)
    yield "objects", "Objects", plot_object_rooms(pictures.rooms)
    for number, (name, rows) in enumerate(pictures.cases, start=1):
        end, title = ("", "") if len(pictures.cases) == 1 else (f"-{number}", f": {name}")
        yield f"tail{end}", f"Best and worst objects of the tail{title}", plot_cases(rows)
