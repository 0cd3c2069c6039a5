"""Two and four processes take the steps that one takes, end together, and find their run again."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lg3d_core.errors import EndedElsewhere, SettingsError
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.progress import Progress
from lg3d_core.settings import FinetuneSettings, PretrainSettings
from lg3d_core.training import distributed
from lg3d_core.training.batches import SceneBatches, ViewBatches, load_batches, plan_batches
from lg3d_core.training.distributed import DeviceKind, Launch, Place, World, _choose_backend, join, read_launch
from lg3d_core.training.launch import open_run
from lg3d_core.training.learners import (
    Classification,
    InstanceSegmentation,
    LanguageGrounding,
    SceneContexts,
    SupervisedContrast,
)
from lg3d_core.training.pretrain import pretrain
from lg3d_core.training.scenes import open_training_data
from lg3d_core.training.step import ForwardPass, accumulate_gradients
from tests import lost_rank, ranks
from tests.finished_runs import read_losses, read_metrics

CPU = torch.device("cpu")
OWN_GPU, CPU_ONLY = DeviceKind.OWN_GPU, DeviceKind.CPU
WORDS = [
    "--network",
    "14A",
    "--voxel-size",
    "0.25",
    "--recipe",
    "demo",
    "--jobs",
    "0",
    "--device",
    "cpu",
    "--precision",
    "fp32",
]
WORDS += [
    "--batch-size",
    "4",
    "--epochs",
    "3",
    "--validate-every",
    "3",
    "--optimiser",
    "sgd",
    "--learning-rate",
    "0.02",
]


def finetune_words(store: Path, runs: Path, name: str) -> list[str]:
    return ["finetune", "--from", "scratch", "--store", str(store), "--runs", str(runs), "--name", name, *WORDS]


def read_logs(log: Path) -> list[str]:
    return [path.read_text() for path in sorted(log.parent.glob(f"{log.name}.[0-9]"))]


def wait_for_steps(run: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        path = run / "metrics.jsonl"
        if path.exists() and path.read_text().count('"loss"') >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{run} took no {count} steps in two minutes")


@pytest.fixture(scope="module")
def trained(store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one run trained by 1, 2 and 4 processes. Of 3 scenes in a batch of 4, one of four gets none."""
    runs = tmp_path_factory.mktemp("runs")
    for size in (1, 2, 4):
        words = finetune_words(store_path, runs, str(size))
        processes = ranks.start(size, ranks.run_command, words, log=runs / f"log{size}")
        assert ranks.finish(processes) == [0] * size, read_logs(runs / f"log{size}")
    return runs


@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_end_where_one_does(trained: Path, size: int) -> None:
    """Batch normalisation, augmentation and the last short batch included: float32 sums in another order are left."""
    one, several = trained / "1", trained / str(size)
    assert read_losses(several) == pytest.approx(read_losses(one), rel=2e-3)
    assert read_losses(several)[0] == pytest.approx(read_losses(one)[0], rel=1e-6)
    left, right = load_file(one / "checkpoint.safetensors"), load_file(several / "checkpoint.safetensors")
    assert left.keys() == right.keys()
    difference = math.sqrt(sum(float((left[name] - right[name]).double().square().sum()) for name in left))
    assert difference < 2e-3 * math.sqrt(sum(float(left[name].double().square().sum()) for name in left))
    assert [record["voxels_per_second"] * record["seconds"] for record in read_metrics(several)[:-1]] == pytest.approx(
        [record["voxels_per_second"] * record["seconds"] for record in read_metrics(one)[:-1]]
    )
    for score in ("val_miou_200", "val_miou_present", "val_voxel_miou_present"):
        assert read_metrics(several)[-1][score] == pytest.approx(read_metrics(one)[-1][score], rel=0.05)


def test_one_process_reports_and_the_card_records_the_number_of_processes(trained: Path) -> None:
    logs = read_logs(trained / "log4")
    assert "effective batch 4 scenes (4 processes, each 1 forward pass of 1), 3 training scenes" in logs[0]
    assert logs[0].splitlines()[-1] == str(trained / "4" / "checkpoint.safetensors")
    assert logs[1:] == ["", "", ""]
    assert json.loads((trained / "4" / "card.json").read_text())["processes"] == 4


METHODS = ("language", "supcon", "csc", "classes", "instances")


def learners(network: MinkUNet) -> dict[str, Any]:
    """One of each kind, small."""
    anchors = torch.nn.functional.normalize(torch.randn(200, 96, generator=torch.Generator().manual_seed(1)), dim=1)
    margins = {"negatives": 3, "positive_margin": 0.0, "negative_margin": 0.6, "negative_weight": 1.0}
    semantic = Classification(network, loss="cross-entropy", gamma=2.0, alpha=None)
    found = {
        "language": LanguageGrounding(network, anchors, **margins),  # type: ignore[arg-type]
        "supcon": SupervisedContrast(network, sources=64, positives=3, negatives=3, temperature=0.1),
        "csc": SceneContexts(network, temperature=0.4, inner=0.05, outer=0.5),
        "classes": semantic,
    }
    if network.offset_head is not None:
        with_instances = torch.ones(200, dtype=torch.bool)
        found["instances"] = InstanceSegmentation(semantic, with_instances=with_instances, voxel_size=0.25)
    return found


def write_gradients(store: Path, out: Path) -> None:
    """One step's gradients of each learner, by each process; with frozen and with moving statistics.

    The latter in float64: a value that float32 rounds to the other side of a ReLU's kink moves all gradients before it,
    by 6e-4 in these rooms (one value of `bntr7`).
    """
    from lg3d_core.sampling.augment import Augmentation
    from lg3d_core.sampling.views import ViewDataset

    torch.set_num_threads(1)
    settings = FinetuneSettings(
        store=store, network="14A", voxel_size=0.25, device="cpu", batch_size=4, rank_timeout=60
    )
    gradients: dict[str, torch.Tensor] = {}
    with join(settings, Progress()) as world:
        data = open_training_data(settings, Progress())
        views = ViewDataset(
            data.store,
            data.dataset.scene_ids,
            voxel_size=0.25,
            augmentation=Augmentation(),
            share=0.5,
            max_matches=64,
            seed=0,
        )
        for frozen in (True, False):
            for name in METHODS:
                torch.manual_seed(0)
                classifies = name in ("classes", "instances")
                network = MinkUNet("14A", num_classes=200 if classifies else None, offset_head=name == "instances")
                network = network.train(not frozen)
                network = network if frozen else network.double()
                learner = learners(network)[name]
                forward = world.together(ForwardPass(learner), network, deterministic=frozen)
                # One pass of two scenes here, one of one and an empty one there: passes are evened out.
                plans = plan_batches(3, batch_size=4, micro_batch=4, seed=0, epochs=1, rank=world.rank, size=world.size)
                scenes = SceneBatches(data.dataset, max_voxels=2000, with_instances=name == "instances")
                source: Any = ViewBatches(views) if name == "csc" else scenes
                source.max_voxels = 2000 if frozen and name != "csc" else None
                parts = list(load_batches(source, plans, jobs=0, seed=0, shift=True))
                if not frozen:
                    parts = [(plan, batch._replace(features=batch.features.double())) for plan, batch in parts]
                losses = accumulate_gradients(learner, parts, seed=0, world=world, precision="fp32", forward=forward)
                total = world.gather([losses["loss"]]).sum()
                grads = [weight.grad.flatten() for weight in network.parameters() if weight.grad is not None]
                gradients[f"{name} {frozen}"] = torch.cat([*grads, torch.tensor([float(total)])])
        torch.save(gradients, out / f"gradients.{world.size}.{world.rank}")


@pytest.fixture(scope="module")
def gradients(store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gradients")
    for size in (1, 2, 4):
        processes = ranks.start(size, write_gradients, store_path, out, log=out / f"log{size}")
        assert ranks.finish(processes) == [0] * size, read_logs(out / f"log{size}")
    return out


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen statistics", "statistics over all processes"])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_those_of_one_process(gradients: Path, method: str, frozen: bool) -> None:
    one = torch.load(gradients / "gradients.1.0")[f"{method} {frozen}"]
    for size in (2, 4):
        own = [torch.load(gradients / f"gradients.{size}.{rank}")[f"{method} {frozen}"] for rank in range(size)]
        assert all(torch.equal(other, own[0]) for other in own)
        # Measured: 2e-7 with frozen statistics
        assert torch.linalg.vector_norm(own[0] - one) < (2e-6 if frozen else 1e-9) * torch.linalg.vector_norm(one)


def test_a_signal_to_one_stops_all_at_one_step_and_they_go_on_to_the_same_bits(
    trained: Path, store_path: Path, tmp_path: Path
) -> None:
    words = finetune_words(store_path, tmp_path, "2")
    processes = ranks.start(2, ranks.run_command, words, log=tmp_path / "log")
    wait_for_steps(tmp_path / "2", 1)
    assert processes[1].pid is not None
    os.kill(processes[1].pid, signal.SIGTERM)  # not the one that saves
    assert ranks.finish(processes) == [130, 130]
    logs = read_logs(tmp_path / "log")
    assert logs[0].splitlines()[-1].startswith("lg3d: stopped and saved; resume with")
    assert logs[1] == ""
    assert len(read_losses(tmp_path / "2")) < 3
    again = ranks.start(2, ranks.run_command, words, log=tmp_path / "again")
    assert ranks.finish(again) == [0, 0]
    assert f"resuming {tmp_path / '2'}" in read_logs(tmp_path / "again")[0]
    assert read_losses(tmp_path / "2") == read_losses(trained / "2")
    left, right = (load_file(runs / "2" / "checkpoint.safetensors") for runs in (tmp_path, trained))
    assert all(torch.equal(left[name], right[name]) for name in left)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.slow  # two agents and four processes that load PyTorch: 25 s
def test_a_lost_process_ends_the_job_of_two_machines_which_torchrun_starts_again(
    trained: Path, store_path: Path, tmp_path: Path
) -> None:
    """Two agents stand for two machines. What they end with has the bits of two processes of one machine."""
    words = finetune_words(store_path, tmp_path, "2")
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--max-restarts", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    command += ["--rdzv-id", "job"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    jobs = []
    for node in range(2):
        node_command = [*command, "--rdzv-conf", f"is_host={1 - node}", "-m", "tests.lost_rank", *words]
        with (tmp_path / f"log.{node}").open("w") as log:
            jobs.append(subprocess.Popen(node_command, cwd=ranks.ROOT, env=environment, stdout=log, stderr=log))
    try:
        codes = [job.wait(180) for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    texts = read_logs(tmp_path / "log")
    assert codes == [0, 0], texts
    text = "".join(texts)
    assert text.count("lg3d: error: process 1 of 2 (") == 1
    assert "is gone; unless the system or a user killed it" in text
    assert text.count(f"resuming {tmp_path / '2'}") == 1
    assert text.count("effective batch 4 scenes") == 2  # once a start
    assert text.count(str(tmp_path / "2" / "checkpoint.safetensors")) == 1
    assert read_losses(tmp_path / "2") == read_losses(trained / "2")
    left, right = (load_file(runs / "2" / "checkpoint.safetensors") for runs in (tmp_path, trained))
    assert all(torch.equal(left[name], right[name]) for name in left)


def lose_second(how: str, words: list[str]) -> None:
    """The command, of whose processes the second is lost in that way after two steps."""
    if os.environ["RANK"] == "1":
        lost_rank.lose(how)
    ranks.run_command(words)


@pytest.mark.slow  # waits for six seconds
def test_a_process_that_is_stopped_ends_the_job_by_name(store_path: Path, tmp_path: Path) -> None:
    words = [*finetune_words(store_path, tmp_path, "2"), "--rank-timeout", "6", "--epochs", "60"]
    processes = ranks.start(2, lose_second, "stopped", words, log=tmp_path / "log")
    processes[0].join(180)
    last = read_logs(tmp_path / "log")[0].splitlines()[-1]
    assert processes[0].exitcode == 1, last
    assert last.startswith(f"lg3d: error: process 1 of 2 ({socket.gethostname()}, pid {processes[1].pid}), last seen ")
    assert "sent no heartbeat for 6 s (--rank-timeout): it is suspended, or its machine or network is down" in last
    assert processes[1].exitcode is None
    processes[1].kill()


@pytest.mark.slow  # waits for eleven seconds
def test_a_process_that_hangs_ends_with_the_job_and_its_activity_is_reported(store_path: Path, tmp_path: Path) -> None:
    words = [*finetune_words(store_path, tmp_path, "2"), "--rank-timeout", "6", "--epochs", "60"]
    processes = ranks.start(2, lose_second, "hangs", words, log=tmp_path / "log")
    assert ranks.finish(processes, seconds=180) == [1, 1]  # both by themselves
    logs = read_logs(tmp_path / "log")
    told = f"process 1 of 2 ({socket.gethostname()}, pid {processes[1].pid}) keeps the other processes waiting for 6 s"
    assert f"lg3d: error: {told} (--rank-timeout): it has been loading scenes for " in logs[0]
    assert ", in lg3d_core.training.batches, line " in logs[0]
    assert "error" not in logs[1]


def join_with_other_options(store: Path, seed: int) -> None:
    """Two machines whose command lines differ."""
    settings = FinetuneSettings(store=store, seed=seed + int(os.environ["RANK"]), start="scratch", device="cpu")
    try:
        with open_run(settings, Progress()):
            raise AssertionError("the run was opened")
    except SettingsError as error:
        sys.stderr.write(str(error))
    except EndedElsewhere:
        sys.stderr.write("elsewhere")


def test_machines_with_other_options_are_refused(store_path: Path, tmp_path: Path) -> None:
    processes = ranks.start(2, join_with_other_options, store_path, 5, log=tmp_path / "log")
    assert ranks.finish(processes) == [0, 0]
    told = sorted(read_logs(tmp_path / "log"))
    line = f"process 1 on {socket.gethostname()} has --seed 6 instead of --seed 5: use the same options"
    assert (told[0], told[1].startswith(line)) == ("elsewhere", True)


def test_the_first_process_of_a_machine_comes_before_its_others(tmp_path: Path) -> None:
    processes = ranks.start(4, write_turn, tmp_path, log=tmp_path / "log", LOCAL_WORLD_SIZE="2")
    assert ranks.finish(processes) == [0] * 4, read_logs(tmp_path / "log")
    seen = {rank: (tmp_path / f"seen.{rank}").read_text().split() for rank in range(4)}
    assert seen[0] == []
    assert seen[2] == ["0"]
    assert set(seen[1]) >= {"0", "2"} <= set(seen[3])


def write_turn(out: Path) -> None:
    """Which processes have been in the block before this one, of two machines of two."""
    os.environ["LOCAL_RANK"] = str(int(os.environ["RANK"]) % 2)
    with join(FinetuneSettings(device="cpu"), Progress()) as world, world.leader_first():
        seen = sorted(path.name.partition(".")[2] for path in out.glob("done.*"))
        (out / f"seen.{world.rank}").write_text(" ".join(seen))
        (out / f"done.{world.rank}").touch()


def test_an_error_in_all_processes_is_reported_once(store_path: Path, tmp_path: Path) -> None:
    words = [*finetune_words(store_path, tmp_path, "x"), "--batch-size", "3"]
    assert ranks.finish(ranks.start(2, ranks.run_command, words, log=tmp_path / "log")) == [1, 1]
    said = "".join(read_logs(tmp_path / "log"))
    assert said.count("lg3d: error:") == 1
    assert "--batch-size 3, the effective batch, is not divisible by 2 processes: pass 2 or 4" in said


def world(size: int, rank: int = 0, **changes: Any) -> World:
    launch = Launch(rank=rank, size=size, local_rank=rank, local_size=size, run_id=None, max_restarts=0)
    return World(CPU, launch._replace(**changes))


def test_a_batch_is_shared_equally_or_refused() -> None:
    assert world(4).share_of(8) == 2
    with pytest.raises(SettingsError, match="is not divisible by 16 processes: pass 16"):
        world(16).share_of(8)


def test_the_shares_of_all_processes_cover_every_scene_once_an_epoch() -> None:
    options: dict[str, Any] = {"batch_size": 4, "micro_batch": 1, "seed": 3, "epochs": 2}
    whole = list(plan_batches(10, **(options | {"micro_batch": 4})))
    shares = [list(plan_batches(10, **options, rank=rank, size=4)) for rank in range(4)]
    for epoch in range(2):
        rows = sorted(row for share in shares for plan in share if plan.epoch == epoch for row in plan.scenes)
        assert rows == list(range(10))
    for step in range(3):  # the last step has two scenes for four processes, and all take part in it
        together = [
            row for share in shares for plan in share if (plan.epoch, plan.step) == (0, step) for row in plan.scenes
        ]
        assert tuple(together) == whole[step].scenes
        assert all(any((plan.epoch, plan.step, plan.last) == (0, step, True) for plan in share) for share in shares)


def test_gradients_go_over_nccl_where_every_process_of_every_machine_has_a_gpu() -> None:
    first = world(2).launch
    assert first is not None
    assert _choose_backend([Place(OWN_GPU, "a"), Place(OWN_GPU, "b")], first) == "cpu:gloo,cuda:nccl"
    assert _choose_backend([Place(OWN_GPU, "a"), Place(DeviceKind.SHARED_GPU, "b")], first) == "gloo"
    assert _choose_backend([Place(CPU_ONLY, "a"), Place(CPU_ONLY, "b")], first) == "gloo"


def test_machines_with_and_without_gpus_are_refused_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_ignore_termination", lambda: None)
    first = world(2).launch
    assert first is not None
    with pytest.raises(SettingsError, match=r"1 of 2 processes would train on the CPU \(b\), the others on GPUs"):
        _choose_backend([Place(OWN_GPU, "a"), Place(CPU_ONLY, "b")], first)
    with pytest.raises(EndedElsewhere):
        _choose_backend([Place(OWN_GPU, "a"), Place(CPU_ONLY, "b")], first._replace(rank=1))


def test_torchrun_is_recognised_by_its_environment() -> None:
    variables = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    elastic = {"LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "job7", "TORCHELASTIC_MAX_RESTARTS": "3"}
    assert read_launch({}) is None
    assert read_launch(variables | elastic) == Launch(3, 4, 1, 2, "job7", 3)
    assert read_launch(variables | {"TORCHELASTIC_RUN_ID": "none"}) == Launch(3, 4, 1, 1, None, 0)
    with pytest.raises(SettingsError, match="expected numbers in RANK"):
        read_launch(variables | {"RANK": "first"})


def test_a_run_that_is_restarted_has_a_name_to_be_found_by() -> None:
    settings = PretrainSettings()
    assert world(2).find_name(settings) is None
    assert world(2, max_restarts=3, run_id="job 7").find_name(settings) == "pretrain-job-7"
    assert world(2, max_restarts=3).find_name(PretrainSettings(name="p")) == "p"
    with pytest.raises(SettingsError, match=r"pass --name, or torchrun's --rdzv-id"):
        world(2, max_restarts=3).find_name(settings)


def test_a_run_of_one_process_under_torchrun_resumes_automatically(
    store_path: Path, anchors_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    options: dict[str, Any] = {"store": store_path, "anchors": anchors_path, "runs": tmp_path, "name": "p"}
    options |= {"network": "14A", "voxel_size": 0.25, "jobs": 0, "device": "cpu", "batch_size": 3, "validate_every": 0}
    first = pretrain(PretrainSettings(**options, epochs=1), Progress())
    before = first.read_bytes()
    assert pretrain(PretrainSettings(**options), Progress()) == first
    assert first.read_bytes() == before
    with pytest.raises(SettingsError, match=r"p exists and was trained with --epochs 1: pass another --name"):
        pretrain(PretrainSettings(**options, epochs=2), Progress())


def test_alone_numbers_and_texts_come_back() -> None:
    alone = World(CPU)
    assert alone.gather([1.0, 2.0]).tolist() == [[1.0, 2.0]]
    assert alone.add_up(np.array([1, 2])).tolist() == [1, 2]
    assert (alone.total(3), alone.broadcast("x"), alone.leads) == (3, "x", True)
