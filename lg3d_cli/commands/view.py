"""`lg3d view`."""

from pathlib import Path
from typing import Annotated

import typer

from lg3d_cli import console
from lg3d_cli.completion import complete_scenes
from lg3d_cli.options import (
    BackendOption,
    CheckpointOption,
    DeviceOption,
    FinalReluOption,
    QuietOption,
    RunsOption,
    SeedOption,
    StoreOption,
    VoxelSizeOption,
    resolve,
)
from lg3d_core.settings import ViewSettings


def view(
    scene: Annotated[
        str, typer.Argument(help="Scene id in the store, such as scene0011_00.", autocompletion=complete_scenes)
    ],
    store: StoreOption = None,
    checkpoint: CheckpointOption = None,
    final_relu: FinalReluOption = None,
    runs: RunsOption = None,
    png: Annotated[Path | None, typer.Option(help="Write a picture.")] = None,
    layer: Annotated[list[str] | None, typer.Option(help="Of the picture; repeat it for several.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a self-contained interactive page.")] = None,
    heat: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Show the heat of a text; repeat it for several.")
    ] = None,
    serve: Annotated[bool | None, typer.Option("--serve", help="Serve the page, for use over SSH.")] = None,
    port: Annotated[int | None, typer.Option(help="To serve on; 0: any that is free.  [default: 8731]")] = None,
    augmented: Annotated[bool | None, typer.Option("--augmented", help="Show it as a training sample.")] = None,
    voxel_size: VoxelSizeOption = None,
    instances: Annotated[int | None, typer.Option(help="Rare objects put into that sample.  [default: 5]")] = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    backend: BackendOption = None,
    quiet: QuietOption = False,
) -> None:
    """Show a scene: colours, ground truth, prediction, errors, confidence, instances.

    A window where there is a display: point at something to be told what it is, click to see its category alone, H for
    the keys. Otherwise a picture and a page.

    Examples: lg3d view scene0011_00 --html room.html

    lg3d view scene0011_00 --png room.png --layer truth --layer prediction

    lg3d view scene0011_00 --heat "somewhere to sit" --html room.html

    lg3d view scene0011_00 --serve, on a machine reached by SSH
    """
    settings = resolve(
        ViewSettings,
        scene=scene,
        store=store,
        checkpoint=checkpoint,
        final_relu=final_relu,
        runs=runs,
        png=png,
        layer=layer,
        html=html,
        heat=tuple(heat) if heat else None,
        serve=serve,
        port=port,
        augmented=augmented,
        voxel_size=voxel_size,
        instances=instances,
        seed=seed,
        device=device,
        backend=backend,
    )
    from lg3d_core.viewing.show import show_scene

    show_scene(settings, console.progress(quiet=quiet), announce=console.result)
