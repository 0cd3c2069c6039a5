"""How the core reports: it never prints, it tells a `Progress`, and the command line decides what to show."""

from collections.abc import Iterator
from contextlib import contextmanager


class Task:
    """One thing under way, counted in steps. This one is silent."""

    def advance(self, steps: int = 1, *, status: str = "") -> None:
        """Count `steps` as done; `status` is a few words on the latest one (a loss, a scene id)."""


class Progress:
    """Receives tasks, notes and warnings. This one is silent; the command line has one that draws."""

    @contextmanager
    def task(self, description: str, *, total: int | None = None, unit: str = "") -> Iterator[Task]:
        """Announce work of `total` steps, each a `unit` ("scene", "epoch"), for as long as the context is open."""
        del description, total, unit
        yield Task()

    def note(self, message: str) -> None:
        """Tell the user one fact worth a line."""

    def warn(self, message: str) -> None:
        """Tell the user of something that is probably not what they meant."""
