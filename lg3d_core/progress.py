"""How the core reports: it never prints, it tells a `Progress`, and the command line decides what to show."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class Task:
    """One thing under way, counted in steps. This one is silent."""

    def advance(self, steps: int = 1, *, status: str = "") -> None:
        """Count `steps` as done; `status` is a few words on the latest one (a loss, a scene id)."""

    def skip(self, steps: int) -> None:
        """Count `steps` as done before this task began: they say nothing of how long the rest takes."""
        self.advance(steps)

    def show(self, topic: str, values: Mapping[str, float]) -> None:
        """Replace what is known of one topic by named values.

        Training tells `losses` (any names, the first is what is minimised), `speed` (`voxels_per_second`; `seconds`, of
        a step; `data_wait`, the part of them spent waiting for the loader) and `validation` (`epoch`, and mean IoUs in
        0..1, nan where undefined).
        """

    def stopping(self) -> None:
        """The user asked to stop: the work ends after this step. A signal's handler calls it: it may only note so."""


class Progress:
    """Receives tasks, notes and warnings. This one is silent; the command line has one that draws."""

    @contextmanager
    def task(self, description: str, *, total: int | None = None, unit: str = "") -> Iterator[Task]:
        """Announce work of `total` steps, each a `unit` ("scene", "epoch"), for as long as the context is open."""
        del description, total, unit
        yield Task()

    @contextmanager
    def status(self) -> Iterator[Callable[[str], None]]:
        """Open a line that may be told at every moment, such as what is under the pointer; empty where nothing is."""
        yield lambda _: None

    def note(self, message: str) -> None:
        """Tell the user one fact worth a line."""

    def warn(self, message: str) -> None:
        """Tell the user of something that is probably not what they meant."""

    def last_word(self, message: str) -> None:
        """Tell the user why this process ends now, without unwinding: no exception will say so."""
