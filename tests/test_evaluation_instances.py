import math

import numpy as np
import numpy.typing as npt
import pytest

from lg3d_core.errors import ShapeError
from lg3d_core.evaluation.instances import (
    OVERLAPS,
    InstanceScores,
    PredictedInstances,
    match_scene,
    score_instances,
    scored_classes,
)
from lg3d_core.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary("scannet20")
SCORED = scored_classes(VOCABULARY)
WALL, CHAIR, TABLE = (VOCABULARY.index_by_name[name] for name in ("wall", "chair", "table"))


class Room:
    """A scene of consecutive blocks of vertices, and predictions over ranges of them."""

    def __init__(self, *blocks: tuple[int, int, int]) -> None:
        self.labels = np.concatenate([np.full(size, label) for label, _, size in blocks])
        self.instances = np.concatenate([np.full(size, instance) for _, instance, size in blocks])
        self.rows: list[npt.NDArray[np.int64]] = []
        self.classes: list[int] = []
        self.confidences: list[float] = []

    def predict(self, class_: int, start: int, stop: int, confidence: float = 0.9) -> "Room":
        self.rows.append(np.arange(start, stop))
        self.classes.append(class_)
        self.confidences.append(confidence)
        return self

    def score(self, *others: "Room") -> InstanceScores:
        matches = [
            match_scene(
                room.labels,
                room.instances,
                PredictedInstances.from_rows(room.rows, room.classes, room.confidences),
                scored=SCORED,
            )
            for room in (self, *others)
        ]
        return score_instances(matches, VOCABULARY)


def test_a_perfect_prediction_scores_one_at_every_threshold() -> None:
    scores = Room((CHAIR, 1, 200), (TABLE, 2, 300)).predict(CHAIR, 0, 200).predict(TABLE, 200, 500).score()
    assert scores.by_overlap[CHAIR].tolist() == [1.0] * 10
    assert scores.by_overlap[TABLE].tolist() == [1.0] * 10
    assert scores.mean("ap") == 1.0


def test_an_object_without_prediction_scores_zero_and_a_class_without_object_is_undefined() -> None:
    scores = Room((CHAIR, 1, 200), (TABLE, 2, 200)).predict(CHAIR, 0, 200).score()
    assert scores.ap[TABLE] == 0.0
    assert np.isnan(np.delete(scores.ap, [CHAIR, TABLE])).all()
    assert scores.mean("ap") == 0.5  # chair 1, table 0


def test_huge_instance_ids_do_not_overflow() -> None:
    scores = Room((TABLE, 1 << 61, 200), (CHAIR, 7, 300)).predict(TABLE, 0, 200).predict(CHAIR, 200, 500).score()
    assert scores.by_overlap[[TABLE, CHAIR]].tolist() == [[1.0] * 10] * 2


def test_an_iou_equal_to_the_threshold_is_no_match() -> None:
    scores = Room((CHAIR, 1, 200)).predict(CHAIR, 0, 100).score()  # IoU 100 / 200
    assert scores.ap50[CHAIR] == 0.0
    assert scores.ap25[CHAIR] == 1.0


def test_ap_is_the_mean_over_the_thresholds_below_the_iou() -> None:
    scores = Room((CHAIR, 1, 200)).predict(CHAIR, 0, 145).score()  # IoU 0.725: above 0.50, 0.55, 0.60, 0.65, 0.70
    assert scores.ap[CHAIR] == pytest.approx(5 / 9)


def test_a_duplicate_is_a_false_positive_with_the_lower_confidence() -> None:
    room = Room((CHAIR, 1, 200), (CHAIR, 2, 200))
    room.predict(CHAIR, 0, 190, 0.8).predict(CHAIR, 0, 200, 0.9).predict(CHAIR, 200, 400, 0.7)
    # ranked at IoU 0.5: right .9, wrong .8, right .7; curve (precision, recall): (2/3, 1), (1/2, 1/2), (1, 1/2), (1, 0)
    # area: each precision times half the recall step across it: 2/3 * 1/4 + 1/2 * 1/4 + 1 * 1/4 + 1 * 1/4
    assert room.score().ap50[CHAIR] == pytest.approx(2 / 3 / 4 + 1 / 8 + 1 / 4 + 1 / 4)


def test_ties_in_confidence_enter_together() -> None:
    room = Room((CHAIR, 1, 200), (WALL, 2, 200)).predict(CHAIR, 0, 200, 0.5).predict(TABLE, 0, 200, 0.5)
    far = Room((CHAIR, 1, 200), (TABLE, 2, 200)).predict(CHAIR, 200, 400, 0.5)
    # chair over both scenes: right .5, wrong .5, one missed: (1/2, 1/2), (1, 0); area 1/2 * 1/4 + 1 * 1/4
    assert room.score(far).ap50[CHAIR] == pytest.approx(0.375)


def test_predictions_on_void_or_on_small_objects_do_not_count() -> None:
    room = Room((CHAIR, 1, 200), (-1, 0, 200), (CHAIR, 2, 99), (WALL, 3, 200))
    room.predict(CHAIR, 0, 200, 0.5).predict(CHAIR, 200, 400, 0.9).predict(CHAIR, 400, 510, 0.9)
    assert room.score().ap[CHAIR] == 1.0


def test_predictions_on_walls_are_on_void_as_in_the_benchmark() -> None:
    room = Room((CHAIR, 1, 200), (WALL, 3, 200)).predict(CHAIR, 0, 200, 0.5).predict(CHAIR, 200, 400, 0.9)
    assert room.score().ap[CHAIR] == 1.0


def test_predictions_on_objects_of_other_classes_are_false_positives() -> None:
    room = Room((CHAIR, 1, 200), (TABLE, 2, 200)).predict(CHAIR, 0, 200, 0.5).predict(CHAIR, 200, 400, 0.9)
    # right .5, wrong .9: (1/2, 1), (0, 0), (1, 0); area 1/2 * 1/2
    assert room.score().ap50[CHAIR] == pytest.approx(0.25)


def test_predictions_of_fewer_than_100_vertices_do_not_count() -> None:
    room = Room((CHAIR, 1, 200), (TABLE, 2, 200)).predict(CHAIR, 0, 200).predict(CHAIR, 200, 299)
    scores = room.score()
    assert scores.ap[CHAIR] == 1.0
    assert scores.num_predictions[CHAIR] == 1


def test_an_empty_mask_and_no_predictions_at_all_score_zero() -> None:
    assert Room((CHAIR, 1, 200)).predict(CHAIR, 0, 0).score().ap[CHAIR] == 0.0
    assert Room((CHAIR, 1, 200)).score().ap[CHAIR] == 0.0


def test_scores_of_scenes_without_vertices_or_objects_are_undefined() -> None:
    assert math.isnan(Room((-1, 0, 0)).score().mean("ap50"))
    assert math.isnan(Room((WALL, 1, 500)).predict(WALL, 0, 500).score().mean("ap50"))


@pytest.mark.parametrize(
    ("rows", "class_", "confidence", "message"),
    [
        ([200], CHAIR, 0.5, "vertices within 0 to 199"),
        ([-1], CHAIR, 0.5, "vertices within 0 to 199"),
        ([0], 20, 0.5, "classes below 20"),
        ([0], -1, 0.5, "classes below 20"),
        ([0], CHAIR, math.nan, "finite confidences"),
        ([0], CHAIR, math.inf, "finite confidences"),
    ],
)
def test_invalid_predictions_are_rejected(rows: list[int], class_: int, confidence: float, message: str) -> None:
    predicted = PredictedInstances.from_rows([np.array(rows)], [class_], [confidence])
    with pytest.raises(ShapeError, match=message):
        match_scene(np.full(200, CHAIR), np.ones(200, dtype=int), predicted, scored=SCORED)


# A slow reference: boolean masks, one scene, class, threshold and object after the other.


def slow_ap(scenes: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[tuple]]], c: int, t: float) -> float:
    right: list[float] = []
    wrong: list[float] = []
    missed, any_object, any_prediction = 0, False, False
    for labels, instances, predictions in scenes:
        valid = (labels >= 0) & (instances > 0) & np.isin(labels, np.flatnonzero(SCORED))
        objects = [valid & (labels == c) & (instances == k) for k in np.unique(instances[valid & (labels == c)])]
        large = [mask for mask in objects if mask.sum() >= 100]
        own = [(mask, s) for mask, cls, s in predictions if cls == c and mask.sum() >= 100]
        any_object |= bool(large)
        any_prediction |= bool(own)
        taken: list[int] = []
        for target in large:
            score = None
            for k, (mask, s) in enumerate(own):
                if k in taken or not (mask & target).sum() / (mask | target).sum() > t:
                    continue
                if score is None:
                    score = s
                    taken.append(k)
                else:
                    wrong.append(min(score, s))
                    score = max(score, s)
            if score is None:
                missed += 1
            else:
                right.append(score)
        for mask, s in own:
            if any((mask & target).sum() / (mask | target).sum() > t for target in objects):
                continue
            ignored = (mask & ~valid).sum() + sum((mask & o).sum() for o in objects if o.sum() < 100)
            if ignored / mask.sum() <= t:
                wrong.append(s)
    if not any_object:
        return math.nan
    if not any_prediction:
        return 0.0
    points = []
    for s in sorted({*right, *wrong}):
        tp, fp = sum(r >= s for r in right), sum(w >= s for w in wrong)
        points.append((tp / (tp + fp), tp / (len(right) + missed)))
    points.append((1.0, 0.0))
    recall = [points[0][1], *(r for _, r in points), 0.0]
    return sum(p * (recall[k] - recall[k + 2]) / 2 for k, (p, _) in enumerate(points))


@pytest.mark.parametrize("seed", range(40))
def test_random_overlapping_predictions_score_as_by_a_slow_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scenes = []
    for _ in range(3):
        sizes = rng.integers(1, 260, 8)
        labels = np.repeat(rng.choice([-1, WALL, CHAIR, CHAIR, TABLE], 8), sizes)
        instances = np.repeat(rng.integers(0, 5, 8), sizes)
        predictions = []
        for _ in range(rng.integers(0, 12)):
            start = rng.integers(0, len(labels))
            mask = np.zeros(len(labels), dtype=np.bool_)
            mask[start : start + rng.integers(0, 400)] = True
            mask &= rng.random(len(labels)) < rng.choice([0.7, 1.0])
            predictions.append((mask, int(rng.choice([WALL, CHAIR, TABLE])), float(rng.integers(1, 6) / 5)))
        scenes.append((labels, instances, predictions))
    matches = [
        match_scene(
            labels,
            instances,
            PredictedInstances.from_rows(
                [np.flatnonzero(mask) for mask, _, _ in p], [c for _, c, _ in p], [s for *_, s in p]
            ),
            scored=SCORED,
        )
        for labels, instances, p in scenes
    ]
    scores = score_instances(matches, VOCABULARY)
    for c in (CHAIR, TABLE):
        expected = [slow_ap(scenes, c, t) for t in OVERLAPS.tolist()]
        np.testing.assert_allclose(scores.by_overlap[c], expected, atol=1e-12)
