"""The schedule, the plan of batches, and the folder of a run, each by itself."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lg3d_core.errors import CheckpointError, SettingsError
from lg3d_core.networks.checkpoint import CheckpointInfo
from lg3d_core.settings import FinetuneSettings
from lg3d_core.training.batches import plan_batches, steps_per_epoch
from lg3d_core.training.optimisation import learning_rate_factor, make_optimiser, set_norm_momentum
from lg3d_core.training.run import Run
from lg3d_core.training.snapshots import Position, Snapshots

INFO = CheckpointInfo(
    kind="finetune", network="14A", num_classes=2, voxel_size=0.1, vocabulary="v", vocabulary_digest="d"
)


def factor(done: float, **changes: object) -> float:
    options: dict[str, object] = {"schedule": "step", "decay": 0.3, "milestones": (0.375, 0.625), "warmup": 0.0}
    return learning_rate_factor(done, **(options | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 1.0), (149, 1.0), (150, 0.3), (249, 0.3), (250, 0.09), (399, 0.09)]
)
def test_the_papers_schedule_decays_at_epochs_150_and_250_of_400(epoch: int, expected: float) -> None:
    assert factor(epoch / 400) == pytest.approx(expected)


@pytest.mark.parametrize("steps_an_epoch", [1, 3, 7, 150, 151])
def test_finetuning_decays_at_the_first_step_of_epochs_120_and_150_of_170(steps_an_epoch: int) -> None:
    milestones = FinetuneSettings().milestones
    for step, expected in ((119, 1.0), (120, 0.3), (149, 0.3), (150, 0.09), (169, 0.09)):
        first = factor(step * steps_an_epoch / (170 * steps_an_epoch), milestones=milestones)
        last = factor(((step + 1) * steps_an_epoch - 1) / (170 * steps_an_epoch), milestones=milestones)
        assert first == last == pytest.approx(expected)


@pytest.mark.parametrize(("done", "expected"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (1 / 3, 0.75)])
def test_cosine_falls_from_one_to_zero(done: float, expected: float) -> None:
    assert factor(done, schedule="cosine") == pytest.approx(expected)  # (1 + cos(pi done)) / 2; cos(pi/3) = 1/2


def test_warmup_rises_linearly() -> None:
    assert [factor(d, warmup=0.1) for d in (0.0, 0.05, 0.1, 0.2)] == pytest.approx([0.0, 0.5, 1.0, 1.0])


def test_the_optimiser_has_the_settings_of_the_run() -> None:
    network = torch.nn.Linear(2, 2)
    sgd = make_optimiser(network, FinetuneSettings(learning_rate=0.2, weight_decay=0.5))
    assert isinstance(sgd, torch.optim.SGD)
    assert {name: sgd.defaults[name] for name in ("lr", "momentum", "dampening", "weight_decay")} == {
        "lr": 0.2,
        "momentum": 0.9,
        "dampening": 0.1,
        "weight_decay": 0.5,
    }
    assert isinstance(make_optimiser(network, FinetuneSettings(optimiser="adamw")), torch.optim.AdamW)


def test_momentum_of_running_statistics_is_changed_only_on_demand() -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm1d(2, momentum=0.02), torch.nn.Linear(2, 2))
    set_norm_momentum(network, None)
    assert network[0].momentum == 0.02
    set_norm_momentum(network, 0.3)
    assert network[0].momentum == 0.3


def plans(**changes: int) -> list[object]:
    options = {"batch_size": 4, "micro_batch": 3, "seed": 0, "epochs": 2}
    return list(plan_batches(10, **(options | changes)))


def test_an_epoch_visits_every_scene_once_in_a_fresh_order() -> None:
    orders = []
    for epoch in (0, 1):
        visited = [scene for plan in plans() if plan.epoch == epoch for scene in plan.scenes]  # type: ignore[attr-defined]
        assert sorted(visited) == list(range(10))
        orders.append(visited)
    assert orders[0] != orders[1]
    assert steps_per_epoch(10, 4) == 3


def test_a_step_is_split_into_passes_and_only_the_last_one_steps() -> None:
    first_step = [plan for plan in plans() if (plan.epoch, plan.step) == (0, 0)]  # type: ignore[attr-defined]
    assert [(plan.part, len(plan.scenes), plan.last) for plan in first_step] == [  # type: ignore[attr-defined]
        (0, 3, False),
        (1, 1, True),
    ]


def test_resuming_at_a_step_gives_the_rest_of_the_same_plan() -> None:
    rest = [plan for plan in plans() if (plan.epoch, plan.step) >= (1, 2)]  # type: ignore[attr-defined]
    assert plans(start_epoch=1, start_step=2) == rest
    assert rest


def settings(tmp_path: Path) -> FinetuneSettings:
    return FinetuneSettings(runs=tmp_path / "runs", name="mine")


def test_a_run_is_made_once(tmp_path: Path) -> None:
    run = Run.create(settings(tmp_path))
    assert FinetuneSettings.from_json((run.folder / "settings.json").read_text()) == settings(tmp_path)
    with pytest.raises(SettingsError, match="pass another --name, or resume it with --resume"):
        Run.create(settings(tmp_path))


def test_the_option_that_resumes_a_run_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    assert Run(tmp_path / "my run").resume_option == f"--resume '{tmp_path}/my run'"
    assert Run(tmp_path / "run").resume_option == f"--resume {tmp_path}/run"


def test_the_error_on_a_damaged_card_names_what_a_resumed_run_accepts(tmp_path: Path) -> None:
    run = Run.create(settings(tmp_path))
    (run.folder / "card.json").write_text("[1]")
    with pytest.raises(CheckpointError, match=r"card\.json is damaged .*restore it from a copy, or start a new run$"):
        run.card()


def test_a_state_of_another_network_is_reported_in_one_line(tmp_path: Path) -> None:
    run = Run.create(settings(tmp_path))
    for network in (nn.Linear(2, 3), nn.Linear(3, 2)):
        optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
        snapshots = Snapshots(run, settings=settings(tmp_path), info=INFO, digests={}, leads=True)
        if not run.resume_file.exists():
            snapshots.save_state(network, optimiser, Position(0, 1, 0.0))
            continue
        with pytest.raises(CheckpointError, match=r"does not fit the settings of this run \(.*size mismatch") as caught:
            snapshots.restore(network, optimiser, per_epoch=2)
        assert "\n" not in str(caught.value)


def test_two_unnamed_runs_of_one_second_have_separate_folders(tmp_path: Path) -> None:
    unnamed = FinetuneSettings(runs=tmp_path)
    assert Run.create(unnamed).folder != Run.create(unnamed).folder


def test_metrics_after_the_resumed_step_and_a_torn_line_are_dropped(tmp_path: Path) -> None:
    run = Run.create(settings(tmp_path))
    for step in (1, 2, 3):
        run.log({"step": step})
    with run.metrics_file.open("a") as stream:
        stream.write('{"step": 4, "lo')
    run.drop_metrics_after(2)
    assert run.metrics_file.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    run = Run.create(settings(tmp_path))
    assert run.load_resume() is None
    run.save_resume({"epoch": 1, "weights": torch.zeros(3)})
    run.resume_file.write_bytes(run.resume_file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"resume\.pt is damaged"):
        run.load_resume()


def test_a_state_with_a_flipped_bit_is_named_once(tmp_path: Path) -> None:
    run = Run.create(settings(tmp_path))
    run.save_resume({"epoch": 1, "weights": torch.zeros(3)})
    data = bytearray(run.resume_file.read_bytes())
    data[len(data) // 2] ^= 1
    run.resume_file.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        run.load_resume()
    expected = f"{run.resume_file} is damaged: checksum mismatch; restore it from a copy, or start a new run"
    assert str(caught.value) == expected


def test_a_folder_without_settings_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="it is not the folder of a run"):
        Run.open(tmp_path)
