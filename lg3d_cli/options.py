"""The options that several commands share, declared once."""

import os
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from lg3d_cli.completion import complete_recipes, complete_runs, words
from lg3d_core.settings import (
    CONFIG_NAME,
    Backend,
    Device,
    NetworkName,
    Optimiser,
    Precision,
    Schedule,
    Settings,
    recipe_names,
)

S = TypeVar("S", bound=Settings)

DEFAULT_RECIPE = "paper-34d"

StoreOption = Annotated[Path | None, typer.Option(help="Folder of the scene store.  [default: data]")]
AnchorsOption = Annotated[Path | None, typer.Option(help="Anchors file.  [default: anchors.safetensors]")]
RunsOption = Annotated[Path | None, typer.Option(help="Folder of the training runs.  [default: runs]")]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        help=f"{', '.join(recipe_names())}, or a TOML file.  [default: {DEFAULT_RECIPE}]",
        autocompletion=complete_recipes,
    ),
]
NetworkOption = Annotated[
    str | None, typer.Option(help="34D, 34C, 18C, 18A or 14A.", autocompletion=words(NetworkName))
]
VoxelSizeOption = Annotated[float | None, typer.Option(help="Edge of a voxel in metres.")]
VocabularyOption = Annotated[str | None, typer.Option(help="scannet200, scannet20, or a TSV file with id and name.")]
DeviceOption = Annotated[
    str | None, typer.Option(help="auto, cpu or cuda.  [default: auto]", autocompletion=words(Device))
]
BackendOption = Annotated[
    str | None,
    typer.Option(
        help="Sparse convolution: auto, native, torch, triton, minkowski or reference.  [default: auto]",
        autocompletion=words(Backend),
    ),
]
PrecisionOption = Annotated[
    str | None, typer.Option(help="auto, fp32 or bf16.  [default: auto]", autocompletion=words(Precision))
]
JobsOption = Annotated[int | None, typer.Option(help="Worker processes.")]
SeedOption = Annotated[int | None, typer.Option(help="Of everything random.  [default: 0]")]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(help="Checkpoint or run folder.  [default: the newest fine-tuned run]", autocompletion=complete_runs),
]
FinalReluOption = Annotated[
    bool | None,
    typer.Option(
        "--final-relu/--no-final-relu",
        help="Whether weights from elsewhere end with a ReLU.  [default: as the file says]",
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors on stderr.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]

# Of scans of any origin
ScaleOption = Annotated[str | None, typer.Option(help="Metres of one unit, or m, cm, mm, in, ft.  [default: guessed]")]
UpOption = Annotated[str | None, typer.Option(help="Axis up: x, y, z, -x, -y or -z.  [default: guessed]")]
MemoryOption = Annotated[str | None, typer.Option(help="Of a pass, such as 4G; else tiles.  [default: 60 % of free]")]
OverlapOption = Annotated[float | None, typer.Option(help="Metres by which tiles overlap.  [default: by the network]")]

# Of training
NameOption = Annotated[str | None, typer.Option(help="Name of the run's folder.  [default: command and time]")]
ResumeOption = Annotated[
    Path | None,
    typer.Option(help="Continue an interrupted run's folder, with its settings.", autocompletion=complete_runs),
]
EpochsOption = Annotated[int | None, typer.Option(help="Passes over the training scenes.")]
BatchSizeOption = Annotated[int | None, typer.Option(help="Scenes per optimiser step (the effective batch).")]
MicroBatchOption = Annotated[int | None, typer.Option(help="Scenes per forward pass; gradients accumulate.")]
MaxVoxelsOption = Annotated[
    int | None, typer.Option(help="Voxels per forward pass; a batch of more is split.  [default: no limit]")
]
LearningRateOption = Annotated[float | None, typer.Option(help="Before the schedule.")]
OptimiserOption = Annotated[str | None, typer.Option(help="sgd or adamw.", autocompletion=words(Optimiser))]
ScheduleOption = Annotated[str | None, typer.Option(help="step or cosine.", autocompletion=words(Schedule))]
ClipNormOption = Annotated[float | None, typer.Option(help="Largest norm of the gradient.")]
NormMomentumOption = Annotated[float | None, typer.Option(help="Of running statistics; raise it for short runs.")]
AugmentOption = Annotated[bool | None, typer.Option("--augment/--no-augment", help="Augment while training.")]
CropOption = Annotated[
    float | None, typer.Option(help="Edge in metres of the piece that an epoch sees of each scene.  [default: all]")
]
DeterministicOption = Annotated[
    bool | None, typer.Option("--deterministic/--no-deterministic", help="Two runs on one device end equal.")
]
RankTimeoutOption = Annotated[
    float | None, typer.Option(help="Under torchrun: seconds until a process that hangs ends the job.  [default: 600]")
]
LimitedOption = Annotated[float | None, typer.Option(help="Share of labels to learn from; 0.05 is 5 %.")]
LimitedSeedOption = Annotated[int | None, typer.Option(help="Which labels that share keeps.")]
ValidateEveryOption = Annotated[int | None, typer.Option(help="Epochs between validations; 0: only at the end.")]


def resolve(settings: type[S], **options: Any) -> S:
    """Settings from what was typed, the environment, `lg3d.toml` in the working directory, and the recipe."""
    return settings.resolve(environ=os.environ, config=Path(CONFIG_NAME), **options)
