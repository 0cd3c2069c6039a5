"""Layers and legends against counts made by hand."""

import numpy as np
import pytest

from lg3d_core.errors import ShapeError
from lg3d_core.evaluation.predictor import Prediction
from lg3d_core.inference.heat_colors import HEAT_STOPS
from lg3d_core.store.scene_file import Scene
from lg3d_core.viewing.layers import ERROR_COLORS, NEUTRAL, RIGHT, WRONG, build_view
from tests.viewing_rooms import COLORS, VOCABULARY, make_room, predict

TRUTH = [0, 0, 0, 0, 1, 1, 3, -1, -1, -1]
GUESS = [0, 0, 0, 1, 1, 1, 4, 0, 4, 3]


def make_scene(label: list[int]) -> Scene:
    count = len(label)
    return Scene(
        scene_id="scene0000_00",
        split="val",
        xyz=np.arange(3 * count, dtype=np.float32).reshape(count, 3),
        rgb=np.full((count, 3), 100, dtype=np.uint8),
        normal=np.zeros((count, 3), dtype=np.float32),
        label=np.array(label, dtype=np.int16),
        instance=np.arange(count, dtype=np.int32),
        segment=np.zeros(count, dtype=np.int32),
        faces=np.zeros((0, 3), dtype=np.int32),
    )


def make_prediction(label: list[int]) -> Prediction:
    array = np.array(label, dtype=np.int16)
    return Prediction(array, np.linspace(0, 1, len(label), dtype=np.float32), array, array)


def test_the_legend_counts_shares_and_iou_over_annotated_vertices() -> None:
    view = build_view(make_scene(TRUTH), VOCABULARY, make_prediction(GUESS))
    rows = {entry.name: (entry.share, entry.predicted_share, entry.iou) for entry in view.legend}
    assert rows == {
        "wall": (0.4, 0.4, 3 / 4),  # 3 right of the union of 4 annotated and 3 guessed among the annotated
        "floor": (0.2, 0.3, 2 / 3),
        "table": (0.1, 0.1, 0.0),  # its one guess lies where nothing is annotated
        "door": (0.0, 0.2, 0.0),
    }
    assert [entry.name for entry in view.legend] == ["wall", "floor", "table", "door"]
    assert view.scores is not None
    assert view.scores.accuracy == pytest.approx(5 / 7)
    assert view.scores.miou == pytest.approx((3 / 4 + 2 / 3 + 0) / 3)  # of the three annotated categories
    assert view.scores.num_categories == 3
    assert view.error_shares == pytest.approx({"right": 0.5, "wrong": 0.2, "unannotated": 0.3})


def test_layers_show_display_colours_and_the_three_outcomes() -> None:
    view = build_view(make_scene(TRUTH), VOCABULARY, make_prediction(GUESS))
    assert list(view.layers) == ["colours", "truth", "prediction", "errors", "confidence", "instances"]
    assert view.layers["truth"].tolist() == [list(COLORS[k]) if k >= 0 else list(NEUTRAL) for k in TRUTH]
    assert view.layers["prediction"].tolist() == [list(COLORS[k]) for k in GUESS]
    outcome = [RIGHT] * 3 + [WRONG] + [RIGHT] * 2 + [WRONG] + [NEUTRAL] * 3
    assert view.layers["errors"].tolist() == [list(color) for color in outcome]
    assert (view.layers["colours"] == 100).all()


def test_heat_of_a_text_is_a_layer_titled_by_it() -> None:
    warm = np.linspace(0, 1, 10, dtype=np.float64)
    view = build_view(make_scene(TRUTH), VOCABULARY, heat={"somewhere to sit": warm, "light": 1 - warm})
    assert list(view.layers) == ["colours", "truth", "instances", "heat-1", "heat-2"]
    assert (view.title("heat-1"), view.title("truth")) == ("“somewhere to sit”", "Ground truth")
    assert view.layers["heat-1"][0].tolist() == list(HEAT_STOPS[0])
    assert view.layers["heat-1"][-1].tolist() == list(HEAT_STOPS[-1])
    assert (view.layers["heat-2"] == view.layers["heat-1"][::-1]).all()
    assert view.heat_texts == {"heat-1": "somewhere to sit", "heat-2": "light"}
    assert {"“somewhere to sit” 1.00", "“light” 0.00"} <= set(view.describe(9))
    assert view.key("heat-1").ramp == HEAT_STOPS
    assert view.is_smooth("heat-2")
    lightness = view.layers["heat-1"].astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) < -3).all()  # the hotter the darker: it prints in grey


@pytest.mark.parametrize(
    ("heat", "message"),
    [
        (np.zeros(9), r"the heat of 'sofa' has shape \(9,\), expected \(10,\)"),
        (np.full(10, 1.5), "reaches from 1.5 to 1.5, expected 0 to 1"),
        (np.full(10, np.nan), "expected 0 to 1"),
    ],
)
def test_heat_that_does_not_fit_is_refused(heat: np.ndarray, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        build_view(make_scene(TRUTH), VOCABULARY, heat={"sofa": heat})


def test_layer_keys_describe_the_colours() -> None:
    view = build_view(make_scene(TRUTH), VOCABULARY, make_prediction(GUESS))
    shares = {name: share for _, name, share in view.key("errors").swatches}
    assert shares == pytest.approx({"right": 0.5, "wrong": 0.2, "unannotated": 0.3})
    assert (view.key("confidence").low, view.key("confidence").high) == ("unsure 0", "1 sure")
    assert view.key("truth") == ((), (), "", "")


def test_without_annotation_shares_are_the_predictions() -> None:
    view = build_view(make_scene([-1] * 10), VOCABULARY, make_prediction(GUESS))
    assert list(view.layers) == ["colours", "prediction", "confidence", "instances"]
    assert [(entry.name, entry.share, entry.iou) for entry in view.legend][:2] == [
        ("wall", 0.4, None),
        ("floor", 0.3, None),
    ]
    assert view.scores is None
    assert view.error_shares == {}


def test_without_prediction_there_is_truth_alone() -> None:
    view = build_view(make_scene(TRUTH), VOCABULARY)
    assert list(view.layers) == ["colours", "truth", "instances"]
    assert [(entry.name, entry.share, entry.predicted_share, entry.iou) for entry in view.legend] == [
        ("wall", 0.4, None, None),
        ("floor", 0.2, None, None),
        ("table", 0.1, None, None),
    ]
    assert view.scores is None


def test_what_nobody_annotated_or_predicted_shows_colours_alone() -> None:
    scene = make_scene([-1, -1])._replace(instance=np.zeros(2, dtype=np.int32))
    view = build_view(scene, VOCABULARY)
    assert list(view.layers) == ["colours"]
    assert view.legend == ()


def test_a_prediction_of_nothing_is_wrong_where_something_is_annotated() -> None:
    view = build_view(make_scene([0, -1]), VOCABULARY, make_prediction([-1, -1]))
    assert view.layers["errors"].tolist() == [list(WRONG), list(NEUTRAL)]
    assert view.legend[0].iou == 0.0


def simulate_dichromat(color: tuple[int, int, int], kind: str) -> np.ndarray:
    """Linear red, green and blue as a person without red or green cones sees them (Vienot, Brettel, Mollon 1999)."""
    linear = (np.array(color) / 255) ** 2.2
    lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    reduced = {
        "protan": np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),
        "deutan": np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]),
        "typical": np.eye(3),
    }[kind]
    return np.linalg.inv(lms) @ reduced @ lms @ linear


@pytest.mark.parametrize("kind", ["typical", "protan", "deutan"])
def test_wrong_stands_out_by_lightness_to_every_eye(kind: str) -> None:
    def luminance(name: str) -> float:
        return float(np.array([0.2126, 0.7152, 0.0722]) @ simulate_dichromat(ERROR_COLORS[name], kind))

    for other in ("right", "unannotated"):
        # 2:1 is a clear step between large areas; WCAG asks 3:1 of graphics against their surroundings.
        assert (luminance(other) + 0.05) / (luminance("wrong") + 0.05) > 2


def test_more_confidence_is_lighter() -> None:
    view = build_view(make_scene(TRUTH), VOCABULARY, make_prediction(GUESS))
    lightness = view.layers["confidence"].astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 5).all()


def test_neighbouring_instances_differ_and_no_instance_is_neutral() -> None:
    colors = build_view(make_scene([0] * 60), VOCABULARY).layers["instances"].astype(int)
    assert colors[0].tolist() == list(NEUTRAL)
    apart = np.abs(colors[1:, None] - colors[None, 1:]).sum(axis=2)
    for step in (1, 2, 3):
        assert np.diagonal(apart, step).min() > 40


def test_spacing_is_the_distance_of_neighbours() -> None:
    room = make_room(spacing=0.1)
    assert build_view(room, VOCABULARY).spacing == pytest.approx(0.1, rel=0.1)
    cloud = room._replace(faces=np.zeros((0, 3), dtype=np.int32))
    assert 0.05 < build_view(cloud, VOCABULARY).spacing <= 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"xyz": np.zeros((0, 3), dtype=np.float32)}, "has no vertices"),
        ({"xyz": np.full((10, 3), np.nan, dtype=np.float32)}, "not finite"),
        ({"faces": np.array([[0, 1, 10]], dtype=np.int32)}, "faces that refer to vertices beyond 10"),
        ({"faces": np.array([[0, 1, -1]], dtype=np.int32)}, "faces that refer to vertices beyond 10"),
        ({"label": np.full(10, 6, dtype=np.int16)}, r"expected -1\.\.5 of six"),
        ({"label": np.full(10, -2, dtype=np.int16)}, r"expected -1\.\.5 of six"),
    ],
)
def test_a_scene_that_cannot_be_shown_is_refused(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        build_view(make_scene(TRUTH)._replace(**change), VOCABULARY)


def test_a_prediction_of_another_scene_is_refused() -> None:
    with pytest.raises(ShapeError, match="has 10 vertices but the prediction 9"):
        build_view(make_scene(TRUTH), VOCABULARY, make_prediction(GUESS[:9]))


def test_a_prediction_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(ShapeError, match="another vocabulary"):
        build_view(make_scene(TRUTH), VOCABULARY, make_prediction([150] * 10))


def test_a_renamed_category_has_no_iou_left() -> None:
    room = make_room()
    view = build_view(room, VOCABULARY, predict(room, table=4))
    iou = {entry.name: entry.iou for entry in view.legend}
    doors, tables = np.count_nonzero(room.label == 4), np.count_nonzero(room.label == 3)
    assert iou["table"] == 0
    assert iou["door"] == pytest.approx(doors / (doors + tables))
    assert iou["wall"] == 1
