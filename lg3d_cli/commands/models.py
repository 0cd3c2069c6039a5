"""`lg3d models`."""

from typing import TYPE_CHECKING

from lg3d_cli import console
from lg3d_cli.parameters import settings_command
from lg3d_core.settings import ModelsSettings

if TYPE_CHECKING:
    from lg3d_core.models.models import ModelEntry

HEADER = ["model", "MB", "network", "voxels", "classes", "ask", "objects", "epochs", "mIoU"]


@settings_command(ModelsSettings)
def models(settings: ModelsSettings) -> None:
    """List the models on this machine. These are the shipped one, those cached from Hugging Face, and runs.

    mIoU is the last validation score of a run, over the classes that are present.

    Example: lg3d models --runs runs
    """
    from lg3d_core.models.models import models as list_models

    entries = list_models(settings, console.progress(quiet=settings.quiet))
    if settings.json:
        console.result_json({"models": [entry.to_dict() for entry in entries]})
        return
    console.result_table("", HEADER, [_row(entry) for entry in entries])


def _row(entry: "ModelEntry") -> list[str]:
    return [
        entry.name,
        f"{entry.num_bytes / 1e6:.1f}",
        entry.network,
        f"{100 * entry.voxel_size:g} cm",
        "-" if entry.num_classes is None else f"{entry.num_classes} ({entry.vocabulary or 'unknown'})",
        "yes" if entry.is_grounded else "-",
        "yes" if entry.has_offsets else "-",
        str(entry.epoch),
        "-" if entry.miou_present is None else f"{100 * entry.miou_present:.1f}",
    ]
