"""Weights & Biases: the metrics of the TensorBoard events, in local files when it is offline."""

import builtins
import json
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lg3d_core.errors import MissingDependencyError, SettingsError
from lg3d_core.progress import Progress, Task
from lg3d_core.settings import FinetuneSettings
from lg3d_core.training.launch import open_run
from lg3d_core.training.log import TrainingLog, open_trackers
from lg3d_core.training.run import Run
from lg3d_core.training.step import StepResult
from lg3d_core.training.validation import Validation

SPEED = {"seconds": 2.0, "data_wait": 0.5, "voxels_per_second": 50.0}


def take_steps(run: Run, settings: FinetuneSettings, steps: range) -> None:
    """Log steps of two per epoch, and a validation after each epoch."""
    with open_trackers(run, settings, leads=True, purge_step=steps.start - 1) as trackers:
        log = TrainingLog(run, trackers, Task(), epochs=2, per_epoch=2)
        for done in steps:
            result = StepResult(losses={"loss": 1 / done, "offsets": 0.5}, voxels=100, facts={}, stopping=False)
            log.step(result, epoch=(done - 1) // 2, done=done, rate=0.1, speed=SPEED)
            if done % 2 == 0:
                scores = cast(Validation, SimpleNamespace(logged={"miou": done / 10}, group_scores={}))
                log.validation(scores, epoch=done // 2)


def events_of(folder: Path) -> dict[tuple[str, int], float]:
    found = EventAccumulator(str(folder))
    found.Reload()
    return {
        (tag, event.step): pytest.approx(event.value) for tag in found.Tags()["scalars"] for event in found.Scalars(tag)
    }


class FakeRun:
    """What a run of wandb is asked to do."""

    def __init__(self) -> None:
        self.logged: dict[tuple[str, int], float] = {}
        self.metrics: list[tuple[str, str | None]] = []
        self.finished = False

    def define_metric(self, name: str, *, step_metric: str | None = None) -> None:
        self.metrics.append((name, step_metric))

    def log(self, values: Mapping[str, float]) -> None:
        self.logged |= {(name, int(values["step"])): value for name, value in values.items() if name != "step"}

    def finish(self) -> None:
        self.finished = True


class FakeError(Exception):
    """As `wandb.Error`."""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A wandb whose runs record what they are asked to do."""
    module = SimpleNamespace(Settings=lambda **options: options, Error=FakeError, runs=[], calls=[])

    def init(**options: Any) -> FakeRun:
        module.calls.append(options)
        module.runs.append(FakeRun())
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return module


def test_wandb_gets_the_metrics_of_tensorboard(fake: SimpleNamespace, tmp_path: Path) -> None:
    settings = FinetuneSettings(runs=tmp_path, name="f", wandb=True, learning_rate=0.2)
    run = Run.create(settings)
    take_steps(run, settings, range(1, 5))
    (only,) = fake.runs
    assert only.logged == events_of(run.folder)
    assert only.logged["train/loss", 4] == 0.25
    assert only.logged["val/miou", 2] == 0.2
    assert only.metrics == [("step", None), ("*", "step")]
    assert only.finished
    assert fake.calls[0]["project"] == "lg3d"
    assert fake.calls[0]["name"] == "f"
    assert fake.calls[0]["config"]["learning_rate"] == 0.2


def test_a_resumed_run_continues_its_run_of_wandb(
    fake: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "rooms")
    settings = FinetuneSettings(runs=tmp_path, name="f", wandb=True)
    run = Run.create(settings)
    take_steps(run, settings, range(1, 3))
    take_steps(run, settings, range(3, 5))
    other = Run.create(FinetuneSettings(runs=tmp_path, name="g", wandb=True))
    take_steps(other, settings, range(1, 2))
    first, second, third = (call["id"] for call in fake.calls)
    assert first == second != third
    assert {call["project"] for call in fake.calls} == {"rooms"}
    assert {call["resume"] for call in fake.calls} == {"allow"}


def test_without_the_option_or_as_a_follower_wandb_is_not_used(fake: SimpleNamespace, tmp_path: Path) -> None:
    run = Run.create(FinetuneSettings(runs=tmp_path, name="f"))
    take_steps(run, FinetuneSettings(runs=tmp_path, name="f"), range(1, 2))
    with open_trackers(run, FinetuneSettings(runs=tmp_path, wandb=True), leads=False, purge_step=0) as trackers:
        assert trackers == []
    assert fake.runs == []


def test_a_refusal_of_wandb_is_one_line_with_what_to_do(
    fake: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> FakeRun:
        raise FakeError("api_key not configured\n(no-tty)")

    monkeypatch.setattr(fake, "init", refuse)
    settings = FinetuneSettings(runs=tmp_path, name="f", wandb=True)
    run = Run.create(settings)
    with pytest.raises(SettingsError) as caught:
        take_steps(run, settings, range(1, 2))
    assert str(caught.value) == (
        "wandb cannot start (api_key not configured (no-tty)): run wandb login, set WANDB_MODE=offline, or omit "
        f"--wandb; resume with --resume {run.folder}"
    )


def test_without_wandb_the_option_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **options: Any) -> Any:
        if name == "wandb":
            raise ModuleNotFoundError("No module named 'wandb'", name="wandb")
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    settings = FinetuneSettings(runs=tmp_path / "runs", store=tmp_path / "none", wandb=True)
    with (
        pytest.raises(MissingDependencyError, match=r"^--wandb needs wandb, and wandb is not installed: pip install"),
        open_run(settings, Progress()),
    ):
        pass
    assert not settings.runs.exists()


def records_of(path: Path) -> Iterator[bytes]:
    """Yield the records of a log in LevelDB's format, after wandb's header of 7 bytes."""
    data, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_offline_the_metrics_are_in_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    settings = FinetuneSettings(runs=tmp_path, name="f", wandb=True)
    run = Run.create(settings)
    take_steps(run, settings, range(1, 3))
    wandb.teardown()  # as at the end of a process: the rest is written
    (path,) = run.folder.glob("wandb/offline-run-*/run-*.wandb")
    history = {}
    for data in records_of(path):
        record = Record.FromString(data)
        values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        history |= {(name, values["step"]): value for name, value in values.items() if "/" in name}
    assert history == events_of(run.folder)
    assert ("val/miou", 2) in history
