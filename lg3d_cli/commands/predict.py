"""`lg3d predict`."""

from typing import TYPE_CHECKING

import typer

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import PredictSettings

if TYPE_CHECKING:
    from lg3d_core.inference.predict import PredictReport

SHOWN = 20


@settings_command(PredictSettings)
def predict(settings: PredictSettings) -> None:
    """Predict the class of every vertex of any scan, and write it as labelled PLY, npz or text.

    Units and the up axis are estimated and reported; scans larger than memory are split into overlapping tiles.

    Example: lg3d predict kitchen.ply hall.glb --out labels --memory 4G
    """
    from lg3d_core.inference.predict import predict as predict_scans

    report = predict_scans(settings, console.progress(quiet=settings.quiet))
    if not settings.quiet:
        _show_found(report)
    for scan, reason in report.failed.items():
        console.error(reason if scan in reason else f"{scan}: {reason}")
    if settings.json:
        console.result_json(report.to_dict())
    else:
        for path in (path for labels in report.labelled for path in labels.files):
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
