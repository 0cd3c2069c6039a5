"""`lg3d score`."""

import typer

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import ScoreSettings


@settings_command(ScoreSettings)
def score(settings: ScoreSettings) -> None:
    """Score or check predictions in the benchmark's format.

    Several predictions are compared with the first one.

    Examples: lg3d score mine.zip --store data

    lg3d score mine.zip theirs.zip --json

    lg3d score mine.zip --check --split test
    """
    from lg3d_core.comparing import score_table
    from lg3d_core.comparing.score import score as score_predictions

    if settings.check:
        _check(settings)
        return
    report = score_predictions(settings, console.progress(quiet=settings.quiet))
    if settings.json:
        console.result_json(report.to_dict())
        return
    console.result_table(score_table.describe(report), *score_table.score_table(report))
    if len(report.predictions) > 1:
        console.result_table(score_table.describe_differences(report), *score_table.difference_table(report))
    if settings.per_class:
        console.result_table("Per class, in percent", *score_table.class_table(report))


def _check(settings: ScoreSettings) -> None:
    from lg3d_core.comparing.check import check

    progress = console.progress(quiet=settings.quiet)
    report = check(settings, progress)
    if settings.json:
        console.result_json(report.to_dict())
    else:
        for line in report.lines:
            console.result(line)
    if report.lines:
        raise typer.Exit(1)
    sizes = ", ".join(f"{own.name}: {own.task}, {own.num_bytes / 2**20:.1f} MiB" for own in report.predictions)
    progress.note(f"no problems in {report.num_scenes} scenes ({sizes})")
