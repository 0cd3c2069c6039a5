"""What the user sees: results on stdout, everything else on stderr; bars on a terminal, plain lines in a log.

rich takes a third of the time that `lg3d --help` and a TAB wait for, so it is loaded where something is drawn.
"""

import codecs
import contextlib
import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

import typer

from lg3d_cli import start
from lg3d_core.errors import Lg3dError, one_line, printable
from lg3d_core.progress import Progress, Task

T = TypeVar("T")

LOG_EVERY_SECONDS = 15.0
STATUS_EVERY_SECONDS = 1.0
FIRST_COLUMN = 24
"""Characters that the first column of a table needs."""
KEPT_WORD = 8
"""Characters of a word that a column of a table does not break."""
DEFAULT_COLUMNS = 80
LEAST_COLUMNS = 20


def open_streams() -> None:
    """Make stdin, stdout and stderr usable, whatever the parent process did to them.

    A stream that was closed becomes /dev/null; otherwise the next file that is opened would take its place. Characters
    that the encoding of a stream lacks are spelled out, and bytes of file names that are no text pass through.
    """
    codecs.register_error("lg3d", _encode_rest)
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for the whole process
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="lg3d")


def close_streams() -> None:
    """Drop what stdout and stderr could not take, which the interpreter would try again at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _encode_rest(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encode what a stream's encoding lacks: surrogates as the byte that they stand for, the rest spelled out."""
    assert isinstance(error, UnicodeEncodeError)
    rest = error.object[error.start : error.end]
    parts = [bytes([ord(c) - 0xDC00]) if 0xDC80 <= ord(c) <= 0xDCFF else c.encode("unicode_escape") for c in rest]
    return b"".join(parts), error.end


def _write_out(text: str) -> None:
    """Write on stdout. A reader that has gone, as of `lg3d doctor | head -1`, ends the command."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())  # what is buffered goes there
        raise typer.Exit(1) from None
    except OSError as reason:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        raise OSError(reason.errno, reason.strerror, "stdout") from None


def write_err(text: str) -> None:
    """Write on stderr. A log that cannot be written, on a full disk or for a reader that has gone, stops nothing."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def result(value: object) -> None:
    """Print one result, a path or a number, alone on a line of stdout.

    What would steer a terminal is spelled out, also in a pipe; bytes that are no text are kept in a pipe.
    """
    text = str(value)
    if not sys.stdout.isatty():
        _write_out("".join(c if 0xDC80 <= ord(c) <= 0xDCFF else printable(c) for c in text) + "\n")
        return
    _write_out(printable(text) + "\n")


def result_lines(text: str) -> None:
    """Print a text of several lines on stdout."""
    _write_out("".join(printable(line) + "\n" for line in text.split("\n")))


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
    """Print one JSON object on stdout; it holds paths and names exactly, and stdout gets ASCII alone."""
    result_lines(json.dumps(value, indent=2, allow_nan=False))


def result_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout: drawn on a terminal, tab-separated and complete in a pipe."""
    if sys.stdout.isatty():
        _write_out(_draw_table(title, header, rows, sys.stdout))
    else:
        _write_out(_join_table(header, rows))


def note_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stderr: drawn on a terminal, tab-separated elsewhere."""
    if sys.stderr.isatty():
        write_err(_draw_table(title, header, rows, sys.stderr))
    else:
        write_err(_join_table(header, rows))


def _join_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join("\t".join(map(printable, row)) + "\n" for row in [header, *rows])


def _draw_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], stream: TextIO) -> str:
    """Draw a table that shows every character of every cell, whatever the width of the terminal.

    Columns shrink the widest first, and wrap between words. Where a column would break words of `KEPT_WORD` characters
    the rows are written one below the other, a line for each cell.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = max(LEAST_COLUMNS, Console(file=stream).width)
    cells = [[printable(cell) for cell in row] for row in [header, *rows]]
    natural = [max(cell_len(row[k]) for row in cells) for k in range(len(header))]
    least = [
        min(KEPT_WORD, max((cell_len(word) for row in cells for word in row[k].split()), default=1))
        for k in range(len(header))
    ]
    available = width - 3 * len(header) - 1
    heading = [printable(title)] if title else []
    if sum(least) > available:
        blocks = [
            "\n".join(f"{name}: {cell}" if cell else f"{name}:" for name, cell in zip(cells[0], row, strict=True))
            for row in cells[1:]
        ]
        return "\n\n".join([*heading, *blocks]) + "\n"
    cap = max([1, *natural])
    while sum(widths := [min(n, max(low, cap)) for n, low in zip(natural, least, strict=True)]) > available:
        cap -= 1
    table = Table(title=Text(*heading) if heading else None, title_justify="left")
    for k, name in enumerate(cells[0]):
        numbers = k > 0 and all(_is_number(row[k]) for row in cells[1:])
        table.add_column(
            Text(name), justify="right" if numbers else "left", width=widths[k], overflow="fold", no_wrap=False
        )
    for row in cells[1:]:
        table.add_row(*map(Text, row))
    drawing = Console(file=stream, width=width)
    with drawing.capture() as capture:
        drawing.print(table)
    return capture.get()


def _is_number(cell: str) -> bool:
    return not cell or cell in "-–" or cell.lstrip("+-<≥≤~ ")[:1].isdigit()


def has_room_for(header: Sequence[str]) -> bool:
    """Whether a table with these columns fits: always in a pipe, on a terminal if the headings fit on a line."""
    if not sys.stdout.isatty():
        return True
    from rich.console import Console

    return Console(file=sys.stdout).width >= sum(len(name) + 3 for name in header) + FIRST_COLUMN


def follows() -> bool:
    """Whether this is one of several processes that `torchrun` started, and not the first, which alone reports."""
    return start.follows()


def error(message: str) -> None:
    """Say on one line of stderr what went wrong."""
    write_err(f"lg3d: error: {one_line(message)}\n")


def warn(message: str) -> None:
    """Say on one line of stderr what is probably not meant, also when quiet."""
    write_err(f"lg3d: warning: {one_line(message)}\n")


def notice(message: str) -> None:
    """Say on one line of stderr what the user must know, also when quiet."""
    write_err(f"lg3d: {one_line(message)}\n")


def aside(message: str, *, indent: int = 2) -> None:
    """Write what belongs to a question on stderr, wrapped, later lines `indent` characters in."""
    width = max(LEAST_COLUMNS, shutil.get_terminal_size().columns)
    text = printable(message)
    write_err(textwrap.fill(text, width, initial_indent="  ", subsequent_indent=" " * indent) + "\n")


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
        write_err("\n")
        return ""


def _read_line(prompt: str) -> str:
    """One line from stdin. The prompts of typer, and `input`, would write to stdout, which is for results."""
    write_err(printable(prompt))
    line = sys.stdin.readline()
    if not line:
        write_err("\n")
        raise typer.Abort
    return line.strip()


def progress(*, quiet: bool = False) -> Progress:
    """The progress that fits where stderr goes: nothing, drawn in place, or lines. The command begins its work."""
    start.begin()
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
        warn(message)

    def last_word(self, message: str) -> None:
        error(message)


class _Lines(_WarningsOnly):
    """For logs: a line at the start and end of a task, and one every few seconds between."""

    def note(self, message: str) -> None:
        notice(message)

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
                self.note(message)

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
        line = f"{self.description} {count} {self.unit}{'s' if self.unit else ''} in {seconds:.0f} s"
        fresh = self.done - self.skipped
        if not final and self.total and fresh:
            line += f", {seconds / fresh * (self.total - self.done):.0f} s left"
        notice(line + (f" ({self.status})" if self.status else ""))
