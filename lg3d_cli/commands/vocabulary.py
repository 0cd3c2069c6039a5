"""`lg3d vocabulary`."""

from typing import TYPE_CHECKING

import typer

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import VocabularySettings

if TYPE_CHECKING:
    from lg3d_core.store.vocabulary import VocabularyReport
    from lg3d_core.vocabulary import Vocabulary

HEADER = ["index", "id", "name", "group", "validation", "colour", "synonyms"]


@settings_command(VocabularySettings)
def vocabulary(settings: VocabularySettings) -> None:
    """Show or check a vocabulary, or write a store's.

    from-store groups the classes by frequency.

    Examples: lg3d vocabulary show scannet200

    lg3d vocabulary check classes.tsv

    lg3d vocabulary from-store data --groups frequent,rare
    """
    from lg3d_core.store.vocabulary import vocabulary as read_or_write

    report = read_or_write(settings)
    if settings.action == "check":
        _show_problems(settings, report)
    elif report.written is not None:
        console.outcome({"out": report.written}, as_json=settings.json)
    elif report.vocabulary is not None:
        _show_classes(report.vocabulary, as_json=settings.json)


def _show_problems(settings: VocabularySettings, report: "VocabularyReport") -> None:
    if settings.json:
        problems = [problem._asdict() for problem in report.problems]
        console.result_json({"usable": report.vocabulary is not None, "problems": problems})
    else:
        rows = [[str(p.line), "error" if p.is_error else "warning", p.text] for p in report.problems]
        console.result_table("", ["line", "kind", "problem"], rows)
    if report.vocabulary is None:
        raise typer.Exit(1)
    classes = console.counted(len(report.vocabulary), "class", "classes")
    warnings = console.counted(len(report.problems), "warning", "warnings")
    console.progress(quiet=settings.quiet).note(f"{settings.source}: {classes}, {warnings}")


def _show_classes(found: "Vocabulary", *, as_json: bool) -> None:
    groups = {group: len(rows) for group, rows in found.groups.items()}
    if as_json:
        classes = [vars(category) for category in found.categories]
        ignored = list(found.ignored_ids)
        console.result_json({"name": found.name, "classes": classes, "groups": groups, "ignored_ids": ignored})
        return
    rows = [
        [
            str(category.index),
            str(category.id),
            category.name,
            category.group or "-",
            "yes" if category.in_validation else "-",
            "#" + "".join(f"{channel:02x}" for channel in category.color),
            ", ".join(category.synonyms),
        ]
        for category in found.categories
    ]
    sizes = "".join(f", {size} {group}" for group, size in groups.items())
    console.result_table(f"{found.name}: {console.counted(len(found), 'class', 'classes')}{sizes}", HEADER, rows)
