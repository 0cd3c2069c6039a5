"""Checkpoint of a network that has learnt nothing: its labels are arbitrary, and depend on every voxel around."""

import dataclasses
from pathlib import Path

import torch

from lg3d_core.networks.checkpoint import CheckpointInfo, save_checkpoint
from lg3d_core.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary("scannet200")
INFO = CheckpointInfo(
    kind="finetune",
    network="14A",
    num_classes=len(VOCABULARY),
    voxel_size=0.1,
    vocabulary=VOCABULARY.name,
    vocabulary_digest=VOCABULARY.digest,
)
"""14A with a classifier of 200 classes, at 10 cm."""


def save_random(path: Path, **changes: object) -> Path:
    """Write a checkpoint with `INFO` and changes of its fields, in a new folder if necessary. Return its path."""
    torch.manual_seed(0)
    info = dataclasses.replace(INFO, **changes)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, info.build_network(num_classes=info.num_classes), info)
    return path
