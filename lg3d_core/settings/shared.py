"""Groups of fields that several commands share."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_doc import Doc

from lg3d_core.settings.base import Settings
from lg3d_core.settings.choices import Backend, Device, Precision, Up
from lg3d_core.settings.fields import Ge, Gt, Le, Matches, Option, Panel, ends_in

UNITS = ("auto", "m", "cm", "mm", "in", "ft")
MOST = 2**31 - 1
Countable = Matches(lambda value: value <= MOST, f"at most {MOST}")
"""The limit of every count: larger ones do not fit into the integers of libraries."""
AtLeastOne = Annotated[int, Ge(1), Countable]
NotNegative = Annotated[int, Ge(0), Countable]
Seed = Annotated[int, Ge(0), Matches(lambda value: value < 2**32, "at most 4294967295")]
Metres = Annotated[float, Gt(0), Le(100)]
Port = Annotated[int, Ge(0), Le(65535)]


def is_positive(text: str) -> bool:
    """Whether a text is a positive number."""
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class FrameFields(Settings):
    """Unit and up axis of scans that do not record them."""

    scale: Annotated[
        str,
        Matches(
            lambda text: text in UNITS or (is_positive(text) and 1e-6 <= float(text) <= 1e6),
            f"{', '.join(UNITS)}, or a positive number of metres (1e-6 to 1e6)",
        ),
        Doc(f"Unit of the scan: {', '.join(UNITS[1:])}, or metres per unit; auto: guess."),
        Option(panel=Panel.SCAN),
    ] = "auto"
    up: Annotated[Up, Doc("Axis of the scan that points up; auto: guess."), Option(panel=Panel.SCAN)] = "auto"


@dataclass(frozen=True, kw_only=True)
class StoreFields(Settings):
    """The scene store."""

    store: Annotated[Path, Doc("Folder of the scene store."), Option(panel=Panel.DATA)] = Path("data")


@dataclass(frozen=True, kw_only=True)
class LabelsFields(Settings):
    """The labels of a store that has several vocabularies."""

    vocabulary: Annotated[
        str | None,
        Doc("Vocabulary of the labels, for a store with several."),
        Option(panel=Panel.DATA, default="that of the anchors or the checkpoint, else the first of the store"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class RunsFields(Settings):
    """The folder of training runs."""

    runs: Annotated[Path, Doc("Folder of the training runs."), Option(panel=Panel.RUN)] = Path("runs")


@dataclass(frozen=True, kw_only=True)
class AnchorsFields(Settings):
    """The file of text anchors."""

    anchors: Annotated[Path, Doc("File of the text anchors."), Option(panel=Panel.DATA)] = Path("anchors.safetensors")


@dataclass(frozen=True, kw_only=True)
class VocabularyFields(Settings):
    """The vocabulary."""

    vocabulary: Annotated[str, Doc("Vocabulary: a name such as scannet20, or a TSV file with columns id and name.")] = (
        "scannet200"
    )


@dataclass(frozen=True, kw_only=True)
class VoxelFields(Settings):
    """The size of voxels."""

    voxel_size: Annotated[Metres, Doc("Voxel edge in metres."), Option(panel=Panel.DATA)] = 0.02


@dataclass(frozen=True, kw_only=True)
class SeedFields(Settings):
    """The seed."""

    seed: Annotated[Seed, Doc("Random seed."), Option(panel=Panel.COMPUTATION)] = 0


@dataclass(frozen=True, kw_only=True)
class WorkerFields(Settings):
    """Worker processes."""

    jobs: Annotated[NotNegative, Doc("Worker processes; 0: one per core."), Option(panel=Panel.COMPUTATION)] = 0


@dataclass(frozen=True, kw_only=True)
class DeviceFields(Settings):
    """The device."""

    device: Annotated[
        Device, Doc("Device; auto: CUDA if available; cuda:1: the second GPU."), Option(panel=Panel.COMPUTATION)
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class BackendFields(DeviceFields):
    """The device, and the implementation of sparse convolutions."""

    backend: Annotated[
        Backend, Doc("Sparse convolution backend; auto: the fastest available."), Option(panel=Panel.COMPUTATION)
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class NetworkFields(BackendFields):
    """How a network is run."""

    precision: Annotated[
        Precision, Doc("Precision; auto: bf16 on GPUs since Ampere, else fp32."), Option(panel=Panel.COMPUTATION)
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class InferenceFields(Settings):
    """Averages over several passes, and adaptation to the scan."""

    votes: Annotated[
        int,
        Ge(1),
        Le(64),
        Doc("Rotated, mirrored and shifted copies of a scan whose predictions are averaged; the time grows with them."),
        Option(panel=Panel.COMPUTATION),
    ] = 1
    adapt: Annotated[
        float | None,
        Ge(0),
        Le(1),
        Doc("Share of a scan's own statistics in batch normalisation, for scans unlike the training data; 0: none."),
        Option(panel=Panel.COMPUTATION, default="as recorded in the model"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class WeightsFields(Settings):
    """What weights from elsewhere may leave open."""

    final_relu: Annotated[
        bool | None,
        Doc("ReLU at the end of the last block, for weights from elsewhere."),
        Option(panel=Panel.NETWORK, default="as recorded in the file"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class PageFields(Settings):
    """A page, written or served."""

    html: Annotated[Path | None, ends_in(".html", ".htm"), Doc("Self-contained HTML page to write.")] = None
    serve: Annotated[bool, Doc("Serve the page on this machine until Ctrl-C, for use over SSH.")] = False
    port: Annotated[Port, Doc("Port of the served page; 0: any free port.")] = 8731
