"""The first and the last thing a command does: SIGINT and SIGTERM end it with one line and exit code 130.

Only small modules are imported here, so that the handlers are in place a few milliseconds after the interpreter has
started, before anything that takes time.
"""

import _thread
import os
import signal
import sys
from types import FrameType

STOPPED = 130
END_SECONDS = 8.0
"""A stopped command that is still running after this time is ended: outputs are written atomically."""
RETRY_SECONDS = 0.02
SIGNALS = (signal.SIGINT, signal.SIGTERM)

_asked: list[int] = []
"""Signals that asked this process to stop."""
_stage = "starting"
"""`starting`, `loading` (a command was chosen, and imports what it needs), `running` (it works), `ending`."""
_postponed = False
_reported = False


def main() -> None:
    """Run the command line: the entry point of the script `lg3d`."""
    take_signals()
    from lg3d_cli.__main__ import main as run

    run()


def take_signals() -> None:
    """Install the handlers of SIGINT and SIGTERM, except for those that the parent process ignores.

    Before a command was chosen, and after it has ended, the process exits at once. Between the two, Ctrl-C and SIGTERM
    raise `KeyboardInterrupt` in the main thread, but never within an import: extension modules turn it into errors of
    their own. There the process exits at once if the command has not begun to work, else after the import.
    """
    global _stage, _postponed, _reported
    _stage, _postponed, _reported = "starting", False, False
    _asked.clear()
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)
    sys.unraisablehook = _unraisable


def load() -> None:
    """Note that a command was chosen, which imports what it needs."""
    global _stage
    if _stage == "starting":
        _stage = "loading"


def begin() -> None:
    """Note that the command begins to work."""
    global _stage
    if _stage in ("starting", "loading"):
        _stage = "running"


def end(*, reported: bool = False) -> None:
    """Note that the command has ended; signals that arrive now end the process at once.

    Args:
        reported: Whether the user has been told that the command was stopped.
    """
    global _stage, _reported
    _stage, _reported = "ending", _reported or reported


def was_asked() -> bool:
    """Return whether a signal asked this process to stop."""
    return bool(_asked)


def follows() -> bool:
    """Return whether this is one of several processes that `torchrun` started, and not the first, which reports."""
    return "LOCAL_RANK" in os.environ and os.environ.get("RANK", "0") != "0"


def ignore_signals() -> None:
    """Ignore SIGINT and SIGTERM while the interpreter takes itself down, which restores their default action."""
    for number in SIGNALS:
        if signal.getsignal(number) == _stop:
            signal.signal(number, signal.SIG_IGN)


def end_in(seconds: float) -> None:
    """End this process after a while, unless it has ended by then."""

    def wait() -> None:
        import time

        time.sleep(seconds)
        _exit(b"lg3d: stopped, without waiting for what is under way\n")

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
    """Call the handler again and again, until it finds no import under way."""
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
    """Raise an interruption again that came where Python can only print it, as in a `__del__`."""
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
