"""Two runs in processes of their own write the same bytes, and what cannot be repeated is refused."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lg3d_core.errors import SettingsError
from lg3d_core.settings import FinetuneSettings
from lg3d_core.training.determinism import CUBLAS_WORKSPACE, repeatable, seed_everything
from tests import ranks

DETERMINISTIC = FinetuneSettings(deterministic=True)


def train_in(folder: Path, words: list[str], threads: int) -> None:
    """A run in a folder of its own, so that its settings are the same as those of another."""
    os.chdir(folder)
    ranks.run_command(words, threads)


@pytest.fixture(scope="module")
def twice(furnished_store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("twice")
    words = ["finetune", "--deterministic", "--from", "scratch", "--store", str(furnished_store_path), "--name", "run"]
    words += ["--network", "14A", "--voxel-size", "0.1", "--recipe", "demo", "--jobs", "2", "--device", "cpu"]
    words += ["--batch-size", "2", "--epochs", "2", "--instances", "2"]
    checkpoints = []
    for number in range(2):
        (folder / str(number)).mkdir()
        processes = ranks.start(1, train_in, folder / str(number), words, 2, log=folder / f"log{number}")
        assert ranks.finish(processes) == [0], (folder / f"log{number}.0").read_text()
        checkpoints.append(folder / str(number) / "runs" / "run" / "checkpoint.safetensors")
    return checkpoints


def test_two_runs_write_the_same_bytes(twice: list[Path]) -> None:
    """Two worker processes, two threads, augmentation and objects put into the scenes."""
    assert twice[0].read_bytes() == twice[1].read_bytes()


def test_seeds_reach_python_numpy_and_torch() -> None:
    drawn = []
    for _ in range(2):
        seed_everything(2**40 + 5)
        drawn.append((random.random(), float(np.random.rand()), float(torch.rand(1))))  # noqa: NPY002
    assert drawn[0] == drawn[1]


def test_deterministic_settings_are_restored_after_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS_WORKSPACE, ":16:8")
    with repeatable(DETERMINISTIC):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    with repeatable(FinetuneSettings()):
        assert not torch.are_deterministic_algorithms_enabled()


def enter(**changes: Any) -> None:
    with repeatable(FinetuneSettings(**({"deterministic": True} | changes))):
        raise RuntimeError("some_cuda_kernel does not have a deterministic implementation, but you set ... . More.")


def test_nondeterministic_operations_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CUBLAS_WORKSPACE, raising=False)
    with pytest.raises(SettingsError, match=r"no deterministic version of an operation on cpu .some_cuda_kernel"):
        enter(device="cpu")
    with pytest.raises(SettingsError, match="MinkowskiEngine has no fixed order of summation"):
        enter(backend="minkowski")
    monkeypatch.setenv(CUBLAS_WORKSPACE, ":0:0")
    with pytest.raises(SettingsError, match="CUBLAS_WORKSPACE_CONFIG is ':0:0' in the environment"):
        enter()
    monkeypatch.delenv(CUBLAS_WORKSPACE)
    with pytest.raises(RuntimeError, match="another"), repeatable(DETERMINISTIC):
        raise RuntimeError("another one")
