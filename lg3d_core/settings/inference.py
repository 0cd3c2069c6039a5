"""Settings of the commands that use a trained network: eval, predict, ask, view, convert, export, models, push."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_doc import Doc

from lg3d_core.settings.base import Settings
from lg3d_core.settings.choices import CheckpointForm, HeatFormat, PredictionFormat, PredictionTask, Split
from lg3d_core.settings.fields import Argument, Ge, Gt, Lt, Matches, NonEmpty, Option, Panel, ends_in
from lg3d_core.settings.shared import (
    AtLeastOne,
    BackendFields,
    FrameFields,
    InferenceFields,
    LabelsFields,
    Metres,
    NetworkFields,
    NotNegative,
    PageFields,
    RunsFields,
    SeedFields,
    StoreFields,
    VoxelFields,
    WeightsFields,
    is_positive,
)

SCAN_FILES = "PLY, PCD, OBJ, GLB, glTF, LAS, LAZ or E57 file, or scene id of the store."
Text = Annotated[str, Matches(lambda text: text.strip() != "", "a text such as 'somewhere to sit'")]


@dataclass(frozen=True, kw_only=True)
class ClassifierFields(RunsFields, StoreFields, WeightsFields):
    """A fine-tuned checkpoint, and the scenes that it is applied to."""

    checkpoint: Annotated[
        Path | None,
        Doc("Checkpoint, run folder, hf:OWNER/NAME, or shipped."),
        Option(panel=Panel.NETWORK, default="the newest fine-tuned run", completes="runs"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class EvalSettings(ClassifierFields, LabelsFields, NetworkFields, InferenceFields):
    """`lg3d eval`: scores of a checkpoint on a split."""

    command: ClassVar[str] = "eval"

    split: Annotated[Split, Doc("Split to score.")] = "val"
    task: Annotated[
        PredictionTask,
        Doc(
            "Scores: classes, or also the average precision of objects; auto: objects if the checkpoint has an offset "
            "head. Without one, objects are connected components of a class."
        ),
    ] = "auto"
    export: Annotated[Path | None, Doc("Folder for one file of raw ids per scene, as the benchmark expects.")] = None
    submission: Annotated[
        Path | None,
        ends_in(".zip"),
        Doc("Zip file of the predictions for the benchmark's server: objects if they are scored, else classes."),
    ] = None
    per_class: Annotated[bool, Doc("Table of the scores per class.")] = False


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(WeightsFields):
    """`lg3d convert`: between lg3d's checkpoints and those of MinkowskiEngine 0.5."""

    command: ClassVar[str] = "convert"

    checkpoint: Annotated[
        Path, Doc("Lightning checkpoint, state dict, or checkpoint or run folder of lg3d."), Argument()
    ]
    out: Annotated[
        Path, Doc("File to write; for MinkowskiEngine, .ckpt gives a Lightning checkpoint, else a state dict.")
    ]
    to: Annotated[CheckpointForm, Doc("Form to write; auto: by the name of --out.")] = "auto"
    voxel_size: Annotated[
        Metres | None, Doc("Voxel edge in metres."), Option(default="as recorded in the file, else 0.02")
    ] = None
    vocabulary: Annotated[
        str | None,
        Doc("Vocabulary of the classifier: a name such as scannet20, or a TSV file."),
        Option(default="as recorded in the file"),
    ] = None
    partial: Annotated[bool, Doc("Load the tensors that match; the others keep their initial values.")] = False


@dataclass(frozen=True, kw_only=True)
class ExportSettings(StoreFields, WeightsFields):
    """`lg3d export`: a checkpoint as a file that other programs run."""

    command: ClassVar[str] = "export"

    checkpoint: Annotated[Path, Doc("Checkpoint, run folder, hf:OWNER/NAME, or shipped."), Argument(completes="runs")]
    exported: Annotated[Path, Doc("File to write: .onnx, or .pt2 for torch.export."), Argument("OUT")]
    vocabulary: Annotated[
        str | None, Doc("Vocabulary of the classes."), Option(panel=Panel.NETWORK, default="the checkpoint's")
    ] = None


@dataclass(frozen=True, kw_only=True)
class ModelsSettings(RunsFields):
    """`lg3d models`: the models on this machine."""

    command: ClassVar[str] = "models"


@dataclass(frozen=True, kw_only=True)
class PushSettings(Settings):
    """`lg3d push`: a checkpoint to Hugging Face."""

    command: ClassVar[str] = "push"

    checkpoint: Annotated[Path, Doc("Checkpoint, run folder, or shipped."), Argument(completes="runs")]
    repository: Annotated[str, Doc("Repository: OWNER/NAME, or OWNER/NAME@BRANCH."), Argument("REPOSITORY")]
    card: Annotated[Path | None, Doc("Model card in Markdown."), Option(default="generated")] = None
    anchors: Annotated[
        Path | None, Doc("File of the text anchors."), Option(default="that of the checkpoint's run")
    ] = None
    private: Annotated[bool, Doc("Create the repository as private.")] = False


def _num_bytes(text: str) -> int | None:
    text = text.upper().removesuffix("B").removesuffix("I")
    factor = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}.get(text[-1:])
    number = text[:-1] if factor is not None else text
    size = float(number) * (factor or 1) if is_positive(number) else 0.0
    return int(size) if 1 <= size < 2**63 else None


@dataclass(frozen=True, kw_only=True)
class ScanSettings(RunsFields, StoreFields, NetworkFields, InferenceFields, FrameFields):
    """How a scan of any origin is read, and how a network is run over it."""

    memory: Annotated[
        str | None,
        Matches(lambda text: _num_bytes(text) is not None, "a size such as 4G or 500M"),
        Doc("Memory limit per forward pass, e.g. 4G; larger scans are split into overlapping tiles."),
        Option(panel=Panel.COMPUTATION, default="60 % of the free memory"),
    ] = None
    overlap: Annotated[
        float | None,
        Ge(0),
        Doc("Overlap of the tiles in metres."),
        Option(panel=Panel.COMPUTATION, default="the receptive field, or less for small tiles"),
    ] = None

    @property
    def memory_bytes(self) -> int | None:
        """`memory` as a number of bytes, or None."""
        return None if self.memory is None else _num_bytes(self.memory)


@dataclass(frozen=True, kw_only=True)
class ObjectFields(Settings):
    """Whether and how labelled points are grouped into objects."""

    objects: Annotated[
        bool | None, Doc("Objects with boxes and names."), Option(default="if the checkpoint has an offset head")
    ] = None
    min_points: Annotated[AtLeastOne, Doc("Minimum number of points of an object.")] = 100


@dataclass(frozen=True, kw_only=True)
class SuperpointFields(Settings):
    """Whether superpoints vote."""

    superpoints: Annotated[
        bool, Doc("One class and one object per superpoint, a small patch of one orientation and colour.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class PredictSettings(ScanSettings, ClassifierFields, ObjectFields, SuperpointFields):
    """`lg3d predict`: a class for every vertex of any scan."""

    command: ClassVar[str] = "predict"

    scans: Annotated[tuple[str, ...], NonEmpty(), Doc(SCAN_FILES), Argument("SCAN", completes="scenes")] = ()
    out: Annotated[Path, Doc("Folder of the written files.")] = Path()
    formats: Annotated[
        tuple[PredictionFormat, ...], NonEmpty(), Doc("Formats of the written files."), Option("--format")
    ] = ("ply",)
    checkpoint: Annotated[
        Path | None,
        Doc("Checkpoint, run folder, hf:OWNER/NAME, or shipped."),
        Option(panel=Panel.NETWORK, default="the newest fine-tuned run, else shipped", completes="runs"),
    ] = None
    vocabulary: Annotated[
        str | None, Doc("Vocabulary of the classes."), Option(panel=Panel.NETWORK, default="the checkpoint's")
    ] = None


@dataclass(frozen=True, kw_only=True)
class AskSettings(ScanSettings, ObjectFields, PageFields):
    """`lg3d ask`: the places in a scan that a text describes."""

    command: ClassVar[str] = "ask"
    only_with: ClassVar[Mapping[str, str]] = {"html": "texts"}

    scan: Annotated[str, Doc(SCAN_FILES), Argument("SCAN", completes="scenes")]
    texts: Annotated[
        tuple[Text, ...], Doc("Description to search for; without any, a prompt opens."), Argument("TEXT")
    ] = ()
    threshold: Annotated[float, Gt(0), Lt(1), Doc("Minimum heat of a place.")] = 0.5
    regions: Annotated[AtLeastOne, Doc("Maximum number of places per text.")] = 5
    out: Annotated[Path | None, Doc("Folder for the heat of each text as files.")] = None
    formats: Annotated[
        tuple[HeatFormat, ...], NonEmpty(), Doc("Formats of the files in --out."), Option("--format")
    ] = ("ply",)
    checkpoint: Annotated[
        Path | None,
        Doc("Checkpoint, run folder, hf:OWNER/NAME, or shipped."),
        Option(panel=Panel.NETWORK, default="the newest language-grounded run, else shipped", completes="runs"),
    ] = None
    anchors: Annotated[
        Path | None,
        Doc("File of the text anchors."),
        Option(panel=Panel.NETWORK, default="that of the checkpoint's run"),
    ] = None
    encoder: Annotated[
        str | None,
        Doc("Text encoder of the anchors, as hf:FOLDER, if it has moved."),
        Option(panel=Panel.NETWORK, default="as recorded in the anchors"),
    ] = None
    encoder_checkpoint: Annotated[
        Path | None, Doc("Local weights of an open_clip encoder, instead of a download."), Option(panel=Panel.NETWORK)
    ] = None


@dataclass(frozen=True, kw_only=True)
class ViewSettings(
    ClassifierFields, LabelsFields, ObjectFields, SuperpointFields, PageFields, VoxelFields, SeedFields, BackendFields
):
    """`lg3d view`: a scene as a window, a page or a picture."""

    command: ClassVar[str] = "view"

    scene: Annotated[str, Doc("Scene id in the store, such as scene0011_00."), Argument(completes="scenes")]
    png: Annotated[Path | None, ends_in(".png"), Doc("Picture to write.")] = None
    layer: Annotated[
        tuple[str, ...],
        Doc("Layer of the picture, such as truth or prediction."),
        Option(default="the usual layers"),
    ] = ()
    heat: Annotated[
        tuple[Text, ...], Doc("Text to show as heat, by the newest language-grounded run, else shipped.")
    ] = ()
    augmented: Annotated[bool, Doc("Show a training sample of the scene instead."), Option(panel=Panel.SAMPLE)] = False
    voxel_size: Annotated[Metres, Doc("Voxel edge of the sample in metres."), Option(panel=Panel.SAMPLE)] = (
        VoxelFields.voxel_size
    )
    instances: Annotated[
        NotNegative, Doc("Objects of tail classes added to the sample."), Option(panel=Panel.SAMPLE)
    ] = 5
