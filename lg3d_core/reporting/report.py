"""The command `report`: read the runs, measure missing results, draw the figures, and write the page."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lg3d_core import __version__
from lg3d_core.errors import DataError, MissingDependencyError, SettingsError, ShapeError, UsageError
from lg3d_core.evaluation.scores import none_if_undefined
from lg3d_core.files import write_text
from lg3d_core.progress import Progress
from lg3d_core.reporting.confusions import Confusion, most_confused, plot_confusions
from lg3d_core.reporting.curves import plot_curves
from lg3d_core.reporting.differences import Difference, compare_runs, plot_differences
from lg3d_core.reporting.embedding import Cohesion, can_embed, embed, embedding_key, measure_cohesion, plot_embeddings
from lg3d_core.reporting.figure_kinds import CAPTIONS, FigureKind, Plot
from lg3d_core.reporting.frequency import Frequency, plot_categories, plot_frequency
from lg3d_core.reporting.measure import keep, measure_run
from lg3d_core.reporting.object_figures import draw_objects, plot_objects
from lg3d_core.reporting.page import PageContent, PageFigure, build_page
from lg3d_core.reporting.rooms import RoomRow, choose_scenes, draw_rooms, plot_rooms
from lg3d_core.reporting.runs import RunRecord, find_recorded, read_runs
from lg3d_core.reporting.style import drawing, write_figure
from lg3d_core.reporting.subject import ReportedRun
from lg3d_core.settings import ReportSettings
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.viewing.open3d_buffers import without_advice

PAGE_NAME = "report.html"


class Report(NamedTuple):
    """Result of a report.

    Attributes:
        page: HTML file.
        figures: Files of the figures.
        split: Split that was scored.
        store: Folder of the store.
        runs: Runs in the order of the command line.
        confusions: Most frequent confusions by the names of runs with scores.
        cohesion: Similarity of features and anchors by the names of runs with anchors.
        differences: Differences of the other runs from the first.
        notes: Remarks for the reader.
    """

    page: Path
    figures: tuple[Path, ...]
    split: str
    store: Path
    runs: tuple[ReportedRun, ...]
    confusions: dict[str, list[Confusion]]
    cohesion: dict[str, Cohesion]
    differences: list[Difference]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-serializable values, with None for undefined ones."""
        return {
            "page": str(self.page),
            "figures": [str(path) for path in self.figures],
            "split": self.split,
            "store": str(self.store),
            "notes": list(self.notes),
            "runs": [self._describe(run) for run in self.runs],
            "differences": [
                {
                    "run": difference.name,
                    "base": difference.base,
                    "better": difference.better,
                    "worse": difference.worse,
                    "iou": [none_if_undefined(value) for value in difference.iou.tolist()],
                }
                for difference in self.differences
            ],
        }

    def _describe(self, run: ReportedRun) -> dict[str, Any]:
        cohesion = self.cohesion.get(run.name)
        return {
            "name": run.name,
            "folder": str(run.record.folder),
            "kind": run.record.title,
            "evaluation": None if run.evaluation is None else run.evaluation.to_dict(),
            "confusions": [pair._asdict() for pair in self.confusions.get(run.name, [])],
            "anchors": None if cohesion is None else cohesion._asdict(),
        }


class _Notes(Progress):
    """Progress that forwards all messages, and collects the warnings for the page."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.notes: list[str] = []
        self.task = progress.task  # type: ignore[method-assign]
        self.note = progress.note  # type: ignore[method-assign]

    def warn(self, message: str) -> None:
        self.notes.append(message)
        self.progress.warn(message)


def report(settings: ReportSettings, progress: Progress) -> Report:
    """Write the report of one run, or of several runs side by side.

    Scores are computed with the last checkpoint of each run. They are cached in its folder as `report-<split>.npz` and
    reused while checkpoint, store, split, anchors and precision are the same.

    Raises:
        SettingsError: There is no run, or runs have different vocabularies or stores.
        CheckpointError: A folder is not a run, or a checkpoint cannot be used.
        DataError: The store is missing, the split has no scenes, or a file cannot be read or written.
        MissingDependencyError: matplotlib or scikit-learn is missing.
    """
    noted = _Notes(progress)
    with drawing():  # early, so that a missing matplotlib is reported before the long computation
        if not settings.run:
            raise UsageError("RUN is missing: pass the folder of a run, e.g. runs/finetune-20260101-120000")
        records = read_runs(settings.run, settings.runs, noted)
        store = open_store(records, settings, noted)
        scenes = choose_scenes(store, settings.split, settings.scene, settings.rooms)
        runs = []
        for record in records:
            run = ReportedRun(record, measure_run(record, store, scenes, settings, noted))
            runs.append(_with_map(run, settings, noted) if settings.points else run)
        return _write(tuple(runs), store, scenes, settings, noted)


def open_store(records: Sequence[RunRecord], settings: ReportSettings, progress: Progress) -> SceneStore:
    """Open the store to score on: that of the settings, or the one that all runs were trained on.

    Raises:
        SettingsError: The runs have different vocabularies, or different stores and the settings have none.
        DataError: The store is missing, or the split has no scenes.
    """
    vocabularies = {record.name: _digest(record, "vocabulary") for record in records}
    stores = {record.name: _digest(record, "store") for record in records}
    _require_one(vocabularies, "vocabularies", advice="report each run separately")
    if settings.store is None:
        _require_one(stores, "stores", advice="pass --store DIR to score all of them on one store")
    path = settings.store
    if path is None:
        recorded = str(records[0].settings.get("store", "data"))
        path = find_recorded(records[0].folder, recorded)
        if path is None:
            raise DataError(f"{records[0].folder} was trained on {recorded}, which is missing: pass --store DIR")
    preferred = next((digest for digest in vocabularies.values() if digest), "")
    store = SceneStore(path, settings.vocabulary, preferred=preferred)
    if not store.scene_ids(settings.split):
        raise DataError(f"no scenes to score in {path}: pass another --split")
    for name, digest in stores.items():
        if digest and digest != store.digest:
            progress.warn(
                f"{name} was trained on another version of the store ({digest}) than {path} ({store.digest}): it may "
                "have seen scenes that are scored here"
            )
    return store


def _require_one(digests: Mapping[str, str], what: str, *, advice: str) -> None:
    known = {name: digest for name, digest in digests.items() if digest}
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{name} {digest}" for name, digest in known.items())
        raise SettingsError(f"these runs were trained on different {what} ({listed}): {advice}")


def _digest(record: RunRecord, name: str) -> str:
    value = record.card.get(name)
    return str(value.get("digest", "")) if isinstance(value, dict) else ""


def _with_map(run: ReportedRun, settings: ReportSettings, progress: Progress) -> ReportedRun:
    """Return the run with a map of its features, saved for the next report."""
    if run.measurement is None or not can_embed(run.measurement):
        return run
    key = embedding_key(run.measurement, seed=settings.seed)
    if run.measurement.embedding_key == key:
        return run
    number = len(run.measurement.sample.label)
    with progress.task(f"map {run.name}", unit="feature") as task:  # t-SNE reports no progress
        place = embed(run.measurement, seed=settings.seed)
        task.advance(number)
    measurement = dataclasses.replace(run.measurement, embedding=place, embedding_key=key)
    keep(run.record, measurement, settings.split, progress)
    return ReportedRun(run.record, measurement)


def _write(
    runs: tuple[ReportedRun, ...], store: SceneStore, scenes: Sequence[str], settings: ReportSettings, progress: _Notes
) -> Report:
    out = settings.out or (runs[0].record.folder / "report" if len(runs) == 1 else Path("report"))
    frequency = Frequency(
        store.class_counts("train"), store.class_counts(settings.split), store.instance_counts("train", progress)
    )
    scored = [(run, run.evaluation, run.measurement) for run in runs if run.evaluation and run.measurement]
    differences = compare_runs(runs)
    figures: list[PageFigure] = []
    kinds = ("png", *(kind for kind in ("pdf", "svg") if getattr(settings, kind)))

    rooms = _draw_rooms(runs, store, scenes, progress)
    pictures = draw_objects(runs, store, scenes, progress)
    with progress.task("draw", total=5 + 2 * len(scored) + pictures.num_figures, unit="figure") as task:

        def add(plot: Plot) -> None:
            if plot.figure is not None:
                png = write_figure(plot.figure, out / plot.name, kinds)
                files = tuple(f"{plot.name}.{kind}" for kind in kinds)
                figures.append(PageFigure(plot.kind, plot.name, plot.title, CAPTIONS[plot.kind], png, files))
            task.advance(status=plot.name)

        add(Plot(FigureKind.CURVES, plot_curves(runs)))
        add(Plot(FigureKind.DIFFERENCES, plot_differences(runs, differences)))
        add(Plot(FigureKind.FREQUENCY, plot_frequency(runs, frequency)))
        for number, (run, evaluation, measurement) in enumerate(scored, start=1):
            shown = ("", 0) if len(scored) == 1 else (run.name, number)
            add(Plot(FigureKind.CATEGORIES, plot_categories(evaluation.vertex, frequency, run.name), *shown))
            confusion = plot_confusions(measurement.vertices, store.vocabulary, run.name)
            add(Plot(FigureKind.CONFUSION, confusion, *shown))
        add(Plot(FigureKind.FEATURES, plot_embeddings(runs, store.vocabulary)))
        add(Plot(FigureKind.ROOMS, plot_rooms(rooms)))
        for plot in plot_objects(pictures, frequency):
            add(plot)
    confusions = {run.name: most_confused(m.vertices, store.vocabulary) for run, _, m in scored}
    cohesion = {
        run.name: found
        for run in runs
        if run.measurement is not None and (found := measure_cohesion(run.measurement)) is not None
    }
    content = PageContent(
        runs=runs,
        split=settings.split,
        store=str(store.path),
        store_digest=store.digest,
        frequency=frequency,
        figures=figures,
        confusions=confusions,
        differences=differences,
        notes=progress.notes,
        version=__version__,
    )
    write_text(out / PAGE_NAME, build_page(content))
    return Report(
        page=out / PAGE_NAME,
        figures=tuple(out / file for figure in figures for file in figure.files),
        split=settings.split,
        store=store.path,
        runs=runs,
        confusions=confusions,
        cohesion=cohesion,
        differences=differences,
        notes=tuple(progress.notes),
    )


def _draw_rooms(
    runs: Sequence[ReportedRun], store: SceneStore, scenes: Sequence[str], progress: Progress
) -> list[RoomRow]:
    try:
        return draw_rooms(runs, store, scenes, progress)
    except (MissingDependencyError, ShapeError) as error:
        progress.warn(f"cannot draw rooms: {without_advice(error)}")
        return []
