"""Figures of predicted objects in a report, and the objects that they show."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lg3d_core.evaluation.instances import (
    PredictedInstances,
    SceneMatches,
    match_scene,
    score_instances,
    scored_classes,
)
from lg3d_core.evaluation.predictor import Prediction, Predictor, VoxelLabels
from lg3d_core.networks.checkpoint import read_info, save_checkpoint
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.progress import Progress
from lg3d_core.reporting.frequency import Frequency
from lg3d_core.reporting.measure import _pack_rows, _unpack_rows
from lg3d_core.reporting.objects import (
    ObjectCase,
    choose_cases,
    cut_scene,
    find_cases,
    match_colors,
    number_objects,
)
from lg3d_core.settings import ReportSettings
from lg3d_core.store.scene_file import Scene
from lg3d_core.vocabulary import load_vocabulary
from tests.test_reporting_runs import write_run

pytest.importorskip("matplotlib", reason="not installed here")
pytest.importorskip("sklearn", reason="not installed here")

from lg3d_core.reporting.object_tables import class_precision_table, precision_table
from lg3d_core.reporting.precision import (
    RECALLS,
    ScoredObjects,
    mean_curves,
    plot_precision_over_frequency,
    plot_precision_recall,
)
from lg3d_core.reporting.report import Report
from lg3d_core.reporting.report import report as report_runs
from lg3d_core.reporting.style import drawing

VOCABULARY = load_vocabulary("scannet200")
WALL, CHAIR, TABLE = (VOCABULARY.index_by_name[name] for name in ("wall", "chair", "table"))
TAIL, RARE = VOCABULARY.groups["tail"][:2].tolist()


def scene_of(*blocks: tuple[int, int, int]) -> Scene:
    """A scene of consecutive blocks of vertices: class, instance and number."""
    labels = np.concatenate([np.full(size, label) for label, _, size in blocks]).astype(np.int16)
    instances = np.concatenate([np.full(size, instance) for _, instance, size in blocks]).astype(np.int32)
    xyz = np.arange(3 * len(labels), dtype=np.float32).reshape(-1, 3)
    empty = np.zeros((0, 3), dtype=np.int32)
    return Scene("s", "val", xyz, xyz.astype(np.uint8), xyz, labels, instances, instances, empty)


def predictions(*ranges: tuple[int, int, int, float]) -> PredictedInstances:
    rows = [np.arange(start, stop) for _, start, stop, _ in ranges]
    return PredictedInstances.from_rows(rows, [class_ for class_, *_ in ranges], [s for *_, s in ranges])


def test_a_case_is_a_large_tail_object_with_its_best_prediction() -> None:
    scene = scene_of((TAIL, 1, 200), (RARE, 2, 100), (CHAIR, 3, 200), (TAIL, 4, 99), (-1, 5, 100))
    predicted = predictions((TAIL, 0, 150, 0.5), (TAIL, 0, 100, 0.9), (CHAIR, 0, 200, 0.9), (CHAIR, 250, 300, 0.7))
    first, second = sorted(find_cases(scene, predicted, VOCABULARY), key=lambda case: case.instance)
    assert (first.instance, first.class_, first.iou, first.predicted, first.confidence) == (1, TAIL, 0.75, TAIL, 0.5)
    assert first.rows.tolist() == list(range(150))
    # nothing of its own class: the best of any class is shown, and the IoU is 0
    assert (second.instance, second.class_, second.iou, second.predicted, second.confidence) == (2, RARE, 0, CHAIR, 0.7)
    (alone,) = find_cases(scene_of((TAIL, 1, 200)), predictions(), VOCABULARY)
    assert (alone.iou, alone.predicted, len(alone.rows)) == (0, -1, 0)
    assert find_cases(scene_of((CHAIR, 1, 200)), predictions(), VOCABULARY) == []


def test_without_frequency_groups_every_class_is_shown() -> None:
    vocabulary = load_vocabulary("scannet20")
    assert not vocabulary.groups
    chair = vocabulary.index_by_name["chair"]
    assert [one.class_ for one in find_cases(scene_of((chair, 1, 200)), predictions(), vocabulary)] == [chair]


def case(iou: float, class_: int = TAIL, size: int = 1, instance: int = 1) -> ObjectCase:
    return ObjectCase("s", instance, class_, iou, class_, 0.5, np.arange(size, dtype=np.int32))


def test_the_best_and_the_worst_are_of_different_classes_where_possible() -> None:
    chosen = choose_cases([case(0.9), case(0.8), case(0.7, RARE), case(0.2), case(0.1, RARE), case(0.0)], number=2)
    assert [one.iou for one in chosen] == [0.9, 0.7, 0.0, 0.1]
    assert [one.iou for one in choose_cases([case(0.5)])] == [0.5]
    assert [one.iou for one in choose_cases([case(0.5), case(0.6), case(0.4)])] == [0.6, 0.5, 0.4]
    assert [len(one.rows) for one in choose_cases([case(0), case(0, size=3), case(0, size=2)])] == [3, 2, 1]
    assert choose_cases([]) == []


def test_a_vertex_belongs_to_its_most_confident_object_and_has_its_color() -> None:
    overlapping = predictions((CHAIR, 0, 4, 0.5), (TABLE, 2, 6, 0.9))
    number = number_objects(overlapping, np.array([CHAIR, CHAIR, TABLE, TABLE, TABLE, TABLE, TABLE, TABLE]))
    assert number.tolist() == [1, 1, 2, 2, 2, 2, 0, 0]
    assert number_objects(overlapping, np.full(8, CHAIR)).tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    twice = predictions((CHAIR, 0, 4, 0.5), (CHAIR, 2, 6, 0.9))
    assert number_objects(twice, np.full(8, CHAIR)).tolist() == [1, 1, 2, 2, 2, 2, 0, 0]
    annotated = np.array([7, 7, 0, 0, 0, 0, 3, 3])
    assert match_colors(number, annotated).tolist() == [7, 7, 10, 10, 10, 10, 0, 0]


def test_a_cut_scene_keeps_the_faces_between_its_vertices() -> None:
    scene = scene_of((CHAIR, 1, 5))._replace(faces=np.array([[0, 1, 2], [2, 3, 4], [1, 2, 3]], dtype=np.int32))
    part = cut_scene(scene, np.array([False, True, True, True, False]))
    assert part.faces.tolist() == [[0, 1, 2]]
    assert part.xyz.tolist() == scene.xyz[1:4].tolist()


def matches_of(scene: Scene, predicted: PredictedInstances) -> SceneMatches:
    return match_scene(scene.label, scene.instance, predicted, scored=scored_classes(VOCABULARY))


SCENE = scene_of((CHAIR, 1, 200), (CHAIR, 2, 200), (TAIL, 3, 200), (TABLE, 4, 200))
PREDICTED = predictions((CHAIR, 0, 200, 0.9), (CHAIR, 600, 800, 0.8), (CHAIR, 200, 400, 0.7), (TAIL, 0, 200, 0.5))


def test_precision_is_the_highest_at_this_or_a_higher_recall() -> None:
    curves = mean_curves([matches_of(SCENE, PREDICTED)], VOCABULARY, overlap=0.5)
    # chair: right, wrong, right of two objects: precision 1 up to recall 1/2, then 2/3; the table has no prediction
    chair = np.where(RECALLS <= 0.5, 1, 2 / 3)
    assert curves["tail"].tolist() == [0.0] * 101  # its only prediction is wrong
    np.testing.assert_allclose(curves["head"], chair / 2)
    np.testing.assert_allclose(curves["all"], chair / 3)
    assert "common" not in curves


def test_figures_of_precision_have_a_panel_per_run() -> None:
    matches = [matches_of(SCENE, PREDICTED)]
    runs = [ScoredObjects(name, score_instances(matches, VOCABULARY), matches) for name in ("one", "two", "three")]
    zeros = np.zeros(200, dtype=np.int64)
    instances = zeros.copy()
    instances[[CHAIR, TABLE]] = (100, 1000)
    with drawing():
        assert plot_precision_over_frequency([], Frequency(zeros, zeros, instances)) is None
        assert plot_precision_recall([]) is None
        figure = plot_precision_over_frequency(runs, Frequency(zeros, zeros, instances))
        assert figure is not None
        titles = [axes.get_title(loc="left") for axes in figure.axes]
        assert titles[:3] == ["one", "two", "three"]
        figure = plot_precision_recall(runs)
        assert figure is not None
        assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["one, IoU 0.50", "one, IoU 0.25"]


def test_tables_list_the_groups_and_the_classes_with_objects_or_predictions() -> None:
    matches = [matches_of(SCENE, PREDICTED)]
    scores = score_instances(matches, VOCABULARY)
    evaluation = SimpleNamespace(instances=scores)
    runs = [SimpleNamespace(name=name, evaluation=evaluation) for name in ("one", "two")]
    nothing = [SimpleNamespace(name="none", evaluation=None), SimpleNamespace(name="x", evaluation=None)]
    zeros = np.zeros(200, dtype=np.int64)
    instances = zeros.copy()
    instances[CHAIR] = 1234
    frequency = Frequency(zeros, zeros, instances)
    assert precision_table(nothing) is None
    assert class_precision_table(nothing, frequency) is None
    table = precision_table(runs)
    assert table is not None
    assert [row[0] for row in table.rows] == [
        f"{run}: {name}" for run in ("one", "two") for name in ("AP", "AP50", "AP25")
    ]
    table = class_precision_table(runs, frequency)
    assert table is not None
    assert table.header == ["Class", "Group", "Training objects", "Objects here", "AP50 one", "AP50 two"]
    chair = f"{100 * scores.ap50[CHAIR]:.2f}"
    name, group, cells = table.rows[0]
    assert (name, group, [cell.text for cell in cells]) == ("chair", "head", ["1,234", "2", chair, chair])
    assert [float(cell.order) for cell in cells] == pytest.approx([1234, 2, *[scores.ap50[CHAIR]] * 2], abs=1e-6)
    assert [row[0] for row in table.rows] == ["chair", "table", VOCABULARY.names[TAIL]]


def test_rows_of_arrays_and_scalars_are_packed_and_read_back() -> None:
    cases = [case(0.25, size=3), case(1.0, RARE, size=0)]
    found = [ObjectCase.of(row) for row in _unpack_rows("c", ObjectCase._fields, _pack_rows("c", cases))]
    for before, after in zip(cases, found, strict=True):
        assert before[:-1] == after[:-1]
        assert before.rows.tolist() == after.rows.tolist()


@pytest.fixture
def predicts_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the classes of voxels by the annotated ones, with some errors, and offsets by zeros."""
    predict = Predictor.predict

    def predict_truth(self: Predictor, scene: Scene, **options: object) -> Prediction:
        found = predict(self, scene, **options)
        assert found.voxels is not None
        rng = np.random.default_rng(0)
        label = np.where(rng.random(len(found.voxel_truth)) < 0.1, CHAIR, found.voxel_truth).astype(np.int16)
        labels = VoxelLabels(label, rng.random(len(label)).astype(np.float32), np.zeros((len(label), 3), np.float32))
        voxels = found.voxels._replace(labels=labels)
        return found._replace(label=label[voxels.point_to_voxel], voxel_label=label, voxels=voxels)

    monkeypatch.setattr(Predictor, "predict", predict_truth)


def write_instance_run(folder: Path, store_path: Path) -> Path:
    path = write_run(folder, store_path) / "checkpoint.safetensors"
    info = replace(read_info(path), offset_head=True, voxel_size=0.05)
    save_checkpoint(path, MinkUNet("14A", num_classes=200, offset_head=True), info)
    return folder


def report(run: Path, store_path: Path) -> Report:
    settings = ReportSettings(run=(run,), store=store_path, rooms=1, points=0, device="cpu")
    return report_runs(settings, Progress())


@pytest.mark.usefixtures("predicts_truth")
def test_a_run_with_an_offset_head_has_figures_of_objects_and_keeps_them(
    furnished_store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("open3d", reason="not installed here")
    run = write_instance_run(tmp_path / "run", furnished_store_path)
    first = report(run, furnished_store_path)
    names = {path.name for path in first.figures}
    assert {"precision.png", "recall.png", "objects.png", "tail.png"} <= names
    means = json.loads(json.dumps(first.to_dict()))["runs"][0]["evaluation"]["instances"]["means"]["all"]
    assert 0 < means["ap"] < means["ap25"]
    text = first.page.read_text()
    titles = ("AP of objects", "AP and frequency", "Precision and recall of objects", "Objects", "AP50 by class")
    for title in (*titles, "Best and worst objects of rare classes"):
        assert f"<h2>{title}</h2>" in text
    assert f"<td>{100 * means['ap50']:.2f}</td>" in text
    page = first.page.read_bytes()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("lg3d_core.reporting.measure.evaluate_scenes", refuse)
    assert report(run, furnished_store_path).page.read_bytes() == page


def test_a_run_without_an_offset_head_has_no_figures_of_objects(store_path: Path, tmp_path: Path) -> None:
    written = report_runs(
        ReportSettings(run=(write_run(tmp_path / "run", store_path),), store=store_path, rooms=0, points=0), Progress()
    )
    assert not {"precision.png", "recall.png", "objects.png", "tail.png"} & {path.name for path in written.figures}
    text = written.page.read_text()
    assert "objects of the tail" not in text
    assert "AP50" not in text
