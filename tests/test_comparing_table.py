"""Tables of a comparison from stored scores."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lg3d_core.comparing.plan import Row
from lg3d_core.comparing.record import Record
from lg3d_core.comparing.table import Comparison, compare_records, instance_summary, score_table, to_markdown
from lg3d_core.evaluation.confusion import SceneCounts
from tests.fake_store import make_vocabulary

LETTERS = make_vocabulary("head", "common", "tail")
SUPPORT = np.array([[8, 4, 2], [8, 4, 2]])
COUNTS = SceneCounts(("one", "two"), SUPPORT // 2, SUPPORT, SUPPORT)
"""Half of each class is right, and as many vertices are predicted: precision 1 / 2, IoU 1 / 3."""


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


def test_runs_of_the_semantic_task_have_no_columns_of_objects() -> None:
    comparison = compare([Record(COUNTS, {})])
    assert comparison.metrics == ("iou", "precision", "recall")
    assert "mAP" not in to_markdown(comparison)


def test_rows_without_scores_of_objects_are_left_open() -> None:
    comparison = compare([Record(COUNTS, {})], [record(None)])
    assert math.isnan(comparison.rows[0].scores["ap50"]["all"].mean)
    assert [row[3] for row in instance_summary(comparison).rows] == ["-", "-"]
