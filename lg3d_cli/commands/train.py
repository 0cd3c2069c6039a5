"""`lg3d pretrain` and `lg3d finetune`."""

import time
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from lg3d_cli import console
from lg3d_cli.completion import complete_starts, words
from lg3d_cli.options import (
    DEFAULT_RECIPE,
    AnchorsOption,
    AugmentOption,
    BackendOption,
    BatchSizeOption,
    ClipNormOption,
    CropOption,
    DeterministicOption,
    DeviceOption,
    EpochsOption,
    FinalReluOption,
    JobsOption,
    LearningRateOption,
    LimitedOption,
    LimitedSeedOption,
    MaxVoxelsOption,
    MicroBatchOption,
    NameOption,
    NetworkOption,
    NormMomentumOption,
    OptimiserOption,
    PrecisionOption,
    QuietOption,
    RankTimeoutOption,
    RecipeOption,
    ResumeOption,
    RunsOption,
    ScheduleOption,
    SeedOption,
    StoreOption,
    ValidateEveryOption,
    VoxelSizeOption,
    resolve,
)
from lg3d_core.errors import EndedElsewhere, SettingsError
from lg3d_core.settings import (
    RESUMABLE,
    Classifier,
    Contrast,
    FinetuneSettings,
    Loss,
    Method,
    Partition,
    PretrainSettings,
    TrainSettings,
    option_name,
)

S = TypeVar("S", bound=TrainSettings)


FOLLOWER_SECONDS = 2.0
"""What the first of several processes has time for, to say what is wrong with the settings of all of them."""


def _resolve(settings: type[S], options: dict[str, Any]) -> S:
    """Settings of a run, in all of its processes; the first says what is wrong with them."""
    try:
        return _gather(settings, options)
    except SettingsError:
        if not console.follows():
            raise
        time.sleep(FOLLOWER_SECONDS)
        raise EndedElsewhere from None


def _report(checkpoint: Path) -> None:
    """Print the checkpoint's path, once."""
    if not console.follows():
        console.result(checkpoint)


def _gather(settings: type[S], options: dict[str, Any]) -> S:
    """Settings of a new run; or the folder of the one that goes on, and how it shall fit into memory from now on."""
    typed = {key: value for key, value in options.items() if value is not None}
    if "resume" in typed:
        others = [option_name(key) for key in typed if key not in ("resume", *RESUMABLE)]
        if others:
            raise SettingsError(f"--resume goes on with the run's own settings: leave out {', '.join(others)}")
        return settings(**typed)
    return resolve(settings, default_recipe=DEFAULT_RECIPE, **options)


def pretrain(
    store: StoreOption = None,
    anchors: AnchorsOption = None,
    runs: RunsOption = None,
    name: NameOption = None,
    resume: ResumeOption = None,
    recipe: RecipeOption = None,
    network: NetworkOption = None,
    voxel_size: VoxelSizeOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    micro_batch: MicroBatchOption = None,
    max_voxels: MaxVoxelsOption = None,
    optimiser: OptimiserOption = None,
    learning_rate: LearningRateOption = None,
    schedule: ScheduleOption = None,
    clip_norm: ClipNormOption = None,
    norm_momentum: NormMomentumOption = None,
    augment: AugmentOption = None,
    crop: CropOption = None,
    limited: LimitedOption = None,
    limited_seed: LimitedSeedOption = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="language; supcon (voxels of one category together); or csc (two views of a place together, without "
            "labels).  [default: language]",
            autocompletion=words(Method),
        ),
    ] = None,
    contrast: Annotated[
        str | None,
        typer.Option(
            help="language: margin (the paper's loss), or softmax over all anchors.  [default: margin]",
            autocompletion=words(Contrast),
        ),
    ] = None,
    distance: Annotated[
        str | None,
        typer.Option(
            help="language: d(f, t) = 1 - cos (cosine), sum |f - t| (l1), ||f - t|| (l2) or mean (f - t)^2 (mse).  "
            "[default: cosine]"
        ),
    ] = None,
    hinge: Annotated[
        str | None,
        typer.Option(
            help="language: mean_j max(0, margin - d_j) (per-negative) or max(0, margin - mean_j d_j) (mean-first).  "
            "[default: per-negative]"
        ),
    ] = None,
    negatives: Annotated[int | None, typer.Option(help="language: other categories each voxel is pushed from.")] = None,
    replacement: Annotated[
        bool | None, typer.Option("--replacement/--no-replacement", help="language: a voxel's negatives may repeat.")
    ] = None,
    negative_margin: Annotated[
        float | None, typer.Option(help="language: distance at which a negative costs nothing.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="softmax, supcon, csc: tau in -log(exp(s_ip / tau) / sum_a exp(s_ia / tau)).  "
            "[default: 0.05, 0.1, 0.4]"
        ),
    ] = None,
    contrast_points: Annotated[
        int | None, typer.Option(help="supcon, csc: voxels of each scene that are compared, at most.  [default: 4096]")
    ] = None,
    view_share: Annotated[
        float | None, typer.Option(help="csc: share of a scene's points in each view.  [default: 0.5]")
    ] = None,
    partition: Annotated[
        str | None,
        typer.Option(
            help="csc: directions (8 parts), or fast (4, as in the published scripts).  [default: directions]",
            autocompletion=words(Partition),
        ),
    ] = None,
    validate_every: ValidateEveryOption = None,
    device: DeviceOption = None,
    backend: BackendOption = None,
    precision: PrecisionOption = None,
    jobs: JobsOption = None,
    seed: SeedOption = None,
    deterministic: DeterministicOption = None,
    rank_timeout: RankTimeoutOption = None,
    quiet: QuietOption = False,
) -> None:
    """Pull every voxel's feature towards the text anchor of its category, or learn a baseline's features.

    Example: ckpt=$(lg3d pretrain --recipe paper-34d --limited 0.05)
    """
    options = {key: value for key, value in locals().items() if key != "quiet"}
    settings = _resolve(PretrainSettings, options)
    from lg3d_core.training.pretrain import pretrain as run  # torch loads here, never on --help

    _report(run(settings, console.progress(quiet=quiet)))


def finetune(
    store: StoreOption = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Checkpoint, run folder, or scratch.  [default: the newest pre-training run]",
            autocompletion=complete_starts,
        ),
    ] = None,
    final_relu: FinalReluOption = None,
    runs: RunsOption = None,
    name: NameOption = None,
    resume: ResumeOption = None,
    recipe: RecipeOption = None,
    network: NetworkOption = None,
    voxel_size: VoxelSizeOption = None,
    loss: Annotated[
        str | None, typer.Option(help="cross-entropy or class-balanced-focal.", autocompletion=words(Loss))
    ] = None,
    instances: Annotated[int | None, typer.Option(help="Rare objects put into each training scene; 0: none.")] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            help="What it starts as: fresh, or the text anchors (after pre-training, its own).  [default: fresh]",
            autocompletion=words(Classifier),
        ),
    ] = None,
    anchors: AnchorsOption = None,
    gamma: Annotated[float | None, typer.Option(help="Focusing exponent of the focal loss.")] = None,
    alpha: Annotated[str | None, typer.Option(help="Class weights: inverse-log, or paper (as printed).")] = None,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    micro_batch: MicroBatchOption = None,
    max_voxels: MaxVoxelsOption = None,
    optimiser: OptimiserOption = None,
    learning_rate: LearningRateOption = None,
    schedule: ScheduleOption = None,
    clip_norm: ClipNormOption = None,
    norm_momentum: NormMomentumOption = None,
    augment: AugmentOption = None,
    crop: CropOption = None,
    limited: LimitedOption = None,
    limited_seed: LimitedSeedOption = None,
    validate_every: ValidateEveryOption = None,
    device: DeviceOption = None,
    backend: BackendOption = None,
    precision: PrecisionOption = None,
    jobs: JobsOption = None,
    seed: SeedOption = None,
    deterministic: DeterministicOption = None,
    rank_timeout: RankTimeoutOption = None,
    quiet: QuietOption = False,
) -> None:
    """Learn to name every voxel, from a pre-trained network or from scratch.

    Example: lg3d finetune --from "$ckpt" --limited 0.05
    """
    options = {key: value for key, value in locals().items() if key != "quiet"}
    settings = _resolve(FinetuneSettings, options)
    from lg3d_core.training.finetune import finetune as run  # torch loads here, never on --help

    _report(run(settings, console.progress(quiet=quiet)))
