"""Progress reports: the core never prints; it calls a `Progress`, and the command line decides what to show."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum


class Topic(StrEnum):
    """What the values are that a training run shows.

    LOSSES: Any names; the first is the minimised one.
    SPEED: `voxels_per_second`; `seconds` per step; `data_wait`, the seconds of them spent waiting for the loader.
    VALIDATION: `epoch`, and mean IoUs in 0..1, nan if undefined.
    """

    LOSSES = "losses"
    SPEED = "speed"
    VALIDATION = "validation"


LOGGER = "lg3d"


def whole_steps(done: float) -> int:
    """Return the number of complete steps of a sum of parts, which may be a rounding error below a whole number."""
    return math.floor(done + 1e-6)


class Task:
    """A task counted in steps. This base class is silent."""

    def advance(self, steps: float = 1, *, status: str = "") -> None:
        """Count `steps`, or a part of one, as done; `status` describes the latest one (an epoch, a scene id)."""

    def skip(self, steps: float) -> None:
        """Count `steps` as done before this task began; they do not enter the estimate of the remaining time."""
        self.advance(steps)

    def show(self, topic: Topic, values: Mapping[str, float]) -> None:
        """Replace the known values of one topic."""

    def stopping(self) -> None:
        """Note that the user asked to stop after this step. A signal handler calls it, so it must only set a flag."""


class Progress:
    """Receiver of tasks, notes and warnings. This base class is silent; the command line has one that draws."""

    @contextmanager
    def task(self, description: str, *, total: int | None = None, unit: str = "") -> Iterator[Task]:
        """Open a task of `total` steps, each a `unit` ("scene", "epoch"), that ends with the context."""
        del description, total, unit
        yield Task()

    @contextmanager
    def status(self) -> Iterator[Callable[[str], None]]:
        """Open a line that can be updated at any time, such as the object under the pointer; "" clears it."""
        yield lambda _: None

    def note(self, message: str) -> None:
        """Show one line of information to the user."""

    def warn(self, message: str) -> None:
        """Warn the user of something that is probably unintended."""

    def fatal(self, message: str) -> None:
        """Show why this process ends now without unwinding, so that no exception reports it."""


class LoggedProgress(Progress):
    """Progress of the Python API: notes and warnings go to the logger `lg3d`, at the levels INFO and WARNING."""

    def note(self, message: str) -> None:
        logging.getLogger(LOGGER).info(message)

    def warn(self, message: str) -> None:
        logging.getLogger(LOGGER).warning(message)

    def fatal(self, message: str) -> None:
        logging.getLogger(LOGGER).error(message)
