"""`lg3d doctor`."""

from lg3d_cli import console
from lg3d_cli.options import JsonOption


def doctor(as_json: JsonOption = False) -> None:
    """Tell what this machine has: device, backends, encoders, versions.

    Example: lg3d doctor --json
    """
    from lg3d_core.doctor import examine_machine

    facts = examine_machine()
    if as_json:
        console.result_json(facts)
    else:
        console.result_table("This machine", ["what", "found"], [[key, str(value)] for key, value in facts.items()])
