"""Settings of training: pretrain and finetune."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from annotated_doc import Doc

from lg3d_core.errors import UsageError
from lg3d_core.settings.base import option_name
from lg3d_core.settings.choices import (
    Alpha,
    Classifier,
    Contrast,
    Distance,
    Hinge,
    Loss,
    Method,
    NetworkName,
    Optimiser,
    Partition,
    Precision,
    Schedule,
    Task,
)
from lg3d_core.settings.data import RECIPES
from lg3d_core.settings.fields import Ge, Gt, Hint, Le, Lt, Matches, Option, Panel, fields_of
from lg3d_core.settings.shared import (
    AnchorsFields,
    AtLeastOne,
    LabelsFields,
    Metres,
    NetworkFields,
    NotNegative,
    RunsFields,
    Seed,
    SeedFields,
    StoreFields,
    VoxelFields,
    WeightsFields,
)

SCRATCH = "scratch"
"""Value of `--from`: no pre-training."""
LATEST = "latest"
"""Value of `--from`: the newest pre-training run; in `lg3d compare`, the pre-training of the same recipe."""
DEFAULT_RECIPE = "paper-34d"
Milestones = Annotated[
    tuple[Annotated[float, Matches(lambda share: 0 <= share <= 1, "shares from 0 to 1")], ...],
    Doc("Milestones of the step schedule, as fractions of all epochs."),
    Option(panel=Panel.ADVANCED),
]
CSC_TEMPERATURE = 0.05
"""Lowest temperature of scene contexts: below, the loss overflows float32."""
FIT_MEMORY = ("micro_batch", "max_voxels")
"""Fields that decide how batches fit into memory."""
RESUMABLE = (
    *FIT_MEMORY,
    "store",
    "anchors",
    "also_store",
    "also_anchors",
    "learning_rate",
    "wandb",
    "device",
    "jobs",
    "rank_timeout",
)
"""Fields that a resumed run may override: those that do not affect results, equal data in another place, and a lower
learning rate for a run that diverged."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings(RunsFields, StoreFields, LabelsFields, VoxelFields, SeedFields, NetworkFields):
    """What pre-training and fine-tuning share."""

    follows_recipe: ClassVar[bool] = True
    default_recipe: ClassVar[str | None] = DEFAULT_RECIPE

    recipe: Annotated[
        str | None, Doc(f"Recipe: {RECIPES}."), Option(panel=Panel.RUN, default=DEFAULT_RECIPE, completes="recipes")
    ] = None
    name: Annotated[
        str | None,
        Matches(lambda name: name not in ("", "..") and Path(name).name == name, "a plain folder name"),
        Doc("Name of the run's folder."),
        Option(panel=Panel.RUN, default="command and time"),
    ] = None
    resume: Annotated[
        Path | None,
        Doc("Folder of an interrupted run to resume, with its own settings."),
        Option(panel=Panel.RUN, completes="runs"),
    ] = None
    overrides: Annotated[
        tuple[str, ...], Doc("Fields that override those of the resumed run."), Option(recipe_only=True)
    ] = ()
    validate_every: Annotated[
        NotNegative, Doc("Epochs between validations; 0: only after the last epoch."), Option(panel=Panel.RUN)
    ] = 1
    wandb: Annotated[
        bool,
        Doc("Log the metrics to Weights & Biases as well; local files only with WANDB_MODE=offline."),
        Option(panel=Panel.RUN),
    ] = False
    network: Annotated[NetworkName, Doc("U-Net architecture."), Option(panel=Panel.NETWORK)] = "34D"
    norm_momentum: Annotated[
        float | None,
        Gt(0),
        Le(1),
        Doc("Momentum of the running statistics of batch normalisation; raise it for short runs."),
        Option(panel=Panel.NETWORK, default="0.02 outside the residual blocks, 0.1 inside"),
    ] = None
    epochs: Annotated[AtLeastOne, Doc("Passes over the training scenes."), Option(panel=Panel.OPTIMISATION)] = 1
    batch_size: Annotated[
        AtLeastOne, Doc("Effective batch size: scenes per optimiser step."), Option(panel=Panel.OPTIMISATION)
    ] = 8
    optimiser: Annotated[Optimiser, Doc("Optimiser."), Option(panel=Panel.OPTIMISATION)] = "sgd"
    learning_rate: Annotated[float, Gt(0), Doc("Initial learning rate."), Option(panel=Panel.OPTIMISATION)] = 0.05
    schedule: Annotated[
        Schedule,
        Doc("Learning rate schedule: decay at milestones, or cosine to zero."),
        Option(panel=Panel.OPTIMISATION),
    ] = "step"
    also_store: Annotated[
        tuple[Path, ...],
        Doc("Further scene store to train on, with labels of its own vocabulary."),
        Option(panel=Panel.DATA),
    ] = ()
    also_anchors: Annotated[
        tuple[Path, ...],
        Doc("Text anchors of the vocabulary of each --also-store, in the same order."),
        Option(panel=Panel.DATA),
    ] = ()
    store_shares: Annotated[
        tuple[Annotated[float, Gt(0)], ...],
        Doc("Relative share of each store among the scenes of an epoch, --store first."),
        Option(panel=Panel.DATA, default="every scene once"),
    ] = ()
    limited: Annotated[
        float | None,
        Gt(0),
        Le(1),
        Hint("0.05 is 5 %"),
        Doc("Fraction of the labelled points of each object to train on; 0.05 is 5 %."),
        Option(panel=Panel.DATA, default="all"),
    ] = None
    limited_seed: Annotated[Seed, Doc("Seed of the label budget."), Option(panel=Panel.DATA)] = 0
    augment: Annotated[bool, Doc("Data augmentation."), Option(panel=Panel.DATA)] = True
    randomise: Annotated[
        bool,
        Doc("Random point spacing, gaps, tilt and colours, as in scans of other devices."),
        Option(panel=Panel.DATA),
    ] = False
    crop: Annotated[
        Metres | None,
        Doc("Edge in metres of the square crop, of full height, of each scene per epoch."),
        Option(panel=Panel.DATA, default="whole scenes"),
    ] = None
    micro_batch: Annotated[
        AtLeastOne | None,
        Doc("Scenes per forward pass; gradients are accumulated."),
        Option(panel=Panel.COMPUTATION, default="the batch size"),
    ] = None
    max_voxels: Annotated[
        int | None,
        Ge(1000),
        Doc("Voxels per forward pass; larger batches and scenes are split to limit memory."),
        Option(panel=Panel.COMPUTATION, default="no limit"),
    ] = None
    jobs: Annotated[
        NotNegative | None,
        Doc("Processes that load scenes; 0: the training process; auto: enough to keep the network busy."),
        Option(panel=Panel.COMPUTATION, default="auto"),
    ] = None
    precision: Annotated[
        Precision,
        Doc("Precision; auto: bf16 on GPUs since Ampere and on CPUs with AVX512-BF16 and a C compiler, else fp32."),
        Option(panel=Panel.COMPUTATION),
    ] = NetworkFields.precision
    deterministic: Annotated[
        bool, Doc("Deterministic algorithms only: equal results on one device."), Option(panel=Panel.COMPUTATION)
    ] = False
    momentum: Annotated[float, Ge(0), Lt(1), Doc("Momentum of SGD."), Option(panel=Panel.ADVANCED)] = 0.9
    dampening: Annotated[float, Doc("Dampening of the momentum of SGD."), Option(panel=Panel.ADVANCED)] = 0.1
    weight_decay: Annotated[
        float, Ge(0), Doc("Weight decay: L2 penalty with SGD, decoupled with AdamW."), Option(panel=Panel.ADVANCED)
    ] = 1e-4
    decay: Annotated[
        float, Gt(0), Doc("Factor of the learning rate at each milestone."), Option(panel=Panel.ADVANCED)
    ] = 0.3
    milestones: Milestones = (150 / 400, 250 / 400)
    warmup: Annotated[
        float, Ge(0), Lt(1), Doc("Fraction of all steps with a linear warm-up."), Option(panel=Panel.ADVANCED)
    ] = 0.0
    clip_norm: Annotated[
        float | None, Gt(0), Doc("Maximum norm of the gradient."), Option(panel=Panel.ADVANCED, default="no clipping")
    ] = None
    rank_timeout: Annotated[
        float,
        Gt(0),
        Doc("Seconds after which a process of torchrun that sends no heartbeat ends the job."),
        Option(panel=Panel.ADVANCED),
    ] = 600.0

    @classmethod
    def resolve(cls, **options: Any) -> Self:
        """Resolve as `Settings.resolve`; a resumed run has its own settings, except those in `RESUMABLE`.

        Raises:
            UsageError: Other options are passed with `--resume`.
            SettingsError: As `Settings.resolve`.
        """
        if options.get("resume") is None:
            return super().resolve(**options)
        known = fields_of(cls)
        typed = {name: value for name, value in options.items() if name in known and value is not None}
        others = [name for name in typed if name not in ("resume", "json", "quiet", *RESUMABLE)]
        if others:
            names = ", ".join(option_name(cls, name) for name in others)
            allowed = ", ".join(option_name(cls, name) for name in RESUMABLE)
            raise UsageError(
                f"--resume uses the run's own settings: leave out {names} (only {allowed} override them)",
                fields=tuple(others),
            )
        overrides = tuple(name for name in typed if name in RESUMABLE)
        return cls.from_table({}, source="", **typed, overrides=overrides)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.augment or not self.randomise, "randomise", "left out with --no-augment", "augment")
        stores = len(self.also_store)
        if self.resume is None:
            fits = len(self.also_anchors) == stores
            self._require(fits, "also_anchors", f"one file for each of {stores} --also-store", "also_store")
            fits = len(self.store_shares) in (0, stores + 1)
            self._require(fits, "store_shares", f"one number for each of {stores + 1} stores", "also_store")


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(TrainSettings, AnchorsFields):
    """`lg3d pretrain`: language-grounded pre-training (section 3.1), or a baseline with the same backbone.

    `contrast = "margin"` is the paper's loss, equations 1 to 3; `softmax` compares the own anchor with all others at
    once, -log(exp(cos(f, t_y) / tau) / sum_j exp(cos(f, t_j) / tau)), and has none of the settings from `distance` to
    `negative_weight`.
    """

    command: ClassVar[str] = "pretrain"

    method: Annotated[
        Method,
        Doc(
            "Method: text anchors, supervised contrast within scenes, or contrastive scene contexts (two views of a "
            "place, without labels)."
        ),
        Option(panel=Panel.LOSS),
    ] = "language"
    contrast: Annotated[
        Contrast, Doc("language: the paper's margin loss, or softmax over all anchors."), Option(panel=Panel.LOSS)
    ] = "margin"
    negatives: Annotated[AtLeastOne, Doc("language: negative classes per voxel."), Option(panel=Panel.LOSS)] = 3
    negative_margin: Annotated[
        float, Doc("language: distance from which a negative costs nothing."), Option(panel=Panel.LOSS)
    ] = 0.6
    temperature: Annotated[
        float | None,
        Ge(0.01),
        Doc("Temperature of softmax, supcon and csc."),
        Option(panel=Panel.LOSS, default="0.05, 0.1 and 0.4"),
    ] = None
    distance: Annotated[
        Distance,
        Doc("language: distance d(f, t): 1 - cos, sum |f - t|, ||f - t||, or mean (f - t)^2."),
        Option(panel=Panel.ADVANCED),
    ] = "cosine"
    hinge: Annotated[
        Hinge,
        Doc("language: mean_j max(0, margin - d_j), or max(0, margin - mean_j d_j)."),
        Option(panel=Panel.ADVANCED),
    ] = "per-negative"
    replacement: Annotated[
        bool, Doc("language: negatives of a voxel drawn with replacement."), Option(panel=Panel.ADVANCED)
    ] = False
    positive_margin: Annotated[
        float, Doc("language: distance to the own anchor that costs nothing."), Option(panel=Panel.ADVANCED)
    ] = 0.0
    negative_weight: Annotated[
        float, Ge(0), Doc("language: weight of the negative term; 0: positives only."), Option(panel=Panel.ADVANCED)
    ] = 1.0
    contrast_points: Annotated[
        int, Ge(2), Doc("supcon, csc: maximum number of compared voxels per scene."), Option(panel=Panel.ADVANCED)
    ] = 4096
    supcon_positives: Annotated[
        AtLeastOne, Doc("supcon: voxels of the same class per voxel."), Option(panel=Panel.ADVANCED)
    ] = 5
    supcon_negatives: Annotated[
        AtLeastOne, Doc("supcon: voxels of other classes per voxel."), Option(panel=Panel.ADVANCED)
    ] = 5
    view_share: Annotated[
        float, Gt(0), Le(1), Doc("csc: fraction of the points of a scene in each view."), Option(panel=Panel.ADVANCED)
    ] = 0.5
    partition_radii: Annotated[
        tuple[float, ...],
        Doc("csc: inner radius of the partitions, and the radius between near and far, in metres."),
        Option(panel=Panel.ADVANCED),
    ] = (0.05, 0.5)
    partition: Annotated[
        Partition,
        Doc("csc: 8 partitions (near or far, four directions), or the 4 of the published scripts, two of them unused."),
        Option(panel=Panel.ADVANCED),
    ] = "directions"

    def __post_init__(self) -> None:
        super().__post_init__()
        is_safe = self.method != "csc" or self.temperature is None or self.temperature >= CSC_TEMPERATURE
        self._require(is_safe, "temperature", f"at least {CSC_TEMPERATURE} with --method csc", "method")
        cosine = self.contrast == "margin" or self.distance == "cosine"
        self._require(cosine, "distance", "cosine with --contrast softmax", "contrast")
        joint = not self.also_store or self.method == "language"
        self._require(joint, "also_store", "left out without --method language", "method")
        radii = self.partition_radii
        rising = len(radii) == 2 and 0 <= radii[0] < radii[1]
        self._require(rising, "partition_radii", "two rising lengths in metres")


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(TrainSettings, AnchorsFields, WeightsFields):
    """`lg3d finetune`: learn to classify voxels (section 3.2), and to group them into objects (section 5)."""

    command: ClassVar[str] = "finetune"

    task: Annotated[
        Task,
        Doc(
            "Task: classes, or also objects: an offset head learns the vector from each voxel to the centre of its "
            "object, and best.safetensors is chosen by AP50 instead of mIoU."
        ),
        Option(panel=Panel.RUN),
    ] = "semantic"
    start: Annotated[
        str,
        Matches(bool, "a checkpoint, latest or scratch"),
        Doc(
            "Checkpoint, run folder, hf:OWNER/NAME or shipped; latest: the newest pre-training run; scratch: no "
            "pre-training."
        ),
        Option("--from", panel=Panel.RUN, completes="starts"),
    ] = LATEST
    classifier: Annotated[
        Classifier,
        Doc(
            "Classifier: random, initialised with the text anchors, or fixed to them, so that lg3d ask works with the "
            "result."
        ),
        Option(panel=Panel.NETWORK),
    ] = "fresh"
    linear_probe: Annotated[
        bool,
        Doc("Train only the classifier; the features stay as they are."),
        Option(panel=Panel.NETWORK),
    ] = False
    loss: Annotated[
        Loss,
        Doc(
            "Loss: -log p, -alpha log p, -(1 - p)^gamma log p (equation 4), or -alpha (1 - p)^gamma log p (equation 5)."
        ),
        Option(panel=Panel.LOSS),
    ] = "class-balanced-focal"
    milestones: Milestones = (120 / 170, 150 / 170)
    gamma: Annotated[float, Ge(0), Doc("Focusing exponent of the focal losses."), Option(panel=Panel.LOSS)] = 2.0
    alpha: Annotated[
        Alpha,
        Doc("Class weights of the weighted losses: falling with log n, or as printed in equation 5."),
        Option(panel=Panel.LOSS),
    ] = "inverse-log"
    offset_weight: Annotated[
        float, Ge(0), Doc("Weight of the offset loss, with --task instance."), Option(panel=Panel.ADVANCED)
    ] = 1.0
    allow_leak: Annotated[
        bool,
        Doc("Start from a checkpoint that was trained with other labels than --limited keeps."),
        Option(panel=Panel.DATA),
    ] = False
    instances: Annotated[
        NotNegative,
        Doc("Objects of tail classes (of the rarest group) that augmentation adds to each training scene."),
        Option(panel=Panel.DATA),
    ] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        may_be_joint = self.classifier == "fixed-anchors" and self.task == "semantic"
        joint = not self.also_store or may_be_joint or self.resume is not None  # a resumed run has its own classifier
        expected = "left out without --classifier fixed-anchors, or with --task instance"
        self._require(joint, "also_store", expected, "classifier", "task")
        probes = not self.linear_probe or (self.classifier != "fixed-anchors" and self.task == "semantic")
        expected = "left out with --classifier fixed-anchors or --task instance"
        self._require(probes, "linear_probe", expected, "classifier", "task")
