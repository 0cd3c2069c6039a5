"""`lg3d report`."""

from pathlib import Path
from typing import Annotated

import typer

from lg3d_cli import console
from lg3d_cli.completion import complete_runs
from lg3d_cli.options import (
    BackendOption,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    QuietOption,
    RunsOption,
    SeedOption,
    resolve,
)
from lg3d_core.settings import ReportSettings


def report(
    run: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of runs, or their names; the first is the baseline.", autocompletion=complete_runs
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write.  [default: report, in the run's folder if it is only one]")
    ] = None,
    runs: RunsOption = None,
    store: Annotated[Path | None, typer.Option(help="Scene store.  [default: that of the runs]")] = None,
    anchors: Annotated[Path | None, typer.Option(help="Anchors file.  [default: that of the run]")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test.  [default: val]")] = None,
    scene: Annotated[list[str] | None, typer.Option(help="Room to show; repeat it for several.")] = None,
    rooms: Annotated[int | None, typer.Option(help="How many to show otherwise.  [default: 2]")] = None,
    points: Annotated[int | None, typer.Option(help="Voxels in the map of features; 0: none.  [default: 2000]")] = None,
    pdf: Annotated[bool | None, typer.Option("--pdf", help="Every figure as PDF too.")] = None,
    svg: Annotated[bool | None, typer.Option("--svg", help="Every figure as SVG too.")] = None,
    fresh: Annotated[bool | None, typer.Option("--fresh", help="Score again, whatever was kept.")] = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    backend: BackendOption = None,
    precision: PrecisionOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write one page and figures of a run, or of several side by side.

    Learning curves, scores, IoU by category, confusions, a map of the features, rooms, and how the run was made.

    Examples: lg3d report runs/finetune-20260101-120000

    lg3d report runs/scratch runs/tuned --out comparison --pdf
    """
    settings = resolve(
        ReportSettings,
        run=tuple(run),
        out=out,
        runs=runs,
        store=store,
        anchors=anchors,
        split=split,
        scene=tuple(scene) if scene else None,
        rooms=rooms,
        points=points,
        pdf=pdf,
        svg=svg,
        fresh=fresh,
        seed=seed,
        device=device,
        backend=backend,
        precision=precision,
    )
    from lg3d_core.reporting.command import report_runs

    written = report_runs(settings, console.progress(quiet=quiet))
    if as_json:
        console.result_json(written.to_dict())
    else:
        console.result(written.page)
