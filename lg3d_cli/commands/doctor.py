"""`lg3d doctor`."""

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import DoctorSettings


@settings_command(DoctorSettings)
def doctor(settings: DoctorSettings) -> None:
    """Show the devices and versions of this machine. With --plan, forecast training on it.

    Example: lg3d doctor --plan --recipe paper-34c
    """
    if settings.plan:
        _show_plan(settings)
        return
    from lg3d_core.doctor import doctor as examine_machine

    facts = examine_machine()
    if settings.json:
        console.result_json(facts)
    else:
        console.result_table(
            "This machine",
            ["what", "found"],
            [[key, "-" if value is None else str(value)] for key, value in facts.items()],
        )


def _show_plan(settings: DoctorSettings) -> None:
    from lg3d_core.training.forecast import describe_forecast, plan

    forecasts = plan(settings.recipe, settings.plan_options(), console.progress(quiet=settings.quiet))
    if settings.json:
        console.result_json({forecast.command: forecast._asdict() for forecast in forecasts})
        return
    titles = ["what", *(forecast.command for forecast in forecasts)]
    rows = zip(*(describe_forecast(forecast) for forecast in forecasts), strict=True)
    console.result_table("Training on this machine", titles, [[pairs[0][0], *(p[1] for p in pairs)] for pairs in rows])
