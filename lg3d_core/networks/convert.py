"""Between lg3d's checkpoints and those of MinkowskiEngine 0.5: compare first, write what fits."""

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lg3d_core.errors import CheckpointError, SettingsError, UsageError
from lg3d_core.files import atomic_path, sweep_temporaries
from lg3d_core.networks.checkpoint import (
    CheckpointInfo,
    describe_foreign,
    load_tensors,
    read_info,
    resolve_checkpoint,
    save_checkpoint,
)
from lg3d_core.networks.minkowski_checkpoint import (
    OWN_FACTS,
    VOXEL_SIZE,
    Match,
    match_foreign,
    match_network,
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
"""What a file of that name holds; other names say nothing."""
LIGHTNING_FORM = "1.6.0"
"""Version of Lightning whose form of checkpoint is written."""
PREFIX = "model."


class Comparison(NamedTuple):
    """A checkpoint beside the network that it fits best."""

    source: Path
    origin: str
    """`lg3d`, `lightning` or `state dict`."""
    match: Match
    info: CheckpointInfo
    tensors: dict[str, Tensor]
    """Those that match, in the network's shapes."""
    outside: tuple[str, ...]
    """Tensors of the saved module that belong to something else than the network."""
    skipped: tuple[str, ...]
    """Classes and functions that the pickle asked for and did not get."""

    def rows(self) -> list[tuple[str, str, str, str]]:
        """What a person reads: kind, tensor, shape in the file, shape in the network; matching tensors in one row."""
        match = self.match
        rows = [("matched", f"{len(match.matched)} tensors", "", "")]
        rows += [("reshaped", entry.name, str(list(entry.came)), str(list(entry.wanted))) for entry in match.reshaped]
        rows += [("misshapen", entry.name, str(list(entry.came)), str(list(entry.wanted))) for entry in match.misshapen]
        rows += [("missing", name, "", "") for name in match.missing]
        rows += [("unexpected", name, "", "") for name in match.unexpected]
        return rows + [("not of the network", name, "", "") for name in self.outside]

    def to_dict(self) -> dict[str, Any]:
        """What a program reads."""
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
    """Convert a checkpoint between lg3d's form and MinkowskiEngine's, and write `settings.out`.

    Args:
        settings: What to read and to write.
        progress: Told what the file leaves open.
        vocabulary: Name and digest of the vocabulary that `settings.vocabulary` names.
        show: Called with the comparison before anything is refused or written.

    Raises:
        CheckpointError: A file that cannot be read, that fits no network, or less than a full match without `partial`.
        SettingsError: The checkpoint would overwrite itself.
        DataError: The file system refused.
    """
    comparison = compare_checkpoint(settings, progress, vocabulary=vocabulary)
    show(comparison)
    write_conversion(comparison, settings)
    return comparison


def compare_checkpoint(
    settings: ConvertSettings, progress: Progress, *, vocabulary: tuple[str, str] | None = None
) -> Comparison:
    """Read a checkpoint of either kind and find the network that it fits.

    Args:
        settings: Which file, and what the user knows about it.
        progress: Told what is taken for granted.
        vocabulary: Name and digest of the vocabulary that the classifier names, if the user says so.

    Raises:
        CheckpointError: Not readable, no network at all, or one of which neither file nor settings tell how it ends.
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
    match = match_network({name: tuple(tensor.shape) for name, tensor in tensors.items()}, path)
    tensors = {name: tensors[name] for name in match.matched}
    return Comparison(path, "lg3d", match, info, tensors, outside=(), skipped=())


def _compare_foreign(path: Path, settings: ConvertSettings, progress: Progress) -> Comparison:
    foreign = read_foreign(path)
    match = match_foreign(foreign)
    # What does not fit is refused for that, after the table of its tensors: how it ends does not matter then.
    fits = match.is_full or settings.partial
    info = describe_foreign(foreign, match, final_relu=settings.final_relu if fits else bool(settings.final_relu))
    if foreign.file.skipped:
        progress.warn(f"{path} also holds objects that lg3d does not build: {', '.join(foreign.file.skipped)}")
    if settings.voxel_size is None and voxel_size_of(foreign) is None:
        progress.note(f"the file does not tell the voxel size: taken for {VOXEL_SIZE:g} m (--voxel-size)")
    if settings.vocabulary is None and not info.vocabulary_digest and match.num_classes is not None:
        progress.note("the file does not tell its vocabulary: the number of classes alone is checked (--vocabulary)")
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
    """Write a compared checkpoint in the wanted form; what a network lacks keeps its fresh values under `--partial`.

    Raises:
        CheckpointError: Less than a full match without `--partial`, or values that are not finite.
        UsageError: The checkpoint would overwrite itself, or `--out` and `--to` name different formats.
        DataError: The file system refused.
    """
    match, path = comparison.match, settings.out
    if not match.is_full and not settings.partial:
        raise CheckpointError(
            f"{comparison.source} does not fit {match.network}, the nearest network: {match.summary}; "
            "say --partial to take what matches"
        )
    if path.exists() and path.samefile(comparison.source):
        raise UsageError(f"--out {path} is the checkpoint itself: choose another name")
    network = comparison.info.build_network(num_classes=match.num_classes)
    network.load_state_dict(comparison.tensors, strict=not settings.partial)
    for name, tensor in network.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{comparison.source}: tensor {name} holds values that are not finite")
    target = choose_form(settings, comparison.origin)
    sweep_temporaries(path.parent, of=path.name)
    if target == "lg3d":
        save_checkpoint(path, network, comparison.info)
    else:
        _save_for_minkowski(path, network.state_dict(), comparison.info)
    return path


def choose_form(settings: ConvertSettings, origin: str) -> str:
    """Return the form to write: `lg3d` or `minkowski`, as `--to` or else the file's name says.

    Args:
        settings: With the name of the file.
        origin: `Comparison.origin`; decides where neither says anything: the other form.

    Raises:
        SettingsError: The name says one form and `--to` the other.
    """
    by_name = FORM_BY_SUFFIX.get(settings.out.suffix.lower())
    if settings.to == "auto":
        return by_name or ("minkowski" if origin == "lg3d" else "lg3d")
    if by_name not in (None, settings.to):
        suffixes = [suffix for suffix, form in FORM_BY_SUFFIX.items() if form == settings.to]
        raise SettingsError(
            f"--to {settings.to} does not write a {settings.out.suffix} file: name --out with {' or '.join(suffixes)}"
        )
    return settings.to


def _save_for_minkowski(path: Path, state: dict[str, Tensor], info: CheckpointInfo) -> None:
    """Write a plain state dict, or a Lightning checkpoint where the name ends in `.ckpt`.

    A state dict keeps what lg3d knows of it in its metadata, which `load_state_dict` looks up by module and ignores.
    """
    content: dict[str, Any] = OrderedDict((name, tensor.detach().cpu().contiguous()) for name, tensor in state.items())
    facts = {
        name: value
        for name, value in json.loads(json.dumps(info.__dict__)).items()
        if value is not None and name != "settings"
    }
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
        except RuntimeError as error:  # its way of saying that the disk is full
            raise OSError(str(error).partition("\n")[0]) from None
