"""`lg3d push`."""

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import PushSettings


@settings_command(PushSettings)
def push(settings: PushSettings) -> None:
    """Upload a checkpoint to Hugging Face. Its anchors and a model card are added; use it as hf:OWNER/NAME.

    Needs an access token in HF_TOKEN, or a login with the command hf auth login.

    Example: lg3d push runs/finetune-20260101-120000 OWNER/NAME --private
    """
    from lg3d_core.inference.push import push as upload

    report = upload(settings, console.progress(quiet=settings.quiet))
    console.outcome({"url": report.url}, as_json=settings.json, details=report.to_dict())
