"""`lg3d finetune`."""

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import FinetuneSettings


@settings_command(FinetuneSettings)
def finetune(settings: FinetuneSettings) -> None:
    """Train a classifier, from pre-trained weights or scratch.

    Example: lg3d finetune --from "$ckpt" --limited 0.05
    """
    from lg3d_core.training.finetune import finetune as run  # torch loads here, never on --help

    checkpoint = run(settings, console.progress(quiet=settings.quiet))
    console.leader_result({"checkpoint": checkpoint}, as_json=settings.json)
