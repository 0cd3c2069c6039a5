"""`lg3d report`."""

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import ReportSettings


@settings_command(ReportSettings)
def report(settings: ReportSettings) -> None:
    """Write a page of one run, or of several side by side.

    Learning curves, scores, IoU per class, confusions, a map of the features, scenes, and the run's settings.

    Examples: lg3d report runs/finetune-20260101-120000

    lg3d report runs/scratch runs/tuned --out comparison --pdf
    """
    from lg3d_core.reporting.report import report as report_runs

    written = report_runs(settings, console.progress(quiet=settings.quiet))
    if settings.json:
        console.result_json(written.to_dict())
    else:
        console.result(written.page)
