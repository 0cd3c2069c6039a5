"""`lg3d init`."""

import dataclasses
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from lg3d_cli import console
from lg3d_cli.completion import complete_recipes
from lg3d_cli.options import DeviceOption, JobsOption, JsonOption, QuietOption, StoreOption
from lg3d_core.errors import SettingsError
from lg3d_core.settings import CONFIG_NAME, InitSettings, recipe_names

if TYPE_CHECKING:
    from lg3d_core.scans.audit import AuditReport

T = TypeVar("T")

SHOWN_PROBLEMS = 10


def init(
    raw: Annotated[Path | None, typer.Option(help="ScanNet's folder, or one in its form.")] = None,
    store: StoreOption = None,
    device: DeviceOption = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(recipe_names())}, or a TOML file.  [default: by the device]",
            autocompletion=complete_recipes,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take the defaults.")] = False,
    audit: Annotated[bool, typer.Option("--audit/--no-audit", help="Look through every scan first.")] = True,
    force: Annotated[bool | None, typer.Option("--force", help="Replace an lg3d.toml that is there.")] = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Ask for data, device and recipe, check them, and write lg3d.toml.

    Every command that is started in this folder reads it. Scripts say it all:

    Example: lg3d init --raw /data/scannet --device cuda --recipe paper-34d
    """
    typed = InitSettings.resolve(environ=os.environ, raw=raw, store=store, device=device, jobs=jobs, force=force)
    settings = dataclasses.replace(typed, recipe=recipe or typed.recipe)
    asks = console.can_ask() and not yes
    missing = [f"--{name}" for name in ("raw", "device", "recipe") if getattr(settings, name) is None]
    if missing and not asks and not yes:
        raise SettingsError(f"no terminal to ask on: give {', '.join(missing)}; or --yes, which takes the defaults")
    from lg3d_core import project

    config, progress = Path(CONFIG_NAME), console.progress(quiet=quiet)
    project.require_free(config, force=settings.force)
    look = partial(project.check_raw, audit=audit, jobs=settings.jobs, progress=progress)
    found, report = _answer("Folder of the raw scans", settings.raw, project.propose_raw(Path()), look, asks=asks)
    _accept_damage(report, asks=asks, yes=yes)
    if asks and settings.device is None:
        console.aside(f"auto is {project.describe_device()}")
    chosen = _answer("Device (auto, cpu, cuda)", settings.device, "auto", project.check_device, asks=asks)
    if asks and settings.recipe is None:
        for name, summary in project.describe_recipes():
            console.aside(f"{name:<9}  {summary}", indent=13)
    plan = _answer("Recipe", settings.recipe, project.propose_recipe(chosen), project.check_recipe, asks=asks)
    answers = project.Project(raw=found, store=settings.store, device=chosen, recipe=plan)
    project.write_project(answers, report, path=config, force=settings.force)
    if as_json:
        audited = None if report is None else report.to_json()
        console.result_json(
            {"config": str(config), **{k: str(v) for k, v in answers._asdict().items()}, "audit": audited}
        )
    else:
        console.result(config)
    for command, effect in project.next_commands(answers):
        progress.note(f"next: {command:<14}  # {effect}")


def _answer(question: str, typed: object | None, default: object | None, check: Callable[[str], T], *, asks: bool) -> T:
    """What was typed, else what the user says, else the default; checked in each case."""
    if typed is not None:
        return check(str(typed))
    if asks:
        return console.ask(question, default=None if default is None else str(default), check=check)
    if default is None:
        raise SettingsError("no folder with scans/ found near here: give --raw FOLDER")
    return check(str(default))


def _accept_damage(report: "AuditReport | None", *, asks: bool, yes: bool) -> None:
    """Show the scans that would be left out, and go on only if somebody says so."""
    damaged = [] if report is None else [problem for problem in report.problems if problem.fatal]
    if report is None or not damaged:
        return
    rows = [[problem.scene, problem.reason] for problem in damaged[:SHOWN_PROBLEMS]]
    console.note_table("Scans that cannot be prepared", ["scene", "reason"], rows)
    if yes or (asks and console.confirm("Leave them out and go on?")):
        return
    raise SettingsError(
        f"{len(damaged)} problems in {report.raw}: lg3d prepare --check {report.raw} lists them; --yes leaves the "
        "scans out"
    )
