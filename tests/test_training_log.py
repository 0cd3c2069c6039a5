"""The log of a run: which process writes it, what it displays, and how steps are timed."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from lg3d_core.progress import Task, Topic
from lg3d_core.settings import FinetuneSettings
from lg3d_core.training.log import Meter, TrainingLog, open_trackers
from lg3d_core.training.run import Run
from lg3d_core.training.step import StepResult

STEP = StepResult(losses={"loss": 1.25, "positive": 0.5}, voxels=100, facts={"pasted": 3}, stopping=False)
SPEED = {"seconds": 2.0, "data_wait": 0.5, "voxels_per_second": 50.0}


class Display(Task):
    """A task that records what it is shown."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def advance(self, steps: int = 1, *, status: str = "") -> None:
        self.seen.append((steps, status))

    def show(self, topic: Topic, values: Mapping[str, float]) -> None:
        self.seen.append((topic, dict(values)))


@pytest.mark.parametrize("leads", [True, False])
def test_every_process_displays_a_step_and_the_leader_writes_it(leads: bool, tmp_path: Path) -> None:
    run, display = Run.create(FinetuneSettings(runs=tmp_path, name="f")), Display()
    with open_trackers(run, FinetuneSettings(), leads=leads, purge_step=0) as trackers:
        TrainingLog(run, trackers, display, epochs=5, per_epoch=2).step(STEP, epoch=1, done=4, rate=0.1, speed=SPEED)
    assert display.seen == [(Topic.LOSSES, STEP.losses), (Topic.SPEED, SPEED), (1, "epoch 2/5")]
    assert (list(run.folder.glob("events.*")) != []) == leads
    assert run.metrics_file.is_file() == leads
    if leads:
        record = json.loads(run.metrics_file.read_text())
        assert record == {"step": 4, "epoch": 1, "lr": 0.1, **STEP.losses, **SPEED, "pasted": 3}


def test_the_time_of_waiting_is_a_part_of_that_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def items() -> Iterator[str]:
        nonlocal now
        for item in "ab":
            now += 3.0  # loading
            yield item

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    meter, reports = Meter(), []
    for _ in meter.waiting_for(items()):
        now += 1.0  # the step
        reports.append(meter.report(20))
        now += 10.0  # validation and saving
        meter.restart()
    assert reports == [{"seconds": 4.0, "data_wait": 3.0, "voxels_per_second": 5.0}] * 2
