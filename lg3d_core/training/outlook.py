"""Estimate of the duration of a training run."""

from collections.abc import Callable

from lg3d_core.progress import Progress
from lg3d_core.settings import TrainSettings

LARGE_NETWORKS = ("34D", "34C", "18C")
FINE_VOXELS = 0.05
"""Voxel size in metres below which a step on a CPU takes long."""
LONG_SECONDS = 6 * 3600.0
"""Duration in seconds from which a smaller run is suggested."""
SMALLER = "a smaller run: --recipe demo (14A, 14 cm), or --network 14A --voxel-size 0.1 --epochs 20"


class Outlook:
    """Reports a long run before its first step, and on a CPU the remaining time after it.

    Args:
        settings: Settings of the run.
        steps: Optimiser steps that are left.
        on_cpu: Whether the run trains on a CPU.
        model: Returns the modelled seconds and bytes of a step with a given number of voxels.
        progress: Receives the reports.
    """

    def __init__(
        self,
        settings: TrainSettings,
        *,
        steps: int,
        on_cpu: bool,
        progress: Progress,
        model: Callable[[int], tuple[float, int]] | None = None,
    ) -> None:
        self._settings = settings
        self._steps = steps
        self._progress = progress
        self._on_cpu = on_cpu
        self._is_measured = False
        self._model = model
        self._has_begun = False
        self._is_large = settings.network in LARGE_NETWORKS or settings.voxel_size < FINE_VOXELS

    def before_step(self, *, scenes: int, voxels: int) -> None:
        """Report a long run, and the size of the first step if it may take minutes, before that step is computed."""
        if self._has_begun:
            return
        self._has_begun = True
        if self._model is not None:
            seconds, memory = self._model(voxels)
            if seconds * self._steps >= LONG_SECONDS:
                self._progress.note(
                    f"{self._steps:,} steps of {self._settings.network} will take about "
                    f"{format_span(seconds * self._steps)} and {memory / 2**30:.0f} GiB of memory (estimate); "
                    "lg3d doctor --plan measures a step"
                )
        if not (self._on_cpu and self._is_large):
            return
        size = f"{self._settings.network} with {100 * self._settings.voxel_size:g} cm voxels"
        self._progress.note(
            f"training {size} on a CPU, {self._steps:,} steps; computing the first one: {scenes} scenes, "
            f"{voxels:,} voxels"
        )

    def after_step(self, *, seconds: float, left: int) -> None:
        """Report the remaining time estimated from the first step, and suggest a smaller run if it is long."""
        if self._is_measured or not self._on_cpu:
            return
        self._is_measured = True
        total = seconds * left
        if total >= LONG_SECONDS:
            self._progress.warn(
                f"the first step took {seconds:.0f} s: the other {left:,} will take about {format_span(total)} on this "
                f"CPU. Ctrl-C saves and stops; {SMALLER}"
            )
        elif self._is_large:
            self._progress.note(f"the first step took {seconds:.1f} s: about {format_span(total)} left")


def format_span(seconds: float) -> str:
    """Format a duration in its largest unit, such as `40 minutes` or `12 days`."""
    for name, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.0f} {name}s"
    return f"{seconds:.0f} seconds"
