"""Settings of the commands that make data: init, prepare, anchors, rooms."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from annotated_doc import Doc

from lg3d_core.errors import UsageError
from lg3d_core.settings.base import CONFIG_NAME, Settings, option_name, recipe_names
from lg3d_core.settings.choices import ClassTexts, Device, Order, Pooling, RawFormat, VocabularyAction
from lg3d_core.settings.fields import Argument, Ge, Le, Lt, Matches, NonEmpty, Option, Panel, ends_in
from lg3d_core.settings.shared import (
    AnchorsFields,
    AtLeastOne,
    Countable,
    DeviceFields,
    FrameFields,
    Seed,
    SeedFields,
    StoreFields,
    VocabularyFields,
    WorkerFields,
)

RECIPES = f"{', '.join(recipe_names())}, or a TOML file"


@dataclass(frozen=True, kw_only=True)
class InitSettings(WorkerFields, StoreFields):
    """`lg3d init`: a settings file for a working directory."""

    command: ClassVar[str] = "init"
    reads_config: ClassVar[bool] = False

    raw: Annotated[
        Path | None,
        Doc("Folder of the raw scans, in a format that prepare recognises."),
        Option(default="asked for; with --yes the first one found nearby"),
    ] = None
    device: Annotated[Device | None, Doc("Device."), Option(default="asked for; with --yes auto")] = None
    recipe: Annotated[
        str | None,
        Doc(f"Recipe: {RECIPES}."),
        Option(default="asked for; with --yes by the device", completes="recipes"),
    ] = None
    yes: Annotated[bool, Doc("Use the defaults without asking."), Option(short="-y")] = False
    audit: Annotated[bool, Doc("Audit of every scan before the file is written.")] = True
    force: Annotated[bool, Doc(f"Replace an existing {CONFIG_NAME}.")] = False


@dataclass(frozen=True, kw_only=True)
class StoreCheckSettings(WorkerFields, StoreFields):
    """`lg3d prepare --verify` and `--merge`: what concerns the store alone, without the raw scans."""

    command: ClassVar[str] = "prepare"


@dataclass(frozen=True, kw_only=True)
class PrepareSettings(StoreCheckSettings, FrameFields):
    """`lg3d prepare`: raw scans to the scene store."""

    raw: Annotated[
        Path | None,
        Doc("Folder of the raw scans."),
        Argument(default=f"raw of {CONFIG_NAME}"),
    ] = None
    format: Annotated[RawFormat, Doc("Format of the folder; auto: by its files."), Option(panel=Panel.SCAN)] = "auto"
    vocabulary: Annotated[
        tuple[str, ...],
        Doc("Vocabulary: a name such as scannet20, or a TSV or JSON file of ids and names; repeat to store several."),
        Option(panel=Panel.DATA, default="that of the format"),
    ] = ()
    labels: Annotated[
        tuple[str, ...],
        Doc("Array or vertex property with the labels, one per vocabulary; color: the colours of the classes."),
        Option(panel=Panel.SCAN, default="by the usual names"),
    ] = ()
    object_ids: Annotated[
        str | None,
        Doc("Array or vertex property with the object of each vertex; none: no objects."),
        Option(panel=Panel.SCAN, default="by the usual names"),
    ] = None
    shard: Annotated[
        str,
        Matches(lambda text: _shard_numbers(text) is not None, "of the form i/n with 1 <= i <= n, such as 1/4"),
        Doc("Part i of n of the scenes, such as 1/4."),
    ] = "1/1"
    force: Annotated[bool, Doc("Prepare scenes again that are already done.")] = False
    merge: Annotated[bool, Doc("Check the scenes of all shards and write the index.")] = False
    check: Annotated[bool, Doc("Audit of the raw folder; writes nothing.")] = False
    verify: Annotated[bool, Doc("Check of the store for damaged scenes; writes nothing.")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        asked = [name for name in ("merge", "check", "verify") if getattr(self, name)]
        asked += ["shard"] if asked and self.shard != "1/1" else []
        if len(asked) > 1:
            names = " and ".join(option_name(PrepareSettings, name) for name in asked)
            raise UsageError(f"{names} cannot be combined: pass one of them", fields=tuple(asked))
        if self.raw is None and not self.merge and not self.verify:
            raise UsageError(f"RAW is missing: pass it, or set raw in {CONFIG_NAME}", fields=("raw",))

    @property
    def shard_numbers(self) -> tuple[int, int]:
        """`(i, n)` of the shard `i/n`."""
        numbers = _shard_numbers(self.shard)
        assert numbers is not None  # checked when the settings were built
        return numbers

    @property
    def raw_folder(self) -> Path:
        """Folder of the raw scans; `--merge` and `--verify` do without one."""
        assert self.raw is not None
        return self.raw


@dataclass(frozen=True, kw_only=True)
class ExportStoreSettings(WorkerFields, StoreFields):
    """`lg3d export-store`: a scene store in the layout of other tools."""

    command: ClassVar[str] = "export-store"

    out: Annotated[Path, Doc("Folder to write."), Argument()]
    force: Annotated[bool, Doc("Write scenes again that are already there.")] = False


def _shard_numbers(shard: str) -> tuple[int, int] | None:
    index, slash, count = shard.partition("/")
    if not slash or not (index.isascii() and index.isdecimal() and count.isascii() and count.isdecimal()):
        return None
    return (int(index), int(count)) if 1 <= int(index) <= int(count) else None


@dataclass(frozen=True, kw_only=True)
class AnchorsSettings(AnchorsFields, DeviceFields, VocabularyFields):
    """`lg3d anchors`: class names to text anchors."""

    command: ClassVar[str] = "anchors"
    follows_recipe: ClassVar[bool] = True

    recipe: Annotated[str | None, Doc(f"Recipe: {RECIPES}."), Option(completes="recipes", panel=Panel.ENCODING)] = None
    encoder: Annotated[
        str,
        Doc("Text encoder: open_clip:ARCHITECTURE/WEIGHTS, hf:NAME or hf:FOLDER of a Hugging Face model, or bundled."),
        Option(panel=Panel.ENCODING),
    ] = "open_clip:ViT-B-32/openai"
    pooling: Annotated[
        Pooling | None,
        Doc("Pooling of an hf model: mean over the tokens, or the last one."),
        Option(panel=Panel.ENCODING, default="mean"),
    ] = None
    checkpoint: Annotated[
        Path | None, Doc("Local weights of the text encoder, instead of a download."), Option(panel=Panel.ENCODING)
    ] = None
    prompt: Annotated[
        tuple[Annotated[str, Matches(lambda text: text.count("{}") == 1, "templates with exactly one {}")], ...],
        NonEmpty(),
        Doc("Template with {} for the name; features of several templates are averaged."),
        Option(panel=Panel.ENCODING),
    ] = ("{}",)
    texts: Annotated[
        ClassTexts,
        Doc("Texts of the classes: names, shipped descriptions of the 200 classes, or both with equal weight."),
        Option(panel=Panel.ENCODING),
    ] = "names"
    prompt_file: Annotated[
        Path | None,
        Doc(
            "Table of sentences for each class, averaged: columns name (* for every class) and text ({} for the name)."
        ),
        Option(panel=Panel.ENCODING),
    ] = None
    like: Annotated[
        Path | None,
        Doc("Anchors file whose encoder and projection are used, for joint training with another vocabulary."),
        Option(panel=Panel.ENCODING),
    ] = None
    dim: Annotated[
        AtLeastOne | None,
        Doc("Width: narrower by SVD or PCA (see --centred), wider by zeros."),
        Option(panel=Panel.ENCODING, default="the encoder's width"),
    ] = None
    centred: Annotated[
        bool,
        Doc("Subtract the mean of the classes; a smaller --dim is then PCA, else SVD."),
        Option(panel=Panel.ENCODING),
    ] = False
    shuffled: Annotated[
        Seed | None,
        Doc("Random seed for assigning each anchor to another class, as a control experiment."),
        Option(panel=Panel.ENCODING, default="off"),
    ] = None
    show: Annotated[bool, Doc("Print the 5 nearest classes of each one."), Option(panel=Panel.INSPECTION)] = False
    plot: Annotated[
        Path | None,
        ends_in(".png", ".pdf", ".svg"),
        Doc("Draw the similarity of the anchors: a .png, .pdf or .svg file."),
        Option(panel=Panel.INSPECTION),
    ] = None
    order: Annotated[
        Order,
        Doc("Order of the drawing: by likeness, or by the groups of the classes."),
        Option(panel=Panel.INSPECTION),
    ] = "likeness"

    def __post_init__(self) -> None:
        super().__post_init__()
        alone = self.prompt_file is None or (self.texts == "names" and self.prompt == ("{}",))
        free = self.like is None or (self.dim is None and not self.centred and self.shuffled is None)
        others = ("dim", "centred", "shuffled")
        self._require(free, "like", "passed without --dim, --centred and --shuffled", *others)
        self._require(alone, "prompt_file", "passed without --texts and --prompt, which it replaces", "texts", "prompt")

    @classmethod
    def resolve(cls, **options: Any) -> Self:
        """Resolve as `Settings.resolve`; options of encoding cannot be combined with those of inspection.

        `--plot` takes the groups of the classes from `--vocabulary`.

        Raises:
            UsageError: Both are passed, or `--order` without `--plot`.
            SettingsError: As `Settings.resolve`.
        """
        # A recipe's width and centring do not apply with --like.
        no_projection: dict[str, Any] = {"dim": "the encoder's width", "centred": False, "shuffled": "off"}
        given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        settings = super().resolve(**(no_projection if "like" in given else {}) | given)
        if options.get("order") is not None and settings.plot is None:
            raise UsageError("--order requires --plot FILE: pass it, or leave out --order", fields=("order",))
        if settings.show or settings.plot is not None:
            inspecting = "--show" if settings.show else "--plot"
            encoding = (
                "vocabulary",
                "encoder",
                "pooling",
                "checkpoint",
                "prompt",
                "texts",
                "prompt_file",
                "like",
                "dim",
                "centred",
                "shuffled",
                "device",
            )
            used = () if settings.show else ("vocabulary",)
            typed = [name for name in encoding if name not in used and options.get(name) is not None]
            if typed:
                names = ", ".join(option_name(cls, name) for name in typed)
                raise UsageError(
                    f"{inspecting} reads the anchors file as it is: leave out {names}", fields=tuple(typed)
                )
        return settings


@dataclass(frozen=True, kw_only=True)
class VocabularySettings(Settings):
    """`lg3d vocabulary`: a list of classes."""

    command: ClassVar[str] = "vocabulary"

    action: Annotated[
        VocabularyAction,
        Doc("show: print a vocabulary; check: validate a file; from-store: write a store's, grouped by frequency."),
        Argument(),
    ]
    source: Annotated[
        str,
        Doc("scannet200, scannet20, s3dis, arkitscenes, or a TSV file; for from-store, the folder of the scene store."),
        Argument(),
    ]
    groups: Annotated[
        tuple[str, ...],
        Doc("Names of equal-sized groups of from-store; the first has the classes with most labelled training points."),
        Option(commas=True),
    ] = ("head", "common", "tail")
    out: Annotated[Path, Doc("File that from-store writes.")] = Path("vocabulary.tsv")


@dataclass(frozen=True, kw_only=True)
class RoomsSettings(SeedFields, WorkerFields):
    """`lg3d rooms`: procedural rooms in ScanNet's raw format. Equal seeds give equal rooms, whatever `jobs` is."""

    command: ClassVar[str] = "rooms"
    only_with: ClassVar[Mapping[str, str]] = {"furniture_names": "furniture"}

    out: Annotated[Path, Doc("Folder to write."), Argument()]
    scenes: Annotated[AtLeastOne, Doc("Number of rooms.")] = 24
    vertices: Annotated[int, Ge(2_000), Countable, Doc("Approximate number of mesh vertices per room.")] = 60_000
    spacing: Annotated[
        float | None,
        Ge(0.005),
        Le(0.2),
        Doc("Distance of neighbouring vertices in metres, instead of --vertices."),
        Option(default="0.022 with --furniture"),
    ] = None
    furniture: Annotated[
        Path | None,
        Doc("Folder of .sh3f libraries, or one library, whose models furnish the rooms."),
        Option(default="procedural furniture"),
    ] = None
    furniture_names: Annotated[
        Path | None, Doc("Table of the class of each model."), Option(default="the shipped table")
    ] = None
    scanned: Annotated[bool, Doc("Varied rooms, scanned by a simulated hand-held depth camera (needs open3d).")] = False
    validation: Annotated[float, Ge(0), Lt(1), Doc("Fraction of the rooms in the validation split.")] = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = not self.scanned or self.spacing is None
        self._require(allowed, "spacing", "left out with --scanned, which varies the spacing")

    @property
    def mesh_spacing(self) -> float | None:
        """Fixed distance of neighbouring vertices; None where `vertices` decides."""
        return self.spacing if self.spacing is not None or self.furniture is None else 0.022
