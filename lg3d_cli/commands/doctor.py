"""`lg3d doctor`."""

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import DoctorSettings


@settings_command(DoctorSettings)
def doctor(settings: DoctorSettings) -> None:
    """Show the devices, backends, encoders and versions of this machine.

    Example: lg3d doctor --json
    """
    from lg3d_core.doctor import doctor as examine_machine

    facts = examine_machine()
    if settings.json:
        console.result_json(facts)
    else:
        console.result_table("This machine", ["what", "found"], [[key, str(value)] for key, value in facts.items()])
