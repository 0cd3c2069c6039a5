"""The gallery: which objects there are, in which order, where, and how well they are predicted."""

import numpy as np
import pytest

from lg3d_core.evaluation.predictor import Prediction
from lg3d_core.viewing.gallery import MIN_VERTICES, Gallery
from lg3d_core.viewing.layers import build_view
from lg3d_core.vocabulary import Vocabulary
from lg3d_core.vocabulary.categories import Category
from tests.viewing_rooms import COLORS, DOOR, NAMES, SIZE, TABLE, WARDROBE, make_room, predict

GROUPS = ("head", "head", "head", "common", "tail", "tail")
VOCABULARY = Vocabulary(
    name="six",
    id_column="id",
    categories=tuple(Category(k, k + 1, NAMES[k], GROUPS[k], True, COLORS[k]) for k in range(len(NAMES))),
)


def gallery(**renamed: int) -> Gallery:
    room = make_room()
    return build_view(room, VOCABULARY, predict(room, **renamed)).gallery


def test_tail_comes_first_then_common_then_head() -> None:
    found = gallery()
    assert found.annotated
    assert [(part.name, part.group) for part in found.parts] == [
        ("door", "tail"),
        ("wardrobe", "tail"),
        ("table", "common"),
        ("ceiling", "head"),
        ("floor", "head"),
        *[("wall", "head")] * 4,
    ]
    assert [part.number for part in found.parts] == list(range(1, 10))
    walls = [part.vertices for part in found.parts[-4:]]
    assert walls == sorted(walls, reverse=True)


def test_each_vertex_knows_its_part() -> None:
    room, found = make_room(), gallery()
    for part in found.parts:
        rows = found.number == part.number
        assert rows.sum() == part.vertices
        assert set(room.label[rows]) == {part.category}
    door = next(part for part in found.parts if part.name == "door")
    assert (np.flatnonzero(found.number == door.number) == np.flatnonzero(room.instance == 8)).all()


def test_a_part_is_where_its_box_is() -> None:
    table = next(part for part in gallery().parts if part.name == "table")
    assert table.middle == pytest.approx((2.0, 1.5, 0.35), abs=0.02)  # 1.5 + 1.0/2, 1.1 + 0.8/2, 0.7/2
    assert table.radius == pytest.approx(np.linalg.norm([1.0, 0.8, 0.7]) / 2, rel=0.03)


def test_a_part_has_its_share_of_correct_predictions() -> None:
    parts = {part.name: part for part in gallery(table=DOOR).parts}
    assert (parts["table"].right, parts["table"].predicted) == (0.0, "door")
    assert parts["table"].confidence == pytest.approx(0.3)
    assert (parts["door"].right, parts["door"].predicted) == (1.0, "door")
    assert parts["door"].confidence == pytest.approx(0.9)


def test_without_a_prediction_its_facts_are_none() -> None:
    parts = build_view(make_room(), VOCABULARY).gallery.parts
    assert {(part.right, part.predicted, part.confidence) for part in parts} == {(None, None, None)}


def test_without_annotation_connected_regions_of_one_predicted_category_are_parts() -> None:
    room = make_room(spacing=0.06)
    bare = room._replace(label=np.full_like(room.label, -1), instance=np.zeros_like(room.instance))
    found = build_view(bare, VOCABULARY, predict(room)).gallery
    assert not found.annotated
    # Four walls that touch are one region; all else stands alone.
    assert [part.name for part in found.parts] == ["door", "wardrobe", "table", "ceiling", "floor", "wall"]
    assert [part.right for part in found.parts] == [None] * 6
    for part in found.parts:
        assert (found.number == part.number).sum() == part.vertices == (room.label == part.category).sum()


def test_regions_of_one_category_apart_from_each_other_are_two_parts_and_specks_are_none() -> None:
    room = make_room(spacing=0.06)
    label = np.full_like(room.label, -1)
    label[np.isin(room.label, (TABLE, WARDROBE))] = TABLE  # half a metre between them
    speck = np.flatnonzero(room.label == 1)[: MIN_VERTICES - 1]
    label[speck] = DOOR
    bare = room._replace(label=np.full_like(room.label, -1), instance=np.zeros_like(room.instance))
    prediction = Prediction(label, np.ones(len(label), dtype=np.float32), label, label)
    found = build_view(bare, VOCABULARY, prediction).gallery
    assert [part.name for part in found.parts] == ["table", "table"]
    assert {part.vertices for part in found.parts} == {(room.label == k).sum() for k in (TABLE, WARDROBE)}
    assert (found.number[speck] == 0).all()


def test_a_scene_about_which_nothing_is_known_has_no_gallery() -> None:
    room = make_room()
    bare = room._replace(label=np.full_like(room.label, -1), instance=np.zeros_like(room.instance))
    found = build_view(bare, VOCABULARY).gallery
    assert found.parts == ()
    assert not found.number.any()


def test_a_prediction_of_nothing_has_no_gallery() -> None:
    room = make_room()
    bare = room._replace(label=np.full_like(room.label, -1), instance=np.zeros_like(room.instance))
    nothing = np.full_like(room.label, -1)
    prediction = Prediction(nothing, np.zeros(len(nothing), dtype=np.float32), nothing, nothing)
    assert build_view(bare, VOCABULARY, prediction).gallery.parts == ()


def test_objects_fill_the_room_and_no_more() -> None:
    for part in gallery().parts:
        assert all(-0.1 <= value <= size + 0.1 for value, size in zip(part.middle, SIZE, strict=True))
