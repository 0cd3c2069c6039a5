"""`lg3d predict`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lg3d_cli import console
from lg3d_cli.completion import complete_scenes
from lg3d_cli.options import (
    BackendOption,
    CheckpointOption,
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
from lg3d_core.settings import PredictSettings

if TYPE_CHECKING:
    from lg3d_core.inference.predict import PredictReport

SHOWN = 20


def predict(
    scans: Annotated[
        list[str],
        typer.Argument(
            metavar="SCAN...",
            help="PLY, PCD, OBJ, GLB, LAS, LAZ or E57 files, or a scene's id.",
            autocompletion=complete_scenes,
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the written files.  [default: here]")] = None,
    format: Annotated[list[str] | None, typer.Option(help="ply, npz or txt; may be repeated.  [default: ply]")] = None,
    checkpoint: CheckpointOption = None,
    scale: ScaleOption = None,
    up: UpOption = None,
    memory: MemoryOption = None,
    overlap: OverlapOption = None,
    vocabulary: Annotated[
        str | None, typer.Option(help="What the classes are called.  [default: the checkpoint's]")
    ] = None,
    store: StoreOption = None,
    runs: RunsOption = None,
    device: DeviceOption = None,
    backend: BackendOption = None,
    precision: PrecisionOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Name every vertex of any scan, and write it as labelled PLY, npz or text.

    Units and the axis up are guessed and told; scans larger than memory are cut into overlapping tiles.

    Example: lg3d predict kitchen.ply hall.glb --out labels --memory 4G
    """
    settings = resolve(
        PredictSettings,
        scans=tuple(scans),
        out=out,
        formats=tuple(format) if format else None,
        checkpoint=checkpoint,
        scale=scale,
        up=up,
        memory=memory,
        overlap=overlap,
        vocabulary=vocabulary,
        store=store,
        runs=runs,
        device=device,
        backend=backend,
        precision=precision,
    )
    from lg3d_core.inference.predict import predict_scans

    report = predict_scans(settings, console.progress(quiet=quiet))
    if not quiet:
        _show_found(report)
    for scan, reason in report.failed.items():
        console.error(reason if scan in reason else f"{scan}: {reason}")
    if as_json:
        console.result_json(report.to_dict())
    else:
        for labels in report.labelled:
            for path in labels.files:
                console.result(path)
    if report.failed:
        raise typer.Exit(1)


def _show_found(report: "PredictReport") -> None:
    for labels in report.labelled:
        rows = [
            [found.name, str(found.vertices), f"{100 * found.share:.1f} %", f"{found.confidence:.2f}"]
            for found in labels.found
        ]
        more = len(rows) - SHOWN
        if more > 0:
            rows = [*rows[:SHOWN], [f"... {more} more", "", "", ""]]
        console.notice(f"{labels.scan}: {labels.num_vertices} vertices, {len(labels.found)} categories")
        console.note_table("", ["found", "vertices", "share", "confidence"], rows)
