"""`lg3d predict`."""

from collections import Counter
from typing import TYPE_CHECKING

import typer

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import PredictSettings

if TYPE_CHECKING:
    from lg3d_core.inference.predict import PredictReport, ScanLabels

SHOWN = 20


@settings_command(PredictSettings)
def predict(settings: PredictSettings) -> None:
    """Predict the class of every vertex of any scan. Writes labelled PLY, npz, text or a page.

    With a checkpoint of finetune --task instance, objects are listed too: name, confidence, box, number of points.

    Units and the up axis are estimated and reported; scans larger than memory are split into overlapping tiles.

    Example: lg3d predict kitchen.ply hall.glb --out labels --memory 4G
    """
    from lg3d_core.inference.input import require_some_input

    require_some_input(settings.scans, settings.store)  # before PyTorch loads
    from lg3d_core.inference.predict import predict as predict_scans
    from lg3d_core.viewing.labelled import labelled_page

    report = predict_scans(settings, console.progress(quiet=settings.quiet), make_page=labelled_page)
    if not settings.quiet:
        _show_found(report)
    for scan, reason in report.failed.items():
        console.error(f"cannot predict {scan}: {reason.removeprefix(f'{scan}: ')}")
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
        vertices = console.counted(labels.num_vertices, "vertex", "vertices")
        console.notice(f"{labels.scan}: {vertices}, {console.counted(len(labels.found), 'class', 'classes')}")
        console.note_table("", ["found", "vertices", "share", "confidence"], rows)
        if labels.objects is not None:
            _show_objects(labels)


def _show_objects(labels: "ScanLabels") -> None:
    names = Counter(found.name for found in labels.objects or ())
    rows = [[name, str(count)] for name, count in sorted(names.items(), key=lambda one: (-one[1], one[0]))]
    console.notice(f"{labels.scan}: {console.counted(names.total(), 'object', 'objects')}")
    if rows:
        console.note_table("", ["object", "count"], rows)
