"""The model that is part of the package."""

from pathlib import Path

from lg3d_core.progress import Progress

FOLDER = Path(__file__).parent
CHECKPOINT_NAME = "shipped.safetensors"
ANCHORS_NAME = "shipped-anchors.safetensors"
CARD_NAME = "MODEL_CARD.md"


def shipped_checkpoint() -> Path | None:
    """Return the checkpoint that is part of the package, or None if this copy has none."""
    return _existing(FOLDER / CHECKPOINT_NAME)


def shipped_anchors() -> Path | None:
    """Return the text anchors of the shipped checkpoint, or None if this copy has none."""
    return _existing(FOLDER / ANCHORS_NAME)


def use_shipped(runs: Path, progress: Progress) -> Path | None:
    """Return the shipped checkpoint, and note that it is used because a folder has no run that fits; None without one.

    Args:
        runs: Folder of the runs, for the note.
        progress: Receives the note.
    """
    path = shipped_checkpoint()
    if path is not None:
        progress.note(f"no run in {runs}: using the model that comes with lg3d (pass --checkpoint to use another one)")
    return path


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None
