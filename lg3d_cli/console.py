"""Output for the user: results on stdout, everything else on stderr; bars on a terminal, plain lines in a log.

rich accounts for a third of the start-up time of `lg3d --help` and of completion, so it is imported only for drawing.
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
from lg3d_core.progress import Progress, Task, Topic, whole_steps

T = TypeVar("T")

LOG_EVERY_SECONDS = 15.0
STATUS_EVERY_SECONDS = 1.0
FIRST_COLUMN = 24
"""Minimum width of the first column of a table."""
KEPT_WORD = 8
"""Length of words that a column does not break."""
LEAST_COLUMNS = 20


def open_streams() -> None:
    """Make stdin, stdout and stderr usable, in whatever state the parent process left them.

    A closed stream becomes /dev/null; otherwise the next opened file would take its descriptor. Characters that a
    stream cannot encode are escaped, and undecodable bytes of file names are passed through.
    """
    codecs.register_error("lg3d", _encode_rest)
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor
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
    """Discard output that stdout and stderr could not accept; the interpreter would try to write it again at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _encode_rest(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encode characters that a stream cannot encode: surrogates as their bytes, others as escapes."""
    assert isinstance(error, UnicodeEncodeError)
    rest = error.object[error.start : error.end]
    parts = [bytes([ord(c) - 0xDC00]) if 0xDC80 <= ord(c) <= 0xDCFF else c.encode("unicode_escape") for c in rest]
    return b"".join(parts), error.end


def _write_out(text: str) -> None:
    """Write to stdout; a closed reader, as in `lg3d doctor | head -1`, ends the command."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())  # buffered output goes there
        raise typer.Exit(1) from None
    except OSError as reason:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        raise OSError(reason.errno, reason.strerror, "stdout") from None


def write_err(text: str) -> None:
    """Write to stderr; errors, such as a full disk or a closed reader, are ignored."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def result(value: object) -> None:
    """Print one result, a path or a number, on a line of stdout.

    Control characters are escaped, also in a pipe; undecodable bytes are kept in a pipe.
    """
    text = str(value)
    if not sys.stdout.isatty():
        _write_out("".join(c if 0xDC80 <= ord(c) <= 0xDCFF else printable(c) for c in text) + "\n")
        return
    _write_out(printable(text) + "\n")


def result_lines(text: str) -> None:
    """Print a text of several lines to stdout."""
    _write_out("".join(printable(line) + "\n" for line in text.split("\n")))


def outcome(values: Mapping[str, object], *, as_json: bool, details: Mapping[str, Any] | None = None) -> None:
    """Print the value that a command returns on one line, or with `details` as a JSON object."""
    if as_json:
        result_json({**(details or {}), **{key: str(value) for key, value in values.items()}})
        return
    for value in values.values():
        result(value)


def leader_result(values: Mapping[str, object], *, as_json: bool) -> None:
    """Print an outcome; under torchrun, only in the first process."""
    if not follows():
        outcome(values, as_json=as_json)


def result_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object to stdout, in ASCII; paths and names are exact."""
    result_lines(json.dumps(value, indent=2, allow_nan=False))


def result_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stdout: drawn on a terminal, tab-separated and complete in a pipe."""
    if sys.stdout.isatty():
        _write_out(_draw_table(title, header, rows, sys.stdout))
    else:
        _write_out(_join_table(header, rows))


def note_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to stderr: drawn on a terminal, tab-separated elsewhere."""
    if sys.stderr.isatty():
        write_err(_draw_table(title, header, rows, sys.stderr))
    else:
        write_err(_join_table(header, rows))


def _join_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join("\t".join(map(printable, row)) + "\n" for row in [header, *rows])


def _draw_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], stream: TextIO) -> str:
    """Draw a table that shows the full text of every cell, whatever the width of the terminal.

    The widest columns shrink first and wrap between words. If a column would break words of `KEPT_WORD` characters,
    each cell is written on a separate line.
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
    """Return whether a table with these columns fits: always in a pipe, on a terminal if the headings fit on a line."""
    if not sys.stdout.isatty():
        return True
    from rich.console import Console

    return Console(file=sys.stdout).width >= sum(len(name) + 3 for name in header) + FIRST_COLUMN


def follows() -> bool:
    """Return whether this process was started by `torchrun` and is not the first, which reports alone."""
    return start.follows()


def counted(number: int, one: str, many: str) -> str:
    """Return a number with its noun, in the singular for 1."""
    return f"{number} {one if number == 1 else many}"


def error(message: str) -> None:
    """Print an error as one line on stderr."""
    write_err(f"lg3d: error: {one_line(message)}\n")


def warn(message: str) -> None:
    """Print a warning as one line on stderr, also with `--quiet`."""
    write_err(f"lg3d: warning: {one_line(message)}\n")


def notice(message: str) -> None:
    """Print a line on stderr, also with `--quiet`."""
    write_err(f"lg3d: {one_line(message)}\n")


def aside(message: str, *, indent: int = 2) -> None:
    """Write an explanation of a question to stderr, wrapped, with later lines indented by `indent` characters."""
    width = max(LEAST_COLUMNS, shutil.get_terminal_size().columns)
    text = printable(message)
    write_err(textwrap.fill(text, width, initial_indent="  ", subsequent_indent=" " * indent) + "\n")


def can_ask() -> bool:
    """Return whether questions can be asked: stdin and stderr are terminals."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str, *, default: str | None, check: Callable[[str], T]) -> T:
    """Ask on stderr until `check` accepts the answer; Return selects the default, Ctrl-C or Ctrl-D aborts.

    Args:
        question: Question without a colon.
        default: Answer for Return; None asks again.
        check: Function that converts the answer to a value.

    Raises:
        typer.Abort: The user aborted.
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
    """Ask for yes or no on stderr; Return means yes, anything but yes means no."""
    return _read_line(f"{question} [Y/n]: ").lower() in ("", "y", "yes")


def read_phrase(prompt: str) -> str:
    """Read one line from a terminal, with editing and history if stdout is a terminal; "" at its end or after Ctrl-C.

    If stdout is a pipe, the prompt goes to stderr, as stdout is reserved for results.
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
    """Read one line from stdin; typer's prompts and `input` would write to stdout, which is reserved for results."""
    write_err(printable(prompt))
    line = sys.stdin.readline()
    if not line:
        write_err("\n")
        raise typer.Abort
    return line.strip()


def progress(*, quiet: bool = False) -> Progress:
    """Return the progress display for stderr (none, drawn, or lines), and mark the start of the command's work."""
    start.begin()
    if quiet:
        return _WarningsOnly()
    draws = sys.stderr.isatty() and os.environ.get("TERM") not in (None, "", "dumb", "unknown")
    if not draws:
        return _Lines()
    from lg3d_cli.live import LiveProgress

    return LiveProgress()


class _WarningsOnly(Progress):
    """Progress of `--quiet`: warnings only."""

    def warn(self, message: str) -> None:
        warn(message)

    def fatal(self, message: str) -> None:
        error(message)


class _Lines(_WarningsOnly):
    """Progress for logs: a line every few seconds, and one at the end of a task."""

    def note(self, message: str) -> None:
        notice(message)

    @contextmanager
    def task(self, description: str, *, total: int | None = None, unit: str = "") -> Iterator[Task]:
        task = _LoggedTask(description, total, unit)
        yield task
        task.log(final=True)

    @contextmanager
    def status(self) -> Iterator[Callable[[str], None]]:
        shown, at = "", float("-inf")

        def tell(message: str) -> None:
            nonlocal shown, at
            now = time.monotonic()
            if message and message != shown and now - at >= STATUS_EVERY_SECONDS:
                shown, at = message, now
                self.note(message)

        yield tell


class _LoggedTask(Task):
    def __init__(self, description: str, total: int | None, unit: str) -> None:
        self.description = description
        self.total = total
        self.unit = unit
        self.done: float = 0
        self.skipped: float = 0
        self.status = ""
        self.loss = ""
        self.start = self.logged = time.monotonic()

    def advance(self, steps: float = 1, *, status: str = "") -> None:
        self.done += steps
        self.status = status or self.status
        if time.monotonic() - self.logged >= LOG_EVERY_SECONDS:
            self.log()

    def skip(self, steps: float) -> None:
        self.done += steps
        self.skipped += steps

    def show(self, topic: Topic, values: Mapping[str, float]) -> None:
        if topic is Topic.LOSSES and values:
            name, value = next(iter(values.items()))
            self.loss = f"{name} {value:.4f}"

    def log(self, *, final: bool = False) -> None:
        """Write one line with the position, the elapsed and the remaining time."""
        self.logged = time.monotonic()
        seconds = self.logged - self.start
        done = whole_steps(self.done)
        count = f"{done}/{self.total}" if self.total is not None else str(done)
        line = f"{self.description} {count} {self.unit}{'s' if self.unit else ''} in {seconds:.0f} s"
        fresh = self.done - self.skipped
        if not final and self.total and fresh:
            line += f", {seconds / fresh * (self.total - self.done):.0f} s left"
        latest = ", ".join(text for text in (self.status, self.loss) if text)
        notice(line + (f" ({latest})" if latest else ""))
