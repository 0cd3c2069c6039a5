"""Entry point: registers the commands, and reports known errors in one line."""

from lg3d_cli import start

if __name__ == "__main__":  # with `python -m lg3d_cli`, before slow imports
    start.take_signals()

import atexit
import os
import sys
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
    export,
    export_store,
    finetune,
    init,
    models,
    predict,
    prepare,
    pretrain,
    push,
    report,
    rooms,
    score,
    view,
    vocabulary,
)
from lg3d_cli.parameters import SettingsCommand
from lg3d_cli.variables import unknown_variables
from lg3d_core import __version__
from lg3d_core.errors import EndedElsewhere, Interrupted, Lg3dError, SettingsError, explain_os_error

RESUMABLE = ("prepare", "rooms", "compare", "export-store")
"""Commands that keep finished parts when they are run again."""
TRAINED_TOGETHER = ("pretrain", "finetune")
"""Commands whose work the processes of `torchrun` share."""


class _Stoppable(TyperGroup):
    """Command group that reports interruptions with instructions for resuming, and usage errors in one line."""

    def main(self, *words: Any, **options: Any) -> Any:
        """Run the command line; a usage error prints one line and gives exit code 2."""
        run: Any = super().main
        if not options.pop("standalone_mode", True):
            return run(*words, standalone_mode=False, **options)
        try:
            outcome = run(*words, standalone_mode=False, **options)
        except typer.Abort:
            outcome = start.STOPPED
        except Exception as error:
            if not hasattr(error, "format_message"):
                raise
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()  # type: ignore[attr-defined]
            else:
                context = getattr(error, "ctx", None)
                path = context.command_path if context is not None else "lg3d"
                listed = "options" if context is not None and context.parent is not None else "commands and options"
                console.error(f"{error.format_message().rstrip('.')} ({path} --help lists the {listed})")
            sys.exit(error.exit_code)  # type: ignore[attr-defined]
        sys.exit(outcome if isinstance(outcome, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            Interrupted: Ctrl-C or SIGTERM arrived, and the command did not handle it.
        """
        start.load()
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, Exception) as error:
            if isinstance(error, Interrupted | EndedElsewhere):
                raise
            # A C library may convert an exception of a signal handler to an error of its own.
            if not isinstance(error, KeyboardInterrupt) and not start.was_asked():
                raise
            _kill_workers()
            resumes = ctx.invoked_subcommand in RESUMABLE
            hint = (
                "finished parts are kept; rerun the command to resume" if resumes else "rerun the command to start over"
            )
            raise Interrupted(f"stopped; {hint}") from None


EPILOG = "Each option is also a variable (LG3D_SEED for --seed) and a key of lg3d.toml (seed)."

app = typer.Typer(
    name="lg3d",
    cls=_Stoppable,
    help="Train and use language-grounded sparse 3D networks on annotated scans of rooms.",
    epilog="Exit codes: 0 success, 1 error, 2 invalid option or value, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for name, function in {
    "init": init.init,
    "prepare": prepare.prepare,
    "vocabulary": vocabulary.vocabulary,
    "anchors": anchors.anchors,
    "pretrain": pretrain.pretrain,
    "finetune": finetune.finetune,
    "eval": evaluate.evaluate,
    "score": score.score,
    "compare": compare.compare,
    "predict": predict.predict,
    "ask": ask.ask,
    "view": view.view,
    "report": report.report,
    "rooms": rooms.rooms,
    "convert": convert.convert,
    "export": export.export,
    "export-store": export_store.export_store,
    "models": models.models,
    "push": push.push,
    "demo": demo.demo,
    "bench": bench.bench,
    "doctor": doctor.doctor,
}.items():
    app.command(name, cls=SettingsCommand, epilog=EPILOG)(function)


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
    if not console.follows():
        for message in unknown_variables(os.environ):
            console.warn(message)
    command, size = context.invoked_subcommand, os.environ.get("WORLD_SIZE", "1")
    if "LOCAL_RANK" in os.environ and size != "1" and command not in TRAINED_TOGETHER:
        if console.follows():
            raise EndedElsewhere(interrupted=False)
        raise SettingsError(
            f"torchrun started {size} processes, but lg3d {command} does not support it: only "
            f"{' and '.join(TRAINED_TOGETHER)} do; run lg3d {command} without torchrun"
        )


def main() -> None:
    """Run the command line; a known error prints one line and gives exit code 1, or 2 for an invalid option."""
    start.take_signals()
    atexit.register(start.ignore_signals)
    console.open_streams()
    try:
        _run()
    finally:
        console.close_streams()
        start.end()


def _run() -> None:
    try:
        app()
    except Lg3dError as error:
        console.error(str(error))
        sys.exit(error.exit_code)
    except MemoryError as error:
        console.error(f"out of memory ({error or 'no details'}): close other programs, or pass fewer --jobs")
        sys.exit(1)
    except OSError as error:
        console.error(explain_os_error(error))
        sys.exit(1)
    except EndedElsewhere as end:
        sys.exit(start.STOPPED if end.interrupted else 1)
    except Interrupted as stop:
        _stopped(str(stop))
    except KeyboardInterrupt:  # before a command started, or after it ended
        _stopped("stopped")
    except SystemExit as ended:
        if ended.code == start.STOPPED:  # typer converts it to an exit
            _stopped("stopped")
        raise


def _stopped(message: str) -> None:
    """Print one line, unless another process prints it, and exit with code 130."""
    start.end(reported=True)
    if not console.follows():
        console.notice(message)
    start.end_in(start.END_SECONDS / 2)
    sys.exit(start.STOPPED)


def _kill_workers() -> None:
    processes = sys.modules.get("lg3d_core.processes")
    if processes is not None:
        processes.kill_workers()
    multiprocessing = sys.modules.get("multiprocessing")
    for worker in multiprocessing.active_children() if multiprocessing else ():
        worker.kill()


if __name__ == "__main__":
    main()
