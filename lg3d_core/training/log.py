"""Log of a training run: metrics.jsonl, TensorBoard events and the progress display."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from lg3d_core.progress import Task, Topic
from lg3d_core.training.events import EventFile
from lg3d_core.training.run import Run
from lg3d_core.training.step import StepResult
from lg3d_core.training.validation import Validation

T = TypeVar("T")


class TrainingLog:
    """Log of the steps and validations of a run; a process without an event file only displays them.

    Args:
        run: Folder of the run.
        events: Event file of the leader; None in the other processes.
        task: Display of the progress.
        epochs: Epochs of the whole run.
        per_epoch: Optimiser steps per epoch.
    """

    def __init__(self, run: Run, events: EventFile | None, task: Task, *, epochs: int, per_epoch: int) -> None:
        self._run = run
        self._events = events
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
        if self._events is not None:
            self._run.log({"step": done, "epoch": epoch, "lr": rate, **losses, **speed, **result.facts})
            for name, value in {**losses, "lr": rate}.items():
                self._events.add_scalar(f"train/{name}", value, done)
        self._task.show(Topic.LOSSES, losses)
        self._task.show(Topic.SPEED, speed)
        self._status = f"epoch {epoch + 1}/{self._epochs}"
        self._task.advance(status=self._status)

    def validating(self, *, epoch: int, done: int, total: int) -> None:
        """Display the number of validated scenes after an epoch, from 1."""
        self._task.advance(0, status=f"epoch {epoch}/{self._epochs}, validation {done}/{total}")

    def validation(self, validation: Validation, *, epoch: int) -> None:
        """Log the scores after an epoch, from 1."""
        if self._events is not None:
            step, scores = epoch * self._per_epoch, validation.logged
            self._run.log({"step": step, "epoch": epoch, **{f"val_{name}": value for name, value in scores.items()}})
            for name, value in scores.items():
                self._events.add_scalar(f"val/{name}", value, step)
        if self._status:
            self._task.advance(0, status=self._status)
        self._task.show(Topic.VALIDATION, {"epoch": epoch, **validation.group_scores})


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
def open_events(run: Run, *, leads: bool, purge_step: int) -> Iterator[EventFile | None]:
    """Open the TensorBoard event file of a run; in a resumed run, steps after `purge_step` are replaced.

    A process that does not lead has no event file.
    """
    if not leads:
        yield None
        return
    events = EventFile(run.folder, purge_step=purge_step + 1)
    try:
        yield events
    finally:
        events.close()
