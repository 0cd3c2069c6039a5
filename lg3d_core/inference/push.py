"""`lg3d push`: a checkpoint, its anchors and a card in a repository of Hugging Face."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lg3d_core.errors import CheckpointError, DataError
from lg3d_core.inference.ask import find_anchors
from lg3d_core.language.anchors_file import save_anchors
from lg3d_core.models.models import last_score
from lg3d_core.models.names import find_model
from lg3d_core.networks.checkpoint import (
    CheckpointInfo,
    is_grounded,
    is_onnx,
    load_tensors,
    read_info,
    save_tensors,
)
from lg3d_core.networks.hub import (
    ANCHORS_FILE,
    CHECKPOINT_FILE,
    PREFIX,
    HubName,
    hub_errors,
    is_hub_name,
    parse_hub_name,
    site_of_hub,
)
from lg3d_core.networks.torch_files import is_torch_file
from lg3d_core.progress import Progress
from lg3d_core.settings import PushSettings

CARD_FILE = "README.md"


@dataclass(frozen=True)
class PushReport:
    """Uploaded model.

    Attributes:
        url: Address of the commit.
        name: Name for `--checkpoint`.
        files: Uploaded files.
    """

    url: str
    name: str
    files: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the address as plain values for JSON."""
        return {"name": self.name, "files": list(self.files)}


def push(settings: PushSettings, progress: Progress) -> PushReport:
    """Upload a checkpoint in one commit; the repository is created if it does not exist.

    Settings that name files of this machine are removed from the uploaded metadata and card.

    Raises:
        UsageError: The name of the repository is invalid.
        CheckpointError: The checkpoint cannot be read or is not lg3d's, its anchors are missing, or the hub refuses it.
        DataError: The card cannot be read.
        MissingDependencyError: There is no access token.
    """
    import huggingface_hub

    hub = parse_hub_name(PREFIX + settings.repository.removeprefix(PREFIX))
    if is_hub_name(settings.checkpoint):
        raise CheckpointError(f"{settings.checkpoint} is on the hub already: pass a file or a run folder")
    path = find_model(settings.checkpoint, progress)
    if is_torch_file(path) or is_onnx(path):
        raise CheckpointError(f"{path} is not a checkpoint of lg3d: pass a .safetensors file; lg3d convert writes one")
    info = read_info(path)
    if settings.card is not None:
        card = _read_card(settings.card)
    else:
        card = write_card(hub, info.without_paths(), last_score(path.parent, epoch=info.epoch))
    add = huggingface_hub.CommitOperationAdd
    if settings.card is None:
        progress.note("the card is generated: pass --card FILE to describe the training data, scores and limits")
    api = huggingface_hub.HfApi(endpoint=site_of_hub())
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / CHECKPOINT_FILE
        save_tensors(checkpoint, load_tensors(path), info.without_paths())
        operations = [add(CHECKPOINT_FILE, checkpoint), add(CARD_FILE, card.encode())]
        if is_grounded(info):
            anchors = Path(folder) / ANCHORS_FILE
            first = info.select(None)[0] if info.vocabularies else info  # a download is used with its anchors
            save_anchors(anchors, find_anchors(path, first, settings.anchors))
            operations.append(add(ANCHORS_FILE, anchors))
        with hub_errors(hub, site_of_hub()):
            api.create_repo(hub.repository, private=settings.private, exist_ok=True)
            commit = api.create_commit(
                hub.repository, operations, commit_message=f"lg3d push: {info.network}", revision=hub.revision
            )
    return PushReport(str(commit.commit_url), str(hub), tuple(entry.path_in_repo for entry in operations))


def _read_card(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the card {path} ({error}): expected a Markdown file in UTF-8") from None


def write_card(hub: HubName, info: CheckpointInfo, score: float | None) -> str:
    """Return a model card, with the facts that the checkpoint records.

    Args:
        hub: Name of the model.
        info: Metadata of the checkpoint.
        score: Validation mIoU of the checkpoint over the present classes, 0..1, if known.
    """
    classes = "no classifier" if info.num_classes is None else f"{info.num_classes} classes of {info.vocabulary}"
    rows = [
        ("network", f"MinkUNet {info.network}"),
        ("voxels", f"{100 * info.voxel_size:g} cm"),
        ("classes", classes),
        ("text queries", "yes" if is_grounded(info) else "no"),
        ("offset head", "yes" if info.offset_head else "no"),
        ("training", f"{info.kind}, {info.epoch} epochs"),
        ("validation mIoU, present classes", "not recorded" if score is None else f"{100 * score:.1f} %"),
    ]
    front = ["---", "library_name: lg3d", "tags: [point-cloud, semantic-segmentation, indoor-scans]", "---", ""]
    table = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    usage = ["```sh", f"lg3d predict scan.ply --checkpoint {hub}", "```"]
    options = json.dumps(json.loads(info.settings), indent=2, sort_keys=True)
    settings = ["<details><summary>Settings of the run</summary>", "", "```json", options, "```", "</details>"]
    return "\n".join([*front, f"# {hub.repository}", "", *table, "", *usage, "", *settings, ""])
