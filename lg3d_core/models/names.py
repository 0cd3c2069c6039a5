"""Models by name: `shipped`, a checkpoint, the folder of a run, or `hf:OWNER/NAME[@REVISION]`."""

from os import PathLike
from pathlib import Path

from lg3d_core.errors import CheckpointError
from lg3d_core.models import shipped_checkpoint
from lg3d_core.networks.checkpoint import resolve_checkpoint
from lg3d_core.progress import Progress

SHIPPED_NAME = "shipped"


def find_model(name: str | PathLike[str], progress: Progress, *, final_relu: bool | None = None) -> Path:
    """Return the checkpoint of a model, which is downloaded if it is on the hub.

    Args:
        name: `shipped` for the model of this package; else as for `resolve_checkpoint`.
        progress: Receives notes on downloads, and on assumptions about foreign weights.
        final_relu: As for `read_info`.

    Raises:
        CheckpointError: The model does not exist, or foreign weights cannot be used.
        UsageError: The name of a model on the hub is invalid.
        MissingDependencyError: The model is not cached, and the hub cannot be reached.
    """
    if str(name) != SHIPPED_NAME:
        return resolve_checkpoint(Path(name), progress, final_relu=final_relu)
    shipped = shipped_checkpoint()
    if shipped is None:
        raise CheckpointError(
            "no model ships with this version of lg3d: pass a checkpoint, the folder of a run, or hf:OWNER/NAME"
        )
    return shipped
