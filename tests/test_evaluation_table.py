"""Rows of text from scores."""

import numpy as np
import pytest

from lg3d_core.evaluation.confusion import ConfusionMatrix, SceneCounts
from lg3d_core.evaluation.evaluate import Evaluation
from lg3d_core.evaluation.instances import OVERLAPS, InstanceScores
from lg3d_core.evaluation.scores import score_confusion
from lg3d_core.evaluation.table import (
    group_table,
    instance_rows,
    instance_table,
    narrow_group_table,
    per_class_table,
    percent,
)
from lg3d_core.vocabulary import Vocabulary, load_vocabulary
from tests.fake_store import make_vocabulary


def evaluate(vertex: list[list[int]], voxel: list[list[int]], vocabulary: Vocabulary) -> Evaluation:
    scores = []
    in_scene = []
    for counts in (vertex, voxel):
        matrix = ConfusionMatrix(len(vocabulary))
        matrix.counts[:] = counts
        scores.append(score_confusion(matrix, vocabulary))
        in_scene.append(matrix.class_counts()[:, None])
    scenes = SceneCounts(("one",), *in_scene[0])
    return Evaluation(*scores, scenes, num_scenes=1, num_labelled_scenes=1, seconds=1.0, export=None)


LETTERS = make_vocabulary("head", "common", "tail")
EVALUATION = evaluate([[3, 1, 0, 0], [0, 2, 0, 2], [0, 0, 0, 0]], [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]], LETTERS)


def test_the_header_reads_like_table_1() -> None:
    assert group_table(EVALUATION).header == [
        "",
        *("mIoU Head", "mIoU Common", "mIoU Tail", "mIoU All"),
        *("Precision Head", "Precision Common", "Precision Tail", "Precision All"),
        *("Recall Head", "Recall Common", "Recall Tail", "Recall All"),
    ]


def test_the_rows_are_percentages_computed_by_hand() -> None:
    # vertices: IoU 3/4, 2/5; precision 3/3, 2/3; recall 3/4, 2/4; the tail class is absent
    # voxels: IoU 1/2, 1/2; precision 1, 1/2 (the false positive has its truth in head: 1 for the paper); recall 1/2, 1
    # the paper's precision and recall leave the absent tail class out
    rows = [" ".join(row) for row in group_table(EVALUATION).rows]
    assert rows == [
        "vertices, miou_3 75.00 40.00 0.00 38.33 100.00 66.67 0.00 55.56 75.00 50.00 0.00 41.67",
        "vertices, miou_present 75.00 40.00 - 57.50 100.00 66.67 - 83.33 75.00 50.00 - 62.50",
        "voxels, miou_3 50.00 50.00 0.00 33.33 100.00 50.00 0.00 50.00 50.00 100.00 0.00 50.00",
        "voxels, miou_present 50.00 50.00 - 50.00 100.00 50.00 - 75.00 50.00 100.00 - 75.00",
        "voxels, as the paper 50.00 50.00 0.00 33.33 100.00 100.00 - 100.00 50.00 100.00 - 75.00",
    ]


def test_the_narrow_table_has_the_same_values() -> None:
    narrow, wide = narrow_group_table(EVALUATION), group_table(EVALUATION)
    assert narrow.header == ["", "Head", "Common", "Tail", "All"]
    assert [cell for row in narrow.rows for cell in row[1:]] == [cell for row in wide.rows for cell in row[1:]]
    assert [row[0] for row in narrow.rows[:3]] == [
        "vertices, miou_3: mIoU",
        "vertices, miou_3: Precision",
        "vertices, miou_3: Recall",
    ]


def test_classes_that_occur_or_were_predicted_have_a_row() -> None:
    table = per_class_table(EVALUATION)
    assert table.rows == [
        ["a", "head", "4", "3", "75.00", "100.00", "75.00"],
        ["b", "common", "4", "3", "40.00", "66.67", "50.00"],
    ]
    assert len(table.header) == 7


def test_a_vocabulary_without_groups_has_only_the_column_all() -> None:
    vocabulary = load_vocabulary("scannet20")
    counts = np.eye(20, 21, dtype=int).tolist()
    table = group_table(evaluate(counts, counts, vocabulary))
    assert table.header == ["", "mIoU All", "Precision All", "Recall All"]
    assert {tuple(row[1:]) for row in table.rows} == {("100.00", "100.00", "100.00")}
    assert per_class_table(evaluate(counts, counts, vocabulary)).rows[0][:2] == ["wall", "-"]


@pytest.mark.parametrize(("share", "text"), [(0.28874, "28.87"), (0, "0.00"), (1, "100.00"), (float("nan"), "-")])
def test_shares_become_percentages_with_two_decimals(share: float, text: str) -> None:
    assert percent(share) == text


def test_a_category_without_ground_truth_has_no_scores_in_table_and_json() -> None:
    vocabulary = load_vocabulary("scannet20")
    counts = np.zeros((20, 21), dtype=int)
    counts[0, 0], counts[0, 3] = 5, 2  # walls alone, two of them taken for a bed
    evaluation = evaluate(counts.tolist(), counts.tolist(), vocabulary)
    rows = per_class_table(evaluation).rows
    assert [row[2:] for row in rows] == [["7", "5", "71.43", "100.00", "71.43"], ["0", "2", "-", "-", "-"]]
    plain = evaluation.to_dict()["vertex"]["per_class"][3]
    assert (plain["predicted"], plain["iou"], plain["precision"], plain["recall"]) == (2, None, None, None)


def test_average_precisions_are_shown_by_group_and_class() -> None:
    by_overlap = np.full((3, len(OVERLAPS)), np.nan)
    by_overlap[0] = [0.9, 0.9, 0.9, 0, 0, 0, 0, 0, 0, 1.0]  # AP 2.7 / 9
    by_overlap[1] = [0.5, 0, 0, 0, 0, 0, 0, 0, 0, 0.5]  # AP 0.5 / 9; the tail class has no objects
    scores = InstanceScores(LETTERS, by_overlap, np.array([4, 2, 0]), np.array([3, 0, 1]))
    assert instance_table(scores).header == ["", "Head", "Common", "Tail", "All"]
    assert [" ".join(row) for row in instance_table(scores).rows] == [
        "AP 30.00 5.56 - 17.78",
        "AP50 90.00 50.00 - 70.00",
        "AP25 100.00 50.00 - 75.00",
    ]
    assert [" ".join(row) for row in instance_rows(scores).rows] == [
        "a head 4 3 30.00 90.00 100.00",
        "b common 2 0 5.56 50.00 50.00",
        "c tail 0 1 - - -",
    ]
