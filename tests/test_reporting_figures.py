"""The report's figures: what is in them, counted by hand, and that odd content can be drawn."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lg3d_core.errors import DataError, SettingsError
from lg3d_core.evaluation.confusion import ConfusionMatrix, SceneCounts
from lg3d_core.evaluation.evaluate import Evaluation
from lg3d_core.evaluation.scores import score_confusion
from lg3d_core.language.anchors_file import METADATA_KEYS, Anchors
from lg3d_core.reporting.confusions import most_confused, plot_confusions
from lg3d_core.reporting.curves import plot_curves, smooth
from lg3d_core.reporting.differences import compare_runs, plot_differences
from lg3d_core.reporting.embedding import (
    anchor_rows,
    can_embed,
    embed,
    embedding_key,
    measure_cohesion,
    plot_embeddings,
)
from lg3d_core.reporting.frequency import Frequency, plot_categories, plot_frequency
from lg3d_core.reporting.measure import FeatureSample, Measurement, _Draw
from lg3d_core.reporting.objects import ObjectRow, plot_object_rooms
from lg3d_core.reporting.rooms import RoomRow, plot_rooms
from lg3d_core.reporting.runs import Curve, RunRecord
from lg3d_core.reporting.subject import ReportedRun
from lg3d_core.vocabulary import Vocabulary
from tests.fake_store import make_vocabulary

pytest.importorskip("matplotlib", reason="not installed here")
pytest.importorskip("sklearn", reason="not installed here")

from lg3d_core.reporting.anchors_map import cosines_of, plot_anchors, write_anchors_map
from lg3d_core.reporting.style import RUN_MARKS, drawing, encode_figure, run_mark, shorten, signed, write_figure

VOCABULARY = make_vocabulary("head", "head", "common", "tail")
COUNTS = np.array(
    [
        [80, 10, 10, 0, 0],  # a: 100 vertices, 10 taken for b and 10 for c
        [0, 50, 0, 0, 0],
        [15, 0, 5, 0, 0],  # c: 20 vertices, three quarters of them taken for a
        [0, 0, 0, 0, 0],  # d: never annotated
    ]
)
EMPTY = FeatureSample(np.zeros((0, 1), dtype=np.float32), np.zeros(0, dtype=np.int16))


def measured(
    counts: np.ndarray,
    vocabulary: Vocabulary = VOCABULARY,
    sample: FeatureSample = EMPTY,
    anchors: Anchors | None = None,
) -> Measurement:
    matrix = ConfusionMatrix(len(vocabulary))
    matrix.counts[:] = counts
    scores = score_confusion(matrix, vocabulary)
    scenes = SceneCounts(("s",), *matrix.class_counts()[:, None])
    evaluation = Evaluation(scores, scores, scenes, num_scenes=1, num_labelled_scenes=1, seconds=1.0, export=None)
    return Measurement("key", evaluation, matrix.counts, matrix.counts, sample, anchors)


def reported(name: str, measurement: Measurement | None, curves: dict[str, Curve] | None = None) -> ReportedRun:
    return ReportedRun(
        RunRecord(name, Path(name), "finetune", "", {"loss": "focal"}, {}, curves or {}, Path("x")), measurement
    )


def make_anchors(vectors: np.ndarray, names: tuple[str, ...]) -> Anchors:
    return Anchors(vectors.astype(np.float32), names, dict.fromkeys(METADATA_KEYS, "x"))


def words(figure: object) -> set[str]:
    """Every text in a figure."""
    from matplotlib.text import Text

    return {text.get_text() for text in figure.findobj(Text)}  # type: ignore[attr-defined]


def test_pairs_are_led_by_the_largest_share_of_a_category() -> None:
    pairs = most_confused(COUNTS, VOCABULARY)
    assert [tuple(pair) for pair in pairs] == [("c", "a", 15, 0.75), ("a", "b", 10, 0.1), ("a", "c", 10, 0.1)]
    assert most_confused(COUNTS, VOCABULARY, count=1) == pairs[:1]


def test_a_handful_of_vertices_does_not_top_the_list() -> None:
    counts = np.zeros((4, 5), dtype=np.int64)
    counts[0, 0], counts[0, 1], counts[1, 0] = 99_980, 15, 5  # 5 of 100,000 vertices are fewer than 0.05 %
    assert [pair.truth for pair in most_confused(counts, VOCABULARY)] == ["a"]


def test_the_matrix_of_confusions_has_rows_for_what_is_annotated_only() -> None:
    with drawing():
        figure = plot_confusions(COUNTS, VOCABULARY, "run")
        assert figure is not None
        assert {"75", "80", "25"} <= words(figure)
        image = figure.axes[0].images[0].get_array()
        assert plot_confusions(np.diag([1, 2, 3, 4]) @ np.eye(4, 5, dtype=np.int64), VOCABULARY, "right") is None
    # Rows a and c, most vertices first; columns a, c, b and other classes. In percent of each row.
    np.testing.assert_allclose(image, [[80, 10, 10, 0], [75, 25, 0, 0]])


def test_differences_are_of_annotated_categories_from_the_first_run() -> None:
    better = COUNTS.copy()
    better[2] = [5, 0, 15, 0, 0]  # c: 15 of 20 right; IoU 15 / (20 + 25 - 15) = 0.5 after 5 / (20 + 15 - 5) = 1 / 6
    runs = [reported("first", measured(COUNTS)), reported("nothing", None), reported("second", measured(better))]
    (found,) = compare_runs(runs)
    assert (found.name, found.base, found.number) == ("second", "first", 2)
    assert found.iou[2] == pytest.approx(0.5 - 1 / 6)
    assert found.iou[0] == pytest.approx(80 / 105 - 80 / 115)  # union: 100 + 85 - 80, and before 100 + 95 - 80
    assert np.isnan(found.iou[3])
    assert (found.better, found.worse) == (2, 0)
    with drawing():
        figure = plot_differences(runs, [found])
        assert figure is not None
        assert {"+33.3", "+6.6", "second: 2 better, 0 worse"} <= words(figure)
        assert plot_differences(runs[:1], []) is None
    assert signed(-1.25) == "−1.2"


def test_frequencies_are_drawn_with_the_mean_of_each_group() -> None:
    frequency = Frequency(np.array([1000, 100, 10, 0]), COUNTS.sum(axis=1), np.array([4, 20, 1, 0]))
    assert frequency.order.tolist() == [1, 0, 2]  # by objects, as in Figure 4
    runs = [reported("run", measured(COUNTS))]
    with drawing():
        figure = plot_frequency(runs, frequency)
        assert figure is not None
        assert {"head (2)", "common (1)", "a", "b"} <= words(figure)
        means = sorted(float(line.get_ydata()[0]) for line in figure.axes[0].lines)
        assert means == pytest.approx([100 / 6, 100 * (80 / 115 + 50 / 60) / 2])
        assert plot_frequency([reported("x", None)], frequency) is None
        encode_figure(figure, "png")
        assert {"10", "100", "1k"} <= words(figure)
        scores = runs[0].evaluation
        assert scores is not None
        figure = plot_categories(scores.vertex, frequency, "run")
        assert {"a", "b", "c", "training objects", "training vertices"} <= words(figure)
        objects, vertices = ({bar.get_x(): bar.get_height() for bar in axes.patches} for axes in figure.axes[:2])
        assert [height for _, height in sorted(objects.items())] == [20, 4, 1]
        assert [height for _, height in sorted(vertices.items())] == [100, 1000, 10]


def test_a_category_that_was_never_trained_on_stands_apart() -> None:
    with drawing():
        frequency = Frequency(np.zeros(4, int), COUNTS.sum(axis=1), np.zeros(4, int))
        figure = plot_frequency([reported("run", measured(COUNTS))], frequency)
        assert figure is not None
        assert "no training vertex" in words(figure)


def test_smoothing_is_the_mean_of_a_window_cut_at_the_ends() -> None:
    assert smooth(np.array([0.0, 3.0, 6.0])).tolist() == [1.5, 3.0, 4.5]


def test_curves_of_one_loss_share_a_panel_and_others_have_their_own() -> None:
    step = np.arange(1, 5)
    logged = {"loss": Curve(step, np.array([9.0, 3.0, 2.0, 1.0])), "lr": Curve(step, np.ones(4))}
    validated = logged | {"val_miou_present": Curve(step[-1:], np.array([0.123]))}
    plain = reported("b", None, logged)
    other = plain._replace(record=plain.record._replace(name="p", kind="pretrain", method="csc"))
    with drawing():
        figure = plot_curves([reported("a", None, validated), plain, other])
        assert figure is not None
        assert {"Loss: focal", "Loss: CSC", "Validation", "Learning rate", "12.3"} <= words(figure)
        assert plot_curves([reported("a", None)]) is None


def test_drawn_voxels_are_as_many_of_every_category_and_keep_their_features() -> None:
    import torch

    draw = _Draw(3, seed=0)
    for first, truth in ((0, [0] * 10 + [1] * 2), (100, [0] * 10 + [-1] * 5)):
        features = torch.arange(first, first + len(truth)).float()[:, None]
        draw.add(np.array(truth, dtype=np.int16), features)
    sample = draw.sample()
    assert sample.label.tolist() == [0, 0, 0, 1, 1]
    values = sample.features[:, 0].astype(int)
    assert set(values[:3]) <= {*range(10), *range(100, 110)}
    assert sorted(values[3:]) == [10, 11]


def sample_about(anchors: np.ndarray) -> FeatureSample:
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(len(anchors)), 12).astype(np.int16)
    return FeatureSample((5 * anchors[label] + 0.1 * rng.normal(size=(len(label), 4))).astype(np.float32), label)


def test_the_map_has_the_anchors_in_it_and_keeps_categories_together() -> None:
    anchors = make_anchors(np.eye(4), VOCABULARY.names)
    measurement = measured(COUNTS, sample=sample_about(np.eye(4)), anchors=anchors)
    place = embed(measurement, seed=0)
    assert place.shape == (48 + 4, 2)
    assert anchor_rows(measurement).tolist() == [0, 1, 2, 3]
    own = measurement.sample.label
    centre = np.stack([place[:48][own == k].mean(axis=0) for k in range(4)])
    nearest = np.argmin(np.linalg.norm(place[:48, None] - centre, axis=2), axis=1)
    assert (nearest == own).all()
    found = measure_cohesion(measurement)
    assert found is not None
    assert found.own > 0.99
    assert abs(found.other) < 0.05
    assert found.nearest == 1
    shown = Measurement(
        **{**measurement.__dict__, "embedding": place, "embedding_key": embedding_key(measurement, seed=0)}
    )
    with drawing():
        figure = plot_embeddings([reported("run", shown)], VOCABULARY)
        assert figure is not None
        assert {"a", "d", "text anchors"} <= words(figure)
        assert plot_embeddings([reported("run", measured(COUNTS))], VOCABULARY) is None
    assert measure_cohesion(measured(COUNTS)) is None


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (np.eye(40)[:, :8] + 1, True),
        (np.zeros((40, 8)), False),  # as of a network whose last layer is dead
        (np.outer(np.arange(1, 41), np.ones(8)), False),  # one direction
        (np.full((40, 8), np.nan), False),
        (np.arange(40.0)[:, None], False),
        (np.eye(19), False),
    ],
)
def test_a_map_needs_features_of_different_directions(features: np.ndarray, expected: bool) -> None:
    sample = FeatureSample(features.astype(np.float32), np.zeros(len(features), dtype=np.int16))
    assert can_embed(measured(COUNTS, sample=sample)) == expected


def test_a_store_without_objects_has_a_figure_of_its_classes() -> None:
    scores = measured(COUNTS).evaluation
    assert scores is not None
    frequency = Frequency(np.array([1000, 100, 10, 0]), COUNTS.sum(axis=1), np.zeros(4, int))
    with drawing():
        figure = plot_categories(scores.vertex, frequency, "run")
        assert [axes.get_yscale() for axes in figure.axes] == ["linear", "log", "linear"]
        assert encode_figure(figure, "png").startswith(b"\x89PNG")


def test_no_two_of_many_runs_look_alike() -> None:
    marks = [run_mark(number) for number in range(40)]
    assert tuple(marks[: len(RUN_MARKS)]) == RUN_MARKS
    assert len({(mark.color, mark.marker) for mark in marks}) == 40
    assert all(one.color != other.color for one, other in pairwise(marks))


def test_names_that_look_like_formulas_or_have_no_letters_are_drawn(tmp_path: Path) -> None:
    names = ("$\\frac{", "椅子 🪑", "<b>&</b>", "x" * 60)
    anchors = make_anchors(np.eye(4) + 0.1, names)
    path = write_anchors_map(anchors, tmp_path / "$map.png", vocabulary="scannet200")
    assert path.read_bytes()[:4] == b"\x89PNG"
    with drawing():
        assert {"$\\frac{", shorten("x" * 60, 24)} <= words(plot_anchors(anchors, ("",) * 4, order="likeness"))


@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_figures_are_written_in_every_form_and_the_same_each_time(kind: str, start: bytes, tmp_path: Path) -> None:
    with drawing():
        first = plot_confusions(COUNTS, VOCABULARY, "run")
        assert first is not None
        data = write_figure(first, tmp_path / "a.b", [kind])
        again = plot_confusions(COUNTS, VOCABULARY, "run")
        assert again is not None
        assert encode_figure(again, kind) == data
    assert (tmp_path / f"a.b.{kind}").read_bytes() == data
    assert data.startswith(start)


def test_the_map_of_anchors_puts_the_like_beside_the_like() -> None:
    vectors = np.array([[1, 0, 0], [0, 1, 0], [1, 0.1, 0], [0, 1, 0.1]], dtype=float)
    anchors = make_anchors(vectors, VOCABULARY.names)
    np.testing.assert_allclose(np.diag(cosines_of(anchors)), 1)
    with drawing():
        figure = plot_anchors(anchors, ("head", "tail", "head", "tail"), order="likeness")
        shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert {frozenset(shown[:2]), frozenset(shown[2:])} == {frozenset("ac"), frozenset("bd")}
        assert {"head", "tail"} <= words(figure)
        grouped = plot_anchors(anchors, ("tail", "head", "tail", "head"), order="groups")
        assert [label.get_text() for label in grouped.axes[0].get_yticklabels()] == ["b", "d", "a", "c"]


def test_a_map_has_the_groups_of_a_vocabulary_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text("id\tname\tgroup\n1\tlamp\trare\n2\tchair\tfrequent\n")
    anchors = make_anchors(np.eye(2), ("lamp", "chair"))
    written = write_anchors_map(anchors, tmp_path / "map.svg", vocabulary=str(path), order="groups")
    assert all(group in written.read_text() for group in ("rare", "frequent"))
    with pytest.raises(DataError, match="no vocabulary 'none'"):
        write_anchors_map(anchors, tmp_path / "map.svg", vocabulary="none")


def test_a_map_that_cannot_be_is_refused(tmp_path: Path) -> None:
    anchors = make_anchors(np.eye(4), VOCABULARY.names)
    with pytest.raises(SettingsError, match="has no groups"):
        write_anchors_map(anchors, tmp_path / "map.png", vocabulary="scannet200", order="groups")
    with pytest.raises(DataError, match="at least 2 anchors, got 1"):
        write_anchors_map(make_anchors(np.eye(1), ("a",)), tmp_path / "map.png", vocabulary="scannet200")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("marks_errors", "explained"), [(False, []), (True, ["right", "wrong"])])
def test_the_legend_of_rooms_explains_errors_where_a_column_marks_them(
    marks_errors: bool, explained: list[str]
) -> None:
    picture = np.zeros((3, 4, 3), dtype=np.uint8)
    run = ("Errors", "mIoU 50.0", picture)  # the run's name does not decide
    figure = plot_rooms([RoomRow("scene", (run,), marks_errors, (((1, 2, 3), "chair"),))])
    assert figure is not None
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["chair", "unannotated", *explained]


def test_only_the_first_picture_of_a_room_with_objects_has_the_rooms_name() -> None:
    picture = np.zeros((3, 4, 3), dtype=np.uint8)
    figure = plot_object_rooms([ObjectRow("scene", (("colours", picture), ("colours", picture)))])
    assert figure is not None
    assert [axis.get_title().splitlines()[0].strip() for axis in figure.axes] == ["scene", ""]
