"""Killed, stopped, out of space, two at once: nothing torn, nothing twice, and the end of an undisturbed run."""

import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lg3d_core.errors import DataError, Interrupted
from lg3d_core.networks.checkpoint import load_network
from lg3d_core.objectives import classification
from lg3d_core.progress import Progress
from lg3d_core.settings import FinetuneSettings, PrepareSettings
from lg3d_core.store import prepare as prepare_module
from lg3d_core.store import prepare_store
from lg3d_core.training.finetune import finetune
from lg3d_core.training.snapshots import Snapshots
from lg3d_core.training.validation import Validator
from tests.interruption import snapshot, temporaries
from tests.test_training_runs import SMALL, equal_weights, read_losses

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_commands_killed_and_stopped_at_random_instants_end_as_undisturbed_ones() -> None:
    """A few of the kills that `make test-kill` makes hundreds of."""
    only = "prepare,prepare-2,pretrain,predict"
    command = [sys.executable, "-m", "tests.interruption", "--kills", "10", "--stops", "5", "--only", only, "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    tallies = json.loads(done.stdout)
    assert sum(tally["kills"] for tally in tallies) >= 10
    assert sum(tally["stops"] for tally in tallies) >= 5


def scratch(store: Path, runs: Path, name: str, **changes: Any) -> FinetuneSettings:
    values = {"store": store, "runs": runs, "name": name, "start": "scratch", "epochs": 2, **SMALL, "augment": True}
    return FinetuneSettings(**(values | {"loss": "cross-entropy", "validate_every": 1} | changes))


@pytest.fixture(scope="module")
def whole(store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an undisturbed run: two epochs of two steps, each validated."""
    return finetune(scratch(store_path, tmp_path_factory.mktemp("whole"), "f"), Progress())


def prepared(store: Path) -> dict[str, str]:
    """What `prepare` writes: other tests let runs put their budgets and banks beside it."""
    return {
        name: digest
        for name, digest in snapshot(store).items()
        if name.partition("/")[0] not in ("budgets", "instances")
    }


def stop_in(seconds: float, number: signal.Signals = signal.SIGTERM) -> None:
    threading.Timer(seconds, os.kill, (os.getpid(), number)).start()


@pytest.mark.parametrize("moment", ["step", "validation"])
def test_a_stop_in_the_middle_of_something_long_saves_what_came_before_it(
    moment: str, store_path: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third forward pass, after its statistics moved, and the second epoch's validation would take a minute."""
    calls = {"step": 0, "validation": 0}
    likelihood, count = classification.log_likelihood, Validator.validate

    def slow_loss(*arguments: Any, **options: Any) -> torch.Tensor:
        calls["step"] += 1
        if moment == "step" and calls["step"] == 4:
            stop_in(0.1)
            time.sleep(60)
        return likelihood(*arguments, **options)

    def slow_validation(*arguments: Any, **options: Any) -> Any:
        calls["validation"] += 1
        if moment == "validation" and calls["validation"] == 2:
            stop_in(0.1)
            time.sleep(60)
        return count(*arguments, **options)

    monkeypatch.setattr(classification, "log_likelihood", slow_loss)
    monkeypatch.setattr(Validator, "validate", slow_validation)
    settings = scratch(store_path, tmp_path, "f")
    handler = signal.getsignal(signal.SIGTERM)
    start = time.monotonic()
    with pytest.raises(Interrupted, match=r"stopped and saved; resume with: lg3d finetune --resume .*f$"):
        finetune(settings, Progress())
    assert time.monotonic() - start < 30
    state = torch.load(tmp_path / "f" / "resume.pt", weights_only=True)
    assert (state["epoch"], state["step"]) == ((1, 1) if moment == "step" else (1, 2))
    assert signal.getsignal(signal.SIGTERM) == handler
    resumed = finetune(dataclasses.replace(settings, resume=tmp_path / "f"), Progress())
    assert equal_weights(whole, resumed)
    assert read_losses(resumed.parent) == read_losses(whole.parent)
    validated = [line for line in (resumed.parent / "metrics.jsonl").read_text().splitlines() if "val_miou" in line]
    assert validated == [
        line for line in (whole.parent / "metrics.jsonl").read_text().splitlines() if "val_miou" in line
    ]
    assert equal_weights(whole.parent / "best.safetensors", resumed.parent / "best.safetensors")


def test_a_run_is_trained_by_one_process_at_a_time(whole: Path, tmp_path: Path) -> None:
    from lg3d_core.training import run as run_module

    shutil.copytree(whole.parent, tmp_path / "f")
    run = run_module.Run.open(tmp_path / "f")
    patience, run_module.PATIENCE = run_module.PATIENCE, 0.2
    try:
        with run.sole_writer(), pytest.raises(DataError, match="in use by another lg3d process that trains this run"):
            finetune(FinetuneSettings(resume=tmp_path / "f"), Progress())
    finally:
        run_module.PATIENCE = patience


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 110 MB: room for one checkpoint and its state, not for another beside them."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=110m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here; the test with limited files says the same")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=400m", str(disk)], check=True)


def test_training_on_a_full_disk_is_one_line_and_the_last_checkpoint_stays(
    small_disk: Path, store_path: Path, whole: Path
) -> None:
    settings = scratch(store_path, small_disk, "f", validate_every=0)
    with pytest.raises(
        DataError, match=r"cannot write .*(safetensors|resume\.pt) \(.*[Nn]o .*\).*free some space"
    ) as caught:
        finetune(settings, Progress())
    assert "\n" not in str(caught.value)
    _, info = load_network(small_disk / "f" / "checkpoint.safetensors")
    assert info.epoch == 1
    assert torch.load(small_disk / "f" / "resume.pt", weights_only=True)["epoch"] == 1
    assert temporaries(small_disk) == []
    grow(small_disk)
    assert equal_weights(finetune(dataclasses.replace(settings, resume=small_disk / "f"), Progress()), whole)


def test_prepare_on_a_full_disk_keeps_the_scenes_before(small_disk: Path, raw_rooms: Path, store_path: Path) -> None:
    size = (store_path / "scenes" / "scene9000_00.h5").stat().st_size
    disk, filler = os.statvfs(small_disk), small_disk / "filler"
    filler.write_bytes(bytes(int(disk.f_bavail * disk.f_frsize - 2.5 * size)))  # leaves room for about two scenes
    settings = PrepareSettings(raw=raw_rooms, store=small_disk / "data", jobs=1)
    wanted = len(list((store_path / "scenes").glob("*.h5")))
    with pytest.raises(DataError, match=r"cannot write .* \(No space left on device\).*then run again"):
        prepare_store(settings, Progress())
    written = sorted((small_disk / "data" / "scenes").glob("*.h5"))
    assert 0 < len(written) < wanted
    for path in written:
        assert path.read_bytes() == (store_path / "scenes" / path.name).read_bytes()
    assert temporaries(small_disk) == []
    filler.unlink()
    prepare_store(settings, Progress())
    assert prepared(small_disk / "data") == prepared(store_path)


def test_a_state_that_cannot_be_written_leaves_the_checkpoint_and_the_older_state(
    store_path: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no file may have more than 50 MB, after the first epoch: a checkpoint has 32, a state 64."""
    settings = scratch(store_path, tmp_path, "f", validate_every=0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    save = Snapshots.save_state

    def limited(*arguments: Any) -> None:
        save(*arguments)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000_000, limits[1]))

    monkeypatch.setattr(Snapshots, "save_state", limited)
    try:
        with pytest.raises(DataError, match=r"cannot write .*resume\.pt \(no space for the state to resume from"):
            finetune(settings, Progress())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    monkeypatch.setattr(Snapshots, "save_state", save)
    assert torch.load(tmp_path / "f" / "resume.pt", weights_only=True)["epoch"] == 1
    assert temporaries(tmp_path) == []
    assert equal_weights(finetune(dataclasses.replace(settings, resume=tmp_path / "f"), Progress()), whole)


def test_two_prepares_at_once_write_every_scene_once(
    raw_rooms: Path, store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = prepare_module.write_scene_file

    def counting(path: Path, *arguments: Any) -> None:
        written.append(path.name)
        time.sleep(0.05)  # so that both are at it
        write(path, *arguments)

    monkeypatch.setattr(prepare_module, "write_scene_file", counting)
    refused: list[str] = []

    def prepare() -> None:
        try:
            prepare_store(PrepareSettings(raw=raw_rooms, store=tmp_path / "data", jobs=1), Progress())
        except DataError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=prepare) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == [f"{tmp_path / 'data'} is in use by another lg3d prepare: wait for it to end"] * 2
    assert sorted(written) == sorted(path.name for path in (store_path / "scenes").glob("*.h5"))
    assert prepared(tmp_path / "data") == prepared(store_path)
