"""Plan of the runs for a table: anchors, pre-training and fine-tuning, each only once if several rows share it."""

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from lg3d_core.comparing.grid import (
    PHASES,
    Cell,
    cell_fields,
    cell_label,
    find_field,
    grid_cells,
    is_same_key,
    parse_assignment,
    parse_value,
)
from lg3d_core.errors import SettingsError, UsageError
from lg3d_core.models.names import find_model
from lg3d_core.progress import Progress
from lg3d_core.settings import (
    LATEST,
    SCRATCH,
    AnchorsSettings,
    CompareSettings,
    FinetuneSettings,
    NetworkName,
    PretrainSettings,
    Settings,
    Split,
    option_name,
    read_recipe,
)
from lg3d_core.settings.fields import fields_of
from lg3d_core.store.scene_store import SceneStore

S = TypeVar("S", bound=Settings)
T = TypeVar("T", FinetuneSettings, PretrainSettings)
Kind = Literal["anchors", "pretrain", "finetune"]
NOT_RESULTS = {
    "command",
    "recipe",
    "store",
    "runs",
    "name",
    "resume",
    "device",
    "jobs",
    "rank_timeout",
    "validate_every",
    "anchors",
    "start",
    "allow_leak",
}
"""Settings that do not affect the result of a run, or files whose content is hashed separately."""
READ_FILES = ("prompt_file", "like", "checkpoint", "also_anchors", "vocabulary")
"""Settings that name files whose content is hashed with the path: an edited file gives another run."""


@dataclass(frozen=True)
class Step:
    """Work of one process.

    Attributes:
        kind: Command that the step runs.
        folder: Output folder; its name ends in a digest of everything that affects the result.
        settings: Settings of the command as JSON.
        needs: Folders of the steps that must be done first.
        store: Path of the scene store.
        split: Split to score, for fine-tuning.
        network: Network plan whose feature width the anchors have, for anchors.
    """

    kind: Kind
    folder: Path
    settings: str
    needs: tuple[Path, ...]
    store: Path
    split: Split = "val"
    network: str = ""

    @property
    def done(self) -> bool:
        """Whether the step has finished."""
        return (self.folder / DONE_NAME).is_file()


RECIPE_SUFFIX = ".toml"
DONE_NAME = "done.json"
ANCHORS_NAME = "anchors.safetensors"


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        recipe: Recipe as typed by the user.
        label: Name of the row in the table, from the recipe and the values of the grid.
        method: Name that rows of the same recipe with different shares of the labels have in common.
        runs: Folder of the fine-tuning run of each seed.
        share: Fraction of the labels used for training, 0..1.
    """

    recipe: str
    label: str
    method: str
    runs: tuple[Path, ...]
    share: float = 1.0


@dataclass(frozen=True)
class Plan:
    """Rows and their steps, ordered so that every step follows the steps that it needs."""

    rows: tuple[Row, ...]
    steps: tuple[Step, ...]


def plan_table(settings: CompareSettings, *, store_digest: str, progress: Progress | None = None) -> Plan:
    """Plan the runs of several recipes: one row per recipe and combination of values of the grid.

    A recipe whose fine-tuning starts from a checkpoint (`from = "runs/a"`) has no pre-training of its own. It may also
    start from the run of another recipe with the same seed (`from = "other.toml"`, relative to the recipe).

    Args:
        settings: Recipes, seeds, values that override those of the recipes, and the grid.
        store_digest: Digest of the scenes, so that runs on other scenes are not reused.
        progress: Receives a note if a start checkpoint is downloaded.

    Raises:
        SettingsError: There is no recipe, two rows have the same label, one conflicts with the settings, or a key of
            the grid changes no run.
        CheckpointError: A start checkpoint does not exist.
    """

    @cache
    def find_start(name: str, final_relu: bool | None) -> tuple[Path, str]:
        path = find_model(name, progress or Progress(), final_relu=final_relu)
        return path, _file_digest(path, "from")

    planner = _Planner(settings, store_digest, find_start)
    changes = parse_changes(settings.changes)
    _require_changeable(settings)
    cells = grid_cells(settings.grid, settings.changes)
    rows: list[Row] = []
    steps: dict[Path, Step] = {}
    for cell, recipe in itertools.product(cells, settings.recipes):
        table = _merge(read_recipe(recipe), changes)
        label = _read_label(recipe, table) or Path(recipe).stem
        runs = []
        for seed in range(settings.seeds):
            own = planner.plan_run(recipe, table, cell, seed=seed)
            steps |= {step.folder: step for step in own}
            runs.append(own[-1].folder)
        share = FinetuneSettings.from_json(own[-1].settings).limited
        method = cell_label(label, cell, label_share=False)
        rows.append(Row(recipe, cell_label(label, cell), method, tuple(runs), 1.0 if share is None else share))
    labels = [row.label for row in rows]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise SettingsError(f"two recipes have the label {', '.join(twice)}: set label in their [compare] tables")
    _require_effect(cells, rows)
    return Plan(tuple(rows), tuple(steps.values()))


def _require_effect(cells: Sequence[Cell], rows: Sequence[Row]) -> None:
    """Check that each key of the grid with several values changes the runs of a recipe.

    Raises:
        SettingsError: All values of a key give the same runs.
    """
    num_recipes = len(rows) // len(cells)
    for column, (key, *_) in enumerate(cells[0]):
        runs: dict[Any, set[tuple[Path, ...]]] = {}  # by recipe and values of the other keys
        for number, row in enumerate(rows):
            cell = cells[number // num_recipes]
            runs.setdefault((row.recipe, *cell[:column], *cell[column + 1 :]), set()).add(row.runs)
        if len({cell[column] for cell in cells}) > 1 and all(len(found) == 1 for found in runs.values()):
            raise SettingsError(
                f"--grid {key}: all values give the same runs, because another option sets {key} or results do not "
                "depend on it",
                fields=("grid",),
            )


def _read_label(recipe: str, table: dict[str, Any]) -> str:
    own = {"compare": table.get("compare", {})}
    label = CompareSettings.from_table(own, source=f"recipe {recipe}", recipes=(recipe,)).label
    if others := [key for key in own["compare"] if key != "label"]:
        raise SettingsError(
            f"recipe {recipe}: [compare] {others[0]} applies to whole tables, and recipes only set label: pass the "
            "option of lg3d compare, or set it in lg3d.toml"
        )
    return label


def _fixed_fields(settings: CompareSettings, phase: type[Settings]) -> dict[str, str]:
    """Return the fields of a phase that the comparison sets, with the option that determines them."""
    if phase is AnchorsSettings and settings.anchors is not None:
        return dict.fromkeys(fields_of(phase), "--anchors")
    fixed = {"store": "--store", "runs": "--out", "seed": "--seeds", "device": "--device", "anchors": "--anchors"}
    fixed |= {"recipe": "RECIPES", "name": "--out", "resume": "--out"}
    if phase is AnchorsSettings:
        fixed["dim"] = "--network"  # anchors are as wide as the features
    else:
        fixed["vocabulary"] = "--vocabulary"  # of the store, which all rows share
    passed = {"epochs": "pretrain_epochs" if phase is PretrainSettings else "epochs"}
    passed |= {name: name for name in ("network", "voxel_size", "vocabulary")}
    return fixed | {
        field: option_name(CompareSettings, option)
        for field, option in passed.items()
        if getattr(settings, option) is not None
    }


def _require_changeable(settings: CompareSettings) -> None:
    """Check that every `--set` names a setting of a phase that the comparison does not set itself.

    Raises:
        SettingsError: A change would have no effect.
    """
    for change in settings.changes:
        key, _ = parse_assignment(change, option="--set", field="changes")
        if key.partition(".")[0] == CompareSettings.command:
            continue
        found = [
            _fixed_fields(settings, phase).get(field.name)
            for phase in PHASES.values()
            if (field := find_field(key, phase)) is not None
        ]
        if not found:
            raise SettingsError(
                f"--set {key}: not a setting of {', '.join(PHASES)}: see lg3d finetune --help", fields=("changes",)
            )
        if all(found):
            raise SettingsError(
                f"--set {key}: lg3d compare sets it for all runs: pass {found[0]} instead", fields=("changes",)
            )


def parse_changes(changes: tuple[str, ...]) -> dict[str, Any]:
    """Parse `key=value` and `command.key=value` into a recipe. A value that is not valid TOML is text.

    Raises:
        SettingsError: A change has another form, or a key is repeated.
    """
    table: dict[str, Any] = {}
    seen: list[str] = []
    for change in changes:
        key, text = parse_assignment(change, option="--set", field="changes")
        if any(is_same_key(key, other) for other in seen):
            raise SettingsError(f"--set names {key} twice: pass one value", fields=("changes",))
        seen.append(key)
        command, _, name = key.rpartition(".")
        (table.setdefault(command, {}) if command else table)[name] = parse_value(text)
    return table


def _merge(recipe: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe with changed values. A key changed for all commands is changed in their tables as well."""
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in recipe.items()}
    for key, value in sorted(changes.items(), key=lambda change: isinstance(change[1], dict)):  # commands last
        if isinstance(value, dict):
            for name, own in value.items():
                _assign(merged.setdefault(key, {}), name, own, prefix=f"{key}.")
            continue
        for command, own in merged.items():
            if isinstance(own, dict) and _same_keys(own, key, prefix=f"{command}."):
                _assign(own, key, value, prefix=f"{command}.")
        _assign(merged, key, value)
    return merged


def _assign(table: dict[str, Any], key: str, value: Any, *, prefix: str = "") -> None:
    """Set a key of a table, in place of other keys of the same setting."""
    for same in _same_keys(table, key, prefix=prefix):
        del table[same]
    table[key] = value


def _same_keys(table: dict[str, Any], key: str, *, prefix: str) -> list[str]:
    """Return the keys of a table that name the setting of a key; `prefix` is `command.` for the table of a command."""
    values = (own for own, value in table.items() if not isinstance(value, dict))
    return [own for own in values if is_same_key(f"{prefix}{own}", f"{prefix}{key}")]


@dataclass(frozen=True)
class _Planner:
    """Planner of the runs of a comparison.

    Attributes:
        settings: Settings of the comparison.
        store_digest: Digest of the scenes.
        find_start: Function that returns the path and the digest of a start checkpoint by its name and `final_relu`.
    """

    settings: CompareSettings
    store_digest: str
    find_start: Callable[[str, bool | None], tuple[Path, str]]

    def plan_run(
        self, recipe: str, table: dict[str, Any], cell: Cell, *, seed: int, later: tuple[str, ...] = ()
    ) -> list[Step]:
        """Return the steps of one row and seed; the last one is fine-tuning.

        Args:
            recipe: Name or path of the recipe.
            table: Content of the recipe, with the changes of `--set`.
            cell: Values of the grid.
            seed: Random seed of the runs.
            later: Recipes that start from this one.
        """
        source = f"recipe {recipe}"
        pretrain, finetune = self._read_phases(table, cell, seed, source)
        pretrains, from_anchors = finetune.start == LATEST, finetune.classifier != "fresh"
        grounded = pretrains and pretrain.method == "language"
        if pretrains and pretrain.method != "csc":
            _require_no_leak(pretrain, finetune, source)
        steps: list[Step] = []
        anchors = ""
        if grounded or from_anchors:
            _require_made_anchors(self.settings, pretrain, finetune, source)
            steps, file, anchors = self._plan_anchors(table, cell, finetune.network, source)
            pretrain, finetune = replace(pretrain, anchors=file), replace(finetune, anchors=file)
        needs = tuple(step.folder for step in steps)
        before = SCRATCH
        if pretrains:
            before = _digest(pretrain, self.store_digest, anchors if grounded else "")
            folder = self._runs / f"pretrain-{pretrain.method}-seed{seed}-{before}"
            steps.append(_train_step(pretrain, folder, needs))
            needs, finetune = (folder,), replace(finetune, start=str(folder))
        elif finetune.start.endswith(RECIPE_SUFFIX):
            first = _find_recipe(recipe, finetune.start, later)
            first_table = _merge(read_recipe(first), parse_changes(self.settings.changes))
            steps += self.plan_run(first, first_table, cell, seed=seed, later=(*later, recipe))
            _require_no_leak(FinetuneSettings.from_json(steps[-1].settings), finetune, source)
            folder = steps[-1].folder
            before = folder.name.rpartition("-")[2]
            needs, finetune = (*needs, folder), replace(finetune, start=str(folder))
        elif finetune.start != SCRATCH:
            start, before = self.find_start(finetune.start, finetune.final_relu)
            finetune = replace(finetune, start=str(start))
        used = [anchors] if from_anchors else []
        digest = _digest(finetune, self.store_digest, before, self.settings.split, *used)
        folder = self._runs / f"finetune-{finetune.loss}-seed{seed}-{digest}"
        return [*steps, _train_step(finetune, folder, needs, split=self.settings.split)]

    @property
    def _runs(self) -> Path:
        return self.settings.out / "runs"

    def _read_phases(
        self, table: dict[str, Any], cell: Cell, seed: int, source: str
    ) -> tuple[PretrainSettings, FinetuneSettings]:
        """Return the settings of both phases of training.

        Raises:
            SettingsError: A value does not fit, or the recipe sets the vocabulary.
        """
        own = self.settings
        shared: dict[str, Any] = {
            "store": own.store,
            "vocabulary": own.vocabulary,
            "runs": self._runs,
            "network": own.network,
            "voxel_size": own.voxel_size,
            "device": own.device,
            "seed": seed,
        }
        finetune = _read_phase(FinetuneSettings, table, cell, source, {**shared, "epochs": own.epochs})
        pretrain = _read_phase(PretrainSettings, table, cell, source, {**shared, "epochs": own.pretrain_epochs})
        if own.vocabulary is None and (pretrain.vocabulary or finetune.vocabulary):
            raise SettingsError(
                f"{source}: vocabulary = {(pretrain.vocabulary or finetune.vocabulary)!r}, but all rows are scored "
                "with the labels of one vocabulary: remove the key, and pass --vocabulary"
            )
        finetune = replace(finetune, allow_leak=finetune.allow_leak or own.allow_leak)
        if pretrain.method == "csc":  # uses no labels, so rows with any share of them have this pre-training in common
            pretrain = replace(pretrain, limited=None, limited_seed=PretrainSettings.limited_seed)
        return _all_labels(pretrain), _all_labels(finetune)

    def _plan_anchors(
        self, table: dict[str, Any], cell: Cell, network: NetworkName, source: str
    ) -> tuple[list[Step], Path, str]:
        """Return the step that makes a recipe's anchors (none for `--anchors`), their file and its digest."""
        own = self.settings
        if own.anchors is not None:
            return [], own.anchors, _file_digest(own.anchors, "--anchors", "anchors")
        options = {"device": own.device, "vocabulary": own.vocabulary}
        wanted = replace(_read_phase(AnchorsSettings, table, cell, source, options), dim=None)
        folder = own.out / "anchors" / _digest(wanted, network)
        wanted = replace(wanted, anchors=folder / ANCHORS_NAME)
        step = Step("anchors", folder, wanted.to_json(), (), own.store, network=network)
        return [step], wanted.anchors, folder.name


def _find_recipe(recipe: str, start: str, later: tuple[str, ...]) -> str:
    """Return the recipe that another one starts from: relative to that recipe, else to the working directory.

    Raises:
        SettingsError: The recipe starts from itself, directly or through others.
    """
    beside = Path(recipe).parent / start
    found = str(beside) if beside.is_file() else start
    if Path(found).resolve() in {Path(other).resolve() for other in (*later, recipe)}:
        raise SettingsError(f"recipe {recipe}: from = {start!r} starts from itself: name another recipe or checkpoint")
    return found


def _read_phase(cls: type[S], table: dict[str, Any], cell: Cell, source: str, options: dict[str, Any]) -> S:
    """Return the settings of one phase; an option precedes the grid, which precedes the recipe.

    Raises:
        SettingsError: A value does not fit; a value of the grid is a UsageError.
    """
    of_cell = cell_fields(cell, cls)
    passed = {name: value for name, value in options.items() if value is not None}
    try:
        return cls.from_table(table, source=source, **of_cell | passed)
    except UsageError as error:
        if not set(error.fields) & set(of_cell):
            raise
        raise UsageError(f"--grid: {error}", fields=("grid",)) from None


def _all_labels(settings: T) -> T:
    """Return settings without a label budget if it covers all labels, so that such rows reuse those without one."""
    return replace(settings, limited=None) if settings.limited == 1 else settings


def _require_no_leak(earlier: PretrainSettings | FinetuneSettings, finetune: FinetuneSettings, source: str) -> None:
    """Check that the run before fine-tuning does not use labels that the label budget of fine-tuning hides.

    Raises:
        SettingsError: The run uses hidden labels, and leaks are not allowed.
    """
    own, before = ((each.limited, each.limited_seed) for each in (finetune, earlier))
    if finetune.limited is None or own == before or finetune.allow_leak:
        return
    labels = "all labels" if earlier.limited is None else f"limited = {earlier.limited:g}"
    run = "pre-training" if isinstance(earlier, PretrainSettings) else f"the run of {finetune.start}"
    raise SettingsError(
        f"{source}: {run} has {labels} and fine-tuning limited = {finetune.limited:g} (seed "
        f"{finetune.limited_seed}), so it would see labels that fine-tuning hides: set limited for both, at the top of "
        "the recipe or with --set limited=SHARE, or pass --allow-leak"
    )


def _require_made_anchors(
    settings: CompareSettings, pretrain: PretrainSettings, finetune: FinetuneSettings, source: str
) -> None:
    """Reject a recipe that names an anchors file, because the comparison makes the anchors of each recipe itself.

    Raises:
        SettingsError: A phase has another file than the default, and `--anchors` is not passed.
    """
    files = {pretrain.anchors, finetune.anchors} - {AnchorsSettings.anchors}
    if settings.anchors is None and files:
        file = min(files)
        raise SettingsError(
            f"{source}: anchors = {str(file)!r} is not used, because lg3d compare encodes the anchors of each recipe: "
            f"remove the key, or pass --anchors {file} for all recipes"
        )


def _train_step(
    settings: PretrainSettings | FinetuneSettings, folder: Path, needs: tuple[Path, ...], *, split: Split = "val"
) -> Step:
    kind: Kind = "finetune" if isinstance(settings, FinetuneSettings) else "pretrain"
    named = replace(settings, name=folder.name)
    return Step(kind, folder, named.to_json(), needs, settings.store, split=split)


def _digest(settings: Settings, *others: str) -> str:
    """Return a digest of everything that affects a step's result."""
    values = {key: value for key, value in json.loads(settings.to_json()).items() if key not in NOT_RESULTS}
    others += tuple(_file_digest(path, f"{name} =", name) for name, path in _read_files(settings))
    others += tuple(SceneStore(path).digest for path in getattr(settings, "also_store", ()))
    if values.get("vocabulary") is None:  # the digest of the store's scenes includes their vocabulary
        values.pop("vocabulary", None)
    if values.get("wandb"):
        values["wandb"] = False  # not left out, so that runs of earlier versions keep their digest
    text = json.dumps([settings.command, values, *others], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read_files(settings: Settings) -> list[tuple[str, Path]]:
    """Return the files that a step reads, by their setting; only those whose digest is not computed otherwise."""
    found = []
    for name in READ_FILES:
        value = getattr(settings, name, None) or ()
        found += [(name, path) for path in (value if isinstance(value, tuple) else (value,))]
    return [(name, Path(path)) for name, path in found if name != "vocabulary" or Path(path).is_file()]


def _file_digest(path: Path, option: str, *fields: str) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise SettingsError(f"{option} {path} cannot be read ({error.strerror})", fields=fields) from None
