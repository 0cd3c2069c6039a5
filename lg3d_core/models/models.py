"""`lg3d models`: the models on this machine."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lg3d_core.errors import CheckpointError
from lg3d_core.models import shipped_checkpoint
from lg3d_core.models.names import SHIPPED_NAME
from lg3d_core.networks.checkpoint import CHECKPOINT_NAME, is_grounded, read_info
from lg3d_core.networks.hub import cached_models
from lg3d_core.progress import Progress
from lg3d_core.settings import ModelsSettings

METRICS_NAME = "metrics.jsonl"
VALIDATION = "val_miou_present"
"""Name of the validation mIoU in `metrics.jsonl`: the mean over classes with ground truth, 0..1."""


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """Model on this machine.

    Attributes:
        name: What `--checkpoint` accepts: `shipped`, the name of a model on the hub, or a run folder.
        path: Checkpoint.
        num_bytes: Size of the checkpoint.
        network: Name of the network plan.
        voxel_size: Edge length of a voxel in metres.
        num_classes: Number of classes; None without a classifier.
        vocabulary: Name of the vocabulary.
        is_grounded: Whether `lg3d ask` can use it.
        has_offsets: Whether it has an offset head.
        epoch: Completed epochs.
        miou_present: Last validation score of a local run, 0..1; None if there is none.
    """

    name: str
    path: Path
    num_bytes: int
    network: str
    voxel_size: float
    num_classes: int | None
    vocabulary: str
    is_grounded: bool
    has_offsets: bool
    epoch: int
    miou_present: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return asdict(self) | {"path": str(self.path)}


def models(settings: ModelsSettings, progress: Progress) -> list[ModelEntry]:
    """Return the shipped model, the cached models of the hub, and the runs of a folder; newest runs first.

    Args:
        settings: Settings.
        progress: Receives a warning for every checkpoint that cannot be read; it is left out.
    """
    shipped = shipped_checkpoint()
    named = [(SHIPPED_NAME, shipped)] if shipped is not None else []
    named += cached_models()
    runs = [path for path in settings.runs.glob(f"*/{CHECKPOINT_NAME}") if path.is_file()]
    runs.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    named += [(str(path.parent), path) for path in runs]
    entries = []
    for name, path in named:
        try:
            info = read_info(path)
        except CheckpointError as error:
            progress.warn(str(error))
            continue
        entries.append(
            ModelEntry(
                name=name,
                path=path,
                num_bytes=path.stat().st_size,
                network=info.network,
                voxel_size=info.voxel_size,
                num_classes=info.num_classes,
                vocabulary=info.vocabulary,
                is_grounded=is_grounded(info),
                has_offsets=info.offset_head,
                epoch=info.epoch,
                miou_present=last_score(path.parent),
            )
        )
    return entries


def last_score(run: Path, *, epoch: int | None = None) -> float | None:
    """Return the last validation score in the folder of a run, or None if it has none.

    Args:
        run: Folder of the run.
        epoch: Epoch that was validated, from 1; None for any.
    """
    try:
        lines = (run / METRICS_NAME).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    for line in reversed(lines):
        try:
            record = json.loads(line)
            value, validated = record.get(VALIDATION), record.get("epoch")
        except (ValueError, AttributeError, RecursionError):
            continue  # the end of a line that is being written
        if isinstance(value, float) and math.isfinite(value) and epoch in (None, validated):
            return value
    return None
