"""What can be set: one frozen dataclass per command, and where each value came from.

A value is taken from the first of: the command's option, the environment variable `LG3D_<FIELD>`, `lg3d.toml` in the
working directory, the recipe, the default in the dataclass. Recipes and `lg3d.toml` have one form: keys at the top hold
for every command that has such a field, keys in a table `[pretrain]`, `[finetune]`, ... for that command alone.
"""

import dataclasses
import difflib
import json
import math
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from lg3d_core.errors import SettingsError

CONFIG_NAME = "lg3d.toml"
RESUMABLE = ("micro_batch", "max_voxels")
"""Fields that may be given anew to a training run that goes on: how its batches fit into memory."""

NetworkName = Literal["34D", "34C", "18C", "18A", "14A"]
Device = Literal["auto", "cpu", "cuda"]
Backend = Literal["auto", "native", "torch", "triton", "minkowski", "reference"]
Precision = Literal["auto", "fp32", "bf16"]
CheckpointForm = Literal["auto", "lg3d", "minkowski"]
Method = Literal["language", "supcon", "csc"]
Distance = Literal["cosine", "l1", "l2"]
Contrast = Literal["margin", "softmax"]
Hinge = Literal["per-negative", "mean-first"]
Pooling = Literal["mean", "end-of-text"]
Loss = Literal["cross-entropy", "weighted-cross-entropy", "focal", "class-balanced-focal"]
Alpha = Literal["inverse-log", "paper"]
Classifier = Literal["fresh", "anchors"]
Schedule = Literal["step", "cosine"]
ScoredClasses = Literal["present", "all"]
Optimiser = Literal["sgd", "adamw"]
Up = Literal["auto", "x", "-x", "y", "-y", "z", "-z"]
PredictionFormat = Literal["ply", "npz", "txt"]
HeatFormat = Literal["ply", "npz"]
Benchmark = Literal["maps", "layers", "layers-train", "forward", "train"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every command's settings can do: be resolved from their sources, be saved, be read back."""

    command: ClassVar[str] = ""
    follows_recipe: ClassVar[bool] = False
    """Whether a recipe that only `LG3D_RECIPE` or the settings file names concerns this command."""

    @classmethod
    def resolve(
        cls,
        *,
        recipe: str | None = None,
        default_recipe: str | None = None,
        environ: Mapping[str, str] | None = None,
        config: Path | None = None,
        **options: Any,
    ) -> Self:
        """Gather each field's value from option, variable, file, recipe or default, in that order.

        Args:
            recipe: Name of a shipped recipe, or path of a TOML file, that the user typed.
            default_recipe: The recipe where neither the user, `LG3D_RECIPE` nor the file's key `recipe` names one. The
                latter two are meant for encoding and training: other commands do not take their values from there.
            environ: Environment variables; those named `LG3D_<FIELD>` are read.
            config: Path of the settings file; ignored when it does not exist.
            options: What the user typed; `None` means not given.

        Raises:
            SettingsError: An unknown key, or a value of the wrong type or range; the message names the source.
        """
        hints = _field_types(cls)
        environ = environ or {}
        values: dict[str, Any] = {}
        table = _read_toml(config) if config is not None and config.is_file() else {}
        named = environ.get("LG3D_RECIPE") or table.get("recipe")
        table.pop("recipe", None)
        recipe = recipe or (named if cls.follows_recipe else None) or default_recipe
        if recipe is not None:
            values |= _table_values(cls, read_recipe(recipe), source=f"recipe {recipe}")
            values |= {"recipe": recipe} if "recipe" in hints else {}
        values |= _table_values(cls, table, source=str(config))
        for field in hints:
            text = environ.get(f"LG3D_{field.upper()}")
            if text is not None:
                values[field] = _parse_text(text, hints[field], source=f"LG3D_{field.upper()}")
        values |= {field: value for field, value in options.items() if value is not None}
        for field, value in values.items():
            values[field] = _coerce(value, hints[field], source=option_name(field))
        for entry in dataclasses.fields(cls):
            if entry.name not in values and entry.default is dataclasses.MISSING:
                raise SettingsError(
                    f"{option_name(entry.name)} is missing: type it, or set {entry.name} in {CONFIG_NAME}"
                )
        return cls(**values)

    @classmethod
    def from_table(cls, table: dict[str, Any], *, source: str, **options: Any) -> Self:
        """Take the values of one recipe alone, and options that beat them.

        Args:
            table: A recipe, as `read_recipe` gives it.
            source: What messages call it.
            options: Values of fields; None leaves the recipe's.

        Raises:
            SettingsError: An unknown key, or a value of the wrong type or range.
        """
        hints = _field_types(cls)
        values = _table_values(cls, table, source=source)
        values |= {field: value for field, value in options.items() if value is not None}
        return cls(
            **{field: _coerce(value, hints[field], source=option_name(field)) for field, value in values.items()}
        )

    def to_json(self) -> str:
        """Serialise, paths as text."""
        return json.dumps(dataclasses.asdict(self), default=str, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read back what `to_json` wrote.

        Raises:
            SettingsError: The text does not hold these settings.
        """
        hints = _field_types(cls)
        try:
            values = json.loads(text)
            return cls(**{key: _coerce(value, hints[key], source=key) for key, value in values.items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SettingsError(f"saved settings do not fit {cls.__name__} of this version: {error}") from None

    def _require(self, condition: bool, field: str, expected: str) -> None:
        if not condition:
            raise SettingsError(f"{option_name(field)} must be {expected}, got {getattr(self, field)!r}")


def option_name(field: str) -> str:
    """What the user types for a field."""
    names = {
        "start": "--from",
        "raw": "RAW",
        "out": "OUT",
        "scene": "SCENE",
        "recipes": "RECIPES",
        "run": "RUN",
        "changes": "--set",
    }
    names |= {"scans": "SCAN", "scan": "SCAN", "texts": "TEXT", "formats": "--format"}
    return names.get(field, "--" + field.replace("_", "-"))


@dataclass(frozen=True, kw_only=True)
class RoomsSettings(Settings):
    """`lg3d rooms`: procedural rooms in ScanNet's raw format."""

    command: ClassVar[str] = "rooms"

    out: Path
    """Folder to write."""
    scenes: int = 24
    """Number of rooms."""
    seed: int = 0
    """Equal seeds give equal rooms, whatever `jobs` is."""
    vertices: int = 60_000
    """Mesh vertices a room, about."""
    spacing: float | None = None
    """Distance of neighbouring vertices in metres, instead of `vertices`; None is 0.022 with `furniture`."""
    furniture: Path | None = None
    """Folder of `.sh3f` libraries, or one of them, whose models furnish the rooms; None builds all furniture."""
    furniture_names: Path | None = None
    """Table that says which thing each model stands for; None takes the shipped one."""
    validation: float = 0.25
    """Share of the rooms that go to the validation split, in 0..1."""
    jobs: int = 0
    """Worker processes; 0 takes one per core."""

    def __post_init__(self) -> None:
        self._require(self.scenes >= 1, "scenes", "at least 1")
        self._require(self.vertices >= 2_000, "vertices", "at least 2000")
        self._require(self.spacing is None or 0.005 <= self.spacing <= 0.2, "spacing", "between 0.005 and 0.2 metres")
        self._require(
            self.furniture_names is None or self.furniture is not None,
            "furniture_names",
            "left out without --furniture",
        )
        self._require(0 <= self.validation < 1, "validation", "at least 0 and below 1")
        self._require(self.jobs >= 0, "jobs", "0 (one per core) or more")

    @property
    def mesh_spacing(self) -> float | None:
        """Fixed distance of neighbouring vertices; None where `vertices` decides."""
        return self.spacing if self.spacing is not None or self.furniture is None else 0.022


@dataclass(frozen=True, kw_only=True)
class InitSettings(Settings):
    """`lg3d init`: a settings file for a working directory."""

    command: ClassVar[str] = "init"

    raw: Path | None = None
    """ScanNet's folder, or one in its form; None asks, or takes what was found."""
    store: Path = Path("data")
    """Folder of the scene store that will be made."""
    device: Device | None = None
    """Where to compute; None asks, or takes `auto`."""
    recipe: str | None = None
    """Name of a shipped recipe, or a TOML file; None asks, or takes the one that suits the device."""
    jobs: int = 0
    """Worker processes of the audit; 0 takes one per core."""
    force: bool = False
    """Replace a settings file that is there."""

    def __post_init__(self) -> None:
        self._require(self.jobs >= 0, "jobs", "0 (one per core) or more")


@dataclass(frozen=True, kw_only=True)
class PrepareSettings(Settings):
    """`lg3d prepare`: raw scans to the scene store."""

    command: ClassVar[str] = "prepare"

    raw: Path
    """ScanNet's folder: holds `scans/` and perhaps `scans_test/`, the label table and split files."""
    store: Path = Path("data")
    """Folder of the scene store."""
    vocabulary: str = "scannet200"
    """`scannet200`, `scannet20`, or a TSV file of the user's."""
    jobs: int = 0
    """Worker processes; 0 takes one per core."""
    shard: str = "1/1"
    """Part of the scenes to do, as `i/n`, for array jobs."""
    force: bool = False
    """Prepare every scene again, also those that are done."""

    def __post_init__(self) -> None:
        self._require(self.jobs >= 0, "jobs", "0 (one per core) or more")
        self._require(self.shard_numbers is not None, "shard", "of the form i/n with 1 <= i <= n, such as 1/4")

    @property
    def shard_numbers(self) -> tuple[int, int] | None:
        """`(i, n)`, or None where `shard` is malformed."""
        index, slash, count = self.shard.partition("/")
        if not slash or not (index.isascii() and index.isdecimal() and count.isascii() and count.isdecimal()):
            return None
        return (int(index), int(count)) if 1 <= int(index) <= int(count) else None


@dataclass(frozen=True, kw_only=True)
class StoreCheckSettings(PrepareSettings):
    """`lg3d prepare --verify` and `--merge`: what concerns the store alone, without the raw scans."""

    raw: Path = Path()
    """Not looked at."""


@dataclass(frozen=True, kw_only=True)
class AnchorsSettings(Settings):
    """`lg3d anchors`: category names to text anchors."""

    command: ClassVar[str] = "anchors"
    follows_recipe: ClassVar[bool] = True

    anchors: Path = Path("anchors.safetensors")
    """File to write."""
    vocabulary: str = "scannet200"
    """`scannet200`, `scannet20`, or a TSV file of the user's."""
    encoder: str = "open_clip:ViT-B-32/openai"
    """`open_clip:ARCHITECTURE/WEIGHTS`, `hf:NAME` or `hf:FOLDER` (a text model of Hugging Face), or `bundled`."""
    pooling: Pooling | None = None
    """How `hf` makes one feature of a text's tokens: their mean (None too), or the feature of the last one."""
    checkpoint: Path | None = None
    """Weights of the text encoder on disk, instead of a download."""
    prompt: tuple[str, ...] = ("{}",)
    """Templates with one `{}` for the name; the features of several are averaged."""
    dim: int | None = None
    """Width of the anchors; None keeps the encoder's."""
    centred: bool = False
    """Take off the mean of the categories first: cosines then scatter about zero, instead of staying as they are."""
    device: Device = "auto"
    """Where the encoder runs."""

    def __post_init__(self) -> None:
        self._require(len(self.prompt) > 0, "prompt", "at least one template")
        self._require(all(text.count("{}") == 1 for text in self.prompt), "prompt", "templates with exactly one {}")
        self._require(self.dim is None or self.dim >= 1, "dim", "at least 1")


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """What pre-training and fine-tuning share."""

    follows_recipe: ClassVar[bool] = True

    store: Path = Path("data")
    """Folder of the scene store."""
    runs: Path = Path("runs")
    """Folder in which each run makes its own."""
    name: str | None = None
    """Name of the run's folder; None makes one from the command and the time."""
    resume: Path | None = None
    """Folder of an interrupted run to continue, with its own settings."""
    network: NetworkName = "34D"
    """Plan of the U-Net."""
    voxel_size: float = 0.02
    """Edge of a voxel in metres."""
    device: Device = "auto"
    """`auto` takes CUDA where there is one."""
    backend: Backend = "auto"
    """Implementation of the sparse convolution."""
    precision: Precision = "auto"
    """`auto` is bf16 autocast on CUDA, and on a CPU with AVX512-BF16 and a C compiler; else fp32."""
    jobs: int = 2
    """Processes that load and augment scenes; 0 loads in the training process."""
    seed: int = 0
    """Of weights, order, augmentation and negatives."""
    deterministic: bool = False
    """Take no algorithm whose result may differ from run to run on one device."""
    rank_timeout: float = 600.0
    """Seconds that a process of a run of several waits for the others before it gives them up."""
    epochs: int = 1
    """Passes over the training scenes."""
    batch_size: int = 8
    """Scenes per optimiser step: the effective batch."""
    micro_batch: int | None = None
    """Scenes per forward pass; gradients accumulate over several. None: the whole batch."""
    max_voxels: int | None = None
    """Voxels per forward pass: a batch of more takes several passes, whose gradients add up to that of the whole batch;
    only the statistics of batch normalisation are then those of a pass. A scene of more is cut into parts. None sets no
    limit."""
    optimiser: Optimiser = "sgd"
    """The paper's SGD, or AdamW, which gets further in a few hundred steps."""
    learning_rate: float = 0.05
    """At the start, before the schedule."""
    momentum: float = 0.9
    """Of SGD."""
    dampening: float = 0.1
    """Of SGD's momentum."""
    weight_decay: float = 1e-4
    """L2 penalty on all weights with SGD, decoupled decay with AdamW."""
    schedule: Schedule = "step"
    """`step` multiplies by `decay` at each milestone; `cosine` falls to zero."""
    decay: float = 0.3
    """Factor at each milestone."""
    milestones: tuple[float, ...] = (0.375, 0.625)
    """Where the step schedule decays, as shares of all epochs (150 and 250 of 400)."""
    warmup: float = 0.0
    """Share of all steps over which the rate rises linearly from zero."""
    clip_norm: float | None = None
    """Largest norm of the gradient; None does not clip."""
    norm_momentum: float | None = None
    """Momentum of all running statistics of batch normalisation, in 0..1. None keeps the released networks' values
    (0.02 outside the residual blocks, 0.1 inside), which need some hundred steps to settle."""
    augment: bool = True
    """Augment while training."""
    crop: float | None = None
    """Edge in metres of the square piece, of the full height, that an epoch sees of each scene; None is all of it."""
    limited: float | None = None
    """Share of each object's points that keep their label, in 0..1; None keeps all."""
    limited_seed: int = 0
    """Which points a label budget keeps."""
    validate_every: int = 1
    """Epochs between two validations; 0 validates only at the end."""

    def __post_init__(self) -> None:
        self._require(
            math.isfinite(self.voxel_size) and self.voxel_size > 0, "voxel_size", "a positive length in metres"
        )
        self._require(self.epochs >= 1, "epochs", "at least 1")
        self._require(self.jobs >= 0, "jobs", "0 or more")
        self._require(self.batch_size >= 1, "batch_size", "at least 1")
        self._require(self.micro_batch is None or self.micro_batch >= 1, "micro_batch", "at least 1")
        self._require(self.max_voxels is None or self.max_voxels >= 1000, "max_voxels", "at least 1000")
        self._require(math.isfinite(self.learning_rate) and self.learning_rate > 0, "learning_rate", "positive")
        self._require(0 <= self.momentum < 1, "momentum", "at least 0 and below 1")
        self._require(self.weight_decay >= 0, "weight_decay", "0 or more")
        self._require(self.decay > 0, "decay", "positive")
        self._require(all(0 <= share <= 1 for share in self.milestones), "milestones", "shares from 0 to 1")
        self._require(0 <= self.warmup < 1, "warmup", "at least 0 and below 1")
        self._require(self.limited is None or 0 < self.limited <= 1, "limited", "above 0 and at most 1 (0.05 is 5 %)")
        self._require(self.validate_every >= 0, "validate_every", "0 or more")
        timeout = self.rank_timeout
        self._require(math.isfinite(timeout) and timeout > 0, "rank_timeout", "positive seconds")
        self._require(
            self.crop is None or (math.isfinite(self.crop) and self.crop > 0), "crop", "a positive length in metres"
        )
        self._require(self.clip_norm is None or self.clip_norm > 0, "clip_norm", "positive")
        momentum = self.norm_momentum
        self._require(momentum is None or 0 < momentum <= 1, "norm_momentum", "above 0 and at most 1")
        self._require(self.name is None or Path(self.name).name == self.name, "name", "a plain folder name")


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(TrainSettings):
    """`lg3d pretrain`: pull every voxel's feature towards the text anchor of its category (section 3.1), or a baseline
    with the same backbone."""

    command: ClassVar[str] = "pretrain"

    method: Method = "language"
    """`language` grounds features in text anchors; `supcon` draws voxels of one category together (supervised
    contrastive); `csc` draws two views of one place together, without labels (contrastive scene contexts)."""
    anchors: Path = Path("anchors.safetensors")
    """File that `lg3d anchors` wrote; for `language` alone."""
    contrast: Contrast = "margin"
    """`margin` is the paper's loss, equations 1 to 3; `softmax` compares the own anchor with all others at once,
    -log(exp(cos(f, t_y) / tau) / sum_j exp(cos(f, t_j) / tau)), and has none of the settings from `distance` to
    `negative_weight`."""
    distance: Distance = "cosine"
    """d of equations 1 and 2: 1 - cos(f, t), sum |f - t|, or the Euclidean length of f - t."""
    hinge: Hinge = "per-negative"
    """mean_j max(0, t_neg - d_j) of equation 2, or the reference implementation's max(0, t_neg - mean_j d_j)."""
    negatives: int = 3
    """Other categories that each voxel is pushed from, |M| of equation 2."""
    replacement: bool = False
    """Whether one voxel's negatives may repeat, as in the reference implementation."""
    positive_margin: float = 0.0
    """Distance to the own anchor that costs nothing, t_pos of equation 1."""
    negative_margin: float = 0.6
    """Distance to another anchor from which it costs nothing, t_neg of equation 2."""
    negative_weight: float = 1.0
    """lambda of equation 3."""
    contrast_points: int = 4096
    """Source voxels of `supcon`, matched points of `csc`, at most so many of each scene: bounds memory."""
    temperature: float | None = None
    """tau of `contrast = "softmax"`, `supcon` and `csc`, cosines are divided by it; None takes 0.05, 0.1 and 0.4."""
    supcon_positives: int = 5
    """Voxels of its own category that a source voxel of `supcon` is compared with, from its scene."""
    supcon_negatives: int = 5
    """Voxels of other categories that a source voxel of `supcon` is compared with, from its scene."""
    view_share: float = 0.5
    """Share of a scene's points in each of the two views of `csc`, in 0..1."""
    partition_radii: tuple[float, ...] = (0.05, 0.5)
    """Metres at which the partitions of `csc` begin and at which near turns into far."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.negatives >= 1, "negatives", "at least 1")
        self._require(self.contrast_points >= 2, "contrast_points", "at least 2")
        self._require(self.temperature is None or self.temperature >= 0.01, "temperature", "at least 0.01")
        self._require(
            self.contrast == "margin" or self.distance == "cosine", "distance", "cosine with --contrast softmax"
        )
        self._require(self.supcon_positives >= 1, "supcon_positives", "at least 1")
        self._require(self.supcon_negatives >= 1, "supcon_negatives", "at least 1")
        self._require(0 < self.view_share <= 1, "view_share", "above 0 and at most 1")
        radii = self.partition_radii
        self._require(len(radii) == 2 and 0 <= radii[0] < radii[1], "partition_radii", "two rising lengths in metres")


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(TrainSettings):
    """`lg3d finetune`: learn to classify voxels (section 3.2)."""

    command: ClassVar[str] = "finetune"

    start: str = "latest"
    """A checkpoint or run folder to start from, `latest` for the newest pre-training run, or `scratch`."""
    classifier: Classifier = "fresh"
    """What the classifier starts as: He-normal weights, or text anchors, by which pre-trained features lie already and
    those of a network from scratch are led to lie."""
    anchors: Path = Path("anchors.safetensors")
    """For a classifier that starts as them: those of the pre-training, or any where that had none."""
    loss: Loss = "class-balanced-focal"
    """What is minimised: -log p_y, -alpha_y log p_y, -(1 - p_y)^gamma log p_y (equation 4), or
    -alpha_y (1 - p_y)^gamma log p_y (equation 5)."""
    gamma: float = 2.0
    """Focusing exponent of the focal losses, equation 4."""
    instances: int = 0
    """Objects of tail categories from other training scenes that are put into each training scene; 0 puts in none. Part
    of the augmentation, so none with `--no-augment` either."""
    alpha: Alpha = "inverse-log"
    """Class weights of the weighted losses: falling in log n, or as equation 5 is printed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.gamma >= 0, "gamma", "0 or more")
        self._require(self.instances >= 0, "instances", "0 or more")


@dataclass(frozen=True, kw_only=True)
class EvalSettings(Settings):
    """`lg3d eval`: scores of a checkpoint on a split."""

    command: ClassVar[str] = "eval"

    store: Path = Path("data")
    """Folder of the scene store."""
    runs: Path = Path("runs")
    """Where the newest fine-tuned run is looked for."""
    checkpoint: Path | None = None
    """Checkpoint or run folder; None takes the newest fine-tuned run."""
    split: str = "val"
    """Which scenes."""
    device: Device = "auto"
    """`auto` takes CUDA where there is one."""
    backend: Backend = "auto"
    """Implementation of the sparse convolution."""
    precision: Precision = "auto"
    """`auto` is bf16 autocast on CUDA and fp32 on the CPU."""
    export: Path | None = None
    """Folder for one `<scene>.txt` of raw ids a scene, as the benchmark wants them."""


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(Settings):
    """`lg3d convert`: between lg3d's checkpoints and those of MinkowskiEngine 0.5."""

    command: ClassVar[str] = "convert"

    checkpoint: Path
    """A Lightning checkpoint, a state dict, or lg3d's checkpoint or run folder."""
    out: Path
    """File to write; for MinkowskiEngine a name in `.ckpt` gives a Lightning checkpoint, any other a state dict."""
    to: CheckpointForm = "auto"
    """Form to write; `auto` is the other than the file's own."""
    voxel_size: float | None = None
    """Edge of a voxel in metres; None takes what the file says, else 2 cm."""
    vocabulary: str | None = None
    """Vocabulary that the classifier names; None takes what the file says, if it does."""
    final_relu: bool | None = None
    """Whether the last block ends with a ReLU, which tensors do not show; None takes what the file says, else no."""
    partial: bool = False
    """Take what matches where not all does; the rest keeps its fresh values."""

    def __post_init__(self) -> None:
        size = self.voxel_size
        self._require(size is None or (math.isfinite(size) and size > 0), "voxel_size", "a positive length in metres")


@dataclass(frozen=True, kw_only=True)
class ViewSettings(Settings):
    """`lg3d view`: a scene as a window, a page or a picture."""

    command: ClassVar[str] = "view"

    scene: str
    """Scene id in the store."""
    store: Path = Path("data")
    """Folder of the scene store."""
    runs: Path = Path("runs")
    """Where the newest fine-tuned run is looked for."""
    checkpoint: Path | None = None
    """Checkpoint or run folder whose prediction is shown; None takes the newest fine-tuned run, if there is one."""
    png: Path | None = None
    """Picture to write."""
    layer: tuple[str, ...] = ()
    """Layers of the picture in reading order; empty: the usual ones."""
    html: Path | None = None
    """Self-contained page to write."""
    heat: tuple[str, ...] = ()
    """Texts whose heat is shown too, from the newest pre-training run."""
    serve: bool = False
    """Serve that page to browsers on this machine, or through a tunnel of SSH to it."""
    port: int = 8731
    """To serve on; 0 takes any that is free."""
    augmented: bool = False
    """Show the voxels of a training sample instead: augmented, with objects of other scenes put in."""
    voxel_size: float = 0.02
    """Edge of a voxel in metres, of the sample."""
    instances: int = 5
    """Objects of tail categories that are put into the sample."""
    seed: int = 0
    """Of the sample: as in the first epoch of a run with this seed."""
    device: Device = "auto"
    """Where the prediction is made."""
    backend: Backend = "auto"
    """Implementation of the sparse convolution."""

    def __post_init__(self) -> None:
        self._require(
            math.isfinite(self.voxel_size) and self.voxel_size > 0, "voxel_size", "a positive length in metres"
        )
        self._require(self.instances >= 0, "instances", "0 or more")
        self._require(0 <= self.port <= 65535, "port", "0 to 65535")


@dataclass(frozen=True, kw_only=True)
class ScanSettings(Settings):
    """How a scan of any origin is read, and how a network is run over it."""

    store: Path = Path("data")
    """Folder of the scene store, for scenes by their id."""
    runs: Path = Path("runs")
    """Where the newest run is looked for."""
    checkpoint: Path | None = None
    """Checkpoint or run folder; None takes the newest run that can do it."""
    scale: str = "auto"
    """Metres of one of the scan's units, or m, cm, mm, in, ft; `auto` guesses."""
    up: Up = "auto"
    """Axis of the scan that points up; `auto` guesses."""
    memory: str | None = None
    """What a pass may take, such as 4G or 500M; a scan that needs more is cut into overlapping tiles. None: 60 % of
    what is free."""
    overlap: float | None = None
    """Metres by which tiles overlap; None takes what the network sees, or less where tiles would be mostly overlap."""
    device: Device = "auto"
    """`auto` takes CUDA where there is one."""
    backend: Backend = "auto"
    """Implementation of the sparse convolution."""
    precision: Precision = "auto"
    """`auto` is bf16 autocast on CUDA and fp32 on the CPU."""

    def __post_init__(self) -> None:
        self._require(
            _is_positive(self.scale) or self.scale in ("auto", "m", "cm", "mm", "in", "ft"),
            "scale",
            "auto, m, cm, mm, in, ft, or a positive number of metres",
        )
        self._require(self.memory is None or self.memory_bytes is not None, "memory", "a size such as 4G or 500M")
        self._require(self.overlap is None or self.overlap >= 0, "overlap", "0 or more metres")

    @property
    def memory_bytes(self) -> int | None:
        """`memory` as a number; None where it is None or malformed."""
        text = (self.memory or "").upper().removesuffix("B").removesuffix("I")
        factor = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}.get(text[-1:])
        number = text[:-1] if factor is not None else text
        return int(float(number) * (factor or 1)) if _is_positive(number) else None


@dataclass(frozen=True, kw_only=True)
class PredictSettings(ScanSettings):
    """`lg3d predict`: a name for every vertex of any scan."""

    command: ClassVar[str] = "predict"

    scans: tuple[str, ...] = ()
    """PLY, PCD, OBJ or GLB files, or scene ids of the store."""
    out: Path = Path()
    """Folder of the written files."""
    formats: tuple[PredictionFormat, ...] = ("ply",)
    """What is written of each scan: `ply`, `npz`, `txt`."""
    vocabulary: str | None = None
    """What the checkpoint's classes are called; None takes the shipped or the store's vocabulary that fits it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(len(self.scans) > 0, "scans", "at least one file or scene id")
        self._require(len(self.formats) > 0, "formats", "at least one of ply, npz, txt")


@dataclass(frozen=True, kw_only=True)
class AskSettings(ScanSettings):
    """`lg3d ask`: where in a scan is what a text describes."""

    command: ClassVar[str] = "ask"

    scan: str
    """A PLY, PCD, OBJ or GLB file, or a scene id of the store."""
    texts: tuple[str, ...] = ()
    """What is looked for; none opens a prompt."""
    anchors: Path | None = None
    """Anchors file that the checkpoint was trained with; None takes the one that its run names."""
    encoder: str | None = None
    """Where the anchors' text encoder is: `hf:FOLDER`; None looks where it was."""
    encoder_checkpoint: Path | None = None
    """Weights of an open_clip encoder on disk."""
    threshold: float = 0.5
    """Heat from which a place belongs to a region."""
    regions: int = 5
    """Regions listed for each text."""
    out: Path | None = None
    """Folder for the heat as files; None writes none."""
    formats: tuple[HeatFormat, ...] = ("ply",)
    """What is written there: `ply`, `npz`."""
    html: Path | None = None
    """Self-contained page to write, with the heat of each text as a layer."""
    serve: bool = False
    """Serve that page; what is typed at the prompt moves its heat."""
    port: int = 8731
    """To serve on; 0 takes any that is free."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(0 <= self.port <= 65535, "port", "0 to 65535")
        self._require(self.html is None or len(self.texts) > 0, "html", "a text to show the heat of")
        self._require(0 < self.threshold < 1, "threshold", "above 0 and below 1")
        self._require(self.regions >= 1, "regions", "at least 1")
        self._require(len(self.formats) > 0, "formats", "at least one of ply, npz")


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class DemoSettings(Settings):
    """`lg3d demo`: the whole pipeline on procedural rooms."""

    command: ClassVar[str] = "demo"

    out: Path = Path("demo")
    """Working folder of the demo."""
    recipe: str = "demo"
    """Recipe of anchors and training."""
    scenes: int = 24
    """Number of rooms."""
    vertices: int = 60_000
    """Mesh vertices a room, about."""
    seed: int = 0
    """Of rooms and training."""
    device: Device = "auto"
    """Where it trains."""
    jobs: int = 2
    """Worker processes."""

    def __post_init__(self) -> None:
        self._require(self.scenes >= 2, "scenes", "at least 2, one of them for validation")


@dataclass(frozen=True, kw_only=True)
class BenchSettings(Settings):
    """`lg3d bench`: how fast the sparse engine is here, beside its peers and the machine's floor."""

    command: ClassVar[str] = "bench"

    what: tuple[Benchmark, ...] = ("maps", "layers", "forward", "train")
    """Kernel maps; single layers forward, or forward and backward; networks forward, or forward and backward."""
    networks: tuple[NetworkName, ...] = ("14A", "34C")
    """Plans of the U-Nets."""
    scene: tuple[str, ...] = ()
    """Meshes (`.ply`) or scene ids in the store to voxelize; without any, procedural rooms are made on the spot."""
    store: Path = Path("data")
    """Folder of the scene store."""
    voxel_size: tuple[float, ...] = (0.05,)
    """Edges of a voxel in metres."""
    batch: tuple[int, ...] = (1,)
    """Scenes per batch; with fewer scenes they take turns."""
    backends: tuple[str, ...] = ("all",)
    """Backends of lg3d, or `all` of those that run here; the slow reference only by name."""
    peers: tuple[str, ...] = ("all",)
    """Engines of others, `all` of those that can be imported, or `none`."""
    device: Device = "auto"
    """`auto` takes CUDA where there is one."""
    precision: Precision = "auto"
    """`auto` is bf16 autocast on CUDA and fp32 on the CPU; a peer that lacks it computes in its nearest."""
    repeats: int = 3
    """Timed passes of each engine."""
    threads: int | None = None
    """Threads of the CPU; None keeps PyTorch's choice."""
    patience: float = 0.0
    """Seconds to wait before each pass until other processes leave the machine alone, at most."""
    seed: int = 0
    """Of procedural rooms, weights and features."""
    out: Path | None = None
    """JSON file to write."""

    def __post_init__(self) -> None:
        self._require(len(self.what) > 0, "what", "at least one of maps, layers, layers-train, forward, train")
        needs_networks = "forward" in self.what or "train" in self.what
        self._require(len(self.networks) > 0 or not needs_networks, "networks", "at least one")
        lengths = all(math.isfinite(size) and size > 0 for size in self.voxel_size)
        self._require(len(self.voxel_size) > 0 and lengths, "voxel_size", "positive lengths in metres")
        self._require(len(self.batch) > 0 and min(self.batch) >= 1, "batch", "at least 1")
        self._require(len(self.backends) > 0, "backends", "all, or some")
        self._require(len(self.peers) > 0, "peers", "all, none, or some")
        self._require(self.repeats >= 1, "repeats", "at least 1")
        self._require(self.threads is None or self.threads >= 1, "threads", "at least 1")
        self._require(math.isfinite(self.patience) and self.patience >= 0, "patience", "0 or more seconds")


@dataclass(frozen=True, kw_only=True)
class CompareSettings(Settings):
    """`lg3d compare`: recipes trained, scored and set against each other, a row of the table each."""

    command: ClassVar[str] = "compare"

    recipes: tuple[str, ...] = ()
    """TOML files or names of shipped recipes, in the table's order; the first is what the others are held against."""
    store: Path = Path("data")
    """Folder of the scene store."""
    out: Path = Path("compare")
    """Folder of the runs and of the table."""
    seeds: int = 3
    """Every row is trained with the seeds 0, 1, ..."""
    jobs: int = 1
    """Runs at the same time, each in a process of its own."""
    anchors: Path | None = None
    """Anchors file for every row that is grounded in language, instead of the one that its recipe describes."""
    network: NetworkName | None = None
    """Plan of the U-Net, instead of the recipes'."""
    voxel_size: float | None = None
    """Edge of a voxel in metres, instead of the recipes'."""
    epochs: int | None = None
    """Epochs of fine-tuning, instead of the recipes'."""
    pretrain_epochs: int | None = None
    """Epochs of pre-training, instead of the recipes'."""
    changes: tuple[str, ...] = ()
    """Further values instead of the recipes', as `key=value` or `command.key=value`."""
    device: Device = "auto"
    """`auto` takes CUDA where there is one."""
    split: str = "val"
    """Scenes that are scored."""
    classes: ScoredClasses = "present"
    """Means over the categories with ground truth in the scored scenes, or over all, an absent one counting 0."""
    resamples: int = 2000
    """Bootstrap samples of the scored scenes behind each interval."""
    label: str = ""
    """What a recipe's row is called: a recipe's `[compare]` sets it."""

    def __post_init__(self) -> None:
        self._require(self.seeds >= 1, "seeds", "at least 1")
        self._require(self.jobs >= 1, "jobs", "at least 1")
        self._require(self.epochs is None or self.epochs >= 1, "epochs", "at least 1")
        self._require(self.pretrain_epochs is None or self.pretrain_epochs >= 1, "pretrain_epochs", "at least 1")
        self._require(self.resamples >= 100, "resamples", "at least 100")


@dataclass(frozen=True, kw_only=True)
class ReportSettings(Settings):
    """`lg3d report`: one page and figures of a run, or of several side by side."""

    command: ClassVar[str] = "report"

    run: tuple[Path, ...] = ()
    """Folders of runs, or names of folders in `runs`; differences are from the first one."""
    out: Path | None = None
    """Folder of the page and the figures; None is `report` in the folder of a single run, else here."""
    runs: Path = Path("runs")
    """Where names of runs are looked up."""
    store: Path | None = None
    """Folder of the scene store; None takes the one that the runs were trained on."""
    anchors: Path | None = None
    """Anchors file; None takes the one that the run was trained with."""
    split: str = "val"
    """Scenes that are scored: train, val or test."""
    scene: tuple[str, ...] = ()
    """Scenes of the split that are shown; without any, those with the most categories."""
    rooms: int = 2
    """How many those are."""
    points: int = 2000
    """Voxels in the map of features, drawn evenly from the categories; 0 leaves the map out."""
    pdf: bool = False
    """Write every figure as PDF too."""
    svg: bool = False
    """Write every figure as SVG too."""
    fresh: bool = False
    """Score again, also where an earlier report kept the scores."""
    seed: int = 0
    """Of the drawn voxels and of their map."""
    device: Device = "auto"
    """Where the prediction is made."""
    backend: Backend = "auto"
    """Implementation of the sparse convolution."""
    precision: Precision = "auto"
    """`auto` is bf16 autocast on CUDA and fp32 on the CPU."""

    def __post_init__(self) -> None:
        self._require(self.rooms >= 0, "rooms", "0 or more")
        self._require(self.points >= 0, "points", "0 or more")


COMMANDS: dict[str, type[Settings]] = {
    cls.command: cls
    for cls in (
        RoomsSettings,
        InitSettings,
        PrepareSettings,
        AnchorsSettings,
        PretrainSettings,
        FinetuneSettings,
        EvalSettings,
        ConvertSettings,
        ViewSettings,
        PredictSettings,
        AskSettings,
        DemoSettings,
        BenchSettings,
        CompareSettings,
        ReportSettings,
    )
}


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    folder = resources.files("lg3d_core") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def recipe_summary(name: str) -> str:
    """The first line of a shipped recipe: what it is for."""
    text = (resources.files("lg3d_core") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    return text.partition("\n")[0].removeprefix("# ")


def read_recipe(name: str) -> dict[str, Any]:
    """Read a shipped recipe by name, or a TOML file by path.

    Raises:
        SettingsError: No such recipe, or not TOML.
    """
    if name in recipe_names():
        text = (resources.files("lg3d_core") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
        return tomllib.loads(text)
    path = Path(name)
    if not path.is_file():
        raise SettingsError(f"--recipe {name}: expected one of {', '.join(recipe_names())}, or a TOML file's path")
    return _read_toml(path)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no TOML, no UTF-8, or a number of thousands of digits
        raise SettingsError(f"{path} is not TOML: {error}") from None
    except RecursionError:
        raise SettingsError(f"{path} is not TOML that can be read: it is nested too deeply") from None
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None


def _table_values(cls: type[Settings], table: dict[str, Any], *, source: str) -> dict[str, Any]:
    """The values in a recipe or settings file that concern one command; any key that no command knows is an error."""
    every_field = {field for command in COMMANDS.values() for field in _field_types(command)}
    own = _field_types(cls)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            if key not in COMMANDS:
                raise SettingsError(f"{source}: [{key}] is no command{_did_you_mean(key, COMMANDS)}")
            unknown = [name for name in value if _field(name) not in _field_types(COMMANDS[key])]
            if unknown:
                hint = _did_you_mean(unknown[0], _field_types(COMMANDS[key]))
                raise SettingsError(f"{source}: [{key}] has no setting {unknown[0]!r}{hint}")
        elif _field(key) not in every_field:
            raise SettingsError(f"{source}: no setting {key!r}{_did_you_mean(key, every_field)}")
        elif _field(key) in own:
            values[_field(key)] = value
    values |= {_field(name): value for name, value in table.get(cls.command, {}).items()}
    return values


def _field(key: str) -> str:
    """`voxel-size` and `voxel_size` are one key, and `from` is typed for `start`."""
    return "start" if key == "from" else key.replace("-", "_")


def _did_you_mean(word: str, known: Mapping[str, Any] | set[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _field_types(cls: type[Settings]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _parse_text(text: str, kind: Any, *, source: str) -> Any:
    """A value typed as text into something that `_coerce` takes."""
    kinds = _alternatives(kind)
    if types.NoneType in kinds and text == "":
        return None
    if bool in kinds:
        if text.lower() not in ("0", "1", "true", "false"):
            raise SettingsError(f"{source} must be true or false, got {text!r}")
        return text.lower() in ("1", "true")
    if any(get_origin(k) is tuple for k in kinds):
        return [part.strip() for part in text.split(",")]
    return text


def _coerce(value: Any, kind: Any, *, source: str) -> Any:
    """Bring a value from TOML, JSON, text or Python to the field's type."""
    kinds = _alternatives(kind)
    if value is None and types.NoneType in kinds:
        return None
    target = next(k for k in kinds if k is not types.NoneType)
    if get_origin(target) is Literal:
        if value not in get_args(target):
            raise SettingsError(f"{source} must be one of {', '.join(map(str, get_args(target)))}, got {value!r}")
        return value
    if get_origin(target) is tuple:
        items = [value] if isinstance(value, str | int | float) else list(value)
        return tuple(_coerce(item, get_args(target)[0], source=source) for item in items)
    if target is bool:
        if not isinstance(value, bool):
            raise SettingsError(f"{source} must be true or false, got {value!r}")
        return value
    if target in (int, float) and isinstance(value, bool):
        raise SettingsError(f"{source} must be a number, got {value!r}")
    try:
        if target is int and isinstance(value, float) and not value.is_integer():
            raise ValueError
        converted = target(value)
        if target is float and not math.isfinite(converted):
            raise ValueError
        return converted
    except (TypeError, ValueError, OverflowError):
        expected = {int: "a whole number", float: "a finite number"}.get(target, target.__name__)
        raise SettingsError(f"{source} must be {expected}, got {value!r}") from None
