"""`lg3d init`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.errors import SettingsError, UsageError
from lg3d_core.progress import Progress
from lg3d_core.settings import CONFIG_NAME, InitSettings

if TYPE_CHECKING:
    from lg3d_core.init import Project
    from lg3d_core.scans.audit import AuditReport

T = TypeVar("T")

SHOWN_PROBLEMS = 10


@settings_command(InitSettings)
def init(settings: InitSettings) -> None:
    """Ask for data, device and recipe, and write lg3d.toml.

    All commands in this folder read the file. In scripts, pass the answers as options:

    Example: lg3d init --raw /data/scannet --device cuda --recipe paper-34d
    """
    from lg3d_core import init as project

    asks = console.can_ask() and not settings.yes
    _require_answers(settings, asks=asks)
    config, progress = Path(CONFIG_NAME), console.progress(quiet=settings.quiet)
    project.require_free(config, force=settings.force)
    answers, report = _ask_all(settings, progress, asks=asks)
    project.init(answers, report, path=config, force=settings.force)
    audited = None if report is None else report.to_json()
    details = {**{key: str(value) for key, value in answers._asdict().items()}, "audit": audited}
    console.outcome({"config": config}, as_json=settings.json, details=details)
    commands = project.next_commands(answers)
    width = max(len(command) for command, _ in commands)
    for command, effect in commands:
        progress.note(f"next: {command:<{width}}  # {effect}")


def _require_answers(settings: InitSettings, *, asks: bool) -> None:
    missing = [f"--{name}" for name in ("raw", "device", "recipe") if getattr(settings, name) is None]
    if missing and not asks and not settings.yes:
        raise UsageError(f"no terminal to ask on: pass {', '.join(missing)}, or --yes for the defaults")


def _ask_all(settings: InitSettings, progress: Progress, *, asks: bool) -> "tuple[Project, AuditReport | None]":
    from lg3d_core import init as project

    look = partial(project.check_raw, audit=settings.audit, jobs=settings.jobs, progress=progress)
    found = _answer("Folder of the raw scans", settings.raw, project.propose_raw(Path()), look, asks=asks)
    _accept_damage(found.report, asks=asks, yes=settings.yes)
    if asks and settings.device is None:
        console.aside(f"auto is {project.describe_device()}")
    chosen = _answer("Device (auto, cpu, cuda, cuda:N)", settings.device, "auto", project.check_device, asks=asks)
    if asks and settings.recipe is None:
        for name, summary in project.describe_recipes():
            console.aside(f"{name:<9}  {summary}", indent=13)
    plan = _answer("Recipe", settings.recipe, project.propose_recipe(chosen), project.check_recipe, asks=asks)
    answers = project.Project(found.raw, settings.store, chosen, plan, found.vocabulary)
    return answers, found.report


def _answer(question: str, typed: object | None, default: object | None, check: Callable[[str], T], *, asks: bool) -> T:
    """Return the option's value, the user's answer or the default, after checking it."""
    if typed is not None:
        return check(str(typed))
    if asks:
        return console.ask(question, default=None if default is None else str(default), check=check)
    if default is None:
        raise SettingsError("found no folder of raw scans here or nearby: pass --raw FOLDER")
    return check(str(default))


def _accept_damage(report: "AuditReport | None", *, asks: bool, yes: bool) -> None:
    """Show the scans that would be skipped, and continue only after confirmation."""
    damaged = [] if report is None else [problem for problem in report.problems if problem.fatal]
    if report is None or not damaged:
        return
    rows = [[problem.scene, problem.reason] for problem in damaged[:SHOWN_PROBLEMS]]
    console.note_table("Scans that cannot be prepared", ["scene", "reason"], rows)
    if yes or (asks and console.confirm("Skip them and continue?")):
        return
    raise SettingsError(
        f"{len(damaged)} problems in {report.raw}: lg3d prepare --check {report.raw} lists them; --yes skips the scans"
    )
