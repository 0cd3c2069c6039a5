"""`lg3d view`."""

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import ViewSettings


@settings_command(ViewSettings)
def view(settings: ViewSettings) -> None:
    """Show a scene with its labels, prediction and objects.

    With a display, a window opens: hover to print a class in the terminal, press H for the keys.
    Without one, a picture and a page are written.

    Examples: lg3d view scene0011_00 --html room.html

    lg3d view scene0011_00 --png room.png --layer truth --layer prediction

    lg3d view scene0011_00 --heat "somewhere to sit" --html room.html

    lg3d view scene0011_00 --serve, on a machine reached by SSH
    """
    from lg3d_core.inference.input import require_scene

    require_scene(settings.scene, settings.store, settings.vocabulary)  # before PyTorch loads
    from lg3d_core.viewing.view import view as show_scene

    announce = (lambda _: None) if settings.json and not settings.serve else console.result
    files = show_scene(settings, console.progress(quiet=settings.quiet), announce=announce)
    if settings.json and not settings.serve:
        console.result_json({"files": [str(path) for path in files]})
