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


def test_every_damaged_byte_of_a_run_is_reported_or_harmless(tmp_path: Path) -> None:
    write_run(tmp_path, {"num_scenes": 2})
    np.savez_compressed(tmp_path / "scenes.npz", **np.load(tmp_path / "scenes.npz"))
    whole = (tmp_path / "scenes.npz").read_bytes()
    messages = []
    for k in range(0, len(whole), 3):
        (tmp_path / "scenes.npz").write_bytes(whole[:k] + bytes([whole[k] ^ 0xFF]) + whole[k + 1 :])
        try:
            read_record(tmp_path)
        except DataError as error:
            messages.append(str(error))
    assert len(messages) > len(whole) // 6
    assert all("has no readable scores" in message for message in messages)


@pytest.mark.parametrize("scores", ["1", "null", "[]", "{", "[" * 100_000])
def test_scores_that_are_not_an_object_are_reported(tmp_path: Path, scores: str) -> None:
    write_run(tmp_path, {})
    (tmp_path / "scores.json").write_text(scores)
    with pytest.raises(DataError, match="has no readable scores"):
        read_record(tmp_path)


def write_curve(folder: Path, start: str | None, *records: dict[str, float]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "card.json").write_text(json.dumps({} if start is None else {"from": start}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_the_steps_of_all_earlier_runs_count_in_the_curve(tmp_path: Path) -> None:
    write_curve(tmp_path / "pretrain", None, {"step": 1, "loss": 2.0}, {"step": 30, "loss": 1.0})
    write_curve(tmp_path / "first", str(tmp_path / "pretrain" / "checkpoint.safetensors"), {"step": 8, "loss": 1.0})
    start = str(tmp_path / "first" / "checkpoint.safetensors")
    for name in ("pretrain", "first"):
        (tmp_path / name / "checkpoint.safetensors").write_bytes(b"")
    run = tmp_path / "run"
    write_curve(run, start, {"step": 4, "val_miou_present": 0.1}, {"step": 9, "val_miou_present": 0.2})
    write_run(run, {"num_scenes": 2})
    curve = read_record(run).curve
    assert curve is not None
    assert (curve.step.tolist(), curve.value.tolist()) == ([30 + 8 + 4, 30 + 8 + 9], [0.1, 0.2])
    write_curve(run, "scratch", {"step": 4, "val_miou_present": 0.1})
    curve = read_record(run).curve
    assert curve is not None
    assert curve.step.tolist() == [4]
    write_curve(run, str(tmp_path / "elsewhere" / "checkpoint.safetensors"), {"step": 4, "val_miou_present": 0.1})
    assert read_record(run).curve is None  # its first step is unknown
    write_curve(run, "scratch", {"step": 4, "loss": 0.1})
    assert read_record(run).curve is None
