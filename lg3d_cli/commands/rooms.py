"""`lg3d rooms`."""

from pathlib import Path
from typing import Annotated

import typer

from lg3d_cli import console
from lg3d_cli.options import JobsOption, QuietOption, SeedOption, resolve
from lg3d_core.settings import RoomsSettings


def rooms(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    scenes: Annotated[int | None, typer.Option(help="Number of rooms.  [default: 24]")] = None,
    seed: SeedOption = None,
    vertices: Annotated[int | None, typer.Option(help="Mesh vertices a room, about.  [default: 60000]")] = None,
    validation: Annotated[float | None, typer.Option(help="Share of validation rooms.  [default: 0.25]")] = None,
    jobs: JobsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Make procedural rooms in ScanNet's raw format.

    Example: lg3d rooms rooms --scenes 24 --seed 0
    """
    settings = resolve(
        RoomsSettings, out=out, scenes=scenes, seed=seed, vertices=vertices, validation=validation, jobs=jobs
    )
    from lg3d_core.rooms import write_rooms

    console.result(write_rooms(settings, console.progress(quiet=quiet)))
