"""`lg3d rooms`."""

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import RoomsSettings


@settings_command(RoomsSettings)
def rooms(settings: RoomsSettings) -> None:
    """Create procedural rooms in ScanNet's raw format.

    Examples: lg3d rooms rooms --scenes 24 --furniture /usr/share/sweethome3d/furniture

    lg3d rooms scans --scenes 200 --scanned --furniture /usr/share/sweethome3d/furniture
    """
    from lg3d_core.synthetic.rooms import rooms as run

    out = run(settings, console.progress(quiet=settings.quiet))
    console.outcome({"out": out}, as_json=settings.json)
