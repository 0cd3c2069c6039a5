"""Start and end of a command: SIGINT and SIGTERM end it with one line and exit code 130.

Only small modules are imported here, so that the handlers are installed a few milliseconds after the interpreter has
started.
"""

import _thread
import os
import signal
import sys
from types import FrameType

STOPPED = 130
END_SECONDS = 8.0
"""Time in seconds after which a stopped command is killed; this is safe, as outputs are written atomically."""
RETRY_SECONDS = 0.02
SIGNALS = (signal.SIGINT, signal.SIGTERM)

_asked: list[int] = []
"""Signals that requested this process to stop."""
_stage = "starting"
"""`starting`, `loading` (a command was selected and imports its modules), `running`, or `ending`."""
_postponed = False
_reported = False


def main() -> None:
    """Run the command line: the entry point of the script `lg3d`."""
    take_signals()
    from lg3d_cli.__main__ import main as run

    run()


def take_signals() -> None:
    """Install the handlers of SIGINT and SIGTERM, except for those that the parent process ignores.

    Before a command is selected, and after it has ended, the process exits at once. In between, Ctrl-C and SIGTERM
    raise `KeyboardInterrupt` in the main thread, but never during an import, as extension modules convert it to other
    errors. During an import, the process exits at once if the command has not started to work, else after the import.
    """
    global _stage, _postponed, _reported
    _stage, _postponed, _reported = "starting", False, False
    _asked.clear()
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)
    sys.unraisablehook = _unraisable


def load() -> None:
    """Record that a command was selected and imports its modules."""
    global _stage
    if _stage == "starting":
        _stage = "loading"


def begin() -> None:
    """Record that the command starts to work."""
    global _stage
    if _stage in ("starting", "loading"):
        _stage = "running"


def end(*, reported: bool = False) -> None:
    """Record that the command has ended; later signals end the process at once.

    Args:
        reported: Whether the interruption was reported to the user.
    """
    global _stage, _reported
    _stage, _reported = "ending", _reported or reported


def was_asked() -> bool:
    """Return whether a signal requested this process to stop."""
    return bool(_asked)


def follows() -> bool:
    """Return whether this process was started by `torchrun` and is not the first, which reports."""
    return "LOCAL_RANK" in os.environ and os.environ.get("RANK", "0") != "0"


def ignore_signals() -> None:
    """Ignore SIGINT and SIGTERM while the interpreter shuts down, which restores their default action."""
    for number in SIGNALS:
        if signal.getsignal(number) == _stop:
            signal.signal(number, signal.SIG_IGN)


def end_in(seconds: float) -> None:
    """Kill this process after a number of seconds, unless it has ended by then."""

    def wait() -> None:
        import time

        time.sleep(seconds)
        _exit(b"lg3d: stopped, without waiting for unfinished work\n")

    _thread.start_new_thread(wait, ())


def _stop(number: int, frame: FrameType | None) -> None:
    global _postponed
    if _postponed:  # the call of `_retry`, or another signal while it waits
        if not _is_importing(frame):
            _postponed = False
            raise KeyboardInterrupt
        return
    if _asked and number == signal.SIGTERM and _stage != "ending":  # schedulers send it to a group and its members
        return
    _asked.append(number)
    if _stage in ("starting", "ending") or (_stage == "loading" and _is_importing(frame)):
        _exit(b"lg3d: stopped\n")
    end_in(END_SECONDS)
    if _is_importing(frame):
        _retry(number)
    else:
        raise KeyboardInterrupt


def _retry(number: int) -> None:
    """Call the handler repeatedly until no import is in progress."""
    global _postponed
    _postponed = True

    def call() -> None:
        import time

        while _postponed:
            time.sleep(RETRY_SECONDS)
            if _postponed:
                _thread.interrupt_main(signal.Signals(number))

    _thread.start_new_thread(call, ())


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Raise an interruption again that arrived where Python can only print it, e.g. in a `__del__`."""
    if unraisable.exc_type is KeyboardInterrupt and _asked:
        if not _postponed:
            _retry(_asked[0])
    else:
        sys.__unraisablehook__(unraisable)


def _exit(line: bytes) -> None:
    if not (_reported or follows()):
        try:  # noqa: SIM105
            os.write(2, line)
        except OSError:  # contextlib would be loaded for this alone
            pass
    os._exit(STOPPED)
