"""What the user sees: results on stdout, everything else on stderr; bars on a terminal, plain lines in a log.

rich takes a third of the time that `lg3d --help` and a TAB wait for, so it is loaded where something is drawn.
"""

import contextlib
import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import typer

from lg3d_core.errors import Lg3dError, one_line
from lg3d_core.progress import Progress, Task

T = TypeVar("T")

LOG_EVERY_SECONDS = 15.0
STATUS_EVERY_SECONDS = 1.0
FIRST_COLUMN = 24
"""Characters that the first column of a table needs."""


def result(value: object) -> None:
    """Print one result, a path or a number, alone on a line of stdout."""
    sys.stdout.write(f"{value}\n")
    sys.stdout.flush()


def outcome(values: Mapping[str, object], *, as_json: bool, details: Mapping[str, Any] | None = None) -> None:
    """Print the one value that a command returns, alone on a line, or with `details` as a JSON object."""
    if as_json:
        result_json({**(details or {}), **{key: str(value) for key, value in values.items()}})
        return
    for value in values.values():
        result(value)


def leader_result(values: Mapping[str, object], *, as_json: bool) -> None:
    """Print an outcome, under torchrun by the first process alone."""
    if not follows():
        outcome(values, as_json=as_json)


def result_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout; a value that is not finite becomes null."""
    result(json.dumps(value, indent=2, allow_nan=False))


def result_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout: drawn on a terminal, tab-separated and complete in a pipe."""
    if not sys.stdout.isatty():
        for row in [header, *rows]:
            result("\t".join(map(one_line, row)))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    for k, name in enumerate(header):
        table.add_column(escape(name), justify="left" if k == 0 else "right", no_wrap=k > 0)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)


def note_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stderr: drawn on a terminal, tab-separated elsewhere."""
    if not sys.stderr.isatty():
        sys.stderr.write("".join("\t".join(row) + "\n" for row in [header, *rows]))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    for name in header:
        table.add_column(escape(name))
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console(stderr=True).print(table)


def has_room_for(header: Sequence[str]) -> bool:
    """Whether a table with these columns fits: always in a pipe, on a terminal if the headings fit on a line."""
    if not sys.stdout.isatty():
        return True
    from rich.console import Console

    return Console().width >= sum(len(name) + 3 for name in header) + FIRST_COLUMN


def follows() -> bool:
    """Whether this is one of several processes that `torchrun` started, and not the first, which alone reports."""
    return "LOCAL_RANK" in os.environ and os.environ.get("RANK", "0") != "0"


def error(message: str) -> None:
    """Say on one line of stderr what went wrong."""
    sys.stderr.write(f"lg3d: error: {one_line(message)}\n")


def notice(message: str) -> None:
    """Say on one line of stderr what the user must know, also when quiet."""
    sys.stderr.write(f"lg3d: {one_line(message)}\n")


def aside(message: str, *, indent: int = 2) -> None:
    """Write what belongs to a question on stderr, wrapped, later lines `indent` characters in."""
    width = shutil.get_terminal_size().columns
    sys.stderr.write(textwrap.fill(message, width, initial_indent="  ", subsequent_indent=" " * indent) + "\n")


def can_ask() -> bool:
    """Whether somebody sits there to answer: both ends are a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str, *, default: str | None, check: Callable[[str], T]) -> T:
    """Ask on stderr until `check` takes the answer; Return takes the default, and Ctrl-C or Ctrl-D gives up.

    Args:
        question: Without a colon.
        default: What Return stands for; None asks again.
        check: Turns the answer into a value.

    Raises:
        typer.Abort: Nobody answers.
    """
    while True:
        answer = _read_line(question + (f" [{default}]: " if default is not None else ": ")) or default
        if answer is None:
            continue
        try:
            return check(answer)
        except Lg3dError as reason:
            error(str(reason))


def confirm(question: str) -> bool:
    """Ask for yes or no on stderr; Return says yes, and whatever is no yes says no."""
    return _read_line(f"{question} [Y/n]: ").lower() in ("", "y", "yes")


def read_phrase(prompt: str) -> str:
    """One line from a terminal, with editing and history where stdout is one too; empty at its end and after Ctrl-C.

    Where stdout is a pipe the prompt goes to stderr: stdout is for results.
    """
    try:
        if not sys.stdout.isatty():
            return _read_line(prompt)
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives `input` its editing
        return input(prompt).strip()
    except (EOFError, KeyboardInterrupt, typer.Abort):
        sys.stderr.write("\n")
        return ""


def _read_line(prompt: str) -> str:
    """One line from stdin. The prompts of typer, and `input`, would write to stdout, which is for results."""
    sys.stderr.write(prompt)
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        sys.stderr.write("\n")
        raise typer.Abort
    return line.strip()


def progress(*, quiet: bool = False) -> Progress:
    """The progress that fits where stderr goes: nothing, drawn in place, or lines."""
    if quiet:
        return _WarningsOnly()
    draws = sys.stderr.isatty() and os.environ.get("TERM") not in (None, "", "dumb", "unknown")
    if not draws:
        return _Lines()
    from lg3d_cli.live import LiveProgress

    return LiveProgress()


class _WarningsOnly(Progress):
    """`--quiet`: only what is probably not meant."""

    def warn(self, message: str) -> None:
        sys.stderr.write(f"lg3d: warning: {one_line(message)}\n")

    def last_word(self, message: str) -> None:
        error(message)
        sys.stderr.flush()


class _Lines(_WarningsOnly):
    """For logs: a line at the start and end of a task, and one every few seconds between."""

    def note(self, message: str) -> None:
        sys.stderr.write(f"lg3d: {message}\n")
        sys.stderr.flush()

    @contextmanager
    def task(self, description: str, *, total: int | None = None, unit: str = "") -> Iterator[Task]:
        task = _LoggedTask(description, total, unit)
        yield task
        task.log(final=True)

    @contextmanager
    def status(self) -> Iterator[Callable[[str], None]]:
        told, at = "", float("-inf")

        def tell(message: str) -> None:
            nonlocal told, at
            now = time.monotonic()
            if message and message != told and now - at >= STATUS_EVERY_SECONDS:
                told, at = message, now
                self.note(one_line(message))

        yield tell


class _LoggedTask(Task):
    def __init__(self, description: str, total: int | None, unit: str) -> None:
        self.description = description
        self.total = total
        self.unit = unit
        self.done = 0
        self.skipped = 0
        self.status = ""
        self.start = self.logged = time.monotonic()

    def advance(self, steps: int = 1, *, status: str = "") -> None:
        self.done += steps
        self.status = status or self.status
        if time.monotonic() - self.logged >= LOG_EVERY_SECONDS:
            self.log()

    def skip(self, steps: int) -> None:
        self.done += steps
        self.skipped += steps

    def log(self, *, final: bool = False) -> None:
        """Write one line: how far, how long, how much longer."""
        self.logged = time.monotonic()
        seconds = self.logged - self.start
        count = f"{self.done}/{self.total}" if self.total is not None else str(self.done)
        line = f"lg3d: {self.description} {count} {self.unit}{'s' if self.unit else ''} in {seconds:.0f} s"
        fresh = self.done - self.skipped
        if not final and self.total and fresh:
            line += f", {seconds / fresh * (self.total - self.done):.0f} s left"
        sys.stderr.write(line + (f" ({self.status})" if self.status else "") + "\n")
        sys.stderr.flush()
