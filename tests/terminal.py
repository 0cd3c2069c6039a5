"""A command as somebody at a terminal of 80 columns runs it: what is seen, what is typed, and Ctrl-C."""

import os
import pty
import re
import selectors
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from contextlib import nullcontext
from fcntl import ioctl
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
COLUMNS, LINES = 80, 30
CTRL_C = "\x03"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Session(NamedTuple):
    """How a command ended, and what it wrote: `screen` without colours and cursor movements, `raw` with them."""

    code: int
    stdout: str
    screen: str
    raw: str


def lg3d_on_terminal(
    *words: object,
    cwd: Path,
    replies: Sequence[tuple[str, str]] = (),
    seconds: float = 120.0,
    columns: int = COLUMNS,
    all_on_terminal: bool = False,
    **variables: str,
) -> Session:
    """Run lg3d with stdin and stderr on a terminal and stdout in a pipe, as `$(lg3d ...)` does.

    Args:
        words: Of the command.
        cwd: Where it starts.
        replies: What to type, each as soon as its text is on the screen, one after the other.
        seconds: After which it is killed, and the test fails.
        columns: Width of the terminal.
        all_on_terminal: Whether stdout is the terminal too; `Session.stdout` is then empty.
        variables: Of the environment.
    """
    controller, terminal = pty.openpty()
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TERM": "xterm-256color",
    }
    environment |= {"LC_ALL": "C.UTF-8", "CUDA_VISIBLE_DEVICES": ""} | variables
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE_TERMINAL, sys.executable, "-m", "lg3d_cli", *map(str, words)],
        cwd=cwd,
        env=environment,
        stdin=terminal,
        stderr=terminal,
        stdout=terminal if all_on_terminal else subprocess.PIPE,
        start_new_session=True,
    )
    os.close(terminal)
    try:
        return _attend(process, controller, list(replies), deadline=time.monotonic() + seconds)
    finally:
        process.kill()
        process.wait()
        os.close(controller)


def _attend(
    process: subprocess.Popen[bytes], controller: int, replies: list[tuple[str, str]], *, deadline: float
) -> Session:
    seen, result, mark = b"", b"", 0
    with selectors.DefaultSelector() as selector, process.stdout or nullcontext() as stdout:
        selector.register(controller, selectors.EVENT_READ)
        if stdout is not None:
            selector.register(stdout, selectors.EVENT_READ)
        while selector.get_map():
            assert time.monotonic() < deadline, f"still running, and the screen shows: {seen.decode()[-2000:]}"
            for key, _ in selector.select(timeout=1.0):
                try:
                    data = os.read(key.fd, 65536)
                except OSError:  # what Linux says of a terminal that nobody holds any more
                    data = b""
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fd == controller:
                    seen += data
                else:
                    result += data
            while replies and replies[0][0].encode() in seen[mark:]:
                mark = len(seen)
                os.write(controller, replies.pop(0)[1].encode())
    assert not replies, f"never asked {replies[0][0]!r}: {seen.decode()[-2000:]}"
    raw = seen.decode(errors="replace")
    return Session(process.wait(), result.decode(), ESCAPES.sub("", raw).replace("\r", "\n"), raw)
