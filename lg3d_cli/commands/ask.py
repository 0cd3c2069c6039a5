"""`lg3d ask`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lg3d_cli import console
from lg3d_cli.completion import complete_scenes
from lg3d_cli.options import (
    BackendOption,
    DeviceOption,
    JsonOption,
    MemoryOption,
    OverlapOption,
    PrecisionOption,
    QuietOption,
    RunsOption,
    ScaleOption,
    StoreOption,
    UpOption,
    resolve,
)
from lg3d_core.errors import Lg3dError, SettingsError
from lg3d_core.settings import AskSettings

if TYPE_CHECKING:
    from lg3d_core.inference.ask import Answer, Conversation

HEADER = ["text", "heat", "position", "size in m", "lies by"]


def ask(
    scan: Annotated[
        str,
        typer.Argument(
            metavar="SCENE|SCAN",
            help="Scene id, or a PLY, PCD, OBJ, GLB, LAS, LAZ or E57 file.",
            autocompletion=complete_scenes,
        ),
    ],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="What is looked for; none opens a prompt.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint or run folder.  [default: the newest pre-training run]")
    ] = None,
    anchors: Annotated[Path | None, typer.Option(help="Its anchors file.  [default: where its run had it]")] = None,
    encoder: Annotated[str | None, typer.Option(help="The anchors' text encoder, as hf:FOLDER, if it moved.")] = None,
    encoder_checkpoint: Annotated[Path | None, typer.Option(help="Weights of an open_clip encoder on disk.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Heat of a place that counts.  [default: 0.5]")] = None,
    regions: Annotated[int | None, typer.Option(help="Places listed for a text.  [default: 5]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write the heat of each text to.")] = None,
    format: Annotated[list[str] | None, typer.Option(help="ply or npz; may be repeated.  [default: ply]")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the heat of each text.")] = None,
    serve: Annotated[
        bool | None, typer.Option("--serve", help="Serve that page; what is typed at the prompt moves its heat.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="To serve on; 0: any that is free.  [default: 8731]")] = None,
    scale: ScaleOption = None,
    up: UpOption = None,
    memory: MemoryOption = None,
    overlap: OverlapOption = None,
    store: StoreOption = None,
    runs: RunsOption = None,
    device: DeviceOption = None,
    backend: BackendOption = None,
    precision: PrecisionOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find what a text describes: heat from 0 to 1, against the vocabulary's names; 0.5 is as well as they fit.

    Without a text it asks for one after the other, on a terminal.

    Examples: lg3d ask scene0011_00 "somewhere to sit" --out heat

    lg3d ask kitchen.ply "somewhere to sit" --html kitchen.html

    lg3d ask scene0011_00 --serve, and type while the page is open
    """
    settings = resolve(
        AskSettings,
        scan=scan,
        texts=tuple(texts) if texts else None,
        checkpoint=checkpoint,
        anchors=anchors,
        encoder=encoder,
        encoder_checkpoint=encoder_checkpoint,
        threshold=threshold,
        regions=regions,
        out=out,
        formats=tuple(format) if format else None,
        html=html,
        serve=serve,
        port=port,
        scale=scale,
        up=up,
        memory=memory,
        overlap=overlap,
        store=store,
        runs=runs,
        device=device,
        backend=backend,
        precision=precision,
    )
    if not settings.texts and (as_json or not sys.stdin.isatty()):
        raise SettingsError('expected a text, such as lg3d ask SCENE "somewhere to sit": only a terminal has a prompt')
    from lg3d_core.inference.ask import Conversation

    progress = console.progress(quiet=quiet)
    conversation = Conversation(settings, progress)
    answers = conversation.ask(settings.texts) if settings.texts else []
    if as_json:
        console.result_json(
            {
                "scan": conversation.scan.name,
                "checkpoint": str(conversation.checkpoint),
                "answers": [answer.to_dict() for answer in answers],
            }
        )
    elif answers:
        _show(answers, threshold=settings.threshold, quiet=quiet)
    if settings.html is not None:
        from lg3d_core.viewing.asked import view_answers
        from lg3d_core.viewing.page import write_page

        write_page(view_answers(conversation, answers, progress), settings.html)
        console.notice(f"wrote {settings.html}")
    if settings.serve:
        from lg3d_core.viewing.asked import AskedPage

        with AskedPage(conversation, answers, progress, port=settings.port) as page:
            console.notice(f"open {page.address}")
            if sys.stdin.isatty() and not as_json:
                _prompt(conversation, settings.threshold, page.show)
            else:
                console.notice("Ctrl-C ends")
                page.wait()
    elif not answers:
        _prompt(conversation, settings.threshold, lambda _: None)


def _prompt(conversation: "Conversation", threshold: float, show: "Callable[[list[Answer]], None]") -> None:
    """Answer line after line, until an empty one, the end of input, or Ctrl-C."""
    console.notice("type what you look for; an empty line ends")
    while text := console.read_phrase("ask> "):
        try:
            answers = conversation.ask([text])
        except Lg3dError as error:
            console.error(str(error))
            continue
        show(answers)
        _show(answers, threshold=threshold, quiet=False)


def _show(answers: "list[Answer]", *, threshold: float, quiet: bool) -> None:
    """What was found on stdout: a table for each text on a terminal, one for all in a pipe; the rest on stderr."""
    on_terminal, piped = sys.stdout.isatty(), []
    for answer in answers:
        if not quiet:
            near = ", ".join(f"{name} {cosine:.2f}" for name, cosine in answer.nearest[:3])
            console.notice(f"{answer.text!r} lies nearest to {near}; highest heat here {answer.highest:.2f}")
        rows = [
            [
                f"{place.heat:.2f}",
                " ".join(f"{value:.2f}" for value in place.centre),
                " x ".join(f"{value:.2f}" for value in place.size),
                ", ".join(f"{name} {100 * share:.0f} %" for name, share in place.names[:2]),
            ]
            for place in answer.places
        ]
        if on_terminal and rows:
            console.result_table(answer.text, HEADER[1:], rows)
        elif on_terminal:
            console.result(f"{answer.text}: nowhere (--threshold is {threshold:g})")
        piped += [[answer.text, *row] for row in rows or [[f"{answer.highest:.2f}", "nowhere", "", ""]]]
    if not on_terminal:
        console.result_table("", HEADER, piped)
    for answer in answers:
        for path in answer.files:
            console.notice(f"wrote {path}")
