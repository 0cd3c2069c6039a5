"""`lg3d pretrain`."""

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import PretrainSettings


@settings_command(PretrainSettings)
def pretrain(settings: PretrainSettings) -> None:
    """Pre-train the network on text anchors, or with a baseline.

    Example: ckpt=$(lg3d pretrain --recipe paper-34d --limited 0.05)
    """
    from lg3d_core.training.pretrain import pretrain as run  # torch loads here, never on --help

    checkpoint = run(settings, console.progress(quiet=settings.quiet))
    console.leader_result({"checkpoint": checkpoint}, as_json=settings.json)
