"""Hours, memory and loading processes of a run, before it starts."""

import time
from pathlib import Path

import pytest
import torch

from lg3d_core.errors import SettingsError
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.progress import Progress
from lg3d_core.settings import FinetuneSettings, PretrainSettings
from lg3d_core.sparse import SparseTensor
from lg3d_core.training import forecast as forecasts
from lg3d_core.training.forecast import (
    choose_jobs,
    describe_forecast,
    forecast,
    modelled_step,
    needed_jobs,
    plan,
    room_voxels,
    step_bytes,
    step_work,
)
from tests.test_cli import lg3d

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("network", "gigaflops"), [("34D", 3151), ("34C", 197)])
def test_the_work_of_a_network_is_what_was_counted_in_a_furnished_room(network: str, gigaflops: float) -> None:
    work = step_work(network)
    assert work.flops * 100_000 / 1e9 == pytest.approx(gigaflops, rel=2e-3)  # of 100,000 voxels, counted by hand
    with torch.device("meta"):
        parameters = sum(p.numel() for p in MinkUNet(network, num_classes=200).parameters())
    assert work.parameters == parameters


def test_a_step_on_a_fast_gpu_is_bound_by_products_and_a_small_one_by_launches() -> None:
    # 75.6 TFLOP at half of 790 TFLOP/s are 191 ms, and 3945 values of 40 bytes per voxel at 2 TB/s are 63 ms.
    step = modelled_step("34D", 800_000, flops_per_second=790e12, device=CUDA)
    assert step == pytest.approx(0.191 + 0.063, rel=0.01)
    assert modelled_step("14A", 1000, flops_per_second=790e12, device=CUDA) == 0.02


def test_memory_is_linear_in_voxels_and_doubles_with_the_width_of_values() -> None:
    small, large = (step_bytes("34D", voxels, precision="bf16", device=CUDA) for voxels in (100_000, 800_000))
    per_voxel = (large - small) / 700_000
    assert per_voxel == pytest.approx(4 * step_work("34D").values + 600 + 1600, rel=1e-3)
    assert step_bytes("34D", 800_000, precision="fp32", device=CUDA) > 1.7 * large


@pytest.mark.parametrize(
    ("load", "scenes", "step", "cores", "jobs"),
    [
        (0.051, 8, 0.260, 16, 3),  # 34D on an H100: 1.3 * 0.408 / 0.26 = 2.04
        (0.051, 8, 0.040, 16, 14),  # 34C: 13.3
        (0.051, 8, 0.040, 8, 7),
        (0.051, 8, 30.0, 2, 1),
        (0.051, 8, 0.001, 1, 0),
    ],
)
def test_so_many_processes_load_as_the_network_keeps_busy(
    load: float, scenes: int, step: float, cores: int, jobs: int
) -> None:
    assert needed_jobs(load, scenes, step, cores=cores) == jobs


def test_a_dear_scene_takes_more_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "num_cores", lambda: 8)
    monkeypatch.setattr(forecasts, "matrix_speed", lambda *_: 1e15)

    def load(seconds: float) -> int:
        time.sleep(seconds)
        return 1000

    choices = {"scenes": 2, "device": CPU, "precision": "fp32"}
    # A step takes at least 0.05 s, in which one process loads one of the two scenes of 0.05 s or more.
    dear = choose_jobs(lambda: load(0.06), "14A", **choices)  # type: ignore[arg-type]
    assert dear >= 3
    assert choose_jobs(lambda: load(0.0), "14A", **choices) == 1  # type: ignore[arg-type]
    assert choose_jobs(lambda: load(0.06), "14A", processes=8, **choices) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1000, 20_000, 300_000])
def test_the_room_of_a_measured_step_has_about_the_wanted_voxels_and_many_neighbours(count: int) -> None:
    coordinates = room_voxels(count)
    assert 0.7 * count < len(coordinates) < 1.4 * count
    neighbours = SparseTensor(torch.zeros(len(coordinates), 1), coordinates).cache.submanifold_map(1, 3).neighbours
    assert 11 < float((neighbours >= 0).sum()) / len(coordinates) < 15  # furnished rooms: 12.8


def test_a_forecast_takes_the_scenes_of_the_store(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "measured_step", lambda *_, **__: 0.5)
    settings = FinetuneSettings(
        store=store_path, network="14A", voxel_size=0.2, epochs=10, batch_size=2, device="cpu", precision="fp32", jobs=0
    )
    found = forecast(settings, Progress())
    assert (found.scenes, found.steps) == (3, 20)  # three scenes, two steps an epoch
    assert found.hours == pytest.approx(20 * found.step_seconds / 3600)
    assert found.step_seconds > 0.5  # with the scenes, which the training process loads
    assert found.basis == "measured step, counted scenes"
    assert dict(describe_forecast(found))["training scenes"] == "3"


def test_without_a_store_the_scenes_of_scannet_are_assumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(forecasts, "num_cores", lambda: 16)
    monkeypatch.setattr(forecasts, "measured_step", lambda _, voxels, **__: voxels / 1e6)
    options = {"device": "cpu", "precision": "fp32", "voxel_size": 0.04, "epochs": 2}
    pretraining, finetuning = plan("paper-34c", options, Progress())
    assert (pretraining.command, finetuning.command) == ("pretrain", "finetune")
    assert pretraining.network == "34C"
    assert pretraining.voxels == 25_000  # surfaces: a quarter of 100,000 at twice the size
    assert pretraining.steps == 2 * 151  # 1201 scenes, 8 a step
    assert pretraining.step_seconds == pytest.approx(0.2)


def test_a_step_is_measured_on_this_machine() -> None:
    seconds = forecasts.measured_step("14A", 4000, device=CPU, precision="fp32", backend="auto")
    assert 0.05 <= seconds < 600


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    words = ["doctor", "--plan", "--recipe", "demo", "--store", "none", "--device", "cpu", "--voxel-size", "0.3"]
    table = lg3d(*words, cwd=tmp_path).stdout
    assert table.splitlines()[0] == "what\tpretrain\tfinetune"
    assert "memory of a step\t" in table


@pytest.mark.parametrize(("typed", "jobs"), [("auto", None), ("0", 0), ("3", 3)])
def test_auto_can_be_typed(typed: str, jobs: int | None) -> None:
    assert PretrainSettings.resolve(jobs=typed).jobs == jobs
    with pytest.raises(SettingsError, match="--jobs must be a whole number"):
        PretrainSettings.resolve(jobs="many")
