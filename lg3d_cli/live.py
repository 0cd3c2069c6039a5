"""Progress on a terminal: a line with a bar, and a panel for tasks that report more values."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from lg3d_core.errors import one_line
from lg3d_core.progress import Progress, Task, Topic, whole_steps

REFRESHES_PER_SECOND = 4.0
AVERAGED_STEPS = 20
"""Number of latest steps over which speed and waiting time are averaged."""
CURVE_CELLS = 40
LEVELS = "▁▂▃▄▅▆▇█"


class LiveProgress(Progress):
    """Progress that is drawn in place on a terminal; notes and warnings scroll past above."""

    def __init__(self, console: Console | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console or Console(stderr=True)
        self.clock = clock

    def note(self, message: str) -> None:
        self.console.print(one_line(message), markup=False, highlight=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        self.console.print(
            f"warning: {one_line(message)}", markup=False, highlight=False, style="yellow", soft_wrap=True
        )

    def fatal(self, message: str) -> None:
        self.console.print(f"lg3d: error: {one_line(message)}", markup=False, highlight=False, soft_wrap=True)
        self.console.show_cursor()

    @contextmanager
    def task(self, description: str, *, total: int | None = None, unit: str = "") -> Iterator[Task]:
        task = DrawnTask(one_line(description), total, unit, clock=self.clock)
        # Results go to stdout while this draws on stderr: they must not be captured.
        with Live(
            task,
            console=self.console,
            refresh_per_second=REFRESHES_PER_SECOND,
            redirect_stdout=False,
            vertical_overflow="crop",
        ):
            try:
                yield task
            finally:
                task.finish()

    @contextmanager
    def status(self) -> Iterator[Callable[[str], None]]:
        shown = ""
        with Live(console=self.console, auto_refresh=False, transient=True, redirect_stdout=False) as line:

            def tell(message: str) -> None:
                nonlocal shown
                if message != shown:
                    shown = message
                    line.update(Text(one_line(message), no_wrap=True, overflow="ellipsis"), refresh=True)

            yield tell


class Curve:
    """Course of a value over any number of steps, in a bounded number of means."""

    def __init__(self, cells: int = CURVE_CELLS) -> None:
        self.cells = cells
        self.stride = 1
        self.means: tuple[float, ...] = ()
        self.pending = 0.0
        self.num_pending = 0

    def add(self, value: float) -> None:
        """Add a value; when all cells are full, pairs of neighbours are merged."""
        self.pending += value
        self.num_pending += 1
        if self.num_pending == self.stride:
            self.means = (*self.means, self.pending / self.stride)
            self.pending, self.num_pending = 0.0, 0
        if len(self.means) == 2 * self.cells:
            self.means = tuple((a + b) / 2 for a, b in zip(self.means[::2], self.means[1::2], strict=True))
            self.stride *= 2

    def __str__(self) -> str:
        """Return one character per mean, low to high, for the latest `cells` means."""
        shown = [value for value in self.means if math.isfinite(value)]
        if len(shown) > self.cells:  # pairs, so that the whole course stays visible
            shown = [(a + b) / 2 for a, b in zip(shown[::2], shown[1::2], strict=False)]
        if len(shown) < 2:
            return ""
        low, high = min(shown), max(shown)
        scale = (len(LEVELS) - 1) / (high - low) if high > low else 0.0
        return "".join(LEVELS[round((value - low) * scale)] for value in shown)


class _Speed(NamedTuple):
    """Means over the latest steps."""

    voxels_per_second: float
    seconds: float
    waiting: float


class DrawnTask(Task):
    """State of a task. The drawing thread only reads; shared values are replaced, never modified."""

    def __init__(self, description: str, total: int | None, unit: str, *, clock: Callable[[], float]) -> None:
        self.description = description
        self.total = total
        self.unit = unit
        self.clock = clock
        self.start = clock()
        self.end: float | None = None
        self.done: float = 0
        self.skipped: float = 0
        self.status = ""
        self.topics: dict[Topic, dict[str, float]] = {}
        self.steps: tuple[tuple[float, float, float], ...] = ()
        self.curve = Curve()
        self.asked_to_stop = False

    def advance(self, steps: float = 1, *, status: str = "") -> None:
        self.done += steps
        self.status = one_line(status) or self.status

    def skip(self, steps: float) -> None:
        self.done += steps
        self.skipped += steps

    def show(self, topic: Topic, values: Mapping[str, float]) -> None:
        if not values:
            return
        self.topics = {**self.topics, topic: dict(values)}
        if topic is Topic.LOSSES:
            self.curve.add(next(iter(values.values())))
        elif topic is Topic.SPEED:
            seconds = values.get("seconds", 0.0)
            step = (values.get("voxels_per_second", 0.0) * seconds, seconds, values.get("data_wait", 0.0))
            self.steps = (*self.steps[1 - AVERAGED_STEPS :], step)

    def stopping(self) -> None:
        self.asked_to_stop = True

    def finish(self) -> None:
        """Stop the clock."""
        self.end = self.clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the start, or the duration of a finished task."""
        return (self.clock() if self.end is None else self.end) - self.start

    @property
    def left(self) -> float | None:
        """Estimated remaining seconds, or None if unknown."""
        fresh = self.done - self.skipped
        if self.total is None or fresh <= 0 or self.end is not None:
            return None
        return self.elapsed / fresh * max(0, self.total - self.done)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._panel(unicode=options.encoding.startswith("utf")) if self.topics else self._line(options)

    def _line(self, options: ConsoleOptions) -> RenderableType:
        """Return one line for a task that only counts; the status moves below if there is no space beside it."""
        count = f"{self._count()}, {self._clock_text()}"
        columns = [Column(no_wrap=True), Column(ratio=1), Column(no_wrap=True)]
        cells: list[RenderableType] = [Text(self.description), self._bar(), Text(count)]
        status = Text(self.status, style="dim", no_wrap=True, overflow="ellipsis")
        beside = len(self.description) + len(count) + len(self.status) + 24 <= options.max_width
        if self.status and beside:
            columns.append(Column(no_wrap=True))
            cells.append(status)
        table = Table.grid(*columns, padding=(0, 1), expand=True)
        table.add_row(*cells)
        return table if beside or not self.status else Group(table, status)

    def _panel(self, *, unicode: bool) -> RenderableType:
        table = Table.grid(Column(no_wrap=True, style="bold"), Column(ratio=1), padding=(0, 2), expand=True)
        head = Table.grid(Column(ratio=1), Column(no_wrap=True), padding=(0, 1), expand=True)
        head.add_row(self._bar(), Text(self._count()))
        table.add_row("time", Text(self._clock_text()))
        for topic, values in self.topics.items():
            table.add_row(topic, Text(self._topic_text(topic, values)))
            curve = str(self.curve) if unicode and topic is Topic.LOSSES else ""
            if curve:
                table.add_row("", Text(curve, style="cyan", no_wrap=True))
        parts: list[RenderableType] = [head, table]
        if self.asked_to_stop:
            parts.append(Text("stopping: saving the state", style="yellow"))
        elif self.end is None:
            parts.append(Text("Ctrl-C saves the state and prints how to resume", style="dim"))
        title = ", ".join(part for part in (self.description, self.status) if part)
        return Panel(Group(*parts), title=Text(title), title_align="left", border_style="dim")

    def _bar(self) -> ProgressBar:
        return ProgressBar(total=self.total, completed=self.done, pulse=self.total is None and self.end is None)

    def _count(self) -> str:
        done = f"{whole_steps(self.done):,}"
        count = done if self.total is None else f"{done}/{self.total:,}"
        return f"{count} {self.unit}s" if self.unit else count

    def _clock_text(self) -> str:
        left = self.left
        return format_seconds(self.elapsed) + (f", {format_seconds(left)} left" if left is not None else "")

    def _topic_text(self, topic: Topic, values: dict[str, float]) -> str:
        if topic is Topic.SPEED:
            speed = self._speed()
            waiting = f"{speed.waiting:.0%}".replace("%", "\N{NO-BREAK SPACE}%")
            return (
                f"{speed.voxels_per_second:,.0f} voxels/s, {speed.seconds:.2f} s per step, {waiting} waiting for data"
            )
        if topic is Topic.VALIDATION:
            scores = {name: f"{100 * value:.1f}" for name, value in values.items() if math.isfinite(value)}
            shown = [f"{name} {scores[name]}" for name in scores if name not in ("epoch", "all")]
            total = f"mIoU {scores['all']} %" if "all" in scores else "mIoU"
            return f"{total}" + (f": {', '.join(shown)}" if shown else "") + f" (epoch {values.get('epoch', 0):.0f})"
        return "  ".join(f"{name} {value:.4g}" for name, value in values.items())

    def _speed(self) -> _Speed:
        voxels, seconds, waited = (sum(column) for column in zip(*self.steps, strict=True))
        return _Speed(voxels / max(seconds, 1e-9), seconds / len(self.steps), waited / max(seconds, 1e-9))


def format_seconds(seconds: float) -> str:
    """Format seconds as `1:02:03`, with the days in front if there are any."""
    whole = max(0, round(seconds))
    days, rest = divmod(whole, 86_400)
    text = f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days} d {text}" if days else text
