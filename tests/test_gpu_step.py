"""The first figures on a GPU, on the CPU with a few voxels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu import step


@pytest.fixture(autouse=True)
def _small_rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = np.stack(np.meshgrid([0, 1], *[range(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 4)
    np.savez(tmp_path / "rooms.npz", coordinates=cells.astype(np.int16))
    monkeypatch.setattr(step, "ROOMS", tmp_path / "rooms.npz")


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *parts: str) -> tuple[Any, dict[str, Any]]:
    """Run parts with 100 voxels; return the exit code or message, and the figures."""
    monkeypatch.setattr("sys.argv", ["step", str(out), *parts, "--voxels", "100"])
    with pytest.raises(SystemExit) as done:
        step.main()
    return done.value.code, json.loads((out / "step.json").read_text())


def test_a_step_that_does_not_fit_into_memory_is_timed_with_fewer_voxels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fit(figures: step.Figures, room: step.Room, plan: str) -> None:
        assert len(room.coordinates) == len(room.colours) == len(room.labels)
        if len(room) > 30:
            raise torch.OutOfMemoryError
        figures.add(f"{plan}: voxels", len(room))

    monkeypatch.setattr(step, "time_steps", fit)
    code, figures = run(monkeypatch, tmp_path, "step34D")
    assert code == 0
    assert figures == {"34D: out of memory, voxels": 50, "34D: voxels": 25}


def test_a_part_that_fails_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def break_down(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(step, "check_fold", break_down)
    code, figures = run(monkeypatch, tmp_path, "fold", "check14A")
    assert code == "failed: fold"
    assert "illegal memory access" in figures.pop("fold: failed")
    assert list(figures) == [
        f"14A {name}: output, gradient" for name in ("fp32", "fp32 of plain PyTorch", "bf16", "bf16 of plain PyTorch")
    ]
    assert 0 < figures["14A fp32: output, gradient"][0] < 0.1  # two voxels at the coarsest level amplify rounding


def test_evaluation_between_steps_of_training_uses_the_present_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert run(monkeypatch, tmp_path, "fold") == (0, {"fold, relative difference": 0.0})
