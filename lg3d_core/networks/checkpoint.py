"""Checkpoints: weights as safetensors, with all metadata that is needed to use them.

Every function that reads a checkpoint also accepts weights trained with MinkowskiEngine
(`lg3d_core.networks.minkowski_checkpoint`). Facts that such a file lacks are assumed, and `resolve_checkpoint` reports
the assumptions.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lg3d_core.errors import CheckpointError, DataError
from lg3d_core.files import recognise_foreign, write_bytes
from lg3d_core.networks.hub import download_checkpoint, is_hub_name
from lg3d_core.networks.minkowski_checkpoint import (
    INFO_FACT,
    MAX_CLASSES,
    OFFSET_HEAD_PREFIX,
    STEM_SIZES,
    VOXEL_SIZE,
    Foreign,
    Match,
    match_foreign,
    read_foreign,
    read_tensors,
    require_final_relu,
    voxel_size_of,
)
from lg3d_core.networks.minkunet import NETWORK_PLANS, MinkUNet
from lg3d_core.networks.torch_files import is_torch_file
from lg3d_core.progress import Progress
from lg3d_core.seal import NO_SEAL, SEAL_KEY, require_sealed_safetensors, seal_safetensors

FORMAT = "lg3d-checkpoint-1"
"""Format written by versions that did not seal checkpoints."""
SEALED_FORMAT = "lg3d-checkpoint-2"
AGAIN = "copy it again, or use another checkpoint of the run"
MAX_VOXEL_SIZE = 100.0
"""Metres."""
FLOATS = (torch.bfloat16, torch.float16, torch.float64, torch.float32)
CHECKPOINT_NAME = "checkpoint.safetensors"
BEST_NAME = "best.safetensors"
CARD_NAME = "card.json"
ONNX_SUFFIX, PROGRAM_SUFFIX = ".onnx", ".pt2"
PATHS = ("store", "also_store", "runs", "anchors", "also_anchors", "recipe", "name", "resume", "start")
"""Settings that name files of the machine of a training."""


def is_onnx(path: Path) -> bool:
    """Return whether a path names a model that `lg3d export` wrote as ONNX."""
    return path.suffix.lower() == ONNX_SUFFIX


@dataclass(frozen=True, kw_only=True)
class TrainedVocabulary:
    """One of several vocabularies of a checkpoint."""

    name: str
    """Name of the vocabulary."""
    digest: str
    """Digest of the vocabulary."""
    num_classes: int
    """Number of its classes, which are consecutive in the classifier."""
    anchors_digest: str
    """Digest of its text anchors."""


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """Metadata of a checkpoint."""

    kind: str
    """`pretrain` (without a classifier) or `finetune` (with a classifier)."""
    network: str
    """Name of the network plan."""
    num_classes: int | None
    """Number of classes of the classifier; None without a classifier."""
    voxel_size: float
    """Edge length of a voxel in metres."""
    vocabulary: str
    """Name of the vocabulary."""
    vocabulary_digest: str
    """Digest of the vocabulary, i.e. of its classes in order; empty if foreign weights do not contain it."""
    anchors_digest: str | None = None
    """Digest of the text anchors that the features were trained towards, if any."""
    epoch: int = 0
    """Number of completed epochs."""
    settings: str = "{}"
    """Settings of the run as JSON."""
    stem_size: int = 3
    """Edge length of the network's first kernel in voxels."""
    final_relu: bool = False
    """Whether the last block ends with a ReLU."""
    labels_seen: str | None = None
    """Labels of the training scenes that the weights depend on: digests of label budgets, or `all`, separated by
    commas; empty for none; None if unknown, as for older versions and foreign weights."""
    offset_head: bool = False
    """Whether the network predicts the vector from each voxel to the centre of its object."""
    adapt: float = 0.0
    """Default share of a scan's own statistics in batch normalisation, 0..1."""
    vocabularies: tuple[TrainedVocabulary, ...] = ()
    """Vocabularies of joint training, in the order of their classes in the classifier; empty for a single one."""

    def anchors_of(self, digest: str) -> str | None:
        """Return the digest of the text anchors of a vocabulary; None if the features are not trained towards it."""
        by_digest = {own.digest: own.anchors_digest for own in self.vocabularies}
        is_own = not self.vocabularies and self.knows(digest)
        return by_digest.get(digest, self.anchors_digest if is_own else None)

    def knows(self, digest: str) -> bool:
        """Return whether a vocabulary is one of the checkpoint's, or may be if the checkpoint does not name its own."""
        digests = {own.digest for own in self.vocabularies} or {self.vocabulary_digest}
        return digest in digests or "" in digests

    def select(self, wanted: str | None) -> tuple["CheckpointInfo", slice]:
        """Return the metadata for one of several vocabularies, and its classes in the classifier.

        Args:
            wanted: Digest or name of the vocabulary; the first vocabulary if the checkpoint does not have it.
        """
        found = [number for number, own in enumerate(self.vocabularies) if wanted in (own.digest, own.name)]
        number = found[0] if found else 0
        own = self.vocabularies[number]
        first = sum(other.num_classes for other in self.vocabularies[:number])
        info = dataclasses.replace(
            self,
            vocabulary=own.name,
            vocabulary_digest=own.digest,
            anchors_digest=own.anchors_digest,
            num_classes=None if self.num_classes is None else own.num_classes,
            vocabularies=(),
        )
        return info, slice(first, first + own.num_classes)

    def without_paths(self) -> "CheckpointInfo":
        """Return the metadata without the settings that name files of the machine, to publish a checkpoint."""
        settings = {name: value for name, value in json.loads(self.settings).items() if name not in PATHS}
        return dataclasses.replace(self, settings=json.dumps(settings))

    def to_json(self) -> str:
        """Return the metadata as JSON; a single vocabulary is written as by earlier versions."""
        values = dataclasses.asdict(self)
        return json.dumps(values if self.vocabularies else {k: v for k, v in values.items() if k != "vocabularies"})

    def build_network(self, *, num_classes: int | None) -> MinkUNet:
        """Build the network with newly initialised weights."""
        return MinkUNet(
            self.network,
            num_classes=num_classes,
            stem_size=self.stem_size,
            final_relu=self.final_relu,
            offset_head=self.offset_head,
        )


def save_checkpoint(path: Path, network: nn.Module, info: CheckpointInfo) -> None:
    """Write weights and metadata atomically.

    Raises:
        DataError: The file cannot be written; an existing file of that name is unchanged.
    """
    save_tensors(path, network.state_dict(), info)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], info: CheckpointInfo) -> None:
    """Write weights by name and metadata atomically.

    Raises:
        DataError: The file cannot be written; an existing file of that name is unchanged.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # Serialised in memory: when writing to a path, a killed safetensors leaves a temporary file behind.
    metadata = {"format": SEALED_FORMAT, "info": info.to_json(), SEAL_KEY: NO_SEAL}
    write_bytes(path, seal_safetensors(save(tensors, metadata)))


def read_info(path: Path, *, final_relu: bool | None = None) -> CheckpointInfo:
    """Read the metadata of a checkpoint without its weights.

    Args:
        path: Checkpoint.
        final_relu: Whether the last block of foreign weights ends with a ReLU; None takes it from the file.

    Raises:
        CheckpointError: The file is missing, damaged, not a checkpoint, or lacks whether the last block has a ReLU.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: expected a .safetensors file that lg3d wrote")
    if is_onnx(path):
        from lg3d_core.networks.onnx_file import read_onnx

        return read_onnx(path)[1]
    if is_torch_file(path):
        foreign, match = _read_whole(path)
        return describe_foreign(foreign, match, final_relu=final_relu)
    is_sealed = _require_whole(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") not in (FORMAT, SEALED_FORMAT):
            raise CheckpointError(
                f"{path} is not an lg3d checkpoint (format {metadata.get('format')!r}, expected {SEALED_FORMAT!r})"
            )
        if metadata["format"] == SEALED_FORMAT and not is_sealed:
            raise CheckpointError(f"{path}: damaged: its checksum is missing; {AGAIN}")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from None
    if "info" not in metadata:
        raise CheckpointError(f"the metadata of checkpoint {path} is damaged: its info is missing")
    info = parse_info(metadata["info"], path)
    if final_relu not in (None, info.final_relu):
        raise CheckpointError(
            f"{path} was written by lg3d and its last block ends {'with' if info.final_relu else 'without'} "
            f"a ReLU: omit {'--final-relu' if final_relu else '--no-final-relu'}"
        )
    return info


def parse_info(text: str, path: Path) -> CheckpointInfo:
    """Return the metadata of a checkpoint from its JSON text.

    Raises:
        CheckpointError: The text is damaged, or names a network that does not exist.
    """
    try:
        values = json.loads(text)
        vocabularies = tuple(TrainedVocabulary(**own) for own in values.get("vocabularies", ()))
        info = CheckpointInfo(**{**values, "vocabularies": vocabularies})
    except (TypeError, ValueError, RecursionError, AttributeError) as error:
        raise CheckpointError(f"the metadata of checkpoint {path} is damaged: {error}") from None
    if not isinstance(info.network, str) or info.network not in NETWORK_PLANS:
        raise CheckpointError(
            f"{path} holds a network {info.network!r}; supported networks: {', '.join(NETWORK_PLANS)}"
        )
    _require_info(info, path)
    return info


def _require_whole(path: Path) -> bool:
    """Reject a file that is damaged or not a checkpoint; return whether it is sealed."""
    foreign = recognise_foreign(path)
    if foreign is not None:
        raise CheckpointError(f"cannot read the checkpoint {path}: it is {foreign}")
    try:
        return require_sealed_safetensors(path, again=AGAIN)
    except DataError as error:
        raise CheckpointError(str(error)) from None


def _require_info(info: CheckpointInfo, path: Path) -> None:
    """Check the type and range of every field before a network is built from them."""
    texts = (info.vocabulary, info.vocabulary_digest, info.settings)
    is_number = type(info.voxel_size) in (int, float) and 0 < info.voxel_size <= MAX_VOXEL_SIZE
    for fits, what in (
        (info.kind in ("pretrain", "finetune"), "kind"),
        (all(isinstance(text, str) for text in texts), "text"),
        (info.anchors_digest is None or isinstance(info.anchors_digest, str), "anchors_digest"),
        (info.num_classes is None or _is_whole(info.num_classes, 1, MAX_CLASSES), "num_classes"),
        (is_number, "voxel_size"),
        (_is_whole(info.epoch, 0, 1 << 31), "epoch"),
        (_is_whole(info.stem_size, 1, 5) and info.stem_size in STEM_SIZES.values(), "stem_size"),
        (type(info.final_relu) is bool, "final_relu"),
        (type(info.offset_head) is bool, "offset_head"),
        (info.labels_seen is None or isinstance(info.labels_seen, str), "labels_seen"),
        (type(info.adapt) in (int, float) and 0 <= info.adapt <= 1, "adapt"),
        (_are_vocabularies(info), "vocabularies"),
    ):
        if not fits:
            raise CheckpointError(f"the metadata of checkpoint {path} is damaged: its {what} is invalid")


def _are_vocabularies(info: CheckpointInfo) -> bool:
    """Return whether the fields of several vocabularies are valid, and their classes are those of the classifier."""
    for own in info.vocabularies:
        texts = (own.name, own.digest, own.anchors_digest)
        if not all(isinstance(text, str) for text in texts) or not _is_whole(own.num_classes, 1, MAX_CLASSES):
            return False
    total = sum(own.num_classes for own in info.vocabularies)
    return not info.vocabularies or info.num_classes in (None, total)


def _is_whole(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def load_network(
    path: Path,
    *,
    device: torch.device | str = "cpu",
    final_relu: bool | None = None,
    vocabulary: str | None = None,
) -> tuple[MinkUNet, CheckpointInfo]:
    """Build the network of a checkpoint with its weights, in evaluation mode; `final_relu` as in `read_info`.

    A checkpoint of several vocabularies is reduced to the classes and metadata of one: that with the digest or name
    `vocabulary`, or else the first one.

    Raises:
        CheckpointError: The file cannot be read, or its tensors do not fit its network.
    """
    info = read_info(path, final_relu=final_relu)
    network = info.build_network(num_classes=info.num_classes)
    load_weights(network, path)
    if info.vocabularies:
        info, classes = info.select(vocabulary)
        if info.num_classes is not None:
            network.keep_classes(classes)
    return network.to(device).eval(), info


def load_weights(network: nn.Module, path: Path, *, fresh_classifier: bool = False) -> None:
    """Load a checkpoint's tensors into a network in place.

    Args:
        network: Network, modified in place.
        path: Checkpoint.
        fresh_classifier: Whether to keep the current `final.*`, whatever the checkpoint contains. An offset head is
            then loaded if both have one, and otherwise ignored.

    Raises:
        CheckpointError: A tensor is missing, unexpected, of another shape, or not finite; then nothing is loaded.
    """
    tensors = load_tensors(path)
    own = network.state_dict()
    if fresh_classifier:
        in_both = own.keys() & tensors.keys()
        tensors = {name: tensor for name, tensor in tensors.items() if _is_loaded(name, in_both)}
        own = {name: tensor for name, tensor in own.items() if _is_loaded(name, in_both)}
    missing, extra = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    if missing or extra:
        raise CheckpointError(
            f"{path} does not fit this network: {len(missing)} tensors missing"
            f"{_first(missing)}, {len(extra)} unexpected{_first(extra)}"
        )
    require_values(tensors, own, path)
    network.load_state_dict(tensors, strict=not fresh_classifier)


def require_values(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> None:
    """Check shape, dtype and values of tensors before they are loaded.

    Args:
        tensors: Tensors of a checkpoint by name.
        own: Tensors of the network, with at least these names.
        path: Checkpoint, for messages.

    Raises:
        CheckpointError: A tensor has another shape or dtype than the network needs, or is not finite.
    """
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            expected, came = list(own[name].shape), list(tensor.shape)
            raise CheckpointError(f"{path}: tensor {name} has shape {came}, this network needs {expected}")
        dtypes = FLOATS if own[name].is_floating_point() else (own[name].dtype,)
        if tensor.dtype not in dtypes:
            raise CheckpointError(f"{path}: tensor {name} is of type {tensor.dtype}, expected {dtypes[-1]}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: tensor {name} contains values that are not finite; the run diverged")


def _is_loaded(name: str, in_both: Set[str]) -> bool:
    """Return whether a tensor is taken from a checkpoint that starts a run with a new classifier."""
    return not name.startswith("final.") and (name in in_both or not name.startswith(OFFSET_HEAD_PREFIX))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by name.

    Raises:
        CheckpointError: The file cannot be read, is an exported model, or foreign weights do not fit any network.
    """
    if is_onnx(path):
        raise CheckpointError(
            f"{path} is an exported model, which only predict, ask, eval and view run: pass the checkpoint that it was "
            "made from"
        )
    if is_torch_file(path):
        return read_tensors(*_read_whole(path))
    _require_whole(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from None


def _read_whole(path: Path) -> tuple[Foreign, Match]:
    foreign = read_foreign(path)
    match = match_foreign(foreign)
    if not match.is_full:
        raise CheckpointError(
            f"{path} does not fit {match.network}, the closest network: {match.summary}; "
            f"lg3d convert {path} --partial converts the tensors that match"
        )
    return foreign, match


def describe_foreign(foreign: Foreign, match: Match, *, final_relu: bool | None = None) -> CheckpointInfo:
    """Return the metadata of foreign weights, with default values for facts that the file lacks.

    Args:
        foreign: Foreign checkpoint file.
        match: Network that the file fits.
        final_relu: Whether the last block ends with a ReLU; None takes it from the file.

    Raises:
        CheckpointError: Whether the last block ends with a ReLU is unknown.
    """
    facts = {name: value for name, value in foreign.facts.items() if isinstance(value, str)}
    if INFO_FACT in facts:
        info = parse_info(facts[INFO_FACT], foreign.file.path)
        own, found = (info.network, info.num_classes, info.stem_size, info.offset_head), match[:4]
        if own == found and final_relu in (None, info.final_relu):
            return info
    tells_vocabulary = "vocabulary_digest" in facts and "vocabulary" in facts
    return CheckpointInfo(
        kind="pretrain" if match.num_classes is None else "finetune",
        network=match.network,
        num_classes=match.num_classes,
        voxel_size=voxel_size_of(foreign) or VOXEL_SIZE,
        vocabulary=facts["vocabulary"] if tells_vocabulary else "",
        vocabulary_digest=facts["vocabulary_digest"] if tells_vocabulary else "",
        anchors_digest=facts.get("anchors_digest"),
        epoch=foreign.epoch,
        stem_size=match.stem_size,
        final_relu=require_final_relu(foreign, match, given=final_relu),
        offset_head=match.offset_head,
        labels_seen=facts.get("labels_seen"),
    )


def _first(names: list[str]) -> str:
    return f" (first: {names[0]})" if names else ""


def resolve_checkpoint(path: Path, progress: Progress | None = None, *, final_relu: bool | None = None) -> Path:
    """Return the path of a checkpoint file, of the last checkpoint of a run, or of a model that is downloaded.

    Args:
        path: File, folder of a run, or name of a model, `hf:OWNER/NAME[@REVISION]`.
        progress: Receives a note on a download, and on what is assumed about foreign weights.
        final_relu: As in `read_info`.

    Raises:
        CheckpointError: The path or model does not exist, or the foreign weights cannot be used.
        UsageError: The name of a model is invalid.
        MissingDependencyError: The model is not cached, and the hub cannot be reached.
    """
    if is_hub_name(path):
        return download_checkpoint(path, progress or Progress())
    if path.is_dir():
        if not (path / CHECKPOINT_NAME).is_file():
            raise CheckpointError(f"{path} holds no {CHECKPOINT_NAME}: has this run finished an epoch?")
        return path / CHECKPOINT_NAME
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: expected a .safetensors file or the folder of a run")
    if path.suffix.lower() == PROGRAM_SUFFIX:
        raise CheckpointError(
            f"{path} is a program of torch.export, which lg3d does not run: pass a checkpoint, or export it as .onnx"
        )
    if progress is not None and is_torch_file(path):
        info = read_info(path, final_relu=final_relu)
        end = "with" if info.final_relu else "without"
        progress.note(
            f"{path} holds weights of MinkowskiEngine: {info.network}, {info.num_classes or 'no'} classes; assuming "
            f"voxels of {info.voxel_size:g} m and {end} a final ReLU (lg3d convert has options to change this)"
        )
    return path


def is_grounded(info: CheckpointInfo) -> bool:
    """Return whether features are aligned with text: no classifier was trained on them, or it was fixed to anchors."""
    if info.anchors_digest is None:
        return False
    if info.num_classes is None:
        return info.kind == "pretrain"
    return read_setting(info, "classifier") == "fixed-anchors"


def read_setting(info: CheckpointInfo, name: str) -> str | None:
    """Return a setting of a checkpoint's run, or None if it is not recorded or is not text."""
    try:
        value = json.loads(info.settings).get(name)
    except (ValueError, AttributeError, RecursionError):
        return None
    return value if isinstance(value, str) else None


def newest_checkpoint(runs: Path, *kinds: str, accepts: Callable[[Path], bool] = lambda _: True) -> Path | None:
    """Return the last checkpoint of the newest run of these kinds, or None if there is none.

    Args:
        runs: Folder of the runs.
        kinds: `pretrain` or `finetune`.
        accepts: Condition on the checkpoint.

    Raises:
        CheckpointError: The card of a run is damaged, so its kind is unknown.
    """
    found = [path for path in runs.glob(f"*/{CHECKPOINT_NAME}") if _kind_of_run(path.parent) in kinds]
    found.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return next((path for path in found if accepts(path)), None)


def _kind_of_run(folder: Path) -> str | None:
    """Return `pretrain` or `finetune` from the card of a run, or None without a card."""
    path = folder / CARD_NAME
    try:
        card = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path} ({error.strerror}): pass the run to use, or remove the file"
        ) from None
    except (ValueError, RecursionError):
        card = None
    if not isinstance(card, dict):
        raise CheckpointError(f"{path} is damaged (not a JSON object): pass the run to use, or remove the damaged one")
    kind = card.get("kind")
    return kind if isinstance(kind, str) else None
