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
    spacing: Annotated[
        float | None,
        typer.Option(help="Distance of vertices in metres, instead of --vertices.  [0.022 with --furniture]"),
    ] = None,
    furniture: Annotated[Path | None, typer.Option(help="Furnish with the models of these .sh3f libraries.")] = None,
    furniture_names: Annotated[Path | None, typer.Option(help="Table of what each model is, as things.tsv.")] = None,
    scanned: Annotated[
        bool | None, typer.Option("--scanned", help="Varied rooms, scanned by a simulated hand-held depth camera.")
    ] = None,
    validation: Annotated[float | None, typer.Option(help="Share of validation rooms.  [default: 0.25]")] = None,
    jobs: JobsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Make procedural rooms in ScanNet's raw format.

    Examples: lg3d rooms rooms --scenes 24 --furniture /usr/share/sweethome3d/furniture

    lg3d rooms scans --scenes 200 --scanned --furniture /usr/share/sweethome3d/furniture
    """
    settings = resolve(
        RoomsSettings,
        out=out,
        scenes=scenes,
        seed=seed,
        vertices=vertices,
        spacing=spacing,
        furniture=furniture,
        furniture_names=furniture_names,
        scanned=scanned,
        validation=validation,
        jobs=jobs,
    )
    from lg3d_core.synthetic import write_rooms

    console.result(write_rooms(settings, console.progress(quiet=quiet)))
