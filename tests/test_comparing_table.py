"""Tables of a comparison from stored scores."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lg3d_core.comparing.plan import Row
from lg3d_core.comparing.record import Record
from lg3d_core.comparing.table import (
    Comparison,
    compare_records,
    describe_differences,
    difference_table,
    instance_summary,
    score_table,
    to_markdown,
)
from lg3d_core.evaluation.confusion import SceneCounts
from lg3d_core.evaluation.instances import SceneMatches, score_instances
from tests.fake_store import make_vocabulary

LETTERS = make_vocabulary("head", "common", "tail")
SUPPORT = np.array([[8, 4, 2], [8, 4, 2]])
COUNTS = SceneCounts(("one", "two"), SUPPORT // 2, SUPPORT, SUPPORT)
"""Half of each class is right, and as many vertices are predicted: precision 1 / 2, IoU 1 / 3."""


def matches(iou: float | None) -> SceneMatches:
    """Matches of a scene with one object of class 0, predicted with this IoU or not at all."""
    found = [] if iou is None else [0]
    return SceneMatches(
        object_class=np.array([0]),
        class_=np.array(found, dtype=np.int64),
        confidence=np.full(len(found), 0.5),
        ignorable=np.zeros(len(found)),
        pair_object=np.array(found, dtype=np.int64),
        pair_prediction=np.array(found, dtype=np.int64),
        pair_iou=np.array([] if iou is None else [iou], dtype=np.float64),
    )


def scored(*ious: float | None) -> Record:
    """Run whose scenes have one object each, predicted with these IoUs."""
    own = tuple(map(matches, ious))
    return Record(COUNTS, {"instances": score_instances(own, LETTERS).to_dict()}, own)


def record(ap50: float | None) -> Record:
    means = {"ap": 0.1, "ap50": ap50, "ap25": 0.6}
    scores: dict[str, Any] = {"instances": {"means": dict.fromkeys(("head", "common", "tail", "all"), means)}}
    return Record(COUNTS, scores)


def compare(*rows: list[Record]) -> Comparison:
    planned = [
        Row(recipe=f"{k}.toml", label=f"row {k}", method="", runs=tuple(Path(f"run{k}") for _ in own))
        for k, own in enumerate(rows)
    ]
    return compare_records(planned, rows, LETTERS, classes="all", resamples=100)


def test_runs_of_the_instance_task_have_the_columns_of_table_3() -> None:
    comparison = compare([record(0.2), record(0.4)], [record(0.5), record(0.5)])
    assert comparison.metrics == ("iou", "precision", "recall", "ap", "ap50", "ap25")
    summary = instance_summary(comparison)
    assert summary.header == ["", "Precision", "mIoU", "mAP@0.5", "mAP", "mAP@0.25"]
    # the sample standard deviation of 0.2 and 0.4 is 0.1 sqrt(2)
    assert summary.rows[0] == ["row 0", "50.00 ± 0.00", "33.33 ± 0.00", "30.00 ± 14.14", "10.00 ± 0.00", "60.00 ± 0.00"]
    assert summary.rows[1][3] == "50.00 ± 0.00"
    assert "| row 1 | 50.00 ± 0.00 | 33.33 ± 0.00 | 50.00 ± 0.00 |" in to_markdown(comparison)
    assert "AP50 Tail" in score_table(comparison).header
    plain = comparison.to_dict()["rows"][0]["scores"]["ap50"]["all"]
    assert plain == {"mean": pytest.approx(0.3), "deviation": pytest.approx(0.02**0.5), "by_seed": [0.2, 0.4]}


def test_differences_in_ap_have_intervals_over_scenes() -> None:
    """The first row finds the object of scene one, the other row both, with IoU 0.68: above 4 of the 9 thresholds.

    A bootstrap sample has scene one twice (AP50 1 and 1), both (1/2 and 1) or scene two twice (0 and 1), with
    probabilities 1/4, 1/2 and 1/4: the interval of the difference is from 0 to 1.
    """
    comparison = compare([scored(0.68, None)], [scored(0.68, 0.68)])
    assert comparison.compared_metrics == ("iou", "ap", "ap50", "ap25")
    assert difference_table(comparison, "ap50").header == ["", "Head", "Common", "Tail", "All"]
    half = "+50.00 [+0.00, +100.00], +100.0 %"
    assert difference_table(comparison, "ap50").rows == [["row 1", half, "-", "-", half]]
    assert difference_table(comparison, "ap25").rows == [["row 1", half, "-", "-", half]]
    ap = "+22.22 [+0.00, +44.44], +100.0 %"
    assert difference_table(comparison, "ap").rows == [["row 1", ap, "-", "-", ap]]
    assert difference_table(comparison).rows[0][1] == "+0.00 [+0.00, +0.00], +0.0 %"
    text = to_markdown(comparison)
    assert f"{describe_differences(comparison, 'ap50')}.\n\n|  | Head" in text
    assert "Difference in AP50 from row 0, over the classes with objects: points" in text
    assert f"| row 1 | {half} | - | - | {half} |" in text
    first, second = comparison.to_dict()["rows"]
    assert first["instance_differences"] == {}
    assert set(second["instance_differences"]) == {"ap", "ap50", "ap25"}
    assert second["instance_differences"]["ap50"]["all"] == {
        "value": pytest.approx(0.5),
        "interval": [pytest.approx(0), pytest.approx(1)],
        "interval_scenes_and_seeds": [pytest.approx(0), pytest.approx(1)],
        "relative": pytest.approx(1),
        "by_seed": [pytest.approx(0.5)],
    }
    assert second["instance_differences"]["ap"]["tail"]["interval"] == [None, None]


def test_differences_in_ap_are_means_over_seeds() -> None:
    comparison = compare([scored(0.68, None)] * 2, [scored(0.68, 0.68), scored(0.68, None)])
    own = comparison.rows[1].instance_differences["ap50"]["all"]
    assert own.by_seed == pytest.approx((0.5, 0))
    assert (own.value, *own.over_scenes, own.relative) == pytest.approx((0.25, 0, 0.5, 0.5))
    # A sample draws the first seed twice and scene two twice with probability 1/4 * 1/4: a difference of 1.
    assert own.over_both == pytest.approx((0, 1))


def test_tables_have_intervals_over_seeds_if_there_are_several() -> None:
    one, two = [scored(0.68, None)], [scored(0.68, 0.68)]
    assert "[95 % interval over scenes]" in describe_differences(compare(one, two))
    several = compare(one * 2, [*two, *one])
    assert "[95 % interval over scenes and seeds]" in describe_differences(several)
    assert difference_table(several, "ap50").rows[0][4] == "+25.00 [+0.00, +100.00], +50.0 %"
    plain = several.to_dict()["rows"][1]["instance_differences"]["ap50"]["all"]
    assert plain["interval"] == pytest.approx([0, 0.5])
    assert plain["interval_scenes_and_seeds"] == pytest.approx([0, 1])


def test_only_rows_with_scores_of_objects_have_differences_in_ap() -> None:
    semantic, objects = Record(COUNTS, {}), scored(0.68, 0.68)
    comparison = compare([scored(0.68, None)], [semantic], [objects])
    assert [row[4] for row in difference_table(comparison, "ap50").rows] == ["-", "+50.00 [+0.00, +100.00], +100.0 %"]
    for rows in ([[semantic], [objects]], [[objects], [semantic]], [[objects] * 2, [objects, semantic]]):
        comparison = compare(*rows)
        assert comparison.compared_metrics == ("iou",)
        assert "Difference in AP" not in to_markdown(comparison)
    assert compare([objects]).compared_metrics == ()


def test_runs_of_the_semantic_task_have_no_columns_of_objects() -> None:
    comparison = compare([Record(COUNTS, {})])
    assert comparison.metrics == ("iou", "precision", "recall")
    assert "mAP" not in to_markdown(comparison)


def test_rows_without_scores_of_objects_are_left_open() -> None:
    comparison = compare([Record(COUNTS, {})], [record(None)])
    assert math.isnan(comparison.rows[0].scores["ap50"]["all"].mean)
    assert [row[3] for row in instance_summary(comparison).rows] == ["-", "-"]


def test_a_label_is_one_cell_of_markdown() -> None:
    found = compare([record(0.2)])
    named = replace(found, rows=(replace(found.rows[0], label="a|b <script>\nc"),))
    assert r"| a\|b \<script>\nc | 50.00 |" in to_markdown(named)
