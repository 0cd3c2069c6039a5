"""Stored scores of a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lg3d_core.comparing.record import read_record
from lg3d_core.errors import DataError
from lg3d_core.evaluation.instances import SceneMatches
from lg3d_core.evaluation.packed_matches import NO_MATCHES, pack_matches

ONE = SceneMatches(
    np.array([3]), np.array([3]), np.array([0.5]), np.array([0.0]), np.array([0]), np.array([0]), np.array([0.75])
)


def write_run(folder: Path, scores: dict[str, Any], **arrays: Any) -> None:
    counts = np.ones((2, 4), dtype=np.int64)
    np.savez(
        folder / "scenes.npz", scene_ids=["one", "two"], correct=counts, support=counts, predicted=counts, **arrays
    )
    (folder / "scores.json").write_text(json.dumps(scores))


def test_a_run_of_the_semantic_task_has_no_matches(tmp_path: Path) -> None:
    write_run(tmp_path, {"num_scenes": 2})
    record = read_record(tmp_path)
    assert record.matches is None
    assert record.counts.scene_ids == ("one", "two")


def test_a_run_of_the_instance_task_has_the_matches_of_its_scenes(tmp_path: Path) -> None:
    write_run(tmp_path, {"instances": {}}, matches=pack_matches([ONE, NO_MATCHES]))
    record = read_record(tmp_path)
    assert record.matches is not None
    for own, expected in zip(record.matches, (ONE, NO_MATCHES), strict=True):
        for one, other in zip(own, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("arrays", [{}, {"matches": pack_matches([ONE])}])
def test_missing_or_truncated_matches_are_reported(tmp_path: Path, arrays: dict[str, Any]) -> None:
    write_run(tmp_path, {"instances": {}}, **arrays)
    with pytest.raises(DataError, match=r"has no readable scores .* remove the folder and compare again"):
        read_record(tmp_path)
