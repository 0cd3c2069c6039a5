"""Log of a training run: metrics.jsonl, TensorBoard events, Weights & Biases, and the progress display."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Protocol, TypeVar

from lg3d_core.progress import Task, Topic
from lg3d_core.settings import TrainSettings
from lg3d_core.training.events import EventFile
from lg3d_core.training.run import Run
from lg3d_core.training.step import StepResult
from lg3d_core.training.validation import Validation
from lg3d_core.training.wandb_run import WandbRun

T = TypeVar("T")


class Tracker(Protocol):
    """Receiver of the metrics of a run."""

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record the values of one step."""

    def close(self) -> None:
        """End the record."""


class TrainingLog:
    """Log of the steps and validations of a run; a process without trackers only displays them.

    Args:
        run: Folder of the run.
        trackers: Receivers of the leader's metrics; none in the other processes.
        task: Display of the progress.
        epochs: Epochs of the whole run.
        per_epoch: Optimiser steps per epoch.
    """

    def __init__(self, run: Run, trackers: Sequence[Tracker], task: Task, *, epochs: int, per_epoch: int) -> None:
        self._run = run
        self._trackers = trackers
        self._task = task
        self._epochs = epochs
        self._per_epoch = per_epoch
        self._status = ""

    def step(self, result: StepResult, *, epoch: int, done: int, rate: float, speed: dict[str, float]) -> None:
        """Log an optimiser step.

        Args:
            result: Losses and counts of the step.
            epoch: Epoch of the step, from 0.
            done: Number of steps of the run so far, with this one.
            rate: Learning rate of the step.
            speed: Figures of the meter.
        """
        losses = result.losses
        if self._trackers:
            self._run.log({"step": done, "epoch": epoch, "lr": rate, **losses, **speed, **result.facts})
            self._track("train", {**losses, "lr": rate}, done)
        self._task.show(Topic.LOSSES, losses)
        self._task.show(Topic.SPEED, speed)
        self._status = f"epoch {epoch + 1}/{self._epochs}"
        self._task.advance(status=self._status)

    def validating(self, *, epoch: int, done: int, total: int) -> None:
        """Display the number of validated scenes after an epoch, from 1."""
        self._task.advance(0, status=f"epoch {epoch}/{self._epochs}, validation {done}/{total}")

    def validation(self, validation: Validation, *, epoch: int) -> None:
        """Log the scores after an epoch, from 1."""
        if self._trackers:
            step, scores = epoch * self._per_epoch, validation.logged
            self._run.log({"step": step, "epoch": epoch, **{f"val_{name}": value for name, value in scores.items()}})
            self._track("val", scores, step)
        if self._status:
            self._task.advance(0, status=self._status)
        self._task.show(Topic.VALIDATION, {"epoch": epoch, **validation.group_scores})

    def _track(self, group: str, values: Mapping[str, float], step: int) -> None:
        for tracker in self._trackers:
            tracker.add_scalars({f"{group}/{name}": value for name, value in values.items()}, step)


class Meter:
    """Timer of training steps and of the time that they wait for data."""

    def __init__(self) -> None:
        self.waited = 0.0
        self.start = time.perf_counter()

    def waiting_for(self, items: Iterator[T]) -> Iterator[T]:
        """Yield the items and add up the time until each arrives."""
        while True:
            before = time.perf_counter()
            item = next(items, None)
            self.waited += time.perf_counter() - before
            if item is None:
                return
            yield item

    def restart(self) -> None:
        """Start timing the next step, without validation and saving."""
        self.start, self.waited = time.perf_counter(), 0.0

    def report(self, voxels: int) -> dict[str, float]:
        """Return the figures since the last report."""
        seconds, waited = time.perf_counter() - self.start, self.waited
        self.restart()
        return {"seconds": seconds, "data_wait": waited, "voxels_per_second": voxels / max(seconds, 1e-9)}


@contextmanager
def open_trackers(run: Run, settings: TrainSettings, *, leads: bool, purge_step: int) -> Iterator[Sequence[Tracker]]:
    """Open the TensorBoard event file of a run and, if chosen, its run of Weights & Biases.

    Args:
        run: Folder of the run.
        settings: Settings of the run.
        leads: Whether this process leads; the others have no trackers.
        purge_step: In a resumed run, steps after this one are replaced in the event file.
    """
    with ExitStack() as stack:
        trackers: list[Tracker] = []
        if leads:
            trackers.append(stack.enter_context(closing(EventFile(run.folder, purge_step=purge_step + 1))))
            if settings.wandb:
                trackers.append(stack.enter_context(closing(WandbRun(run.folder, settings))))
        yield trackers
