"""`lg3d demo`."""

from pathlib import Path
from typing import Annotated

import typer

from lg3d_cli import console
from lg3d_cli.commands.evaluate import show_scores
from lg3d_cli.options import DeviceOption, JobsOption, JsonOption, QuietOption, SeedOption, resolve
from lg3d_core.settings import DemoSettings


def demo(
    out: Annotated[Path | None, typer.Option(help="Working folder.  [default: demo]")] = None,
    recipe: Annotated[str | None, typer.Option(help="Of anchors and training.  [default: demo]")] = None,
    scenes: Annotated[int | None, typer.Option(help="Number of rooms.  [default: 24]")] = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run the whole pipeline on procedural rooms, in minutes, on a CPU.

    Prints each step as the command that does the same.

    Example: lg3d demo --out demo --scenes 24
    """
    settings = resolve(DemoSettings, out=out, recipe=recipe, scenes=scenes, seed=seed, device=device, jobs=jobs)
    from lg3d_core.demo import run_demo

    outcome = run_demo(settings, console.progress(quiet=quiet))
    if as_json:
        console.result_json(outcome.to_dict())
        return
    show_scores("Scores on the validation rooms, in percent", outcome.evaluation)
    for path in outcome.files:
        console.result(path)
