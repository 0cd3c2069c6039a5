"""`lg3d export`."""

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import ExportSettings


@settings_command(ExportSettings)
def export(settings: ExportSettings) -> None:
    """Write a checkpoint as ONNX or for torch.export. It uses standard operators and accepts any number of voxels.

    Examples: lg3d export runs/finetune-20260101-120000 model.onnx

    lg3d predict kitchen.ply --checkpoint model.onnx
    """
    from lg3d_core.inference.export import export as run

    report = run(settings, console.progress(quiet=settings.quiet))
    console.outcome({"out": report.path}, as_json=settings.json, details=report.to_dict())
