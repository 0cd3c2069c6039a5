"""`lg3d export`: a checkpoint as a file of standard operators for other programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lg3d_core.errors import UsageError
from lg3d_core.files import sweep_temporaries
from lg3d_core.inference.predict import find_vocabulary
from lg3d_core.models.names import find_model
from lg3d_core.networks.checkpoint import ONNX_SUFFIX, PROGRAM_SUFFIX, load_network
from lg3d_core.networks.onnx_file import Classes, describe_model, write_onnx
from lg3d_core.networks.plain import FEATURES, OFFSETS, SCORES
from lg3d_core.networks.torch_program import write_program
from lg3d_core.progress import Progress
from lg3d_core.settings import ExportSettings


@dataclass(frozen=True)
class ExportReport:
    """Exported model.

    Attributes:
        path: Written file.
        checkpoint: Checkpoint that it was made from.
        outputs: Names of the outputs.
        num_bytes: Size of the file.
    """

    path: Path
    checkpoint: Path
    outputs: tuple[str, ...]
    num_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the path as plain values for JSON."""
        return {"checkpoint": str(self.checkpoint), "outputs": list(self.outputs), "bytes": self.num_bytes}


def export(settings: ExportSettings, progress: Progress) -> ExportReport:
    """Write a checkpoint as `.onnx` or `.pt2`.

    Raises:
        UsageError: The file has another suffix.
        CheckpointError: The checkpoint does not exist, cannot be read, or its classes are unknown.
        MissingDependencyError: `onnx` is not installed.
        DataError: The file cannot be written.
    """
    suffix = settings.exported.suffix.lower()
    if suffix not in (ONNX_SUFFIX, PROGRAM_SUFFIX):
        raise UsageError(f"OUT must be a file that ends in {ONNX_SUFFIX} or {PROGRAM_SUFFIX}, got {settings.exported}")
    path = find_model(settings.checkpoint, progress, final_relu=settings.final_relu)
    wanted = None if settings.vocabulary is None else Path(settings.vocabulary).stem
    network, info = load_network(path, final_relu=settings.final_relu, vocabulary=wanted)
    classes = None
    if info.num_classes is not None:
        vocabulary = find_vocabulary(path, info, settings.vocabulary, settings.store)
        classes = Classes(vocabulary.names, tuple(int(number) for number in vocabulary.ids))
    sweep_temporaries(settings.exported.parent, of=settings.exported.name)
    if suffix == ONNX_SUFFIX:
        write_onnx(settings.exported, network, info, classes)
    else:
        write_program(settings.exported, network, describe_model(info, classes))
    outputs = [FEATURES] + [SCORES] * (info.num_classes is not None) + [OFFSETS] * info.offset_head
    progress.note(
        f"{settings.exported}: voxels of {100 * info.voxel_size:g} cm; the inputs besides the colours are those of "
        "build_tables in lg3d_core/networks/tables.py"
    )
    return ExportReport(settings.exported, path, tuple(outputs), settings.exported.stat().st_size)
