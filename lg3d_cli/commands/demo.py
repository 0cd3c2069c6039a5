"""`lg3d demo`."""

from lg3d_cli import console
from lg3d_cli.commands.evaluate import show_scores
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import DemoSettings


@settings_command(DemoSettings)
def demo(settings: DemoSettings) -> None:
    """Run the whole pipeline on procedural rooms, in minutes.

    Each step prints the equivalent command.

    Example: lg3d demo --out demo --scenes 24
    """
    from lg3d_core.demo import demo as run_demo

    outcome = run_demo(settings, console.progress(quiet=settings.quiet))
    if settings.json:
        console.result_json(outcome.to_dict())
        return
    show_scores("Scores on the validation rooms, in percent", outcome.evaluation)
    for path in outcome.files:
        console.result(path)
