"""Entry point: one command each, and one boundary that turns a known error into one line."""

import errno
import os
import signal
import sys
import threading
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lg3d_cli import console
from lg3d_cli.commands import (
    anchors,
    ask,
    bench,
    compare,
    convert,
    demo,
    doctor,
    evaluate,
    finetune,
    init,
    predict,
    prepare,
    pretrain,
    report,
    rooms,
    view,
)
from lg3d_cli.parameters import SettingsCommand
from lg3d_core import __version__
from lg3d_core.errors import EndedElsewhere, Interrupted, Lg3dError, SettingsError

STOPPED = 130
END_SECONDS = 8.0
"""A stopped command that is still there after so long is ended: what it writes, it writes whole or not at all."""
GOES_ON = ("prepare", "rooms", "compare")
"""Commands that keep what they have finished when they are run again."""
TRAINED_TOGETHER = ("pretrain", "finetune")
"""Commands that several processes of `torchrun` share the work of."""
_asked: list[int] = []
"""Signals that asked this process to stop."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Stoppable(TyperGroup):
    """Commands that Ctrl-C and SIGTERM end with a line that says how to go on."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            Interrupted: Ctrl-C or SIGTERM came, and the command did not deal with it itself.
        """
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, Exception) as error:
            if isinstance(error, Interrupted | EndedElsewhere):
                raise
            # What is raised by a signal's handler within a library in C may come out as that library's own error.
            if not isinstance(error, KeyboardInterrupt) and not _asked:
                raise
            _kill_workers()
            goes_on = ctx.invoked_subcommand in GOES_ON
            kept = (
                "what is finished is kept, and the same command goes on" if goes_on else "the same command does it anew"
            )
            raise Interrupted(f"stopped; {kept}") from None


EVERYWHERE = "Each option is also a variable (LG3D_SEED for --seed) and a key of lg3d.toml (seed)."

app = typer.Typer(
    name="lg3d",
    cls=_Stoppable,
    help="Train and use language-grounded sparse 3D networks on annotated scans of rooms.",
    epilog="Exit codes: 0 done, 1 an error you can fix, 2 usage, 130 interrupted (and resumable).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for name, function in {
    "init": init.init,
    "prepare": prepare.prepare,
    "anchors": anchors.anchors,
    "pretrain": pretrain.pretrain,
    "finetune": finetune.finetune,
    "eval": evaluate.evaluate,
    "compare": compare.compare,
    "predict": predict.predict,
    "ask": ask.ask,
    "view": view.view,
    "report": report.report,
    "rooms": rooms.rooms,
    "convert": convert.convert,
    "demo": demo.demo,
    "bench": bench.bench,
    "doctor": doctor.doctor,
}.items():
    app.command(name, cls=SettingsCommand, epilog=EVERYWHERE)(function)


def _show_version(wanted: bool) -> None:
    if wanted:
        console.result(f"lg3d {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train and use language-grounded sparse 3D networks on annotated scans of rooms."""
    del version
    command, size = context.invoked_subcommand, os.environ.get("WORLD_SIZE", "1")
    if "LOCAL_RANK" in os.environ and size != "1" and command not in TRAINED_TOGETHER:
        if console.follows():
            raise EndedElsewhere(interrupted=False)
        raise SettingsError(
            f"torchrun started {size} processes, and each would do all of lg3d {command}: only "
            f"{' and '.join(TRAINED_TOGETHER)} share their work; run lg3d {command} by itself"
        )


def main() -> None:
    """Run the command line; a known error is one line on stderr and exit code 1."""
    _take_signals()
    try:
        app()
    except Lg3dError as error:
        console.error(str(error))
        sys.exit(error.exit_code)
    except MemoryError as error:
        console.error(f"out of memory ({error or 'no details'}): close other programs, or take fewer --jobs")
        sys.exit(1)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        console.error(f"cannot write {error.filename or 'what was asked for'} ({error.strerror}): make room, run again")
        sys.exit(1)
    except EndedElsewhere as end:
        sys.exit(STOPPED if end.interrupted else 1)
    except Interrupted as stop:
        if not console.follows():
            console.notice(str(stop))
        _end_in(END_SECONDS / 2)
        sys.exit(STOPPED)
    except KeyboardInterrupt:  # before a command began, or after it ended
        console.notice("stopped")
        sys.exit(STOPPED)
    except SystemExit as ended:
        if ended.code == STOPPED:  # what typer makes of the same
            console.notice("stopped")
        raise


def _take_signals() -> None:
    """Let SIGTERM stop a command as Ctrl-C does, and the process be gone soon after, whatever it is at."""
    _asked.clear()

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        if _asked and number == signal.SIGTERM:  # sent to a group and to its members, it means nothing new
            return
        _asked.append(number)
        _end_in(END_SECONDS)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


def _end_in(seconds: float) -> None:
    """End this process after a while, unless it has ended by then."""

    def end() -> None:
        console.notice("stopped, without waiting for what is under way")
        os._exit(STOPPED)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def _kill_workers() -> None:
    processes = sys.modules.get("lg3d_core.processes")
    if processes is not None:
        processes.kill_workers()
    multiprocessing = sys.modules.get("multiprocessing")
    for worker in multiprocessing.active_children() if multiprocessing else ():
        worker.kill()


if __name__ == "__main__":
    main()
