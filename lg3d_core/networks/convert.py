"""Conversion between the checkpoints of lg3d and of MinkowskiEngine 0.5: compare first, then write."""

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lg3d_core.errors import CheckpointError, SettingsError, UsageError, first_line
from lg3d_core.files import atomic_path, sweep_temporaries
from lg3d_core.networks.checkpoint import (
    CheckpointInfo,
    describe_foreign,
    load_tensors,
    read_info,
    require_values,
    resolve_checkpoint,
    save_checkpoint,
)
from lg3d_core.networks.minkowski_checkpoint import (
    INFO_FACT,
    OWN_FACTS,
    VOXEL_SIZE,
    Match,
    match_foreign,
    match_plan,
    read_foreign,
    read_tensors,
    voxel_size_of,
)
from lg3d_core.networks.torch_files import is_torch_file
from lg3d_core.progress import Progress
from lg3d_core.settings import ConvertSettings

LIGHTNING_SUFFIX = ".ckpt"
FORM_BY_SUFFIX = {
    ".safetensors": "lg3d",
    LIGHTNING_SUFFIX: "minkowski",
    ".pth": "minkowski",
    ".pt": "minkowski",
    ".bin": "minkowski",
}
"""Format of a file by its suffix; other suffixes do not determine it."""
LIGHTNING_FORM = "1.6.0"
"""Version of Lightning whose checkpoint format is written."""
PREFIX = "model."


class Comparison(NamedTuple):
    """Comparison of a checkpoint with its network: that of its metadata, or else the one that it fits best."""

    source: Path
    origin: str
    """`lg3d`, `lightning` or `state dict`."""
    match: Match
    info: CheckpointInfo
    tensors: dict[str, Tensor]
    """Matching tensors, in the shapes of the network."""
    outside: tuple[str, ...]
    """Names of tensors of the saved module that do not belong to the network."""
    skipped: tuple[str, ...]
    """Names of classes and functions that the pickle refers to and that were not loaded."""

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return a readable table: kind, tensor, shape in the file, shape in the network; matches share one row."""
        match = self.match
        rows = [("matched", f"{len(match.matched)} tensors", "", "")]
        rows += [("reshaped", entry.name, str(list(entry.came)), str(list(entry.wanted))) for entry in match.reshaped]
        rows += [("misshapen", entry.name, str(list(entry.came)), str(list(entry.wanted))) for entry in match.misshapen]
        rows += [("missing", name, "", "") for name in match.missing]
        rows += [("unexpected", name, "", "") for name in match.unexpected]
        return rows + [("not of the network", name, "", "") for name in self.outside]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values for JSON."""
        match, info = self.match, self.info
        return {
            "source": str(self.source),
            "origin": self.origin,
            "network": match.network,
            "num_classes": match.num_classes,
            "stem_size": match.stem_size,
            "final_relu": info.final_relu,
            "voxel_size": info.voxel_size,
            "vocabulary": info.vocabulary or None,
            "matched": list(match.matched),
            "reshaped": [entry._asdict() for entry in match.reshaped],
            "misshapen": [entry._asdict() for entry in match.misshapen],
            "missing": list(match.missing),
            "unexpected": list(match.unexpected),
            "outside": list(self.outside),
            "skipped": list(self.skipped),
            "full": match.is_full,
        }


def convert(
    settings: ConvertSettings,
    progress: Progress,
    *,
    vocabulary: tuple[str, str] | None = None,
    show: Callable[[Comparison], None] = lambda _: None,
) -> Comparison:
    """Convert a checkpoint between the formats of lg3d and MinkowskiEngine, and write `settings.out`.

    Args:
        settings: Input file, output file and options.
        progress: Reports assumptions about facts that the file lacks.
        vocabulary: Name and digest of the vocabulary in `settings.vocabulary`.
        show: Called with the comparison before anything is rejected or written.

    Raises:
        CheckpointError: The file cannot be read, fits no network, or does not match fully without `partial`.
        SettingsError: The output would overwrite the input.
        DataError: The output cannot be written.
    """
    comparison = compare_checkpoint(settings, progress, vocabulary=vocabulary)
    show(comparison)
    write_conversion(comparison, settings)
    return comparison


def compare_checkpoint(
    settings: ConvertSettings, progress: Progress, *, vocabulary: tuple[str, str] | None = None
) -> Comparison:
    """Read a checkpoint of either format and compare it with its network.

    Args:
        settings: Input file and the user's facts about it.
        progress: Reports assumptions.
        vocabulary: Name and digest of the classifier's vocabulary, if the user passed it.

    Raises:
        CheckpointError: The file cannot be read or holds no network, or whether it ends with a ReLU is unknown.
    """
    path = resolve_checkpoint(settings.checkpoint)
    comparison = _compare_foreign(path, settings, progress) if is_torch_file(path) else _compare_own(path)
    changes: dict[str, Any] = {}
    if settings.voxel_size is not None:
        changes["voxel_size"] = settings.voxel_size
    if settings.final_relu is not None:
        changes["final_relu"] = settings.final_relu
    if vocabulary is not None:
        changes["vocabulary"], changes["vocabulary_digest"] = vocabulary
    return comparison._replace(info=_changed(comparison.info, changes))


def _changed(info: CheckpointInfo, changes: dict[str, Any]) -> CheckpointInfo:
    return CheckpointInfo(**{**info.__dict__, **changes})


def _compare_own(path: Path) -> Comparison:
    info, tensors = read_info(path), load_tensors(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    match = match_plan(shapes, info.network, info.num_classes, info.stem_size, info.offset_head)
    tensors = {name: tensors[name] for name in match.matched}
    return Comparison(path, "lg3d", match, info, tensors, outside=(), skipped=())


def _compare_foreign(path: Path, settings: ConvertSettings, progress: Progress) -> Comparison:
    foreign = read_foreign(path)
    match = match_foreign(foreign)
    # A partial match is rejected later, after the table of its tensors; the final ReLU does not matter then.
    fits = match.is_full or settings.partial
    info = describe_foreign(foreign, match, final_relu=settings.final_relu if fits else bool(settings.final_relu))
    if foreign.file.skipped:
        progress.warn(f"{path} also contains objects that lg3d does not load: {', '.join(foreign.file.skipped)}")
    if settings.voxel_size is None and voxel_size_of(foreign) is None:
        progress.note(f"the file does not contain the voxel size: assuming {VOXEL_SIZE:g} m (--voxel-size)")
    if settings.vocabulary is None and not info.vocabulary_digest and match.num_classes is not None:
        progress.note("the file does not contain its vocabulary: only the number of classes is checked (--vocabulary)")
    return Comparison(
        path,
        "lightning" if foreign.is_lightning else "state dict",
        match,
        info,
        read_tensors(foreign, match),
        outside=foreign.outside,
        skipped=foreign.file.skipped,
    )


def write_conversion(comparison: Comparison, settings: ConvertSettings) -> Path:
    """Write a compared checkpoint in the requested format; with `--partial`, missing tensors keep their initial values.

    Raises:
        CheckpointError: The match is not full and `--partial` was not passed, no tensor matches, or a tensor has
            another dtype than the network needs or is not finite.
        UsageError: The output would overwrite the input, or `--out` and `--to` name different formats.
        DataError: The output cannot be written.
    """
    match, path = comparison.match, settings.out
    if not match.is_full and not settings.partial:
        closest = "" if comparison.origin == "lg3d" else ", the closest network"
        raise CheckpointError(
            f"{comparison.source} does not fit {match.network}{closest}: {match.summary}; "
            "pass --partial to convert the tensors that match"
        )
    if not comparison.tensors:
        raise CheckpointError(f"{comparison.source} has no tensor that fits {match.network}: nothing to convert")
    if path.exists() and path.samefile(comparison.source):
        raise UsageError(f"--out {path} is the input checkpoint: choose another name")
    network = comparison.info.build_network(num_classes=match.num_classes)
    require_values(comparison.tensors, network.state_dict(), comparison.source)
    network.load_state_dict(comparison.tensors, strict=not settings.partial)
    target = choose_form(settings, comparison.origin)
    sweep_temporaries(path.parent, of=path.name)
    if target == "lg3d":
        save_checkpoint(path, network, comparison.info)
    else:
        _save_for_minkowski(path, network.state_dict(), comparison.info)
    return path


def choose_form(settings: ConvertSettings, origin: str) -> str:
    """Return the format to write, `lg3d` or `minkowski`, from `--to` or else from the suffix of the file.

    Args:
        settings: Settings with the name of the output file.
        origin: `Comparison.origin`; the other format is the default if neither determines it.

    Raises:
        SettingsError: The suffix and `--to` contradict each other.
    """
    by_name = FORM_BY_SUFFIX.get(settings.out.suffix.lower())
    if settings.to == "auto":
        return by_name or ("minkowski" if origin == "lg3d" else "lg3d")
    if by_name not in (None, settings.to):
        suffixes = [suffix for suffix, form in FORM_BY_SUFFIX.items() if form == settings.to]
        raise SettingsError(
            f"--to {settings.to} does not write a {settings.out.suffix} file: pass --out with {' or '.join(suffixes)}"
        )
    return settings.to


def _save_for_minkowski(path: Path, state: dict[str, Tensor], info: CheckpointInfo) -> None:
    """Write a plain state dict, or a Lightning checkpoint if the name ends in `.ckpt`.

    The metadata of lg3d goes into the state dict's `_metadata`, which `load_state_dict` reads by module and ignores.
    """
    content: dict[str, Any] = OrderedDict((name, tensor.detach().cpu().contiguous()) for name, tensor in state.items())
    facts = {
        name: value
        for name, value in json.loads(info.to_json()).items()
        if value is not None and name not in ("settings", "vocabularies")
    }
    facts[INFO_FACT] = info.to_json()
    if path.suffix.lower() != LIGHTNING_SUFFIX:
        content._metadata = OrderedDict({OWN_FACTS: facts})  # type: ignore[attr-defined]
    else:
        content = {
            "epoch": info.epoch,
            "global_step": 0,
            "pytorch-lightning_version": LIGHTNING_FORM,
            "state_dict": OrderedDict((PREFIX + name, tensor) for name, tensor in content.items()),
            "hyper_parameters": {name: value for name, value in facts.items() if name != "epoch"},
        }
    with atomic_path(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # raised by torch.save for a full disk
            raise OSError(first_line(error)) from None
