"""Entry point: one command each, and one boundary that turns a known error into one line."""

import sys
from typing import Annotated

import typer

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
    init,
    predict,
    prepare,
    report,
    rooms,
    train,
    view,
)
from lg3d_core import __version__
from lg3d_core.errors import Interrupted, Lg3dError

app = typer.Typer(
    name="lg3d",
    help="Train and use language-grounded sparse 3D networks on annotated scans of rooms.",
    epilog="Exit codes: 0 done, 1 an error you can fix, 2 usage, 130 interrupted (and resumable).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("init")(init.init)
app.command("prepare")(prepare.prepare)
app.command("anchors")(anchors.anchors)
app.command("pretrain")(train.pretrain)
app.command("finetune")(train.finetune)
app.command("eval")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("predict")(predict.predict)
app.command("ask")(ask.ask)
app.command("view")(view.view)
app.command("report")(report.report)
app.command("rooms")(rooms.rooms)
app.command("convert")(convert.convert)
app.command("demo")(demo.demo)
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        console.result(f"lg3d {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train and use language-grounded sparse 3D networks on annotated scans of rooms."""
    del version


def main() -> None:
    """Run the command line; a known error is one line on stderr and exit code 1."""
    try:
        app()
    except Lg3dError as error:
        console.error(str(error))
        sys.exit(1)
    except MemoryError as error:
        console.error(f"out of memory ({error or 'no details'}): close other programs, or take fewer --jobs")
        sys.exit(1)
    except Interrupted as stop:
        console.notice(str(stop))
        sys.exit(130)


if __name__ == "__main__":
    main()
