"""Settings of the commands around experiments: demo, bench, compare, report, doctor."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_doc import Doc

from lg3d_core.settings.base import Settings
from lg3d_core.settings.choices import (
    BenchBackend,
    Benchmark,
    BenchPeer,
    Device,
    NetworkName,
    Precision,
    PredictionTask,
    ScoredClasses,
    Split,
)
from lg3d_core.settings.data import RECIPES, RoomsSettings
from lg3d_core.settings.fields import Argument, Ge, NonEmpty, Option, Panel, ends_in
from lg3d_core.settings.shared import (
    AtLeastOne,
    Countable,
    DeviceFields,
    LabelsFields,
    Metres,
    NetworkFields,
    NotNegative,
    RunsFields,
    SeedFields,
    StoreFields,
    WorkerFields,
)


@dataclass(frozen=True, kw_only=True)
class DemoSettings(SeedFields, DeviceFields):
    """`lg3d demo`: the whole pipeline on procedural rooms."""

    command: ClassVar[str] = "demo"

    out: Annotated[Path, Doc("Working folder.")] = Path("demo")
    recipe: Annotated[str, Doc(f"Recipe of anchors and training: {RECIPES}."), Option(completes="recipes")] = "demo"
    scenes: Annotated[int, Ge(2), Doc("Number of rooms, at least one for validation.")] = RoomsSettings.scenes
    vertices: Annotated[int, Ge(2_000), Countable, Doc("Approximate number of mesh vertices per room.")] = (
        RoomsSettings.vertices
    )
    jobs: Annotated[NotNegative, Doc("Worker processes."), Option(panel=Panel.COMPUTATION)] = 2


@dataclass(frozen=True, kw_only=True)
class BenchSettings(SeedFields, DeviceFields, StoreFields):
    """`lg3d bench`: speed of the sparse engine on this machine, compared with other engines."""

    command: ClassVar[str] = "bench"

    what: Annotated[
        tuple[Benchmark, ...],
        NonEmpty(),
        Doc("Operations: kernel maps; single layers, forward or with gradients; networks, forward or with gradients."),
    ] = ("maps", "layers", "forward", "train")
    networks: Annotated[tuple[NetworkName, ...], Doc("U-Net architectures.")] = ("14A", "34C")
    scene: Annotated[
        tuple[str, ...],
        Doc("Mesh (.ply) or scene id of the store to voxelize."),
        Option(default="procedural rooms"),
    ] = ()
    voxel_size: Annotated[tuple[Metres, ...], NonEmpty(), Doc("Voxel edges in metres.")] = (0.05,)
    batch: Annotated[tuple[AtLeastOne, ...], NonEmpty(), Doc("Scenes per batch.")] = (1,)
    max_voxels: Annotated[int, Ge(1000), Doc("Voxels per batch; larger scenes are cropped to their centre.")] = (
        1_000_000
    )
    backends: Annotated[
        tuple[BenchBackend, ...],
        NonEmpty(),
        Doc("Backends of lg3d; all: those that run here, except the slow reference."),
    ] = ("all",)
    peers: Annotated[tuple[BenchPeer, ...], NonEmpty(), Doc("Other engines; all: those that are installed.")] = ("all",)
    repeats: Annotated[AtLeastOne, Doc("Timed passes per engine.")] = 3
    threads: Annotated[AtLeastOne | None, Doc("CPU threads."), Option(default="PyTorch's choice")] = None
    patience: Annotated[
        float, Ge(0), Doc("Maximum seconds to wait before each pass while other processes use the machine.")
    ] = 0.0
    precision: Annotated[
        Precision,
        Doc("Precision; auto: bf16 on GPUs since Ampere and in training on CPUs with AVX512-BF16, else fp32."),
        Option(panel=Panel.COMPUTATION),
    ] = "auto"
    out: Annotated[Path | None, Doc("JSON file to write.")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        needed = "forward" in self.what or "train" in self.what
        self._require(len(self.networks) > 0 or not needed, "networks", "at least one", "what")


@dataclass(frozen=True, kw_only=True)
class CompareSettings(StoreFields, LabelsFields, DeviceFields):
    """`lg3d compare`: recipes that are trained, scored and compared, one row of the table each."""

    command: ClassVar[str] = "compare"
    own_names: ClassVar[frozenset[str]] = frozenset(
        {"jobs", "network", "voxel_size", "epochs", "anchors", "allow_leak"}
    )

    recipes: Annotated[
        tuple[str, ...],
        NonEmpty(),
        Doc("Recipes, one per row of the table; the first one is the baseline."),
        Argument(completes="recipes"),
    ] = ()
    out: Annotated[Path, Doc("Folder of the runs and of the table.")] = Path("compare")
    seeds: Annotated[AtLeastOne, Doc("Runs per recipe, with the seeds 0, 1, ...")] = 3
    jobs: Annotated[AtLeastOne, Doc("Simultaneous runs, each in its own process."), Option(panel=Panel.COMPUTATION)] = 1
    network: Annotated[NetworkName | None, Doc("U-Net architecture."), Option(panel=Panel.OVERRIDES)] = None
    voxel_size: Annotated[Metres | None, Doc("Voxel edge in metres."), Option(panel=Panel.OVERRIDES)] = None
    epochs: Annotated[AtLeastOne | None, Doc("Epochs of fine-tuning."), Option(panel=Panel.OVERRIDES)] = None
    pretrain_epochs: Annotated[AtLeastOne | None, Doc("Epochs of pre-training."), Option(panel=Panel.OVERRIDES)] = None
    anchors: Annotated[Path | None, Doc("File of the text anchors."), Option(panel=Panel.OVERRIDES)] = None
    changes: Annotated[
        tuple[str, ...],
        Doc("Any other value, as key=value or command.key=value."),
        Option("--set", panel=Panel.OVERRIDES),
    ] = ()
    grid: Annotated[
        tuple[str, ...],
        Doc("Values of one key, as key=value,value,...: one row per recipe and value, or per combination."),
        Option(panel=Panel.OVERRIDES),
    ] = ()
    allow_leak: Annotated[
        bool,
        Doc("Fine-tune with a label budget after pre-training with other labels."),
        Option(panel=Panel.OVERRIDES),
    ] = False
    split: Annotated[Split, Doc("Split to score."), Option(panel=Panel.TABLE)] = "val"
    classes: Annotated[
        ScoredClasses,
        Doc("Classes of the means: those with ground truth in the scored scenes, or all, absent ones counting 0."),
        Option(panel=Panel.TABLE),
    ] = "present"
    resamples: Annotated[int, Ge(100), Doc("Bootstrap samples per interval."), Option(panel=Panel.TABLE)] = 2000
    markdown: Annotated[bool, Doc("Table as Markdown on stdout."), Option(panel=Panel.TABLE)] = False
    plot: Annotated[
        Path | None,
        ends_in(".png", ".pdf", ".svg"),
        Doc("Figure of the mIoU to draw, over the share of labels if it varies: a .png, .pdf or .svg file."),
        Option(panel=Panel.TABLE),
    ] = None
    label: Annotated[str, Doc("Name of a recipe's row."), Option(recipe_only=True)] = ""


@dataclass(frozen=True, kw_only=True)
class ScoreSettings(StoreFields, WorkerFields):
    """`lg3d score`: scores of predictions in the benchmark's submission format."""

    command: ClassVar[str] = "score"
    only_with: ClassVar[Mapping[str, str]] = {"scene_list": "check"}

    predictions: Annotated[
        tuple[Path, ...],
        NonEmpty(),
        Doc("Zip files or folders of predictions; the first one is the baseline of the differences."),
        Argument(),
    ] = ()
    split: Annotated[Split, Doc("Split to score."), Option(panel=Panel.DATA)] = "val"
    task: Annotated[PredictionTask, Doc("Kind of the predictions; auto: by their files."), Option(panel=Panel.DATA)] = (
        "auto"
    )
    check: Annotated[bool, Doc("List what the benchmark's server would reject instead of scoring.")] = False
    scene_list: Annotated[
        Path | None,
        Doc("For --check without a store: file with one scene id per line, and optionally its number of vertices."),
        Option(panel=Panel.DATA),
    ] = None
    vocabulary: Annotated[
        str | None,
        Doc("Vocabulary of the labels; with --scene-list: a name such as scannet20, or a TSV file."),
        Option(panel=Panel.DATA, default="the first of the store; with --scene-list scannet200"),
    ] = None
    per_class: Annotated[bool, Doc("Table of the scores per class."), Option(panel=Panel.TABLE)] = False
    classes: Annotated[
        ScoredClasses,
        Doc("Classes of the mean IoU in the differences: those with ground truth in the scored scenes, or all."),
        Option(panel=Panel.TABLE),
    ] = "present"
    resamples: Annotated[int, Ge(100), Doc("Bootstrap samples per interval."), Option(panel=Panel.TABLE)] = (
        CompareSettings.resamples
    )


@dataclass(frozen=True, kw_only=True)
class ReportSettings(RunsFields, LabelsFields, SeedFields, NetworkFields):
    """`lg3d report`: one page and figures of one run, or of several side by side."""

    command: ClassVar[str] = "report"

    run: Annotated[
        tuple[Path, ...],
        NonEmpty(),
        Doc("Run folders, or their names in --runs; the first one is the baseline."),
        Argument(completes="runs"),
    ] = ()
    out: Annotated[
        Path | None,
        Doc("Folder of the page and the figures."),
        Option(default="report, in the folder of a single run, else here"),
    ] = None
    store: Annotated[
        Path | None, Doc("Folder of the scene store."), Option(panel=Panel.DATA, default="that of the runs")
    ] = None
    anchors: Annotated[
        Path | None, Doc("File of the text anchors."), Option(panel=Panel.DATA, default="that of the run")
    ] = None
    split: Annotated[Split, Doc("Split to score."), Option(panel=Panel.DATA)] = "val"
    scene: Annotated[
        tuple[str, ...], Doc("Scene of the split to show."), Option(default="those with the most classes")
    ] = ()
    rooms: Annotated[NotNegative, Doc("Number of scenes to show, without --scene.")] = 2
    points: Annotated[NotNegative, Doc("Voxels in the map of features; 0: no map.")] = 2000
    pdf: Annotated[bool, Doc("Every figure as PDF as well.")] = False
    svg: Annotated[bool, Doc("Every figure as SVG as well.")] = False
    fresh: Annotated[bool, Doc("Score again instead of reusing the scores of an earlier report.")] = False


@dataclass(frozen=True, kw_only=True)
class DoctorSettings(Settings):
    """`lg3d doctor`: devices, backends, encoders and versions of this machine, or how long training takes on it."""

    command: ClassVar[str] = "doctor"

    plan: Annotated[bool, Doc("Forecast training: hours, memory and loading processes, from a measured step.")] = False
    recipe: Annotated[
        str | None,
        Doc(f"Recipe of --plan: {RECIPES}."),
        Option(default="the recipe of pretrain and finetune", completes="recipes"),
    ] = None
    network: Annotated[NetworkName | None, Doc("Network of --plan."), Option(default="the recipe's")] = None
    voxel_size: Annotated[Metres | None, Doc("Voxel edge of --plan, in metres."), Option(default="the recipe's")] = None
    batch_size: Annotated[AtLeastOne | None, Doc("Batch size of --plan."), Option(default="the recipe's")] = None
    epochs: Annotated[AtLeastOne | None, Doc("Epochs of --plan."), Option(default="the recipe's")] = None
    store: Annotated[
        Path | None, Doc("Scene store of --plan; ScanNet is assumed where it is missing."), Option(default="data")
    ] = None
    device: Annotated[Device | None, Doc("Device of --plan."), Option(default="auto")] = None
    precision: Annotated[Precision | None, Doc("Precision of --plan."), Option(default="auto")] = None

    def plan_options(self) -> dict[str, object]:
        """Return the values that replace those of the recipe; None replaces nothing."""
        return {name: value for name, value in vars(self).items() if name not in ("plan", "recipe", "json")}
