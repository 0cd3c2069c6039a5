"""Weights of MinkowskiEngine 0.5, in Lightning checkpoints or plain state dicts.

Their tensors have the names and shapes of `lg3d_core.networks.minkunet`, with a prefix such as `model.`. Other facts
(whether the last block has a ReLU, voxel size, vocabulary) are taken from the run's settings if the file contains them,
in whatever objects they are wrapped. Otherwise voxel size and vocabulary are assumed, but not the ReLU.
"""

import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lg3d_core.errors import CheckpointError
from lg3d_core.networks.minkunet import NETWORK_PLANS, STEM_WIDTH, MinkUNet, NetworkPlan
from lg3d_core.networks.torch_files import StoredTensor, TorchFile, plain_items, read_torch_file

STEM = "conv0p1s1.kernel"
OFFSET_HEAD_PREFIX = "offset_head."
STATE_KEYS = ("state_dict", "model_state_dict", "model", "network", "net")
SETTINGS_KEYS = ("hyper_parameters", "hparams", "config", "configs", "cfg", "conf", "args", "opt", "params", "settings")
OWN_FACTS = "lg3d"
"""Key of lg3d's facts in the metadata of a state dict."""
INFO_FACT = "lg3d_info"
"""Key of all metadata of a checkpoint that lg3d converted, as JSON text."""
ENDS_OPEN = frozenset(
    ("Res16UNet34D", "Res16UNet34Dv2", "Res16UNet34Dv3", "Res16UNet34CR", "Res16UNet34CR_Proj", "Res16UNet34C_P")
)
"""Networks of the reference implementation whose last block has no ReLU."""
ENDS_WITH_RELU = re.compile(
    r"(ST)?(Res(Tesseract)?|Mink)16UNet(14|18|34)[A-D]?\d?|Res16UNet34(C[12]00|DPaired|GloVe)|MinkUNet(14|18|34)[A-D]?"
)
"""Names of other MinkUNets: from the reference, from publications that share its code, and from MinkowskiEngine."""
NAME_KEYS = ("model", "net", "network", "arch", "architecture", "backbone", "model_name", "_target_")
"""Settings keys that name the network; other keys are only used if none of these is present."""
VOXEL_SIZE = 0.02
"""Voxel size in metres if the file does not contain it; the released weights were trained with it."""
STEM_SIZES = {27: 3, 125: 5}
MAX_CLASSES = 32_767
"""Maximum number of classes of a classifier; class indices of labels have 16 bits."""
CENTRE_FIRST_RATIO = 1.2
CENTRE_FIRST_SHARE = 0.9
OLD_ENGINE_SAMPLE = 27 * 64 * 64
"""Number of values of the largest kernel that is examined."""


class Reshaped(NamedTuple):
    """Tensor whose shape in the file differs from that in the network."""

    name: str
    came: tuple[int, ...]
    wanted: tuple[int, ...]


class Match(NamedTuple):
    """Result of matching the tensors of a file with a network."""

    network: str
    """Plan that fits best."""
    num_classes: int | None
    stem_size: int
    offset_head: bool
    """Whether the file has the tensors of an offset head, as lg3d writes them."""
    matched: tuple[str, ...]
    """Tensors with the same name and shape."""
    reshaped: tuple[Reshaped, ...]
    """Tensors with the same name whose shapes differ only in dimensions of size one; their values are used."""
    misshapen: tuple[Reshaped, ...]
    """Tensors with the same name and an incompatible shape; they are left out."""
    missing: tuple[str, ...]
    """Names that the network has and the file lacks."""
    unexpected: tuple[str, ...]
    """Names that the file has and the network lacks."""

    @property
    def is_full(self) -> bool:
        return not (self.misshapen or self.missing or self.unexpected)

    @property
    def summary(self) -> str:
        """Counts in one line, with the first name of each kind of mismatch."""
        parts = [f"{len(self.matched) + len(self.reshaped)} tensors match"]
        for names, what in (
            (self.missing, "missing"),
            (self.unexpected, "unexpected"),
            (tuple(entry.name for entry in self.misshapen), "of another shape"),
        ):
            if names:
                parts.append(f"{len(names)} {what} (first: {names[0]})")
        return ", ".join(parts)


class Foreign(NamedTuple):
    """Checkpoint file that lg3d did not write."""

    file: TorchFile
    stored: dict[str, StoredTensor]
    """Tensors of the network, without the prefix."""
    outside: tuple[str, ...]
    """Other tensors of the saved module, e.g. the weights of a loss."""
    facts: dict[str, Any]
    """Plain values of the run's settings by key; the outermost wins among equal keys."""
    names: tuple[tuple[str, str], ...]
    """Settings values that are known network names, with their keys, outermost first."""
    epoch: int

    @property
    def is_lightning(self) -> bool:
        return isinstance(self.file.content, dict) and "pytorch-lightning_version" in self.file.content


def read_foreign(path: Path) -> Foreign:
    """Read names, shapes and settings of a checkpoint; `read_tensors` reads its tensors.

    Raises:
        CheckpointError: The file cannot be read, contains no MinkUNet, or is of MinkowskiEngine 0.4.
    """
    file = read_torch_file(path)
    content = file.content if isinstance(file.content, dict) else {}
    named = _tensors(content)
    for key in STATE_KEYS:
        if not any(name.endswith(STEM) for name in named) and isinstance(content.get(key), dict):
            named = _tensors(content[key])
    prefixes = sorted({name.removesuffix(STEM) for name in named if name.endswith(STEM)}, key=_oddness)
    if not prefixes:
        found = f"its first tensor is {next(iter(named))}" if named else "it holds no named tensors"
        raise CheckpointError(f"{path} contains no MinkUNet: expected a tensor {STEM}, but {found}")
    prefix = prefixes[0]
    own = _own_facts(content)
    items = [item for part in (own, *_settings_of(content)) for item in plain_items(part)]
    epoch = own.get("epoch", content.get("epoch"))
    foreign = Foreign(
        file,
        stored={name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)},
        outside=tuple(name for name in named if not name.startswith(prefix)),
        facts=dict(reversed(items)),
        names=tuple((key, name) for key, value in items if (name := _network_name(value)) is not None),
        epoch=epoch if isinstance(epoch, int) and epoch >= 0 else 0,
    )
    _refuse_old_engine(foreign)
    return foreign


def _tensors(entries: Mapping[Any, Any]) -> dict[str, StoredTensor]:
    return {name: value for name, value in entries.items() if isinstance(name, str) and isinstance(value, StoredTensor)}


def _oddness(prefix: str) -> tuple[bool, int, str]:
    return (prefix not in ("", "model."), len(prefix), prefix)


def _own_facts(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the facts that lg3d wrote into a state dict's metadata; may be empty."""
    for state in getattr(content, "states", ()):
        metadata = state.get("_metadata") if isinstance(state, dict) else None
        facts = metadata.get(OWN_FACTS) if isinstance(metadata, dict) else None
        if isinstance(facts, dict):
            return facts
    return {}


def _settings_of(content: Mapping[Any, Any]) -> list[object]:
    """Return entries that may contain a run's settings: those with a usual name, and plain values beside them."""
    beside = {key: value for key, value in content.items() if isinstance(value, str | int | float | bool)}
    return [*(content[key] for key in SETTINGS_KEYS if key in content), beside]


def _network_name(value: object) -> str | None:
    """Return the name of a known network, without its module path."""
    name = value.rpartition(".")[2] if isinstance(value, str) else ""
    return name if name in ENDS_OPEN or ENDS_WITH_RELU.fullmatch(name) else None


def match_network(shapes: Mapping[str, tuple[int, ...]], path: Path) -> Match:
    """Find the plan that fits best.

    Args:
        shapes: Shape of every tensor of the file, by name without prefix.
        path: Path for messages.

    Raises:
        CheckpointError: The stem does not fit lg3d's input, the blocks are not basic blocks, or the number of classes
            is not supported.
    """
    stem = shapes[STEM]
    if len(stem) != 3 or stem[0] not in STEM_SIZES or stem[2] != STEM_WIDTH:
        expected = f"27 or 125 offsets, 3 colours and {STEM_WIDTH} channels"
        raise CheckpointError(f"{path}: {STEM} has shape {list(stem)}, expected {expected}: it fits no network of lg3d")
    if stem[1] != 3:
        raise CheckpointError(f"{path} takes {stem[1]} values per voxel ({STEM}), expected 3 (colours)")
    if any(name.endswith(".conv3.kernel") for name in shapes):
        raise CheckpointError(f"{path} has bottleneck blocks; supported networks: {', '.join(NETWORK_PLANS)}")
    head = shapes.get("final.kernel")
    num_classes = head[-1] if head else None
    if num_classes is not None and not 1 <= num_classes <= MAX_CLASSES:
        raise CheckpointError(f"{path} has {num_classes} classes (final.kernel), expected 1 to {MAX_CLASSES}")
    offset_head = f"{OFFSET_HEAD_PREFIX}out.weight" in shapes
    matches = [match_plan(shapes, plan, num_classes, STEM_SIZES[stem[0]], offset_head) for plan in NETWORK_PLANS]
    return min(matches, key=lambda match: len(match.missing) + len(match.unexpected) + len(match.misshapen))


def match_plan(
    shapes: Mapping[str, tuple[int, ...]], plan: str, num_classes: int | None, stem_size: int, offset_head: bool
) -> Match:
    """Compare the shapes of a file's tensors with those of a network."""
    own = _shapes_of(NETWORK_PLANS[plan], plan, num_classes, stem_size, offset_head)
    common = [name for name in own if name in shapes]
    differing = [Reshaped(name, shapes[name], own[name]) for name in common if shapes[name] != own[name]]
    reshaped = tuple(entry for entry in differing if _squeeze(entry.came) == _squeeze(entry.wanted))
    return Match(
        network=plan,
        num_classes=num_classes,
        stem_size=stem_size,
        offset_head=offset_head,
        matched=tuple(name for name in common if shapes[name] == own[name]),
        reshaped=reshaped,
        misshapen=tuple(entry for entry in differing if entry not in reshaped),
        missing=tuple(name for name in own if name not in shapes),
        unexpected=tuple(name for name in shapes if name not in own),
    )


@cache
def _shapes_of(
    _plan: NetworkPlan, name: str, num_classes: int | None, stem_size: int, offset_head: bool
) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        network = MinkUNet(name, num_classes=num_classes, stem_size=stem_size, offset_head=offset_head)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _squeeze(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def match_foreign(foreign: Foreign) -> Match:
    """Find the plan that fits a file's tensors best.

    Raises:
        CheckpointError: No plan fits.
    """
    return match_network({name: stored.shape for name, stored in foreign.stored.items()}, foreign.file.path)


def read_tensors(foreign: Foreign, match: Match) -> dict[str, Tensor]:
    """Read the matching tensors in the shapes of the network; floating point becomes float32.

    Raises:
        CheckpointError: The file is truncated.
    """
    wanted = {entry.name: entry.wanted for entry in match.reshaped}
    wanted |= {name: foreign.stored[name].shape for name in match.matched}
    tensors = foreign.file.read({name: foreign.stored[name] for name in wanted})
    for name, shape in wanted.items():
        tensor = tensors[name].reshape(shape)
        tensors[name] = tensor.float() if tensor.is_floating_point() else tensor
    return tensors


def ends_with_relu(foreign: Foreign, match: Match) -> bool | None:
    """Return whether the last block ends with a ReLU, which the tensors do not show; None if unknown.

    The settings of the run determine it, by `final_relu` or by the network's name. Without them, tensors of 34D are
    assumed to be those of the reference's language-grounded network, without a ReLU, and a first kernel of 5^3 that of
    the MinkUNets in MinkowskiEngine, with one.
    """
    known = foreign.facts.get("final_relu")
    if isinstance(known, bool):
        return known
    main = [name for key, name in foreign.names if key in NAME_KEYS]
    ends = {name not in ENDS_OPEN for name in main or [name for _, name in foreign.names]}
    if ends:
        return ends.pop() if len(ends) == 1 else None
    if match.network == "34D":
        return False
    return True if match.stem_size == 5 else None


def require_final_relu(foreign: Foreign, match: Match, *, given: bool | None = None) -> bool:
    """Return `given`, or else whether the last block ends with a ReLU.

    Raises:
        CheckpointError: It is unknown.
    """
    known = ends_with_relu(foreign, match) if given is None else given
    if known is None:
        path = foreign.file.path
        names = sorted({name for _, name in foreign.names})
        why = f"its settings name {' and '.join(names)}" if names else f"{match.network} exists with and without one"
        raise CheckpointError(
            f"{path} does not record whether its last block ends with a ReLU ({why}): pass --final-relu, or "
            "--no-final-relu if its features are grounded in language"
        )
    return known


def voxel_size_of(foreign: Foreign) -> float | None:
    """Return the voxel size in metres from the run's settings, or None."""
    size = foreign.facts.get("voxel_size")
    return float(size) if isinstance(size, int | float) and 0 < size <= 1 else None


def _is_small_kernel(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] == 27 and math.prod(shape) <= OLD_ENGINE_SAMPLE


def _refuse_old_engine(foreign: Foreign) -> None:
    """Reject hybrid kernels with the offset order of MinkowskiEngine 0.4, in which the centre comes first.

    The shapes are those of 0.5, but the centre of a trained kernel has the largest weights, which reveals its position.
    """
    small = {
        name: stored
        for name, stored in foreign.stored.items()
        if name.startswith("block") and _is_small_kernel(stored.shape)
    }
    norms = [
        kernel.float().flatten(1).norm(dim=1)
        for kernel in foreign.file.read(small).values()
        if kernel.is_floating_point()
    ]
    centre_first = [bool(norm[0] > CENTRE_FIRST_RATIO * norm[13]) for norm in norms]
    if centre_first and sum(centre_first) >= CENTRE_FIRST_SHARE * len(centre_first):
        raise CheckpointError(
            f"{foreign.file.path} is of MinkowskiEngine 0.4: its kernels start with their centre, those of 0.5 "
            "have it in the middle; lg3d reads weights of MinkowskiEngine 0.5"
        )
