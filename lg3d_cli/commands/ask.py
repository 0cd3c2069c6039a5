"""`lg3d ask`."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.errors import Lg3dError, UsageError
from lg3d_core.progress import Progress
from lg3d_core.settings import AskSettings

if TYPE_CHECKING:
    from lg3d_core.inference.ask import Answer, Conversation

HEADER = ["text", "heat", "position", "size in m", "classes"]
OBJECT_HEADER = ["text", "heat", "position", "size in m", "object"]


@settings_command(AskSettings)
def ask(settings: AskSettings) -> None:
    """Find the objects or places that a text describes. Shows them as heat from 0 to 1.

    At a heat of 0.5, the text matches a place as well as the class names do on average.

    Without a text, a terminal prompts for one after the other.

    Examples: lg3d ask scene0011_00 "somewhere to sit" --out heat

    lg3d ask kitchen.ply "somewhere to sit" --html kitchen.html

    lg3d ask scene0011_00 --serve, and type on the page or at the prompt
    """
    if not (settings.texts or settings.serve) and (settings.json or not sys.stdin.isatty()):
        raise UsageError(
            'TEXT is missing, and only a terminal has a prompt: lg3d ask SCENE "a place to sit", or pass --serve'
        )
    from lg3d_core.inference.input import require_input

    require_input(settings.scan, settings.store)  # before PyTorch loads
    from lg3d_core.inference.ask import Conversation

    progress = console.progress(quiet=settings.quiet)
    conversation = Conversation(settings, progress)
    answers = conversation.ask(settings.texts) if settings.texts else []
    _report(conversation, answers, settings)
    if settings.html is not None:
        _write_page(conversation, answers, settings, progress)
    if settings.serve:
        _serve(conversation, answers, settings, progress)
    elif not answers:
        _prompt(conversation.ask, settings.threshold)


def _report(conversation: "Conversation", answers: "list[Answer]", settings: AskSettings) -> None:
    if settings.json:
        console.result_json(
            {
                "scan": conversation.scan.name,
                "checkpoint": str(conversation.checkpoint),
                "answers": [answer.to_dict() for answer in answers],
            }
        )
    elif answers:
        _show(answers, threshold=settings.threshold, quiet=settings.quiet)


def _write_page(
    conversation: "Conversation", answers: "list[Answer]", settings: AskSettings, progress: Progress
) -> None:
    from lg3d_core.viewing.asked import view_answers
    from lg3d_core.viewing.page import write_page

    assert settings.html is not None
    write_page(view_answers(conversation, answers, progress), settings.html)
    if not settings.quiet:
        console.notice(f"wrote {settings.html}")


def _serve(conversation: "Conversation", answers: "list[Answer]", settings: AskSettings, progress: Progress) -> None:
    from lg3d_core.viewing.asked import AskedPage

    with AskedPage(conversation, answers, progress, port=settings.port) as page:
        console.notice(f"open {page.address}")
        if sys.stdin.isatty() and not settings.json:
            _prompt(page.ask, settings.threshold)
        else:
            console.notice("type queries on the page; press Ctrl-C to stop")
            page.wait()


def _prompt(ask: "Callable[[list[str]], list[Answer]]", threshold: float) -> None:
    """Answer line by line until an empty line, the end of input, or Ctrl-C."""
    console.notice("type a query; an empty line ends the prompt")
    while text := console.read_phrase("ask> "):
        try:
            answers = ask([text])
        except Lg3dError as error:
            console.error(str(error))
            continue
        _show(answers, threshold=threshold, quiet=False)


def _show(answers: "list[Answer]", *, threshold: float, quiet: bool) -> None:
    """Print the answers on stdout, one table per text on a terminal, one in all in a pipe; the rest goes to stderr."""
    on_terminal, piped, header = sys.stdout.isatty(), [], HEADER
    for answer in answers:
        if not quiet:
            near = ", ".join(f"{name} {cosine:.2f}" for name, cosine in answer.nearest[:3])
            console.notice(f"{answer.text!r} is closest to {near}; highest heat here {answer.highest:.2f}")
        if answer.objects is not None and not answer.objects and answer.places and not quiet:
            console.notice(f"{answer.text!r}: no object reaches heat {threshold:g}: listing places instead")
        rows = _object_rows(answer) or _place_rows(answer)
        header = OBJECT_HEADER if answer.objects else header
        if on_terminal and rows:
            console.result_table(answer.text, (OBJECT_HEADER if answer.objects else HEADER)[1:], rows)
        elif on_terminal:
            console.result(f"{answer.text}: nowhere (--threshold is {threshold:g})")
        piped += [[answer.text, *row] for row in rows or [[f"{answer.highest:.2f}", "nowhere", "", ""]]]
    if not on_terminal:
        console.result_table("", header, piped)
    for path in (path for answer in answers for path in answer.files if not quiet):
        console.notice(f"wrote {path}")


def _object_rows(answer: "Answer") -> list[list[str]]:
    rows = []
    for one in answer.objects or ():
        shown = one.to_dict()
        rows.append([f"{one.heat:.2f}", _position(shown["centre"]), _size(shown["size"]), shown["name"]])
    return rows


def _place_rows(answer: "Answer") -> list[list[str]]:
    return [
        [
            f"{place.heat:.2f}",
            _position(place.centre),
            _size(place.size),
            ", ".join(f"{name} {100 * share:.0f} %" for name, share in place.names[:2]),
        ]
        for place in answer.places
    ]


def _position(values: list[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


def _size(values: list[float]) -> str:
    return " x ".join(f"{value:.2f}" for value in values)
