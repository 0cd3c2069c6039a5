"""Figures of a report about predicted objects: only for runs whose network has an offset head."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lg3d_core.errors import MissingDependencyError, ShapeError
from lg3d_core.progress import Progress
from lg3d_core.reporting.figure_kinds import FigureKind, Plot
from lg3d_core.reporting.frequency import Frequency
from lg3d_core.reporting.objects import ObjectRow, draw_cases, draw_object_rooms, plot_cases, plot_object_rooms
from lg3d_core.reporting.precision import ScoredObjects, plot_precision_over_frequency, plot_precision_recall
from lg3d_core.reporting.subject import ReportedRun
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.viewing.open3d_buffers import without_advice


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
    except (MissingDependencyError, ShapeError) as error:
        progress.warn(f"cannot draw objects: {without_advice(error)}")
    return ObjectPictures(scored, rooms, cases)


def plot_objects(pictures: ObjectPictures, frequency: Frequency) -> Iterator[Plot]:
    """Yield the figures; none without objects."""
    if not pictures.runs:
        return
    yield Plot(FigureKind.PRECISION, plot_precision_over_frequency(pictures.runs, frequency))
    yield Plot(FigureKind.RECALL, plot_precision_recall(pictures.runs))
    yield Plot(FigureKind.OBJECTS, plot_object_rooms(pictures.rooms))
    if len(pictures.cases) == 1:
        yield Plot(FigureKind.TAIL, plot_cases(pictures.cases[0][1]))
        return
    for number, (name, rows) in enumerate(pictures.cases, start=1):
        yield Plot(FigureKind.TAIL, plot_cases(rows), name, number)
