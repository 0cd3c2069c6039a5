"""Own checkpoints: weights as safetensors, with everything that is needed to use them in the metadata."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from lg3d_core.errors import CheckpointError
from lg3d_core.files import atomic_path
from lg3d_core.networks.minkunet import NETWORK_PLANS, MinkUNet

FORMAT = "lg3d-checkpoint-1"
CHECKPOINT_NAME = "checkpoint.safetensors"
BEST_NAME = "best.safetensors"


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint says of itself."""

    kind: str
    """`pretrain` or `finetune`: without or with a classifier."""
    network: str
    """Plan of the U-Net."""
    num_classes: int | None
    """Outputs of the classifier; None where there is none."""
    voxel_size: float
    """Edge of a voxel in metres."""
    vocabulary: str
    """Name of the vocabulary."""
    vocabulary_digest: str
    """Digest of the vocabulary: its categories in order."""
    anchors_digest: str | None = None
    """Digest of the text anchors that the features lie by, if any."""
    epoch: int = 0
    """Epochs done."""
    settings: str = "{}"
    """The run's settings as JSON."""


def save_checkpoint(path: Path, network: nn.Module, info: CheckpointInfo) -> None:
    """Write weights and metadata, whole or not at all.

    Raises:
        DataError: The file system refused; an older file under that name is untouched.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"format": FORMAT, "info": json.dumps(dataclasses.asdict(info))})
        except SafetensorError as error:  # its way of saying that the disk is full
            raise OSError(str(error)) from None


def read_info(path: Path) -> CheckpointInfo:
    """Read what a checkpoint says of itself, without its weights.

    Raises:
        CheckpointError: Missing, damaged, or no checkpoint of this project.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: expected a .safetensors file that lg3d wrote")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise CheckpointError(
                f"{path} is no lg3d checkpoint (format {metadata.get('format')!r}, expected {FORMAT!r})"
            )
        info = CheckpointInfo(**json.loads(metadata["info"]))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the metadata of checkpoint {path} is damaged: {error}") from None
    if info.network not in NETWORK_PLANS:
        raise CheckpointError(f"{path} holds a network {info.network!r}; this version knows {', '.join(NETWORK_PLANS)}")
    return info


def load_network(path: Path, *, device: torch.device | str = "cpu") -> tuple[MinkUNet, CheckpointInfo]:
    """Rebuild a checkpoint's network with its weights, in evaluation mode.

    Raises:
        CheckpointError: The file cannot be read, or its tensors do not fit the network that it names.
    """
    info = read_info(path)
    network = MinkUNet(info.network, num_classes=info.num_classes)
    load_weights(network, path)
    return network.to(device).eval(), info


def load_weights(network: nn.Module, path: Path, *, fresh_classifier: bool = False) -> None:
    """Load a checkpoint's tensors into a network in place.

    Args:
        network: Filled in place.
        path: Checkpoint.
        fresh_classifier: Leave `final.*` as it is, whatever the checkpoint holds.

    Raises:
        CheckpointError: A tensor is missing, left over, of another shape, or not finite; nothing is loaded then.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from None
    own = network.state_dict()
    if fresh_classifier:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("final.")}
        own = {name: tensor for name, tensor in own.items() if not name.startswith("final.")}
    missing, extra = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    if missing or extra:
        raise CheckpointError(
            f"{path} does not fit this network: {len(missing)} tensors missing"
            f"{_first(missing)}, {len(extra)} unexpected{_first(extra)}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            expected, came = list(own[name].shape), list(tensor.shape)
            raise CheckpointError(f"{path}: tensor {name} has shape {came}, this network needs {expected}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: tensor {name} holds values that are not finite; the run diverged")
    network.load_state_dict(tensors, strict=not fresh_classifier)


def _first(names: list[str]) -> str:
    return f" (first: {names[0]})" if names else ""


def resolve_checkpoint(path: Path) -> Path:
    """A checkpoint file as it is; the last checkpoint of a run folder.

    Raises:
        CheckpointError: Neither exists.
    """
    if path.is_dir():
        if not (path / CHECKPOINT_NAME).is_file():
            raise CheckpointError(f"{path} holds no {CHECKPOINT_NAME}: has this run finished an epoch?")
        return path / CHECKPOINT_NAME
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: expected a .safetensors file or a run's folder")
    return path


def newest_checkpoint(runs: Path, kind: str) -> Path | None:
    """The last checkpoint of the newest run of a kind, or None where there is none."""
    found = [path for path in runs.glob(f"*/{CHECKPOINT_NAME}") if _kind_of_run(path.parent) == kind]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def _kind_of_run(folder: Path) -> str | None:
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return card.get("kind") if isinstance(card, dict) else None
